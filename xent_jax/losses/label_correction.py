"""Losses that correct wrong training labels, distrust them, or choose which to learn from.

The robust losses of `noisy_labels.py` change how an error is measured. Those here use something
known about the labels: how they were corrupted (`forward_correction`), which class they exclude
(`negative_learning`), how often each is given (`peer_loss`), what the model said of the same
example before (`early_learning_regularization`), or which examples are learnt easily
(`small_loss_selection`).

Several of them need the log of a weighted sum of the probabilities. It is one core with a rule by
hand, `_mixture_cross_entropy`: autodiff of its formula gives 0 * inf where a weight is 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

from xent_jax.losses.class_statistics import prior_of
from xent_jax.losses.contract import (
    ROUNDING,
    Examples,
    example_mask,
    floating,
    masked,
    prepare,
    prepare_targets,
    scalar,
)
from xent_jax.losses.logarithms import times, x_log_x, x_log_y
from xent_jax.losses.softmax import (
    first_of_largest,
    is_label,
    label_log_probability,
    prediction_entropy,
    probabilities,
    target_cross_entropy,
    uniform_cross_entropy,
)
from xent_jax.typing import Array, Bool, Float, Int, Num, Scalar

LARGEST_LOG = 87.0  # exp of it is the largest power of e that float32 holds, less a little


# ------------------------------------------------------------------------------ bootstrapping


def soft_bootstrap(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    beta: Scalar = 0.95,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy with labels that are mixed with the model's own prediction.

    .. math::
      L = -\sum_k \left( \beta\, 1[k = y] + (1 - \beta)\, p_k \right) \log p_k
        = -\beta \log p_y + (1 - \beta) H(p), \qquad p = \mathrm{softmax}(z)

    For labels of which a few are wrong: an example that the model is sure of pulls less.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      beta: the trust in the labels, between 0 and 1; 1 gives the cross-entropy.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or beta outside [0, 1].

    The gradient is :math:`\beta (p_j - 1[j = y]) - (1 - \beta) p_j (\log p_j + H(p))`. It flows
    through the mixed-in prediction too: the paper's loss is the cross-entropy with minimum entropy
    regularisation, the opposite of `confidence_penalty`.

    References:
      Reed et al., `Training Deep Neural Networks on Noisy Labels with Bootstrapping
      <https://arxiv.org/abs/1412.6596>`_, 2015, soft bootstrapping.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.soft_bootstrap(logits, jnp.array([0, 1])))
      [0.2608 2.1608]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, beta = examples.logits, scalar("beta", beta, like=examples.logits, at_least=0.0, at_most=1.0)
    of_label = -label_log_probability(z, examples.labels)
    return examples.finish(times(beta, of_label) + (1.0 - beta) * prediction_entropy(z))


def hard_bootstrap(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    beta: Scalar = 0.8,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy with labels that are mixed with the class the model predicts.

    .. math::
      L = -\beta \log p_y - (1 - \beta) \log p_{\hat y}, \qquad p = \mathrm{softmax}(z), \quad
      \hat y = \arg\max_k z_k

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      beta: the trust in the labels, between 0 and 1; 1 gives the cross-entropy.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or beta outside [0, 1].

    The gradient is :math:`p_j - \beta\, 1[j = y] - (1 - \beta)\, 1[j = \hat y]`: that of the
    cross-entropy where model and label agree. The prediction is a constant in it, and of equal
    logits the first.

    References:
      Reed et al., `Training Deep Neural Networks on Noisy Labels with Bootstrapping
      <https://arxiv.org/abs/1412.6596>`_, 2015, hard bootstrapping.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.hard_bootstrap(logits, jnp.array([0, 1])))
      [0.2395 1.8395]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, beta = examples.logits, scalar("beta", beta, like=examples.logits, at_least=0.0, at_most=1.0)
    of_label = -label_log_probability(z, examples.labels)
    of_prediction = -label_log_probability(z, first_of_largest(z))
    return examples.finish(times(beta, of_label) + (1.0 - beta) * of_prediction)


# ------------------------------------------------------------------------- transition matrices


def forward_correction(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    transition_matrix: Float[Array, "classes classes"],
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of noisy labels with a prediction that the same noise passed.

    .. math::
      L = -\log \sum_i T_{i y}\, p_i, \qquad p = \mathrm{softmax}(z), \quad
      T_{i j} = P(\text{given label } j \mid \text{true class } i)

    For noise whose rates are known or estimated (`anchor_point_transition_matrix`): its minimum
    over the noisy data is the clean one's, p the probabilities of the true classes.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, the labels as given, integers in [0, K), of the logits' shape without the class
        axis.
      transition_matrix: T, of shape (K, K): a row per true class, which sums to 1, a column per
        given label. It may be learnt: the loss is differentiable in it.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits); +inf for a label that no class can be given.

    Raises:
      TypeError: logits or a matrix that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or rows that are not probabilities.

    The gradient is :math:`p_j - r_j` with :math:`r_j = T_{j y} p_j / \sum_i T_{i y} p_i`: the
    cross-entropy's, towards the posterior of the true class in place of the label.

    Numerics: the sum is taken of exponentials shifted by the largest among the classes with
    :math:`T_{i y} > 0`, so that the loss is finite however sure the model is of another class.

    Labels that say which class an example is not of, chosen unevenly (Yu et al., 2018), are the
    same loss with a T of diagonal 0; chosen evenly, they are `negative_learning` plus log(K - 1).

    References:
      Patrini et al., `Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach
      <https://arxiv.org/abs/1609.03683>`_, 2017, theorem 2; Yu et al., `Learning with Biased
      Complementary Labels <https://arxiv.org/abs/1711.09535>`_, 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> flips = jnp.array([[0.8, 0.2], [0.4, 0.6]])
      >>> logits = jnp.array([[3.0, 0.0], [3.0, 0.0]])
      >>> print(xent.forward_correction(logits, jnp.array([0, 1]), transition_matrix=flips))
      [0.2471 1.5188]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    matrix = _transition_matrix(transition_matrix, examples.logits)
    of_label = jnp.take(matrix.T, examples.labels, axis=0)
    return examples.finish(_mixture_cross_entropy(examples.logits, of_label))


def _transition_matrix(matrix: Array, logits: Array) -> Array:
    """Returns the matrix in the logits' dtype, its rows checked where their values are known."""
    classes, dtype = logits.shape[-1], logits.dtype
    if jnp.shape(matrix) != (classes, classes):
        raise ValueError(
            f"transition_matrix must have shape {(classes, classes)}, a row per true class and a "
            f"column per given label, got {jnp.shape(matrix)}"
        )
    if not isinstance(matrix, Tracer):
        known = np.asarray(matrix, np.float64)
        sums = known.sum(-1)
        if not (np.all(np.abs(sums - 1.0) <= ROUNDING) and np.all(known >= -ROUNDING)):
            raise ValueError(
                "transition_matrix must hold in row i the probabilities of the given labels of "
                f"true class i, at least 0 and of sum 1; its smallest entry is {known.min():g}, "
                f"its rows sum to {sums.min():g} up to {sums.max():g}: if columns sum to 1, "
                "transpose it"
            )
    return floating("transition_matrix", matrix).astype(dtype)


