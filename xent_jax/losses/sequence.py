"""Losses of sequences whose labels stand in place: tokens, and chains of tags."""

import jax
import jax.numpy as jnp

from xent_jax.losses.categorical import softmax_cross_entropy_with_integer_labels
from xent_jax.losses.contract import Examples, example_mask, floating, masked, prepare, scalar
from xent_jax.losses.lattices import chain_best, chain_posterior, chain_total
from xent_jax.losses.logarithms import log1p_of_share
from xent_jax.losses.softmax import (
    first_of_largest,
    is_label,
    label_log_probability,
    log_normalizer,
    probabilities,
)
from xent_jax.typing import Array, Bool, Float, Int, Scalar, Shaped


def token_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    label_smoothing: Scalar = 0.0,
    z_loss: Scalar = 0.0,
    ignore_label: int | None = None,
    where: Bool[Array, "..."] | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Computes each sequence's cross-entropy and its number of tokens: for language models.

    .. math::
      L_b = \sum_{t \text{ counts}} -\log p_{b, t, y_{bt}}, \qquad
      n_b = |\{t \text{ counts}\}|, \qquad p_{bt} = \mathrm{softmax}(z_{bt})

    The loss per token is :math:`\sum_b L_b / \sum_b n_b`, over all devices and accumulated steps:
    add up both before dividing. The mean of the sequences' own means would make a token of a short
    sequence count for more.

    Args:
      logits: z, floating point, of shape (..., T, K).
      labels: y, integers in [0, K), of shape (..., T).
      label_smoothing: epsilon in [0, 1], the part of the target spread over the classes.
      z_loss: lambda >= 0: adds lambda log^2 of the normaliser for each token; 1e-4 in PaLM.
      ignore_label: a label that means padding, as -100 in PyTorch: like `where` False.
      where: True for the tokens that count, of shape (..., T); the others add nothing and have
        gradient 0 whatever they hold.

    Returns:
      The sums in nats and the numbers of tokens that count, both of shape (...) and in float32
      (float64 for float64 logits). The perplexity is exp(sum / number), if neither smoothing nor
      z-loss was added. A label outside [0, K) makes its sequence's sum NaN.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is that of `softmax_cross_entropy_with_integer_labels` at each token that counts:
    :math:`\partial L_b / \partial z_{btk} = p_{btk} - 1[k = y_{bt}]` with the defaults.

    References:
      Jurafsky and Martin, `Speech and Language Processing <https://web.stanford.edu/~jurafsky/slp3>`_,
      2025, chapter 3 (perplexity). Chowdhery et al., `PaLM <https://arxiv.org/abs/2204.02311>`_,
      2022, section 5 (z-loss).

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> labels = jnp.array([[0, 1, 2], [3, -100, -100]])
      >>> loss, tokens = xent.token_cross_entropy(jnp.zeros((2, 3, 4)), labels, ignore_label=-100)
      >>> print(loss, tokens, jnp.exp(loss.sum() / tokens.sum()))
      [4.1589 1.3863] [3. 1.] 4.0
    """
    labels = jnp.asarray(labels)
    if labels.ndim == 0:
        raise ValueError("labels must have an axis of tokens, got a single label")
    losses = softmax_cross_entropy_with_integer_labels(
        logits,
        labels,
        where=where,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        ignore_label=ignore_label,
    )
    counts = jnp.ones(labels.shape, bool) if where is None else jnp.asarray(where)
    if ignore_label is not None:
        counts = counts & (labels != ignore_label)
    return jnp.sum(losses, axis=-1), jnp.sum(counts, axis=-1, dtype=losses.dtype)


def unlikelihood(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    candidates: Shaped[Array, "..."] | None = None,
    *,
    alpha: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy, and a penalty on tokens that should not come: less repetition.

    .. math::
      L = -\log p_y - \alpha \sum_{c \in C} \log (1 - p_c), \qquad p = \mathrm{softmax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      candidates: C, 1 (or True) for the classes that should not come and 0 for the others, of the
        logits' shape. By default, as in the paper, the earlier labels of the sequence (the labels'
        last axis) other than y itself.
      alpha: weight of the penalty, at least 0; 1 in the authors' code.
      where: True for the tokens that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per token in nats, at least 0, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or alpha below 0.

    The gradient is :math:`p_j - 1[j = y] + \alpha \sum_{c \in C} \frac{p_c}{1 - p_c} (1[j = c] -
    p_j)`: a candidate is pushed down by :math:`\alpha p_c` and the others share what it loses.

    Numerics: at most one class has more than half of the probability, and for it :math:`\log(1 -
    p_c)` is the log-sum-exp of the other logits, so that value and gradient keep their digits where
    p_c rounds to 1. The authors' code clips 1 - p_c at 1e-5 instead, and its gradient vanishes just
    where the model is surest of a repetition.

    References:
      Welleck et al., `Neural Text Generation with Unlikelihood Training
      <https://arxiv.org/abs/1908.04319>`_, 2020, section 5.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.unlikelihood(jnp.zeros((3, 4)), jnp.array([0, 1, 0])))
      [1.3863 1.674  1.674 ]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    alpha = scalar("alpha", alpha, like=examples.logits, at_least=0.0)
    unwanted = _unlikelihood(examples.logits, _unwanted(candidates, examples, axis))
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(alpha * unwanted - log_p)


@jax.custom_jvp
def _unlikelihood(logits: Array, candidates: Array) -> Array:
    """Returns -sum_c log(1 - p_c) over the candidates."""
    p, is_top, others = _top_and_others(logits)
    odds = _odds(p, candidates & ~is_top)
    penalties = log1p_of_share(odds)  # -log(1 - p), where the odds are at most 1
    of_top = log_normalizer(logits) - _log_normalizer_or_nothing(others)
    return jnp.sum(penalties, axis=-1) + jnp.where(_any(candidates & is_top), of_top, 0.0)


@_unlikelihood.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dL = sum_c p_c / (1 - p_c) sum_j (1[j = c] - p_j) dz_j, where for the largest class m the
    # quotient may be infinite: there p_m / (1 - p_m) (1[j = m] - p_j) is p_m if j = m, else
    # -p_m q_j with q the softmax of the other classes.
    (logits, candidates), (logits_dot, _) = primals, tangents
    p, is_top, others = _top_and_others(logits)
    odds = _odds(p, candidates & ~is_top)
    p_top = jnp.sum(jnp.where(candidates & is_top, p, 0.0), axis=-1, keepdims=True)
    total = _log_normalizer_or_nothing(others)[..., None]
    q = jnp.exp(others - jnp.where(jnp.isneginf(total), 0.0, total))
    slopes = odds - p * jnp.sum(odds, axis=-1, keepdims=True)
    slopes = slopes + p_top * jnp.where(is_top, 1.0, -q)
    return _unlikelihood(logits, candidates), jnp.sum(slopes * logits_dot, axis=-1)


def _odds(p: Array, where: Array) -> Array:
    return jnp.where(where, p / (1.0 - jnp.where(where, p, 0.0)), 0.0)


def _top_and_others(logits: Array) -> tuple[Array, Array, Array]:
    """Returns the probabilities, which class is the likeliest, and the logits without it."""
    is_top = is_label(logits, first_of_largest(logits))
    return probabilities(logits), is_top, jnp.where(is_top, -jnp.inf, logits)


def _log_normalizer_or_nothing(logits: Array) -> Array:
    """Returns log sum_k exp(z_k), and -inf where there is no class left."""
    left = _any(~jnp.isneginf(logits))
    return jnp.where(left, log_normalizer(jnp.where(left[..., None], logits, 0.0)), -jnp.inf)


def _any(flags: Array) -> Array:
    return jnp.any(flags, axis=-1)


def _unwanted(candidates: Array | None, examples: Examples, axis: int) -> Array:
    """Returns which classes should not come, of the logits' shape with the classes last."""
    shape = examples.logits.shape
    if candidates is not None:
        candidates = jnp.moveaxis(jnp.asarray(candidates).astype(bool), axis, -1)
        if candidates.shape != shape:
            raise ValueError(
                f"candidates must have the logits' shape, {shape} with the classes last, got "
                f"{candidates.shape}: 1 for each class that should not come"
            )
        return candidates
    if len(shape) < 2:
        raise ValueError("labels must have an axis of tokens, got a single label: pass candidates")
    here = is_label(examples.logits, examples.labels)
    times = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 2)
    times_seen = jnp.where(masked(here, examples.where), times, shape[-2])
    first = jnp.min(times_seen, axis=-2, keepdims=True, initial=shape[-2])
    return (times > first) & ~here


