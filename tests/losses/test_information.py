"""What the matrix does not see: zeros, limits, the numbers articles get wrong, and messages."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xent_jax as xent
from tests.losses.cases.information import renyi_divergence as textbook_renyi
from tests.losses.cases.information import two_distributions
from tests.losses.cases.row import softmax
from xent_jax.losses.logarithms import relative_expm1, relative_log1p, times, x_log_y

INF = np.inf
LOG2 = np.log(2.0)


def value_and_gradients(function, *arguments, **keywords):
    """Returns (value, gradient for each argument) of a function of single distributions."""
    arguments = [jnp.asarray(x, jnp.float32) for x in arguments]
    positions = tuple(range(len(arguments)))
    return jax.jit(jax.value_and_grad(lambda *a: function(*a, **keywords), positions))(*arguments)


# ------------------------------------------------------------------ numbers articles get wrong


def test_a_right_prediction_of_80_percent():
    # One article prints 0.316.
    loss = xent.cross_entropy(np.float32([1, 0]), np.float32([0.8, 0.2]))
    np.testing.assert_allclose(loss, 0.22314355, rtol=1e-6)
    loss = xent.binary_cross_entropy_from_probabilities(np.float32([0.8]), np.array([1]))
    np.testing.assert_allclose(loss, 0.22314355, rtol=1e-6)


def test_a_wrong_prediction_of_90_percent_is_not_negative():
    # Printed as -0.306; for one true class it is -log of a probability, hence at least 0.
    loss = xent.cross_entropy(np.float32([0, 1]), np.float32([0.9, 0.1]))
    np.testing.assert_allclose(loss, 2.3025851, rtol=1e-6)


def test_the_slope_with_respect_to_the_prediction():
    # d(-y log q)/dq = -y/q. The "-y/q + 1" of one article belongs to the generalised divergence.
    y, q = [0.7, 0.3], [0.8, 0.2]
    _, (_, slope) = value_and_gradients(xent.cross_entropy, y, q)
    np.testing.assert_allclose(slope, [-0.875, -1.5], rtol=1e-6)
    _, (_, slope) = value_and_gradients(
        lambda y, q: xent.generalized_kl_divergence(jnp.log(q), y), y, q
    )
    np.testing.assert_allclose(slope, [1 - 0.875, 1 - 1.5], rtol=1e-5)


def test_classes_are_summed_and_not_averaged():
    half = np.float32([0.5, 0.5])
    np.testing.assert_allclose(xent.cross_entropy(half, half), LOG2, rtol=1e-6)


def test_nothing_is_added_to_a_probability():
    # log(1e-20 + 1e-10) would be 23.03 with slope -1e10: off by half, and of no use.
    loss, (_, slope) = value_and_gradients(xent.cross_entropy, [1.0, 0.0], [1e-20, 1.0])
    np.testing.assert_allclose(loss, 46.0517, rtol=1e-6)
    np.testing.assert_allclose(slope, [-1e20, 0.0], rtol=1e-6)


def test_what_bounds_the_cross_entropy():
    rng = np.random.default_rng(0)
    p, q = (x.astype(np.float32) for x in two_distributions(rng, 100, 5))
    loss = xent.cross_entropy(p, q)
    assert np.all(loss >= xent.entropy(p) - 1e-6)
    assert np.all(loss <= -np.log(q.min(-1)) + 1e-6)
    assert np.any(np.abs(loss - xent.cross_entropy(q, p)) > 0.1)  # not symmetric


# ------------------------------------------------------------------ zeros

ONE, TWO, HALF, OTHER = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.25, 0.75]
LOG_HALF = float(np.log(0.5))


@pytest.mark.parametrize(
    ("function", "arguments", "value", "gradients"),
    [
        (xent.entropy, [ONE], 0.0, [[-1, 0]]),
        (xent.perplexity, [ONE], 1.0, [[-1, 0]]),
        (xent.cross_entropy, [ONE, HALF], LOG2, [[LOG2, LOG2], [-2, 0]]),
        (xent.cross_entropy, [ONE, ONE], 0.0, [[0, 0], [-1, 0]]),
        (xent.cross_entropy, [HALF, ONE], INF, [[0, 0], [-0.5, -INF]]),
        (xent.relative_entropy, [ONE, HALF], LOG2, [[LOG2 + 1, LOG2], [-2, 0]]),
        (xent.relative_entropy, [ONE, ONE], 0.0, [[1, 0], [-1, 0]]),
        (xent.relative_entropy, [HALF, ONE], INF, [[1 - LOG2, 1 - LOG2], [-0.5, -INF]]),
        (xent.kl_divergence, [[LOG_HALF] * 2, ONE], LOG2, [[-1, 0], [LOG2 + 1, LOG2]]),
        (xent.kl_divergence, [[0, -INF], ONE], 0.0, [[-1, 0], [1, 0]]),
        (xent.kl_divergence, [[0, -INF], HALF], INF, [[-0.5, -0.5], [1 - LOG2, 1 - LOG2]]),
        (
            xent.kl_divergence_with_log_targets,
            [[LOG_HALF] * 2, [0, -INF]],
            LOG2,
            [[-1, 0], [LOG2 + 1, 0]],
        ),
        (xent.kl_divergence_with_log_targets, [[0, -INF]] * 2, 0.0, [[-1, 0], [1, 0]]),
        (xent.generalized_kl_divergence, [[0, -INF], ONE], 0.0, [[0, 0], [0, -1]]),
        (xent.jensen_shannon_divergence, [ONE, TWO], LOG2, [[LOG2 / 2, (LOG2 - 1) / 2],
                                                            [(LOG2 - 1) / 2, LOG2 / 2]]),
        (xent.jensen_shannon_divergence, [ONE, ONE], 0.0, [[0, 0], [0, 0]]),
        (xent.total_variation, [ONE, TWO], 1.0, [[0.5, -0.5], [-0.5, 0.5]]),
    ],
)  # fmt: skip
def test_zeros(function, arguments, value, gradients):
    ours, slopes = value_and_gradients(function, *arguments)
    np.testing.assert_allclose(ours, value, rtol=1e-6)
    for slope, expected in zip(slopes, gradients, strict=True):
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0, INF])
def test_zeros_in_the_renyi_divergence(alpha):
    pairs = [(ONE, HALF), (ONE, ONE), (HALF, ONE), (ONE, TWO)]
    p, q = (np.float32(x) for x in zip(*pairs, strict=True))

    @jax.jit
    def divergences_and_gradients(p, q):
        def total(p, q):
            divergence = xent.renyi_divergence(p, q, alpha=alpha)
            return jnp.where(jnp.isinf(divergence), 0.0, divergence).sum(), divergence

        return jax.grad(total, (0, 1), has_aux=True)(p, q)

    gradients, divergence = divergences_and_gradients(p, q)
    covered = np.log(0.5**alpha) / (alpha - 1.0) if alpha < 1.0 else INF
    np.testing.assert_allclose(divergence, [LOG2, 0.0, covered, INF], rtol=1e-6, atol=1e-7)
    assert all(np.all(np.isfinite(x)) for x in gradients)


def test_a_table_with_empty_cells():
    table = np.float32([[0.5, 0.0], [0.25, 0.25]])
    information, (slope,) = value_and_gradients(xent.mutual_information, table)
    np.testing.assert_allclose(information, 1.5 * LOG2 - 0.75 * np.log(3.0), rtol=1e-6)
    product = table.sum(0) * table.sum(1, keepdims=True)
    expected = np.log(np.where(table > 0, table / np.e, 1.0 / np.e**2) / product)
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_a_teacher_whose_probabilities_underflow_can_be_trained():
    student = np.float32([[0.0, 1.0, 2.0]])
    teacher = np.float32([[0.0, 200.0, -200.0]])  # probabilities 0, 1 and 0 in float32

    @jax.jit
    @jax.grad
    def gradient(teacher):
        t = jax.nn.softmax(teacher)
        return xent.kl_divergence(jax.nn.log_softmax(student), t).sum() + xent.entropy(t).sum()

    np.testing.assert_allclose(gradient(teacher), np.zeros((1, 3)), atol=1e-30)


def test_forward_mode_at_zeros():
    primals = (jnp.float32([1.0, 0.0]), jnp.float32([1.0, 0.0]))
    still = (jnp.zeros(2), jnp.zeros(2))
    for function in (x_log_y, times, xent.cross_entropy, xent.relative_entropy):
        value, tangent = jax.jvp(function, primals, still)
        assert np.all(np.isfinite(value))
        assert np.all(tangent == 0)
    value, tangent = jax.jvp(times, (jnp.float32(0), jnp.float32(INF)), (jnp.float32(1),) * 2)
    assert (value, tangent) == (0, 0)


def test_nan_is_not_hidden_by_a_zero():
    good, bad = np.float32([0.0, 1.0]), np.float32([np.nan, 1.0])

    @jax.jit
    def values(good, bad):
        return {
            "kl": xent.kl_divergence(bad, good),
            "cross entropy": xent.cross_entropy(good, bad),
            "renyi": xent.renyi_divergence(bad, good, alpha=2.0),
            "tsallis": xent.tsallis_entropy(bad, q=2.0),
        }

    for name, value in values(good, bad).items():
        assert np.isnan(value), name


# ------------------------------------------------------------------ limits and identities


def test_renyi_divergence_of_every_order():
    p, q = two_distributions(np.random.default_rng(0), 1, 6)
    p, q = p[0], q[0]
    orders = np.array([0, 0.3, 0.4999, 0.5001, 0.9, 0.999, 1.001, 1.1, 1.4999, 1.5001, 2, 7, 60])
    with jax.enable_x64(True):
        ours, slopes = jax.jit(
            jax.vmap(jax.value_and_grad(lambda a: xent.renyi_divergence(p, q, alpha=a)))
        )(orders)
    np.testing.assert_allclose(ours, [textbook_renyi(p, q, a) for a in orders], 1e-9, 1e-12)
    step = 1e-4
    numeric = [
        (textbook_renyi(p, q, a + step) - textbook_renyi(p, q, a - step)) / (2 * step)
        for a in orders
    ]
    np.testing.assert_allclose(slopes, numeric, rtol=1e-6)
    assert np.all(np.diff(ours) > 0)


def test_orders_near_one():
    p, q = two_distributions(np.random.default_rng(1), 1, 6)
    p, q = p[0], q[0]
    ratio, log_p = np.log(p / q), np.log(p)
    kl, h = (p * ratio).sum(), -(p * log_p).sum()
    variance = (p * (ratio - kl) ** 2).sum()

    def gradients(p, q, order):
        renyi = jax.value_and_grad(lambda a: xent.renyi_divergence(p, q, alpha=a))
        tsallis = jax.value_and_grad(lambda a: xent.tsallis_entropy(p, q=a))
        return renyi(order), tsallis(order)

    with jax.enable_x64(True):
        renyi, tsallis = jax.jit(gradients)(p, q, 1.0)
    np.testing.assert_allclose(renyi, (kl, variance / 2), rtol=1e-12)
    np.testing.assert_allclose(tsallis, (h, -(p * log_p**2).sum() / 2), rtol=1e-12)
    # In float32 the plain quotients are off by 10 % here.
    renyi, tsallis = jax.jit(gradients)(np.float32(p), np.float32(q), np.float32(1.0 + 1e-6))
    np.testing.assert_allclose(renyi, (kl, variance / 2), rtol=1e-5)
    np.testing.assert_allclose(tsallis, (h, -(p * log_p**2).sum() / 2), rtol=1e-5)


def test_tsallis_entropy_counts_and_is_the_impurity():
    p = np.float32([0.5, 0.25, 0.25, 0.0])
    np.testing.assert_allclose(xent.tsallis_entropy(p, q=0.0), 2.0, rtol=1e-6)
    np.testing.assert_allclose(xent.tsallis_entropy(p, q=2.0), 1.0 - (p**2).sum(), rtol=1e-6)


@given(
    logits=hnp.arrays(np.float32, (2, 5), elements=st.floats(-80, 80, width=32)),
    weight=st.floats(0.0, 1.0, width=32),
)
def test_what_divergences_of_any_distributions_satisfy(logits, weight):
    p, q = softmax(logits)
    weights = np.float32([weight, 1.0 - weight])
    js = xent.jensen_shannon_divergence(p, q, weights=weights)
    kl, variation = xent.relative_entropy(p, q), xent.total_variation(p, q)
    assert -1e-6 <= js <= xent.entropy(weights) + 1e-6
    assert 0 <= variation <= 1 + 1e-6
    assert kl >= 2 * variation**2 - 1e-6  # Pinsker
    np.testing.assert_allclose(xent.cross_entropy(p, q), xent.entropy(p) + kl, rtol=1e-5, atol=1e-5)


def test_weights_of_the_mixture():
    one, two, three = np.eye(3, dtype=np.float32)
    weights = np.float32([0.5, 0.25, 0.25])
    js, slope = jax.jit(
        jax.value_and_grad(lambda w: xent.jensen_shannon_divergence(one, two, three, weights=w))
    )(weights)
    np.testing.assert_allclose(js, xent.entropy(weights), rtol=1e-6)
    np.testing.assert_allclose(slope, -np.log(weights) - 1.0, rtol=1e-6)


def test_masks_and_axes_of_the_optax_family():
    rng = np.random.default_rng(0)
    log_q, t = (rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(2))
    t = np.exp(t)
    terms = t * (np.log(t) - log_q)
    examples, elements = rng.uniform(size=(2, 3)) < 0.5, rng.uniform(size=(2, 3, 4)) < 0.5
    close = np.testing.assert_allclose
    close(xent.kl_divergence(log_q, t, None), terms.sum(), rtol=1e-5)
    close(xent.kl_divergence(log_q, t, (0, -1)), terms.sum((0, -1)), rtol=1e-5)
    close(xent.kl_divergence(log_q, t, -1, examples), terms.sum(-1) * examples, rtol=1e-5)
    close(xent.kl_divergence(log_q, t, -1, elements), (terms * elements).sum(-1), rtol=1e-5)
    dirty = np.where(elements, t, np.nan)
    close(xent.kl_divergence(log_q, dirty, -1, elements), (terms * elements).sum(-1), rtol=1e-5)


def digits(function, x: float, order: int) -> float:
    """Returns a derivative of a function of Decimals, by differences with 120 digits."""
    with decimal.localcontext(prec=120):
        step, x = decimal.Decimal(10) ** -25, decimal.Decimal(x) + decimal.Decimal(10) ** -45
        left, middle, right = (function(x + k * step) for k in (-1, 0, 1))
        derivatives = middle, (right - left) / (2 * step), (left - 2 * middle + right) / step**2
        return float(derivatives[order])


@pytest.mark.parametrize(
    ("ours", "exact"),
    [
        (relative_expm1, lambda x: (x.exp() - 1) / x),
        (relative_log1p, lambda x: (1 + x).ln() / x),
    ],
)
def test_quotients_through_zero(ours, exact):
    points = [-0.999, -0.25, -0.2499, -0.2, -0.1999, -1e-9, 0.0, 1e-5, 0.1999, 0.2, 0.25, 3.0]
    slope = jax.grad(ours)
    with jax.enable_x64(True):
        derivatives = jax.jit(jax.vmap(lambda x: (ours(x), slope(x), jax.grad(slope)(x))))(
            np.array(points)
        )
    for order, values in enumerate(derivatives):
        expected = [digits(exact, x, order) for x in points]
        np.testing.assert_allclose(values, expected, rtol=1e-13)


# ------------------------------------------------------------------ messages


def test_arguments_that_do_not_fit_are_told():
    p = np.float32([[0.5, 0.5], [0.1, 0.9]])
    with pytest.raises(TypeError, match=r"p.*(F|f)loat"):
        xent.entropy(p.astype(np.int32))
    with pytest.raises(ValueError, match=r"must have one shape, got p \(2, 2\), q \(2,\)"):
        xent.cross_entropy(p, p[0])
    with pytest.raises(ValueError, match=r"must have one shape, got log_predictions \(2, 2\)"):
        xent.kl_divergence(p, p[0])
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(2, 2\); a class leaves the sum"):
        xent.entropy(p, where=p > 0)
    with pytest.raises(ValueError, match=r"shape \(2,\) .* or \(2, 2\) .*, got \(3,\)"):
        xent.kl_divergence(p, p, where=np.ones(3, bool))
    with pytest.raises(TypeError, match=r"where.*(B|b)ool"):
        xent.kl_divergence(p, p, where=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="at least two distributions, got 1"):
        xent.jensen_shannon_divergence(p)
    with pytest.raises(ValueError, match=r"weights must have shape \(2,\), got \(3,\)"):
        xent.jensen_shannon_divergence(p, p, weights=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="weights must be at least 0 and sum to 1"):
        xent.jensen_shannon_divergence(p, p, weights=np.ones(2, np.float32))