@jax.custom_jvp
def _mixture_cross_entropy(logits: Array, weights: Array) -> Array:
    """Returns -log sum_k w_k p_k, for weights (..., K) of at least 0."""
    (largest, total), (counted, part) = _weighted_total(logits), _weighted_total(logits, weights)
    return jnp.log(total) - jnp.log(part) + (largest - counted)


@_mixture_cross_entropy.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dL = sum_j (p_j - r_j) dz_j - s_j dw_j, with s_j = p_j / sum_k w_k p_k and r_j = w_j s_j
    (logits, weights), (logits_dot, weights_dot) = primals, tangents
    slopes = (probabilities(logits) - _posterior(logits, weights)) * logits_dot
    tangent = jnp.sum(slopes - _ratios(logits, weights) * weights_dot, axis=-1)
    return _mixture_cross_entropy(logits, weights), tangent


@jax.custom_jvp
def _posterior(logits: Array, weights: Array) -> Array:
    """Returns r_j = w_j p_j / sum_k w_k p_k, and 0 where that is 0 / 0."""
    largest, total = _weighted_total(logits, weights)
    inverse = 1.0 / jnp.where(total == 0.0, 1.0, total)
    gaps = jnp.where(weights > 0.0, logits, -jnp.inf) - largest[..., None]
    return weights * jnp.exp(gaps) * inverse[..., None]


@_posterior.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dr_j = r_j (dz_j - sum_k (r_k dz_k + s_k dw_k)) + s_j dw_j
    (logits, weights), (logits_dot, weights_dot) = primals, tangents
    r, s_dot = _posterior(logits, weights), _ratios(logits, weights) * weights_dot
    mean = jnp.sum(r * logits_dot + s_dot, axis=-1, keepdims=True)
    return r, r * (logits_dot - mean) + s_dot


@jax.custom_jvp
def _ratios(logits: Array, weights: Array) -> Array:
    """Returns s_j = p_j / sum_k w_k p_k, for a weight of 0 too: there r_j does not tell it."""
    largest, total = _weighted_total(logits, weights)
    logs = logits - (largest + jnp.log(total))[..., None]
    logs = jnp.where(jnp.isneginf(logits), -jnp.inf, logs)  # also where the total is 0
    return jnp.exp(jnp.where(logs > LARGEST_LOG, LARGEST_LOG, logs))  # finite, as inf * 0 is not


