"""A study: a training config, and the methods, conditions and seeds it is trained with."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from xent_jax.errors import UserError, nearest
from xent_jax.reporting.published import PUBLISHED
from xent_jax.training.config import (
    CALLS,
    Config,
    as_plain,
    check_config,
    default_config,
    without_numpy,
)

_KEYS = ("seeds", "methods", "grid", "tune", "report")
_REPORT = {
    "title": "",
    "metrics": ("test.accuracy",),  # places in a record; the first is the main one
    "epoch": "last",  # or 'validation': that of the best accuracy on the validation examples
    "published": "",  # whose numbers stand beside ours: a key of reporting.published
}
_NOT_OF_TRAINING = ("label", "tune", "for_epochs")
_EPOCHS = ("epochs", "second_stage.epochs", "reweighting.start_epoch")
"""What a method may set by its own, for as many epochs of the study as its `for_epochs` says."""
_FILTERS = ("id", "method", "seed", *CALLS)
_OF_SINGLE_RUNS = {
    "parallel": "a stack's runs are spread over the devices, each run on one",
    "baseline.name": "add it to config.methods",
    "devices": "a sweep takes all there are; hide some, as with CUDA_VISIBLE_DEVICES=0",
    "steps_per_call": "a stack trains an epoch per call",
    "dataset.resident": "its images are always on the devices",
    "checkpoint_every_epochs": "a stack is saved every minute, and when it is stopped",
    "keep_checkpoints": "of a stack the newest one is kept, until it is finished",
}

Change = tuple[str, Any]
"""A dotted key of a config, and its value."""


class Member(NamedTuple):
    """One run of a study."""

    id: str
    method: str
    conditions: dict[str, Any]  # by dotted key
    tuned: dict[str, Any]  # likewise: to be chosen among by the validation examples
    seed: int
    config: Config  # the whole of the run's own


def is_few_shot(run: Member) -> bool:
    """Tells whether a run learns from episodes of a few examples each."""
    return run.config.few_shot.name != "none"


def default_study() -> Config:
    """Returns a training config with what a study adds; `configs/*.py` start from it.

    A method is a dict with a label, the parts of the config that it changes, and perhaps its own
    `tune`. One with epochs of its own says for how many of the study's, by `for_epochs`. In `grid`
    and `tune` each leaf is a tuple of values for the config's key of that name.
    """
    config = default_config()
    config.seeds = 3  # runs of each kind, with the seeds `seed`, `seed + 1`, ...
    config.methods = ({"label": "CE"},)
    config.grid = ConfigDict()  # conditions: every combination is trained
    config.tune = ConfigDict()  # hyper-parameters: the validation examples choose among them
    config.report = ConfigDict(_REPORT)
    return config


def expand(config: Config) -> list[Member]:
    """Returns the runs of a study: methods x conditions x hyper-parameters x seeds.

    Raises:
      UserError: names the first key that is not right, what it holds and what is allowed.
    """
    study, base = _parts(config)
    members = [
        _member(base, method, conditions, tuned, base["seed"] + seed)
        for method in study["methods"]
        for conditions in _points("grid", study["grid"])
        for tuned in _tuned(study, method)
        for seed in range(study["seeds"])
    ]
    _check_distinct(members)
    _check_chosen(study, members)
    return members


def matching(members: Sequence[Member], filters: Iterable[str]) -> list[Member]:
    """Returns the runs that satisfy every filter: 'loss=ldam', 'method=GCE', 'corruption.rate=0.4'.

    Raises:
      UserError: a filter that is not KEY=VALUE, or that no run satisfies.
    """
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--only={text!r} must be KEY=VALUE, such as loss=ldam or seed=0")
        there = sorted({_shown(_attribute(member, key)) for member in members} - {""})
        if not there:
            known = {*_FILTERS, *(k for member in members for k in _leaves(member.config))}
            raise UserError(f"--only={text!r}: no run has a key {key!r}{nearest(key, known)}")
        members = [m for m in members if _same(_attribute(m, key), value)]
        if not members:
            more = f" and {len(there) - 12} more" if len(there) > 12 else ""
            raise UserError(
                f"--only={text!r} leaves no run; {key} is {', '.join(there[:12])}{more}"
            )
    return list(members)


def as_training(config: Config) -> Config:
    """Returns the training config that a study starts from."""
    return _parts(config)[1]


def _parts(config: Config) -> tuple[dict[str, Any], ConfigDict]:
    """Returns what the study adds, checked and plain, and the rest."""
    if missing := [key for key in _KEYS if key not in config]:
        raise UserError(
            f"config.{missing[0]} is missing: a study's config starts from default_study(), "
            "as configs/noisy_labels.py does"
        )
    study = as_plain(ConfigDict(without_numpy(ConfigDict({k: config[k] for k in _KEYS}).to_dict())))
    base = ConfigDict({key: config[key] for key in config if key not in _KEYS})
    if type(study["seeds"]) is not int or study["seeds"] < 1:
        raise UserError(f"config.seeds={study['seeds']!r} must be a whole number, at least 1")
    _check_methods(study["methods"])
    _check_report(study["report"])
    return study, base


def _check_methods(methods: Any) -> None:
    example = "dict(label='GCE', loss=dict(name='generalized_cross_entropy'))"
    if not isinstance(methods, Sequence) or isinstance(methods, str) or not methods:
        raise UserError(f"config.methods={methods!r} must be a tuple of methods, such as {example}")
    for method in methods:
        label = method.get("label") if isinstance(method, Mapping) else None
        if not isinstance(label, str) or not label:
            raise UserError(f"config.methods: {method!r} has no label; a method is like {example}")
    labels = [method["label"] for method in methods]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"config.methods: two methods have the label {twice[0]!r}; rename one")


def _check_report(report: Mapping[str, Any]) -> None:
    for key in report:
        if key not in _REPORT:
            raise UserError(
                f"config.report.{key} is not a key{nearest(key, _REPORT)}; one of: "
                f"{', '.join(_REPORT)}"
            )
    if report.get("epoch") not in ("last", "validation"):
        raise UserError(f"config.report.epoch={report.get('epoch')!r} must be last or validation")
    metrics = report.get("metrics")
    if not isinstance(metrics, list) or not metrics or any(type(m) is not str for m in metrics):
        raise UserError(
            f"config.report.metrics={metrics!r} must be a tuple of texts, such as "
            "('test.accuracy',)"
        )
    table = report.get("published", "")
    if table and table not in PUBLISHED:
        raise UserError(
            f"config.report.published={table!r} is not known{nearest(str(table), PUBLISHED)}; "
            f"'' or one of: {', '.join(PUBLISHED)}"
        )


def _check_chosen(study: Mapping[str, Any], members: Sequence[Member]) -> None:
    """Tells of a choice for which there is nothing to choose by, before all is trained for it."""
    by_validation = study["report"]["epoch"] == "validation"
    tunes = any(len(_tuned(study, method)) > 1 for method in study["methods"])
    if not (by_validation or tunes):
        return
    for member in members:
        # Few-shot data sets hold out classes, some by themselves.
        if not is_few_shot(member) and not member.config.dataset.validation_examples:
            chooser = "config.report.epoch='validation'" if by_validation else "tune"
            raise UserError(
                f"{chooser} chooses by validation examples, of which {member.method!r} has none: "
                "set config.dataset.validation_examples"
            )


def _tuned(study: Mapping[str, Any], method: Mapping[str, Any]) -> list[list[Change]]:
    own = _points(f"methods[{method['label']!r}].tune", method.get("tune", {}))
    return [shared + mine for shared in _points("tune", study["tune"]) for mine in own]


def _points(section: str, grid: Any) -> list[list[Change]]:
    """Returns every combination of a grid's values, each as the changes that it makes."""
    if not isinstance(grid, Mapping):
        raise UserError(f"config.{section}={grid!r} must be a dict of tuples of values to try")
    axes = []
    for key, values in _leaves(grid).items():
        if not isinstance(values, list) or not values:
            example = "(0.1, 0.2)" if values == [] else f"({values!r},)"
            raise UserError(
                f"config.{section}.{key}={values!r} must be a tuple of values to try, such as "
                f"{example}"
            )
        axes.append([(key, value) for value in values])
    return [list(point) for point in itertools.product(*axes)]


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns what is in nested mappings by its dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping | ConfigDict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _member(
    base: ConfigDict,
    method: Mapping[str, Any],
    conditions: list[Change],
    tuned: list[Change],
    seed: int,
) -> Member:
    config = ConfigDict(base.to_dict())
    changes = {key: value for key, value in method.items() if key not in _NOT_OF_TRAINING}
    own = _in_proportion(base, method, [*_method_changes(changes)])
    for key, value in (*own, *conditions, *tuned, ("seed", seed)):
        _change(config, key, value)
    config = check_config(config)
    _check_read(config)
    text = json.dumps([method["label"], as_plain(config)], sort_keys=True)
    return Member(
        id=hashlib.sha256(text.encode()).hexdigest()[:10],
        method=method["label"],
        conditions=_flat(conditions),
        tuned=_flat(tuned),
        seed=seed,
        config=config,
    )


