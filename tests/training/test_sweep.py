"""A sweep trains every run once, whatever happens to it on the way."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax.errors import Interrupted, UserError
from xent_jax.reporting import records
from xent_jax.training import default_study, expand, sweep
from xent_jax.training.signals import StopRequest
from xent_jax.training.study import matching

SPLITS = {"train": tiny_run.dataset(40), "test": tiny_run.dataset(10)}
METHODS = (
    {"label": "CE"},
    {"label": "GCE", "loss": {"name": "generalized_cross_entropy"}},
    {"label": "wide", "model": {"name": "mlp", "hidden": (7,)}},
)
EPOCHS = 4
# Children are forked from a server that has imported everything and has no backend yet.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["xent_jax.training"])


def study(**changes: Any) -> ConfigDict:
    config = default_study()
    config.seeds, config.epochs, config.methods = 2, EPOCHS, METHODS
    config.batch_size, config.eval_every_epochs = 10, 2
    config.model = ConfigDict({"name": "mlp", "hidden": (5,)})
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.05})
    config.corruption = ConfigDict({"name": "symmetric", "rate": 0.5})
    for key, value in changes.items():
        config[key] = value
    return config


def serve(patch: pytest.MonkeyPatch) -> None:
    """Two devices train on tiny data."""
    devices = jax.devices()[:2]
    patch.setattr(sweep, "load_splits_of", lambda config, place: SPLITS)
    patch.setattr(jax, "local_devices", lambda: devices)


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)


def run(workdir: Path, config: ConfigDict | None = None, **options: Any) -> dict[str, list]:
    """Sweeps, and returns the folder's records by run."""
    sweep.sweep(config or study(), sweep.Place(workdir), progress=False, **options)
    return found(workdir)


def found(workdir: Path) -> dict[str, list]:
    by_run: dict[str, list] = {}
    for path in sorted(workdir.glob("groups/**/records.jsonl")):
        for record in records.read(path):
            timeless = {k: v for k, v in record.items() if k not in ("timing", "environment")}
            by_run.setdefault(record["run"], []).append(timeless)
    return by_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list]]:
    with pytest.MonkeyPatch.context() as patch:
        serve(patch)
        workdir = tmp_path_factory.mktemp("whole")
        return workdir, run(workdir, command="train it")


def test_every_run_has_its_records_and_is_listed(whole):
    workdir, by_run = whole
    members = {member.id: member for member in expand(study())}
    assert by_run.keys() == members.keys()
    for lines in by_run.values():
        assert [line["epoch"] for line in lines] == [2, 4]
        assert "confusion_matrix" in lines[-1]["test"]
    shown = {run for run, lines in by_run.items() if "embedding" in lines[-1]}
    assert shown == {run for run, member in members.items() if member.seed == 0}
    listed = json.loads((workdir / "runs.json").read_text())["runs"]
    assert {entry["id"]: entry["method"] for entry in listed} == {
        member.id: member.method for member in members.values()
    }
    assert all(
        entry["command"] == f"train it --workdir=runs/alone_{entry['id']} --only=id={entry['id']}"
        for entry in listed
    )
    assert not [*workdir.glob("groups/**/checkpoints")]


def test_what_is_finished_is_not_trained_again_and_what_is_new_is(tmp_path: Path):
    methods = METHODS[:2]
    part = run(tmp_path, study(methods=methods), only=["method=CE"])
    assert len(part) == 2
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("groups/**/records.jsonl")}
    grown = run(tmp_path, study(methods=methods, seeds=3))
    assert len(grown) == 6
    assert {run: grown[run] for run in part} == part
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(json.loads((tmp_path / "runs.json").read_text())["runs"]) == 6


def test_runs_are_listed_in_the_order_of_the_grid_however_the_study_grew(tmp_path: Path):
    def listed(config: ConfigDict, **only: Any) -> list[str]:
        sweep.claim(tmp_path, config, matching(expand(config), **only), "")
        return [run["id"] for run in json.loads((tmp_path / "runs.json").read_text())["runs"]]

    ids = [member.id for member in expand(study(seeds=3))]
    part = listed(study(), filters=["method=GCE"])
    assert set(listed(study(), filters=["seed=0"])) > set(part)
    assert listed(study(seeds=3), filters=[]) == ids
    assert listed(study(seeds=3), filters=["method=GCE"]) == ids


def test_features_are_recorded_of_the_first_seed_alone_whatever_is_left_to_train(tmp_path: Path):
    config = study(methods=METHODS[:1], seeds=3)
    run(tmp_path, config, only=["seed=0"])
    by_run = run(tmp_path, config)
    shown = {member.seed for member in expand(config) if "embedding" in by_run[member.id][-1]}
    assert shown == {0}


def test_another_study_does_not_mix_into_the_folder(whole):
    workdir, by_run = whole
    with pytest.raises(UserError, match=r"holds another study \(batch_size: 10 -> 20\)"):
        run(workdir, study(batch_size=20))
    assert found(workdir) == by_run


