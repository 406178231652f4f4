"""A run that is killed and started again ends as the one that was not, bit for bit."""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from xent_jax.reporting import records
from xent_jax.training import default_config

# Children are forked from a server that has imported everything and has no backend yet.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["xent_jax.training", "xent_jax.training.loop", "sklearn.datasets"])


def tiny_config(model: str) -> ConfigDict:
    config = default_config()
    config.epochs, config.steps_per_call, config.devices, config.ema_decay = 8, 2, 1, 0.9
    if model == "mlp":
        config.model = ConfigDict({"name": "mlp", "hidden": (16,), "dropout": 0.2})
        config.loss = ConfigDict({"name": "generalized_cross_entropy"})
        config.corruption = ConfigDict({"name": "symmetric", "rate": 0.3})
        config.batch_size, config.dataset.train_examples = 25, 198
    else:
        config.model = ConfigDict({"name": "cnn4"})
        config.dataset.shift, config.dataset.resident = 1, "no"
        config.batch_size, config.dataset.train_examples = 32, 100
    return config


def child(model: str, workdir: str, data_dir: str, kill: tuple[str, int, float] | None) -> None:
    """Trains, and kills itself `delay` seconds after the nth save or chunk of steps began."""
    from xent_jax.training import checkpoint, feed, loop, run

    jax.config.update("jax_compilation_cache_dir", f"{data_dir}/cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if kill is not None:
        moment, nth, delay = kill
        calls = iter(range(nth))

        def armed(function):
            def call(*args, **kwargs):
                if next(calls, None) is None:
                    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
                return function(*args, **kwargs)

            return call

        if moment == "save":
            checkpoint.Checkpointer.save = armed(checkpoint.Checkpointer.save)
        else:
            make = feed.make_feed

            def make_armed(*args):
                made = make(*args)
                return made._replace(train=armed(made.train))

            loop.make_feed = make_armed
    config = tiny_config(model)
    made = run.prepare(config, run.load_sets(config, data_dir=data_dir))
    result = loop.train(made, workdir, progress=False)
    leaves = jax.tree.leaves_with_path(jax.device_get(result.state))
    np.savez(f"{workdir}/final.npz", **{jax.tree_util.keystr(path): leaf for path, leaf in leaves})
    if kill is not None:
        time.sleep(5)  # The run ended before the timer: let it strike.


def run_child(*args) -> int | None:
    process = _FORK.Process(target=child, args=args)
    process.start()
    process.join(120)
    return process.exitcode


def untimed(workdir: Path) -> list[dict]:
    lines = records.read(workdir / "records.jsonl")
    for line in lines:
        del line["timing"]
        # Whoever edits the sources meanwhile changes the commit they are of.
        del line["environment"]["git"]
    return lines


@pytest.mark.parametrize("model", ["mlp", pytest.param("cnn4", marks=pytest.mark.slow)])
def test_killed_run_ends_as_the_whole_one(model: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / f"{model}-whole", tmp_path / f"{model}-killed"
    assert run_child(model, str(whole), str(tmp_path), None) == 0
    source = random.Random(f"{model} 2")
    for moment, latest in (("chunk", 8), ("save", 2), ("save", 2)):
        kill = (moment, source.randrange(latest), source.random() * 0.1)
        assert run_child(model, str(killed), str(tmp_path), kill) == -signal.SIGKILL
    assert run_child(model, str(killed), str(tmp_path), None) == 0
    assert untimed(killed) == untimed(whole)
    ours, theirs = np.load(killed / "final.npz"), np.load(whole / "final.npz")
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
