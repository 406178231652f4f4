"""Eight devices, one device, pmap, a stream and several processes train alike."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax import metrics
from xent_jax.errors import Interrupted, UserError
from xent_jax.training import check_config, claim_workdir, loop
from xent_jax.training.feed import make_feed
from xent_jax.training.run import prepare

# 72 examples are four batches and a half: the last one is padded unevenly over devices.
TRAIN, TEST = tiny_run.dataset(72, side=8), tiny_run.dataset(44, side=8)
STEPS = 5


def outcome(model: dict[str, Any], changes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Trains one epoch and returns parameters, statistics, losses and the test set's metrics."""
    settings = {"batch_size": 16, "eval_batch_size": 16, "clip_norm": 1.0, "dataset.flip": True}
    settings |= {"model": ConfigDict(model)}
    run = prepare(tiny_run.config(**settings | changes), {"train": TRAIN, "test": TEST})
    feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)
    state, steps = feed.train(state, 0, 0, STEPS)
    test = metrics.compute(feed.evaluate(state, "test"))
    single = run.runner.single(state)
    leaves = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(single)
    }
    return leaves | {
        "loss": steps.loss,
        "examples": steps.examples,
        "nll": np.asarray(test["nll"]),
        "confusion": np.asarray(test["confusion_matrix"]),
    }


PMAP, STREAM = {"parallel": "pmap"}, {"dataset.resident": "no"}
LAYOUTS = {
    "mlp": {
        "mesh of 8": {"devices": 8},
        "pmap over 8": {"devices": 8, **PMAP},
        "streamed pmap over 4": {"devices": 4, **PMAP, **STREAM},
    },
    "cnn4": {
        "stream over a mesh of 8": {"devices": 8, **STREAM},
        "pmap over 8": {"devices": 8, **PMAP},
    },
}


@pytest.mark.parametrize("name", ["mlp", pytest.param("cnn4", marks=pytest.mark.slow)])
def test_layouts_agree(name: str) -> None:
    model = {"mlp": {"hidden": (16,), "dropout": 0.3}, "cnn4": {}}[name] | {"name": name}
    one = outcome(model, {"devices": 1})
    assert one["examples"].tolist() == [16, 16, 16, 16, 8]
    assert one["confusion"].sum() == 44
    for layout, changes in LAYOUTS[name].items():
        other = outcome(model, changes)
        assert other.keys() == one.keys()
        for leaf, value in one.items():
            # Sums over devices associate otherwise: a few units in the last place per step.
            np.testing.assert_allclose(
                other[leaf], value, rtol=2e-4, atol=2e-5, err_msg=f"{layout}: {leaf}"
            )


SETTINGS = {"epochs": 2, "steps_per_call": 2, "devices": 0}
RESIDENT = ("yes", "no")


def train(run: Any, workdir: Path) -> dict[str, Any]:
    result = loop.train(run, workdir, progress=False)
    kernel = np.asarray(result.state.params["logits"]["kernel"])
    tested = [record["test"]["accuracy"] for record in result.records]
    losses = [record["train"]["loss"] for record in result.records]
    return {"losses": losses, "tested": tested, "kernel": kernel.tolist()}


def train_both(workdir: Path, interrupted: bool = False) -> dict[str, Any]:
    """Trains resident and streamed data, if `interrupted` so that the second process is stopped."""
    sets = {"train": tiny_run.dataset(30), "test": tiny_run.dataset(10)}
    prepared, outcomes = prepare(tiny_run.config(**SETTINGS), sets), {}
    for resident in RESIDENT:
        config = tiny_run.config(**SETTINGS | {"dataset.resident": resident})
        run, folder = prepared._replace(config=check_config(config)), workdir / resident
        if interrupted:
            outcomes["other seeds"] = disagreement(folder)
            outcomes[f"{resident}, stopped"] = stopped(run, folder)
        outcomes[resident] = train(run, folder)
    return outcomes


def disagreement(workdir: Path) -> str:
    with pytest.raises(UserError) as told:
        claim_workdir(workdir, tiny_run.config(seed=jax.process_index()))
    return str(told.value)


def stopped(run: Any, workdir: Path) -> str:
    """Trains until a signal to the second process, in mid-epoch, stops all of them."""

    def armed(run: Any, step: int) -> Any:
        feed, calls = make_feed(run, step), iter(range(1, 100))

        def train(*args: Any) -> Any:
            if next(calls) == 3 and jax.process_index() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return feed.train(*args)

        return feed._replace(train=train)

    loop.make_feed = armed
    try:
        train(run, workdir)
    except Interrupted as error:
        return str(error)
    finally:
        loop.make_feed = make_feed
    return "not stopped"


_WORKER = """
import json, pathlib, sys
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from tests.training import test_parallel
print(json.dumps(test_parallel.train_both(pathlib.Path(sys.argv[3]), interrupted=True)))
"""

_ENVIRONMENT = {
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}


def test_two_processes_agree_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(port), str(process), str(tmp_path / "two")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | _ENVIRONMENT,
        )
        for process in range(2)
    ]
    try:
        monkeypatch.setitem(SETTINGS, "devices", 1)
        expected = train_both(tmp_path / "one")
        outputs = [worker.communicate(timeout=180) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # Else two that wait for one another outlive a failure here.
    for worker, (out, err) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, err[-3000:]
        found = json.loads(out.splitlines()[-1])
        assert "different configs" in found["other seeds"]
        for resident in RESIDENT:
            assert found[f"{resident}, stopped"].startswith("saved at step 6 of 8")
            ours, theirs = found[resident], expected[resident]
            np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-5)
            np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=1e-4, atol=1e-6)
            assert ours["tested"] == theirs["tested"]
