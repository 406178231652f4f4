"""Which runs of a study one compiled program trains, and what that program is given of each.

Runs of one group differ in numbers, labels and the choice among losses; whatever changes shapes
or code makes another group.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from xent_jax.data import Dataset
from xent_jax.training import few_shot
from xent_jax.training.classifier import classifier, padded, run_facts, shared_arrays
from xent_jax.training.config import Config, as_plain
from xent_jax.training.objective import is_stateful, make_objective, traceable, with_preset
from xent_jax.training.optimizer import make_optimizer
from xent_jax.training.program import Facts, Shapes, constants_of, feed_shapes, shapes_of
from xent_jax.training.run import check_together, load_splits, make_sets
from xent_jax.training.study import Member
from xent_jax.training.trainable import Trainable

_NUMBERS = ("optimizer.learning_rate", "weight_decay")
"""Numbers of a config, besides a loss's, in which the runs of a group may differ."""

_NUMBER = "a number"
Splits = Mapping[str, Dataset]


class Group(NamedTuple):
    """Runs that one program trains, and its arguments on the host."""

    members: Sequence[Member]
    trainable: Trainable
    facts: Sequence[Any]  # of each run
    shared: Any


def load_splits_of(config: Config, place: Any) -> Splits:
    """Returns the splits of the config's data set by name; `place` says where data are.

    They are read but once, as the groups of a study nearly always share them.
    """
    few_shot_section = json.dumps(as_plain(config.few_shot), sort_keys=True)
    key = (config.dataset.name, few_shot_section, place.data_dir, place.raw_dir)
    if key not in _latest_splits:
        load = few_shot.load_few_shot_sets if config.few_shot.name != "none" else load_splits
        _latest_splits.clear()
        _latest_splits[key] = load(config, data_dir=place.data_dir, raw_dir=place.raw_dir)
    return _latest_splits[key]


_latest_splits: dict[tuple[Any, ...], Splits] = {}


def groups_of(members: Sequence[Member]) -> list[list[Member]]:
    """Returns the runs by what is compiled for them, in the order in which they first occur."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(signature(member.config), []).append(member)
    return list(groups.values())


def assemble(members: Sequence[Member], group: Sequence[Member], splits: Splits) -> Group:
    """Returns the program and facts of some runs of a group.

    Args:
      members: the runs.
      group: all runs of their group, whose losses are compiled into the program.
      splits: of their data set, by name.

    Raises:
      UserError: one of the configs cannot be trained; in one line.
    """
    config = group[0].config
    if config.few_shot.name != "none":
        return _assemble_few_shot(members, splits)
    sections = list({_structure(m.config): _section(m.config) for m in group}.values())
    structures = list({_structure(m.config): None for m in group})
    facts, checked = [], set()
    for member in members:  # One at a time: their sets hold images, of which facts keep none.
        sets = make_sets(member.config, splits["train"], splits["test"])
        check_together(member.config, sets["train"])
        found, shapes = run_facts(member.config, sets), shapes_of(sets["train"])
        _check_numbers(member.config, shapes, found.program, checked)
        program = found.program._replace(
            choice=np.asarray(structures.index(_structure(member.config)), np.int32),
            numbers=_numbers(member.config),
            loss_numbers=_loss_numbers(member.config, sections, structures),
        )
        facts.append(found._replace(program=program))
    trainable = classifier(config, shapes, sections)
    shared = shared_arrays(splits["train"], splits["test"])
    return Group(members, trainable, padded(facts), shared)


def _assemble_few_shot(members: Sequence[Member], splits: Splits) -> Group:
    prepared = [few_shot.prepare_few_shot(member.config, splits) for member in members]
    trainable, _, shared = prepared[0]
    return Group(members, trainable, [facts for _, facts, _ in prepared], shared)


def signature(config: Config) -> str:
    """Returns a text that is the same for all runs of one group."""
    plain = as_plain(config)
    for key in ("seed", "baseline"):
        plain.pop(key)
    corruption = plain.pop("corruption")
    plain["noise"] = [corruption["name"] in _WITHOUT_MATRIX, "rate" in corruption]
    for key in _numbers(config):
        *sections, last = key.split(".")
        functools.reduce(dict.__getitem__, sections, plain)[last] = _NUMBER
    if config.few_shot.name == "none":
        plain["loss"] = None if _may_be_chosen(config) else json.loads(_structure(config))
    return json.dumps(plain, sort_keys=True)


_WITHOUT_MATRIX = ("none", "instance_dependent", "from_file")


def _may_be_chosen(config: Config) -> bool:
    """Tells whether the loss may be one of several of a program, among which each run chooses."""
    return not is_stateful(config.loss.name)


def _numbers(config: Config) -> dict[str, np.ndarray]:
    found = {"optimizer.learning_rate": config.optimizer.get("learning_rate")}
    found["weight_decay"] = config.weight_decay or None  # 0 needs no code
    return {
        key: np.asarray(value, np.float32)
        for key, value in found.items()
        if isinstance(value, int | float)
    }


def _section(config: Config) -> dict[str, Any]:
    return as_plain(ConfigDict(with_preset("loss", config.loss)))


def _structure(config: Config) -> str:
    """Returns the loss's section as a text, without the numbers that may be traced."""
    section = _section(config)
    return json.dumps(section | dict.fromkeys(traceable(section), _NUMBER), sort_keys=True)


def _loss_numbers(
    config: Config, sections: Sequence[Mapping[str, Any]], structures: Sequence[str]
) -> tuple[dict[str, np.ndarray], ...]:
    """Returns the traced numbers of every loss of the program: its own, for this run's loss."""
    own, mine = _section(config), _structure(config)
    numbers = []
    for section, structure in zip(sections, structures, strict=True):
        given = own if structure == mine else section
        traced = [key for key, value in json.loads(structure).items() if value == _NUMBER]
        numbers.append({key: np.asarray(given[key], np.float32) for key in traced})
    return tuple(numbers)


def _check_numbers(config: Config, shapes: Shapes, facts: Facts, checked: set[str]) -> None:
    """Tells of a number out of its range, as nothing is seen of those that are traced."""
    # Its kind of noise, too, as not every loss can take every matrix.
    plain = map(as_plain, (config.optimizer, config.corruption))
    text = json.dumps([_section(config), config.weight_decay, *plain])
    if text in checked:
        return
    checked.add(text)
    constants = constants_of(facts, shapes, None)
    make_objective("loss", config.loss, feed_shapes(config, shapes), constants)
    make_optimizer(config, 1)
