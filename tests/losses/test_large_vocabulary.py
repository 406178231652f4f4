"""Sampled and two-level softmax: what they estimate, exactly, and beside PyTorch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.large_vocabulary import tails
from tests.losses.cases.row import cross_entropy, softmax

CLASSES, WIDTH = 5, 3
SAMPLED = [xent.sampled_softmax, xent.noise_contrastive_estimation]
both = pytest.mark.parametrize("loss", SAMPLED, ids=lambda loss: loss.__name__)


def layer(examples=4, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(examples, WIDTH)).astype(np.float32)
    weights = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    return features, rng.integers(0, CLASSES, examples).astype(np.int32), weights


def test_sampled_softmax_is_stationary_where_the_loss_of_all_classes_is():
    rng = np.random.default_rng(0)
    p, (q,) = softmax(rng.normal(size=CLASSES)), rng.uniform(0.2, 0.9, (1, CLASSES))
    drawn = np.array(list(itertools.product([False, True], repeat=CLASSES)))
    labels, sets = (grid.ravel() for grid in np.indices((CLASSES, len(drawn))))
    # A class that is not drawn is replaced by the label, which is left out of the samples.
    samples = np.where(drawn[sets], np.arange(CLASSES), labels[:, None])
    weights = p[labels] * np.where(drawn[sets], q, 1.0 - q).prod(-1)

    def expected_loss(biases, log_counts):
        nothing = np.zeros((len(labels), 1)), labels, np.zeros((CLASSES, 1)), samples, log_counts
        return jnp.vdot(xent.sampled_softmax(*nothing, biases=biases), weights)

    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(expected_loss))
        np.testing.assert_allclose(slope(np.log(p), np.log(q)), np.zeros(CLASSES), atol=1e-12)
        assert np.abs(slope(np.log(p), np.zeros(CLASSES))).max() > 1e-3


def test_a_number_added_to_all_log_counts_changes_nothing():
    features, labels, weights = layer()
    counts = np.log(np.arange(1.0, 1.0 + CLASSES, dtype=np.float32))
    sampled = jax.jit(xent.sampled_softmax)
    loss = sampled(features, labels, weights, np.array([0, 3]), counts)
    more = sampled(features, labels, weights, np.array([0, 3]), counts + 2.0)
    np.testing.assert_allclose(more, loss, rtol=1e-5)


def test_one_sample_estimates_the_odds_without_bias():
    features, labels, weights = layer()
    q = softmax(np.random.default_rng(1).normal(size=CLASSES)).astype(np.float32)
    samples = np.arange(CLASSES, dtype=np.int32)[:, None]
    losses = jax.jit(jax.vmap(xent.sampled_softmax, (None, None, None, 0, None)))(
        features, labels, weights, samples, np.log(q)
    )
    # exp(loss) - 1 is the odds against the label, of which Q(y) is taken out.
    odds = (q[:, None] * np.expm1(losses)).sum(0) / q[labels]
    p = np.exp(-cross_entropy(features @ weights.T, labels))
    np.testing.assert_allclose(odds, (1 - p) / p, rtol=1e-5)


def test_noise_contrastive_estimation_is_stationary_at_the_datas_log_probabilities():
    rng = np.random.default_rng(0)
    p, q = softmax(rng.normal(size=(2, CLASSES))).astype(np.float32)
    labels, noise = np.indices((CLASSES, CLASSES)).astype(np.int32)

    def expected_loss(biases):
        losses = xent.noise_contrastive_estimation(
            jnp.zeros((CLASSES**2, 1)),
            labels.ravel(),
            jnp.zeros((CLASSES, 1)),
            noise.reshape(-1, 1),
            jnp.log(q),
            biases=biases,
        )
        return jnp.vdot(losses, (p[:, None] * q[None]).ravel())

    gradient = jax.jit(jax.grad(expected_loss))
    np.testing.assert_allclose(gradient(jnp.log(p)), np.zeros(CLASSES), atol=1e-6)
    assert np.abs(gradient(jnp.log(p) + 1.0)).max() > 1e-2  # it finds the normaliser too


@both
def test_shared_samples_are_the_same_for_every_example(loss):
    features, labels, weights = layer()
    samples, counts = np.array([3, 1, 1], np.int32), np.zeros(CLASSES, np.float32)
    loss = jax.jit(loss)
    shared = loss(features, labels, weights, samples, counts)
    own = loss(features, labels, weights, np.tile(samples, (4, 1)), counts)
    np.testing.assert_allclose(shared, own, rtol=1e-6)


def test_a_sample_that_is_the_label_is_left_out():
    features, labels, weights = layer()
    counts = np.zeros(CLASSES, np.float32)
    only_hits = np.repeat(labels[:, None], 3, 1)
    loss, gradient = jax.jit(
        jax.value_and_grad(
            lambda w: xent.sampled_softmax(features, labels, w, only_hits, counts).sum()
        )
    )(weights)
    assert loss == 0.0
    assert np.all(gradient == 0.0)


@both
def test_masked_examples_and_wrong_indices(loss):
    features, labels, weights = layer()
    where = np.array([True, False, True, True])
    samples, counts = np.array([[0, 4]] * 4, np.int32), np.zeros(CLASSES, np.float32)

    @jax.jit
    def gradients_and_losses(features, weights, labels, samples):
        def total(features, weights):
            losses = loss(features, labels, weights, samples, counts, where=where)
            return losses.sum(), losses

        return jax.grad(total, (0, 1), has_aux=True)(features, weights)

    expected, clean = gradients_and_losses(features, weights, labels, samples)
    dirty, wrong, drawn = features.copy(), labels.copy(), samples.copy()
    dirty[1], wrong[1], drawn[1] = np.nan, -1, 77
    gradients, losses = gradients_and_losses(dirty, weights, wrong, drawn)
    np.testing.assert_array_equal(losses, clean)
    assert clean[1] == 0.0
    assert jax.tree.all(jax.tree.map(np.array_equal, gradients, expected))
    assert np.all(gradients[0][1] == 0)
    wrong, drawn = labels.copy(), samples.copy()
    wrong[0], drawn[2, 1] = CLASSES, CLASSES
    loss = jax.jit(loss)
    losses = loss(features, wrong, weights, drawn, counts)
    np.testing.assert_array_equal(np.isnan(losses), [True, False, True, False])
    assert np.all(np.isnan(loss(features, labels, weights, np.array([1, -1], np.int32), counts)))


@both
def test_rows_that_are_no_candidates_have_gradient_zero(loss):
    features, _, weights = layer()
    labels, samples = np.array([0, 1, 1, 0], np.int32), np.array([2, 2], np.int32)
    gradient = jax.jit(
        jax.grad(lambda w: loss(features, labels, w, samples, jnp.zeros(CLASSES)).sum())
    )(weights)
    np.testing.assert_array_equal(gradient.any(-1), [True, True, True, False, False])


@both
def test_arguments_that_do_not_fit_are_told(loss):
    features, labels, weights = layer()
    samples, counts = np.array([0, 4], np.int32), np.zeros(CLASSES, np.float32)
    with pytest.raises(ValueError, match=r"features must have shape \(B, 3\)"):
        loss(features[:, :2], labels, weights, samples, counts)
    with pytest.raises(ValueError, match="labels must have shape"):
        loss(features, labels[:3], weights, samples, counts)
    with pytest.raises(ValueError, match="sampled must have shape"):
        loss(features, labels, weights, samples[None], counts)
    with pytest.raises(ValueError, match="log_expected_counts must have shape"):
        loss(features, labels, weights, samples, counts[1:])
    with pytest.raises(TypeError):
        loss(features, labels, weights, counts, counts)


def two_levels(examples=9):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(examples, 4)).astype(np.float32)
    return features, rng.normal(size=(4, 4)).astype(np.float32), tails(4)


def test_the_two_level_loss_is_minus_the_log_probability_with_the_same_gradients():
    features, head, rest = two_levels()
    labels = np.arange(9, dtype=np.int32)

    def loss(features, head, rest):
        return xent.adaptive_softmax(features, labels, head, **rest).sum()

    def plain(features, head, rest):
        log_p = xent.adaptive_softmax_log_probabilities(features, head, **rest)
        return -jnp.trace(log_p)

    ours, theirs = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(features, head, rest) for f in (loss, plain)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_two_level_masks_and_labels_outside():
    features, head, rest = two_levels(4)
    labels = np.array([0, 9, -1, 8], np.int32)
    where = np.array([True, True, False, True])
    features[2] = np.nan

    def total(features, head):
        losses = xent.adaptive_softmax(features, labels, head, where=where, **rest)
        return jnp.where(jnp.isnan(losses), 0.0, losses).sum(), losses

    (of_features, _), losses = jax.jit(jax.grad(total, (0, 1), has_aux=True))(features, head)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False, False])
    assert losses[2] == 0.0
    assert np.all(of_features[2] == 0)
    with pytest.raises(ValueError, match="head must have shape"):
        xent.adaptive_softmax(features, labels, head[:2], **rest)
    with pytest.raises(ValueError, match="a tail must have shapes"):
        xent.adaptive_softmax(features, labels, head, [(head, head[:, :2])])
    with pytest.raises(ValueError, match="head_bias must have shape"):
        xent.adaptive_softmax(features, labels, head, [], head_bias=np.zeros(3, np.float32))


def test_agrees_with_pytorchs_adaptive_softmax():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], div_value=2.0, head_bias=True)
    features = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    labels = np.array([0, 2, 3, 6, 7, 11], np.int32)
    head = module.head.weight.detach().numpy()
    weights = [tuple(p.detach().numpy() for p in tail.parameters()) for tail in module.tail]
    bias = module.head.bias.detach().numpy()
    x = torch.from_numpy(features.copy()).requires_grad_()
    theirs = module(x, torch.from_numpy(labels.astype(np.int64)))
    theirs.loss.backward()

    def mean(features, head):
        losses = xent.adaptive_softmax(features, labels, head, weights, head_bias=bias)
        return losses.mean(), losses

    (of_features, of_head), losses = jax.jit(jax.grad(mean, (0, 1), has_aux=True))(features, head)
    np.testing.assert_allclose(losses, -theirs.output.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(of_features, x.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(of_head, module.head.weight.grad.numpy(), atol=1e-6)
    log_p = xent.adaptive_softmax_log_probabilities(features, head, weights, head_bias=bias)
    np.testing.assert_allclose(log_p, module.log_prob(x).detach().numpy(), atol=1e-5)