@_ratios.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # ds_j = s_j (dz_j - sum_k (r_k dz_k + s_k dw_k))
    (logits, weights), (logits_dot, weights_dot) = primals, tangents
    r, s = _posterior(logits, weights), _ratios(logits, weights)
    mean = jnp.sum(r * logits_dot + s * weights_dot, axis=-1, keepdims=True)
    return s, s * (logits_dot - mean)


def _weighted_total(logits: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Returns m = max z and sum w exp(z - m), both over the classes of a weight above 0.

    So that a weight that is a little below 0 by rounding counts as 0.
    """
    if weights is None:
        largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
        return largest, jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
    counted = jnp.where(weights > 0.0, logits, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(counted, axis=-1))
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)  # no class counts: the total is 0
    return largest, jnp.sum(weights * jnp.exp(counted - largest[..., None]), axis=-1)


def backward_correction(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    transition_matrix: Float[Array, "classes classes"],
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the combination of cross-entropies whose mean over the noise is the clean loss.

    .. math::
      L = -\sum_j (T^{-1})_{y j} \log p_j, \qquad p = \mathrm{softmax}(z), \quad
      T_{i j} = P(\text{given label } j \mid \text{true class } i)

    Unbiased: :math:`\sum_y T_{i y} L(z, y) = -\log p_i`. The price is that single values may be
    negative and have no lower bound, and that their variance grows with the inverse of T: a
    network that can fit each label drives it to minus infinity. `forward_correction` does not.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A class at -inf that is
        not the label is left out of the sum.
      labels: y, the labels as given, integers in [0, K), of the logits' shape without the class
        axis.
      transition_matrix: T, of shape (K, K) and invertible: a row per true class, which sums to 1,
        a column per given label.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, of any sign, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits or a matrix that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, rows that are not probabilities, or a matrix that is known
        and has no inverse.

    The gradient is :math:`p_j - (T^{-1})_{y j}`: its mean over the noise, too, is the clean one.

    A known matrix is inverted once, in float64, when the loss is traced; one that is itself traced
    is inverted at every step.

    References:
      Patrini et al., `Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach
      <https://arxiv.org/abs/1609.03683>`_, 2017, theorem 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> flips = jnp.array([[0.8, 0.2], [0.4, 0.6]])
      >>> logits = jnp.array([[3.0, 0.0], [3.0, 0.0]])
      >>> print(xent.backward_correction(logits, jnp.array([0, 1]), transition_matrix=flips))
      [-1.4514  6.0486]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    matrix = _transition_matrix(transition_matrix, examples.logits)
    known = None if isinstance(transition_matrix, Tracer) else transition_matrix
    inverse = jnp.linalg.inv(matrix) if known is None else _inverse(known, matrix.dtype)
    of_label = jnp.take(inverse, examples.labels, axis=0)
    return examples.finish(_possible_cross_entropy(examples, of_label))


def _inverse(matrix: Array, dtype: jnp.dtype) -> Array:
    """Returns the inverse of a known matrix."""
    try:
        inverse = np.linalg.inv(np.asarray(matrix, np.float64))
    except np.linalg.LinAlgError:
        inverse = np.full(matrix.shape, np.inf)
    if not np.abs(inverse).sum(-1).max() < 1e6:
        raise ValueError(
            "transition_matrix has no inverse: some classes' noisy labels cannot be told apart; "
            "use forward_correction, or mix it with the identity"
        )
    return jnp.asarray(inverse, dtype)


def _possible_cross_entropy(examples: Examples, targets: Array) -> Array:
    """Returns -sum_k t_k log p_k over the label and the classes that can occur."""
    z = examples.logits
    left_out = jnp.isneginf(z) & ~is_label(z, examples.labels)
    return target_cross_entropy(z, jnp.where(left_out, 0.0, targets))


def anchor_point_transition_matrix(
    probabilities: Float[Array, "examples classes"],
    *,
    quantile: Scalar = 1.0,
    where: Bool[Array, " examples"] | None = None,
) -> Float[Array, "classes classes"]:
    r"""Returns an estimate of how labels were corrupted, from a model that learnt the noisy ones.

    .. math::
      \hat T_{i j} = \hat p(j \mid x^i), \qquad x^i = \arg\max_x \hat p(i \mid x)

    The example that looks most like class i is taken to be of class i for sure, an anchor point;
    what the model of the noisy labels then says of it is how labels of class i come out.

    Args:
      probabilities: of the noisy labels, one row per example, as softmax of the logits of a model
        that was trained on them with the cross-entropy; better on data it was not fitted to.
      quantile: which example of a class is taken, by its probability of that class: the largest at
        1, the smallest at 0. A little less than 1 is safe from outliers: the authors'
        code takes the largest below the quantile of 0.97, but on CIFAR-100 the largest of all.
      where: True for the examples that count.

    Returns:
      T, of shape (K, K), whose rows sum to 1 as the probabilities do; NaN if no example counts.

    Raises:
      TypeError: probabilities that are not floating point, or a mask that is not boolean.
      ValueError: shapes that do not fit, no examples, or a quantile outside [0, 1].

    The gradient flows to the rows that are taken.

    References:
      Patrini et al., `Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach
      <https://arxiv.org/abs/1609.03683>`_, 2017, theorem 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> probabilities = jnp.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
      >>> print(xent.anchor_point_transition_matrix(probabilities))
      [[0.8 0.2]
       [0.3 0.7]]
    """
    p = floating("probabilities", probabilities)
    if p.ndim != 2 or p.shape[0] == 0:
        raise ValueError(f"probabilities must have shape (examples, classes), got {p.shape}")
    where = example_mask(where, p, "it masks examples")
    counted = jnp.ones(p.shape[0], jnp.bool_) if where is None else where
    number = jnp.sum(counted)
    quantile = scalar("quantile", quantile, like=p, at_least=0.0, at_most=1.0)
    # Masked examples come first in the order, whatever they hold.
    order = jnp.argsort(jnp.where(counted[:, None], p, -jnp.inf), axis=0)
    rank = jnp.ceil(quantile * (number - 1).astype(p.dtype) - ROUNDING).astype(number.dtype)
    anchors = jnp.take(order, p.shape[0] - number + rank, axis=0, mode="clip")
    return jnp.where(number == 0, jnp.nan, masked(p, where)[anchors])


# --------------------------------------------------------------------- what the label is not


def negative_learning(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of "not this class", for labels that say what an example is not.

    .. math::
      L = -\log (1 - p_{\bar y}), \qquad p = \mathrm{softmax}(z)

    A class drawn evenly from the K - 1 that the label is not is rarely the true one, however noisy
    the label: `(labels + jax.random.randint(key, labels.shape, 1, classes)) % classes`, anew at
    each step. The paper's selective stages are masks for `where`: NL on :math:`p_y > 1/K`, then the
    cross-entropy on :math:`p_y > 1/2`.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: the complementary labels: classes that the examples are NOT of, integers in [0, K), of
        the logits' shape without the class axis.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits); +inf where no other class can occur.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`p_{\bar y}` for the excluded class and :math:`-p_{\bar y}\, p_j / (1 -
    p_{\bar y})` for the others: it vanishes once the model excludes the class too.

    Numerics: :math:`1 - p_{\bar y}` is never formed where the probability is large; the loss is
    exact up to any logit. A label outside [0, K) gives NaN, and a NaN gradient.

    References:
      Kim et al., `NLNL: Negative Learning for Noisy Labels <https://arxiv.org/abs/1908.07387>`_,
      2019; Ishida et al., `Learning from Complementary Labels <https://arxiv.org/abs/1705.07541>`_,
      2017, for labels that are collected so.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> print(xent.negative_learning(logits, jnp.array([0, 1])))
      [2.4018 0.0463]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    return examples.finish(_complement_cross_entropy(examples.logits, examples.labels))


@jax.custom_jvp
def _complement_cross_entropy(logits: Array, labels: Array) -> Array:
    """Returns -log(1 - p_y), without the cancellation for p near 1 and the loss of a small p."""
    log_p = label_log_probability(logits, labels)
    small = log_p < -0.7
    direct = -jnp.log1p(-jnp.exp(jnp.where(small, log_p, -1.0)))
    return jnp.where(small, direct, _mixture_cross_entropy(logits, _all_but(logits, labels)))


@_complement_cross_entropy.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dL = p_y (dz_y - sum_{j != y} p_j / (1 - p_y) dz_j)
    (logits, labels), (logits_dot, _) = primals, tangents
    of_others = _posterior(logits, _all_but(logits, labels))
    slopes = jnp.where(is_label(logits, labels), 1.0, -of_others)
    p = jnp.exp(label_log_probability(logits, labels))
    return _complement_cross_entropy(logits, labels), p * jnp.sum(slopes * logits_dot, axis=-1)


def _all_but(logits: Array, labels: Array) -> Array:
    """Returns 1 for every class but the label's."""
    return jnp.where(is_label(logits, labels), 0.0, 1.0).astype(logits.dtype)


# ------------------------------------------------------------------------------- peer losses


def peer_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_prior: Float[Array, " classes"],
    alpha: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy less that with labels of random other examples.

    .. math::
      L = -\log p_y + \alpha \sum_k \pi_k \log p_k, \qquad p = \mathrm{softmax}(z), \quad
      \pi_k = P(\text{given label } k)

    Agreement with the labels that blind agreement would have too is not rewarded, so that noise
    rates need not be known. The paper draws two examples at random for each, and subtracts
    :math:`\alpha` times the loss of the one's logits with the other's label. The second label has
    distribution :math:`\pi`, and the first example is any of the batch, so that the batch mean of
    the values here is the expectation of the paper's over its draws, without their variance. In
    this form it is CORES2's loss with confidence regularisation too, where alpha is called beta and
    is raised from 0 to 2 in training.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A class at -inf that is
        not the label is left out of the sum.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_prior: pi, of shape (K,): how the given, noisy labels of the training set are
        distributed, `class_counts / class_counts.sum()`.
      alpha: weight of the peers, at least 0: 1 in the paper's definition; 0 gives the
        cross-entropy.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 logits).
      It may be negative, and for alpha > 0 it has no lower bound: stop early, or raise alpha
      slowly.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, alpha below 0, or a prior that does not sum to 1.

    The gradient is :math:`(1 - \alpha) p_j - 1[j = y] + \alpha \pi_j`: at alpha = 1 the loss is
    linear in the logits.

    References:
      Liu and Guo, `Peer Loss Functions: Learning from Noisy Labels without Knowing Noise Rates
      <https://arxiv.org/abs/1910.03231>`_, 2020; Cheng et al., `Learning with Instance-Dependent
      Label Noise: A Sample Sieve Approach <https://arxiv.org/abs/2010.02347>`_, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, prior = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0.5, 0.5])
      >>> print(xent.peer_loss(logits, jnp.array([0, 1]), class_prior=prior))
      [-1.  1.]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, prior = examples.logits, prior_of(class_prior, examples.logits)
    alpha = scalar("alpha", alpha, like=z, at_least=0.0)
    label = jnp.where(is_label(z, examples.labels), 1.0, 0.0).astype(z.dtype)
    peers = jnp.where(jnp.isneginf(z), 0.0, jnp.broadcast_to(prior, z.shape))
    return examples.finish(_possible_cross_entropy(examples, label - alpha * peers))


