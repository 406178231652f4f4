"""Eight devices, one device, pmap, a stream and several processes train alike."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from xent_jax import metrics
from xent_jax.data import Dataset
from xent_jax.training import default_config
from xent_jax.training.feed import make_feed
from xent_jax.training.run import prepare

STEPS = 5


def dataset(size: int) -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (size, 8, 8, 1), np.uint8)
    labels = random.integers(0, 4, size, np.int32)
    return Dataset(images, labels, labels, tuple("abcd"), "random")


def config(model: str, **changes) -> ConfigDict:
    made = default_config()
    made.batch_size, made.eval_batch_size = 16, 16
    # 72 examples are four batches and a half: the last one is padded unevenly over devices.
    arguments = {"mlp": {"hidden": (16,), "dropout": 0.3}, "cnn4": {}}[model]
    made.model = ConfigDict({"name": model, **arguments})
    made.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.05, "momentum": 0.9})
    made.dataset.shift, made.clip_norm, made.ema_decay = 1, 1.0, 0.5
    for key, value in changes.items():
        if key == "resident":
            made.dataset.resident = value
        else:
            made[key] = value
    return made


def outcome(model: str, **changes) -> dict[str, np.ndarray]:
    """Trains one epoch and returns parameters, statistics, losses and the test set's metrics."""
    run = prepare(config(model, **changes), {"train": dataset(72), "test": dataset(44)})
    feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)
    state, steps = feed.train(state, 0, 0, STEPS)
    test = metrics.compute(feed.evaluate(state, "test"))
    single = run.runner.single(state)
    leaves = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(single._replace(opt_state=()))
    }
    return leaves | {
        "loss": steps.loss,
        "examples": steps.examples,
        "accuracy": np.asarray(test["accuracy"]),
        "confusion": np.asarray(test["confusion_matrix"]),
    }


@pytest.mark.parametrize("model", ["mlp", "cnn4"])
def test_layouts_agree(model: str) -> None:
    one = outcome(model, devices=1)
    assert one["examples"].tolist() == [16, 16, 16, 16, 8]
    assert one["confusion"].sum() == 44
    layouts = {
        "mesh of 8": {"devices": 8},
        "pmap over 8": {"devices": 8, "parallel": "pmap"},
        "stream over 8": {"devices": 8, "resident": "no"},
        "streamed pmap": {"devices": 4, "parallel": "pmap", "resident": "no"},
    }
    for name, changes in layouts.items():
        other = outcome(model, **changes)
        assert other.keys() == one.keys()
        for leaf, value in one.items():
            # Sums over devices associate otherwise: a few units in the last place per step.
            np.testing.assert_allclose(
                other[leaf], value, rtol=2e-4, atol=2e-5, err_msg=f"{name}: {leaf}"
            )


_WORKER = """
import json, sys
import jax
port, process, workdir, data_dir = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from tests.training import test_parallel
from xent_jax import training
made = test_parallel.config(*json.loads(sys.argv[5])[0:1], **json.loads(sys.argv[5])[1])
made.epochs, made.dataset.train_examples = 2, 100
run = training.prepare(made, training.load_sets(made, data_dir=data_dir))
result = training.train(run, workdir, progress=False)
print("loss", repr(result.records[-1]["train"]["loss"]), len(result.records))
"""


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_two_processes_agree_with_one(resident: str, tmp_path: Path) -> None:
    from xent_jax import training

    changes = {"resident": resident}
    alone = config("cnn4", devices=1, epochs=2, **changes)
    alone.dataset.train_examples = 100
    sets = training.load_sets(alone, data_dir=str(tmp_path))
    expected = training.train(training.prepare(alone, sets), tmp_path / "alone", progress=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    workers = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", _WORKER, str(port), str(process)),
                *(str(tmp_path / "two"), str(tmp_path), json.dumps(["cnn4", changes])),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        for process in range(2)
    ]
    outputs = [worker.communicate(timeout=240) for worker in workers]
    for worker, (out, err) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, err[-3000:]
        _, loss, count = out.splitlines()[-1].split()
        assert int(count) == 2
        assert float(loss) == pytest.approx(expected.records[-1]["train"]["loss"], rel=1e-4)
