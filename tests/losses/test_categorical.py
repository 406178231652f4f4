"""What the matrix does not see: options, exactness at the edges, and what is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xent_jax as xent
from tests.losses.cases.categorical import logits_and_targets
from tests.losses.cases.row import logits_and_labels, one_hot, softmax
from xent_jax.losses import categorical
from xent_jax.losses import softmax as cores

INF = np.inf
loss_of_labels = xent.softmax_cross_entropy_with_integer_labels


def draw(examples=5, classes=4, seed=0):
    logits, labels = logits_and_labels(np.random.default_rng(seed), examples, classes)
    return logits.astype(np.float32), labels.astype(np.int32)


def gradient(loss, logits, *arguments, **keywords):
    return jax.jit(jax.grad(lambda z: loss(z, *arguments, **keywords).sum()))(logits)


def value_and_gradient(loss, logits, *arguments, **keywords):
    @jax.jit
    def both(z):
        return loss(z, *arguments, **keywords), gradient(loss, z, *arguments, **keywords)

    return both(logits)


# ------------------------------------------------------------------ the rules made by hand


def plain_label_log_probability(z, labels):
    return jnp.log(jnp.exp(z[jnp.arange(len(z)), labels]) / jnp.exp(z).sum(-1))


def plain_target_cross_entropy(z, targets):
    return -(targets * jnp.log(jnp.exp(z) / jnp.exp(z).sum(-1)[:, None])).sum(-1)


def plain_smoothed_cross_entropy(z, labels, smoothing):
    log_p = jnp.log(jnp.exp(z) / jnp.exp(z).sum(-1)[:, None])
    return -(1.0 - smoothing) * log_p[jnp.arange(len(z)), labels] - smoothing * log_p.mean(-1)


def plain_log_normalizer(z):
    return jnp.log(jnp.exp(z).sum(-1))


def plain_focal(surprise, gamma):
    return (1.0 - jnp.exp(-surprise)) ** gamma * surprise


LOGITS, LABELS = logits_and_labels(np.random.default_rng(1), 3, 4)
TARGETS = logits_and_targets(np.random.default_rng(2), 3, 4)[1]
SURPRISES = np.array([1e-3, 0.5, 3.0])


@pytest.mark.parametrize(
    ("ours", "plain", "arguments"),
    [
        (cores.label_log_probability, plain_label_log_probability, (LOGITS, LABELS)),
        (cores.target_cross_entropy, plain_target_cross_entropy, (LOGITS, TARGETS)),
        (
            cores.smoothed_cross_entropy,
            plain_smoothed_cross_entropy,
            (LOGITS, LABELS, np.float64(0.1)),
        ),
        (cores.log_normalizer, plain_log_normalizer, (LOGITS,)),
        (cores.complement, lambda log_p: 1.0 - jnp.exp(log_p), (-SURPRISES,)),
        (categorical._focal, plain_focal, (SURPRISES, np.float64(0.5))),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_agrees_with_autodiff_of_the_plain_formula(ours, plain, arguments):
    differentiable = tuple(i for i, x in enumerate(arguments) if x.dtype == np.float64)

    @jax.jit
    def derivatives(arguments):
        def both(function):
            jacobian = jax.jacrev(function, differentiable)
            return (
                function(*arguments),
                jacobian(*arguments),
                jax.jacfwd(function, differentiable)(*arguments),
                jax.jacfwd(jacobian, differentiable)(*arguments),
            )

        return both(ours), both(plain)

    with jax.enable_x64(True):
        by_hand, automatic = derivatives(tuple(map(jnp.asarray, arguments)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), by_hand, automatic
    )


def test_compiles_without_a_temporary_of_the_logits_size():
    logits, labels = draw(256, 1000)
    for options in ({}, {"z_loss": 1e-4, "where": labels > 0}):
        step = jax.jit(jax.value_and_grad(lambda z, y, o=options: loss_of_labels(z, y, **o).mean()))
        memory = step.lower(logits, labels).compile().memory_analysis()
        if memory is None:
            pytest.skip("this backend does not tell")
        assert memory.temp_size_in_bytes < logits.nbytes / 8


def test_large_logits_lose_no_digits():
    shift = np.float32(2.0**13)  # exact in float32 for multiples of 2^-10
    logits = np.round(draw()[0] * 1024) / 1024
    labels = draw()[1]
    for loss in (loss_of_labels, xent.softmax_focal_loss, xent.brier_score):
        derivatives = jax.jit(functools.partial(value_and_gradient, loss))
        values, slopes = zip(
            derivatives(logits + shift, labels), derivatives(logits, labels), strict=True
        )
        np.testing.assert_allclose(*values, rtol=1e-6)
        np.testing.assert_allclose(*slopes, 1e-6, 1e-7)


def test_a_contradicted_label_costs_what_it_should():
    logits = np.float32([[1e4, -1e4, 0.0]])
    np.testing.assert_array_equal(loss_of_labels(logits, np.array([1])), [2e4])
    np.testing.assert_array_equal(gradient(loss_of_labels, logits, np.array([1])), [[1, -1, 0]])


# --------------------------------------------------------------------------- the options


def test_a_label_that_cannot_occur():
    logits = np.float32([[-INF, 0.0, 0.0]])
    for label_smoothing in (0.0, 0.1):
        loss = loss_of_labels(logits, np.array([0]), label_smoothing=label_smoothing)
        assert np.isposinf(loss[0])
    slope = gradient(loss_of_labels, logits, np.array([0]))
    np.testing.assert_array_equal(slope, [[-1.0, 0.5, 0.5]])


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3, "z_loss": 0.1}])
def test_a_masked_class_is_as_if_it_were_not_there(options):
    logits, labels = draw(classes=5)
    labels = labels % 3
    mask = np.array([True, True, True, False, False])
    logits[0, 3] = np.nan
    expected, slope = value_and_gradient(loss_of_labels, logits[:, :3], labels, **options)
    for axis, class_mask in ((-1, mask), (0, np.tile(mask[:, None], (1, 5)))):
        z = np.moveaxis(logits, -1, axis)
        keywords = options | {"axis": axis, "class_mask": class_mask}
        value, ours = value_and_gradient(loss_of_labels, z, labels, **keywords)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        ours = np.moveaxis(ours, axis, -1)
        np.testing.assert_allclose(ours[:, :3], slope, rtol=1e-5, atol=1e-7)
        assert np.all(ours[:, 3:] == 0)
        targets = np.moveaxis(one_hot(labels, 5), -1, axis)
        dense = jax.jit(functools.partial(xent.softmax_cross_entropy, **keywords))(z, targets)
        np.testing.assert_allclose(dense, expected, rtol=1e-6)


def test_ignored_labels_are_padding():
    logits, labels = draw()
    padded = np.where(np.arange(5) == 2, -100, labels)
    logits[2] = np.nan
    where = np.arange(5) != 4
    loss = loss_of_labels(logits, padded, where=where, ignore_label=-100)
    counted = np.isin(np.arange(5), [2, 4], invert=True)
    np.testing.assert_array_equal(loss, np.where(counted, loss_of_labels(logits, labels), 0.0))
    slope = gradient(loss_of_labels, logits, padded, ignore_label=-100)
    assert np.all(slope[2] == 0)
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int32])
def test_labels_of_any_integer_type(dtype):
    logits, _ = draw(3, 1000)
    labels = np.array([0, 1, 127])
    expected = loss_of_labels(logits, labels.astype(np.int32))
    np.testing.assert_array_equal(loss_of_labels(logits, labels.astype(dtype)), expected)


def test_class_weights_multiply_by_the_labels_weight():
    logits, labels = draw()
    weights = np.float32([0.5, 1.0, 2.0, 0.0])
    plain = np.asarray(loss_of_labels(logits, labels))
    np.testing.assert_allclose(
        loss_of_labels(logits, labels, class_weights=weights), weights[labels] * plain, rtol=1e-6
    )
    slopes = jax.jit(jax.grad(lambda w: loss_of_labels(logits, labels, class_weights=w).sum()))
    by_class = [plain[labels == k].sum() for k in range(4)]
    np.testing.assert_allclose(slopes(weights), by_class, rtol=1e-6)
    with pytest.raises(ValueError, match=r"class_weights must have shape \(4,\), got \(3,\)"):
        loss_of_labels(logits, labels, class_weights=weights[:3])


def test_a_traced_zero_is_the_zero_that_is_left_out():
    logits, labels = draw()

    @jax.jit
    def loss(label_smoothing, z_loss):
        return loss_of_labels(logits, labels, label_smoothing=label_smoothing, z_loss=z_loss)

    np.testing.assert_allclose(loss(0.0, 0.0), loss_of_labels(logits, labels), rtol=1e-6)


def test_soft_cap_bounds_the_logits_and_belongs_in_the_gradient():
    logits, labels = draw()
    logits[0, 0] = 1e4
    capped = gradient(loss_of_labels, logits, labels, logit_softcap=3.0)
    tanh = np.tanh(logits / 3.0)
    inner = gradient(loss_of_labels, 3.0 * tanh, labels)
    np.testing.assert_allclose(capped, inner * (1 - tanh**2), rtol=1e-4, atol=1e-6)
    impossible = np.float32([[-INF, 0.0]])
    np.testing.assert_array_equal(
        loss_of_labels(impossible, np.array([1]), logit_softcap=3.0), [0.0]
    )


# ------------------------------------------------------------------------- dense targets


def test_targets_need_not_sum_to_one():
    logits, targets = (x.astype(np.float32) for x in logits_and_targets(
        np.random.default_rng(0), 5, 4))  # fmt: skip
    slope = gradient(xent.softmax_cross_entropy, logits, targets)
    expected = softmax(logits) * targets.sum(-1, keepdims=True) - targets
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


def test_no_derivative_is_nan_where_a_class_cannot_occur():
    logits = jnp.float32([[1.0, 0.0, -INF]])
    targets = jnp.float32([[0.7, 0.3, 0.0]])

    def loss(logits, targets):
        return xent.softmax_cross_entropy(logits, targets).sum()

    @jax.jit
    def derivatives(*point):
        ones = (jnp.ones((1, 3)), jnp.ones((1, 3)))
        return (
            jax.jvp(loss, point, ones)[1],
            jax.grad(loss, (0, 1))(*point),
            jax.hessian(loss, (0, 1))(*point),
        )

    wanted = targets.at[0, 2].set(0.1)
    for point in ((logits, targets), (logits, wanted)):
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(derivatives(*point)))
    assert np.isposinf(loss(logits, wanted))


def test_dense_targets_and_labels_are_told_apart():
    logits, labels = draw(4, 4)
    with pytest.raises(ValueError, match="softmax_cross_entropy_with_integer_labels"):
        xent.softmax_cross_entropy(logits, labels)
    for targets in (one_hot(labels, 4), one_hot(labels, 4).astype(np.int32)):
        with pytest.raises((TypeError, ValueError), match=r"softmax_cross_entropy|labels"):
            loss_of_labels(logits, targets)


# ----------------------------------------------------------------------- and the others


def test_numbers_that_are_no_distribution_are_refused():
    logits, labels = draw()
    for wrong in (logits, np.full((5, 4), 0.3, np.float32)):
        with pytest.raises(ValueError, match="logits go to softmax_cross_entropy_with_integer"):
            xent.cross_entropy_from_probabilities(wrong, labels)
    p = softmax(logits)
    p[1] = 7.0
    where = np.arange(5) != 1
    loss = xent.cross_entropy_from_probabilities(p, labels, where=where)
    np.testing.assert_allclose(loss[where], loss_of_labels(logits, labels)[where], rtol=1e-5)


def test_masked_probabilities_make_no_nan_on_the_way():
    p, labels, where = np.zeros((2, 3), np.float32), np.array([0, 1]), np.zeros(2, bool)
    with jax.debug_nans(True):
        slope = jax.grad(
            lambda p: xent.cross_entropy_from_probabilities(p, labels, where=where).sum()
        )(p)
    assert np.all(slope == 0)


def test_a_probability_of_zero_costs_infinitely_much():
    p, labels = np.float32([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])
    loss = xent.cross_entropy_from_probabilities(p, labels)
    np.testing.assert_array_equal(loss, [0.0, INF])
    slope = gradient(xent.cross_entropy_from_probabilities, p, labels)
    np.testing.assert_array_equal(slope, [[-1.0, 0.0], [0.0, -INF]])


def test_focal_has_no_slope_where_the_label_is_certain():
    logits = jnp.float32([[200.0, 0.0, 0.0]])

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def derivatives(logits, gamma):
        return xent.softmax_focal_loss(logits, np.array([0]), gamma=gamma)[0]

    for gamma in (0.0, 0.3, 1.0, 2.0):
        value, slopes = derivatives(logits, gamma)
        assert value == 0
        assert all(np.all(slope == 0) for slope in slopes)


@given(st.floats(1e-6, 50.0), st.floats(0.0, 5.0))
def test_focal_is_exact_next_to_certainty(surprise, gamma):
    point = jnp.float32(surprise), jnp.float32(gamma)
    value, (slope, slope_in_gamma) = FOCAL(*point)
    s, g = np.float64(point[0]), np.float64(point[1])
    r = -np.expm1(-s)
    np.testing.assert_allclose(value, r**g * s, rtol=1e-5, atol=1e-37)
    np.testing.assert_allclose(slope, r**g * (1 + g * s / np.expm1(s)), rtol=1e-5, atol=1e-37)
    np.testing.assert_allclose(slope_in_gamma, r**g * s * np.log(r), rtol=1e-5, atol=3e-6)


FOCAL = jax.jit(jax.value_and_grad(categorical._focal, (0, 1)))


def test_poly_loss_takes_labels_or_targets():
    logits, labels = draw()
    of_labels = xent.poly_loss_cross_entropy(logits, labels)
    of_targets = xent.poly_loss_cross_entropy(logits, np.float32(one_hot(labels, 4)))
    np.testing.assert_allclose(of_labels, of_targets, rtol=1e-5)


def test_confidence_penalty_pays_for_doubt():
    logits, labels = np.zeros((1, 8), np.float32), np.array([3])
    np.testing.assert_allclose(
        xent.confidence_penalty(logits, labels, beta=0.5), [0.5 * np.log(8.0)], rtol=1e-6
    )
