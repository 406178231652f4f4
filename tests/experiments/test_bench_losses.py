"""The benches of losses and of rules: what they compare, and what they say of the budget."""

import json
import math
import sys

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.bench import exceptions, losses, rules
from xent_jax import losses as library
from xent_jax.errors import UserError


@pytest.fixture
def ask():
    """Sets the flags of a bench, as the command line does."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["bench"])

    with flagsaver.flagsaver(examples=8, classes=10):
        yield lambda only: setattr(flags.FLAGS, "only", only)


def test_every_loss_is_compared_with_the_plain_cross_entropy_and_its_peers(ask, capsys):
    ask("^(softmax_cross_entropy_with_integer_labels|seesaw|two_hot_targets)$")
    figures = losses.measure()
    assert list(figures) == [losses.PLAIN, "seesaw", "two_hot_targets"]  # room by room
    plain = figures[losses.PLAIN]
    assert {"ours_forward", "ours_both", "ours_memory", "optax_both", "optax_memory"} <= set(plain)
    assert "ours_both" not in figures["two_hot_targets"]  # it has no gradient
    assert all(value > 0 for key, value in plain.items() if key.endswith(("both", "ms")))
    printed = capsys.readouterr().out
    assert "8 examples of 10 classes" in printed
    assert "optax" in printed


def test_a_choice_that_matches_nothing_is_told(ask):
    ask("softmaxx")
    with pytest.raises(UserError, match="matches none of 1"):
        losses.chosen()
    ask("(")
    with pytest.raises(UserError, match="no regular expression"):
        losses.chosen()


def test_a_loss_over_the_budget_is_told_unless_it_is_listed(monkeypatch, capsys):
    monkeypatch.setattr(losses, "EXCEPTIONS", {"trades": "two arrays", "ldam": "no reason"})
    figures = {"trades": {"ours_both": 3.5}, "ldam": {"ours_both": 1.5}, "pgd": {}}
    losses.judge(figures)
    printed = capsys.readouterr().out
    assert "trades takes 3.5x: two arrays" in printed
    assert "within 3x: ldam takes 1.5x" in printed
    with pytest.raises(losses.OverBudget, match=r"seesaw \(3\.1x\)") as raised:
        losses.judge(figures | {"seesaw": {"ours_both": 3.1}})
    assert raised.value.exit_status == 1


def test_the_listed_losses_exist():
    assert set(exceptions.EXCEPTIONS) <= set(library.__all__) - {losses.PLAIN}


def test_the_copy_without_rules_leaves_the_library_alone():
    copy = rules.without_rules()
    assert copy is not library
    assert sys.modules["xent_jax.losses"] is library
    assert sys.modules["xent_jax"].losses is library
    assert isinstance(jax.custom_jvp, type)
    assert copy.softmax.log_normalizer is not library.softmax.log_normalizer
    assert isinstance(library.softmax.log_normalizer, jax.custom_jvp)
    assert not isinstance(copy.softmax.log_normalizer, jax.custom_jvp)


def test_rules_are_found_wherever_a_loss_uses_them():
    assert rules.has_rule("generalized_cross_entropy")
    assert not rules.has_rule("inverse_frequency_weights")


def test_accuracy_tells_a_gradient_that_is_not_finite():
    errors = rules.accuracy("sigmoid_focal_loss")
    assert {"moderate", "wrong by 30", "a class at -inf"} <= set(errors)
    assert all(error["with"] < 1e-3 for error in errors.values())


def test_what_is_told_of_a_rule(tmp_path):
    path = tmp_path / "figures.jsonl"
    equal = {"time_without": 1.1, "memory": 1.0, "memory_without": 1.2}
    figures = {
        "lean": {"time_without": 1.9, "memory": 1.0, "memory_without": 3.1, "accuracy": {}},
        "frugal": {"time_without": 1.0, "memory": 0.01, "memory_without": 2.0, "accuracy": {}},
        "safe": equal | {"accuracy": {"a class at -inf": {"with": 1e-7, "without": math.nan}}},
        "exact": equal | {"accuracy": {"right by 30": {"with": 1e-7, "without": 0.03}}},
        "dear": {"time_without": 0.5, "memory": 1.0, "memory_without": 1.0, "accuracy": {}},
        "looping": {"differentiable_without": False},
        "idle": equal | {"accuracy": {"moderate": {"with": 1e-7, "without": 2e-7}}},
    }
    path.write_text(json.dumps({"figures": {}}) + "\n" + json.dumps({"figures": figures}) + "\n")
    assert rules.rule_notes(path) == {
        "lean": "1.9x faster; 3.1x less memory",
        "frugal": "2 arrays less memory",
        "safe": "finite at a class at -inf",
        "exact": "exact to 1e-07 (right by 30) where autodiff is 3% off",
        "dear": "2.0x slower",
        "looping": "differentiable at all: autodiff cannot follow its loop",
        "idle": "level with autodiff",
    }
    assert rules.rule_notes(tmp_path / "missing.jsonl") == {}
