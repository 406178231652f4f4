"""The training loop: chunks of steps, evaluations, records and checkpoints, resumable anywhere."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from xent_jax.errors import Diverged, Interrupted, UserError
from xent_jax.reporting import records
from xent_jax.reporting.tensorboard import EventWriter
from xent_jax.training import evaluation
from xent_jax.training.checkpoint import Checkpointer
from xent_jax.training.config import as_plain, differences
from xent_jax.training.feed import AnyRun, Feed, make_feed
from xent_jax.training.run import Run, claim_workdir
from xent_jax.training.signals import StopRequest
from xent_jax.training.step import StepMetrics, TrainState


class Result(NamedTuple):
    """What a finished run leaves: its final state and its records, one per evaluation."""

    state: TrainState
    records: list[dict[str, Any]]


class Tally(NamedTuple):
    """Sums over the epoch so far, kept in checkpoints so that a resumed epoch reports the same."""

    loss: float = 0.0
    examples: float = 0.0
    seconds: float = 0.0  # of training, since the run's first step

    def add(self, steps: StepMetrics, seconds: float) -> "Tally":
        examples = np.asarray(steps.examples, np.float64)
        loss = float(np.sum(examples * np.asarray(steps.loss, np.float64)))
        return Tally(
            self.loss + loss, self.examples + float(examples.sum()), self.seconds + seconds
        )


def train(
    run: AnyRun,
    workdir: str | os.PathLike[str],
    *,
    profile: bool = False,
    progress: bool = True,
) -> Result:
    """Trains a run, writing records, checkpoints and TensorBoard events into `workdir`.

    A run that was killed, or stopped by a signal, continues from its newest sound checkpoint and
    ends with the same parameters and records as one that was not, bit for bit, on the same
    machine and versions (the records' `timing` aside).

    Args:
      run: as made by `prepare`.
      workdir: the run's own folder; made if missing.
      profile: write a trace of one epoch to `workdir/profile`.
      progress: show a progress bar where there is a terminal.

    Raises:
      UserError: the folder holds another config's run, or one on other data, or cannot be written.
      Diverged: the loss or the state stopped being finite; the last checkpoint stays.
      Interrupted: SIGTERM or SIGINT; the run was saved first.
    """
    config, workdir = run.config, Path(workdir)
    claim_workdir(workdir, config)
    checkpoints = Checkpointer(workdir / "checkpoints", keep=config.keep_checkpoints)
    state, tally = _restored(run, checkpoints)
    step = first = int(run.runner.single(state).step)
    journal = Journal(workdir, step, progress)
    feed, last = make_feed(run, step), []
    with StopRequest() as stop, journal, _bar(run, step, progress) as bar:
        for epoch, start, length in _chunks(run, step):
            traced = profile and epoch == _profiled_epoch(run, first)
            began = time.perf_counter()
            with jax.profiler.trace(workdir / "profile") if traced else contextlib.nullcontext():
                state, steps = feed.train(state, epoch, start, length)
            seconds = time.perf_counter() - began
            tally = tally.add(steps, seconds)
            last = _check_finite(steps, step, last, checkpoints)
            step += length
            bar.update(length)
            ended = start + length == run.steps_per_epoch
            if ended and _due(run, epoch, config.eval_every_epochs):
                record = _record(run, epoch, step, tally, length / seconds)
                record |= _evaluate(run, feed, state, step)
                journal.write(record)
                bar.set_postfix_str(_in_short(record))
            if ended:
                tally = Tally(seconds=tally.seconds)
            stopping = stop.requested()
            if stopping or (ended and _due(run, epoch, config.checkpoint_every_epochs)):
                saved = run.runner.single(state)
                _check_state(saved, step, last, checkpoints)
                checkpoints.save(step, saved, _metadata(run, tally))
            if stopping:
                break
        if stop.requested():  # Perhaps in the last save, and whoever asked wants no other run.
            raise Interrupted(f"saved at step {step} of {run.steps}; run it again to continue")
    return Result(run.runner.single(state), records.read(journal.path))


_SILENCE = 10.0
"""Seconds without a word where there is no terminal."""


class Journal:
    """The run's records and events, written by the first process alone.

    A record says all that its numbers depend on: the run's config and its environment. Where no
    terminal shows the progress bar, a line now and then says that the run lives.
    """

    def __init__(self, workdir: Path, step: int, progress: bool):
        self.path = workdir / "records.jsonl"
        self._events = None
        if jax.process_index() == 0:
            records.truncate(self.path, step)
            self._events = EventWriter(workdir / "events", step)
            self._environment = records.describe_environment()
        self._speaks = progress and not sys.stderr.isatty() and jax.process_index() == 0
        self._spoke = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._events:
            self._events.close()

    def write(self, record: dict[str, Any]) -> None:
        if self._events:
            records.append(self.path, record | {"environment": self._environment})
            self._events.write(record)
        if self._speaks and time.monotonic() - self._spoke > _SILENCE:
            self._spoke = time.monotonic()
            print(f"epoch {record['epoch']}: {_in_short(record)}", file=sys.stderr)


def _restored(run: AnyRun, checkpoints: Checkpointer) -> tuple[TrainState, Tally]:
    """Returns the newest sound checkpoint's state and tally, or those of a run's start."""
    state = run.runner.place_state(run.initial_state)
    restored = checkpoints.restore_newest(run.runner.single(state))
    if restored is None:
        return state, Tally()
    _, state, metadata = restored
    data = _data(run)
    if other := differences(data, metadata.get("data", data)):
        raise UserError(
            f"{checkpoints.directory} was saved by a run on other data ({'; '.join(other[:3])}); "
            "give it the same data, choose another --workdir, or delete that folder"
        )
    return run.runner.place_state(state), Tally(**metadata["tally"])


def _metadata(run: AnyRun, tally: Tally) -> dict[str, Any]:
    """What a checkpoint says beside the state: where the epoch is, its data, what its run adds."""
    return {"tally": tally._asdict(), "data": _data(run), **run.metadata}


def _data(run: AnyRun) -> dict[str, Any]:
    """What a run may only go on with: its data's facts, as JSON gives them back."""
    return as_plain(ConfigDict(run.facts))


def _chunks(run: AnyRun, step: int) -> Iterator[tuple[int, int, int]]:
    """Yields (epoch, first step in it, number of steps) from `step` to the run's end.

    The boundaries depend on the config alone, never on where a run was resumed, so that a
    resumed run calls the same programs on the same steps.
    """
    length = run.config.steps_per_call or run.steps_per_epoch
    for epoch in range(step // run.steps_per_epoch, run.config.epochs):
        for start in range(0, run.steps_per_epoch, length):
            if epoch * run.steps_per_epoch + start >= step:
                yield epoch, start, min(length, run.steps_per_epoch - start)


def _due(run: AnyRun, epoch: int, every: int) -> bool:
    return (epoch + 1) % every == 0 or epoch + 1 == run.config.epochs


def _profiled_epoch(run: AnyRun, first_step: int) -> int:
    """The second epoch that this process trains, as the first one compiles."""
    return min(first_step // run.steps_per_epoch + 1, run.config.epochs - 1)


def _bar(run: AnyRun, step: int, progress: bool) -> tqdm:
    # disable=None: shown on a terminal only.
    return tqdm(
        total=run.steps,
        initial=step,
        desc=run.name,
        unit="step",
        dynamic_ncols=True,
        disable=None if progress and jax.process_index() == 0 else True,
    )


def _check_finite(
    steps: StepMetrics, first_step: int, last: list[float], checkpoints: Checkpointer
) -> list[float]:
    """Returns the last few losses, or says which step's was the first that was not finite."""
    finite = np.isfinite(steps.loss)
    bad = len(finite) if finite.all() else int(np.argmin(finite))
    if bad:
        last = [float(loss) for loss in steps.loss[max(0, bad - 3) : bad]]
    if bad == len(finite):
        return last
    raise _diverged("loss", first_step + bad + 1, last, checkpoints)


def _check_state(
    state: TrainState, step: int, last: list[float], checkpoints: Checkpointer
) -> None:
    """Keeps out of the checkpoints what overflowed in an update, though the loss was finite."""
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state))):
        raise _diverged("training state", step, last, checkpoints)