# ------------------------------------------------------------------------------- the model's past


def init_early_learning_regularization_state(
    num_examples: int, num_classes: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "examples classes"]:
    """Returns the targets that `early_learning_regularization` starts with: all 0.

    Args:
      num_examples: of the training set, which `indices` then count.
      num_classes: K.
      dtype: of the table; bfloat16 halves its memory.

    Example:
      >>> import xent_jax as xent
      >>> print(xent.init_early_learning_regularization_state(50_000, 10).shape)
      (50000, 10)
    """
    return jnp.zeros((num_examples, num_classes), dtype)


def early_learning_regularization(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    state: Float[Array, "examples classes"],
    *,
    indices: Int[Array, "..."],
    beta: Scalar = 0.7,
    strength: Scalar = 3.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
    axis_name: str | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "examples classes"]]:
    r"""Computes the cross-entropy with a pull towards what the model said of the example before.

    .. math::
      L = -\log p_y + \lambda \log \left(1 - \sum_k t_k p_k\right), \qquad
      p = \mathrm{softmax}(z), \quad t \leftarrow \beta t + (1 - \beta)\, p

    Networks learn the right labels before they memorise the wrong ones: the running mean t of an
    example's predictions remembers the early ones and holds the later to them.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      state: the targets t of all training examples, of shape (N, K), from
        `init_early_learning_regularization_state`. Donate it to the step, or it is copied.
      indices: the examples' places in the training set, integers in [0, N), of the labels' shape.
      beta: the memory of the targets, between 0 and 1: 0.7 for CIFAR-10, 0.9 for CIFAR-100.
      strength: lambda, at least 0: 3 for CIFAR-10, 7 for CIFAR-100.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold, and leave the state as it is.
      axis: the logits' axis of classes.
      axis_name: the mapped axis that the batch is split over, inside `jax.shard_map` or `jax.pmap`,
        so that every device ends with the state of the whole batch.

    Returns:
      The loss, one value per example in nats, of the labels' shape, in float32 (float64 for float64
      logits), of any sign; and the new state, which the loss has used already.

    Raises:
      TypeError: logits or a state that are not floating point, or labels or indices that are not
        integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`p_j - 1[j = y] + \lambda\, p_j \sum_k (t_k - t_j) p_k / (1 - \sum_k t_k
    p_k)`; the targets are constants in it. Where the model agreed with the label, the second term
    keeps the gradient from fading; where it did not, it cancels the label's.

    An example that is in the batch twice moves its target by the mean of its predictions. An index
    outside [0, N) gives NaN, and a NaN gradient, and moves no target.

    Numerics: :math:`1 - \sum_k t_k p_k = \sum_k (1 - t_k) p_k`, whose logarithm is taken in the
    logits: it is finite where model and target are both sure. The authors' code clips p to [1e-4,
    1 - 1e-4] instead, which stops the gradient there.

    References:
      Liu et al., `Early-Learning Regularization Prevents Memorization of Noisy Labels
      <https://arxiv.org/abs/2007.00151>`_, 2020, section 4; lemma 2 for the gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> state = xent.init_early_learning_regularization_state(num_examples=4, num_classes=2)
      >>> loss, state = xent.early_learning_regularization(
      ...     jnp.array([[2.0, 0.0]]), jnp.array([1]), state, indices=jnp.array([3])
      ... )
      >>> print(loss, state[3])
      [1.3154] [0.2642 0.0358]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, rows = examples.logits, _rows(indices, examples, state)
    beta = scalar("beta", beta, like=z, at_least=0.0, at_most=1.0)
    strength = scalar("strength", strength, like=z, at_least=0.0)
    known = (rows >= 0) & (rows < state.shape[0])
    moved = known if examples.where is None else known & examples.where
    state = _moved_targets(state, probabilities(z), rows, moved, beta, axis_name)
    targets = state[masked(rows, known)].astype(z.dtype)
    agreement = -_mixture_cross_entropy(z, 1.0 - targets)
    loss = -label_log_probability(z, examples.labels) + strength * agreement
    return examples.only(known).finish(loss), state


def _rows(indices: Array, examples: Examples, state: Array) -> Array:
    """Returns the examples' rows of the state, 0 where they are masked."""
    labels, classes = examples.labels, examples.logits.shape[-1]
    if not jnp.issubdtype(jnp.asarray(indices).dtype, jnp.integer):
        raise TypeError(f"indices must be integers, got {jnp.asarray(indices).dtype}")
    if jnp.shape(indices) != labels.shape:
        raise ValueError(
            f"indices must have the labels' shape {labels.shape}, got {jnp.shape(indices)}"
        )
    if jnp.ndim(state) != 2 or state.shape[1] != classes:
        raise ValueError(
            f"state must have shape (training examples, {classes}), got {jnp.shape(state)}: "
            "see init_early_learning_regularization_state"
        )
    if not jnp.issubdtype(state.dtype, jnp.floating):
        raise TypeError(f"state must be floating point, got {state.dtype}")
    return masked(jnp.asarray(indices).astype(jnp.int32), examples.where)


