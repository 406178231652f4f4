"""What the matrix does not see: exactness towards the limits, and robustness itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.row import logits_and_labels, one_hot, softmax

LOG_P = np.array([-1e-8, -1e-3, -0.5, -3.0, -80.0])
LOGITS = np.stack([np.zeros(5), np.log(-np.expm1(LOG_P)) - LOG_P], axis=-1)
Q = np.array([0.0, 1e-12, 1e-6, 1e-3, 0.02, 0.3, 0.7, 1.0])


def exact_generalized_cross_entropy(log_p, q):
    """The value and its slope in q, by a series of 60 terms in long double."""
    log_p, q = np.longdouble(log_p), np.longdouble(q)
    if abs(q * log_p) > 5.0:
        power = np.exp(q * log_p)
        return (1 - power) / q, -log_p * power / q - (1 - power) / q**2
    value, slope, term = np.longdouble(0), np.longdouble(0), -log_p
    for n in range(1, 61):  # term = -log_p^n q^(n-1) / n!
        value += term
        slope += term * log_p / (n + 1) * n
        term = term * log_p * q / (n + 1)
    return value, slope


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 2e-6), (True, 1e-13)])
def test_generalized_cross_entropy_is_exact_down_to_q_of_zero(x64, tolerance):
    with jax.enable_x64(x64):
        logits, qs = jnp.asarray(LOGITS), jnp.asarray(Q)

        def loss(logits, q):
            labels = jnp.zeros(5, jnp.int32)
            return xent.generalized_cross_entropy(logits, labels, q=q)

        values, slopes, in_logits = jax.jit(
            lambda: (
                jax.vmap(loss, (None, 0))(logits, qs),
                jax.vmap(jax.jacrev(loss, 1), (None, 0))(logits, qs),
                jax.vmap(jax.grad(lambda z, q: loss(z, q).sum()), (None, 0))(logits, qs),
            )
        )()
        log_p = np.asarray(-xent.generalized_cross_entropy(logits, jnp.zeros(5, jnp.int32), q=0.0))
    exact = np.array(
        [[exact_generalized_cross_entropy(x, q) for x in log_p] for q in np.asarray(qs)]
    )
    np.testing.assert_allclose(values, exact[..., 0].astype(float), rtol=tolerance)
    np.testing.assert_allclose(slopes, exact[..., 1].astype(float), rtol=tolerance)
    power = np.exp(np.asarray(qs, np.float64)[:, None] * np.float64(log_p))
    expected = power * np.expm1(np.float64(log_p))
    np.testing.assert_allclose(in_logits[..., 0], expected, rtol=20 * tolerance, atol=tolerance)


def test_generalized_cross_entropy_keeps_its_range_where_the_power_underflows():
    logits = jnp.array([[-1e4, 0.0]])
    value, slope = jax.value_and_grad(
        lambda z: xent.generalized_cross_entropy(z, jnp.array([0]), q=0.5)[0]
    )(logits)
    assert value == 2.0
    assert np.all(slope == 0.0)


def test_generalized_cross_entropy_of_a_label_that_cannot_occur():
    logits = jnp.array([[-jnp.inf, 0.0, 0.0]])
    derivatives = jax.jit(
        jax.value_and_grad(
            lambda z, q: xent.generalized_cross_entropy(z, np.zeros(1, np.int32), q=q)[0]
        )
    )
    value, slope = derivatives(logits, 0.0)
    assert np.isposinf(value)
    np.testing.assert_array_equal(slope, [[-1.0, 0.5, 0.5]])
    value, slope = derivatives(logits, 0.5)
    assert value == 2.0
    assert np.all(slope == 0.0)


@pytest.mark.parametrize(
    "loss", [xent.mean_absolute_error, xent.reverse_cross_entropy], ids=lambda loss: loss.__name__
)
def test_symmetric_losses_sum_to_a_constant_over_the_labels(loss):
    logits, _ = logits_and_labels(np.random.default_rng(0), 6, 4)
    sums = sum(loss(logits.astype(np.float32), np.full(6, label)) for label in range(4))
    np.testing.assert_allclose(sums, np.full(6, sums[0]), rtol=1e-6)


def test_gradients_are_those_of_the_docstrings():
    logits, labels = logits_and_labels(np.random.default_rng(0), 6, 4)
    logits = logits.astype(np.float32)
    p, error = softmax(logits), softmax(logits) - one_hot(labels, 4)
    confidence = p[np.arange(6), labels][:, None]
    scales = {
        xent.generalized_cross_entropy: confidence**0.7,
        xent.mean_absolute_error: 2 * confidence,
        xent.reverse_cross_entropy: 4 * confidence,
        xent.symmetric_cross_entropy: 0.1 + 4 * confidence,
        xent.poly_loss_cross_entropy: 1 + 2 * confidence,
        xent.softmax_focal_loss: (1 - confidence) ** 2
        * (1 - 2 * confidence * np.log(confidence) / (1 - confidence)),
    }
    gradients = jax.jit(lambda z: [jax.grad(lambda z, f=f: f(z, labels).sum())(z) for f in scales])(
        logits
    )
    for ours, scale in zip(gradients, scales.values(), strict=True):
        np.testing.assert_allclose(ours, scale * error, rtol=1e-5, atol=1e-6)


def test_the_slope_keeps_its_digits_where_the_label_is_contradicted():
    gap = np.float32([3.0, 12.0, 20.0, 60.0])
    logits = np.stack([np.zeros(4, np.float32), gap], axis=-1)

    @jax.jit
    def slopes(logits):
        losses = (xent.mean_absolute_error, xent.reverse_cross_entropy)
        return [
            jax.grad(lambda z, f=f: f(z, np.zeros(4, np.int32)).sum())(logits)[:, 0] for f in losses
        ]

    p = np.exp(-np.float64(gap)) / (1.0 + np.exp(-np.float64(gap)))
    absolute, reverse = slopes(logits)
    np.testing.assert_allclose(absolute, -2.0 * p * (1.0 - p), rtol=1e-5)
    np.testing.assert_allclose(reverse, -4.0 * p * (1.0 - p), rtol=1e-5)
