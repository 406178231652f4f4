"""A language model's run so small that it compiles and trains in a moment."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from xent_jax.data.tokens import windows
from xent_jax.training import LanguageRun, default_config, prepare_language_model
from xent_jax.training.language_run import Corpus

VOCABULARY, WINDOW = 16, 6


def corpus(train: int = 117, test: int = 64) -> Corpus:
    """Random tokens, of which each tells something of the next; the last windows are short."""
    random = np.random.default_rng(0)

    def text(length: int) -> np.ndarray:
        steps = random.integers(0, 4, length)
        return np.cumsum(steps).astype(np.int32) % VOCABULARY

    sets = {"train": windows(text(train), WINDOW), "test": windows(text(test), WINDOW)}
    columns = {name: each._asdict() for name, each in sets.items()}
    return Corpus(columns, VOCABULARY, test_bytes=2 * test, digest="0" * 16)


def config(**changes: Any) -> ConfigDict:
    made = default_config()
    made.model = ConfigDict({"name": "transformer", "width": 8, "layers": 1, "heads": 2})
    made.loss = ConfigDict({"name": "linear_softmax_cross_entropy"})
    # Optax's Adam does not keep the rule on implicit casts.
    made.optimizer = ConfigDict({"name": "sgd", "learning_rate": 1.0, "momentum": 0.9})
    made.batch_size, made.eval_batch_size, made.devices, made.clip_norm = 8, 8, 1, 0.5
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (made[section] if section else made)[name] = value
    return made


def run(given: Corpus | None = None, **changes: Any) -> LanguageRun:
    return prepare_language_model(config(**changes), corpus() if given is None else given)
