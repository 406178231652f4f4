"""However often a run is stopped, and wherever, its records and parameters are the whole run's."""

import dataclasses
import itertools
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import logging as absl_logging

from tests.training import tiny_run
from xent_jax import metrics
from xent_jax.data import pipeline, select
from xent_jax.errors import Diverged, Interrupted, UserError
from xent_jax.reporting import records
from xent_jax.training import Run, check_config, loop, prepare
from xent_jax.training.checkpoint import Checkpointer
from xent_jax.training.feed import Feed, make_feed
from xent_jax.training.step import TrainState

EPOCHS, STEPS = 3, 4  # of 8, 8, 8 and 6 examples, in two calls
CALLS = 2 * EPOCHS
SETTINGS = {"epochs": EPOCHS, "steps_per_call": 2, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def run() -> Run:
    """All tests train this run, so that it is compiled but once."""
    train = tiny_run.dataset(30, wrong=4)
    wrong = train.labels != train.clean_labels
    sets = {"train": train, "test": tiny_run.dataset(10), "wrong": select(train, wrong)}
    return prepare(tiny_run.config(**SETTINGS), sets)


def changed(run: Run, **changes: Any) -> Run:
    """The run with a config that the loop reads and the compiled program does not."""
    return run._replace(config=check_config(tiny_run.config(**SETTINGS | changes)))


def train(run: Run, workdir: Path, **options: Any) -> loop.Result:
    return loop.train(run, workdir, progress=False, **options)


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> loop.Result:
    return train(run, tmp_path_factory.mktemp("whole"))


def change_feed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Feed], Feed]) -> None:
    monkeypatch.setattr(loop, "make_feed", lambda *args: change(make_feed(*args)))


def on_call(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], Any]) -> None:
    """Does something at the nth call for a chunk of steps."""
    calls = itertools.count(1)

    def armed(feed: Feed) -> Feed:
        def train(*args: Any) -> Any:
            if next(calls) == number:
                action()
            return feed.train(*args)

        return feed._replace(train=train)

    change_feed(monkeypatch, armed)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same(found: loop.Result, expected: loop.Result) -> None:
    """Bit for bit; the config may differ in what this test changed, the time always does."""
    jax.tree.map(np.testing.assert_array_equal, found.state, expected.state)
    ours, theirs = (
        [{**record, "timing": ..., "config": ...} for record in result.records]
        for result in (found, expected)
    )
    assert ours == theirs


def test_records_hold_what_was_computed(run: Run, whole: loop.Result) -> None:
    feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)
    assert [record["step"] for record in whole.records] == [4, 8, 12]
    for epoch, record in enumerate(whole.records):
        losses = []
        for start in (0, 2):
            state, steps = feed.train(state, epoch, start, 2)
            losses += [*steps.loss]
        mean = np.average(np.asarray(losses, np.float64), weights=[8, 8, 8, 6])
        assert record["train"]["loss"] == pytest.approx(mean, rel=1e-12)
        test = metrics.compute(feed.evaluate(state, "test"))
        wrong = metrics.compute(feed.evaluate(state, "wrong"))
        assert record["test"]["accuracy"] == test["accuracy"]
        assert record["test"]["nll"] == test["nll"]
        assert record["wrong_labels"] == {
            "memorised": wrong["memorisation"],
            "recovered": wrong["recovery"],
        }
        assert record["epoch"] == epoch + 1
        last = epoch == EPOCHS - 1
        assert ("confusion_matrix" in record["test"]) == last
        assert ("reliability" in record["test"]) == last
    jax.tree.map(np.testing.assert_array_equal, run.runner.single(state), whole.state)
    assert np.sum(whole.records[-1]["test"]["confusion_matrix"]) == 10
    assert whole.records[-1]["run"] == run.name