def _diverged(what: str, step: int, last: list[float], checkpoints: Checkpointer) -> Diverged:
    values = ", ".join(f"{loss:.4g}" for loss in last) or "none"
    saved = checkpoints.steps()
    kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "nothing was saved yet"
    return Diverged(
        f"the {what} stopped being finite at step {step} "
        f"(last finite losses: {values}); {kept}. Try a smaller optimizer.learning_rate, "
        "clip_norm=1.0 or schedule.warmup_epochs=1"
    )


def _evaluate(run: AnyRun, feed: Feed, state: TrainState, step: int) -> dict[str, Any]:
    """Returns what evaluation tells of the run's sets; the calibrated test comes last only."""
    last = step == run.steps
    sums = {name: feed.evaluate(state, name) for name in run.sets if name != "train"}
    result = run.describe(sums, last=last)
    if isinstance(run, Run) and last and run.config.evaluation.temperature_scaling:
        logits = {name: feed.logits(state, name) for name in ("validation", "test")}
        labels = {name: run.sets[name].labels for name in logits}
        result["calibrated"] = evaluation.calibrated(logits, labels)
    return result


def _record(run: AnyRun, epoch: int, step: int, tally: Tally, rate: float) -> dict[str, Any]:
    return {
        "run": run.name,
        "epoch": epoch + 1,
        "step": step,
        "train": {"loss": tally.loss / tally.examples},
        "timing": {"seconds": tally.seconds, "steps_per_second": rate},
        "seed": run.config.seed,
        "config": as_plain(run.config),
        **run.facts,
    }


def _in_short(record: dict[str, Any]) -> str:
    test = record["test"]
    if "accuracy" in test:
        told = f"accuracy {test['accuracy']:.1%}"
    else:
        told = f"perplexity {test['perplexity']:.2f}, {test['bits_per_byte']:.3f} bits per byte"
    return f"loss {record['train']['loss']:.3f}, {told}"
