"""Ranking metrics against scikit-learn and against all orders of equal scores."""

import itertools

import jax
import numpy as np
import pytest
import sklearn.metrics

from xent_jax.metrics import auroc, hit_rate, ndcg, ndcg_with_integer_labels

area_of = jax.jit(auroc)
hit_rate_of = jax.jit(hit_rate, static_argnames="k")
ndcg_of = jax.jit(ndcg, static_argnames="k")
ndcg_of_label = jax.jit(ndcg_with_integer_labels, static_argnames="k")


@pytest.fixture(scope="module")
def scored():
    """Half-integer scores, so that many are equal; every seventh example is padding."""
    rng = np.random.default_rng(0)
    labels = rng.random(350) < 0.3
    scores = np.float32(np.round(2 * (rng.normal(size=350) + labels)) / 2)
    where = np.arange(350) % 7 != 0
    scores[~where] = np.nan
    scores[1:3] = np.inf, -np.inf
    return scores, labels, where


def test_auroc_agrees_with_scikit_learn(scored):
    scores, labels, where = scored
    finite = np.clip(scores[where], -1e3, 1e3)
    expected = sklearn.metrics.roc_auc_score(labels[where], finite)
    np.testing.assert_allclose(area_of(scores, labels, where=where), expected, rtol=1e-6)
    signs = np.where(labels, 1, -1).reshape(50, 7)
    folded = scores.reshape(50, 7), signs, where.reshape(50, 7)
    np.testing.assert_allclose(area_of(*folded[:2], where=folded[2]), expected, rtol=1e-6)


def test_auroc_of_one_class_against_the_rest():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(4), size=200).astype(np.float32)
    labels = rng.integers(4, size=200)
    areas = jax.vmap(area_of, in_axes=1)(p, labels[:, None] == np.arange(4))
    for k in range(4):
        expected = sklearn.metrics.roc_auc_score(labels == k, p[:, k])
        np.testing.assert_allclose(areas[k], expected, rtol=1e-6)


def test_auroc_is_accurate_for_many_examples():
    rng = np.random.default_rng(2)
    labels = rng.random(100_000) < 0.01
    scores = (rng.normal(size=100_000) + 3 * labels).astype(np.float32)
    expected = sklearn.metrics.roc_auc_score(labels, scores)
    np.testing.assert_allclose(area_of(scores, labels), expected, rtol=3e-7)


def test_auroc_of_one_side_or_of_nan_is_nan():
    scores = np.arange(4, dtype=np.float32)
    for labels in np.zeros(4, bool), np.ones(4, bool):
        assert np.isnan(area_of(scores, labels))
    assert np.isnan(area_of(np.float32([0, np.nan, 1, 2]), np.array([0, 0, 1, 1])))
    assert area_of(np.zeros(4, np.float32), np.array([0, 1, 0, 1])) == 0.5
    assert area_of(np.float32([0.0, -0.0]), np.array([0, 1])) == 0.5


@pytest.fixture(scope="module")
def lists():
    """24 lists of 6 items with equal scores in most, graded relevance and one label each."""
    rng = np.random.default_rng(3)
    scores = rng.integers(4, size=(24, 6)).astype(np.float32)
    scores[:2] = 1
    return scores, rng.integers(3, size=(24, 6)), rng.integers(6, size=24).astype(np.int32)


@pytest.mark.parametrize("k", [1, 3, 6, 10])
def test_ndcg_agrees_with_scikit_learn(lists, k):
    scores, relevance, labels = lists
    relevance = np.where(np.arange(24)[:, None] == 5, 0, relevance)  # nothing relevant: 0
    expected = [
        sklearn.metrics.ndcg_score(r[None], s[None], k=k)
        for s, r in zip(scores, relevance, strict=True)
    ]
    np.testing.assert_allclose(ndcg_of(scores, relevance, k=k), expected, rtol=1e-6, atol=1e-7)
    one_hot = np.eye(6)[labels]
    expected = [
        sklearn.metrics.ndcg_score(r[None], s[None], k=k)
        for s, r in zip(scores, one_hot, strict=True)
    ]
    np.testing.assert_allclose(ndcg_of_label(scores, labels, k=k), expected, rtol=1e-6, atol=1e-7)


def test_hit_rate_averages_over_orders_of_equal_scores(lists):
    scores, _, labels = lists
    expected = []
    for s, y in zip(scores[:6], labels, strict=False):
        lists_of_two = [
            sorted(order, key=lambda i: -s[i])[:2] for order in itertools.permutations(range(6))
        ]
        expected.append(np.mean([y in best for best in lists_of_two]))
    np.testing.assert_allclose(hit_rate_of(scores, labels, k=2)[:6], expected, rtol=1e-6)


def test_a_model_that_scores_all_items_alike_is_no_better_than_chance():
    scores, labels = np.zeros((3, 100), np.float32), np.zeros(3, np.int32)
    np.testing.assert_allclose(hit_rate_of(scores, labels, k=10), 0.1, rtol=1e-6)


def test_masked_and_impossible_and_invalid_examples():
    inf, nan = np.inf, np.nan
    scores = np.float32([[3, 2, 1], [nan, 2, 1], [nan, 2, 1], [-inf, 2, 1], [3, 2, 1], [3, 2, 1]])
    labels = np.array([0, 0, 0, 0, -1, 3], np.int32)
    where = np.array([True, True, False, True, True, True])
    for metric in hit_rate_of, ndcg_of_label:
        np.testing.assert_array_equal(metric(scores, labels, where=where), [1, nan, 0, 0, nan, nan])
    one_hot = np.arange(3) == labels[:, None]
    np.testing.assert_array_equal(
        ndcg_of(scores, one_hot.astype(np.int32), where=where), [1, nan, 0, 0, 0, 0]
    )


def test_leading_axes_are_kept(lists):
    scores, relevance, labels = (x.reshape(4, 6, *x.shape[1:]) for x in lists)
    for metric, truth, flat in (
        (hit_rate_of, labels, lists[2]),
        (ndcg_of_label, labels, lists[2]),
        (ndcg_of, relevance, lists[1]),
    ):
        folded = metric(scores, truth, k=3)
        assert folded.shape == (4, 6)
        np.testing.assert_allclose(folded.reshape(-1), metric(lists[0], flat, k=3), rtol=1e-6)
