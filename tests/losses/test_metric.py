"""What the matrix does not see: the ends of the circle, vectors of zeros, and whole batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.metric import arcface, cosines_and_labels, sphereface
from tests.losses.cases.row import one_hot, softmax

INF = np.inf


def ldam(cosines, labels, **keywords):
    """Equal counts leave a margin that is the same for any number of classes."""
    counts = np.full(cosines.shape[keywords.get("axis", -1) % cosines.ndim], 7)
    return xent.ldam(cosines, labels, class_counts=counts, **keywords)


MARGIN_LOSSES = [
    xent.cosine_softmax,
    xent.normface,
    xent.cosface,
    xent.negative_margin,
    xent.arcface,
    xent.sphereface,
    xent.proxy_nca,
    ldam,
]
over_margin_losses = pytest.mark.parametrize("loss", MARGIN_LOSSES, ids=lambda f: f.__name__)


def unchecked(loss):
    """Returns the loss without the shape checks that only tests install."""
    while hasattr(loss, "__wrapped__"):
        loss = loss.__wrapped__
    return loss


def loss_and_gradient(loss, cosines, labels, **keywords):
    def total(cosines):
        value = loss(cosines, labels, **keywords)
        return value.sum(), value

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(cosines)
    return np.asarray(value), np.asarray(gradient)


# ------------------------------------------------------------------ the ends of the circle


def circle(dtype):
    """Returns cosines of the label from -1 to 1, close to the ends too, beside others at 0.2."""
    ends = 1.0 - np.array([0.0, 1e-7, 1e-6, 1e-4, 1e-2])
    label = np.unique(np.concatenate([-ends, np.linspace(-1.0, 1.0, 801), ends]).astype(dtype))
    return np.stack([label, *np.full((2, len(label)), dtype(0.2))], axis=-1)


@pytest.mark.parametrize(
    ("loss", "textbook", "margin"),
    [
        (xent.arcface, arcface, 0.5),
        (xent.arcface, arcface, 1.5),
        (xent.sphereface, sphereface, 1.7),
        (xent.sphereface, sphereface, 4.0),
    ],
)
def test_the_loss_falls_as_the_cosine_rises_and_the_slope_is_finite(loss, textbook, margin):
    cosines = circle(np.float32)
    labels = np.zeros(len(cosines), np.int32)
    value, gradient = loss_and_gradient(loss, cosines, labels, margin=margin, scale=4.0)
    assert np.all(np.diff(value) <= 1e-6)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[:, 0] <= 1e-6)
    exact = textbook(cosines.astype(np.float64), labels, margin=margin, scale=4.0)
    boundary = np.abs(np.arccos(np.float64(cosines[:, 0])) + margin - np.pi) < 1e-6
    np.testing.assert_allclose(value[~boundary], exact[~boundary], rtol=1e-5, atol=2e-5)


def test_the_slope_of_arcface_keeps_its_digits_towards_a_cosine_of_1():
    label = np.float32(1.0) - np.float32([6e-8, 1e-6, 1e-4, 1e-2])
    cosines = np.stack([label, np.full(4, np.float32(0.9))], axis=-1)
    _, gradient = loss_and_gradient(xent.arcface, cosines, np.zeros(4, np.int32), scale=2.0)
    angle = np.arccos(np.float64(label))
    right, wrong = np.exp(2.0 * np.cos(angle + 0.5)), np.exp(2.0 * np.float64(cosines[:, 1]))
    exact = -2.0 * wrong / (right + wrong) * np.sin(angle + 0.5) / np.sin(angle)
    np.testing.assert_allclose(gradient[:, 0], exact, rtol=1e-5)


@over_margin_losses
def test_cosines_that_rounding_took_past_1(loss):
    past = np.nextafter(np.float32(1.0), np.float32(2.0))
    cosines = np.float32([[past, -past], [1.0, -1.0], [-past, past], [-1.0, 1.0]])
    value, gradient = loss_and_gradient(loss, cosines, np.zeros(4, np.int32))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(value[::2], value[1::2], rtol=1e-5, atol=1e-6)


def test_features_that_meet_their_class_exactly_have_a_finite_gradient():
    weights = np.float32([[3.0, 4.0], [0.0, 1.0]])

    def loss(features, weights):
        return xent.arcface(xent.cosine_similarities(features, weights), np.array([0, 1])).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(2.0 * weights, weights)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


# ------------------------------------------------------------------ the contract


@over_margin_losses
def test_classes_that_cannot_occur_and_labels_outside_the_classes(loss):
    rows = [
        ([-INF, 0.1, 0.5], 1),
        ([-INF, 0.1, 0.5], 0),  # the label cannot occur
        ([-INF, -INF, -INF], 0),
        ([0.3, 0.1, 0.5], -1),
        ([0.3, 0.1, 0.5], 3),
    ]
    cosines = np.array([row for row, _ in rows], np.float32)
    labels = np.array([label for _, label in rows], np.int32)
    value, gradient = loss_and_gradient(loss, cosines, labels)

    @jax.jit
    def of_the_first(cosines, scale):
        with_it = loss(cosines, labels[:1], **scale_of(loss))
        without = loss(cosines[:, 1:], labels[:1] - 1, **scale_of(loss))
        slope = jax.grad(lambda scale: loss(cosines, labels[:1], scale=scale).sum())(scale)
        return with_it, without, slope

    with_it, without, slope = of_the_first(cosines[:1], 7.0)
    np.testing.assert_allclose(with_it, without, rtol=1e-6)
    assert np.isposinf(value[1])
    assert np.all(np.isnan(value[2:]))
    assert np.all(np.isfinite(gradient[:2]))
    assert gradient[0, 0] == 0.0
    assert gradient[1, 0] < 0.0  # towards the label, though it cannot occur
    assert np.all(np.isnan(gradient[3:]).any(-1))
    assert np.isfinite(slope)


def scale_of(loss):
    """The scale of normface depends on the number of classes unless it is given."""
    return {"scale": 7.0} if loss is xent.normface else {}


@over_margin_losses
def test_arguments_that_do_not_fit_are_told(loss):
    cosines, labels = np.float32([[0.3, 0.5]]), np.array([0])
    with pytest.raises(ValueError, match=r"cosines must lie in \[-1, 1\]: make them with"):
        loss(3.0 * cosines, labels)
    with pytest.raises(TypeError):
        loss(cosines.astype(np.int32), labels)
    with pytest.raises(TypeError):
        loss(cosines, cosines[:, 0])
    with pytest.raises(ValueError, match="labels must have the shape of the cosines"):
        loss(cosines, np.array([0, 1]))
    with pytest.raises(ValueError, match="one boolean per example"):
        loss(cosines, labels, where=np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="no axis 2"):
        loss(cosines, labels, axis=2)


# ------------------------------------------------------------------ what the papers prove


def test_the_gradients_are_those_of_the_docstrings():
    cosines, labels = cosines_and_labels(np.random.default_rng(0), 6, 4)
    cosines, target = cosines.astype(np.float32), one_hot(labels, 4)
    angle = np.arccos(np.float64(cosines))
    label_slopes = {
        xent.cosine_softmax: (cosines, 1.0),
        xent.cosface: (cosines - 0.2 * target, 1.0),
        xent.arcface: (np.cos(angle + 0.2 * target), np.sin(angle + 0.2) / np.sin(angle)),
    }
    for loss, (margined, slope) in label_slopes.items():
        margin = {} if loss is xent.cosine_softmax else {"margin": 0.2}
        _, gradient = loss_and_gradient(loss, cosines, labels, scale=3.0, **margin)
        exact = 3.0 * (softmax(3.0 * margined) - target) * np.where(target == 1.0, slope, 1.0)
        np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-5)


def test_unscaled_cosines_cannot_reach_a_low_loss():
    # Proposition 2 of NormFace: the bound, which weights on a simplex reach.
    scale, classes = 3.0, 4
    bound = np.log(1.0 + (classes - 1) * np.exp(-scale * classes / (classes - 1)))
    simplex = np.eye(classes) - 1.0 / classes
    weights = np.random.default_rng(0).normal(size=(200, classes, 5))
    labels = np.arange(classes)

    @jax.jit
    def of_own_weights(weights):
        return xent.normface(xent.cosine_similarities(weights, weights), labels, scale=scale)

    np.testing.assert_allclose(of_own_weights(simplex.astype(np.float32)), bound, rtol=1e-5)
    losses = jax.jit(jax.vmap(of_own_weights))(weights.astype(np.float32))
    assert np.all(np.mean(losses, axis=-1) >= bound)
    cosines = np.where(one_hot(labels, 4) == 1.0, 1.0, -1.0 / 3.0).astype(np.float32)
    np.testing.assert_allclose(jax.jit(xent.normface)(cosines, labels), 0.01, rtol=1e-4)


def test_a_margin_raises_the_loss_and_a_negative_one_lowers_it():
    cosines, labels = cosines_and_labels(np.random.default_rng(1), 50, 4)
    cosines = cosines.astype(np.float32)
    margins = np.float32([0.0, 0.1, 0.3, 0.5])
    for loss, sign in [(xent.cosface, 1), (xent.arcface, 1), (xent.negative_margin, -1)]:
        one = functools.partial(loss, cosines, labels, scale=8.0)
        losses = jax.jit(jax.vmap(lambda margin, one=one: one(margin=margin)))(sign * margins)
        assert np.all(sign * np.diff(losses, axis=0) > 0)


def test_angles_beyond_pi_less_the_margin_are_the_authors():
    # Computed by hand: pi - 0.5 is where the cosine is -0.8776, and 0.5 sin 0.5 is 0.2397.
    cosines = np.float32([[-0.87, 0.0], [-0.88, 0.0], [-1.0, 0.0]])
    loss = jax.jit(functools.partial(xent.arcface, scale=1.0))(cosines, np.zeros(3, np.int32))
    label_cosine = -np.log(np.expm1(np.float64(loss)))
    np.testing.assert_allclose(label_cosine, [-0.99987, -1.1197, -1.2397], atol=2e-4)


def test_soft_triple_takes_the_nearest_centre_as_gamma_falls():
    cosines = np.random.default_rng(0).uniform(-0.9, 0.9, (5, 4, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0])
    soft, nearest = jax.jit(
        lambda cosines: (
            xent.soft_triple(cosines, labels, gamma=1e-4),
            xent.cosface(cosines.max(-1), labels, margin=0.01, scale=20.0),
        )
    )(cosines)
    np.testing.assert_allclose(soft, nearest, rtol=1e-5, atol=1e-6)


def test_soft_triple_of_classes_with_fewer_centres():
    cosines = np.random.default_rng(0).uniform(-0.9, 0.9, (5, 4, 3)).astype(np.float32)
    labels, fewer = np.array([0, 1, 2, 3, 0]), cosines.copy()
    fewer[:, 1, 1:] = -INF  # one centre is left
    fewer[:, 2] = -INF  # none: a class that cannot occur
    value, gradient = loss_and_gradient(xent.soft_triple, fewer, labels)
    assert np.isposinf(value[2])
    assert np.all(np.isfinite(gradient))
    rest = labels != 2
    one_left = cosines[rest][:, [0, 1, 3]]
    one_left[:, 1] = cosines[rest][:, 1, :1]
    expected, slopes = loss_and_gradient(xent.soft_triple, one_left, np.array([0, 1, 2, 0]))
    np.testing.assert_allclose(value[rest], expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[rest][:, [0, 3]], slopes[:, [0, 2]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient[rest][:, 1].sum(-1), slopes[:, 1].sum(-1), rtol=1e-5)
    assert np.all(gradient[:, 1, 1:] == 0.0)
    assert np.all(gradient[rest][:, 2] == 0.0)


def test_shapes_without_centres_or_examples_are_told():
    cosines, labels = np.float32([0.3, 0.5]), np.array([0, 1])
    with pytest.raises(ValueError, match=r"cosines must have shape \(..., classes, centres\)"):
        unchecked(xent.soft_triple)(cosines, labels)
    for shape in ((2,), (3, 2, 2)):
        with pytest.raises(ValueError, match=r"cosines must have shape \(examples, classes\), got"):
            unchecked(xent.proxy_anchor)(np.zeros(shape, np.float32), np.zeros(shape[:-1], int))


# ------------------------------------------------------------------ cosines


def test_cosines_of_vectors_of_any_length():
    lengths = np.float32([0.0, 1e-30, 1e-3, 1.0, 1e30])
    features = lengths[:, None] * np.float32([3.0, 4.0])
    weights = np.float32([[1.0, 0.0], [0.0, 0.0]])

    def loss(features, weights):
        return xent.cosine_similarities(features, weights).sum()

    @jax.jit
    def derivatives(features, weights):
        gradient = jax.grad(loss, (0, 1))
        kept = jnp.asarray(features)[jnp.array([0, 2, 3, 4])]  # at 1e-30 it overflows
        second = jax.jvp(gradient, (kept, weights), (0.1 * kept, weights))[1]
        return xent.cosine_similarities(features, weights), *gradient(features, weights), second

    cosines, by_features, by_weights, second = derivatives(features, weights)
    np.testing.assert_allclose(cosines, [[0.0, 0.0]] + [[0.6, 0.0]] * 4, rtol=1e-6)
    assert np.all(by_features[0] == 0.0)
    exact = (np.array([1.0, 0.0]) - 0.6 * np.array([0.6, 0.8])) / (5.0 * lengths[1:, None])
    np.testing.assert_allclose(by_features[1:], exact, rtol=1e-5)
    np.testing.assert_allclose(by_weights, [[0.0, 4 * 0.8], [0.0, 0.0]], atol=1e-6)
    assert all(np.all(np.isfinite(x)) for x in second)


def test_masked_features_do_not_reach_the_weights():
    rng = np.random.default_rng(0)
    features, weights = (rng.normal(size=(3, 4)).astype(np.float32) for _ in range(2))
    dirty, where = features.copy(), np.array([True, False, True])
    dirty[1] = np.nan

    @jax.jit
    def gradients(features):
        def loss(features, weights):
            cosines = xent.cosine_similarities(features, weights, where=where)
            return xent.arcface(cosines, np.array([0, 1, 2]), where=where).sum()

        return jax.grad(loss, (0, 1))(features, weights)

    for ours, clean in zip(gradients(dirty), gradients(features), strict=True):
        assert np.all(np.isfinite(ours))
        np.testing.assert_array_equal(ours, clean)


def test_only_the_nearest_sub_centre_learns():
    centres = np.float32([[[1.0, 0.0], [0.0, 1.0]]])
    features = np.float32([[2.0, 1.0]])
    gradient = jax.jit(jax.grad(lambda w: xent.cosine_similarities(features, w).sum()))(centres)
    assert np.any(gradient[0, 0] != 0.0)
    assert np.all(gradient[0, 1] == 0.0)


def test_weights_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"classifier_weights must have shape \(classes, D\)"):
        xent.cosine_similarities(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32))
    with pytest.raises(TypeError):
        xent.cosine_similarities(np.ones((2, 3), np.int32), np.ones((2, 3), np.float32))


# ------------------------------------------------------------------ proxies


def test_proxy_anchor_of_part_of_a_batch():
    cosines, labels = cosines_and_labels(np.random.default_rng(0), 6, 4)
    cosines, where = cosines.astype(np.float32), np.array([True, False, True, True, False, True])
    dirty, dirty_labels = cosines.copy(), labels.copy()
    dirty[~where], dirty_labels[~where] = np.nan, -1
    value, gradient = loss_and_gradient(xent.proxy_anchor, dirty, dirty_labels, where=where)
    expected, part = loss_and_gradient(xent.proxy_anchor, cosines[where], labels[where])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[where], part, rtol=1e-5, atol=1e-6)
    assert np.all(gradient[~where] == 0.0)
    value, gradient = loss_and_gradient(
        xent.proxy_anchor, dirty, dirty_labels, where=np.zeros(6, bool)
    )
    assert np.all(value == 0.0)
    assert np.all(gradient == 0.0)


def test_proxy_anchor_of_any_batch():
    cosines, labels = cosines_and_labels(np.random.default_rng(0), 6, 4)
    cosines = cosines.astype(np.float32)

    @jax.jit
    def batches(cosines, labels):
        pair = jnp.stack([cosines, -cosines]), jnp.stack([labels, labels])
        twice = jax.vmap(xent.proxy_anchor)(*pair)
        return twice, xent.proxy_anchor(cosines, labels), xent.proxy_anchor(cosines[:0], labels[:0])

    twice, once, none = batches(cosines, labels)
    np.testing.assert_allclose(twice[0], once, rtol=1e-5)
    assert np.all(none == 0.0)
    value, gradient = loss_and_gradient(
        xent.proxy_anchor, cosines, np.where(labels == labels[0], 4, labels)
    )
    assert np.all(np.isnan(value))
    assert np.all(np.isnan(gradient).any(-1))


def test_proxy_anchor_pulls_the_hardest_example_the_most():
    cosines = np.float32([[0.9], [0.5], [0.1]])
    _, gradient = loss_and_gradient(xent.proxy_anchor, cosines, np.zeros(3, np.int32))
    hardness = np.exp(-32.0 * (np.float64(cosines) - 0.1))
    np.testing.assert_allclose(gradient, -32.0 * hardness / (1.0 + hardness.sum()), rtol=1e-5)


def test_proxy_nca_goes_on_pulling_where_the_cross_entropy_has_faded():
    cosines, labels = np.float32([[1.0, -1.0, -1.0]]), np.array([0])
    _, gradient = loss_and_gradient(xent.proxy_nca, cosines, labels, scale=10.0)
    np.testing.assert_allclose(gradient, [[-20.0, 10.0, 10.0]], rtol=1e-6)
    _, faded = loss_and_gradient(xent.cosine_softmax, cosines, labels, scale=10.0)
    assert np.all(np.abs(faded) < 1e-6)


def test_proxy_nca_of_a_single_class_has_nothing_to_learn():
    for cosines in (np.float32([[0.3]]), np.float32([[0.3, -INF]])):
        value, gradient = loss_and_gradient(xent.proxy_nca, cosines, np.array([0]))
        assert np.all(value == 0.0)
        assert np.all(gradient == 0.0)
