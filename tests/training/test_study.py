"""A study's config says which runs there are; a mistake in it is told in one line."""

from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from xent_jax.errors import UserError
from xent_jax.training import check_config, default_study, expand, matching
from xent_jax.training.config import as_plain

GCE = {
    "label": "GCE",
    "loss": {"name": "generalized_cross_entropy"},
    "tune": {"loss": {"q": (0.5, 0.7)}},
}
CO_TEACHING = {"label": "co-teaching", "co_teaching": {"forget_rate": 0.2}}


def study(**changes: Any) -> ConfigDict:
    config = default_study()
    config.dataset.validation_examples = 100
    config.seeds, config.seed = 2, 10
    config.methods = ({"label": "CE"}, GCE, CO_TEACHING)
    config.corruption = ConfigDict({"name": "symmetric"})
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9})
    config.grid = ConfigDict({"corruption": {"rate": (0.0, 0.4)}})
    for key, value in changes.items():
        config[key] = value
    return config


def _report(**changes: Any) -> ConfigDict:
    return ConfigDict({**default_study().report.to_dict(), **changes})


def test_every_method_meets_every_condition_with_every_seed():
    members = expand(study())
    assert len({m.id for m in members}) == len(members) == (1 + 2 + 1) * 2 * 2
    seen = {(m.method, m.seed, *m.conditions.values(), *m.tuned.values()) for m in members}
    assert seen == {
        (method[0], seed, rate, *method[1:])
        for method in (("CE",), ("GCE", 0.5), ("GCE", 0.7), ("co-teaching",))
        for seed in (10, 11)
        for rate in (0.0, 0.4)
    }


def test_a_run_s_config_is_the_study_s_with_its_own_changes():
    config = study(tune=ConfigDict({"optimizer": {"learning_rate": (0.3, 0.5)}}))
    member = matching(expand(config), ["method=GCE", "seed=11", "corruption.rate=0.4"])[-1]
    assert member.conditions == {"corruption.rate": 0.4}
    assert member.tuned == {"optimizer.learning_rate": 0.5, "loss.q": 0.7}
    expected = {key: value for key, value in as_plain(config).items() if key not in _STUDY}
    expected |= {"seed": 11, "corruption": {"name": "symmetric", "rate": 0.4}}
    expected["loss"] = {"name": "generalized_cross_entropy", "q": 0.7}
    expected["optimizer"] = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9}
    assert as_plain(member.config) == as_plain(check_config(ConfigDict(expected)))
    assert as_plain(config)["optimizer"]["learning_rate"] == 0.1  # The study's own is untouched.


_STUDY = ("seeds", "methods", "grid", "tune", "report")


def test_a_condition_may_be_a_whole_section():
    noise = ({"name": "symmetric", "rate": 0.2}, {"name": "pair_flip", "rate": 0.45})
    members = expand(study(grid=ConfigDict({"corruption": noise})))
    assert [dict(m.config.corruption) for m in members[::2][:2]] == list(noise)
    assert members[2].conditions == {"corruption.name": "pair_flip", "corruption.rate": 0.45}


def test_a_method_s_own_epochs_follow_the_study_s():
    stage = {"name": "classifier_retraining", "epochs": 20}
    weights = {"name": "deferred_reweighting_weights", "start_epoch": 32}
    methods = (
        {"label": "cRT", "epochs": 60, "second_stage": stage, "for_epochs": 40},
        {"label": "DRW", "reweighting": weights, "for_epochs": 40},
    )
    (crt, *_), (drw, *_) = (
        matching(expand(study(methods=methods, epochs=4)), [f"method={label}"])
        for label in ("cRT", "DRW")
    )
    assert (crt.config.epochs, crt.config.second_stage.epochs) == (6, 2)
    assert (drw.config.epochs, drw.config.reweighting.start_epoch) == (4, 3)


