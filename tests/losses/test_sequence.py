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
    for keywords in (where, {"ignore_label": -100}, where | {"ignore_label": -100}):
        gradient, (loss, count) = jax.grad(total, has_aux=True)(dirty, keywords)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_array_equal(count, [3.0, 1.0, 0.0])
        assert np.all(gradient[~WHERE] == 0)
        assert np.all(gradient[WHERE].any(-1))
    np.testing.assert_array_equal(xent.token_cross_entropy(logits, labels)[1], [3.0, 3.0, 3.0])
    outside = xent.token_cross_entropy(logits, wrong)[0]
    np.testing.assert_array_equal(np.isnan(outside), [False, True, True])


def test_the_perplexity_of_a_uniform_model_is_its_vocabulary():
    labels = np.arange(6, dtype=np.int32).reshape(2, 3)
    loss, count = xent.token_cross_entropy(jnp.zeros((2, 3, 7)), labels)
    np.testing.assert_allclose(jnp.exp(loss / count), [7.0, 7.0], rtol=1e-6)
    with pytest.raises(ValueError, match="axis of tokens"):
        xent.token_cross_entropy(jnp.zeros(7), jnp.int32(1))


def test_unlikelihood_penalises_earlier_tokens_by_default():
    logits = np.random.default_rng(0).normal(size=(1, 4, 5)).astype(np.float32)
    labels = np.array([[2, 0, 2, 1]], np.int32)
    earlier = [[], [2], [0], [0, 2]]
    candidates = np.array([[[k in seen for k in range(5)] for seen in earlier]])
    expected = xent.unlikelihood(logits, labels, candidates)
    np.testing.assert_allclose(xent.unlikelihood(logits, labels), expected, rtol=1e-6)
    where = np.array([[True, False, True, True]])
    candidates[0, :, 0] = False  # the token that does not count
    np.testing.assert_allclose(
        xent.unlikelihood(logits, labels, where=where),
        xent.unlikelihood(logits, labels, candidates, where=where),
        rtol=1e-6,
    )
    moved = xent.unlikelihood(np.moveaxis(logits, -1, 1), labels, axis=1)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


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
    only = xent.unlikelihood(jnp.zeros((1, 1)), np.zeros(1, np.int32), np.ones((1, 1), bool))
    assert np.isposinf(only[0])
    logits = np.array([[np.nan, 1.0], [2.0, 1.0]], np.float32)
    gradient = jax.grad(
        lambda z: xent.unlikelihood(
            z,
            np.array([-1, 0], np.int32),
            np.ones((2, 2), bool),
            where=np.array([False, True]),
        ).sum()
    )(logits)
    assert np.all(gradient[0] == 0)
    assert np.all(np.isfinite(gradient[1]))
    with pytest.raises(ValueError, match="candidates must have the logits' shape"):
        xent.unlikelihood(logits, np.zeros(2, np.int32), np.ones((2, 3), bool))


def test_the_probabilities_of_all_tag_sequences_sum_to_one():
    emissions, _, transitions = draw(examples=1, classes=3)
    tags = np.array(list(itertools.product(range(3), repeat=3)), np.int32)
    every = np.repeat(emissions, len(tags), 0)
    loss = xent.linear_chain_crf(every, tags, transitions)
    np.testing.assert_allclose(np.exp(-loss).sum(), 1.0, rtol=1e-6)
    best, score = xent.viterbi_decode(emissions, transitions)
    np.testing.assert_array_equal(best[0], tags[np.argmin(loss)])
    np.testing.assert_allclose(score, naive.score(emissions, best[0].tolist(), transitions), 1e-6)


def test_the_gradient_is_what_is_expected_less_what_was_seen():
    emissions, tags, transitions = draw()

    @jax.jit
    def gradients(emissions, transitions):
        total = lambda e, a: xent.linear_chain_crf(e, tags, a, where=WHERE).sum()  # noqa: E731
        return jax.grad(total, (0, 1))(emissions, transitions)

    of_emissions, of_transitions = gradients(emissions, transitions)
    p = xent.linear_chain_marginals(emissions, transitions, where=WHERE)
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
    for result in (
        xent.linear_chain_crf(emissions, tags, transitions, where=gap),
        xent.linear_chain_marginals(emissions, transitions, where=gap).sum((1, 2)),
        xent.viterbi_decode(emissions, transitions, where=gap)[1],
    ):
        np.testing.assert_array_equal(np.isnan(result), [False, True, False])


def test_a_tag_outside_the_classes_gives_nan_in_its_sequence_alone():
    emissions, tags, transitions = draw()
    tags[1, 2] = 4
    tags[2, 0] = -1
    loss, gradient = jax.value_and_grad(lambda e: xent.linear_chain_crf(e, tags, transitions)[1])(
        emissions
    )
    assert np.isnan(loss)
    assert np.all(np.isnan(gradient[1]).any(-1))
    np.testing.assert_array_equal(
        np.isnan(xent.linear_chain_crf(emissions, tags, transitions)), [False, True, True]
    )


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
    best, _ = xent.viterbi_decode(emissions, transitions)
    np.testing.assert_array_equal(best[0], [0, 0, 1])


def test_a_chain_of_no_positions_and_an_empty_batch():
    transitions = jnp.zeros((3, 3))
    for shape in ((2, 0, 3), (0, 2, 3)):
        emissions, tags = jnp.zeros(shape), jnp.zeros(shape[:2], jnp.int32)
        np.testing.assert_array_equal(
            xent.linear_chain_crf(emissions, tags, transitions), np.zeros(shape[0])
        )
        assert xent.linear_chain_marginals(emissions, transitions).shape == shape
        assert xent.viterbi_decode(emissions, transitions)[0].shape == shape[:2]


def test_a_certain_chain_is_never_negative_and_a_long_one_keeps_its_digits():
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 3, (50, 20)).astype(np.int32)
    emissions = (17.0 * one_hot(tags, 3) + rng.normal(size=(50, 20, 3))).astype(np.float32)
    transitions = rng.normal(size=(3, 3)).astype(np.float32)
    assert np.all(xent.linear_chain_crf(emissions, tags, transitions) >= 0.0)
    long = rng.normal(size=(1, 2000, 3)).astype(np.float32)
    marginals = xent.linear_chain_marginals(long, transitions)
    with jax.enable_x64(True):
        exact = xent.linear_chain_marginals(long.astype(np.float64), transitions.astype(np.float64))
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