def linear_chain_crf(
    emissions: Float[Array, "..."],
    tags: Int[Array, "..."],
    transitions: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes a conditional random field's loss: tags that depend on their neighbours.

    For named entities, parts of speech, segments: one softmax over all tag sequences at once.

    .. math::
      L = \log \sum_{y'} e^{s(y')} - s(y), \qquad
      s(y) = \sum_{t=1}^{T} e_{t, y_t} + \sum_{t=2}^{T} a_{y_{t-1}, y_t}

    Args:
      emissions: e, floating point, of shape (B, T, K). Scores for beginning or ending with a tag
        are added to the emissions of the first or last position.
      tags: y, integers in [0, K), of shape (B, T).
      transitions: a, floating point, of shape (K, K), [i, j] the score of tag j after tag i; -inf
        for what must not follow. 0 everywhere gives the sum of T cross-entropies.
      where: True for the positions that count, of shape (B, T), in each row first True, then False.
        The others are left out, with gradient 0, whatever they hold.

    Returns:
      One value per sequence in nats, at least 0, of shape (B,), in float32 (float64 for float64
      emissions): +inf where the tags cannot occur, NaN where a tag that counts is outside [0, K) or
      follows one that does not count.

    Raises:
      TypeError: scores that are not floating point, or tags that are not integers.
      ValueError: shapes that do not fit.

    The gradient is what the model expects less what was seen: with respect to emissions
    :math:`P(y_t = k) - 1[y_t = k]`, with respect to transitions the expected number of steps from i
    to j less their number in y.

    Numerics: the forward and backward passes run in log space, and hold (T, K) numbers per
    sequence; the expected numbers of steps are summed on the way.

    References:
      Lafferty, McCallum and Pereira, `Conditional Random Fields
      <https://repository.upenn.edu/handle/20.500.14332/6188>`_, 2001, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> emissions, tags = jnp.zeros((1, 3, 2)), jnp.array([[0, 1, 1]])
      >>> print(xent.linear_chain_crf(emissions, tags, jnp.array([[0.0, 0.0], [-jnp.inf, 0.0]])))
      [1.3863]
    """
    emissions, transitions, counts, rows = _chain(emissions, transitions, where)
    given = None if where is None else counts
    examples = prepare(emissions, tags, where=given, axis=-1, name="emissions")
    total = jax.vmap(chain_total, (0, None, 0))(emissions, transitions, counts)
    loss = total - _path_score(emissions, examples.labels, transitions, counts)
    # Where the tags are nearly certain the difference may round to less than 0.
    loss = loss - jax.lax.stop_gradient(jnp.where(loss < 0.0, loss, 0.0))
    return examples.only(rows[:, None]).finish_sets(loss)


def linear_chain_marginals(
    emissions: Float[Array, "..."],
    transitions: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the probability of each tag at each position, given the whole sequence.

    .. math::
      P(y_t = k) = \frac{\sum_{y : y_t = k} e^{s(y)}}{\sum_{y} e^{s(y)}}

    Args:
      emissions: e, floating point, of shape (B, T, K), as in `linear_chain_crf`.
      transitions: a, floating point, of shape (K, K).
      where: True for the positions that count, of shape (B, T), in each row first True, then False.

    Returns:
      Probabilities of shape (B, T, K), in float32 (float64 for float64 emissions); 0 at positions
      that do not count, NaN in rows where one that counts follows one that does not.

    Raises:
      TypeError: scores that are not floating point.
      ValueError: shapes that do not fit.

    The gradient is the covariance of the tags under the model.

    References:
      Lafferty, McCallum and Pereira, `Conditional Random Fields
      <https://repository.upenn.edu/handle/20.500.14332/6188>`_, 2001, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> transitions = jnp.array([[0.0, 0.0], [-jnp.inf, 0.0]])
      >>> print(xent.linear_chain_marginals(jnp.zeros((1, 3, 2)), transitions))
      [[[0.75 0.25]
        [0.5  0.5 ]
        [0.25 0.75]]]
    """
    emissions, transitions, counts, rows = _chain(emissions, transitions, where)
    _, marginals, _ = jax.vmap(chain_posterior, (0, None, 0))(emissions, transitions, counts)
    return jnp.where(rows[:, None, None], marginals, jnp.nan)