def _in_proportion(base: ConfigDict, method: Mapping[str, Any], own: list[Change]) -> list[Change]:
    """Returns a method's changes with its epochs scaled as the study's were by an override."""
    if "for_epochs" not in method:
        return own
    scale = base["epochs"] / method["for_epochs"]
    scaled = []
    for key, value in own:
        section = dict(value) if isinstance(value, Mapping) else {"": value}
        for name, number in section.items():
            if f"{key}.{name}".strip(".") in _EPOCHS:
                section[name] = max(1, round(scale * number))
        scaled.append((key, section if isinstance(value, Mapping) else section[""]))
    return scaled


def _check_read(config: Config) -> None:
    ours, default = (_leaves(as_plain(each)) for each in (config, default_config()))
    for key, instead in _OF_SINGLE_RUNS.items():
        if ours[key] != default[key]:
            raise UserError(f"config.{key} has no meaning in a study: {instead}")


def _method_changes(changes: Mapping[str, Any]) -> Iterator[Change]:
    """Yields sections that name a function whole, and the leaves of the others."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and "name" not in value:
            yield from ((f"{key}.{leaf}", each) for leaf, each in _leaves(value).items())
        else:
            yield key, value


def _change(config: ConfigDict, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if section not in config:
            config[section] = ConfigDict()
        config = config[section]
    whole = isinstance(value, Mapping)
    with config.ignore_type():  # check_config judges the types.
        config[last] = ConfigDict(value) if whole else _tuple(value)


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _flat(changes: list[Change]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in changes:
        if isinstance(value, Mapping):
            flat |= _leaves(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _check_distinct(members: Sequence[Member]) -> None:
    seen: dict[str, Member] = {}
    for member in members:
        text = json.dumps(as_plain(member.config), sort_keys=True)
        if (other := seen.setdefault(text, member)) is not member:
            if other.method == member.method:
                raise UserError(
                    f"config.grid or tune: {member.method!r} is the same run at two of their "
                    "values; remove one (config.seeds says how many seeds there are)"
                )
            raise UserError(
                f"config.methods: {other.method!r} and {member.method!r} train the same loss "
                "twice; remove one"
            )


def _attribute(member: Member, key: str) -> Any:
    if key in ("id", "method", "seed"):
        return getattr(member, key)
    value: Any = member.config
    for part in key.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            return None
        value = value[part]
    return value.get("name") if isinstance(value, ConfigDict) else value


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _same(value: Any, text: str) -> bool:
    if type(value) in (int, float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return value is not None and str(value) == text
