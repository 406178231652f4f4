"""Theory of the sparse maps and their losses, ties, and logits of any size."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xent_jax as xent

INF = np.inf
# Each map with its loss and order. `entmax` of order 1.01 is nearly softmax, of 3 beyond sparsemax.
PAIRS = {
    "sparsemax": (xent.sparsemax, xent.multiclass_sparsemax_loss, 2.0),
    "entmax15": (xent.entmax15, xent.entmax15_loss, 1.5),
} | {
    f"entmax {alpha}": (
        functools.partial(xent.entmax, alpha=alpha),
        functools.partial(xent.entmax_loss, alpha=alpha),
        alpha,
    )
    for alpha in (1.0, 1.01, 1.3, 3.0)
}
over_pairs = pytest.mark.parametrize("name", PAIRS)


@functools.cache
def compiled(name):
    """Returns (logits, targets) -> p, loss, gradient, Jacobian times the targets."""
    to_simplex, loss, _ = PAIRS[name]

    @jax.jit
    def everything(logits, targets):
        p, moved = jax.jvp(to_simplex, (logits,), (targets,))
        value, pullback = jax.vjp(lambda z: loss(z, targets), logits)
        return p, value, pullback(jnp.ones_like(value))[0], moved

    return everything


def projection_onto_the_simplex(z):
    """Returns the closest point of the simplex, by trying every support."""
    best, best_distance = z, INF
    for size in range(1, len(z) + 1):
        for support in itertools.combinations(range(len(z)), size):
            p = np.zeros(len(z))
            inside = z[list(support)]
            p[list(support)] = inside + (1.0 - inside.sum()) / size
            distance = ((p - z) ** 2).sum()
            if p.min() >= 0 and distance < best_distance:
                best, best_distance = p, distance
    return best


@given(logits=hnp.arrays(np.float32, (6, 5), elements=st.floats(-3, 3, width=32)))
def test_sparsemax_is_the_projection_onto_the_simplex(logits):
    targets = np.full(logits.shape, 0.2, np.float32)
    p, *_ = compiled("sparsemax")(logits, targets)
    np.testing.assert_allclose(p, [projection_onto_the_simplex(z) for z in logits], atol=1e-6)


@over_pairs
@given(
    logits=hnp.arrays(np.float32, (6, 5), elements=st.floats(-30, 30, width=32)),
    others=hnp.arrays(np.float32, (6, 5), elements=st.floats(-3, 3, width=32)),
)
def test_fenchel_young_losses(name, logits, others):
    targets = np.asarray(compiled(name)(others, others)[0])
    p, loss, gradient, moved = compiled(name)(logits, targets)
    rounding = 1e-5
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-5)
    assert np.all(p >= 0)
    assert np.all(loss >= -rounding)
    np.testing.assert_allclose(gradient, p - targets, atol=1e-6)
    assert np.all(moved[np.asarray(p) == 0] == 0)  # the Jacobian is as sparse as the map
    assert np.all(np.isfinite(moved))
    # Zero where the prediction is the target, and above where it is not.
    *_, none, still, _ = compiled(name)(others, targets)
    np.testing.assert_allclose(none, 0.0, atol=rounding)
    np.testing.assert_allclose(still, 0.0, atol=1e-6)
    # Omega is strongly convex with constant 1 in the 2-norm for orders up to 2.
    if PAIRS[name][2] <= 2:
        assert np.all(loss >= 0.5 * ((p - targets) ** 2).sum(-1) - rounding)


@over_pairs
def test_keeps_the_order_and_a_constant_added_to_the_logits(name):
    for seed in range(4):
        logits = np.float32(np.random.default_rng(seed).integers(-8, 8, size=(6, 5)) / 4)
        p, loss, *_ = compiled(name)(logits, np.float32(np.eye(5)[[0] * 6]))
        shifted, same, *_ = compiled(name)(logits + 512, np.float32(np.eye(5)[[0] * 6]))
        np.testing.assert_array_equal(p, shifted)
        np.testing.assert_allclose(loss, same, rtol=1e-6)
        order = np.argsort(logits, axis=-1)
        assert np.all(np.diff(np.take_along_axis(np.asarray(p), order, -1), axis=-1) >= 0)


@over_pairs
def test_ties_are_exact(name):
    rows = [[3] * 5, [3, 3, 3, 3, -INF], [2, 2, -9e4, -INF, -INF], [7, 0, -9e4, -INF, -INF]]
    threes = [[1e4, 1e4, 1e4, -1e4, -1e4], [0, 0, 0, -INF, -INF]]
    p, *_ = compiled(name)(np.float32(rows + threes), np.float32(np.eye(5)[[0] * 6]))
    expected = [[1 / 5] * 5, [1 / 4] * 4 + [0], [0.5, 0.5, 0, 0, 0]]
    np.testing.assert_allclose(p[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(p[4:], [[1 / 3, 1 / 3, 1 / 3, 0, 0]] * 2, rtol=1e-6)
    assert np.all(np.ptp(np.asarray(p)[4:, :3], axis=-1) == 0)


@over_pairs
def test_logits_of_any_size(name):
    logits = [[1e4, -1e4, 0, 0, 0], [1e30, 0, -1e30, 0, 0], [-INF, -INF, 5, -INF, -INF]]
    logits += [[-1e30, -1e30, -1e30, 5, -INF], [0, 0, 0, 0, 1e20], [-INF] * 5]
    targets = np.float32(np.eye(5)[[1, 0, 2, 3, 4, 0]])
    p, loss, gradient, moved = (np.asarray(x) for x in compiled(name)(np.float32(logits), targets))
    np.testing.assert_array_equal(p[:5], np.eye(5)[[0, 0, 2, 3, 4]])
    np.testing.assert_allclose(loss[:5], [2e4, 0, 0, 0, 0])
    np.testing.assert_array_equal(gradient[:5], (p - targets)[:5])
    assert np.all(np.isfinite(moved[:5]))
    for array in (p, loss, gradient):
        assert np.all(np.isnan(array[5]))


@over_pairs
def test_exactly_zero_from_the_margin_on(name):
    _, loss, alpha = PAIRS[name]
    if alpha < 1.1:
        pytest.skip("softmax has no margin")
    margin = 1.0 / (alpha - 1.0)
    leads = np.float32([margin - 0.1, margin + 1e-3, margin + 5])
    logits = np.stack([leads, 0 * leads, 0 * leads - 1], -1)
    losses = np.asarray(jax.jit(loss)(logits, np.zeros(3, np.int32)))
    np.testing.assert_array_equal(losses > 1e-9, [True, False, False])
    np.testing.assert_array_equal(losses[1:], 0)


def test_the_temperature_of_the_order():
    """Sparser as the order grows; softmax at 1 with its slope, by differences in float64."""
    logits = np.random.default_rng(1).normal(size=(4, 30))
    with jax.enable_x64(True):
        at = jax.jit(lambda alpha: xent.entmax(logits, alpha=alpha))
        slope = jax.jit(jax.jacfwd(lambda alpha: xent.entmax(logits, alpha=alpha)))
        orders = np.array([1.0, 1.2, 1.5, 2.0, 4.0])
        supports = np.array([(at(alpha) > 0).sum(-1) for alpha in orders])
        assert np.all(np.diff(supports, axis=0) <= 0)
        assert np.all(supports[0] == 30)
        assert np.all(supports[-1] < 10)
        step = 1e-4
        for alpha, points, weights in (
            (1.0, (0, 1, 2, 3), (-11 / 6, 3, -3 / 2, 1 / 3)),  # one-sided, as no order is below 1
            (1.25, (-2, -1, 1, 2), (1 / 12, -2 / 3, 2 / 3, -1 / 12)),
        ):
            numeric = sum(w * at(alpha + k * step) for k, w in zip(points, weights, strict=True))
            np.testing.assert_allclose(slope(alpha), numeric / step, atol=1e-8)
        np.testing.assert_allclose(at(1.0), jax.nn.softmax(logits), rtol=1e-12)
        np.testing.assert_allclose(at(1.0 + 1e-9), jax.nn.softmax(logits), rtol=1e-6)


def test_slope_of_entmax_loss_in_its_order_at_softmax():
    logits = np.random.default_rng(2).normal(size=(4, 5))
    labels = np.arange(4)
    with jax.enable_x64(True):
        loss = jax.jit(lambda alpha: xent.entmax_loss(logits, labels, alpha=alpha))
        slope = jax.jit(jax.jacfwd(lambda alpha: xent.entmax_loss(logits, labels, alpha=alpha)))
        step = 1e-4
        values = [loss(1.0 + k * step) for k in range(4)]
        numeric = (-11 / 6 * values[0] + 3 * values[1] - 1.5 * values[2] + values[3] / 3) / step
        np.testing.assert_allclose(slope(1.0), numeric, atol=1e-8)


def test_masks_axes_and_maps():
    logits = np.float32(np.random.default_rng(3).normal(size=(4, 3, 5)))
    where = np.random.default_rng(4).uniform(size=(4, 5)) < 0.5
    dirty = np.where(where[:, None, :], logits, np.nan)

    for to_simplex in (xent.sparsemax, xent.entmax15, xent.entmax):

        @jax.jit
        def everything(logits, dirty, to_simplex=to_simplex):
            def weighted(z):
                p = to_simplex(z, where=where, axis=1)
                return (p * jnp.cos(logits)).sum(), p

            plain = to_simplex(jnp.moveaxis(logits, 1, -1)), to_simplex(logits)
            edges = to_simplex(logits[:0, 0]), to_simplex(logits[:1, 0, :1])
            rows = jax.vmap(jax.vmap(to_simplex))(logits)
            return plain, jax.grad(weighted, has_aux=True)(dirty), rows, edges

        plain, (gradient, p), rows, edges = jax.tree.map(np.asarray, everything(logits, dirty))
        expected = np.moveaxis(plain[0], -1, 1)
        np.testing.assert_allclose(p, np.where(where[:, None, :], expected, 0.0), rtol=1e-6)
        assert np.all(gradient[~np.broadcast_to(where[:, None, :], dirty.shape)] == 0)
        assert np.all(np.isfinite(gradient))
        np.testing.assert_allclose(rows, plain[1], rtol=1e-5, atol=1e-7)
        assert edges[0].shape == (0, 5)
        np.testing.assert_array_equal(edges[1], [[1.0]])
    with pytest.raises(ValueError, match="one boolean per example"):
        xent.sparsemax(logits, where=where)


def test_one_order_per_head():
    logits = np.float32(np.random.default_rng(5).normal(size=(3, 6)))
    orders = np.float32([1.0, 1.5, 2.0])

    @jax.jit
    def both(logits, orders):
        p = jax.vmap(lambda z, alpha: xent.entmax(z, alpha=alpha))(logits, orders)
        return p, [jax.nn.softmax(logits[0]), xent.entmax15(logits[1]), xent.sparsemax(logits[2])]

    p, expected = both(logits, orders)
    np.testing.assert_allclose(p, np.stack(expected), rtol=1e-5, atol=1e-7)


def test_targets_that_hold_zeros_have_finite_slopes():
    logits, targets = np.float32([[0.3, -1.0, -INF]]), np.float32([[1.0, 0.0, 0.0]])
    of_order = functools.partial(xent.entmax_loss, alpha=1.5)
    losses = xent.multiclass_sparsemax_loss, xent.entmax15_loss, xent.entmax_loss, of_order

    @jax.jit
    def derivatives(targets):
        return [jax.grad(lambda t, loss=loss: loss(logits, t).sum())(targets) for loss in losses]

    slopes = derivatives(targets)
    assert np.all(np.isfinite(slopes))
    # d Omega(t) / dt_k = (alpha t^(alpha - 1) - 1) / (alpha (alpha - 1)), less the logit.
    np.testing.assert_allclose(slopes[-1][0, :2], [2 / 3 - 0.3, -4 / 3 + 1.0], rtol=1e-5)


def test_one_class_label_is_its_one_hot_distribution():
    logits = np.float32(np.random.default_rng(6).normal(size=(5, 4)))
    labels = np.array([0, 1, 2, 3, 0])
    for loss in (xent.multiclass_sparsemax_loss, xent.entmax15_loss, xent.entmax_loss):
        np.testing.assert_array_equal(
            jax.jit(loss)(logits, labels),
            jax.jit(loss)(logits, np.eye(4, dtype=np.float32)[labels]),
        )


def test_two_classes_are_the_binary_loss():
    logits, labels = np.float32([-3.0, -0.5, 0.0, 0.7, 2.0]), np.array([0, 1, 1, 0, 1])
    pairs = np.stack([0 * logits, logits], -1)
    binary = jax.jit(xent.sparsemax_loss)(logits, labels)
    multiclass = jax.jit(xent.multiclass_sparsemax_loss)(pairs, labels)
    np.testing.assert_allclose(binary, multiclass, atol=1e-6)


def test_binary_losses_of_infinite_outputs():
    outputs, sides = np.float32([INF, -INF, INF, -INF]), np.array([1, -1, -1, 1])

    @jax.jit
    def values_and_gradients(outputs):
        losses = (
            lambda z: xent.hinge_loss(z, sides),
            lambda z: xent.perceptron_loss(z, sides),
            lambda z: xent.sparsemax_loss(z, sides > 0),
        )
        return [(loss(outputs), jax.grad(lambda z, f=loss: f(z).sum())(outputs)) for loss in losses]

    for value, gradient in values_and_gradients(outputs):
        np.testing.assert_array_equal(value, [0, 0, INF, INF])
        assert not np.any(np.isnan(gradient))


def test_sides_that_are_none_give_nan():
    outputs, sides = np.float32([0.5, 0.5]), np.array([3, -1])
    loss = np.asarray(jax.jit(xent.hinge_loss)(outputs, sides))
    assert np.isnan(loss[0])
    assert math.isclose(loss[1], 1.5)


def test_agrees_with_optax():
    losses = pytest.importorskip("optax").losses
    logits = np.float32(2 * np.random.default_rng(7).normal(size=(20, 5)))
    labels = np.random.default_rng(8).integers(0, 5, 20)
    sides = np.where(labels > 2, 1, -1)
    scores = logits[:, 0]

    @functools.partial(jax.jit, static_argnums=0)
    def values(of, logits, labels, scores, sides):
        return [
            of.multiclass_sparsemax_loss(logits, labels),
            of.multiclass_perceptron_loss(logits, labels),
            of.sparsemax_loss(scores, labels > 2),
            of.hinge_loss(scores, sides),
            of.perceptron_loss(scores, sides),
        ]

    with jax.numpy_dtype_promotion("standard"):
        theirs = values(losses, logits, labels, scores, sides)
    for mine, other in zip(values(xent, logits, labels, scores, sides), theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
