"""A classifier's run as a `Trainable`: what differs between runs is data, the images are shared."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xent_jax.data import Dataset
from xent_jax.data.pipeline import steps_per_epoch
from xent_jax.training import evaluation, step
from xent_jax.training.config import Config, Section
from xent_jax.training.program import Facts, Shapes, facts_of, make_program
from xent_jax.training.step import StepMetrics, TrainState
from xent_jax.training.trainable import Trainable
from xent_jax.typing import Array

_SHOWN = 300
"""Test examples whose features a report draws."""

Columns = Mapping[str, Any]


class RunFacts(NamedTuple):
    """What is a run's own: of its program, and which examples it reads under which labels."""

    program: Facts
    sets: Mapping[str, Columns]  # train, wrong and perhaps validation: place, label ..., mask


def run_facts(config: Config, sets: Mapping[str, Dataset]) -> RunFacts:
    """Returns the facts of a run, whose sets are as `make_sets` gives them, on the host."""
    columns = {name: _columns(sets[name]) for name in ("train", "validation") if name in sets}
    columns["wrong"] = _columns(sets["wrong"]) if "wrong" in sets else _none_of(columns["train"])
    return RunFacts(facts_of(config, sets["train"]), columns)


def padded(facts: Sequence[RunFacts]) -> list[RunFacts]:
    """Returns the runs with as many wrong labels each, as a stack needs them; masks tell."""
    most = max(len(run.sets["wrong"]["mask"]) for run in facts)
    wrong = [{k: _padded(x, most) for k, x in run.sets["wrong"].items()} for run in facts]
    return [
        run._replace(sets={**run.sets, "wrong": own}) for run, own in zip(facts, wrong, strict=True)
    ]


def shared_arrays(train: Dataset, test: Dataset) -> dict[str, Any]:
    """Returns what all runs read: the images of the whole training split, and the test set."""
    columns = {key: value for key, value in _columns(test).items() if key != "place"}
    return {"image": train.images, "test": columns | {"image": test.images}}


def classifier(config: Config, shapes: Shapes, sections: Sequence[Section]) -> Trainable:
    """Returns the functions of one run of a stack.

    Args:
      config: one that stands for all runs.
      shapes: of their training sets.
      sections: the losses among which each run's facts choose.
    """

    def program_of(facts: RunFacts) -> step.Program:
        return make_program(config, shapes, facts.program, sections)[0]

    def init(facts: RunFacts) -> TrainState:
        return make_program(config, shapes, facts.program, sections)[1]()

    def train(
        state: TrainState, facts: RunFacts, shared: Any, epoch: Array, start: Array, length: int
    ) -> tuple[TrainState, StepMetrics]:
        data = {"image": shared["image"], **facts.sets["train"]}
        return step.train_chunk(program_of(facts), _all, state, data, epoch, start, length)

    def evaluate(state: TrainState, facts: RunFacts, shared: Any) -> dict[str, Any]:
        sets = {"test": shared["test"]}
        for name in ("wrong", "validation"):
            # An empty set of wrong labels cannot be padded, as no example is wrong in any run.
            if name in facts.sets and facts.sets[name]["label"].size:
                sets[name] = {"image": shared["image"], **facts.sets[name]}
        evaluated = partial(step.evaluate, program_of(facts), _all, state)
        sums: dict[str, Any] = {name: evaluated(data) for name, data in sets.items()}
        return sums | {"class_counts": facts.program.class_counts}

    def finish(state: TrainState, facts: RunFacts, shared: Any) -> dict[str, Any]:
        program, test = program_of(facts), shared["test"]
        found = {"features": step.features(program, state, test["image"][:_SHOWN])}
        found["label"] = test["label"][:_SHOWN]
        if config.evaluation.temperature_scaling:
            held_out = {"image": shared["image"], **facts.sets["validation"]}
            sets = {"validation": held_out, "test": test}
            predict = partial(step.predict, program, _all, state)
            found["logits"] = {name: predict(data) for name, data in sets.items()}
            found["labels"] = {name: data["label"] for name, data in sets.items()}
        return found

    def describe(sums: dict[str, Any], finished: dict[str, Any] | None) -> dict[str, Any]:
        sums = dict(sums)
        counts = sums.pop("class_counts").astype(np.int64)
        rare = counts if config.imbalance.name != "none" else None
        record = evaluation.describe(sums, rare, last=finished is not None)
        if finished is not None:
            # Weights may be finite and what they make of test images not: that has no plane.
            if np.isfinite(finished["features"]).all():
                record["embedding"] = _embedding(finished["features"], finished["label"])
            if "logits" in finished:
                record["calibrated"] = evaluation.calibrated(finished["logits"], finished["labels"])
        return record

    steps = steps_per_epoch(shapes.examples, config.batch_size)
    return Trainable(init, train, evaluate, finish, describe, steps, config.epochs)


def _all(batches: Array) -> Array:
    """Every device trains runs of its own, on whole batches."""
    return batches


def _columns(dataset: Dataset) -> dict[str, np.ndarray]:
    places = np.arange(len(dataset.labels)) if dataset.places is None else dataset.places
    return {
        "place": places.astype(np.int32),
        "label": dataset.labels,
        "clean_label": dataset.clean_labels,
        "mask": np.ones(len(dataset.labels), bool),
    }


def _none_of(columns: Columns) -> dict[str, np.ndarray]:
    return {key: value[:0] for key, value in columns.items()}


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, (0, length - len(values)))


def _embedding(features: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns the features' first two principal components, to four digits."""
    centred = features.astype(np.float64) - features.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(left), 2))
    points[:, : scale.size] = (left * scale)[:, :2]
    x, y = (np.round(axis, 4).tolist() for axis in points.T)
    return {"x": x, "y": y, "label": labels.tolist()}