def _moved_targets(
    state: Array, p: Array, rows: Array, moved: Array, beta: Array, axis_name: str | None
) -> Array:
    """Returns the state with the `moved` examples' rows led towards their mean prediction."""
    p, state = jax.lax.stop_gradient((p.reshape(-1, p.shape[-1]), jnp.asarray(state)))
    nowhere = state.shape[0]  # a row that does not exist, so that its change is dropped
    rows = jnp.where(moved, rows, nowhere).reshape(-1)
    p, rows = _of_all_devices(p, axis_name), _of_all_devices(rows, axis_name)
    times_seen = jnp.zeros(nowhere, jnp.int32).at[rows].add(1, mode="drop")
    shares = jnp.where(rows < nowhere, times_seen.at[rows].get(mode="clip"), 1).astype(p.dtype)
    gaps = p - state.at[rows].get(mode="clip").astype(p.dtype)
    changes = (1.0 - beta) / shares[:, None] * gaps
    return state.at[rows].add(changes.astype(state.dtype), mode="drop")


def _of_all_devices(array: Array, axis_name: str | None) -> Array:
    """Returns the parts of all devices, one after the other along the first axis.

    By a sum of padded parts: `all_gather`'s result does not count as alike on all devices, and
    `jax.shard_map` would not let it out unsharded.
    """
    if axis_name is None:
        return array
    devices, place = jax.lax.psum(1, axis_name), jax.lax.axis_index(axis_name)
    parts = jnp.zeros((devices, *array.shape), array.dtype).at[place].set(array)
    return jax.lax.psum(parts, axis_name).reshape(-1, *array.shape[1:])


