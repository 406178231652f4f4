"""A run made ready: from a config to data, a model, an objective and a compiled program."""

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from xent_jax import data, models
from xent_jax.data import pipeline
from xent_jax.errors import UserError
from xent_jax.training.config import (
    Config,
    as_plain,
    call_arguments,
    check_config,
    differences,
    known_name,
)
from xent_jax.training.mesh import Runner, mesh_runner
from xent_jax.training.objective import make_objective
from xent_jax.training.optimizer import make_optimizer
from xent_jax.training.pmap import pmap_runner
from xent_jax.training.step import Program, TrainState, init_state

RESIDENT_BYTES = 2**31
"""Data sets up to this size stay on the devices where `dataset.resident` is 'auto'."""


class Run(NamedTuple):
    """What a run reads, what is compiled for it and the state it starts from."""

    config: Config
    sets: dict[str, data.Dataset]  # train, test and, where labels are corrupted, those: wrong
    program: Program
    runner: Runner
    initial_state: TrainState  # on the host: the devices hold the one that is trained

    @property
    def name(self) -> str:
        """The loss and its arguments: generalized_cross_entropy(q=0.5)."""
        loss = self.config.loss
        arguments = ", ".join(f"{key}={loss[key]}" for key in sorted(loss) if key != "name")
        return f"{loss.name}({arguments})" if arguments else loss.name

    @property
    def steps_per_epoch(self) -> int:
        return pipeline.steps_per_epoch(len(self.sets["train"].labels), self.config.batch_size)

    @property
    def steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    @property
    def resident(self) -> bool:
        if self.config.dataset.resident == "auto":
            return sum(s.images.nbytes for s in self.sets.values()) <= RESIDENT_BYTES
        return self.config.dataset.resident == "yes"


def load_sets(
    config: Config, *, data_dir: str | None = None, raw_dir: str | None = None
) -> dict[str, data.Dataset]:
    """Returns the config's data: train, test and, where labels were corrupted, those as wrong.

    Raises:
      UserError: an unknown data set or corruption, or data that is missing or damaged.
    """
    name = known_name("dataset", config.dataset.name, data.NAMES)
    load = partial(data.load, name, data_dir=data_dir, raw_dir=raw_dir)
    train, test = load(split="train"), load(split="test")
    if limit := config.dataset.train_examples:
        train = data.select(train, slice(limit))
    if config.corruption.name == "none":
        call_arguments("corruption", config.corruption, ())
        return {"train": train, "test": test}
    train = _corrupted(config, train)
    sets = {"train": train, "test": test}
    wrong = train.labels != train.clean_labels
    return sets | {"wrong": data.select(train, wrong)} if wrong.any() else sets


def prepare(config: Config, sets: dict[str, data.Dataset]) -> Run:
    """Returns the run that `config` describes on these data; nothing is trained or written yet.

    Raises:
      UserError: bad input of any kind, in one line.
    """
    config = check_config(config)
    devices, train = _devices(config), sets["train"]
    if config.dataset.shift >= min(train.images.shape[1:3]):
        size = "x".join(map(str, train.images.shape[1:3]))
        raise UserError(f"config.dataset.shift={config.dataset.shift} must be below {size} pixels")
    if config.baseline.name != "none":  # It is trained by a run of its own, but told of here.
        make_objective("baseline", config.baseline, train.num_classes, _context(train))
    objective = make_objective("loss", config.loss, train.num_classes, _context(train))
    steps_per_epoch = pipeline.steps_per_epoch(len(train.labels), config.batch_size)
    optimizer = make_optimizer(config, steps_per_epoch)
    axis_name = "data" if config.parallel == "pmap" else None
    known_name("model", config.model.name, models.NAMES)
    model_key, order_key, step_key = jax.random.split(jax.random.key(config.seed), 3)
    create = partial(_create_model, config, train, axis_name, model_key)
    try:
        nnx.eval_shape(create)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.model: {config.model.name!r} cannot be made: {reason}") from None
    graphdef, state = init_state(create, optimizer, ema=config.ema_decay > 0)
    mean, deviation = _scaling(config, train)
    program = Program(
        graphdef=graphdef,
        objective=objective,
        optimizer=optimizer,
        order_key=order_key,
        step_key=step_key,
        num_classes=train.num_classes,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        mean=mean,
        deviation=deviation,
        shift=config.dataset.shift,
        flip=config.dataset.flip,
        ema_decay=config.ema_decay,
        axis_name=axis_name,
    )
    make_runner = pmap_runner if config.parallel == "pmap" else mesh_runner
    return Run(config, sets, program, make_runner(program, devices), jax.device_get(state))


