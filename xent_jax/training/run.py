"""A run made ready: from a config to data, a model, an objective and a compiled program."""

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from xent_jax import data, losses
from xent_jax.data import pipeline
from xent_jax.errors import UserError
from xent_jax.training import evaluation
from xent_jax.training.config import (
    OF_TEXT,
    Config,
    as_plain,
    call_arguments,
    check_config,
    check_unread,
    differences,
    known_name,
)
from xent_jax.training.mesh import Runner, mesh_runner
from xent_jax.training.objective import make_objective, with_preset
from xent_jax.training.pmap import pmap_runner
from xent_jax.training.program import (
    constants_of,
    facts_of,
    feed_shapes,
    make_program,
    shapes_of,
)
from xent_jax.training.stages import check_second_stage
from xent_jax.training.step import Program, TrainState

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
        return name_of(self.config)

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

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """What the devices hold of a set."""
        dataset = self.sets[name]
        clean = dataset.clean_labels
        return {"image": dataset.images, "label": dataset.labels, "clean_label": clean}

    def describe(self, sums: Mapping[str, Any], *, last: bool) -> dict[str, Any]:
        """What a record tells of an evaluation, from the sums over each set but train."""
        return evaluation.describe(sums, evaluation.rare_counts(self.config, self.sets), last=last)

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says of the data."""
        return {"classes": self.sets["train"].class_names}

    @property
    def metadata(self) -> dict[str, Any]:
        """What a checkpoint says beside the state: how images are scaled."""
        mean, deviation = self.program.mean, self.program.deviation
        return {"mean": mean.tolist(), "deviation": deviation.tolist()}


def name_of(config: Config) -> str:
    """Returns the loss and its arguments: generalized_cross_entropy(q=0.5)."""
    loss = config.loss
    arguments = ", ".join(f"{key}={loss[key]}" for key in sorted(loss) if key != "name")
    return f"{loss.name}({arguments})" if arguments else loss.name


def load_sets(
    config: Config, *, data_dir: str | None = None, raw_dir: str | None = None
) -> dict[str, data.Dataset]:
    """Returns the config's data, as `make_sets` does, from its splits as `load_splits` does.

    Raises:
      UserError: an unknown data set or corruption, or data that is missing or damaged.
    """
    splits = load_splits(config, data_dir=data_dir, raw_dir=raw_dir)
    return make_sets(config, splits["train"], splits["test"])


def load_splits(
    config: Config, *, data_dir: str | None = None, raw_dir: str | None = None
) -> dict[str, data.Dataset]:
    """Returns the training and the test split of the config's data set, as they were published.

    Raises:
      UserError: an unknown data set, one for few-shot learning, or data that is missing or damaged.
    """
    name = known_name("dataset", config.dataset.name, data.NAMES)
    if name in data.SPLIT_BY_CLASS:
        raise UserError(
            f"config.dataset.name={name!r} is tested on classes that it does not train on: name a "
            "method in config.few_shot, as configs/few_shot.py does"
        )
    load = partial(data.load, name, data_dir=data_dir, raw_dir=raw_dir)
    return {split: load(split=split) for split in ("train", "test")}


def make_sets(config: Config, train: data.Dataset, test: data.Dataset) -> dict[str, data.Dataset]:
    """Returns what a run reads: train, test and, where there are any, validation and wrong.

    The validation examples are taken from the training set after its labels were corrupted, as
    nobody who has wrong labels has right ones to choose by. The wrong ones are those whose label
    in the training set is not the clean one.

    Raises:
      UserError: an unknown corruption, or settings that leave a set empty.
    """
    if limit := config.dataset.train_examples:
        train = data.select(train, slice(limit))
    train = _changed(config, "imbalance", data.IMBALANCES, data.subsample, train)
    train = _changed(config, "corruption", data.CORRUPTIONS, data.corrupt, train)
    sets = {"train": train, "test": test}
    if held_out := config.dataset.validation_examples:
        sets["train"], sets["validation"] = data.split(train, held_out, config.seed)
    wrong = sets["train"].labels != sets["train"].clean_labels
    return sets | {"wrong": data.select(sets["train"], wrong)} if wrong.any() else sets


def prepare(config: Config, sets: dict[str, data.Dataset]) -> Run:
    """Returns the run that `config` describes on these data; nothing is trained or written yet.

    Raises:
      UserError: bad input of any kind, in one line.
    """
    config = check_config(config)
    devices = devices_of(config)
    check_together(config, sets["train"])
    shapes, facts = shapes_of(sets["train"]), facts_of(config, sets["train"])
    if config.baseline.name != "none":  # It is trained by a run of its own, but told of here.
        constants = constants_of(facts, shapes, None)
        make_objective("baseline", config.baseline, feed_shapes(config, shapes), constants)
    program, init = make_program(config, shapes, facts)
    make_runner = pmap_runner if config.parallel == "pmap" else mesh_runner
    run = Run(config, sets, program, make_runner(program, devices), jax.device_get(jax.jit(init)()))
    if program.second_stage is not None and not run.resident:
        raise UserError(
            f"config.second_stage: {config.second_stage.name!r} needs the training set on the "
            "devices: set config.dataset.resident='yes'"
        )
    return run


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


def devices_of(config: Config) -> list[Any]:
    """Returns the devices that a config asks for.

    Raises:
      UserError: there are fewer, or batches do not divide over them.
    """
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


def _changed(
    config: Config,
    section: str,
    known: Collection[str],
    change: Callable[..., data.Dataset],
    train: data.Dataset,
) -> data.Dataset:
    """Returns the training set as the function that a section names makes it, by the run's seed."""
    spec = config[section]
    if known_name(section, spec.name, ("none", *known)) == "none":
        call_arguments(section, spec, ())
        return train
    arguments = {key: value for key, value in spec.items() if key != "name"}
    try:
        return change(train, spec.name, **{"seed": config.seed} | arguments)
    except UserError as error:
        raise UserError(f"config.{section}: {error}") from None


def check_together(config: Config, train: data.Dataset) -> None:
    """Tells of settings that are each right and cannot stand together."""
    if config.few_shot.name != "none":
        raise UserError("config.few_shot: episodes are trained by experiments.sweep")
    check_unread(config, OF_TEXT, "training on images")
    check_second_stage(config)
    if config.dataset.shift >= min(train.images.shape[1:3]):
        size = "x".join(map(str, train.images.shape[1:3]))
        raise UserError(f"config.dataset.shift={config.dataset.shift} must be below {size} pixels")
    if config.mixing.name != "none" and config.parallel == "pmap":
        raise UserError("config.mixing needs the whole batch: set config.parallel='mesh'")
    for section in ("loss", "baseline"):
        _check_scale(section, config)
    if config.evaluation.tau_normalisation and config.model.get("cosine_scale"):
        raise UserError(
            "config.evaluation.tau_normalisation changes nothing where class weights have norm 1: "
            "set it to 0, or config.model.cosine_scale"
        )


def _check_scale(section: str, config: Config) -> None:
    """Tells of a loss that multiplies cosines by another number than the network does."""
    ours, loss = config.model.get("cosine_scale"), getattr(losses, config[section].name, None)
    parameters = inspect.signature(loss).parameters if callable(loss) else {}
    if not (ours and "cosines" in parameters and "scale" in parameters):
        return
    given = with_preset(section, config[section])
    theirs = given.get("scale", parameters["scale"].default)
    if theirs is not None and theirs != ours:
        raise UserError(
            f"config.{section}: {config[section].name!r} has scale={theirs}, the network "
            f"config.model.cosine_scale={ours}, so that evaluation would see other probabilities "
            "than training: make them equal"
        )