# ------------------------------------------------------------------------- which to learn from


def small_loss_selection(
    losses: Float[Array, "..."],
    *,
    forget_rate: Scalar,
    where: Bool[Array, "..."] | None = None,
    axis_name: str | None = None,
) -> Bool[Array, "..."]:
    r"""Returns a mask of the examples with the smallest losses, which are rarely mislabelled ones.

    .. math::
      S = \arg\min_{S : |S| = \lfloor (1 - R)\, n \rfloor} \sum_{i \in S} L_i

    In co-teaching each of two networks learns from what the other selects: `where=
    small_loss_selection(losses_of_the_other, forget_rate=...)`. With one network it is the
    trimmed loss.

    Args:
      losses: one per example, of any shape, all of them one set.
      forget_rate: R, between 0 and 1, the part that is left out; `co_teaching_forget_rate`.
      where: True for the examples that count, of the losses' shape; the others are neither counted
        nor selected.
      axis_name: the mapped axis that the batch is split over, inside `jax.shard_map` or `jax.pmap`,
        to select from the batch of all devices.

    Returns:
      Booleans of the losses' shape. Of equal losses the first are selected, so that the number is
      exact; a loss that is NaN is not selected. No gradient flows.

    Raises:
      TypeError: losses that are not floating point, or a mask that is not boolean.
      ValueError: a mask of another shape, or a rate outside [0, 1].

    References:
      Han et al., `Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels
      <https://arxiv.org/abs/1804.06872>`_, 2018, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.small_loss_selection(jnp.array([0.3, 5.0, 0.1, 2.0]), forget_rate=0.5))
      [ True False  True False]
    """
    losses = floating("losses", losses)
    where = example_mask(where, losses[..., None], "it masks losses")
    forget_rate = scalar("forget_rate", forget_rate, like=losses, at_least=0.0, at_most=1.0)
    counted = jnp.ones(losses.shape, jnp.bool_) if where is None else where
    # NaN is sorted last: with it, what is masked never stands before what counts.
    flat = jnp.where(counted, losses, jnp.nan).reshape(-1)
    everyone = _of_all_devices(flat, axis_name)
    number = jnp.sum(_of_all_devices(counted.reshape(-1).astype(jnp.int32), axis_name))
    # Without the rounding, 0.3 of 10 might forget 4.
    kept = jnp.floor((1.0 - forget_rate) * number.astype(losses.dtype) + ROUNDING)
    ranks = jnp.argsort(jnp.argsort(everyone))
    if axis_name is not None:
        start = jax.lax.axis_index(axis_name) * flat.size
        ranks = jax.lax.dynamic_slice_in_dim(ranks, start, flat.size)
    return ((ranks < kept.astype(ranks.dtype)) & ~jnp.isnan(flat)).reshape(losses.shape)