def claim_workdir(workdir: Path, config: Config) -> None:
    """Makes the folder this config's own, or finds that it already is.

    Raises:
      UserError: it holds another config's run, or cannot be written, or another process was
        given another config or folder.
    """
    path, ours = workdir / "config.json", as_plain(config)
    _check_agreement(workdir, ours)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # A folder in which nothing was saved yet belongs to nobody: a first try may have failed.
        traces = ("checkpoints/*", "records.jsonl", "*/checkpoints/*", "*/records.jsonl")
        used = any(any(workdir.glob(trace)) for trace in traces)
        if not (used and path.exists()) and jax.process_index() == 0:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(ours, indent=2) + "\n")
            os.replace(temporary, path)
        theirs = json.loads(path.read_text()) if used and path.exists() else ours
    except (OSError, ValueError) as error:
        raise UserError(f"--workdir={workdir} cannot be used: {error}; choose another") from None
    if differing := differences(ours, theirs):
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"--workdir={workdir} holds another config's run ({'; '.join(differing[:3])}{more}); "
            "choose another --workdir, or delete that folder"
        )


def _check_agreement(workdir: Path, config: dict[str, Any]) -> None:
    """Ends all processes where they differ: they would wait for one another for ever."""
    if jax.process_count() == 1:
        return
    text = json.dumps([str(workdir), config], sort_keys=True)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    if (multihost_utils.process_allgather(digest) != digest).any():
        raise UserError(
            "the processes were given different configs or workdirs; start all with the same flags"
        )


def _devices(config: Config) -> list[Any]:
    there = jax.devices()
    count = config.devices or len(there)
    if count > len(there):
        raise UserError(
            f"config.devices={count}, but JAX sees {len(there)} ({there[0].device_kind}); "
            "ask for fewer, or 0 for all"
        )
    if config.parallel == "pmap" and jax.process_count() > 1:
        raise UserError("config.parallel='pmap' serves one process; use 'mesh' over several")
    if jax.process_count() > 1 and count != len(there):
        raise UserError("config.devices must be 0 (all) when several processes train together")
    for key in ("batch_size", "eval_batch_size"):
        if config[key] % count:
            raise UserError(
                f"config.{key}={config[key]} does not divide over {count} devices; "
                f"use a multiple of {count}, or set config.devices"
            )
    return there[:count]


def _corrupted(config: Config, train: data.Dataset) -> data.Dataset:
    spec = config.corruption
    name = known_name("corruption", spec.name, ("none", *data.CORRUPTIONS))
    arguments = call_arguments("corruption", spec, ("rate", "seed"))
    if "rate" not in arguments:
        raise UserError(f"config.corruption: {name!r} needs a rate, from 0 to 1")
    return data.corrupt(train, name, **{"seed": config.seed} | arguments)


def _context(train: data.Dataset) -> dict[str, Any]:
    """What a loss may ask for by the name of an argument."""
    counts = np.bincount(train.labels, minlength=train.num_classes)
    return {"class_counts": counts.astype(np.float32)}


def _create_model(
    config: Config, train: data.Dataset, axis_name: str | None, key: jax.Array
) -> nnx.Module:
    arguments = {name: value for name, value in config.model.items() if name != "name"}
    return models.create(
        config.model.name,
        num_classes=train.num_classes,
        image_shape=train.images.shape[1:],
        rngs=nnx.Rngs(key),
        axis_name=axis_name,
        **arguments,
    )


def _scaling(config: Config, train: data.Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = train.images.shape[-1]
    if config.dataset.standardise:
        mean, deviation = pipeline.channel_statistics(train)
        return tuple(map(float, mean)), tuple(map(float, deviation))
    return (0.0,) * channels, (1.0,) * channels
