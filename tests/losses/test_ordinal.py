"""Theory of the losses of ordered classes: ranks that agree, and probabilities that fall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent


def falling_logits(rng, examples, thresholds):
    biases = -np.sort(-rng.normal(size=thresholds))
    return np.float32(rng.normal(size=(examples, 1)) + biases)


def value_and_gradient(loss, logits, labels):
    def total(logits):
        value = loss(logits, labels)
        return value.sum(), value

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(logits)
    return value, gradient


def test_coral_is_rank_consistent_with_ordered_biases():
    logits = falling_logits(np.random.default_rng(0), 200, 5)
    p = np.asarray(jax.jit(xent.coral_probabilities)(logits))
    assert np.all(p >= 0)
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-5)
    # The number of logits above 0 is the median of the distribution.
    label = (logits > 0).sum(-1)
    below = np.cumsum(p, -1)
    median = (below <= 0.5).sum(-1)
    np.testing.assert_array_equal(label, median)


def test_coral_puts_the_biases_in_order():
    """The paper's theorem: swapping two biases that rise lowers the loss over any labels."""
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(50, 1)), rng.integers(0, 4, 50)
    coral = jax.jit(xent.coral)
    for _ in range(20):
        biases = np.sort(rng.normal(size=3))  # rising, the wrong way
        wrong = coral(np.float32(scores + biases), labels).sum()
        right = coral(np.float32(scores + biases[::-1]), labels).sum()
        assert right < wrong


def test_corn_probabilities_fall_whatever_the_logits():
    logits = np.float32(5 * np.random.default_rng(2).normal(size=(200, 6)))
    p = np.asarray(jax.jit(xent.corn_probabilities)(logits))
    assert np.all(p >= 0)
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-5)
    above = 1.0 - np.cumsum(p, -1)
    assert np.all(np.diff(above, axis=-1) <= 1e-6)


@pytest.mark.parametrize(
    ("loss", "probabilities"),
    [(xent.corn, xent.corn_probabilities), (xent.cumulative_link, xent.coral_probabilities)],
)
def test_the_likelihoods_are_of_a_distribution(loss, probabilities):
    logits = falling_logits(np.random.default_rng(3), 4, 3)
    loss, expected = jax.jit(loss), jax.jit(probabilities)(logits)
    for label in range(4):
        p = np.exp(-loss(logits, np.full(4, label)))
        np.testing.assert_allclose(p, expected[:, label], rtol=1e-4)


def test_only_the_questions_that_are_reached_have_a_gradient():
    logits = falling_logits(np.random.default_rng(4), 4, 3)
    labels = np.array([0, 1, 2, 3])
    corn = jax.jit(jax.grad(lambda z: xent.corn(z, labels).sum()))(logits)
    np.testing.assert_array_equal(corn != 0, np.arange(3) <= labels[:, None])
    link = jax.jit(jax.grad(lambda z: xent.cumulative_link(z, labels).sum()))(logits)
    next_to_it = (np.arange(3) == labels[:, None]) | (np.arange(3) == labels[:, None] - 1)
    np.testing.assert_array_equal(link != 0, next_to_it)


def test_labels_outside_the_classes_give_nan_and_a_nan_gradient():
    logits = falling_logits(np.random.default_rng(5), 4, 3)
    labels = np.array([3, 4, -1, 0])
    for loss in (xent.coral, xent.corn, xent.cumulative_link):
        value, gradient = value_and_gradient(loss, logits, labels)
        np.testing.assert_array_equal(np.isnan(value), [False, True, True, False])
        np.testing.assert_array_equal(np.isnan(gradient).any(-1), [False, True, True, False])


def test_logits_of_any_size():
    logits = np.float32([[1e4, 0, -1e4], [np.inf, 0, -np.inf], [30, 30 - 2e-5, -30]])
    for loss in (xent.coral, xent.corn, xent.cumulative_link):
        value, gradient = value_and_gradient(loss, logits, np.array([1, 1, 1]))
        assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(gradient))
    # Two thresholds that nearly meet far out: sigma(30) - sigma(30 - 0.00002) has no digits left.
    loss = jax.jit(xent.cumulative_link)(logits[2:], np.array([1]))
    gap = float(logits[2, 0]) - float(logits[2, 1])
    exact = np.log1p(np.exp(-30.0)) + np.logaddexp(0, 30.0 - gap) - np.log(-np.expm1(-gap))
    np.testing.assert_allclose(loss, [exact], rtol=1e-6)


def test_soft_ordinal_punishes_far_misses_more():
    logits = np.float32(6 * np.eye(5))
    losses = np.asarray(xent.soft_ordinal(logits, np.zeros(5, np.int32)))
    assert np.all(np.diff(losses) > 0)
    alike = np.asarray(xent.softmax_cross_entropy_with_integer_labels(logits, np.zeros(5, int)))
    np.testing.assert_allclose(alike[1:], alike[1])  # which the cross-entropy does not


def test_what_does_not_fit_is_told():
    logits, labels = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=r"importance_weights must have shape \(3,\)"):
        xent.coral(logits, labels, importance_weights=np.ones(4, np.float32))
    with pytest.raises(ValueError, match="ranks must hold one value per class"):
        xent.soft_ordinal(logits, labels, ranks=jnp.ones(2))