def test_a_label_does_not_stand_for_two_configs(tmp_path: Path):
    gce = {"label": "GCE", "loss": {"name": "generalized_cross_entropy", "q": 0.7}}
    other = {"label": "GCE", "loss": {"name": "generalized_cross_entropy", "q": 0.3}}
    by_run = run(tmp_path, study(methods=(gce,), seeds=1))
    with pytest.raises(UserError, match=r"the method 'GCE' .*\(loss.q: 0.7 -> 0.3\); give it ano"):
        run(tmp_path, study(methods=(other,), seeds=1))
    assert found(tmp_path) == by_run


def test_a_run_that_never_began_gives_its_place_to_the_one_that_is_right(tmp_path: Path):
    wrong = {"label": "GCE", "loss": {"name": "generalized_cross_entropy", "p": 0.7}}
    with pytest.raises(UserError, match="has no argument 'p'"):
        run(tmp_path, study(methods=(wrong,), seeds=1))
    run(tmp_path, study(methods=METHODS[1:2], seeds=1))
    assert len(json.loads((tmp_path / "runs.json").read_text())["runs"]) == 1


@pytest.mark.parametrize("text", ['{"runs": ["x', "", "[1]", "null", "{}"])
@pytest.mark.parametrize("name", ["runs.json", "stack.json"])
def test_a_damaged_file_is_told(whole, tmp_path: Path, name: str, text: str):
    shutil.copytree(whole[0], tmp_path / "copy")
    for path in (tmp_path / "copy").rglob(name):
        path.write_text(text)
    with pytest.raises(UserError, match=rf"{name} is damaged .*; delete .*same command again"):
        run(tmp_path / "copy")


class _StopAfter(StopRequest):
    """Asks for a stop when it has been asked so often."""

    def __init__(self, asked: int):
        super().__init__()
        self._left = asked

    def requested(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_a_stopped_sweep_goes_on_where_it_was(whole, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sweep, "StopRequest", lambda: _StopAfter(2))
    with pytest.raises(Interrupted, match="the same command continues it"):
        run(tmp_path)
    assert [*tmp_path.glob("groups/**/step_*")]
    monkeypatch.undo()
    serve(monkeypatch)
    assert run(tmp_path) == whole[1]


def child(workdir: str, quickly: bool, kill_after: int | None) -> None:
    """Sweeps, saving after every epoch, and kills itself when so many were trained."""
    jax.config.update("jax_disable_most_optimizations", quickly)
    jax.config.update("jax_compilation_cache_dir", f"{workdir}/cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    with pytest.MonkeyPatch.context() as patch:
        serve(patch)
        patch.setattr(sweep, "_SECONDS_BETWEEN_SAVES", 0.0)
        left, train = [kill_after], sweep._Training._epoch

        def epoch(*args: Any) -> Any:
            state = train(*args)
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return state

        patch.setattr(sweep._Training, "_epoch", epoch)
        run(Path(workdir))


def test_a_killed_sweep_ends_with_the_same_records(whole, tmp_path: Path):
    quickly = jax.config.values["jax_disable_most_optimizations"]
    for kill_after, status in ((2, -signal.SIGKILL), (3, -signal.SIGKILL), (None, 0)):
        process = _FORK.Process(target=child, args=(str(tmp_path), quickly, kill_after))
        process.start()
        process.join(120)
        assert process.exitcode == status
    assert found(tmp_path) == whole[1]


def test_a_run_that_diverges_is_told_and_the_others_go_on(tmp_path: Path):
    methods = (METHODS[0], {"label": "wild", "optimizer": {"name": "sgd", "learning_rate": 1e30}})
    by_run = run(tmp_path, study(methods=methods, seeds=1))
    ce, wild = (by_run[member.id] for member in expand(study(methods=methods, seeds=1)))
    assert [line["epoch"] for line in ce] == [2, 4]
    assert [line.get("diverged") for line in ce] == [None, None]
    assert [(line["epoch"], line["diverged"]) for line in wild] == [(1, True)]


def test_a_forecast_trains_nothing(tmp_path: Path):
    told = sweep.forecast(study(), sweep.Place(tmp_path / "new"), only=["method=CE"])
    assert "2 runs: 1 methods (CE), 1 conditions, 2 seeds; 2 are left to train" in told
    assert "mlp, 2 runs of 4 epochs, in 1 stacks of 2 runs on 2 devices" in told
    assert not (tmp_path / "new").exists()


def test_a_mistake_in_a_later_group_is_told_before_the_first_is_trained(tmp_path: Path):
    bad = {"label": "bad", "loss": {"name": "softmax_focal_loss", "gama": 2.0}}
    methods = (METHODS[0], bad | {"model": {"name": "mlp", "hidden": (7,)}})
    with pytest.raises(UserError, match="'softmax_focal_loss' has no argument 'gama'"):
        run(tmp_path, study(methods=methods))
    assert not found(tmp_path)
    assert not (tmp_path / "runs.json").exists()
