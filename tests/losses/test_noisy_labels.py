"""What the matrix does not see: exactness towards the limits, and robustness itself."""

import functools

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
        log_p = -np.asarray(jax.jit(lambda z: loss(z, 0.0))(logits))
    exact = np.array(
        [[exact_generalized_cross_entropy(x, q) for x in log_p] for q in np.asarray(qs)]
    )
    np.testing.assert_allclose(values, exact[..., 0].astype(float), rtol=tolerance)
    np.testing.assert_allclose(slopes, exact[..., 1].astype(float), rtol=tolerance)
    power = np.exp(np.asarray(qs, np.float64)[:, None] * np.float64(log_p))
    expected = power * np.expm1(np.float64(log_p))
    np.testing.assert_allclose(in_logits[..., 0], expected, rtol=20 * tolerance, atol=tolerance)


def test_generalized_cross_entropy_keeps_its_range_where_the_power_underflows():
    derivatives = jax.jit(
        jax.value_and_grad(
            lambda z: xent.generalized_cross_entropy(z, np.zeros(1, np.int32), q=0.5)[0]
        )
    )
    value, slope = derivatives(np.array([[-1e4, 0.0]], np.float32))
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
    loss = jax.jit(loss)
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
        xent.asymmetric_generalized_cross_entropy: (1 + confidence) * confidence,
        xent.asymmetric_unhinged: (1.5 - confidence) ** -0.1 * confidence,
        xent.asymmetric_exponential: confidence / 3 * np.exp(-confidence / 3),
        xent.partially_huberised_cross_entropy: np.minimum(1, 10 * confidence),
        xent.taylor_cross_entropy: 1 - (1 - confidence) ** 2,
        xent.generalized_jensen_shannon: confidence
        * np.log((1 + confidence) / confidence)
        / np.log(2),
        xent.truncated_generalized_cross_entropy: confidence**0.7 * (confidence > 0.5),
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


@pytest.mark.parametrize(
    "loss",
    [
        xent.normalized_cross_entropy,
        xent.normalized_focal,
        xent.normalized_generalized_cross_entropy,
        xent.active_negative,
        xent.active_passive,
    ],
    ids=lambda loss: loss.__name__,
)
def test_normalized_losses_sum_to_a_constant_over_the_labels_and_their_gradients_to_none(loss):
    logits, _ = logits_and_labels(np.random.default_rng(0), 6, 4)

    def over_labels(z):
        return sum(loss(z, np.full(6, label, np.int32)) for label in range(4))

    sums, gradient = jax.jit(
        lambda z: (over_labels(z), jax.grad(lambda z: over_labels(z).sum())(z))
    )(logits.astype(np.float32))
    np.testing.assert_allclose(sums, np.full(6, sums[0]), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros((6, 4)), atol=2e-6)


def test_a_normalized_loss_leaves_out_classes_that_cannot_occur():
    logits, labels = logits_and_labels(np.random.default_rng(1), 5, 3)
    wider = np.concatenate([logits, np.full((5, 1), -np.inf)], -1).astype(np.float32)
    losses = (
        xent.normalized_cross_entropy,
        xent.normalized_focal,
        xent.normalized_generalized_cross_entropy,
        xent.active_negative,
        xent.ldr_kl,
        xent.logit_clip,
    )
    every = jax.jit(lambda z: [loss(z, labels) for loss in losses])
    np.testing.assert_allclose(every(wider), every(logits.astype(np.float32)), rtol=1e-5)


def expected_loss_on_the_simplex(loss, weights):
    """Returns sum_k w_k L(z, k) over a grid of predictions p, and the grid."""
    grid = np.array([(i, j, 40 - i - j) for i in range(41) for j in range(41 - i)]) / 40.0
    logits = np.log(np.where(grid > 0.0, grid, 1e-30)).astype(np.float32)
    labels = [np.full(len(grid), label, np.int32) for label in range(3)]
    losses = [np.float64(loss(logits, y)) for y in labels]
    return sum(w * values for w, values in zip(weights, losses, strict=True)), grid


