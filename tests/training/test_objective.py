"""A loss is found by its name and given what it asks for; what cannot be trained is told early."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent_jax import losses
from xent_jax.errors import UserError
from xent_jax.training import trainable_losses
from xent_jax.training.objective import make_objective

COUNTS = np.array([1.0, 2.0, 5.0], np.float32)
CROSS_ENTROPY = "softmax_cross_entropy_with_integer_labels"


def weighted(logits, labels, class_counts, *, power=1.0, where=None, axis=-1):
    """A loss that asks for context by a required argument."""
    weights = jnp.asarray(class_counts)[labels] ** power
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return jnp.where(where, weights * loss, 0.0)


def optional(logits, labels, *, class_counts=None, where=None, axis=-1):
    """A loss that takes context if there is any."""
    return jnp.full(len(labels), -1.0 if class_counts is None else class_counts.sum())


def mean(logits, labels, *, where=None, axis=-1):
    return logits.mean()


def chosen(logits, labels, *, where=None, axis=-1):
    return labels > 0


@pytest.fixture(autouse=True)
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses, and four more."""
    added: list[Callable] = [weighted, optional, mean, chosen]
    for function in added:
        monkeypatch.setattr(losses, function.__name__, function, raising=False)
    names = [*losses.__all__, *(function.__name__ for function in added)]
    monkeypatch.setattr(losses, "__all__", names)


def shapes(num_classes: int) -> dict[str, jax.ShapeDtypeStruct]:
    logits = jax.ShapeDtypeStruct((2, num_classes), jnp.float32)
    labels, where = (jax.ShapeDtypeStruct((2,), dtype) for dtype in (jnp.int32, jnp.bool))
    return {"logits": logits, "labels": labels, "where": where}


def loss_of(spec: dict, constants: dict, *batch: Any) -> np.ndarray:
    objective = make_objective("loss", spec, shapes(3), constants)
    feed = dict(zip(("logits", "labels", "where"), batch, strict=True))
    return jax.jit(objective.loss)(feed)[0]


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    logits[3] = np.nan  # padding may hold anything
    return logits, np.array([0, 2, 1, -7], np.int32), np.array([True, True, True, False])


def test_hyper_parameters_and_the_mask_reach_the_loss() -> None:
    logits, labels, mask = batch()
    spec = {"name": "generalized_cross_entropy", "q": 0.3}
    found = loss_of(spec, {"class_counts": COUNTS}, logits, labels, mask)
    p = np.exp(logits[:3]) / np.exp(logits[:3]).sum(1, keepdims=True)
    expected = (1 - p[range(3), labels[:3]] ** 0.3) / 0.3
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-5)


def test_a_preset_is_bound_and_the_config_goes_first() -> None:
    def value(**spec: Any) -> np.ndarray:
        return loss_of({"name": "symmetric_cross_entropy"} | spec, {}, *batch())

    np.testing.assert_array_equal(value(preset="cifar100"), value(alpha=6.0, beta=0.1))
    np.testing.assert_array_equal(value(preset="cifar100", alpha=2.0), value(alpha=2.0, beta=0.1))
    assert (value(preset="cifar100")[:3] != value()[:3]).all()


def test_context_is_bound_where_it_is_asked_for_and_the_config_goes_first() -> None:
    batch = jnp.zeros((3, 3)), jnp.arange(3), jnp.array([True, True, False])
    context = {"class_counts": COUNTS}
    bound = loss_of({"name": "weighted", "power": 2.0}, context, *batch)
    np.testing.assert_allclose(bound, np.log(3.0) * np.array([1, 4, 0]), 1e-6)
    given = loss_of({"name": "weighted", "class_counts": (3.0, 1, 1)}, context, *batch)
    np.testing.assert_allclose(given, np.log(3.0) * np.array([3, 1, 0]), 1e-6)
    assert loss_of({"name": "optional"}, context, *batch)[0] == 8.0
    assert loss_of({"name": "optional"}, {}, *batch)[0] == -1.0


MISTAKES = {
    "unknown": ({"name": "generalised_cross_entropy"}, r"did you mean 'generalized_cross_entropy'"),
    "no loss of logits and labels": (
        {"name": "masked_mean"},
        "is unknown.*; one of: .*" + CROSS_ENTROPY,
    ),
    "unknown argument": ({"name": CROSS_ENTROPY, "q": 0.5}, "has no argument 'q'"),
    "what the step passes": ({"name": CROSS_ENTROPY, "axis": 0}, "has no argument 'axis'"),
    "out of range": ({"name": "generalized_cross_entropy", "q": 2.0}, r"cannot be trained so: q "),
    "unknown preset": (
        {"name": "generalized_cross_entropy", "preset": "cifar"},
        r"has no preset 'cifar' \(did you mean 'cifar10",
    ),
    "no preset": ({"name": "brier_score", "preset": "mnist"}, "no preset is known for 'brier_sc"),
    "wrong type": ({"name": "generalized_cross_entropy", "q": "0.5"}, "cannot be trained so: "),
    "missing context": (
        {"name": "weighted"},
        "'weighted' needs 'class_counts', .* training examples of each class",
    ),
    "dense targets": (
        {"name": "softmax_cross_entropy"},
        "takes a distribution for each example: .*integer",
    ),
    "one value per batch": ({"name": "mean"}, "does not give one value per example"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("num_classes", [2, 10])
def test_each_mistake_is_named(mistake: str, num_classes: int) -> None:
    spec, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=r"config\.baseline.*" + expected) as told:
        make_objective("baseline", spec, shapes(num_classes), {})
    assert "\n" not in str(told.value)


def test_what_can_be_named() -> None:
    names = trainable_losses()
    assert {CROSS_ENTROPY, "generalized_cross_entropy", "weighted"} <= set(names)
    assert not {"masked_mean", "entropy", "confidence_regularized_sieve"} & set(names)
