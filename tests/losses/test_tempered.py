"""What the matrix does not see of the tempered losses: their probabilities, limits and bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.row import logits_and_labels, one_hot
from tests.losses.cases.tempered import tempered_softmax


@jax.jit
def probabilities_from_gradients(logits, t2):
    """Returns the p of one row of logits, from the losses of all its labels."""
    labels = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    every = jnp.broadcast_to(logits, (len(labels), len(labels)))
    # L(z, k) = 1 - p_k + (sum p^2 - 1) / 2 at t1 = 0, so that differences tell p up to a constant.
    losses = xent.bi_tempered_logistic(every, labels, t1=0.0, t2=t2)
    return losses.mean() - losses + 1.0 / len(labels)


@pytest.mark.parametrize("t2", [0.0, 0.3, 0.9, 1.0, 1.1, 1.4, 2.0, 4.0])
def test_the_probabilities_are_those_of_a_bisection_and_sum_to_one(t2):
    logits = 3.0 * np.random.default_rng(0).normal(size=200)
    ours = probabilities_from_gradients(logits.astype(np.float32), t2)
    reference = tempered_softmax(logits[None], t2 if t2 != 1.0 else 1.0 + 1e-9)[0]
    np.testing.assert_allclose(ours, reference, atol=2e-6)


def test_at_temperature_zero_the_probabilities_are_the_sparsemax():
    logits = np.float32([1.2, 0.9, 0.3, -2.0])
    sparse = probabilities_from_gradients(logits, 0.0)
    np.testing.assert_allclose(sparse, [0.65, 0.35, 0.0, 0.0], atol=1e-6)


@jax.jit
def loss_of_first_class(logits, t1, t2):
    return xent.bi_tempered_logistic(logits, np.zeros(len(logits), np.int32), t1=t1, t2=t2)


@pytest.mark.parametrize("t2", [0.1, 0.99, 1.01, 1.4, 2.0])
def test_many_classes_converge_to_the_last_digits(t2):
    logits = np.random.default_rng(1).normal(size=(2, 50_000)).astype(np.float32)
    logits[:, 0] = 6.0
    # At t1 = 1 the loss is -log p_y - 1 + sum p: it shows the sum's error beside the label's.
    p = tempered_softmax(np.float64(logits), t2)[:, 0]
    loss = loss_of_first_class(logits, 1.0, t2)
    np.testing.assert_allclose(loss, -np.log(p), rtol=1e-5)


def test_published_values_with_label_smoothing():
    # From the test of the authors' implementation.
    logits = np.float32([[-0.5, 0.1, 2.0], [0.1, 1.5, -5.0], [4.0, -3.0, -6.0]])
    labels = np.arange(3, dtype=np.int32)
    tempered = functools.partial(xent.bi_tempered_logistic, t1=0.5, t2=1.5, label_smoothing=0.1)
    loss = jax.jit(tempered)(logits, labels)
    np.testing.assert_allclose(loss, [0.76652711, 0.08627685, 1.35443510], atol=1e-5)


@jax.jit
@jax.value_and_grad
def total_of_third_class(logits, t1, t2):
    labels = jnp.full(len(logits), 2)
    return xent.bi_tempered_logistic(logits, labels, t1=t1, t2=t2).sum()


@pytest.mark.parametrize("t1", [1.0, 0.8])
@pytest.mark.parametrize("t2", [1.0, 1.4, 0.9])
def test_a_label_that_cannot_occur_has_the_slope_of_one_that_hardly_can(t1, t2):
    far = jnp.float32([[1.0, 0.0, -jnp.inf], [1.0, 0.0, -1e30 if t2 > 1 else -100.0]])
    value, gradient = total_of_third_class(far, t1, t2)
    assert jnp.isposinf(value) == (t1 == 1.0)
    np.testing.assert_allclose(gradient[0], gradient[1], atol=1e-6)
    if t1 == t2 == 1.0:
        np.testing.assert_allclose(gradient[0], [0.7310586, 0.26894143, -1.0], rtol=1e-6)


def test_it_is_the_cross_entropy_at_one_and_one_with_all_derivatives_close_by():
    logits, labels = logits_and_labels(np.random.default_rng(2), 5, 4)

    @jax.jit
    def derivatives(z):
        def tempered(z, t1, t2, smoothing):
            loss = xent.bi_tempered_logistic(z, labels, t1=t1, t2=t2, label_smoothing=smoothing)
            return loss.sum()

        def plain(z):
            return xent.softmax_cross_entropy_with_integer_labels(z, labels).sum()

        at_one = jax.grad(tempered, (0, 1, 2))(z, 1.0, 1.0, 0.0)
        around = [jax.grad(tempered, (0, 1, 2))(z, 1.0 - h, 1.0 + h, 0.0) for h in (1e-5, -1e-5)]
        return at_one, around, jax.grad(plain)(z)

    with jax.enable_x64(True):
        at_one, (above, below), plain = derivatives(jnp.asarray(logits))
    np.testing.assert_allclose(at_one[0], plain, atol=1e-12)
    for middle, left, right in zip(at_one, above, below, strict=True):
        np.testing.assert_allclose(
            middle, 0.5 * (np.asarray(left) + np.asarray(right)), rtol=1e-6, atol=1e-8
        )


def test_the_gradient_is_that_of_the_docstring_and_the_loss_is_bounded():
    logits, labels = logits_and_labels(np.random.default_rng(3), 6, 5)
    t1, t2 = 0.7, 1.3
    p, y = tempered_softmax(logits, t2), one_hot(labels, 5)
    slopes = (p - y) * p ** (t2 - t1)
    escort = p**t2 / (p**t2).sum(-1, keepdims=True)
    expected = slopes - escort * slopes.sum(-1, keepdims=True)

    @jax.jit
    def both(z, scale):
        def loss(z):
            return xent.bi_tempered_logistic(z, labels, t1=t1, t2=t2)

        return jax.grad(lambda z: loss(z).sum())(z), loss(scale * z)

    gradient, far = both(logits.astype(np.float32), 1e3)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert np.all(far <= 1.0 / (1.0 - t1) + 1e-5)
    assert far.max() > 3.0