@pytest.mark.parametrize(
    ("loss", "options", "ratio"),
    [
        (xent.asymmetric_generalized_cross_entropy, {"a": 1.0, "q": 2.0}, 1.0),
        (xent.asymmetric_generalized_cross_entropy, {"a": 0.6, "q": 0.6}, (1.6 / 0.6) ** 0.4),
        (xent.asymmetric_unhinged, {"a": 1.5, "q": 0.9}, 1.0),
        (xent.asymmetric_unhinged, {"a": 5.5, "q": 3.0}, (5.5 / 4.5) ** 2),
        (xent.asymmetric_exponential, {"a": 3.0}, np.exp(1.0 / 3.0)),
    ],
)
def test_asymmetric_losses_prefer_the_most_frequent_label_from_their_ratio_on(loss, options, ratio):
    of_labels = jax.jit(functools.partial(loss, **options))

    def least(weights):
        values, grid = expected_loss_on_the_simplex(of_labels, weights)
        return grid[np.argmin(values)]

    np.testing.assert_array_equal(least([1.05 * ratio, 1.0, 0.8]), [1.0, 0.0, 0.0])
    if ratio > 1.0:  # below it a compromise is better
        compromise = least([0.5 * (1.0 + ratio), 1.0, 0.1])
        assert 0.0 < compromise[0] < 1.0


def test_the_cross_entropy_is_not_asymmetric():
    values, grid = expected_loss_on_the_simplex(
        jax.jit(xent.softmax_cross_entropy_with_integer_labels), [0.5, 0.3, 0.2]
    )
    np.testing.assert_allclose(grid[np.argmin(values)], [0.5, 0.3, 0.2], atol=1e-6)


def logits_of(p):
    """Returns logits of two classes of which the first has probability p."""
    return np.stack([np.log(p) - np.log1p(-p), np.zeros_like(p)], -1)


@pytest.mark.parametrize(
    ("loss", "start"),
    [
        (lambda z, y: xent.partially_huberised_cross_entropy(z, y, tau=4.0), 1.0 / 4.0),
        (
            lambda z, y: xent.partially_huberised_generalized_cross_entropy(z, y, q=0.5, tau=2.0),
            1.0 / 4.0,
        ),
    ],
)
def test_a_partially_huberised_loss_is_linear_up_to_a_smooth_joint(loss, start):
    p = np.concatenate([np.linspace(0.01, 1.0, 12) * start, start * np.array([1 - 1e-6, 1 + 1e-6])])

    @jax.jit
    def value_and_slope(p):
        def of_p(p):
            z = jnp.stack([jnp.log(p) - jnp.log1p(-p), jnp.zeros_like(p)], -1)
            return loss(z, jnp.zeros(p.shape, jnp.int32))

        return of_p(p), jax.grad(lambda p: of_p(p).sum())(p)

    with jax.enable_x64(True):
        value, slope = value_and_slope(jnp.asarray(p))
    np.testing.assert_allclose(np.diff(value[:12], 2), 0.0, atol=1e-12)
    np.testing.assert_allclose(value[12], value[13], rtol=1e-5)
    np.testing.assert_allclose(slope[12], slope[13], rtol=1e-5)


def test_the_taylor_series_rises_to_the_cross_entropy():
    logits, labels = logits_and_labels(np.random.default_rng(2), 8, 3)
    logits = 0.25 * logits.astype(np.float32)
    orders = jax.jit(
        lambda z: [xent.taylor_cross_entropy(z, labels, order=n) for n in (1, 2, 5, 100)]
    )(logits)
    assert np.all(np.diff(orders, axis=0) > 0.0)
    exact = jax.jit(xent.softmax_cross_entropy_with_integer_labels)(logits, labels)
    np.testing.assert_allclose(orders[-1], exact, rtol=1e-4)
    with pytest.raises(ValueError, match="order must be"):
        xent.taylor_cross_entropy(logits, labels, order=0)


def test_truncation_keeps_the_weights_it_is_given():
    logits, labels = logits_and_labels(np.random.default_rng(3), 8, 3)
    logits = logits.astype(np.float32)
    confident = softmax(logits)[np.arange(8), labels] > 0.5
    assert 0 < confident.sum() < 8
    where = np.arange(8) != 2

    @jax.jit
    def both(logits, weights):
        def total(logits, weights=None):
            loss = xent.truncated_generalized_cross_entropy(
                logits, labels, weights=weights, where=where
            )
            return loss.sum(), loss

        own = jax.value_and_grad(total, has_aux=True)(logits)
        return own, jax.value_and_grad(total, (0, 1), has_aux=True)(logits, weights)

    weights = np.where(where, confident.astype(np.float32), np.float32(np.nan))
    ((_, own), own_slope), ((_, given), (slope, of_weights)) = both(logits, weights)
    np.testing.assert_allclose(own, given, rtol=1e-6)
    np.testing.assert_allclose(own_slope, slope, rtol=1e-6)
    assert np.all(slope[~confident | ~where] == 0.0)
    assert of_weights[2] == 0.0
    # The alternate search sets a weight to 1 where that lowers the sum.
    np.testing.assert_array_equal(np.asarray(of_weights)[where] < 0.0, confident[where])
    with pytest.raises(ValueError, match="weights must be of the labels' shape"):
        xent.truncated_generalized_cross_entropy(logits, labels, weights=np.ones(3, np.float32))


