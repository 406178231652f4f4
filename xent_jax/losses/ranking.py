"""Losses of scores that should order a list of items: for search and recommendation.

A list is the last axis, its labels say how relevant each item is, and there is one loss per list.
`where` masks items, as lists differ in length: a masked item adds nothing and changes nothing for
the others, and a list without items has loss 0.
"""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from xent_jax.losses.contract import classes_last, example_mask, floating, masked
from xent_jax.losses.softmax import target_cross_entropy
from xent_jax.typing import Array, Bool, Float, Num


def ranking_softmax_loss(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."] | Bool[Array, "..."],
    *,
    weights: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of the items' softmax and their relevance: ListNet's loss.

    .. math::
      L = -\sum_i w_i y_i \log p_i, \qquad p = \mathrm{softmax}(s)

    With one relevant item it is the cross-entropy with that item as the class. ListNet's own
    targets are the softmax of the relevances: pass `jax.nn.softmax(labels, where=where)`.

    Args:
      logits: scores s, floating point, of shape (..., N) for the default axis.
      labels: relevances y, at least 0, of the same shape; they need not sum to 1.
      weights: w, one per item, of the same shape; 1 if not given.
      where: True for the items that count, of the same shape; the others have no influence, and
        gradient 0, whatever they hold.
      axis: the axis of the items of a list.

    Returns:
      One value per list in nats, in float32 (float64 for float64 logits). optax also reduces it:
      its `reduce_fn=None` is what this returns.

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that differ.

    The gradient is :math:`p_j \sum_i w_i y_i - w_j y_j`.

    Numerics: an item of score -inf and relevance 0 adds 0, where optax gives NaN.

    References:
      Cao et al., `Learning to Rank: From Pairwise Approach to Listwise Approach
      <https://www.microsoft.com/en-us/research/publication/learning-to-rank-from-pairwise-approach-to-listwise-approach>`_,
      2007, section 5.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> scores, relevance = jnp.array([[2.0, 1.0, 3.0]]), jnp.array([[1, 0, 0]])
      >>> print(xent.ranking_softmax_loss(scores, relevance))
      [1.4076]
    """
    scores, relevance, where = _lists(logits, labels, where, axis)
    if weights is not None:
        weights = _like("weights", weights, logits, axis).astype(scores.dtype)
        relevance = relevance * masked(weights, where)
    # An item that is left out cannot occur. Without any, the scores must still be numbers.
    out = jnp.where(jnp.any(where, axis=-1, keepdims=True), -jnp.inf, 0.0).astype(scores.dtype)
    return target_cross_entropy(jnp.where(where, scores, out), relevance)


def list_mle(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."] | Bool[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes how unlikely the ideal order is if items are drawn one by one by their scores.

    .. math::
      L = -\sum_{i=1}^N \log \frac{\exp s_{\pi(i)}}{\sum_{j \ge i} \exp s_{\pi(j)}}

    where pi sorts the items by falling relevance: the Plackett-Luce model's likelihood.

    Args:
      logits: scores s, floating point, of shape (..., N) for the default axis.
      labels: relevances, of the same shape; of equals the first comes first.
      where: True for the items that count, of the same shape; the others have no influence, and
        gradient 0, whatever they hold.
      axis: the axis of the items of a list.

    Returns:
      One value per list in nats, at least 0, in float32 (float64 for float64 logits); log N! where
      all scores are equal, +inf where an item of score -inf is not among the last.

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that differ.

    The gradient of an item is the sum of its probabilities in the draws up to its own, less 1.

    References:
      Xia et al., `Listwise Approach to Learning to Rank: Theory and Algorithm
      <https://icml.cc/Conferences/2008/papers/167.pdf>`_, 2008, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> scores = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
      >>> print(xent.list_mle(scores, jnp.array([[2, 1, 0], [0, 1, 2]])))
      [0.7209 1.7918]
    """
    scores, relevance, where = _lists(logits, labels, where, axis)
    best_first = jnp.argsort(jnp.where(where, -relevance, jnp.inf), axis=-1, stable=True)
    # Of items that are left out, which come last, and of those that cannot occur, exp(their score)
    # must vanish, but the score stay a number.
    lowest = jnp.asarray(0.25 * jnp.finfo(scores.dtype).min, scores.dtype)
    possible = where & ~jnp.isneginf(scores)
    sorted_scores = jnp.take_along_axis(jnp.where(possible, scores, lowest), best_first, axis=-1)
    counts = jnp.take_along_axis(where, best_first, axis=-1)
    rest = jax.lax.cumlogsumexp(sorted_scores, axis=scores.ndim - 1, reverse=True)
    surprise = rest - sorted_scores
    surprise += jnp.where((sorted_scores == lowest) & (rest > lowest), jnp.inf, 0.0)
    return jnp.sum(jnp.where(counts, surprise, 0.0), axis=-1)


def pairwise_logistic(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."] | Bool[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of the order of every pair of items: RankNet's loss.

    .. math::
      L = \sum_{i, j :\, y_i > y_j} \log \left( 1 + e^{-(s_i - s_j)} \right)

    Args:
      logits: scores s, floating point, of shape (..., N) for the default axis.
      labels: relevances y, of the same shape; only their order counts, and pairs of equals do not.
      where: True for the items that count, of the same shape; the others have no influence, and
        gradient 0, whatever they hold.
      axis: the axis of the items of a list.

    Returns:
      One value per list in nats, at least 0: the sum over its pairs, in float32 (float64 for
      float64 logits). Divide by the number of pairs for their mean.

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that differ.

    The gradient is :math:`\sigma(s_j - s_i)` for the worse item of a pair, and minus that for the
    better one. Under jit no array of pairs is held, on the way back neither.

    References:
      Burges et al., `Learning to Rank using Gradient Descent
      <https://icml.cc/Conferences/2005/proceedings/papers/012_LearningToRank_BurgesEtAl.pdf>`_,
      2005, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> scores = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
      >>> print(xent.pairwise_logistic(scores, jnp.array([[2, 1, 0], [0, 0, 1]])))
      [0.7535 1.3863]
    """
    scores, relevance, where = _lists(logits, labels, where, axis)
    return _pairwise(scores, relevance, where)


@jax.custom_jvp
def _pairwise(scores: Array, relevance: Array, where: Array) -> Array:
    """Returns the sum of -log sigmoid(s_i - s_j) over pairs with y_i > y_j."""
    lead, better, _ = _pairs(scores, relevance, where)
    terms = jnp.where(lead > 0.0, 0.0, -lead) + jnp.log1p(jnp.exp(-jnp.abs(lead)))
    return jnp.sum(jnp.where(better, terms, 0.0), axis=(-2, -1))


@_pairwise.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = sum_i ds_i (sum_j 1[y_j > y_i] sigmoid(s_i - s_j) - 1[y_i > y_j] sigmoid(s_j - s_i))
    # By hand, so that all that is kept of the pairs is one number per item.
    (scores, relevance, where), (scores_dot, *_) = primals, tangents
    lead, better, worse = _pairs(scores, relevance, where)
    pulls = jnp.where(worse, sigmoid(lead), 0.0) - jnp.where(better, sigmoid(-lead), 0.0)
    tangent = jnp.sum(jnp.sum(pulls, axis=-1) * scores_dot, axis=-1)
    return _pairwise(scores, relevance, where), tangent


def _pairs(scores: Array, relevance: Array, where: Array) -> tuple[Array, Array, Array]:
    """Returns s_i - s_j, and where i is better and worse than j, each (..., N, N)."""

    def differ(array: Array, compare) -> Array:
        shape = (*array.shape, array.shape[-1])
        first = jnp.broadcast_to(array[..., :, None], shape)
        return compare(first, jnp.broadcast_to(array[..., None, :], shape))

    both = differ(where, jnp.logical_and)
    better, worse = differ(relevance, jnp.greater) & both, differ(relevance, jnp.less) & both
    lead = jnp.where(differ(scores, jnp.equal), 0.0, differ(scores, jnp.subtract))  # -inf too
    return jnp.where(better | worse, lead, 0.0), better, worse


def bayesian_personalised_ranking(
    positive_scores: Float[Array, "..."],
    negative_scores: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes how unlikely it is that a chosen item beats one that was not, pair by pair.

    For recommendation from clicks alone; the negative is drawn at random for each positive.

    .. math::
      L = -\log \sigma(s_+ - s_-)

    Args:
      positive_scores: of the chosen items, floating point, of any shape.
      negative_scores: of the items drawn against them, of the same shape.
      where: True for the pairs that count, of the same shape; the others give loss 0 and gradient
        0 whatever they hold.

    Returns:
      One value per pair in nats, at least 0, in float32 (float64 for float64 scores). The paper's
      prior on the parameters is weight decay, and left to the optimiser.

    Raises:
      TypeError: scores that are not floating point, or a mask that is not boolean.
      ValueError: shapes that differ.

    The gradient is :math:`-\sigma(s_- - s_+)` for the positive, and the opposite for the negative.

    References:
      Rendle et al., `BPR: Bayesian Personalized Ranking from Implicit Feedback
      <https://arxiv.org/abs/1205.2618>`_, 2009, section 4.1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> positive, negative = jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])
      >>> print(xent.bayesian_personalised_ranking(positive, negative))
      [0.1269 2.1269]
    """
    positive = floating("positive_scores", positive_scores)
    negative = floating("negative_scores", negative_scores).astype(positive.dtype)
    if positive.shape != negative.shape:
        raise ValueError(
            "positive_scores and negative_scores must have one shape, got "
            f"{positive.shape} and {negative.shape}: see jnp.broadcast_to"
        )
    where = example_mask(where, positive[..., None], "it masks pairs")
    lead = masked(positive, where) - masked(negative, where)
    return masked(-jax.nn.log_sigmoid(lead), where)


def _lists(
    logits: Array, labels: Array, where: Array | None, axis: int
) -> tuple[Array, Array, Array]:
    """Returns scores and relevances with the items last, 0 where masked, and the mask."""
    scores = classes_last("logits", logits, axis)
    relevance = _like("labels", labels, logits, axis).astype(scores.dtype)
    mask = jnp.ones(scores.shape, bool) if where is None else _like("where", where, logits, axis)
    mask = example_mask(mask, scores[..., None])
    assert mask is not None  # for the type checker: it was given
    return masked(scores, mask), masked(relevance, mask), mask


def _like(name: str, array: Array, logits: Array, axis: int) -> Array:
    """Returns an array of the logits' shape with the items last."""
    array = jnp.asarray(array)
    if array.shape != jnp.shape(logits):
        raise ValueError(
            f"{name} must hold one value per item, shape {jnp.shape(logits)}, got {array.shape}"
        )
    return jnp.moveaxis(array, axis, -1)
