"""What a run is made of: every key of a config, its default and its meaning."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from xent_jax.errors import UserError, nearest

# Sections that name a function and hold its keyword arguments. Which arguments they may hold is
# said by that function's signature, and checked where the function is looked up.
CALLS = ("corruption", "imbalance", "model", "loss", "baseline", "optimizer", "schedule")
CALLS += ("sampler", "reweighting", "mixing", "second_stage", "few_shot", "tokens")

OF_TEXT = ("tokens", "dataset.window", "accumulate", "vocabulary_devices")
"""Keys that language models alone read."""

# What a ConfigDict holds is known at run time only, so that a type checker shall not guess.
if TYPE_CHECKING:
    Config = Any
else:
    Config = ConfigDict

Section = Config | Mapping[str, Any]
"""A part of a config that names a function and holds its arguments: dict(name=..., ...)."""


def default_config() -> Config:
    """Returns every key a config may hold; `configs/*.py` start from it and override."""
    config = ConfigDict()
    config.seed = 0  # of the initial parameters, the order of examples, dropout and augmentation
    config.epochs = 10
    config.batch_size = 64  # over all devices together
    config.eval_batch_size = 512
    # Steps that one compiled scan takes, between which signals are heard; 0: a whole epoch.
    config.steps_per_call = 0
    config.parallel = "mesh"  # 'mesh': jit over sharded arrays; 'pmap': the older way, one process
    config.devices = 0  # how many to use; 0: all there are

    config.dataset = ConfigDict()
    config.dataset.name = "digits"  # one of xent_jax.data.NAMES, or a text as data/text.py names it
    config.dataset.resident = "auto"  # keep it on the device ('yes'), stream it ('no'), by its size
    config.dataset.standardise = True  # by the training images' mean and deviation, per channel
    config.dataset.shift = 0  # random crop after padding by so many pixels
    config.dataset.flip = False  # random horizontal flip
    config.dataset.train_examples = 0  # take only the first so many; 0: all
    config.dataset.validation_examples = 0  # held out of the training set at random, by the seed

    # Sections that name a function and hold its arguments:
    config.imbalance = ConfigDict({"name": "none"})  # or one of xent_jax.data.IMBALANCES, ratio=
    config.corruption = ConfigDict({"name": "none"})  # or one of xent_jax.data.CORRUPTIONS, rate=
    config.model = ConfigDict({"name": "mlp"})  # one of xent_jax.models.NAMES or LANGUAGE_MODELS
    # One of xent_jax.training.trainable_losses(), or a text's linear_softmax_cross_entropy
    config.loss = ConfigDict({"name": "softmax_cross_entropy_with_integer_labels"})
    config.baseline = ConfigDict({"name": "none"})  # a loss trained alike and drawn beside it
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-3})  # optax's name for it
    config.schedule = ConfigDict({"name": "constant"})  # one of xent_jax.training.SCHEDULES

    config.sampler = ConfigDict({"name": "shuffle"})  # or another of xent_jax.data.SAMPLERS
    config.reweighting = ConfigDict({"name": "none"})  # or one of xent_jax.training.REWEIGHTINGS
    config.mixing = ConfigDict({"name": "none"})  # or one of xent_jax.training.MIXINGS
    # What the last of the epochs do: or another of xent_jax.training.SECOND_STAGES, epochs=
    config.second_stage = ConfigDict({"name": "none"})
    # Classes told from a few examples each, in sweeps: one of xent_jax.training.FEW_SHOT_METHODS
    config.few_shot = ConfigDict({"name": "none"})
    # What a text is cut into, for one of xent_jax.models.LANGUAGE_MODELS: 'bytes', or 'bpe' size=
    config.tokens = ConfigDict({"name": "bytes"})
    config.dataset.window = 256  # tokens of a text that are one example
    config.accumulate = 1  # parts of a batch of text, whose gradients are added before the update
    config.vocabulary_devices = 1  # over which the vocabulary is split, of all that are used

    config.teacher = ""  # the folder of a finished run whose logits the loss asks for
    config.co_teaching = ConfigDict()
    config.co_teaching.forget_rate = 0.0  # share of large losses two networks spare each other
    config.co_teaching.ramp_epochs = 10  # until the share is reached
    config.evaluation = ConfigDict()
    config.evaluation.logit_adjustment = 0.0  # tau: subtract tau log prior from the logits
    config.evaluation.tau_normalisation = 0.0  # tau: divide class weights by their norm ** tau
    # At the end, fitted to the validation examples, whose labels are corrupted like the others.
    config.evaluation.temperature_scaling = False

    config.weight_decay = 0.0  # decoupled where the optimiser has its own, else L2 in the gradient
    config.clip_norm = 0.0  # the largest global norm of a gradient; 0: no clipping
    config.ema_decay = 0.0  # evaluate an exponential moving average of the parameters; 0: none

    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 1
    config.keep_checkpoints = 2
    return config


_AT_LEAST_0 = ("seed", "steps_per_call", "devices", "dataset.shift", "dataset.train_examples")
_AT_LEAST_0 += ("weight_decay", "clip_norm", "ema_decay", "dataset.validation_examples")
_AT_LEAST_0 += ("co_teaching.forget_rate", "evaluation.logit_adjustment")
_AT_LEAST_0 += ("evaluation.tau_normalisation",)
_AT_LEAST_1 = ("epochs", "batch_size", "eval_batch_size", "keep_checkpoints")
_AT_LEAST_1 += ("eval_every_epochs", "checkpoint_every_epochs", "co_teaching.ramp_epochs")
_AT_LEAST_1 += ("dataset.window", "accumulate", "vocabulary_devices")
_ONE_OF = {"parallel": ("mesh", "pmap"), "dataset.resident": ("auto", "yes", "no")}


_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text"}


def check_config(config: Config) -> Config:
    """Returns a locked, complete copy in which every key is known, of its type and in its range.

    Raises:
      UserError: names the first key that is not, what it holds and what is allowed.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(f"a config must be a ConfigDict, such as default_config(), not {config!r}")
    defaults = dict(_leaves(default_config()))
    checked = default_config()
    config = ConfigDict(without_numpy(config.to_dict()))
    for key, value in _leaves(config):
        if key.partition(".")[0] not in CALLS:
            _set(checked, key, _checked_value(key, value, defaults))
    for section in CALLS:
        if section in config:  # Whole: another optimiser must not inherit the default's arguments.
            checked[section] = _checked_call(section, config[section])
    for key, value in (
        ("ema_decay", checked.ema_decay),
        ("co_teaching.forget_rate", checked.co_teaching.forget_rate),
    ):
        if value >= 1.0:
            raise UserError(f"config.{key}={value} must be below 1")
    if checked.evaluation.temperature_scaling and not checked.dataset.validation_examples:
        raise UserError(
            "config.evaluation.temperature_scaling needs examples to fit the temperature to: "
            "set config.dataset.validation_examples"
        )
    if checked.seed >= 2**32:  # JAX would drop the higher bits.
        raise UserError(f"config.seed={checked.seed} must be below 2**32")
    return checked.lock()


