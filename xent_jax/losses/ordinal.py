"""Losses of classes that have an order, such as ratings, ages or stages of a disease.

`coral`, `corn` and `cumulative_link` ask K - 1 yes-or-no questions, "is the label above k?", so
that their logits hold one number for each of the K - 1 thresholds between the K classes;
`soft_ordinal` takes the logits of the K classes themselves.
"""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from xent_jax.losses.contract import Examples, classes_last, floating, prepare, scalar
from xent_jax.losses.softmax import is_label, target_cross_entropy
from xent_jax.typing import Array, Bool, Float, Int, Scalar


def coral(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    importance_weights: Float[Array, " thresholds"] | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of every "is the label above k?", of one score and K - 1 biases.

    .. math::
      L = -\sum_{k=0}^{K-2} \lambda_k \left( 1[y > k] \log \sigma(z_k) + 1[y \le k]
      \log (1 - \sigma(z_k)) \right), \qquad z_k = g(x) + b_k

    The questions share all weights but their biases, `scores[:, None] + biases[None, :]`, so that
    the answers contradict one another for no example if the biases fall, as they do at the optimum.

    Args:
      logits: z, floating point, of shape (..., K - 1) for the default axis, one per threshold.
      labels: y, integers in [0, K), of the logits' shape without the threshold axis.
      importance_weights: lambda, one per threshold; 1 if not given.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of thresholds.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`\lambda_k (\sigma(z_k) - 1[y > k])`.

    References:
      Cao, Mirjalili and Raschka, `Rank Consistent Ordinal Regression for Neural Networks with
      Application to Age Estimation <https://arxiv.org/abs/1901.07884>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, -2.0], [2.0, 0.0, -2.0]])
      >>> print(xent.coral(logits, jnp.array([1, 3])))
      [0.947 2.947]
    """
    examples = _thresholds(logits, labels, where, axis)
    z, above = examples.logits, _above(examples)
    losses = _surprise(jnp.where(above, z, -z))
    if importance_weights is not None:
        losses = losses * _per_threshold(importance_weights, losses)
    return examples.finish(jnp.sum(losses, axis=-1))


def corn(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of "is the label above k?" where it is known to be above k - 1.

    .. math::
      L = -\sum_{k=0}^{\min(y, K-2)} 1[y > k] \log \sigma(z_k) + 1[y = k] \log (1 - \sigma(z_k))

    Each question is learnt from the examples that reach it, so that the probability of a label
    above k, the product of the answers up to k, falls with k whatever the logits: no weights need
    be shared. The loss is minus the logarithm of the label's probability, see `corn_probabilities`.

    Args:
      logits: z, floating point, of shape (..., K - 1) for the default axis, one per threshold.
      labels: y, integers in [0, K), of the logits' shape without the threshold axis.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of thresholds.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`\sigma(z_k) - 1[y > k]` for the thresholds up to y, and 0 beyond. The
    mean over a batch is the paper's loss if it is the sum divided by the number of answers, that is
    of the thresholds up to y; the mean over examples weights long scales more.

    References:
      Shi, Cao and Raschka, `Deep Neural Networks for Rank-Consistent Ordinal Regression Based On
      Conditional Probabilities <https://arxiv.org/abs/2111.08851>`_, 2021, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, -2.0], [2.0, 0.0, -2.0]])
      >>> print(xent.corn(logits, jnp.array([1, 3])))
      [0.8201 2.947 ]
    """
    examples = _thresholds(logits, labels, where, axis)
    z, above = examples.logits, _above(examples)
    asked = _threshold_indices(examples) <= examples.labels[..., None]
    losses = _surprise(jnp.where(above, z, -z))
    return examples.finish(jnp.sum(jnp.where(asked, losses, 0.0), axis=-1))


def cumulative_link(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the surprise of the proportional odds model: ordered logistic regression.

    .. math::
      L = -\log \left( \sigma(z_{y-1}) - \sigma(z_y) \right), \qquad
      z_{-1} = \infty, \quad z_{K-1} = -\infty, \quad z_k = g(x) + b_k

    Args:
      logits: z, the log-odds of a label above k, floating point, of shape (..., K - 1) for the
        default axis. They must fall with k: form the biases b as minus a cumulative sum of
        `jax.nn.softplus`.
      labels: y, integers in [0, K), of the logits' shape without the threshold axis.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of thresholds.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits); +inf where the logits on the two sides of the label are equal, NaN where they
      rise.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    Only the two logits next to the label have a gradient: with :math:`r = 1 / (e^{z_{y-1} - z_y}
    - 1)` it is :math:`-\sigma(-z_{y-1}) - r` for the one below and :math:`\sigma(z_y) + r` for the
    one above.

    Numerics: the difference is formed as :math:`\sigma(z_{y-1}) \sigma(-z_y) (1 - e^{z_y -
    z_{y-1}})`, without cancellation.

    References:
      McCullagh, Regression Models for Ordinal Data, Journal of the Royal Statistical Society B
      42(2), 1980, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, -2.0], [2.0, 0.0, -2.0]])
      >>> print(xent.cumulative_link(logits, jnp.array([1, 3])))
      [0.9655 2.1269]
    """
    examples = _thresholds(logits, labels, where, axis)
    z, y, index = examples.logits, examples.labels[..., None], _threshold_indices(examples)

    def pick(chosen: Array, otherwise: float) -> Array:
        found = jnp.sum(jnp.where(chosen, z, 0.0), axis=-1)
        return jnp.where(jnp.any(chosen, axis=-1), found, otherwise)

    # exp(-1e5) is 0, and infinity less infinity would be NaN.
    below, above = pick(index == y - 1, 1e5), pick(index == y, -1e5)
    return examples.finish(_surprise(below) + _surprise(-above) - _log_complement(above - below))


def soft_ordinal(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    scale: Scalar = 1.0,
    power: Scalar = 1.0,
    ranks: Float[Array, " classes"] | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy with targets that fall with the distance from the label.

    .. math::
      L = -\sum_k t_k \log p_k, \qquad t = \mathrm{softmax}(-\phi), \quad
      \phi_k = s\, |r_k - r_y|^q, \quad p = \mathrm{softmax}(z)

    A label smoothing for ordered classes: a near miss costs less than a far one.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A class of -inf cannot
        occur, and gets no target either, unless it is the label: then the loss is +inf.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      scale: s, at least 0: uniform targets at 0, the label alone as it grows.
      power: q, above 0: 1 for the distance, 2 for its square.
      ranks: r, the value of each class, of shape (K,), such as the depth in metres or its
        logarithm; 0, 1, ..., K - 1 if not given.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least the targets' entropy, of the labels' shape, in float32
      (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`p - t`.

    References:
      Diaz and Marathe, Soft Labels for Ordinal Regression, Conference on Computer Vision and
      Pattern Recognition, 2019, section 3. The paper leaves phi open; this family holds the
      distances it tries.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.soft_ordinal(logits, jnp.array([0, 2])))
      [0.9091 2.0595]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    scale = scalar("scale", scale, like=z, at_least=0.0)
    power = scalar("power", power, like=z, above=0.0)
    classes = z.shape[-1]
    ranks = jnp.arange(classes) if ranks is None else floating("ranks", ranks)
    if ranks.shape != (classes,):
        raise ValueError(f"ranks must hold one value per class, ({classes},), got {ranks.shape}")
    ranks = ranks.astype(z.dtype)
    distance = jnp.abs(jnp.broadcast_to(ranks, z.shape) - ranks[y][..., None])
    same = distance == 0.0  # where the slope in the power would be 0 log 0
    penalty = scale * jnp.where(same, 0.0, jnp.where(same, 1.0, distance) ** power)
    possible = ~jnp.isneginf(z) | is_label(z, y)
    targets = jax.nn.softmax(jnp.where(possible, -penalty, -jnp.inf), axis=-1)
    return examples.finish(target_cross_entropy(z, targets))


def coral_probabilities(logits: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""Returns the probability of each class, of the logits of `coral` or `cumulative_link`.

    .. math::
      P(y = k) = \sigma(z_{k-1}) - \sigma(z_k), \qquad z_{-1} = \infty, \quad z_{K-1} = -\infty

    The predicted label is the number of logits above 0, `jnp.sum(logits > 0, axis=-1)`: the median
    of this distribution, which the paper takes, rather than the class of highest probability.

    Args:
      logits: floating point, of shape (..., K - 1) for the default axis; they must fall with k, or
        a class gets less than 0.
      axis: the logits' axis of thresholds, and the classes' in the result.

    Returns:
      Probabilities that sum to 1, of shape (..., K) for the default axis, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point.

    References:
      Cao, Mirjalili and Raschka, `Rank Consistent Ordinal Regression for Neural Networks with
      Application to Age Estimation <https://arxiv.org/abs/1901.07884>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.coral_probabilities(jnp.array([2.0, 0.0, -2.0])))
      [0.1192 0.3808 0.3808 0.1192]
    """
    z = classes_last("logits", logits, axis)
    infinite = jnp.full((*z.shape[:-1], 1), jnp.inf, z.dtype)
    lower = jnp.concatenate([infinite, z], axis=-1)
    upper = jnp.concatenate([z, -infinite], axis=-1)
    # Of two probabilities near 1 the complements are subtracted, which have more digits.
    large = lower + upper > 0.0
    low, high = jnp.where(large, -upper, lower), jnp.where(large, -lower, upper)
    return jnp.moveaxis(sigmoid(low) - sigmoid(high), -1, axis)


def corn_probabilities(logits: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""Returns the probability of each class, of the logits of `corn`.

    .. math::
      P(y > k) = \prod_{j \le k} \sigma(z_j), \qquad
      P(y = k) = (1 - \sigma(z_k)) \prod_{j < k} \sigma(z_j)

    The predicted label is the number of k with P(y > k) above one half, which is
    `jnp.sum(jnp.cumprod(jax.nn.sigmoid(logits), axis=-1) > 0.5, axis=-1)`.

    Args:
      logits: floating point, of shape (..., K - 1) for the default axis.
      axis: the logits' axis of thresholds, and the classes' in the result.

    Returns:
      Probabilities that sum to 1, of shape (..., K) for the default axis, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point.

    References:
      Shi, Cao and Raschka, `Deep Neural Networks for Rank-Consistent Ordinal Regression Based On
      Conditional Probabilities <https://arxiv.org/abs/2111.08851>`_, 2021, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.corn_probabilities(jnp.array([2.0, 0.0, -2.0])))
      [0.1192 0.4404 0.3879 0.0525]
    """
    z = classes_last("logits", logits, axis)
    none = jnp.zeros((*z.shape[:-1], 1), z.dtype)
    reached = jnp.cumsum(jnp.concatenate([none, -_surprise(z)], axis=-1), axis=-1)
    stopped = jnp.concatenate([-_surprise(-z), none], axis=-1)
    return jnp.moveaxis(jnp.exp(reached + stopped), -1, axis)


def _thresholds(logits: Array, labels: Array, where: Array | None, axis: int) -> Examples:
    """Returns examples of K - 1 logits whose labels lie in [0, K)."""
    z = classes_last("logits", logits, axis)
    # A column more, so that the last class is a label inside, and none after the check.
    padded = jnp.concatenate([z, jnp.zeros((*z.shape[:-1], 1), z.dtype)], axis=-1)
    examples = prepare(padded, labels, where=where, axis=-1)
    return examples._replace(logits=examples.logits[..., :-1])


def _threshold_indices(examples: Examples) -> Array:
    shape = examples.logits.shape
    return jax.lax.broadcasted_iota(examples.labels.dtype, shape, len(shape) - 1)


def _above(examples: Examples) -> Array:
    """Returns whether the label is above each threshold."""
    return examples.labels[..., None] > _threshold_indices(examples)


def _per_threshold(weights: Array, losses: Array) -> Array:
    weights = floating("importance_weights", weights).astype(losses.dtype)
    if weights.shape != losses.shape[-1:]:
        raise ValueError(
            f"importance_weights must have shape {losses.shape[-1:]}, got {weights.shape}"
        )
    return jnp.broadcast_to(weights, losses.shape)


@jax.custom_jvp
def _surprise(z: Array) -> Array:
    """Returns -log sigmoid(z)."""
    return jnp.where(z > 0.0, 0.0, -z) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@_surprise.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d(-log sigmoid(z)) = -sigmoid(-z) dz, by hand for its digits and because |z| has none at 0.
    (z,), (z_dot,) = primals, tangents
    return _surprise(z), -sigmoid(-z) * z_dot


@jax.custom_jvp
def _log_complement(x: Array) -> Array:
    """Returns log(1 - e^x) for x <= 0, and NaN above."""
    return jnp.log(-jnp.expm1(x))


@_log_complement.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d log(1 - e^x) = -dx / (e^-x - 1); autodiff's e^x / (1 - e^x) is formed as expm1 + 1 over it.
    (x,), (x_dot,) = primals, tangents
    return _log_complement(x), jnp.exp(x) / jnp.expm1(x) * x_dot
