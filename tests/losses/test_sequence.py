"""Tokens, repetitions and chains of tags: counts, padding, and every tag sequence there is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases import sequence as naive
from tests.losses.cases.row import cross_entropy, one_hot, softmax

WHERE = np.array([[True, True, True], [True, False, False], [False, False, False]])


def draw(seed=0, examples=3, classes=4):
    emissions, tags, transitions = naive.scores_and_tags(
        np.random.default_rng(seed), examples, classes
    )
    return emissions.astype(np.float32), tags.astype(np.int32), transitions.astype(np.float32)


def test_tokens_are_summed_and_counted_where_they_count():
    logits, labels, _ = draw()
    dirty = np.where(WHERE[..., None], logits, np.nan)
    wrong = np.where(WHERE, labels, -100)
    where = {"where": WHERE}

    def total(z, keywords):
        loss, count = xent.token_cross_entropy(z, wrong, **keywords)
        return loss.sum(), (loss, count)

    expected = (cross_entropy(logits, labels) * WHERE).sum(-1)
    masks = where, {"ignore_label": -100}, where | {"ignore_label": -100}
    results = jax.jit(lambda z: [jax.grad(total, has_aux=True)(z, mask) for mask in masks])(dirty)
    for gradient, (loss, count) in results:
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_array_equal(count, [3.0, 1.0, 0.0])
        assert np.all(gradient[~WHERE] == 0)
        assert np.all(gradient[WHERE].any(-1))
    unmasked = jax.jit(xent.token_cross_entropy)
    np.testing.assert_array_equal(unmasked(logits, labels)[1], [3.0, 3.0, 3.0])
    outside = unmasked(logits, wrong)[0]
    np.testing.assert_array_equal(np.isnan(outside), [False, True, True])


def test_the_perplexity_of_a_uniform_model_is_its_vocabulary():
    labels = np.arange(6, dtype=np.int32).reshape(2, 3)
    loss, count = jax.jit(xent.token_cross_entropy)(jnp.zeros((2, 3, 7)), labels)
    np.testing.assert_allclose(np.exp(loss / count), [7.0, 7.0], rtol=1e-6)
    with pytest.raises(ValueError, match="axis of tokens"):
        xent.token_cross_entropy(jnp.zeros(7), jnp.int32(1))


def test_unlikelihood_penalises_earlier_tokens_by_default():
    logits = np.random.default_rng(0).normal(size=(1, 4, 5)).astype(np.float32)
    labels = np.array([[2, 0, 2, 1]], np.int32)
    earlier = [[], [2], [0], [0, 2]]
    candidates = np.array([[[k in seen for k in range(5)] for seen in earlier]])
    where = np.array([[True, False, True, True]])
    counting = candidates.copy()
    counting[0, :, 0] = False  # the token that does not count

    @jax.jit
    def results(z):
        moved = xent.unlikelihood(jnp.moveaxis(z, -1, 1), labels, axis=1)
        every = xent.unlikelihood(z, labels, candidates), xent.unlikelihood(z, labels), moved
        given = xent.unlikelihood(z, labels, counting, where=where)
        return *every, given, xent.unlikelihood(z, labels, where=where)

    expected, ours, moved, given, masked = results(logits)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)
    np.testing.assert_allclose(masked, given, rtol=1e-6)


@pytest.mark.parametrize("gap", [0.0, 5.0, 30.0, 300.0])
def test_unlikelihood_keeps_its_digits_where_the_model_is_sure_of_a_repetition(gap):
    logits = np.array([[gap, 0.0, 0.0, -np.inf]], np.float32)
    candidates = np.array([[True, False, True, True]])

    def penalty(z):
        both = xent.unlikelihood(z, np.array([1], np.int32), candidates)
        return (both - xent.unlikelihood(z, np.array([1], np.int32), candidates, alpha=0.0))[0]

    value, gradient = jax.jit(jax.value_and_grad(penalty))(logits)
    e = np.exp(np.longdouble(gap))
    p = np.array([e, 1.0, 1.0]) / (e + 2.0)
    expected = np.log(e + 2.0) - np.log(np.longdouble(2.0)) - np.log1p(-p[2])
    odds = p[2] / (1 - p[2])
    slopes = p[0] * np.array([1.0, -0.5, -0.5]) + odds * (np.array([0.0, 0.0, 1.0]) - p)
    np.testing.assert_allclose(value, np.float64(expected), rtol=1e-6)
    np.testing.assert_allclose(gradient[0], [*slopes.astype(float), 0.0], rtol=1e-5, atol=1e-7)


def test_unlikelihood_of_the_only_class_is_infinite_and_masks():
    only = jax.jit(xent.unlikelihood)(
        np.zeros((1, 1), np.float32), np.zeros(1, np.int32), np.ones((1, 1), bool)
    )
    assert np.isposinf(only[0])
    logits = np.array([[np.nan, 1.0], [2.0, 1.0]], np.float32)

    @jax.jit
    @jax.grad
    def slope(z):
        labels, where = np.array([-1, 0], np.int32), np.array([False, True])
        return xent.unlikelihood(z, labels, np.ones((2, 2), bool), where=where).sum()

    gradient = slope(logits)
    assert np.all(gradient[0] == 0)
    assert np.all(np.isfinite(gradient[1]))
    with pytest.raises(ValueError, match="candidates must have the logits' shape"):
        xent.unlikelihood(logits, np.zeros(2, np.int32), np.ones((2, 3), bool))


def test_the_probabilities_of_all_tag_sequences_sum_to_one():
    emissions, _, transitions = draw(examples=1, classes=3)
    tags = np.array(list(itertools.product(range(3), repeat=3)), np.int32)
    every = np.repeat(emissions, len(tags), 0)
    loss = jax.jit(xent.linear_chain_crf)(every, tags, transitions)
    np.testing.assert_allclose(np.exp(-loss).sum(), 1.0, rtol=1e-6)
    best, score = jax.jit(xent.viterbi_decode)(emissions, transitions)
    np.testing.assert_array_equal(best[0], tags[np.argmin(loss)])
    np.testing.assert_allclose(score, naive.score(emissions, best[0].tolist(), transitions), 1e-6)


def test_the_gradient_is_what_is_expected_less_what_was_seen():
    emissions, tags, transitions = draw()

    @jax.jit
    def gradients_and_marginals(emissions, transitions):
        total = lambda e, a: xent.linear_chain_crf(e, tags, a, where=WHERE).sum()  # noqa: E731
        p = xent.linear_chain_marginals(emissions, transitions, where=WHERE)
        return *jax.grad(total, (0, 1))(emissions, transitions), p

    of_emissions, of_transitions, p = gradients_and_marginals(emissions, transitions)
    seen = one_hot(tags, 4) * WHERE[..., None]
    np.testing.assert_allclose(of_emissions, p - seen, atol=1e-6)
    np.testing.assert_allclose(p.sum(-1), WHERE, atol=1e-6)
    # Two steps in the first sequence are all there are.
    sequences, scores = naive.all_scores(emissions[:1], transitions)
    weights = softmax(scores[:, 0].astype(np.float64))
    pairs = np.zeros((4, 4))
    for y, weight in zip(sequences, weights, strict=True):
        np.add.at(pairs, (y[:-1], y[1:]), weight)
    np.add.at(pairs, (tags[0, :-1], tags[0, 1:]), -1.0)
    np.testing.assert_allclose(of_transitions, pairs, atol=1e-6)


def test_positions_that_do_not_count_have_no_influence():
    emissions, tags, transitions = draw()
    dirty = np.where(WHERE[..., None], emissions, np.nan)
    wrong = np.where(WHERE, tags, 99)

    @jax.jit
    def all_of(emissions, transitions):
        def total(emissions, transitions):
            loss = xent.linear_chain_crf(emissions, wrong, transitions, where=WHERE)
            return loss.sum(), loss

        gradients, loss = jax.grad(total, (0, 1), has_aux=True)(emissions, transitions)
        best, score = xent.viterbi_decode(emissions, transitions, where=WHERE)
        return loss, gradients, best, score

    loss, (of_emissions, of_transitions), best, score = all_of(dirty, transitions)
    expected = [
        naive.linear_chain_crf(emissions[:1], tags[:1], transitions)[0],
        cross_entropy(emissions[1, 0], tags[1, 0]),
        0.0,
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.all(of_emissions[~WHERE] == 0)
    assert np.all(np.isfinite(of_transitions))
    np.testing.assert_array_equal(best[1:], [[emissions[1, 0].argmax(), -1, -1], [-1, -1, -1]])
    np.testing.assert_allclose(score[1:], [emissions[1, 0].max(), 0.0], rtol=1e-6)
    gap = WHERE[:, ::-1]

    @jax.jit
    def with_gap(emissions, transitions):
        return (
            xent.linear_chain_crf(emissions, tags, transitions, where=gap),
            xent.linear_chain_marginals(emissions, transitions, where=gap).sum((1, 2)),
            xent.viterbi_decode(emissions, transitions, where=gap)[1],
        )

    for result in with_gap(emissions, transitions):
        np.testing.assert_array_equal(np.isnan(result), [False, True, False])


def test_a_tag_outside_the_classes_gives_nan_in_its_sequence_alone():
    emissions, tags, transitions = draw()
    tags[1, 2] = 4
    tags[2, 0] = -1

    @jax.jit
    def gradient_and_losses(emissions):
        def one(emissions):
            losses = xent.linear_chain_crf(emissions, tags, transitions)
            return losses[1], losses

        return jax.grad(one, has_aux=True)(emissions)

    gradient, losses = gradient_and_losses(emissions)
    assert np.all(np.isnan(gradient[1]).any(-1))
    np.testing.assert_array_equal(np.isnan(losses), [False, True, True])


def test_steps_that_must_not_follow():
    emissions, _, transitions = draw(examples=2, classes=2)
    transitions[1, 0] = -np.inf
    tags = np.array([[0, 1, 1], [0, 1, 0]], np.int32)

    @jax.jit
    def gradients(emissions, transitions):
        def total(emissions, transitions):
            loss = xent.linear_chain_crf(emissions, tags, transitions)
            return loss[0], loss

        return jax.grad(total, (0, 1), has_aux=True)(emissions, transitions)

    (of_emissions, of_transitions), loss = gradients(emissions, transitions)
    assert np.isfinite(loss[0])
    assert np.isposinf(loss[1])
    assert np.all(np.isfinite(of_emissions))
    assert of_transitions[1, 0] == 0
    emissions[0, 1, 0] = emissions[0, 2, 1] = 50.0  # which 0 -> 1 -> 1 or 0 -> 0 -> 1 must serve
    emissions[0, 0, 1] = 40.0
    best, _ = jax.jit(xent.viterbi_decode)(emissions, transitions)
    np.testing.assert_array_equal(best[0], [0, 0, 1])


def test_a_chain_of_no_positions_and_an_empty_batch():
    @jax.jit
    def all_of(emissions, tags):
        transitions = jnp.zeros((3, 3))
        loss = xent.linear_chain_crf(emissions, tags, transitions)
        marginals = xent.linear_chain_marginals(emissions, transitions)
        return loss, marginals, xent.viterbi_decode(emissions, transitions)[0]

    for shape in ((2, 0, 3), (0, 2, 3)):
        emissions, tags = np.zeros(shape, np.float32), np.zeros(shape[:2], np.int32)
        loss, marginals, best = all_of(emissions, tags)
        np.testing.assert_array_equal(loss, np.zeros(shape[0]))
        assert marginals.shape == shape
        assert best.shape == shape[:2]


def test_a_certain_chain_is_never_negative_and_a_long_one_keeps_its_digits():
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 3, (50, 20)).astype(np.int32)
    emissions = (17.0 * one_hot(tags, 3) + rng.normal(size=(50, 20, 3))).astype(np.float32)
    transitions = rng.normal(size=(3, 3)).astype(np.float32)
    assert np.all(jax.jit(xent.linear_chain_crf)(emissions, tags, transitions) >= 0.0)
    long = rng.normal(size=(1, 2000, 3)).astype(np.float32)
    of_chain = jax.jit(xent.linear_chain_marginals)
    marginals = of_chain(long, transitions)
    with jax.enable_x64(True):
        exact = of_chain(long.astype(np.float64), transitions.astype(np.float64))
    np.testing.assert_allclose(marginals, exact, atol=2e-6)


def test_chains_that_do_not_fit_are_told():
    emissions, tags, transitions = draw()
    with pytest.raises(ValueError, match=r"emissions must have shape \(B, T, K\)"):
        xent.linear_chain_crf(emissions[0], tags[0], transitions)
    with pytest.raises(ValueError, match="a score for each pair of 4 tags"):
        xent.viterbi_decode(emissions, transitions[:3])
    with pytest.raises(ValueError, match="it masks positions"):
        xent.linear_chain_marginals(emissions, transitions, where=WHERE[:, :2])
    with pytest.raises(TypeError, match="transitions"):
        xent.linear_chain_crf(emissions, tags, transitions.astype(np.int32))
