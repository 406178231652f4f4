"""A finished run as the teacher of another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from xent_jax.errors import UserError
from xent_jax.training import step
from xent_jax.training.checkpoint import Checkpointer
from xent_jax.training.config import Config, check_config
from xent_jax.typing import Array

Build = Callable[[Config], tuple[step.Program, Callable[[], step.TrainState]]]
Teacher = tuple[Callable[[Any, Array], Array], Any]


def load_teacher(folder: str, dataset: str, facts: Any, build: Build) -> Teacher:
    """Returns (teacher's parameters, images) -> logits, and those parameters.

    Args:
      folder: of a run, with its config.json and checkpoints.
      dataset: the name of the student's.
      facts: the student's, whose mean and deviation standardise its images.
      build: (config) -> a run's program on the student's data, and what makes its first state.

    Raises:
      UserError: no run with a checkpoint is there, or it was trained on other data.
    """
    program, (state, metadata) = _restored(folder, dataset, build)
    (ours, our_deviation), (theirs, deviation) = (
        tuple(jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in pair)
        for pair in ((facts.mean, facts.deviation), (metadata["mean"], metadata["deviation"]))
    )

    def logits(params: Any, images: Array) -> Array:
        model = nnx.merge(program.graphdef, *params)
        images = (images * our_deviation + ours - theirs) / deviation
        return jax.lax.stop_gradient(program.classify(model, images))

    return logits, step.evaluated(program, state)


def _restored(folder: str, dataset: str, build: Build) -> tuple[step.Program, tuple[Any, Any]]:
    try:
        plain = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"config.teacher={folder!r} is no run's folder: {error}") from None
    config = check_config(ConfigDict(plain))
    if config.dataset.name != dataset:
        raise UserError(
            f"config.teacher={folder!r} was trained on {config.dataset.name!r}, not {dataset!r}"
        )
    program, init = build(config)
    restored = Checkpointer(Path(folder) / "checkpoints").restore_newest(jax.eval_shape(init))
    if restored is None:
        raise UserError(f"config.teacher={folder!r} holds no sound checkpoint: train it first")
    return program, restored[1:]
