"""What the matrix does not see of lists: masks of items, other axes, maps, scores of any size."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent

LOSSES = [xent.ranking_softmax_loss, xent.list_mle, xent.pairwise_logistic]
over_losses = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)

RNG = np.random.default_rng(0)
SCORES = np.float32(2 * RNG.normal(size=(4, 5)))
RELEVANCE = np.float32(RNG.integers(0, 3, size=(4, 5)))
WHERE = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, scores, relevance, where=None):
    value, pullback = jax.vjp(lambda z: loss(z, relevance, where=where), scores)
    return value, pullback(jnp.ones_like(value))[0]


@over_losses
def test_masked_items_have_no_influence_whatever_they_hold(loss):
    garbage = np.resize(np.float32([np.nan, np.inf, -np.inf, 1e30]), SCORES.shape)
    scores, relevance = (np.where(WHERE, x, garbage) for x in (SCORES, RELEVANCE))
    value, gradient = value_and_gradient(loss, scores, relevance, WHERE)
    gradient = np.asarray(gradient)
    assert np.all(gradient[~WHERE] == 0)
    assert np.all(np.isfinite(gradient))
    assert value[3] == 0
    for row in range(3):
        kept = WHERE[row]
        alone = SCORES[row, kept][None], RELEVANCE[row, kept][None]
        expected, slopes = value_and_gradient(loss, *alone)
        np.testing.assert_allclose(value[row], expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient[row, kept], slopes[0], rtol=1e-4, atol=1e-6)


@over_losses
def test_other_axes_and_maps(loss):
    @jax.jit
    def results(scores, relevance):
        empty = loss(jnp.zeros((0, 3)), jnp.zeros((0, 3), jnp.int32))
        transposed = loss(scores.T, relevance.T, axis=0)
        return loss(scores, relevance), transposed, jax.vmap(loss)(scores, relevance), empty

    expected, transposed, mapped, empty = results(SCORES, RELEVANCE)
    np.testing.assert_allclose(transposed, expected, rtol=1e-5)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    assert empty.shape == (0,)


@over_losses
def test_scores_of_any_size(loss):
    scores = np.float32([[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4, 1e4]])
    relevance = np.array([[2, 0, 1]] * 3)
    value, gradient = value_and_gradient(loss, scores, relevance)
    assert np.all(np.isfinite(value))
    assert np.all(value >= 0)
    assert np.all(np.isfinite(gradient))
    if loss is not xent.ranking_softmax_loss:  # which asks for shares, not for an order
        assert value[0] == 0


@over_losses
def test_a_constant_added_to_the_scores_changes_nothing(loss):
    scores, loss = np.round(SCORES * 4) / 4, jax.jit(loss)
    np.testing.assert_allclose(loss(scores, RELEVANCE), loss(scores + 64, RELEVANCE), rtol=1e-5)


def test_an_item_that_cannot_occur_and_is_not_relevant():
    scores, relevance = np.float32([[0.0, -np.inf, 0.0]]), np.float32([[1, 0, 0]])
    value, gradient = value_and_gradient(xent.ranking_softmax_loss, scores, relevance)
    np.testing.assert_allclose(value, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0, 0.5]])


def test_an_item_that_cannot_occur_is_last_or_makes_its_order_impossible():
    scores = np.float32([[1.0, -np.inf, 0.0], [1.0, -np.inf, 0.0], [-np.inf, -np.inf, 0.0]])
    relevance = np.float32([[2, 0, 1], [0, 2, 1], [1, 0, 2]])
    loss, gradient = value_and_gradient(xent.list_mle, scores, relevance)
    np.testing.assert_allclose(loss, [np.log1p(np.exp(-1.0)), np.inf, 0.0], rtol=1e-6)
    assert np.isfinite(gradient).all()
    pairs = jax.jit(xent.pairwise_logistic)(scores, relevance)
    expected = [np.log1p(np.exp(-1.0)), np.inf, np.log(2.0)]
    np.testing.assert_allclose(pairs, expected, rtol=1e-6)


def test_list_mle_is_the_likelihood_of_a_distribution_over_orders():
    orders = list(itertools.permutations(range(4)))
    scores = np.broadcast_to(SCORES[0, :4], (len(orders), 4))
    p = np.exp(-jax.jit(xent.list_mle)(scores, np.array(orders)))
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)


def test_agrees_with_optax():
    ranking = pytest.importorskip("optax").losses.ranking_softmax_loss
    theirs = jax.jit(functools.partial(ranking, reduce_fn=None))(SCORES, RELEVANCE)
    ours = jax.jit(xent.ranking_softmax_loss)(SCORES, RELEVANCE)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="labels must hold one value per item"):
        xent.pairwise_logistic(SCORES, RELEVANCE[0])
    with pytest.raises(ValueError, match="where must hold one value per item"):
        xent.list_mle(SCORES, RELEVANCE, where=WHERE[0])
    with pytest.raises(TypeError):
        xent.list_mle(SCORES, RELEVANCE, where=WHERE.astype(np.int32))
    with pytest.raises(ValueError, match="one shape"):
        xent.bayesian_personalised_ranking(SCORES, SCORES[0])