def call_arguments(section: str, spec: Section, allowed: Iterable[str]) -> dict[str, Any]:
    """Returns the keyword arguments in a section that names a function: all but `name`.

    Raises:
      UserError: if a key is not `allowed`; it names the nearest that is and lists them all.
    """
    allowed = sorted(set(allowed))
    arguments = {key: value for key, value in spec.items() if key != "name"}
    for key in arguments:
        if key not in allowed:
            takes = ", ".join(allowed) or "no arguments"
            raise UserError(
                f"config.{section}: {spec['name']!r} has no argument {key!r}"
                f"{nearest(key, allowed)}; it takes {takes}"
            )
    return arguments


def known_name(section: str, name: str, allowed: Iterable[str]) -> str:
    """Returns `name` if it is one of `allowed`.

    Raises:
      UserError: if it is not; it names the nearest and lists them all.
    """
    allowed = tuple(allowed)
    if name not in allowed:
        raise UserError(
            f"config.{section}.name={name!r} is unknown{nearest(name, allowed)}; "
            f"one of: {', '.join(allowed)}"
        )
    return name


def check_unread(config: Config, keys: Iterable[str], kind: str) -> None:
    """Raises UserError where a key is set that runs of this kind do not read."""
    plain = as_plain(config), as_plain(default_config())
    for key in keys:
        ours, theirs = (reduce(getitem, key.split("."), each) for each in plain)
        if ours != theirs:
            raise UserError(f"config.{key} has no meaning in {kind}: leave it out")


