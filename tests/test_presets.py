"""Every preset is what its loss takes, says where it stands, and cannot be changed by a caller."""

import ast
import inspect
import pathlib
import re

import jax
import numpy as np
import pytest

import xent_jax as xent
from tests.loss_cases import CASES
from tests.losses.cases.row import logits_and_labels, softmax

EVERY = [(loss, name) for loss, known in xent.presets.PRESETS.items() for name in known]


@pytest.mark.parametrize(("loss", "name"), EVERY, ids=lambda value: value)
def test_the_loss_takes_it(loss, name):
    case = next(case for case in CASES if case.function.__name__ == loss)
    arguments = xent.presets.preset(loss, name)
    assert arguments
    keywords = case.context(5) | case.values | arguments
    inputs = case.inputs(np.random.default_rng(0), 6, 5)
    # Hyper-parameters are no tracers here, so that their ranges are checked.
    jax.eval_shape(lambda *inputs: case.function(*inputs, **keywords), *inputs)


@pytest.mark.parametrize(("loss", "name"), EVERY, ids=lambda value: value)
def test_its_source_can_be_found(loss, name):
    source = xent.presets.PRESETS[loss][name].source
    assert re.search(r"\b(19|20)\d\d\b", source)
    assert re.search(r"github\.com/[\w-]+/[\w.-]+, [\w/+.-]+|section \d", source)


def test_published_defaults_are_a_preset_too():
    for loss, name in [
        ("generalized_cross_entropy", "cifar10"),
        ("symmetric_cross_entropy", "cifar10"),
        ("active_negative", "cifar10"),
        ("epsilon_softmax", "cifar10"),
        ("early_learning_regularization", "cifar10"),
        ("joint_optimization", "cifar10_symmetric70"),
        ("ldam", "cifar10_lt100"),
        ("label_aware_smoothing", "cifar10_lt100"),
        ("influence_balanced", "cifar10_lt100"),
        ("decoupled_distillation", "cifar100"),
    ]:
        parameters = inspect.signature(getattr(xent, loss)).parameters
        for key, value in xent.presets.preset(loss, name).items():
            assert parameters[key].default == value, (loss, key)


def test_active_passive_is_the_loss_of_the_repository_it_is_taken_from():
    logits, labels = logits_and_labels(np.random.default_rng(0), 6, 10)
    p = softmax(logits)[np.arange(6), labels]
    normalized = np.log(p) / np.log(softmax(logits)).sum(-1)
    reverse, absolute = -np.log(1e-4) * (1.0 - p), 1.0 - p  # as theirs are written
    for name, theirs in [
        ("cifar10", normalized + reverse),
        ("cifar100", 10.0 * normalized + 0.1 * reverse),
        ("cifar10_mae", normalized + absolute),
        ("cifar100_mae", 10.0 * normalized + absolute),
        ("mnist_mae", normalized + 10.0 * absolute),
    ]:
        arguments = xent.presets.preset("active_passive", name)
        ours = xent.active_passive(logits.astype(np.float32), labels, **arguments)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=name)


def test_what_is_returned_may_be_changed():
    arguments = xent.presets.preset("active_passive", "cifar10_agce")
    arguments["alpha"] = arguments["passive_options"]["a"] = -1.0
    again = xent.presets.preset("active_passive", "cifar10_agce")
    assert again["alpha"] == 1.0
    assert again["passive_options"]["a"] == 6.0


@pytest.mark.parametrize(
    ("loss", "name", "told"),
    [
        (
            "ldam",
            "cifar10lt100",
            r"'ldam' has no preset 'cifar10lt100' \(did you mean 'cifar10_lt1",
        ),
        ("ldam", "omniglot", r"it has cifar10_lt100, cifar100_lt100$"),
        ("generalised_cross_entropy", "mnist", r"did you mean 'generalized_cross_entropy'\?\)"),
        ("entropy", "mnist", r"no preset is known for 'entropy'.*; there are some for gen"),
    ],
)
def test_mistakes_are_told_with_what_is_known(loss, name, told):
    with pytest.raises(ValueError, match=told) as error:
        xent.presets.preset(loss, name)
    assert "\n" not in str(error.value)


def test_presets_are_data_alone():
    tree = ast.parse(pathlib.Path(xent.presets.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    }
    assert modules == {"collections.abc", "difflib", "math", "types", "typing"}