def co_teaching_forget_rate(
    epoch: Scalar | Num[Array, "..."], *, noise_rate: Scalar, ramp_epochs: Scalar = 10.0
) -> Float[Array, "..."]:
    r"""Returns the part of a batch that co-teaching leaves out at an epoch.

    .. math::
      R(T) = \min\left( \frac{T}{T_k} \tau, \tau \right)

    Nothing at first, when networks learn the right labels only, and the noise rate in the end.

    Args:
      epoch: T, from 0, whole or not; an array gives an array.
      noise_rate: tau, the part of the labels that is wrong, between 0 and 1.
      ramp_epochs: T_k, above 0: the epoch from which on the rate is tau; 10 in the paper. (The
        authors' code is there one epoch earlier.)

    Returns:
      R, between 0 and the noise rate, of the epoch's shape, in float32 (float64 for a float64
      epoch).

    Raises:
      ValueError: a hyper-parameter outside its range.

    References:
      Han et al., `Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels
      <https://arxiv.org/abs/1804.06872>`_, 2018, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.co_teaching_forget_rate(jnp.array([0, 5, 10, 100]), noise_rate=0.2))
      [0.  0.1 0.2 0.2]
    """
    epoch = jnp.asarray(epoch)
    if not jnp.issubdtype(epoch.dtype, jnp.floating):
        epoch = epoch.astype(jnp.float32)
    epoch = floating("epoch", epoch)
    noise_rate = scalar("noise_rate", noise_rate, like=epoch, at_least=0.0, at_most=1.0)
    ramp_epochs = scalar("ramp_epochs", ramp_epochs, like=epoch, above=0.0)
    progress = epoch / ramp_epochs
    return noise_rate * jnp.where(progress < 1.0, progress, 1.0)


