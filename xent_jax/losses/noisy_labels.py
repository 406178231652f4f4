"""Losses for training labels of which some are wrong."""

import jax.numpy as jnp

from xent_jax.losses.contract import prepare, scalar
from xent_jax.losses.softmax import complement, label_log_probability
from xent_jax.typing import Array, Bool, Float, Int, Scalar


def generalized_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    q: Scalar = 0.7,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the generalized cross-entropy, for labels of which an unknown part is wrong.

    .. math::
      L = \frac{1 - p_y^q}{q}, \qquad p = \mathrm{softmax}(z)

    It runs from the cross-entropy at q = 0 to half the mean absolute error at q = 1: the larger q,
    the less it follows labels that the model contradicts, and the slower it learns hard examples.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      q: between 0 and 1; the paper uses 0.7 throughout.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, of the labels' shape, in float32 (float64 for float64 logits): nats at
      q = 0, otherwise without unit and at most 1/q.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or q outside [0, 1].

    The gradient is :math:`\partial L / \partial z_j = p_y^q (p_j - 1[j = y])`, the cross-entropy's
    times the confidence in the given label to the power q, so that contradicted examples fade.

    Numerics: :math:`p_y^q` is never formed. The loss is :math:`-\mathrm{expm1}(q \log p_y) / q`,
    and a series where :math:`q \log p_y` is small, so that value and derivatives, in q too, are
    exact down to q = 0 and for any logits. A label outside [0, K) gives NaN, and a NaN gradient.

    References:
      Zhang and Sabuncu, `Generalized Cross Entropy Loss for Training Deep Neural Networks with
      Noisy Labels <https://arxiv.org/abs/1805.07836>`_, 2018, equation 6.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.generalized_cross_entropy(logits, jnp.array([0, 1])))
      [0.0355 1.3439]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    q = scalar("q", q, like=examples.logits, at_least=0.0, at_most=1.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(_box_cox(log_p, q))


def _box_cox(log_p: Array, q: Array) -> Array:
    """Returns (1 - p^q) / q, which is -log p at q = 0."""
    # 0 * -inf would be NaN. A select, here and elsewhere: the gradient of `jnp.maximum` goes where
    # the operand equals the result, which XLA may have computed twice and rounded differently.
    bounded = jnp.where(log_p < -1e15, -1e15, log_p)
    exponent = q * bounded
    near = exponent > -1.0
    small = jnp.where(near, exponent, 0.0)
    series = -log_p - 0.5 * bounded * small * _series(small)
    # `q` and `exponent` are replaced where unused: a gradient of 0 * inf would be NaN.
    closed = complement(jnp.where(near, -1.0, exponent)) / jnp.where(near, 1.0, q)
    return jnp.where(near, series, closed)


def _series(x: Array) -> Array:
    """Returns (exp(x) - 1 - x) / (x^2 / 2) for -1 < x < 1, by nested multiplication."""
    result = jnp.ones_like(x)
    for n in range(20, 2, -1):  # the first term left out is below 1e-19
        result = 1.0 + x / n * result
    return result


def mean_absolute_error(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the absolute distance of softmax(logits) from the label: robust and slow to learn.

    .. math::
      L = \sum_k |p_k - 1[k = y]| = 2 (1 - p_y), \qquad p = \mathrm{softmax}(z)

    Its sum over all labels is constant, so that labels flipped evenly do not move its minimum.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and 2, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`2 p_y (p_j - 1[j = y])`: none where the label is contradicted, which is
    why it withstands noise, and why it hardly learns many classes.

    References:
      Ghosh, Kumar and Sastry, `Robust Loss Functions under Label Noise for Deep Neural Networks
      <https://arxiv.org/abs/1712.09482>`_, 2017, equation 6.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.mean_absolute_error(logits, jnp.array([0, 1])))
      [0.0707 1.9647]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(2.0 * complement(log_p))


def reverse_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    log_zero: Scalar = -4.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy with label and prediction exchanged: the robust half of SCE.

    .. math::
      L = -\sum_k p_k \log t_k = -A (1 - p_y), \qquad p = \mathrm{softmax}(z), \quad
      t_k = 1[k = y], \quad \log 0 := A

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      log_zero: A, at most 0: what stands for log 0; -4 in the paper. The authors' code clips the
        one-hot label at 1e-4 instead, that is -9.21.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and -A, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or log_zero above 0.

    The gradient is :math:`-A p_y (p_j - 1[j = y])`: the mean absolute error's, rescaled.

    References:
      Wang et al., `Symmetric Cross Entropy for Robust Learning with Noisy Labels
      <https://arxiv.org/abs/1908.06112>`_, 2019, equation 5.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.reverse_cross_entropy(logits, jnp.array([0, 1])))
      [0.1413 3.9293]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    log_zero = scalar("log_zero", log_zero, like=examples.logits, at_most=0.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(-log_zero * complement(log_p))


def symmetric_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    alpha: Scalar = 0.1,
    beta: Scalar = 1.0,
    log_zero: Scalar = -4.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes cross-entropy plus reverse cross-entropy: one learns, the other withstands noise.

    .. math::
      L = -\alpha \log p_y - \beta A (1 - p_y), \qquad p = \mathrm{softmax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      alpha: weight of the cross-entropy, at least 0: 0.1 for CIFAR-10, 6 for CIFAR-100.
      beta: weight of the reverse cross-entropy, at least 0: 1 for CIFAR-10, 0.1 for CIFAR-100.
      log_zero: A, at most 0; see `reverse_cross_entropy`.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`(\alpha - \beta A p_y)(p_j - 1[j = y])`.

    References:
      Wang et al., `Symmetric Cross Entropy for Robust Learning with Noisy Labels
      <https://arxiv.org/abs/1908.06112>`_, 2019, equation 7.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.symmetric_cross_entropy(logits, jnp.array([0, 1])))
      [0.1449 4.3329]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    alpha = scalar("alpha", alpha, like=examples.logits, at_least=0.0)
    beta = scalar("beta", beta, like=examples.logits, at_least=0.0)
    log_zero = scalar("log_zero", log_zero, like=examples.logits, at_most=0.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(-alpha * log_p - beta * log_zero * complement(log_p))