def without_numpy(value: Any) -> Any:
    """Returns a value of a config with Python's numbers and tuples for NumPy's."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
        return tuple(value) if isinstance(value, list) else value
    if isinstance(value, Mapping):
        return {key: without_numpy(item) for key, item in value.items()}
    return type(value)(map(without_numpy, value)) if type(value) in (list, tuple) else value


def with_numbers(config: Config, numbers: Mapping[str, Any]) -> Config:
    """Returns a copy whose leaves named in `numbers`, by dotted keys, are these, traced or not.

    The config's own number in their place has been checked; a stack's runs differ in them.
    """
    copy = ConfigDict(config.to_dict())  # ConfigDict(config) would share its sections.
    with copy.ignore_type():
        for key, value in numbers.items():
            _set(copy, key, value)
    return copy


def is_traced(number: Any) -> bool:
    """Tells whether a config's number is one of `with_numbers` that differs from run to run."""
    return isinstance(number, jax.core.Tracer)


def as_plain(config: Config) -> dict[str, Any]:
    """Returns the config as nested dicts that JSON can hold and that compare by value."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping | ConfigDict):
            return {key: plain(value[key]) for key in value}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    return plain(config)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Returns one `key: theirs -> ours` for every leaf in which two plain configs differ."""
    a, b = (dict(_leaves(ConfigDict(c))) for c in (ours, theirs))
    keys = sorted(a.keys() | b.keys())
    return [f"{k}: {b.get(k)} -> {a.get(k)}" for k in keys if a.get(k) != b.get(k)]


def _leaves(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _set(config: Config, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if section not in config:
            config[section] = ConfigDict()
        config = config[section]
    config[last] = value


def _checked_call(section: str, spec: Any) -> Config:
    if not isinstance(spec, ConfigDict) or not isinstance(spec.get("name"), str):
        given = as_plain(spec) if isinstance(spec, ConfigDict) else spec
        raise UserError(f"config.{section} must be a dict(name='...', ...), not {given!r}")
    try:
        json.dumps(as_plain(spec))  # Every record holds the config.
    except TypeError as error:
        raise UserError(
            f"config.{section}: {error}; its arguments may be numbers, texts, and tuples of them"
        ) from None
    return ConfigDict(spec.to_dict())


def _checked_value(key: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    if key not in defaults:
        known = [k for k in defaults if k.split(".")[0] not in CALLS] + list(CALLS)
        raise UserError(
            f"config.{key} is not a key of a config{nearest(key, known)}; "
            "xent_jax/training/config.py lists them all"
        )
    kind = type(defaults[key])
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"config.{key}={value!r} must be {_WORDS[kind]}")
    low = 0 if key in _AT_LEAST_0 else 1 if key in _AT_LEAST_1 else -math.inf
    if kind in (int, float) and not low <= value < math.inf:
        raise UserError(f"config.{key}={value} must be {_WORDS[kind]}, at least {low}")
    if key in _ONE_OF and value not in _ONE_OF[key]:
        raise UserError(f"config.{key}={value!r} must be one of {', '.join(_ONE_OF[key])}")
    return value
