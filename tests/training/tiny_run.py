"""A run so small that it compiles and trains in a moment."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from xent_jax.data import Dataset
from xent_jax.training import default_config


def dataset(size: int, *, side: int = 4, wrong: int = 0) -> Dataset:
    """Random images of four classes; the last `wrong` labels are not the clean ones."""
    random = np.random.default_rng(size)
    images = random.integers(0, 256, (size, side, side, 1), np.uint8)
    clean = random.integers(0, 4, size, np.int32)
    labels = np.where(np.arange(size) < size - wrong, clean, (clean + 1) % 4).astype(np.int32)
    return Dataset(images, labels, clean, tuple("abcd"), "random")


def config(**changes: Any) -> ConfigDict:
    """A perceptron with all that may go wrong on: dropout, shift, momentum and an average.

    The optimiser is one that knows the rule on implicit casts, which optax's Adam does not.
    """
    made = default_config()
    made.batch_size, made.eval_batch_size, made.devices = 8, 4, 1
    made.model = ConfigDict({"name": "mlp", "hidden": (5,), "dropout": 0.3})
    made.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.05, "momentum": 0.9})
    made.dataset.shift, made.ema_decay = 1, 0.75
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (made[section] if section else made)[name] = value
    return made


def on_one_device(run: ConfigDict) -> ConfigDict:
    """Returns the config of a study's run for training it by itself."""
    alone = run.copy_and_resolve_references()
    alone.devices = 1
    return alone
