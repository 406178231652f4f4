"""Metrics and conditions have names that need no knowledge of the records."""

import pytest

from xent_jax.reporting import names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("test.accuracy", "test accuracy"),
        ("test.nll", "test negative log-likelihood"),
        ("test.expected_calibration_error", "test expected calibration error"),
        ("shots.5.accuracy", "5-shot accuracy"),
        ("wrong_labels.memorised", "wrong labels memorised"),
    ],
)
def test_metrics_have_names(path, name):
    assert names.metric_name(path) == name


def test_conditions_have_names():
    condition = {"corruption.name": "part_dependent", "corruption.rate": 0.30000000000000004}
    assert names.condition_name(condition) == "part dependent noise 0.3"
    assert names.condition_name({"few_shot.ways": 5, "model.name": "cnn8"}) == "ways 5, model cnn8"
    assert names.condition_name({}) == ""


def test_shares_and_costs_are_known():
    shares = {"test.accuracy", "test.macro_f1", "test.few_accuracy", "wrong_labels.recovered"}
    costs = {"test.nll", "test.brier", "train.loss"}
    both = {"test.expected_calibration_error", "wrong_labels.memorised"}
    assert {path for path in shares | costs | both if names.is_share(path)} == shares | both
    assert {p for p in shares | costs | both if names.lower_is_better(p)} == costs | both