def viterbi_decode(
    emissions: Float[Array, "..."],
    transitions: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    r"""Computes the likeliest tags of a linear-chain conditional random field, and their score.

    .. math::
      \arg\max_y s(y), \qquad \max_y s(y)

    Args:
      emissions: e, floating point, of shape (B, T, K), as in `linear_chain_crf`.
      transitions: a, floating point, of shape (K, K).
      where: True for the positions that count, of shape (B, T), in each row first True, then False.

    Returns:
      The tags, int32 of shape (B, T), -1 at positions that do not count; and their scores s, of
      shape (B,), NaN in rows where a position that counts follows one that does not. The
      probability of the tags is exp of minus their `linear_chain_crf`.

    Raises:
      TypeError: scores that are not floating point.
      ValueError: shapes that do not fit.

    The gradient of the score is 1 at the emissions and transitions on the path.

    References:
      Viterbi, `Error bounds for convolutional codes and an asymptotically optimum decoding
      algorithm <https://doi.org/10.1109/TIT.1967.1054010>`_, 1967.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> emissions = jnp.array([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
      >>> print(*xent.viterbi_decode(emissions, jnp.array([[0.0, 0.0], [-jnp.inf, 0.0]])))
      [[0 0 0]] [4.]
    """
    emissions, transitions, counts, rows = _chain(emissions, transitions, where)
    fixed = jax.lax.stop_gradient((emissions, transitions))
    tags = jax.vmap(chain_best, (0, None, 0))(*fixed, counts).astype(jnp.int32)
    score = _path_score(emissions, tags, transitions, counts)
    return jnp.where(counts, tags, -1), jnp.where(rows, score, jnp.nan)


def _chain(
    emissions: Array, transitions: Array, where: Array | None
) -> tuple[Array, Array, Array, Array]:
    """Returns checked scores, 0 where padded; which positions count; which rows are valid."""
    emissions, transitions = floating("emissions", emissions), floating("transitions", transitions)
    if emissions.ndim != 3:
        raise ValueError(f"emissions must have shape (B, T, K), got {emissions.shape}")
    classes = emissions.shape[-1]
    if transitions.shape != (classes, classes):
        raise ValueError(
            f"transitions must hold a score for each pair of {classes} tags, shape "
            f"({classes}, {classes}), got {transitions.shape}"
        )
    where = example_mask(where, emissions, "it masks positions")
    counts = jnp.ones(emissions.shape[:2], bool) if where is None else where
    rows = jnp.all(counts[:, :-1] | ~counts[:, 1:], axis=-1)
    return masked(emissions, counts), transitions.astype(emissions.dtype), counts, rows


def _path_score(emissions: Array, tags: Array, transitions: Array, counts: Array) -> Array:
    """Returns s(y) of each sequence."""
    at_tags = jnp.sum(jnp.where(is_label(emissions, tags), emissions, 0.0), axis=-1)
    steps = jnp.where(counts[:, 1:], transitions[tags[:, :-1], tags[:, 1:]], 0.0)
    return jnp.sum(masked(at_tags, counts), axis=-1) + jnp.sum(steps, axis=-1)
