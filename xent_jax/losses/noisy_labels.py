"""Losses for training labels of which some are wrong."""

import jax.numpy as jnp

from xent_jax.losses.contract import prepare, scalar
from xent_jax.losses.softmax import label_log_probability
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
      >>> print(xent.generalized_cross_entropy(logits, jnp.array([0, 1])).round(4))
      [0.0355 1.3429]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    q = scalar("q", q, like=examples.logits, at_least=0.0, at_most=1.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(_box_cox(log_p, q))


def _box_cox(log_p: Array, q: Array) -> Array:
    """Returns (1 - p^q) / q, which is -log p at q = 0."""
    bounded = jnp.maximum(log_p, -1e15)  # 0 * -inf would be NaN
    exponent = q * bounded
    near = exponent > -1.0
    small = jnp.where(near, exponent, 0.0)
    series = -log_p - 0.5 * bounded * small * _series(small)
    # `q` and `exponent` are replaced where unused: a gradient of 0 * inf would be NaN.
    closed = -jnp.expm1(jnp.where(near, -1.0, exponent)) / jnp.where(near, 1.0, q)
    return jnp.where(near, series, closed)


def _series(x: Array) -> Array:
    """Returns (exp(x) - 1 - x) / (x^2 / 2) for -1 < x < 1, by nested multiplication."""
    result = jnp.ones_like(x)
    for n in range(20, 2, -1):  # the first term left out is below 1e-19
        result = 1.0 + x / n * result
    return result