def test_numbers_may_be_numpy_s():
    rates = np.linspace(0.0, 0.4, 3)
    members = expand(study(grid=ConfigDict({"corruption": {"rate": rates}})))
    assert sorted({m.config.corruption.rate for m in members}) == rates.tolist()
    rate = {"name": "symmetric", "rate": np.float32(0.25)}
    assert check_config(ConfigDict({"corruption": rate})).corruption.rate == 0.25


def test_more_seeds_keep_the_runs_there_were():
    few, many = ({m.id for m in expand(study(seeds=seeds))} for seeds in (2, 3))
    assert few < many


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 16),
        (["loss=generalized_cross_entropy"], 8),
        (["method=CE", "corruption.rate=.4"], 2),
        (["co_teaching.forget_rate=0.2", "seed=10"], 2),
    ],
)
def test_filters_choose_runs(filters: list[str], count: int):
    assert len(matching(expand(study()), filters)) == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CE", "must be KEY=VALUE"),
        ("los=ldam", r"no run has a key 'los' \(did you mean 'loss'\?\)"),
        ("method=GCR", "leaves no run; method is CE, GCE, co-teaching"),
        ("seed=first", "leaves no run; seed is 10, 11"),
    ],
)
def test_a_filter_that_finds_nothing_says_what_there_is(text: str, expected: str):
    with pytest.raises(UserError, match=expected):
        matching(expand(study()), [text])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": 0}, "config.seeds=0 must be a whole number, at least 1"),
        ({"methods": ()}, "must be a tuple of methods"),
        ({"methods": ({"loss": {"name": "ldam"}},)}, "has no label"),
        ({"methods": ({"label": "A"}, {"label": "A", "epochs": 2})}, "have the label 'A'"),
        ({"methods": ({"label": "A"}, {"label": "B"})}, "'A' and 'B' train the same loss twice"),
        ({"methods": ({"label": "A", "los": {"name": "ldam"}},)}, r"config.los.*did you mean"),
        ({"grid": ConfigDict({"corruption": {"rate": 0.4}})}, r"rate=0.4 must be a tuple"),
        ({"grid": ConfigDict({"batch": (1, 2)})}, r"config.batch is not a key"),
        ({"grid": ConfigDict({"epochs": (1, 1.5)})}, r"config.epochs=1.5 must be a whole number"),
        ({"report": ConfigDict({"metric": "x"})}, r"config.report.metric is not a key"),
        ({"report": ConfigDict({"epoch": "best"})}, "must be last or validation"),
        ({"report": _report(metrics=())}, r"report.metrics=\[\] must be a tuple of texts"),
        ({"report": _report(published="mnist_n9")}, "'mnist_n9' is not known .did you mean"),
        ({"grid": ConfigDict({"weight_decay": (0.1, 0.1)})}, "'CE' is the same run at two of"),
        ({"grid": ConfigDict({"weight_decay": ()})}, r"such as \(0.1, 0.2\)"),
        ({"methods": ({"label": "A", "tune": (1, 2)},)}, r"\.tune=\[1, 2\] must be a dict"),
    ],
)
def test_each_mistake_is_named(changes: dict[str, Any], expected: str):
    with pytest.raises(UserError, match=expected):
        expand(study(**changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("parallel", "pmap"),
        ("baseline.name", "mean_absolute_error"),
        ("devices", 1),
        ("dataset.resident", "no"),
        ("checkpoint_every_epochs", 5),
    ],
)
def test_what_only_single_runs_read_is_told(key: str, value: Any):
    config = default_study()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"config.{key} has no meaning in a study"):
        expand(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tune", ConfigDict({"weight_decay": (0.0, 0.1)})),
        ("report", _report(epoch="validation")),
    ],
)
def test_a_choice_without_validation_examples_is_told_before_training(key: str, value: Any):
    config = default_study()
    config[key] = value
    with pytest.raises(UserError, match=r"of which 'CE' has none: set config\.dataset\.val"):
        expand(config)
    config.dataset.validation_examples = 100
    assert expand(config)


def test_a_training_config_is_no_study():
    config = default_study()
    del config.methods
    with pytest.raises(UserError, match="starts from default_study"):
        expand(config)