def test_jensen_shannon_of_views_is_that_of_their_mean_plus_their_own():
    logits, labels = logits_and_labels(np.random.default_rng(4), 6, 4)
    views = [logits.astype(np.float32), *np.random.default_rng(5).normal(size=(2, 6, 4))]
    views = [np.float32(view) for view in views]
    p = [np.float32(softmax(view)) for view in views]
    loss = jax.jit(functools.partial(xent.generalized_jensen_shannon, label_weight=0.7))
    together = loss(views[0], labels, *views[1:])
    mean = loss(np.log(sum(p) / 3.0), labels)
    apart = jax.jit(xent.jensen_shannon_divergence)(*p) / -np.log(0.3)
    np.testing.assert_allclose(together, mean + apart, rtol=1e-5)


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 3e-6), (True, 1e-12)])
def test_jensen_shannon_is_exact_for_any_weight_of_the_label(x64, tolerance):
    weights = np.array([1e-9, 1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999])
    p = np.longdouble([0.999, 0.7, 0.2, 1e-3, 1e-6, 1e-12])
    with jax.enable_x64(x64):
        logits = jnp.asarray(logits_of(p).astype(float))
        labels = jnp.zeros(6, jnp.int32)
        cross_entropy = jax.jit(xent.softmax_cross_entropy_with_integer_labels)
        rounded = np.exp(-np.longdouble(cross_entropy(logits, labels)))
        losses = jax.jit(
            jax.vmap(lambda pi: xent.generalized_jensen_shannon(logits, labels, label_weight=pi))
        )(jnp.asarray(weights))
        weights = np.longdouble(jnp.asarray(weights))[:, None]
    mixture = rounded + weights * (1 - rounded)
    entropies = -mixture * np.log(mixture) + (1 - weights) * rounded * np.log(rounded)
    scale = -(1 - weights) * np.log1p(-weights)
    exact = (1 - rounded) + entropies / scale
    keeps_digits = weights[:, 0] > 1e-4  # of the reference itself, in 64 bits
    np.testing.assert_allclose(
        losses[keeps_digits], np.float64(exact)[keeps_digits], rtol=tolerance
    )
    np.testing.assert_allclose(losses[0, :4], -np.log(np.float64(rounded[:4])), rtol=1e-5)


def test_epsilon_softmax_relaxes_symmetry_by_no_more_than_its_error():
    logits, labels = logits_and_labels(np.random.default_rng(6), 50, 4)
    logits = logits.astype(np.float32)
    loss = jax.jit(lambda z: xent.epsilon_softmax(z, labels, m=100.0, alpha=1.0, beta=0.0))(logits)
    right = logits.argmax(-1) == labels
    plain = jax.jit(xent.softmax_cross_entropy_with_integer_labels)(logits, labels)
    assert np.all(loss[right] <= np.log(101.0 / 100.0))
    np.testing.assert_allclose(loss[~right], plain[~right] + np.log(101.0), rtol=1e-6)


def test_clipped_logits_lose_their_length():
    logits, labels = logits_and_labels(np.random.default_rng(7), 6, 4)
    logits = logits.astype(np.float32)
    clipped = jax.jit(
        lambda z: (
            xent.logit_clip(z, labels, max_norm=0.5),
            jax.grad(lambda z: xent.logit_clip(z, labels, max_norm=0.5).sum())(z),
        )
    )
    loss, gradient = clipped(logits)
    for factor in (10.0, 1e30):  # whose square is beyond float32
        longer, _ = clipped(np.float32(factor) * logits)
        np.testing.assert_allclose(longer, loss, rtol=1e-5)
    np.testing.assert_allclose((gradient * logits).sum(-1), np.zeros(6), atol=1e-6)
    assert np.all(np.abs(loss - np.log(4)) <= 1.0)


