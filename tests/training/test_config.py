"""A config is checked as a whole before anything is built from it."""

import json

import pytest
from ml_collections import ConfigDict

from xent_jax.errors import UserError
from xent_jax.training import config as configs
from xent_jax.training.config import check_config, default_config


def changed(key: str, value: object) -> ConfigDict:
    config = default_config()
    *sections, last = key.split(".")
    holder = config
    for section in sections:
        holder = holder[section]
    with holder.ignore_type():
        holder[last] = value
    return config


MISTAKES = {
    "epoch": (3, "config.epoch is not a key of a config (did you mean 'epochs'?)"),
    "dataset.nam": ("mnist", "config.dataset.nam is not a key of a config"),
    "optimiser": (ConfigDict({"name": "sgd"}), "config.optimiser.name is not a key"),
    "dataset": ("mnist", "config.dataset is not a key of a config"),
    "epochs": (2.5, "config.epochs=2.5 must be a whole number"),
    "batch_size": (True, "config.batch_size=True must be a whole number"),
    "dataset.flip": (1, "config.dataset.flip=1 must be True or False"),
    "dataset.name": (None, "config.dataset.name=None must be a text"),
    "weight_decay": ("0.1", "config.weight_decay='0.1' must be a "),
    "clip_norm": (float("nan"), "config.clip_norm=nan must be a finite number, at least 0"),
    "ema_decay": (1.0, "config.ema_decay=1.0 must be below 1"),
    "seed": (2**32, "config.seed=4294967296 must be below 2**32"),
    "parallel": ("jit", "config.parallel='jit' must be one of mesh, pmap"),
    "dataset.resident": ("always", "must be one of auto, yes, no"),
    "loss": ("focal", "config.loss must be a dict(name='...', ...), not 'focal'"),
    "model": (ConfigDict({"hidden": 3}), "config.model must be a dict(name='...', ...), not {'hid"),
    "model.name": (3, "config.model must be a dict(name='...', ...), not {'name': 3}"),
    "baseline": (ConfigDict(), "config.baseline must be a dict(name='...', ...), not {}"),
    "loss.weights": ({1, 2}, "config.loss: Object of type set is not JSON serializable"),
}


@pytest.mark.parametrize("key", MISTAKES)
def test_each_mistake_is_named(key: str) -> None:
    value, expected = MISTAKES[key]
    with pytest.raises(UserError) as told:
        check_config(changed(key, value))
    assert expected in str(told.value)
    assert "\n" not in str(told.value)


def test_every_number_has_a_least_value() -> None:
    least = dict.fromkeys(configs._AT_LEAST_0, 0) | dict.fromkeys(configs._AT_LEAST_1, 1)
    leaves = dict(configs._leaves(default_config()))
    numbers = {key for key, value in leaves.items() if type(value) in (int, float)}
    assert numbers == least.keys() | {"optimizer.learning_rate"}
    for key, low in least.items():
        check_config(changed(key, low))
        with pytest.raises(UserError, match=rf"config.{key}=.* at least {low}"):
            check_config(changed(key, low - 1))


def test_what_is_left_out_is_filled_in_and_the_copy_is_locked() -> None:
    given = ConfigDict({"epochs": 3, "weight_decay": 1, "loss": {"name": "squared_error"}})
    checked = check_config(given)
    assert checked.epochs == 3
    assert checked.weight_decay == 1.0
    assert type(checked.weight_decay) is float
    assert checked.batch_size == default_config().batch_size
    with pytest.raises(AttributeError, match="locked"):
        checked.loss.unknown = 1
    assert configs.as_plain(check_config(checked)) == configs.as_plain(checked)
    given.loss.name = "other"  # The copy does not share its sections.
    assert checked.loss.name == "squared_error"


def test_a_section_does_not_inherit_the_arguments_of_the_default() -> None:
    config = default_config()
    config.optimizer = ConfigDict({"name": "sgd", "momentum": 0.9})
    assert check_config(config).optimizer.to_dict() == {"name": "sgd", "momentum": 0.9}


def test_plain_form_survives_json_and_tells_differences() -> None:
    config = default_config()
    config.model = ConfigDict({"name": "mlp", "hidden": (3, 4)})
    ours = configs.as_plain(check_config(config))
    assert ours["model"] == {"name": "mlp", "hidden": [3, 4]}
    assert json.loads(json.dumps(ours)) == ours
    assert configs.differences(ours, json.loads(json.dumps(ours))) == []
    config.seed, config.model = 7, ConfigDict({"name": "lenet"})
    theirs = configs.as_plain(config)
    assert configs.differences(ours, theirs) == [
        "model.hidden: None -> [3, 4]",
        "model.name: lenet -> mlp",
        "seed: 7 -> 0",
    ]


def test_arguments_and_names_outside_what_is_allowed() -> None:
    spec = {"name": "sgd", "momentm": 0.9}
    with pytest.raises(UserError, match=r"no argument 'momentm' \(did you mean 'momentum'\?\)"):
        configs.call_arguments("optimizer", spec, {"momentum", "nesterov"})
    with pytest.raises(UserError, match="it takes no arguments"):
        configs.call_arguments("corruption", spec, ())
    assert configs.call_arguments("optimizer", spec, {"momentm"}) == {"momentm": 0.9}
    assert configs.known_name("model", "mlp", ("mlp", "lenet")) == "mlp"
    with pytest.raises(
        UserError, match=r"config.model.name='lenett' is unknown \(did.*one of: mlp"
    ):
        configs.known_name("model", "lenett", ("mlp", "lenet"))