def confidence_regularized_sieve(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Bool[Array, "..."]:
    r"""Returns a mask of the examples whose label the model prefers to a label drawn at random.

    .. math::
      -\log p_y < -\frac{1}{K} \sum_k \log p_k, \qquad p = \mathrm{softmax}(z)

    CORES2's sieve: examples that fail are taken to be mislabelled. Its confidence regulariser adds
    the same to both sides, and so does the normaliser, so that it reads :math:`z_y > \bar z`.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis, of a model that is trained
        with `peer_loss`. The mean is over the classes that are not at -inf.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      where: True for the examples that count, of the labels' shape.
      axis: the logits' axis of classes.

    Returns:
      Booleans of the labels' shape, False where masked. No gradient flows.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    References:
      Cheng et al., `Learning with Instance-Dependent Label Noise: A Sample Sieve Approach
      <https://arxiv.org/abs/2010.02347>`_, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> print(xent.confidence_regularized_sieve(logits, jnp.array([0, 1])))
      [ True False]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z = examples.logits
    excess = uniform_cross_entropy(z) + label_log_probability(z, examples.labels)
    return examples.finish(excess) > 0.0  # which neither the 0 of a mask nor NaN is


# --------------------------------------------------------------------------- joint optimisation


def joint_optimization(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."],
    *,
    class_prior: Float[Array, " classes"] | None = None,
    alpha: Scalar = 1.2,
    beta: Scalar = 0.8,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    r"""Computes the loss of a network that is trained while its labels are re-estimated.

    .. math::
      L_i = \sum_k t_{i k} \log \frac{t_{i k}}{p_{i k}}
        + \alpha \sum_k \pi_k \log \frac{\pi_k}{\bar p_k} + \beta H(p_i), \qquad
      p = \mathrm{softmax}(z), \quad \bar p = \frac{1}{n} \sum_i p_i

    The labels t are replaced by the network's predictions as training goes on, averaged over the
    last ten epochs in the paper. The second term keeps all of them from falling into one class, the
    third from staying undecided.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: the present labels t: distributions of the logits' shape, or integers in [0, K) of the
        logits' shape without the class axis.
      class_prior: pi, of shape (K,), the distribution of the true classes; even by default.
      alpha: weight of the prior, at least 0.
      beta: weight of the entropy, at least 0. 1.2 and 0.8 are for CIFAR-10 with most labels wrong;
        with fewer, the paper's weights are smaller.
      where: True for the examples that count, of the shape of the loss; the others give loss 0 and
        gradient 0 whatever they hold, and are not in the mean prediction.
      axis: the logits' axis of classes.
      axis_name: the mapped axis that the batch is split over, inside `jax.shard_map` or `jax.pmap`,
        to take the mean prediction of the batch of all devices.

    Returns:
      One value per example in nats, at least 0 up to rounding, in float32 (float64 for float64
      logits). The examples of a batch see each other: the second term is one number of them all,
      added to each, so that the mean of the losses is the paper's loss.

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, a prior that does not sum to 1, or a weight below 0.

    The gradient of the batch mean is, n times, :math:`p_j - t_j - \alpha\, p_j (\pi_j / \bar p_j -
    \sum_k p_k \pi_k / \bar p_k) - \beta\, p_j (\log p_j + H(p))`. A class that no example of the
    batch can have is left out of the second term.

    The authors' code leaves out the constants :math:`t \log t` and :math:`\pi \log \pi`, and keeps
    the gradient.

    References:
      Tanaka et al., `Joint Optimization Framework for Learning with Noisy Labels
      <https://arxiv.org/abs/1803.11364>`_, 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0]])
      >>> print(xent.joint_optimization(logits, jnp.array([0, 1])))
      [0.9397 2.9397]
    """
    if jnp.ndim(labels) == jnp.ndim(logits):
        examples = prepare_targets(logits, labels, where=where, axis=axis)
        z, t = examples.logits, examples.labels
        divergence = target_cross_entropy(z, t) + jnp.sum(x_log_x(t), axis=-1)
    else:
        examples = prepare(logits, labels, where=where, axis=axis)
        z = examples.logits
        divergence = -label_log_probability(z, examples.labels)
    alpha = scalar("alpha", alpha, like=z, at_least=0.0)
    beta = scalar("beta", beta, like=z, at_least=0.0)
    classes = z.shape[-1]
    prior = np.full(classes, 1.0 / classes, np.float32) if class_prior is None else class_prior
    of_batch = _prior_divergence(z, prior_of(prior, z), examples.where, axis_name)
    return examples.finish(divergence + alpha * of_batch + beta * prediction_entropy(z))


def _prior_divergence(
    logits: Array, prior: Array, where: Array | None, axis_name: str | None
) -> Array:
    """Returns sum_k pi_k log(pi_k / mean p_k) of the examples that count, on all devices."""
    batch = tuple(range(logits.ndim - 1))
    total = jnp.sum(masked(_softmax(logits), where), axis=batch)
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    possible = total > 0.0
    number = jax.lax.stop_gradient(jnp.sum(total))  # of examples, each with a sum of 1
    mean = jnp.where(possible, total, 1.0) / jnp.where(number > 0.0, number, 1.0)
    gaps = x_log_x(prior) - x_log_y(prior, mean)
    return jnp.sum(jnp.where(possible, gaps, 0.0))


@jax.custom_jvp
def _softmax(logits: Array) -> Array:
    """Returns softmax(z)."""
    return probabilities(logits)


@_softmax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # dp_j = p_j (dz_j - sum_k p_k dz_k), which keeps nothing but the logits for the way back
    (logits,), (logits_dot,) = primals, tangents
    p = _softmax(logits)
    return p, p * (logits_dot - jnp.sum(p * logits_dot, axis=-1, keepdims=True))
