"""How well scores put the relevant before the rest: AUROC, hit rate and NDCG.

Equal scores stand for an unknown order, so each metric is its expectation over random orders of
them. Counting the relevant item as first of its equals would give a model whose scores are all the
same a perfect result.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.errors import UserError
from xent_jax.metrics.inputs import at_least_float32, entry_of, flatten, is_positive, mask_of
from xent_jax.metrics.ties import mean_over_ties
from xent_jax.typing import Array, Bool, Float, Int, Num, Shaped


def auroc(
    scores: Float[Array, "*batch"],
    labels: Shaped[Array, "*batch"],
    *,
    where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """The area under the ROC curve: P(score of a positive > score of a negative), ties half.

    Args:
      scores: the larger, the more likely positive.
      labels: positive where greater than 0 (so 0/1, -1/1 and booleans all do).
      where: which examples count; others may hold anything.

    Returns:
      A scalar in [0, 1]; NaN where a side is missing or a score is NaN. Counts are exact below
      2**24 negatives. Works under jit and vmap: for one class against the rest, map over classes.

    Source: Hanley and McNeil (1982); the statistic of Mann and Whitney.
    """
    keep = mask_of(scores, where)
    s = jnp.where(keep, at_least_float32(scores).reshape(-1), 0.0)
    positive = keep & is_positive(labels)
    negatives = jnp.sum(keep & ~positive, dtype=jnp.int32)
    others = jnp.sort(jnp.where(keep & ~positive, s, jnp.inf))  # padded with inf at the end
    below = jnp.searchsorted(others, s, side="left")
    not_above = jnp.minimum(jnp.searchsorted(others, s, side="right"), negatives)
    beaten = (below + not_above).astype(s.dtype) / (2 * negatives).astype(s.dtype)
    area = jnp.sum(jnp.where(positive, beaten, 0.0)) / jnp.sum(positive, dtype=s.dtype)
    return jnp.where(jnp.any(jnp.isnan(s)), jnp.nan, area)


def hit_rate(
    scores: Float[Array, "*batch items"],
    labels: Int[Array, "*batch"],
    *,
    k: int = 10,
    where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Whether the one relevant item is among the k best (HR@k, recall@k), per example.

    Args:
      scores: the larger, the better; items at -inf are never listed.
      labels: the index of the relevant item.
      k: length of the list.
      where: which examples count; the others are 0.

    Returns:
      Per example 1 or 0, or the chance of a hit among equal scores; NaN for a NaN score or a
      label outside the items. Average with sum(result) / sum(where).

    Source: He et al. (2017), "Neural collaborative filtering", section 4.1.
    """
    return _gain_of_label(scores, labels, np.ones(k), where)


def ndcg_with_integer_labels(
    scores: Float[Array, "*batch items"],
    labels: Int[Array, "*batch"],
    *,
    k: int = 10,
    where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """NDCG@k with one relevant item: 1 / log2(1 + rank), ranks from 1; 0 beyond rank k.

    Arguments and result are those of `hit_rate`; the value is that of `ndcg` with a one-hot
    relevance, without sorting.

    Source: He et al. (2017), "Neural collaborative filtering", section 4.1.
    """
    return _gain_of_label(scores, labels, 1 / np.log2(np.arange(2, k + 2)), where)


def _gain_of_label(scores: Array, labels: Array, gains: np.ndarray, where: Array | None) -> Array:
    """The gain of the label's position, averaged over the positions that its equals share."""
    s, y, keep = flatten(scores, labels, where)
    own = entry_of(s, y)
    above = jnp.sum(s > own, axis=-1, keepdims=True, dtype=jnp.int32)
    equal = jnp.sum(s == own, axis=-1, keepdims=True, dtype=jnp.int32)
    position = jnp.arange(len(gains), dtype=jnp.int32)[None]
    shared = (position >= above) & (position < above + equal)
    gain = jnp.sum(jnp.where(shared, jnp.asarray(gains, s.dtype)[None], 0.0), axis=-1)
    gain = jnp.where(own[:, 0] == -jnp.inf, 0.0, gain / equal[:, 0].astype(s.dtype))
    return _mask(gain, s, keep).reshape(labels.shape)


def _mask(gain: jax.Array, scores: jax.Array, keep: jax.Array) -> jax.Array:
    """NaN where a score is NaN, 0 where masked."""
    return jnp.where(keep, jnp.where(jnp.any(jnp.isnan(scores), axis=-1), jnp.nan, gain), 0.0)


def ndcg(
    scores: Float[Array, "*batch items"],
    relevance: Num[Array, "*batch items"],
    *,
    k: int = 10,
    where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """The discounted gain of the k best-scored items over that of the best list there is.

    NDCG@k = DCG(scores) / DCG(relevance) with DCG = sum_{rank <= k} relevance / log2(1 + rank).

    Args:
      scores: the larger, the better; items at -inf are never listed.
      relevance: gains >= 0, linear (give 2**grade - 1 for the exponential kind).
      k: length of the list.
      where: which examples count; the others are 0.

    Returns:
      Per example a value in [0, 1]; 0 where nothing is relevant, as in scikit-learn; NaN for a NaN
      score. Average with sum(result) / sum(where).

    Source: Järvelin and Kekäläinen (2002); ties as in McSherry and Najork (2008).
    """
    if relevance.shape != scores.shape:
        raise UserError(f"relevance must have the scores' shape {scores.shape}")
    keep = mask_of(scores[..., 0], where)
    s = at_least_float32(scores).reshape(-1, scores.shape[-1])
    gains = jnp.asarray(relevance, s.dtype).reshape(s.shape)
    discounted_gain = jax.vmap(functools.partial(_discounted_gain, k=k))
    actual, ideal = discounted_gain(s, gains), discounted_gain(gains, gains)
    share = jnp.where(ideal > 0, actual / jnp.where(ideal > 0, ideal, 1.0), 0.0)
    return _mask(share, s, keep).reshape(scores.shape[:-1])


def _discounted_gain(scores: jax.Array, relevance: jax.Array, k: int) -> jax.Array:
    """DCG@k of one list."""
    order = jnp.argsort(scores, descending=True)
    position = np.arange(scores.size)
    discounts = np.where(position < k, 1 / np.log2(position + 2), 0)
    shared = mean_over_ties(scores[order], jnp.asarray(discounts, scores.dtype))
    return jnp.sum(jnp.where(scores[order] > -jnp.inf, shared, 0.0) * relevance[order])