@pytest.mark.parametrize("call", [1, 2, 3, CALLS])
def test_sigterm_saves_and_the_next_start_continues(
    run: Run, whole: loop.Result, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        on_call(patch, call, terminate)
        with pytest.raises(Interrupted, match=f"saved at step {2 * call} of 12; run it again"):
            train(run, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert Checkpointer(tmp_path / "checkpoints").steps()[-1] == 2 * call
    assert len(records.read(tmp_path / "records.jsonl")) == call // 2
    assert_same(train(run, tmp_path), whole)


def test_sigterm_in_the_last_save_is_not_lost(
    run: Run, whole: loop.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpointer.save

    def interrupted_save(self: Checkpointer, step: int, *rest: Any) -> None:
        if step == run.steps:
            terminate()
        save(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", interrupted_save)
        with pytest.raises(Interrupted, match="saved at step 12 of 12"):
            train(run, tmp_path)
    assert_same(train(run, tmp_path), whole)


def test_a_second_sigint_ends_at_once(
    run: Run, whole: loop.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        on_call(patch, 4, twice)
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path)
    assert Checkpointer(tmp_path / "checkpoints").steps() == [4]
    assert_same(train(run, tmp_path), whole)


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("moment", ["record", "save"])
def test_an_end_between_record_and_checkpoint_loses_and_doubles_nothing(
    run: Run,
    whole: loop.Result,
    moment: str,
    epoch: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = itertools.count(1)

    def dying(function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if next(calls) == epoch:
                raise BrokenPipeError  # as a kill would end it
            function(*args)

        return call

    with monkeypatch.context() as patch:
        if moment == "record":
            patch.setattr(records, "append", dying(records.append))
        else:
            patch.setattr(Checkpointer, "save", dying(Checkpointer.save))
        with pytest.raises(BrokenPipeError):
            train(run, tmp_path)
    assert len(records.read(tmp_path / "records.jsonl")) == epoch - (moment == "record")
    assert Checkpointer(tmp_path / "checkpoints").steps() == [4] * (epoch - 1)
    assert_same(train(run, tmp_path), whole)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_damaged_checkpoints_are_passed_over(
    run: Run,
    whole: loop.Result,
    damaged: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        on_call(patch, 5, terminate)  # Three are saved: of steps 4, 8 and, in mid-epoch, 10.
        with pytest.raises(Interrupted):
            train(run, tmp_path)
    for step in (10, 8, 4)[:damaged]:
        folder = tmp_path / "checkpoints" / f"step_{step:08d}" / "arrays"
        largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    monkeypatch.setattr(absl_logging.get_absl_logger(), "propagate", True)
    with caplog.at_level(logging.WARNING):
        again = train(run, tmp_path)
    told = [r.getMessage() for r in caplog.records if "is damaged" in r.getMessage()]
    assert len(told) == damaged
    older = ("using that of step 8", "using that of step 4", "there is no older one")
    assert older[damaged - 1] in told[-1]
    assert_same(again, whole)


def test_a_finished_run_has_nothing_to_do(run: Run, whole: loop.Result, tmp_path: Path) -> None:
    train(run, tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    assert_same(train(run, tmp_path), whole)
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_evaluations_and_checkpoints_come_when_they_are_due(
    run: Run, whole: loop.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = changed(run, eval_every_epochs=2, checkpoint_every_epochs=2)
    found = train(rare, tmp_path / "both")
    assert [record["step"] for record in found.records] == [8, 12]  # and after the last epoch
    assert Checkpointer(tmp_path / "both" / "checkpoints").steps() == [8, 12]
    assert_same(found, whole._replace(records=whole.records[1:]))
    few = changed(run, keep_checkpoints=1)
    assert_same(train(few, tmp_path / "few"), whole)
    assert Checkpointer(tmp_path / "few" / "checkpoints").steps() == [12]
    saved_late = changed(run, checkpoint_every_epochs=3)
    with monkeypatch.context() as patch:
        on_call(patch, 6, lambda: 1 / 0)  # Two records were written, and nothing saved.
        with pytest.raises(ZeroDivisionError):
            train(saved_late, tmp_path / "late")
    assert_same(train(saved_late, tmp_path / "late"), whole)


def test_a_streamed_run_ends_alike_and_goes_on_in_mid_epoch(
    run: Run, whole: loop.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = changed(run, **{"dataset.resident": "no"})
    expected = train(streamed, tmp_path / "whole")
    for ours, theirs in zip(expected.records, whole.records, strict=True):
        assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-6)
        assert ours["wrong_labels"] == theirs["wrong_labels"]
        assert ours["test"]["accuracy"] == theirs["test"]["accuracy"]
        assert ours["test"].get("confusion_matrix") == theirs["test"].get("confusion_matrix")
    with monkeypatch.context() as patch:
        on_call(patch, 3, terminate)
        with pytest.raises(Interrupted):
            train(streamed, tmp_path / "stopped")
    assert_same(train(streamed, tmp_path / "stopped"), expected)


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, 2), (1, 3)])
def test_divergence_names_the_step_and_saves_nothing(
    run: Run,
    whole: loop.Result,
    epoch: int,
    step: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train_set = run.sets["train"]
    indices, _ = pipeline.epoch_indices(run.program.order_key, epoch, 30, 8)
    spoilt = dataclasses.replace(train_set, labels=train_set.labels.copy())
    spoilt.labels[int(indices[step, 0])] = 99  # Its loss is NaN.
    other = make_feed(run._replace(sets=run.sets | {"train": spoilt}), 0)
    history = []

    def replaced(feed: Feed) -> Feed:
        def train(state: TrainState, at: int, start: int, length: int) -> Any:
            now = at == epoch and start == step // 2 * 2
            state, steps = (other if now else feed).train(state, at, start, length)
            history.extend(steps.loss.tolist())
            return state, steps

        return feed._replace(train=train)

    with monkeypatch.context() as patch:
        change_feed(patch, replaced)
        with pytest.raises(Diverged) as told:
            train(run, tmp_path)
    number, message = epoch * STEPS + step, str(told.value)
    assert np.isfinite(history[:number]).all()
    assert np.isnan(history[number:]).all()
    assert f"the loss stopped being finite at step {number + 1} (" in message
    since = number // 2 * 2 if number % 2 else max(0, number - 2)  # of the call that has the last
    values = ", ".join(f"{loss:.4g}" for loss in history[since:number]) or "none"
    assert f"(last finite losses: {values})" in message
    assert ("the checkpoint of step 4 is kept" if epoch else "nothing was saved yet") in message
    assert Checkpointer(tmp_path / "checkpoints").steps() == [4] * epoch
    assert len(records.read(tmp_path / "records.jsonl")) == epoch
    assert_same(train(run, tmp_path), whole)


def test_an_update_that_overflows_is_not_saved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(feed: Feed) -> Feed:
        def train(state: TrainState, epoch: int, start: int, length: int) -> Any:
            state, steps = feed.train(state, epoch, start, length)
            if epoch == 1:
                state = state._replace(params=jax.tree.map(lambda x: x * np.inf, state.params))
            return state, steps._replace(loss=np.ones(2))

        return feed._replace(train=train)

    change_feed(monkeypatch, overflowing)
    with pytest.raises(Diverged, match=r"state stopped being finite at step 8 .*of step 4 is kept"):
        train(run, tmp_path)
    assert Checkpointer(tmp_path / "checkpoints").steps() == [4]


def test_profile_writes_a_trace(run: Run, whole: loop.Result, tmp_path: Path) -> None:
    assert_same(train(run, tmp_path, profile=True), whole)
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert traces
    assert all(trace.stat().st_size > 1000 for trace in traces)


def test_events_hold_the_records(run: Run, tmp_path: Path) -> None:
    result = train(run, tmp_path)
    (path,) = (tmp_path / "events").iterdir()
    data = path.read_bytes()
    assert data.count(b"test/accuracy") == len(result.records)


def test_an_unwritable_workdir_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another"):
        train(run, tmp_path / "file")