def test_distributionally_robust_loss_is_the_worst_weighting_of_the_classes():
    rng = np.random.default_rng(8)
    logits, labels = logits_and_labels(rng, 5, 4)
    gaps = logits - np.take_along_axis(logits, labels[:, None], -1)
    gaps += 0.3 * (1.0 - one_hot(labels, 4))

    def weighted(w):
        return (w * gaps).sum(-1) - 1.5 * (w * np.log(4.0 * w)).sum(-1)

    robust = jax.jit(
        lambda z, temperature: xent.ldr_kl(z, labels, temperature=temperature, margin=0.3)
    )
    loss = np.asarray(robust(logits.astype(np.float32), 1.5))
    np.testing.assert_allclose(loss, weighted(softmax(gaps / 1.5)), rtol=1e-5, atol=1e-6)
    for w in rng.dirichlet(np.ones(4), size=(50, 5)):
        assert np.all(weighted(w) <= loss + 1e-6)
    hinge = robust(logits.astype(np.float32), 1e-3)
    np.testing.assert_allclose(hinge, gaps.max(-1), atol=1e-2)


GENERATORS = {
    "total_variation": lambda u: np.abs(u - 1.0) / 2.0,
    "jensen_shannon": lambda u: u * np.log(u) - (u + 1.0) * np.log((u + 1.0) / 2.0),
    "pearson": lambda u: (u - 1.0) ** 2,
    "kullback_leibler": lambda u: u * np.log(u),
    "jeffrey": lambda u: (u - 1.0) * np.log(u),
}


@pytest.mark.parametrize("divergence", GENERATORS)
def test_f_divergence_losses_bound_the_divergence_of_the_joint_from_the_product(divergence):
    rng = np.random.default_rng(9)
    joint = rng.dirichlet(np.ones(9)).reshape(3, 3)  # inputs, labels
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    exact = (product * GENERATORS[divergence](joint / product)).sum()
    logits = np.float32(4.0 * rng.normal(size=(20, 3, 3)))  # models, inputs, classes
    shape = (20, 3, 3, 3, 3)  # models, input, label, peer input, peer label
    labels = np.arange(3, dtype=np.int32)
    loss = jax.jit(functools.partial(xent.robust_f_divergence, divergence=divergence))(
        np.broadcast_to(logits[:, :, None, None, None], (*shape, 3)),
        np.broadcast_to(labels[None, None, :, None, None], shape),
        np.broadcast_to(logits[:, None, None, :, None], (*shape, 3)),
        np.broadcast_to(labels, shape),
    )
    mean = np.einsum("mxyab,xy,ab->m", np.float64(loss), joint, product)
    assert np.all(-mean <= exact + 1e-6)


def test_other_logits_of_another_shape_are_told():
    logits, labels = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
    for other in (logits[:1], logits[:, :2]):
        with pytest.raises(ValueError, match=r"view 3 must have the logits' shape \(2, 3\), got"):
            xent.generalized_jensen_shannon(logits, labels, logits, other)
        with pytest.raises(ValueError, match=r"peer_logits must have the logits' shape \(2, 3\)"):
            xent.robust_f_divergence(logits, labels, other, labels[: len(other)])


def test_names_that_are_not_offered_are_told():
    logits, labels = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=r"divergence must be one of total_variation, .* 'tv'"):
        xent.robust_f_divergence(logits, labels, logits, labels, divergence="tv")
    with pytest.raises(ValueError, match=r"active must be one of cross_entropy, .* 'ce'"):
        xent.active_passive(logits, labels, active="ce")
    with pytest.raises(ValueError, match=r"passive must be one of mean_absolute_error, .* 'mae'"):
        xent.active_passive(logits, labels, passive="mae")


def test_active_passive_hands_on_the_options():
    logits, labels = logits_and_labels(np.random.default_rng(10), 6, 4)
    logits = logits.astype(np.float32)

    @jax.jit
    def losses(logits):
        ours = xent.active_passive(
            logits,
            labels,
            active="normalized_focal",
            passive="asymmetric_generalized_cross_entropy",
            alpha=2.0,
            beta=4.0,
            active_options={"gamma": 2.0},
            passive_options={"a": 6.0, "q": 1.5},
        )
        learning = xent.normalized_focal(logits, labels, gamma=2.0)
        robust = xent.asymmetric_generalized_cross_entropy(logits, labels, a=6.0, q=1.5)
        return ours, learning, robust

    ours, learning, robust = losses(logits)
    np.testing.assert_allclose(ours, 2.0 * learning + 4.0 * robust, rtol=1e-6)
