"""The same values as optax where optax is right, and ours where it is wrong or silent.

Every difference is asserted from both sides, so that this file fails once optax changes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xent_jax as xent
from tests.losses.cases.categorical import logits_and_targets
from tests.losses.cases.row import one_hot

INF = np.inf


@pytest.fixture(autouse=True)
def optax_promotes_freely(strict_promotion):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def value_and_gradient(loss, logits, *arguments, **keywords):
    def total(logits):
        value = loss(logits, *arguments, **keywords)
        return value.sum(), value

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(logits))
    return value, gradient


def draw(examples=6, classes=5):
    logits, targets = logits_and_targets(np.random.default_rng(0), examples, classes)
    return logits.astype(np.float32), targets.astype(np.float32), np.arange(examples) % classes


def assert_same(ours, theirs, logits, *arguments, **keywords):
    @jax.jit
    def both(logits):
        return [value_and_gradient(f, logits, *arguments, **keywords) for f in (ours, theirs)]

    for x, y in zip(*both(logits), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_the_import_can_be_swapped():
    logits, targets, labels = draw()
    where = np.array([True, False, True, True, False, True])
    ours, theirs = xent.softmax_cross_entropy_with_integer_labels, (
        optax.losses.softmax_cross_entropy_with_integer_labels
    )  # fmt: skip
    assert_same(ours, theirs, logits, labels)
    assert_same(ours, theirs, logits.T, labels, 0, where)
    ours, theirs = xent.softmax_cross_entropy, optax.losses.softmax_cross_entropy
    assert_same(ours, theirs, logits, targets)
    assert_same(ours, theirs, logits, one_hot(labels, 5).astype(np.int32))
    assert_same(ours, theirs, logits.T, targets.T, 0, where)
    ours, theirs = xent.poly_loss_cross_entropy, optax.losses.poly_loss_cross_entropy
    assert_same(ours, theirs, logits, targets, epsilon=-1.0)
    ours, theirs = xent.multiclass_hinge_loss, optax.losses.multiclass_hinge_loss
    assert_same(ours, theirs, logits, labels)


def test_a_class_that_cannot_occur_and_has_no_target():
    logits, targets = np.float32([[1.0, 0.0, -INF]]), np.float32([[1.0, 0.0, 0.0]])
    theirs, _ = value_and_gradient(optax.softmax_cross_entropy, logits, targets)
    assert np.isnan(theirs[0])
    ours, gradient = value_and_gradient(xent.softmax_cross_entropy, logits, targets)
    np.testing.assert_allclose(ours[0], np.log1p(np.exp(-1.0)), rtol=1e-6)
    np.testing.assert_allclose(gradient[0], [-0.2689414, 0.2689414, 0.0], rtol=1e-5)


def test_its_target_has_a_finite_slope():
    logits, targets = jnp.float32([[1.0, 0.0, -INF]]), jnp.float32([[1.0, 0.0, 0.0]])

    def slope(loss):
        return jax.jit(jax.grad(lambda targets: loss(logits, targets).sum()))(targets)

    assert np.isposinf(slope(optax.losses.safe_softmax_cross_entropy)[0, 2])
    expected = [np.log1p(np.exp(-1.0)), np.log1p(np.e), 0.0]
    np.testing.assert_allclose(slope(xent.softmax_cross_entropy)[0], expected, rtol=1e-6)


def test_label_minus_one():
    logits, labels = np.float32([[1.0, 0.0, 2.0]]), np.array([-1])
    theirs, _ = value_and_gradient(optax.softmax_cross_entropy_with_integer_labels, logits, labels)
    last, _ = value_and_gradient(
        optax.softmax_cross_entropy_with_integer_labels, logits, np.array([2])
    )
    assert theirs[0] == last[0]
    ours, gradient = value_and_gradient(
        xent.softmax_cross_entropy_with_integer_labels, logits, labels
    )
    assert np.isnan(ours[0])
    assert np.all(np.isnan(gradient))


def test_label_past_the_last_class():
    logits, labels = np.float32([[1.0, 0.0, 2.0]]), np.array([3])
    theirs, gradient = value_and_gradient(
        optax.softmax_cross_entropy_with_integer_labels, logits, labels
    )
    assert np.isnan(theirs[0])
    assert np.all(np.isfinite(gradient))  # so that training goes on
    _, gradient = value_and_gradient(xent.softmax_cross_entropy_with_integer_labels, logits, labels)
    assert np.all(np.isnan(gradient))


def test_bfloat16_loss():
    logits, labels = jax.random.normal(jax.random.key(0), (1, 4096), jnp.bfloat16), np.array([1])
    exact = jax.jit(lambda z: -jax.nn.log_softmax(z.astype(jnp.float32))[0, 1])(logits)
    theirs = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    assert theirs.dtype == jnp.bfloat16
    assert abs(theirs.astype(jnp.float32)[0] - exact) > 0.01
    ours = jax.jit(xent.softmax_cross_entropy_with_integer_labels)(logits, labels)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours[0], exact, rtol=1e-6)


def test_label_of_a_masked_class():
    logits, labels = np.float32([[0.0, 1.0, 5.0]]), np.array([2])
    mask = np.array([[True, True, False]])
    theirs = optax.softmax_cross_entropy_with_integer_labels(logits, labels, where=mask)
    np.testing.assert_allclose(theirs[0], np.log(1.0 + np.e) - 5.0, rtol=1e-5)
    assert theirs[0] < 0
    ours = xent.softmax_cross_entropy_with_integer_labels(logits, labels, class_mask=mask)
    assert np.isposinf(ours[0])
    with pytest.raises(ValueError, match="class_mask"):
        xent.softmax_cross_entropy_with_integer_labels(logits, labels, where=mask)


def test_smoothing_over_masked_classes():
    logits, labels = np.float32([[0.0, 1.0, 5.0]]), np.array([1])
    mask = np.array([[True, True, False]])
    smooth = optax.smooth_labels(jnp.asarray(one_hot(labels, 3), jnp.float32), 0.1)
    masked_out = optax.softmax_cross_entropy(jnp.asarray(logits), smooth, where=mask)
    impossible = optax.softmax_cross_entropy(jnp.where(mask, logits, -INF), smooth)
    kept = jax.nn.log_softmax(logits[:, :2])
    exact = -(0.05 * kept[0, 0] + 0.95 * kept[0, 1])
    np.testing.assert_allclose(exact - masked_out[0], 0.0271, atol=1e-4)  # 1/30 of mass is lost
    assert np.isposinf(impossible[0])
    ours, _ = value_and_gradient(
        xent.softmax_cross_entropy_with_integer_labels,
        logits,
        labels,
        class_mask=mask,
        label_smoothing=0.1,
    )
    np.testing.assert_allclose(ours[0], exact, rtol=1e-6)


# ------------------------------------------------------------------ divergences and binary losses


def draw_elements():
    rng = np.random.default_rng(0)
    logits = 3.0 * rng.normal(size=(2, 3, 4)).astype(np.float32)
    return logits, rng.integers(0, 2, (2, 3, 4)), rng.uniform(size=(2, 3, 4)).astype(np.float32)


def test_the_import_of_divergences_can_be_swapped():
    logits, _, targets = draw_elements()
    log_q, where = jax.nn.log_softmax(logits), targets > 0.3
    for name, second in [
        ("kl_divergence", targets),
        ("kl_divergence_with_log_targets", np.log(targets)),
        ("generalized_kl_divergence", targets),
    ]:
        ours, theirs = getattr(xent, name), getattr(optax.losses, name)
        assert_same(ours, theirs, log_q, second)
        assert_same(ours, theirs, log_q, second, (0, 2), where)
        swapped = [lambda t, f=f: f(log_q, t) for f in (ours, theirs)]
        assert_same(*swapped, second)  # the slope of the targets


def test_the_import_of_binary_losses_can_be_swapped():
    logits, labels, soft = draw_elements()
    ours, theirs = xent.sigmoid_binary_cross_entropy, optax.losses.sigmoid_binary_cross_entropy
    assert_same(ours, theirs, logits, labels)
    assert_same(ours, theirs, logits, soft)
    ours, theirs = xent.sigmoid_focal_loss, optax.losses.sigmoid_focal_loss
    assert_same(ours, theirs, logits, labels, alpha=0.25, gamma=0.5)
    assert_same(ours, theirs, logits, soft, alpha=None)
    assert_same(xent.binary_dice_loss, optax.losses.binary_dice_loss, logits, labels)


def test_the_default_weight_of_the_focal_loss():
    logits, labels, _ = draw_elements()
    ours, theirs = (
        jax.jit(library.sigmoid_focal_loss)(logits, labels) for library in (xent, optax.losses)
    )
    weights = np.where(labels == 1, 0.25, 0.75)
    np.testing.assert_allclose(ours, weights * theirs, rtol=1e-5, atol=1e-7)


def test_targets_of_zero_in_a_divergence():
    log_q, targets = jnp.log(jnp.float32([0.5, 0.5])), jnp.float32([1.0, 0.0])
    slope = jax.jit(jax.grad(lambda f, t: f(log_q, t), argnums=1), static_argnums=0)
    assert np.isnan(slope(optax.losses.kl_divergence, targets)[1])
    expected = [np.log(2.0) + 1.0, np.log(2.0)]
    np.testing.assert_allclose(slope(xent.kl_divergence, targets), expected, rtol=1e-6)
    logs = jnp.log(targets)
    assert np.isnan(optax.losses.kl_divergence_with_log_targets(log_q, logs))
    ours = xent.kl_divergence_with_log_targets(log_q, logs)
    np.testing.assert_allclose(ours, np.log(2.0), rtol=1e-6)


def test_predictions_and_targets_of_zero_in_a_divergence():
    log_q, targets = jnp.float32([0.0, -INF]), jnp.float32([1.0, 0.0])
    assert np.isnan(optax.losses.kl_divergence(log_q, targets))
    assert xent.kl_divergence(log_q, targets) == 0


def test_infinite_logits_of_a_binary_loss():
    logits, labels = jnp.float32([INF, -INF]), jnp.float32([1.0, 0.0])
    for name in ("sigmoid_binary_cross_entropy", "sigmoid_focal_loss"):
        theirs, _ = value_and_gradient(getattr(optax.losses, name), logits, labels)
        assert np.all(np.isnan(theirs))
        ours, gradient = value_and_gradient(getattr(xent, name), logits, labels)
        np.testing.assert_array_equal(ours, [0, 0])
        np.testing.assert_array_equal(gradient, [0, 0])


def test_binary_labels_that_are_no_labels():
    logits, labels = jnp.float32([2.0, 2.0]), np.array([-1, 2])
    theirs, gradient = value_and_gradient(optax.losses.sigmoid_binary_cross_entropy, logits, labels)
    np.testing.assert_allclose(theirs, [4.126928, -1.873072], rtol=1e-6)  # negative, unbounded
    assert np.all(np.isfinite(gradient))
    ours, gradient = value_and_gradient(xent.sigmoid_binary_cross_entropy, logits, labels)
    assert np.all(np.isnan(ours))
    assert np.all(np.isnan(gradient))


def test_slope_of_a_hard_label_in_the_focal_loss():
    def slope(loss):
        of_label = jax.grad(lambda y: loss(jnp.float32(3.0), y, alpha=None, gamma=0.5))
        return jax.jit(of_label)(jnp.float32(1))

    # (1 - p)^g (-z - g log(p) (1 - 2 p) / (1 - p)), of which the term of p is lost
    np.testing.assert_allclose(slope(optax.losses.sigmoid_focal_loss), -0.648034, rtol=1e-5)
    np.testing.assert_allclose(slope(xent.sigmoid_focal_loss), -0.754297, rtol=1e-5)


def test_digits_of_a_small_dice_loss():
    logits, labels = np.float32([[16.0, 17.0, -16.0]]), np.array([[1, 1, 0]])
    miss, false_alarm = np.exp(-16.0) + np.exp(-17.0), np.exp(-16.0)
    exact = (miss + false_alarm) / 2 / 3
    theirs = optax.losses.binary_dice_loss(logits, labels)
    assert abs(theirs[0] / exact - 1) > 0.1
    ours = jax.jit(xent.binary_dice_loss)(logits, labels)
    np.testing.assert_allclose(ours, [exact], rtol=1e-5)


def test_squared_error_is_another_loss():
    logits, targets, labels = draw()
    assert optax.squared_error(logits, targets).shape == logits.shape
    assert xent.squared_error(logits, labels).shape == labels.shape
    with pytest.raises(TypeError):  # so that a swapped import is told
        xent.squared_error(logits, targets)


# ------------------------------------------------------------------------ segments and smoothing


def draw_segments():
    rng = np.random.default_rng(0)
    labels = one_hot(np.array([rng.permutation([0, 0, 0, 1, 1, 2]) for _ in range(2)]), 3)
    logits = 2.0 * rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    return logits, labels.reshape(logits.shape).astype(np.float32)


def test_the_import_of_segment_losses_can_be_swapped():
    logits, labels = draw_segments()
    ours, theirs = xent.dice_loss, optax.losses.dice_loss
    assert_same(ours, theirs, logits, labels)
    weights = np.float32([0.5, 1.0, 3.0])
    keywords = {"class_weights": weights, "alpha": 0.3, "beta": 0.7, "smooth": 0.1}
    assert_same(ours, theirs, logits, labels, **keywords, ignore_background=True)

    def mean(*arguments, **keywords):
        return xent.multiclass_generalized_dice_loss(*arguments, **keywords).mean()

    theirs = optax.losses.multiclass_generalized_dice_loss
    assert_same(mean, theirs, logits, labels)
    assert_same(mean, theirs, logits, labels, smooth=0.1, ignore_background=True)


def test_a_class_that_a_batch_lacks_has_nearly_all_weight_in_a_dice_loss():
    logits, labels = draw_segments()
    logits = np.concatenate([logits, np.full((2, 2, 3, 1), -30, np.float32)], axis=-1)
    labels = np.concatenate([labels, np.zeros((2, 2, 3, 1), np.float32)], axis=-1)
    _, theirs = value_and_gradient(optax.losses.multiclass_generalized_dice_loss, logits, labels)
    _, ours = value_and_gradient(xent.multiclass_generalized_dice_loss, logits, labels)
    assert np.abs(theirs).max() < 1e-6  # nothing is learned of the classes that are there
    assert np.abs(ours).max() > 1e-2


def test_the_import_of_smoothing_can_be_swapped():
    _, targets, _ = draw()
    ours, theirs = xent.smooth_labels, optax.smooth_labels
    assert_same(ours, theirs, targets, 0.1)
    assert_same(ours, theirs, targets, 0.3, axis=(0, 1))
    assert_same(ours, theirs, targets, 0.3, axis=None)
    where = np.array([True, True, False, True, False])
    where = np.broadcast_to(where, targets.shape)
    kept = np.where(where, targets, 0)
    both = [f(jnp.asarray(kept), 0.3, where=where) for f in (ours, theirs)]
    np.testing.assert_allclose(both[0], np.where(where, both[1], 0), rtol=1e-6)
    np.testing.assert_allclose(both[1][~where], 0.1)  # what cannot occur gets a share
    np.testing.assert_allclose(both[0].sum(-1), 0.7 * kept.sum(-1) + 0.3, rtol=1e-6)


NOT_OURS = {
    "convex_kl_divergence": "deprecated name of generalized_kl_divergence",
    "cosine_distance": "of embeddings: 1 - cosine_similarities",
    "cosine_similarity": "cosine_similarities, of features and class weights",
    "ctc_loss_with_forward_probs": "internals of ctc_loss",
    "huber_loss": "regression",
    "l2_loss": "regression",
    "log_cosh": "regression",
    "make_fenchel_young_loss": "sparsemax, entmax and perceptron losses are here by name",
    "safe_softmax_cross_entropy": "softmax_cross_entropy is safe",
}


def test_what_is_in_optax_is_here_or_left_out_for_a_reason():
    names = {name for name in dir(optax.losses) if not name.startswith("_")}
    assert names - set(xent.losses.__all__) == NOT_OURS.keys()
