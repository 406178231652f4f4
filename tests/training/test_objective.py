"""A loss is found by its name and given what it asks for; what cannot be trained is told early."""

from collections.abc import Callable

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


@pytest.fixture(autouse=True)
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses, and three more."""
    added: list[Callable] = [weighted, optional, mean]
    for function in added:
        monkeypatch.setattr(losses, function.__name__, function, raising=False)
    names = [*losses.__all__, *(function.__name__ for function in added)]
    monkeypatch.setattr(losses, "__all__", names)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    logits[3] = np.nan  # padding may hold anything
    return logits, np.array([0, 2, 1, -7], np.int32), np.array([True, True, True, False])


def test_hyper_parameters_and_the_mask_reach_the_loss() -> None:
    logits, labels, mask = batch()
    spec = {"name": "generalized_cross_entropy", "q": 0.3}
    objective = make_objective("loss", spec, 3, {"class_counts": COUNTS})
    found = jax.jit(objective)(logits, labels, mask)
    p = np.exp(logits[:3]) / np.exp(logits[:3]).sum(1, keepdims=True)
    expected = (1 - p[range(3), labels[:3]] ** 0.3) / 0.3
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-5)


def test_context_is_bound_where_it_is_asked_for_and_the_config_goes_first() -> None:
    logits, labels, mask = jnp.zeros((3, 3)), jnp.arange(3), jnp.array([True, True, False])
    context = {"class_counts": COUNTS}
    bound = make_objective("loss", {"name": "weighted", "power": 2.0}, 3, context)
    np.testing.assert_allclose(bound(logits, labels, mask), np.log(3.0) * np.array([1, 4, 0]), 1e-6)
    given = make_objective("loss", {"name": "weighted", "class_counts": (3.0, 1, 1)}, 3, context)
    np.testing.assert_allclose(given(logits, labels, mask), np.log(3.0) * np.array([3, 1, 0]), 1e-6)
    filled = make_objective("loss", {"name": "optional"}, 3, context)
    assert filled(logits, labels, mask)[0] == 8.0
    alone = make_objective("loss", {"name": "optional"}, 3, {})
    assert alone(logits, labels, mask)[0] == -1.0


MISTAKES = {
    "unknown": ({"name": "generalised_cross_entropy"}, r"did you mean 'generalized_cross_entropy'"),
    "no loss of logits and labels": (
        {"name": "masked_mean"},
        "is unknown.*; one of: .*" + CROSS_ENTROPY,
    ),
    "unknown argument": ({"name": CROSS_ENTROPY, "q": 0.5}, "has no argument 'q'"),
    "what the step passes": ({"name": CROSS_ENTROPY, "axis": 0}, "has no argument 'axis'"),
    "out of range": ({"name": "generalized_cross_entropy", "q": 2.0}, r"cannot be trained so: q "),
    "wrong type": ({"name": "generalized_cross_entropy", "q": "0.5"}, "cannot be trained so: "),
    "missing context": (
        {"name": "weighted"},
        "'weighted' needs 'class_counts': add it to the conf",
    ),
    "dense targets": ({"name": "softmax_cross_entropy"}, "cannot be trained so: .*integer"),
    "one value per batch": ({"name": "mean"}, "does not give one value per example"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("num_classes", [2, 10])
def test_each_mistake_is_named(mistake: str, num_classes: int) -> None:
    spec, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=r"config\.baseline.*" + expected) as told:
        make_objective("baseline", spec, num_classes, {})
    assert "\n" not in str(told.value)


def test_what_can_be_named() -> None:
    names = trainable_losses()
    assert {CROSS_ENTROPY, "generalized_cross_entropy", "weighted"} <= set(names)
    assert not {"masked_mean", "entropy"} & set(names)
