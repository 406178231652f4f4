"""What the papers prove of distillation, consistency and mixtures, and what the matrix misses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.row import label_probability, one_hot, softmax
from tests.losses.cases.transfer import KEY, logits_labels_and_teacher, two_logits
from xent_jax.losses.transfer import MixedLabels

RNG = np.random.default_rng(3)
LOGITS, LABELS, TEACHER = (
    x.astype(np.float32 if x.dtype == np.float64 else np.int32)
    for x in logits_labels_and_teacher(RNG, 6, 5)
)
INF = np.inf


def gradient(loss, *arguments):
    return jax.jit(jax.grad(lambda *z: jnp.sum(loss(*z)), tuple(range(len(arguments)))))(*arguments)


@pytest.mark.parametrize(("temperature", "tolerance"), [(1e2, 2e-2), (1e4, 1e-3)])
def test_distillation_matches_logits_at_high_temperature(temperature, tolerance):
    """Equation 4 of Hinton et al., whose gradient our T^2 makes independent of T."""

    def loss(z):
        return xent.distillation(z, LABELS, TEACHER, temperature=temperature, label_weight=0.0)

    gap = LOGITS - LOGITS.mean(-1, keepdims=True) - TEACHER + TEACHER.mean(-1, keepdims=True)
    np.testing.assert_allclose(gradient(loss, LOGITS)[0], gap / 5, rtol=0.05, atol=2 * tolerance)
    np.testing.assert_allclose(jax.jit(loss)(LOGITS), (gap**2).sum(-1) / 10, rtol=3 * tolerance)


def test_divergences_of_nearly_equal_predictions_keep_their_digits():
    logits = 20.0 + 3.0 * RNG.normal(size=(50, 5))
    moved = logits + 1e-4 * RNG.normal(size=(50, 5))
    near, moved = logits.astype(np.float32), moved.astype(np.float32)
    p, q = softmax(np.float64(near)), softmax(np.float64(moved))
    consistency = jax.jit(xent.consistency)
    ours = np.asarray(consistency(moved, near))
    exact = (p * np.log(p / q)).sum(-1)
    np.testing.assert_allclose(ours, exact, atol=1e-10)
    assert np.all(ours >= 0)
    assert np.all(np.asarray(consistency(near, near)) < 1e-12)
    mixture = (p + q) / 2
    exact = 0.5 * (p * np.log(p / mixture) + q * np.log(q / mixture)).sum(-1)
    ours = jax.jit(xent.jensen_shannon_consistency)(near, moved)
    np.testing.assert_allclose(ours, exact, atol=1e-10)


def test_decoupled_distillation_recouples():
    """Equation 6 of Zhao et al.: with beta = 1 - t_y it is the classical distillation."""
    rest = 1.0 - label_probability(TEACHER / 4.0, LABELS)

    def decoupled(z, y, a, beta):
        return xent.decoupled_distillation(z, y, a, beta=beta, label_weight=0.5)

    ours = jax.jit(jax.vmap(decoupled))(LOGITS, LABELS, TEACHER, rest.astype(np.float32))
    classical = jax.jit(lambda z: xent.distillation(z, LABELS, TEACHER, temperature=4.0))(LOGITS)
    np.testing.assert_allclose(ours, classical, rtol=1e-5)


def test_decoupled_distillation_learns_from_a_sure_teacher():
    teacher = np.array([[60.0, 1.0, 0.0, -1.0]], np.float32)
    student = np.zeros((1, 4), np.float32)
    y = np.array([0])
    weights = {"temperature": 1.0, "label_weight": 0.0}
    (plain,) = gradient(lambda z: xent.distillation(z, y, teacher, **weights), student)
    (ours,) = gradient(lambda z: xent.decoupled_distillation(z, y, teacher, **weights), student)
    others = softmax(teacher[:, 1:])
    np.testing.assert_allclose(plain[:, 1:], np.full((1, 3), 0.25), rtol=1e-6)
    np.testing.assert_allclose(ours[:, 1:], 0.25 + 8.0 * (1 / 3 - others), rtol=1e-5)


def test_jensen_shannon_distillation_tends_to_both_divergences():
    """Section 2 of Agarwal et al."""
    z, a = np.float64(LOGITS), np.float64(TEACHER)

    @jax.jit
    def results(beta):
        def total(beta):
            losses = xent.jensen_shannon_distillation(z, LABELS, a, beta=beta)
            return losses.sum(), losses

        return jax.grad(total, has_aux=True)(beta)

    with jax.enable_x64(True):
        forward, reverse = (results(beta)[1] / 1e-6 for beta in (1e-6, 1.0 - 1e-6))
        consistency = jax.jit(xent.consistency)
        np.testing.assert_allclose(forward, consistency(z, a), rtol=1e-3)
        np.testing.assert_allclose(reverse, consistency(a, z), rtol=1e-3)
        np.testing.assert_allclose(results(0.0)[0], consistency(z, a).sum(), rtol=1e-9)


def test_jensen_shannon_is_bounded_where_predictions_exclude_one_another():
    views = 200.0 * np.eye(3, dtype=np.float32)[:, None]
    loss = jax.jit(xent.jensen_shannon_consistency)
    np.testing.assert_allclose(loss(*views), np.log(3.0), rtol=1e-6)
    excluded = np.where(views > 0, 0.0, -INF).astype(np.float32)
    np.testing.assert_allclose(loss(*excluded), np.log(3.0), rtol=1e-6)
    for slope in gradient(xent.jensen_shannon_consistency, *excluded):
        np.testing.assert_allclose(slope, 0.0, atol=1e-6)


EXTREME = np.array(
    [[1e4, -1e4, 0, 0], [0, 0, 0, 0], [-INF, 0, 1, 2], [-INF, -INF, 0, 3], [-1e4, 1e4, 5, -INF]],
    np.float32,
)
EXTREME_TEACHER = np.array(
    [[-1e4, 1e4, 0, 0], [5, 0, 0, 0], [-INF, 2, 1, 0], [-INF, -INF, 1, 0], [1e4, 0, -1e4, -INF]],
    np.float32,
)
PAIRS = {
    "distillation": lambda z, a: xent.distillation(z, np.full(5, 3), a, label_weight=0.0),
    "jensen_shannon_distillation": lambda z, a: xent.jensen_shannon_distillation(
        z, np.full(5, 2), a
    ),
    "decoupled_distillation": lambda z, a: xent.decoupled_distillation(z, np.full(5, 2), a),
    "consistency": xent.consistency,
    "fixmatch": lambda z, a: xent.fixmatch(z, a, threshold=0.0),
    "jensen_shannon_consistency": xent.jensen_shannon_consistency,
    "trades": lambda z, a: xent.trades(z, np.full(5, 2), a),
    "entropy_minimisation": lambda z, a: xent.entropy_minimisation(z),
    "pseudo_label": lambda z, a: xent.pseudo_label(z),
}


@pytest.mark.parametrize("name", PAIRS)
def test_extreme_logits_and_classes_that_cannot_occur(name):
    losses = jax.jit(PAIRS[name])
    with np.errstate(all="ignore"):
        loss = losses(EXTREME, EXTREME_TEACHER)
        gradients = gradient(PAIRS[name], EXTREME, EXTREME_TEACHER)
    assert not np.any(np.isnan(loss))
    for slope in gradients:
        assert not np.any(np.isnan(slope))
        assert np.all(slope[np.isneginf(EXTREME) & np.isneginf(EXTREME_TEACHER)] == 0)
    lost = np.full((5, 4), -INF, np.float32)
    assert np.all(np.isnan(losses(lost, EXTREME_TEACHER)))


@pytest.mark.parametrize("name", ["distillation", "decoupled_distillation"])
def test_the_temperature_has_a_finite_slope_beside_classes_that_cannot_occur(name):
    loss = getattr(xent, name)
    (slope,) = gradient(
        lambda t: loss(EXTREME[2:4], np.array([2, 2]), EXTREME_TEACHER[2:4], temperature=t), 2.0
    )
    assert np.isfinite(slope)


def test_a_label_that_cannot_occur_does_not_show_where_labels_do_not_count():
    z, y = np.array([[-INF, 0.0, 1.0]], np.float32), np.array([0])
    teacher = np.array([[-INF, 1.0, 0.0]], np.float32)
    loss = jax.jit(lambda z: xent.distillation(z, y, teacher, label_weight=0.0))(z)
    assert np.isfinite(loss)


def test_labels_outside_the_classes_give_nan_and_a_nan_gradient():
    labels = np.array([-1, 5, 0, 1, 2, 3])
    outside = np.array([True, True, False, False, False, False])
    for name in ("distillation", "jensen_shannon_distillation", "decoupled_distillation"):
        loss = getattr(xent, name)
        assert np.array_equal(np.isnan(jax.jit(loss)(LOGITS, labels, TEACHER)), outside)
        (slope,) = gradient(lambda z, loss=loss: loss(z, labels, TEACHER), LOGITS)
        assert np.array_equal(np.isnan(slope).any(-1), outside)


def test_arguments_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"teacher_logits must have the logits' shape"):
        xent.distillation(LOGITS, LABELS, TEACHER[:, :4])
    with pytest.raises(TypeError):
        xent.fixmatch(LOGITS, LABELS)
    with pytest.raises(ValueError, match="at least two views"):
        xent.jensen_shannon_consistency(LOGITS)
    with pytest.raises(ValueError, match="at least two views"):
        xent.augmix(LOGITS, LABELS)
    with pytest.raises(ValueError, match="labels must be as many as the images"):
        xent.mixup(KEY, LOGITS, LABELS[:3])
    with pytest.raises(ValueError, match="alpha must lie in"):
        xent.mixup(KEY, LOGITS, LABELS, alpha=0.0)
    with pytest.raises(ValueError, match=r"images must have shape \(B, height, width"):
        xent.cutmix(KEY, LOGITS, LABELS)


# ------------------------------------------------------------------ the model's own predictions


def test_entropy_minimisation_leads_to_a_decision_and_rests_at_an_even_prediction():
    slope = jax.jit(jax.grad(lambda z: xent.entropy_minimisation(z)))
    z = np.array([0.3, 0.0, 0.0], np.float32)
    for _ in range(200):
        z = z - 2.0 * np.asarray(slope(z))
    assert softmax(z)[0] > 0.99
    assert np.all(slope(np.zeros(3, np.float32)) == 0)


def test_fixmatch_takes_the_sure_guesses_alone():
    confidences = np.array([0.94, 0.9501, 0.99, 0.5])
    weak = np.log(np.stack([confidences, 1.0 - confidences], -1)).astype(np.float32)
    logits = RNG.normal(size=(4, 2)).astype(np.float32)
    sure = np.array([False, True, True, False])
    p = softmax(logits)
    loss = jax.jit(xent.fixmatch)(logits, weak)
    slope, weak_slope = gradient(xent.fixmatch, logits, weak)
    np.testing.assert_allclose(loss, np.where(sure, -np.log(p[:, 0]), 0.0), rtol=1e-5)
    expected = np.where(sure[:, None], p - one_hot([0, 0, 0, 0], 2), 0.0)
    np.testing.assert_allclose(slope, expected, atol=1e-6)
    assert np.all(weak_slope == 0)


def test_fixmatch_does_not_take_nan_for_doubt():
    weak = np.array([[np.nan, 0.0], [9.0, 0.0]], np.float32)
    loss = jax.jit(xent.fixmatch)(np.zeros((2, 2), np.float32), weak)
    assert np.isnan(loss[0])
    assert np.isfinite(loss[1])
    (slope,) = gradient(lambda z: xent.fixmatch(z, weak), np.zeros((2, 2), np.float32))
    assert np.array_equal(np.isnan(slope).any(-1), [True, False])


def test_fixmatch_takes_the_first_of_equal_guesses():
    weak = np.array([[0.0, 4.0, 4.0]], np.float32)
    loss = jax.jit(lambda z: xent.fixmatch(z, weak, threshold=0.4))(
        np.array([[0.0, 1.0, 2.0]], np.float32)
    )
    np.testing.assert_allclose(loss, -np.log(softmax(np.array([0.0, 1.0, 2.0]))[1]), rtol=1e-6)


def test_masks_of_what_has_no_gradient_in_all_its_arguments():
    where = np.array([True, False, True, False, False, True])
    for loss in (xent.fixmatch, lambda z, u, **k: xent.multi_task_uncertainty(z[:, 0], 0.3, **k)):
        dirty = [np.where(where[:, None], z, np.nan) for z in (LOGITS, TEACHER)]
        values = np.asarray(jax.jit(loss)(*dirty, where=where))
        assert np.all(values[~where] == 0)
        np.testing.assert_array_equal(values[where], jax.jit(loss)(LOGITS, TEACHER)[where])
        slopes = gradient(lambda *z, loss=loss: loss(*z, where=where), *dirty)
        assert all(np.all(np.isfinite(slope)) for slope in slopes)
        assert np.all(slopes[0][~where] == 0)


# ------------------------------------------------------------------ mixtures


@pytest.mark.parametrize("mix", [xent.mixup, xent.cutmix])
def test_mixtures_pair_every_image_once_and_leave_padding_alone(mix):
    images = RNG.normal(size=(7, 6, 5, 3)).astype(np.float32)
    where = np.array([True, True, False, True, True, False, True])
    labels = np.arange(7)
    for seed in range(5):
        mixed, target = jax.jit(mix)(jax.random.key(seed), images, labels, where=where)
        partners = np.asarray(target.other_labels)
        assert sorted(partners[where]) == sorted(labels[where])
        assert np.array_equal(partners[~where], labels[~where])
        np.testing.assert_allclose(mixed[~where], images[~where], rtol=1e-5)
    _, target = jax.jit(mix)(jax.random.key(0), images, labels)
    assert sorted(np.asarray(target.other_labels)) == list(labels)


def test_the_share_of_mixup_is_beta_distributed():
    draw = jax.vmap(lambda key: xent.mixup(key, np.zeros((2, 1)), np.zeros(2, int), alpha=0.2))
    share = np.asarray(jax.jit(draw)(jax.random.split(KEY, 4000))[1].share)
    assert abs(share.mean() - 0.5) < 0.03
    assert abs(share.var() - 1 / (4 * 1.4)) < 0.01  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_cutmix_pastes_a_rectangle_of_the_area_it_tells():
    images = np.stack([np.zeros((9, 7)), np.ones((9, 7))]).astype(np.float32)
    cutmix, areas, shares = jax.jit(xent.cutmix), [], []
    for seed in range(20):
        mixed, target = cutmix(jax.random.key(seed), images, np.array([0, 1]))
        if target.other_labels[0] == 0:
            continue
        pasted = np.asarray(mixed[0]) == 1
        rows, columns = pasted.any(1), pasted.any(0)
        assert np.array_equal(pasted, rows[:, None] & columns[None])
        assert all(np.sum(np.diff(np.int32(line)) != 0) <= 2 for line in (rows, columns))
        np.testing.assert_array_equal(mixed[1], 1.0 - mixed[0])
        areas.append(pasted.mean())
        shares.append(1.0 - target.share)
    np.testing.assert_allclose(areas, shares, rtol=1e-6)
    assert len(areas) > 3
    assert np.std(areas) > 0.05


def test_mixed_cross_entropy_is_that_of_the_mixed_label():
    mixed = MixedLabels(LABELS, (LABELS + 2) % 5, np.float32(0.3))
    targets = 0.3 * one_hot(mixed.labels, 5) + 0.7 * one_hot(mixed.other_labels, 5)
    loss = xent.softmax_cross_entropy_with_integer_labels
    ours = jax.jit(lambda z: xent.mixed_loss(loss, z, mixed))(LOGITS)
    expected = jax.jit(xent.softmax_cross_entropy)(LOGITS, targets)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_mixed_loss_passes_the_mask_on():
    where = np.array([True, False] * 3)
    mixed = MixedLabels(LABELS, LABELS, np.float32(0.3))
    loss = jax.jit(lambda z: xent.mixed_loss(xent.mean_absolute_error, z, mixed, where=where))(
        LOGITS
    )
    assert np.array_equal(loss == 0, ~where)


# ------------------------------------------------------------------ several tasks


@pytest.mark.parametrize(("regression", "best"), [(False, 2.0), (True, 1.0)])
def test_the_best_variance_is_that_of_the_task(regression, best):
    """sigma^2 = 2 L for a cross-entropy, and L, the mean squared error, for a regression."""
    for loss in (0.2, 1.7):

        def weighted(s, loss=loss):
            return xent.multi_task_uncertainty(jnp.float32(loss), s, regression=regression)

        s = np.log(best * loss)
        np.testing.assert_allclose(jax.grad(weighted)(s), 0.0, atol=1e-6)
        assert weighted(s) < min(weighted(s - 0.1), weighted(s + 0.1))


def test_the_regression_form_is_the_gaussian_log_likelihood():
    residual, deviation = 1.3, 0.6
    density = np.exp(-(residual**2) / (2 * deviation**2)) / np.sqrt(2 * np.pi * deviation**2)
    ours = xent.multi_task_uncertainty(
        jnp.float32(residual**2), 2.0 * np.log(deviation), regression=True
    )
    np.testing.assert_allclose(ours + 0.5 * np.log(2 * np.pi), -np.log(density), rtol=1e-5)


def test_consistency_sharpens_its_target():
    z, u = (x.astype(np.float32) for x in two_logits(RNG, 4, 3))
    target = softmax(u) ** 2.5  # T = 0.4, as probabilities are sharpened
    target = (target / target.sum(-1, keepdims=True)).astype(np.float32)
    ours = jax.jit(lambda z, u: xent.consistency(z, u, target_temperature=0.4))(z, u)
    np.testing.assert_allclose(ours, xent.relative_entropy(target, softmax(z)), rtol=1e-4)
