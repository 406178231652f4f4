"""What the matrix does not see: saturation, infinite logits, labels of every kind, sets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xent_jax as xent
from tests.losses.cases.row import class_counts, sigmoid

INF = np.inf

ELEMENT_LOSSES = [
    xent.sigmoid_binary_cross_entropy,
    functools.partial(xent.sigmoid_binary_cross_entropy, pos_weight=3.0, label_smoothing=0.1),
    functools.partial(xent.sigmoid_focal_loss, gamma=0.5),
    functools.partial(xent.sigmoid_focal_loss, gamma=0.0, alpha=None),
    functools.partial(xent.sigmoid_focal_loss, gamma=2.0, alpha=1.0),
    xent.asymmetric_loss,
    functools.partial(xent.asymmetric_loss, gamma_negative=0.5, gamma_positive=0.5, clip=0.0),
    functools.partial(
        xent.distribution_balanced, class_counts=np.array([90, 5]), num_examples=100, gamma=0.5
    ),
]
SET_LOSSES = [
    xent.binary_dice_loss,
    functools.partial(xent.tversky, alpha=0.3, beta=0.7, smooth=0.0),
    xent.lovasz_hinge,
]
over_elements = pytest.mark.parametrize("loss", ELEMENT_LOSSES)
over_sets = pytest.mark.parametrize("loss", SET_LOSSES)


def loss_and_gradient(loss, logits, labels, **keywords):
    def total(logits):
        value = loss(logits, labels, **keywords)
        return value.sum(), value

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(logits)
    return value, gradient


# ------------------------------------------------------------------ numbers articles get wrong


def test_the_slopes():
    probabilities, ones = np.float32([0.3, 0.8]), np.ones(2, np.int32)
    _, slope = loss_and_gradient(xent.binary_cross_entropy_from_probabilities, probabilities, ones)
    np.testing.assert_allclose(slope, [-1 / 0.3, -1.25], rtol=1e-6)
    logits, labels = np.float32([-2.0, 0.0, 3.0, 3.0]), np.array([1, 0, 1, 0])
    _, gradient = loss_and_gradient(xent.sigmoid_binary_cross_entropy, logits, labels)
    np.testing.assert_allclose(gradient, sigmoid(logits) - labels, rtol=1e-6)


def test_nothing_is_clipped():
    # PyTorch's BCELoss stops at 100, Keras at 16.1 with gradient 0.
    p, y = np.float32([1e-30, 1e-30, 1.0, 0.0]), np.array([1, 0, 1, 0])
    loss, gradient = loss_and_gradient(xent.binary_cross_entropy_from_probabilities, p, y)
    np.testing.assert_allclose(loss, [69.077553, 1e-30, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [-1e30, 1, -1, 1], rtol=1e-6)
    loss, gradient = loss_and_gradient(
        xent.binary_cross_entropy_from_probabilities, np.float32([0.0, 1.0]), np.array([1, 0])
    )
    np.testing.assert_array_equal(loss, [INF, INF])
    np.testing.assert_array_equal(gradient, [-INF, INF])


# ------------------------------------------------------------------ saturation

SURE = np.array([0.0, 5.0, -5.0, 17.0, -17.0, 60.0, -60.0, 88.0, 90.0, -90.0, 1e4, -1e4])


def focal_by_hand(t, gamma):
    """Returns the focal loss of margin t, its first two derivatives, and its slope in gamma."""
    s, p, r = np.logaddexp(0, -t), sigmoid(t), sigmoid(-t)
    power = np.exp(-gamma * np.logaddexp(0, t))
    first = -power * (gamma * p * s + r)
    second = power * (gamma**2 * p**2 * s + (2 - s) * gamma * p * r + p * r)
    return power * s, first, second, -np.logaddexp(0, t) * power * s


@jax.jit
@functools.partial(jnp.vectorize, excluded={2})
def focal_derivatives(z, y, gamma):
    loss = functools.partial(xent.sigmoid_focal_loss, alpha=None)
    slope = jax.grad(lambda z: loss(z, y, gamma=gamma))
    in_gamma = jax.grad(lambda gamma: loss(z, y, gamma=gamma))(gamma)
    return loss(z, y, gamma=gamma), slope(z), jax.grad(slope)(z), in_gamma


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_however_sure_the_prediction(gamma):
    labels = np.array([[0], [1]])
    logits = np.stack([-SURE, SURE])
    with np.errstate(over="ignore"):
        expected = focal_by_hand(SURE, gamma)
    labels = np.broadcast_to(labels, logits.shape)
    ours = focal_derivatives(np.float32(logits), labels, np.float32(gamma))
    for order, (values, exact) in enumerate(zip(ours, expected, strict=True)):
        signs = [-1, 1] if order == 1 else [1, 1]
        rounding = 1e-7 if order < 2 else 5e-6  # of 1 - p, times a loss of 17
        for row, sign in zip(values, signs, strict=True):
            np.testing.assert_allclose(sign * row, exact, rtol=2e-5, atol=rounding)


def test_slopes_of_labels_that_are_exactly_0_or_1():
    z, y, gamma = 3.0, np.array([0.0, 1.0]), 0.5

    def textbook(y):
        p = sigmoid(z)
        return (y * (1 - p) + (1 - y) * p) ** gamma * (-y * np.log(p) - (1 - y) * np.log(1 - p))

    loss = functools.partial(xent.sigmoid_focal_loss, alpha=None, gamma=gamma)
    slopes = jax.jit(jax.grad(lambda y: loss(jnp.full(2, z), y).sum()))
    ours = slopes(np.float32(y))
    step = 1e-5
    expected = (textbook(y + step) - textbook(y - step)) / (2 * step)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@over_elements
def test_extreme_logits(loss):
    logits = np.float32([[1e4, -1e4], [1e4, -1e4], [0, 0], [INF, -INF], [INF, -INF]])
    labels = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0, 1]])

    @jax.jit
    def everything(logits, labels):
        def total(logits, labels):
            value = loss(logits, labels)
            return jnp.where(jnp.isinf(value), 0.0, value).sum(), value

        (slopes, in_labels), value = jax.grad(total, (0, 1), has_aux=True)(logits, labels)
        still = (jnp.zeros_like(logits), jnp.zeros_like(labels))
        return value, slopes, in_labels, jax.jvp(loss, (logits, labels), still)[1]

    value, slopes, in_labels, tangent = everything(logits, np.float32(labels))
    assert not np.any(np.isnan(value))
    assert np.all(value >= 0)
    assert np.all(np.isfinite(slopes))
    assert np.all(np.isfinite(in_labels))
    assert np.all(tangent == 0)
    assert np.all(value[3] == 0)  # infinitely right
    assert np.all(slopes[3] == 0)
    assert np.all(np.isfinite(value[:3]))


def test_infinitely_wrong():
    logits, labels = np.float32([INF, -INF, -INF]), np.float32([0, 1, 0.3])
    loss, gradient = loss_and_gradient(xent.sigmoid_binary_cross_entropy, logits, labels)
    np.testing.assert_array_equal(loss, [INF, INF, INF])
    np.testing.assert_allclose(gradient, [1.0, -1.0, -0.3], rtol=1e-6)


def test_infinite_logits_are_not_smoothed():
    logits, labels = np.float32([INF, -INF, 2.0]), np.array([1, 0, 1])
    loss, gradient = loss_and_gradient(
        xent.sigmoid_binary_cross_entropy, logits, labels, label_smoothing=0.2
    )
    p = sigmoid(2.0)
    np.testing.assert_allclose(loss, [0, 0, -0.9 * np.log(p) - 0.1 * np.log(1 - p)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [0, 0, p - 0.9], rtol=1e-5)


@given(
    logits=hnp.arrays(np.float32, (6, 2), elements=st.floats(-200, 200, width=32)),
    labels=hnp.arrays(np.float32, (6, 2), elements=st.floats(0, 1, width=32)),
)
@over_elements
def test_any_logits_and_labels(loss, logits, labels):
    value, gradient = compiled(loss)(logits, labels)
    assert np.all(np.isfinite(value) & (value >= 0))
    assert np.all(np.isfinite(gradient))


@functools.cache
def compiled(loss):
    return jax.jit(functools.partial(loss_and_gradient, loss))


# ------------------------------------------------------------------ labels


@over_elements
def test_labels_of_any_dtype(loss):
    logits, labels = np.float32([[0.5, -1.0], [2.0, 0.0]]), np.array([[1, 0], [0, 1]])
    dtypes = (np.int32, np.bool_, np.int8, np.float32, np.float16)
    values = jax.jit(lambda every: [loss(logits, x) for x in every])(
        [labels.astype(dtype) for dtype in dtypes]
    )
    for value in values[1:]:
        np.testing.assert_array_equal(value, values[0])


@over_elements
def test_labels_outside_the_unit_interval_give_nan_and_a_nan_gradient(loss):
    labels = np.float32([[-1, 1], [2, 0], [np.nan, 0.5], [1.0005, 0], [1, -0.0005]])
    value, gradient = loss_and_gradient(loss, np.ones_like(labels), labels)
    # The others of an example stay, but where a loss weighs its labels against one another.
    np.testing.assert_array_equal(np.isnan(value[:, 0]), [True, True, True, False, False])
    np.testing.assert_array_equal(np.isnan(gradient[:, 0]), [True, True, True, False, False])
    assert np.all(np.isfinite(value[:, 1]))
    assert np.all(np.isfinite(gradient[:, 1]))
    rounded = jax.jit(loss)(np.ones((2, 2), np.float32), np.array([[1, 0], [1, 0]]))
    np.testing.assert_array_equal(value[3:], rounded)


def test_labels_below_zero_and_of_integer_type():
    labels = np.array([[-1, 1], [0, 2]])
    value = xent.sigmoid_binary_cross_entropy(np.ones((2, 2), np.float32), labels)
    np.testing.assert_array_equal(np.isnan(value), [[True, False], [False, True]])
    value, gradient = loss_and_gradient(xent.zlpr_multilabel, np.ones((2, 2), np.float32), labels)
    assert np.all(np.isnan(value))
    assert np.all(np.isnan(gradient))


def test_probabilities_outside_the_unit_interval():
    logits, labels = np.float32([0.5, 3.0, -1.0]), np.array([1, 1, 0])
    with pytest.raises(ValueError, match="logits go to sigmoid_binary_cross_entropy"):
        xent.binary_cross_entropy_from_probabilities(logits, labels)
    loss, gradient = loss_and_gradient(xent.binary_cross_entropy_from_probabilities, logits, labels)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, True])
    np.testing.assert_array_equal(np.isnan(gradient), [False, True, True])


# ------------------------------------------------------------------ options


def test_one_positive_weight_per_class():
    logits, labels = np.float32([[1.0, -1.0], [0.0, 2.0]]), np.array([[1, 0], [1, 1]])
    both = xent.sigmoid_binary_cross_entropy(logits, labels, pos_weight=np.float32([2.0, 5.0]))
    for column, weight in enumerate([2.0, 5.0]):
        one = xent.sigmoid_binary_cross_entropy(logits, labels, pos_weight=weight)
        np.testing.assert_array_equal(both[:, column], one[:, column])


def test_negatives_below_the_margin_are_ignored():
    margin = np.log(0.05 / 0.95)
    logits = np.float32([-50.0, margin - 0.01, margin + 0.01, 50.0])
    loss, gradient = loss_and_gradient(
        functools.partial(xent.asymmetric_loss, gamma_negative=0.0), logits, np.zeros(4, np.int32)
    )
    np.testing.assert_array_equal(loss[:2], [0, 0])
    np.testing.assert_array_equal(gradient[:2], [0, 0])
    assert 0 < loss[2] < 1e-3
    np.testing.assert_allclose(loss[3], -np.log(0.05), rtol=1e-6)
    assert gradient[3] < 1e-18


def test_slope_of_the_margin_where_there_is_none():
    def loss(clip, z):
        return xent.asymmetric_loss(z, jnp.int32(0), gamma_negative=0.0, clip=clip)

    slopes = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(np.float32(0.0), np.float32([-2.0, 3.0]))
    np.testing.assert_allclose(slopes, [-1 - np.exp(-2.0), -1 - np.exp(3.0)], rtol=1e-5)


def test_weights_of_the_distribution_balanced_loss():
    counts = {"class_counts": np.array([90, 5]), "num_examples": 100}
    plain = {"negative_scale": 1.0, "kappa": 0.0}
    logits = np.zeros((4, 2), np.float32)
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    where = np.array([[True, True], [True, True], [True, True], [True, False]])
    balanced = functools.partial(xent.distribution_balanced, **counts, **plain)
    loss = jax.jit(balanced)(logits, labels, where=where)
    rare, both = 18 / 1, 1 / 18  # (1 / 5) / (1 / 90), and the other way round
    rates = np.array([[INF, INF], [1, rare], [both, 1], [1, -INF]])
    with np.errstate(over="ignore"):
        expected = (0.1 + sigmoid(10.0 * (rates - 0.2))) * np.log(2.0)
    np.testing.assert_allclose(loss, np.where(where, expected, 0.0), rtol=1e-5)


def test_negatives_of_rare_classes_stop_pushing():
    counts = {"class_counts": np.array([50]), "num_examples": 100}
    logits, labels = np.float32([[-3.0]]), np.array([[0]])
    _, scaled = loss_and_gradient(xent.distribution_balanced, logits, labels, **counts)
    np.testing.assert_allclose(scaled, [[1.1 * sigmoid(-6.0)]], rtol=1e-5)


# ------------------------------------------------------------------ ZLPR


def test_zlpr_of_extreme_logits():
    logits = np.float32(
        [[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-INF, 1.0, 2.0], [-INF, 1.0, 2.0], [INF, 1.0, -2.0]]
    )
    labels = np.float32([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    loss, gradient = loss_and_gradient(xent.zlpr_multilabel, logits, labels)
    two, tail = np.log1p(np.exp(2.0)), np.log1p(np.exp(1.0) + np.exp(2.0))
    expected = [np.log(2.0), 2e4, np.log1p(np.exp(-1.0)) + two, INF]
    np.testing.assert_allclose(loss[:4], expected, rtol=1e-6)
    np.testing.assert_allclose(loss[4], np.log1p(np.exp(1.0) + np.exp(-2.0)), rtol=1e-6)
    share = np.exp([1.0, 2.0]) / np.exp(tail)
    rows = [
        [0, 0, 0.5],
        [1, -1, 0],
        [0, -sigmoid(-1.0), sigmoid(2.0)],
        [-1, *share],
        [0, *np.exp([1.0, -2.0]) / (1 + np.exp(1.0) + np.exp(-2.0))],
    ]
    np.testing.assert_allclose(gradient, rows, rtol=1e-5, atol=1e-7)
    still = (jnp.zeros_like(logits), jnp.zeros_like(labels))
    _, tangent = jax.jit(functools.partial(jax.jvp, xent.zlpr_multilabel))((logits, labels), still)
    assert np.all(tangent == 0)


def test_zlpr_has_a_hessian():
    logits, labels = jnp.float32([2.0, -1.0, 3.0, 0.5]), jnp.array([1, 0, 0, 1])

    def naive(z):
        positive, negative = labels.astype(z.dtype), 1.0 - labels.astype(z.dtype)
        positive = jnp.log(1.0 + jnp.sum(positive * jnp.exp(-z)))
        return positive + jnp.log(1.0 + jnp.sum(negative * jnp.exp(z)))

    @jax.jit
    def hessians(logits):
        return jax.hessian(lambda z: xent.zlpr_multilabel(z, labels))(logits), jax.hessian(naive)(
            logits
        )

    np.testing.assert_allclose(*hessians(logits), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ sets


def draw_sets(sets=3, elements=(2, 5), seed=0):
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.normal(size=(sets, *elements)).astype(np.float32)
    return logits, rng.integers(0, 2, (sets, *elements))


@over_sets
def test_masked_elements_of_sets_are_as_if_they_were_not_there(loss):
    logits, labels = draw_sets(sets=2, elements=(6,))
    where = np.array([[True, False, True, True, False, True]] * 2)
    expected, expected_gradient = loss_and_gradient(loss, logits[:, where[0]], labels[:, where[0]])
    dirty, wrong = np.where(where, logits, np.nan), np.where(where, labels, -7)
    dirty[0, 1], dirty[0, 4] = INF, -INF
    value, gradient = compiled(loss)(dirty, wrong, where=where)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, where[0]], expected_gradient, rtol=1e-5, atol=1e-7)
    assert np.all(gradient[~where] == 0)
    value, gradient = compiled(loss)(dirty, wrong, where=np.zeros_like(where))
    assert np.all(value == 0)
    assert np.all(gradient == 0)


@over_sets
def test_sets_of_any_size_apart_and_together(loss):
    logits, labels = draw_sets()

    @jax.jit
    def all_sizes(logits, labels):
        together = loss(logits, labels)
        apart = jax.vmap(lambda z, y: loss(z[None], y[None])[0])(logits, labels)
        return together, apart, loss(logits[:0], labels[:0]), loss(logits[:, :0], labels[:, :0])

    together, apart, no_set, empty_sets = all_sizes(logits, labels)
    assert together.shape == (3,)
    np.testing.assert_allclose(apart, together, rtol=1e-6)
    assert no_set.shape == (0,)
    np.testing.assert_array_equal(empty_sets, np.zeros(3))


@over_sets
def test_a_wrong_label_spoils_its_set_alone(loss):
    logits, labels = draw_sets()
    labels[1, 0, 0] = -1
    value, gradient = loss_and_gradient(loss, logits, labels)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False])
    assert np.all(np.isnan(gradient[1]).any())
    assert np.all(np.isfinite(gradient[::2]))


@over_sets
def test_sets_of_extreme_logits(loss):
    logits = np.float32([[1e4, -1e4], [1e4, -1e4], [INF, -INF]])
    labels = np.array([[1, 0], [0, 1], [1, 0]])
    value, gradient = loss_and_gradient(loss, logits, labels)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(value[::2], 0.0, atol=1e-6)


def test_masked_examples_of_the_lovasz_softmax():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 6, 3)).astype(np.float32)
    labels, where = (
        rng.integers(0, 3, (2, 6)),
        np.array([[True, False, True, True, False, True]] * 2),
    )
    expected, expected_gradient = loss_and_gradient(
        xent.lovasz_softmax, logits[:, where[0]], labels[:, where[0]]
    )
    dirty, wrong = np.where(where[..., None], logits, np.nan), np.where(where, labels, -7)
    value, gradient = compiled(xent.lovasz_softmax)(dirty, wrong, where=where)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, where[0]], expected_gradient, rtol=1e-5, atol=1e-7)
    assert np.all(gradient[~where] == 0)
    value, gradient = compiled(xent.lovasz_softmax)(dirty, wrong, where=np.zeros_like(where))
    assert np.all(value == 0)
    assert np.all(gradient == 0)
    value, gradient = loss_and_gradient(
        xent.lovasz_softmax, logits, np.stack([wrong[0], labels[1]])
    )
    np.testing.assert_array_equal(np.isnan(value), [True, False])
    assert np.all(np.isfinite(gradient[1]))


def test_lovasz_softmax_at_the_corners_is_the_mean_jaccard_loss():
    truth = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    guess = np.array([[0, 1, 1, 1, 2], [1, 1, 0, 0, 1]])
    logits = 1e4 * np.eye(3, dtype=np.float32)[guess]
    present, everything, channels = jax.jit(
        lambda logits: (
            xent.lovasz_softmax(logits, truth),
            xent.lovasz_softmax(logits, truth, only_present=False),
            xent.lovasz_softmax(jnp.moveaxis(logits, -1, 1), truth, axis=1),
        )
    )(logits)
    np.testing.assert_allclose(present, [1 - (1 / 2 + 2 / 4) / 2, 1 - 3 / 5], rtol=1e-6)
    jaccard = [(1 / 2 + 2 / 4 + 0) / 3, (0 + 3 / 5 + 1) / 3]  # a class that is nowhere is right
    np.testing.assert_allclose(everything, 1 - np.array(jaccard), rtol=1e-6)
    np.testing.assert_array_equal(channels, present)


def test_lovasz_softmax_of_impossible_classes():
    logits = np.float32([[[1.0, -INF, 0.0], [0.0, -INF, 2.0]]])
    value, gradient = loss_and_gradient(xent.lovasz_softmax, logits, np.array([[0, 2]]))
    expected, _ = loss_and_gradient(xent.lovasz_softmax, logits[..., ::2], np.array([[0, 1]]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.all(gradient[..., 1] == 0)
    assert np.all(np.isfinite(gradient))


def test_lovasz_hinge_of_a_large_image():
    # Differences of neighbouring Jaccard indices would keep one digit in float32 here.
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=200_000).astype(np.float32), rng.integers(0, 2, 200_000)
    errors = 1.0 - logits * (2.0 * labels - 1.0)
    order = np.argsort(-errors)
    truth = labels[order]
    jaccard = 1.0 - (truth.sum() - np.cumsum(truth)) / (truth.sum() + np.cumsum(1.0 - truth))
    increments = np.diff(jaccard, prepend=0.0)
    expected = (np.maximum(errors[order], 0.0) * increments).sum()
    gradient = np.zeros(len(labels))
    gradient[order] = np.where(errors[order] > 0, increments * (1 - 2 * truth), 0.0)
    value, ours = loss_and_gradient(xent.lovasz_hinge, logits[None], labels[None])
    np.testing.assert_allclose(value, [expected], rtol=1e-5)
    np.testing.assert_allclose(ours[0], gradient, rtol=1e-4, atol=1e-12)


def test_lovasz_hinge_of_infinite_errors():
    logits, labels = np.float32([[-INF, INF, 0.0]]), np.array([[1, 0, 1]])
    value, gradient = loss_and_gradient(xent.lovasz_hinge, logits, labels)
    np.testing.assert_array_equal(value, [INF])
    np.testing.assert_allclose(gradient, [[-1 / 2, 1 / 6, -1 / 3]], rtol=1e-6)
    value, _ = loss_and_gradient(xent.lovasz_hinge, logits[:, :2], labels[:, :2])
    np.testing.assert_array_equal(value, [INF])  # the second error adds 0 * inf


def test_soft_masks_have_no_lovasz_hinge():
    logits, labels = np.float32([[1.0, 2.0]]), np.float32([[1.0, 0.5]])
    assert np.isnan(jax.jit(xent.lovasz_hinge)(logits, labels))


def test_a_loss_near_zero_keeps_its_digits():
    logits, labels = np.float32([[16.0, 17.0, -16.0]]), np.array([[1, 1, 0]])
    misses, false_alarms = sigmoid(-16.0) + sigmoid(-17.0), sigmoid(-16.0)
    expected = (misses + false_alarms) / 2 / (3.0 - misses + (misses + false_alarms) / 2)
    ours = jax.jit(xent.binary_dice_loss)(logits, labels)
    np.testing.assert_allclose(ours, [expected], rtol=1e-5)


# ------------------------------------------------------------------ messages


def test_arguments_that_do_not_fit_are_told():
    logits, labels = np.ones((2, 3), np.float32), np.ones((2, 3), np.int32)
    binary = xent.sigmoid_binary_cross_entropy
    with pytest.raises(TypeError, match=r"logits.*(F|f)loat"):
        binary(labels, labels)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(2,\): .* jax.nn.one_hot"):
        binary(logits, labels[:, 0])
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(2,\); it masks elements"):
        binary(logits, labels, where=np.ones(2, bool))
    with pytest.raises(ValueError, match=r"pos_weight must be a scalar or have shape \(3,\)"):
        binary(logits, labels, pos_weight=np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"for a single set give logits\[None\]"):
        xent.binary_dice_loss(logits[0], labels[0])
    with pytest.raises(ValueError, match=r"for a single set give logits\[None\]"):
        xent.lovasz_softmax(logits, labels[:, 0])


def test_class_counts_that_do_not_fit_are_told():
    logits, labels = np.ones((2, 3), np.float32), np.ones((2, 3), np.int32)
    balanced = functools.partial(xent.distribution_balanced, logits, labels, num_examples=1000)
    assert np.all(np.isfinite(jax.jit(lambda: balanced(**class_counts(3)))()))
    with pytest.raises(ValueError, match=r"class_counts must have shape \(3,\), got \(2,\)"):
        balanced(**class_counts(2))
    for bad in ([0, 5, 5], [1000, 5, 5]):
        with pytest.raises(ValueError, match="for a class without examples say 1"):
            balanced(class_counts=np.array(bad))
