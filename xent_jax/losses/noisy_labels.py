"""Losses for training labels of which some are wrong."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import floating, masked, prepare, scalar
from xent_jax.losses.fusion import apart, at_least, finite
from xent_jax.losses.logarithms import relative_expm1, relative_log1p, times
from xent_jax.losses.softmax import (
    complement,
    is_label,
    label_entry,
    label_log_probability,
    largest_and_total,
    log_normalizer,
)
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
    return examples.finish(box_cox(log_p, q))


def box_cox(log_p: Array, q: Array) -> Array:
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


def truncated_generalized_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    weights: Float[Array, "..."] | None = None,
    q: Scalar = 0.7,
    k: Scalar = 0.5,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the generalized cross-entropy, constant where the label's probability is at most k.

    .. math::
      L = w \frac{1 - p_y^q}{q} + (1 - w) \frac{1 - k^q}{q}, \qquad p = \mathrm{softmax}(z)

    Examples of weight 0 are left out of the training for now. The paper alternates: every few
    epochs it sets w = 1 where the model then gave the label more than k, else 0, and trains with
    these weights fixed. Without `weights` the current prediction decides.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      weights: w in [0, 1], of the labels' shape; 1[p_y > k] of these logits by default.
      q: between 0 and 1; 0.7 in the paper.
      k: above 0 and at most 1; 0.5 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, of the labels' shape, in float32 (float64 for float64 logits): at most
      (1 - k^q) / q without weights.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`w\, p_y^q (p_j - 1[j = y])`, and that with respect to a weight is what
    the example's loss exceeds the constant by: it falls as long as p_y > k.

    References:
      Zhang and Sabuncu, `Generalized Cross Entropy Loss for Training Deep Neural Networks with
      Noisy Labels <https://arxiv.org/abs/1805.07836>`_, 2018, section 3.3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.truncated_generalized_cross_entropy(logits, jnp.array([0, 1])))
      [0.0355 0.5492]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    q = scalar("q", q, like=examples.logits, at_least=0.0, at_most=1.0)
    log_k = jnp.log(scalar("k", k, like=examples.logits, above=0.0, at_most=1.0))
    log_p = label_log_probability(examples.logits, examples.labels)
    if weights is None:
        loss = jnp.where(log_p <= log_k, box_cox(log_k, q), box_cox(log_p, q))
        # The constant too must pass on the NaN gradient of a label outside the classes.
        return examples.finish(loss + 0.0 * complement(log_p))
    weights = masked(_per_example("weights", weights, log_p), examples.where)
    loss = times(weights, box_cox(log_p, q)) + (1.0 - weights) * box_cox(log_k, q)
    return examples.finish(loss)


def _per_example(name: str, array: Array, like: Array) -> Array:
    array = floating(name, array).astype(like.dtype)
    if array.shape != like.shape:
        raise ValueError(f"{name} must be of the labels' shape {like.shape}, got {array.shape}")
    return array


def asymmetric_generalized_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    a: Scalar = 1.0,
    q: Scalar = 2.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes AGCE: it prefers the most frequent label of an input to any compromise.

    .. math::
      L = \frac{(a + 1)^q - (a + p_y)^q}{q}, \qquad p = \mathrm{softmax}(z)

    Where an input's labels are right more often than they are any other class, by the ratio
    :math:`(1 + 1/a)^{\max(1 - q, 0)}`, its loss over the noisy labels is least where the model is
    certain of the right one. At a = 0 it is the generalized cross-entropy.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      a: above 0. With q, 4 and 0.2 on MNIST, 0.6 and 0.6 on CIFAR-10 and 100; 6 and 1.5 beside the
        normalized cross-entropy on CIFAR-10 (`active_passive`).
      q: above 0; see a.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0 and at most ((a + 1)^q - a^q) / q, of the labels' shape, in
      float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`(a + p_y)^{q - 1} p_y (p_j - 1[j = y])`.

    Numerics: no difference of two powers is taken, so that a small loss keeps its digits.

    References:
      Zhou et al., `Asymmetric Loss Functions for Learning with Noisy Labels
      <https://arxiv.org/abs/2106.03110>`_, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.asymmetric_generalized_cross_entropy(logits, jnp.array([0, 1])))
      [0.07   1.4822]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    a = scalar("a", a, like=examples.logits, above=0.0)
    q = scalar("q", q, like=examples.logits, above=0.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(-_power_gap(1.0 + a, _log_of_shifted(log_p, a), q))


def _log_of_shifted(log_p: Array, a: Array) -> Array:
    """Returns log((a + p) / (a + 1)), exact for p near 1 and its tangent for p near 0."""
    near = log_p > -0.5
    missing = complement(jnp.where(near, log_p, 0.0))
    far = jnp.where(near, 0.0, jnp.exp(log_p))
    return jnp.where(near, jnp.log1p(-missing / (1.0 + a)), jnp.log((a + far) / (1.0 + a)))


def _power_gap(base: Array, log_ratio: Array, q: Array) -> Array:
    """Returns ((base r)^q - base^q) / q for the logarithm of r."""
    return base**q * log_ratio * relative_expm1(q * log_ratio)


def asymmetric_unhinged(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    a: Scalar = 1.5,
    q: Scalar = 0.9,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes AUL: like AGCE it prefers the most frequent label of an input to a compromise.

    .. math::
      L = \frac{(a - p_y)^q - (a - 1)^q}{q}, \qquad p = \mathrm{softmax}(z)

    It does so where an input's labels are right more often than they are any other class, by the
    ratio :math:`(1 - 1/a)^{-\max(q - 1, 0)}`. At q = 1 it is half the mean absolute error.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      a: above 1. With q, 3 and 0.1 on MNIST, 5.5 and 3 on CIFAR-10 and 100; 6.3 and 1.5 beside the
        normalized cross-entropy on CIFAR-10 (`active_passive`).
      q: above 0; see a.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0 and at most (a^q - (a - 1)^q) / q, of the labels' shape, in
      float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`(a - p_y)^{q - 1} p_y (p_j - 1[j = y])`.

    Numerics: no difference of two powers is taken, so that a small loss keeps its digits.

    References:
      Zhou et al., `Asymmetric Loss Functions for Learning with Noisy Labels
      <https://arxiv.org/abs/2106.03110>`_, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.asymmetric_unhinged(logits, jnp.array([0, 1])))
      [0.0377 0.988 ]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    least = scalar("a", a, like=examples.logits, above=1.0) - 1.0
    q = scalar("q", q, like=examples.logits, above=0.0)
    missing = complement(label_log_probability(examples.logits, examples.labels))
    return examples.finish(_power_gap(least, jnp.log1p(missing / least), q))


def asymmetric_exponential(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    a: Scalar = 3.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes AEL: like AGCE it prefers the most frequent label of an input to a compromise.

    .. math::
      L = e^{-p_y / a}, \qquad p = \mathrm{softmax}(z)

    It does so where an input's labels are right more often than they are any other class, by the
    ratio :math:`e^{1/a}`. It never reaches 0; what matters is its slope.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      a: above 0; 3.5 on MNIST, 2.5 on CIFAR-10 and 100; 5 beside the normalized cross-entropy on
        CIFAR-10 (`active_passive`).
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between exp(-1 / a) and 1, of the labels' shape, in float32 (float64
      for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a not above 0.

    The gradient is :math:`(p_y / a)\, e^{-p_y / a} (p_j - 1[j = y])`.

    References:
      Zhou et al., `Asymmetric Loss Functions for Learning with Noisy Labels
      <https://arxiv.org/abs/2106.03110>`_, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.asymmetric_exponential(logits, jnp.array([0, 1])))
      [0.725  0.9941]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    a = scalar("a", a, like=examples.logits, above=0.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    return examples.finish(jnp.exp(-jnp.exp(log_p) / a))


def partially_huberised_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    tau: Scalar = 10.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy with its slope in p_y bounded: gradient clipping that is robust.

    .. math::
      L = \begin{cases} -\log p_y & p_y > 1 / \tau \\
      1 + \log \tau - \tau p_y & p_y \le 1 / \tau \end{cases}, \qquad p = \mathrm{softmax}(z)

    Where the model contradicts the label it is the mean absolute error, up to scale, elsewhere the
    cross-entropy: clipping the loss's slope, unlike the whole gradient, withstands flipped labels.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      tau: the steepest slope, at least 1; 10 on MNIST and CIFAR-100, 2 on CIFAR-10.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and 1 + log(tau), of the labels' shape, in float32 (float64
      for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or tau below 1.

    The gradient is :math:`\min(1, \tau p_y) (p_j - 1[j = y])`.

    References:
      Menon et al., `Can Gradient Clipping Mitigate Label Noise?
      <https://openreview.net/forum?id=rklB76EKPr>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.partially_huberised_cross_entropy(logits, jnp.array([0, 1])))
      [0.036  3.1259]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    log_tau = jnp.log(scalar("tau", tau, like=examples.logits, at_least=1.0))
    log_p = label_log_probability(examples.logits, examples.labels)
    linear = 1.0 + log_tau - jnp.exp(log_p + log_tau)
    return examples.finish(jnp.where(log_p > -log_tau, -log_p, linear))


def partially_huberised_generalized_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    q: Scalar = 0.7,
    tau: Scalar = 10.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the generalized cross-entropy with its slope in p_y bounded by tau.

    .. math::
      L = \begin{cases} (1 - p_y^q) / q & p_y > s \\
      (1 - s^q) / q + \tau (s - p_y) & p_y \le s \end{cases}, \qquad
      s = \tau^{-1 / (1 - q)}, \quad p = \mathrm{softmax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      q: between 0, the partially Huberised cross-entropy, and 1, where nothing is to be bounded;
        0.7 in the paper.
      tau: the steepest slope, at least 1; 10 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`\min(p_y^q, \tau p_y) (p_j - 1[j = y])`.

    References:
      Menon et al., `Can Gradient Clipping Mitigate Label Noise?
      <https://openreview.net/forum?id=rklB76EKPr>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> labels = jnp.array([0, 1])
      >>> print(xent.partially_huberised_generalized_cross_entropy(logits, labels, tau=3.0))
      [0.0355 1.3425]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    q = scalar("q", q, like=examples.logits, at_least=0.0, at_most=1.0)
    tau = scalar("tau", tau, like=examples.logits, at_least=1.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    # At q = 1 the slope is 1 everywhere; 1 - q is replaced, since 0 * inf would be a NaN gradient.
    log_s = jnp.where(q < 1.0, -jnp.log(tau) / jnp.where(q < 1.0, 1.0 - q, 1.0), -1e4)
    linear = box_cox(log_s, q) + tau * (jnp.exp(log_s) - jnp.exp(log_p))
    return examples.finish(jnp.where(log_p > log_s, box_cox(log_p, q), linear))


def taylor_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    order: int = 2,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the first terms of the cross-entropy's series in 1 - p_y: bounded, hence robust.

    .. math::
      L = \sum_{n=1}^{N} \frac{(1 - p_y)^n}{n}, \qquad p = \mathrm{softmax}(z)

    It runs from half the mean absolute error at order 1 to the cross-entropy.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      order: N, at least 1, a Python integer; the paper tries 2 to 6.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and the N-th harmonic number, of the labels' shape, in float32
      (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or an order that is no integer from 1 on.

    The gradient is :math:`(1 - (1 - p_y)^N)(p_j - 1[j = y])`.

    References:
      Feng et al., `Can Cross Entropy Loss Be Robust to Label Noise?
      <https://www.ijcai.org/proceedings/2020/305>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.taylor_cross_entropy(logits, jnp.array([0, 1])))
      [0.036  1.4648]
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"order must be a Python integer of at least 1, got {order!r}")
    examples = prepare(logits, labels, where=where, axis=axis)
    missing = complement(label_log_probability(examples.logits, examples.labels))
    loss = jnp.zeros_like(missing)
    for n in range(order, 0, -1):
        loss = missing * (1.0 / n + loss)
    return examples.finish(loss)


def generalized_jensen_shannon(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *other_logits: Float[Array, "..."],
    label_weight: Scalar = 0.5,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes how far the label and predictions of views of one input are from their mixture.

    .. math::
      L = \frac{H(m) - \frac{1 - \pi}{V} \sum_v H(p^v)}{-(1 - \pi) \log(1 - \pi)}, \qquad
      m = \pi\, e_y + \frac{1 - \pi}{V} \sum_v p^v, \quad p^v = \mathrm{softmax}(z^v)

    With one view it runs from the cross-entropy at pi = 0 to half the mean absolute error at
    pi = 1. With several it also asks the model to say the same of all views: it is the one-view
    loss of their mean, plus their own Jensen-Shannon divergence over :math:`-\log(1 - \pi)`.

    Args:
      logits: z of the first view, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      *other_logits: z of further views (augmentations) of the same inputs, of the logits' shape.
      label_weight: pi, above 0 and at most 1: in the authors' configurations for CIFAR-10 with 40 %
        of the labels replaced 0.7 with one view and 0.9 with two, for WebVision 0.1 with two (there
        without the division).
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0 up to rounding, of the labels' shape, in float32 (float64
      for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a label_weight outside its range.

    The gradient with one view is :math:`c\, (p_j - 1[j = y])` with
    :math:`c = p_y (\log m_y - \log p_y - \log(1 - \pi)) / (-\log(1 - \pi))`.

    Numerics: the entropies are not formed; with one view the loss depends on p_y alone, and is
    exact down to small pi. The authors' code clips the mixture at 1e-7 before its logarithm.

    References:
      Englesson and Azizpour, `Generalized Jensen-Shannon Divergence Loss for Learning with Noisy
      Labels <https://arxiv.org/abs/2105.04522>`_, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.generalized_jensen_shannon(logits, jnp.array([0, 1])))
      [0.0358 1.8714]
      >>> print(xent.generalized_jensen_shannon(logits, jnp.array([0, 1]), -logits))
      [1.4955 1.9344]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    views = [examples]
    for i, other in enumerate(other_logits, 2):
        _check_shape(f"logits of view {i}", other, logits)
        views.append(prepare(other, labels, where=where, axis=axis))
    pi = scalar("label_weight", label_weight, like=examples.logits, above=0.0, at_most=1.0)
    log_p = jnp.stack([label_log_probability(view.logits, view.labels) for view in views])
    log_p = jnp.where(log_p < -1e15, -1e15, log_p)  # 0 log 0 would be NaN
    if len(views) == 1:
        return examples.finish(_label_and_prediction(log_p[0], pi))
    log_mean = log_normalizer(jnp.moveaxis(log_p, 0, -1)) - math.log(len(views))
    loss = _label_and_prediction(log_mean, pi)
    spread = _spread(tuple(view.logits for view in views))
    return examples.finish(loss - spread / jnp.log1p(-pi))


@jax.custom_jvp
def _spread(views: tuple[Array, ...]) -> Array:
    """Returns the mean over the views v of sum_k p_vk log(p_vk / m_k), m being their mean."""
    return jnp.mean(jnp.stack([_surplus(views, i) for i in range(len(views))]), axis=0)


@_spread.defjvp
def _(primals: tuple[tuple[Array, ...]], tangents: tuple[tuple[Array, ...]]) -> tuple[Array, Array]:
    # dL = mean_v sum_j p_vj (log(p_vj / m_j) - sum_k p_vk log(p_vk / m_k)) dz_vj
    # By hand, so that no view's probabilities or logarithms are kept for the way back.
    (views,), (dots,) = primals, tangents
    tangent = jnp.zeros_like(views[0][..., 0])
    for i, dot in enumerate(dots):
        part = len(views) + i
        surplus = apart(_surplus(views, i), part)[..., None]
        p, gap = _against_mean(tuple(apart(z, part) for z in views), views, i, part)
        tangent = tangent + jnp.sum(p * (gap - surplus) * dot, axis=-1)
    return _spread(views), tangent / len(views)


def _surplus(views: tuple[Array, ...], i: int) -> Array:
    """Returns sum_k p_k log(p_k / m_k) of view i."""
    p, gap = _against_mean(views, views, i, i)
    return jnp.sum(p * gap, axis=-1)


def _against_mean(
    views: tuple[Array, ...], same: tuple[Array, ...], i: int, part: int
) -> tuple[Array, Array]:
    """Returns p_k and log(p_k / m_k) of view i; the logarithm is finite where p_k is 0."""
    totals = [tuple(apart(array, part) for array in largest_and_total(z)) for z in same]
    ps = [
        jnp.exp(z - largest[..., None]) * (1.0 / total)[..., None]
        for z, (largest, total) in zip(views, totals, strict=True)
    ]
    (largest, total), tiny = totals[i], jnp.finfo(views[i].dtype).tiny
    log_p = finite(views[i], part) - largest[..., None] - jnp.log(total)[..., None]
    mean = at_least(sum(ps) / len(ps), jnp.asarray(tiny, log_p.dtype))
    return ps[i], log_p - jnp.log(mean)


def _check_shape(name: str, array: Array, logits: Array) -> None:
    if jnp.shape(array) != jnp.shape(logits):
        raise ValueError(
            f"{name} must have the logits' shape {jnp.shape(logits)}, got {jnp.shape(array)}"
        )


def _label_and_prediction(log_p: Array, pi: Array) -> Array:
    """Returns the divided Jensen-Shannon divergence of a label and a prediction."""
    p, missing, rest = jnp.exp(log_p), complement(log_p), 1.0 - pi
    mixture = p + pi * missing
    # With Z = -(1 - pi) log(1 - pi), L = 1 - p + ((1 - pi) p log p - m log m) / Z. Where p > pi,
    # log m is taken apart into log p + log(1 + pi (1 - p) / p), and pi divided out of the gap.
    near = p > pi
    odds = jnp.where(near, missing / jnp.where(near, p, 1.0), 0.0)
    gap = -jnp.where(near, log_p, 0.0) - mixture * odds * relative_log1p(pi * odds)
    small = gap / (jnp.where(rest > 0.0, rest, 1.0) * relative_log1p(-pi))
    large = (mixture * _surprise_over_rest(mixture, missing, rest) + p * log_p) / -jnp.log1p(-pi)
    return missing + jnp.where(near, small, large)


def _surprise_over_rest(mixture: Array, missing: Array, rest: Array) -> Array:
    """Returns -log(m) / (1 - pi) for m = 1 - (1 - pi) (1 - p), also at pi = 1."""
    near = rest * missing < 0.5
    series = missing * relative_log1p(-jnp.where(near, rest * missing, 0.0))
    return jnp.where(near, series, -jnp.log(mixture) / jnp.where(rest > 0.0, rest, 1.0))


def epsilon_softmax(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    m: Scalar = 1e5,
    alpha: Scalar = 0.01,
    beta: Scalar = 5.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of predictions pushed towards certainty, plus a robust loss.

    .. math::
      L = -\alpha \log \frac{p_y + m\, 1[y = \hat y]}{1 + m} + 2 \beta (1 - p_y), \qquad
      p = \mathrm{softmax}(z), \quad \hat y = \arg\max_k z_k

    The first term's predictions are within 1 / (1 + m) of one-hot. An example whose label the model
    says already hardly pulls in it any more, one whose label it does not say pulls as in the
    cross-entropy: certain predictions cannot be bought by fitting wrong labels a little more. The
    second term, the mean absolute error, keeps what is learned from clean labels.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      m: at least 0; in the authors' configurations 1e5 for CIFAR-10 with symmetric noise, 1e3 with
        asymmetric, 1e4 for CIFAR-100.
      alpha: weight of the cross-entropy, at least 0; 0.01 for CIFAR-10.
      beta: weight of the mean absolute error, at least 0; 5 for CIFAR-10, 1 for CIFAR-100.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits). It jumps by :math:`\alpha \log(1 + m / p_y)` where the label becomes the largest
      logit; of equal logits the first is the largest.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`(\alpha s + 2 \beta p_y)(p_j - 1[j = y])`, where s is
    :math:`p_y / (p_y + m)` for a label that is the largest logit, and 1 otherwise.

    Numerics: nothing is clipped. The authors' code clips the divided prediction at 1e-8, which for
    m = 1e5 cuts the first term's gradient off wherever p_y is below 0.001.

    References:
      Wang et al., `Epsilon-Softmax: Approximating One-Hot Vectors for Mitigating Label Noise
      <https://arxiv.org/abs/2508.02387>`_, 2024.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.epsilon_softmax(logits, jnp.array([0, 1])))
      [0.3534 9.9788]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    m = scalar("m", m, like=examples.logits, at_least=0.0)
    alpha = scalar("alpha", alpha, like=examples.logits, at_least=0.0)
    beta = scalar("beta", beta, like=examples.logits, at_least=0.0)
    log_p = label_log_probability(examples.logits, examples.labels)
    missing = complement(log_p)
    is_largest = _is_largest(examples.logits, examples.labels)
    raised = -jnp.log1p(-jnp.where(is_largest, missing, 0.0) / (1.0 + m))
    cross_entropy = jnp.where(is_largest, raised, jnp.log1p(m) - log_p)
    return examples.finish(alpha * cross_entropy + 2.0 * beta * missing)


def _is_largest(logits: Array, labels: Array) -> Array:
    """Whether the label is the argmax: on a CPU ten times faster than to look for that."""
    label = label_entry(logits, labels)[..., None]
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    earlier = (logits == label) & (classes < labels[..., None])
    return ~jnp.any((logits > label) | earlier, axis=-1)


def logit_clip(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    max_norm: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of logits scaled down to a bounded norm: bounded, hence robust.

    .. math::
      L = -\log \mathrm{softmax}\left(\min\left(1, \frac{\tau}{\lVert z \rVert_2}\right) z\right)_y

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A logit of -inf is a class
        that cannot occur, and does not count in the norm.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      max_norm: tau, above 0. It is tuned for each data set; the authors' code is the formula above
        at 1 alone, because it scales longer logits to the norm 1 / tau instead.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at most log K + 2 tau, of the labels' shape, in float32
      (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or max_norm not above 0.

    The gradient of clipped logits :math:`z' = \tau u` in the direction :math:`u = z / \lVert z
    \rVert` is the cross-entropy's at z' without its part along u, times
    :math:`\tau / \lVert z \rVert`: the longer the logits, the less they move, and only sideways.

    References:
      Wei et al., `Mitigating Memorization of Noisy Labels by Clipping the Model Prediction
      <https://arxiv.org/abs/2212.04055>`_, 2023.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.logit_clip(logits, jnp.array([0, 1])))
      [0.5514 1.5514]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    max_norm = scalar("max_norm", max_norm, like=examples.logits, above=0.0)
    possible = ~jnp.isneginf(examples.logits)
    z = jnp.where(possible, examples.logits, 0.0)
    # The largest entry is taken out of the norm, so that no square overflows.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=-1, keepdims=True))
    unit = jnp.where(largest > 0.0, largest, 1.0)
    square = jnp.sum((z / unit) ** 2, axis=-1, keepdims=True)
    clipped = unit * jnp.sqrt(jnp.where(square > 0.0, square, 1.0)) > max_norm
    scale = max_norm / unit * jax.lax.rsqrt(jnp.where(clipped, square, 1.0))
    shrunk = jnp.where(possible, jnp.where(clipped, scale * z, z), -jnp.inf)
    return examples.finish(-label_log_probability(shrunk, examples.labels))


def ldr_kl(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    temperature: Scalar = 1.0,
    margin: Scalar = 0.1,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the worst average over the classes of how far each comes above the label.

    .. math::
      L = \max_{w} \sum_k w_k (z_k - z_y + c\, 1[k \ne y])
          - \lambda\, \mathrm{KL}(w \,\|\, \mathrm{uniform})
        = \lambda \log \frac{1}{K} \sum_k \exp \frac{z_k - z_y + c\, 1[k \ne y]}{\lambda}

    The label may be wrong, so every class k has a say; lambda tells how much the labels are
    trusted. It runs from the hinge loss of Crammer and Singer at lambda = 0, over the cross-entropy
    less log K at lambda = 1 without margin, to a loss whose sum over all labels is constant as
    lambda grows, and which therefore withstands evenly flipped labels.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      temperature: lambda, above 0: 10 on MNIST and CIFAR-10, 1 on CIFAR-100.
      margin: c, at least 0; 0.1 for the same. Both are for logits :math:`\mathrm{softplus}(z)`
        divided by their mean over the classes, as the authors' code makes them; this function takes
        the logits as they are.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, which may be negative, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`w_j - 1[j = y]`, where the worst weights are :math:`w =
    \mathrm{softmax}((z + c\, (1 - e_y)) / \lambda)`.

    References:
      Zhu, Ying and Yang, `Label Distributionally Robust Losses for Multi-class Classification
      <https://arxiv.org/abs/2112.14869>`_, 2023.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.ldr_kl(logits, jnp.array([0, 1])))
      [-1.0589  3.0357]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    temperature = scalar("temperature", temperature, like=examples.logits, above=0.0)
    margin = scalar("margin", margin, like=examples.logits, at_least=0.0)
    possible = ~jnp.isneginf(examples.logits)
    # Logits far from 0 have no digits to spare for the margin, their differences have.
    largest = jax.lax.stop_gradient(jnp.max(examples.logits, axis=-1, keepdims=True))
    lowered = jnp.where(is_label(examples.logits, examples.labels), margin, 0.0)
    scaled = (jnp.where(possible, examples.logits - largest, 0.0) - lowered) / temperature
    log_p = label_log_probability(jnp.where(possible, scaled, -jnp.inf), examples.labels)
    classes = jnp.sum(possible, axis=-1, dtype=scaled.dtype)
    return examples.finish(-temperature * (log_p + jnp.log(classes)))


def robust_f_divergence(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    peer_logits: Float[Array, "..."],
    peer_labels: Int[Array, "..."],
    *,
    divergence: str = "total_variation",
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes minus a bound on the f-divergence of inputs with their labels from random pairs.

    .. math::
      L = -g(p_y) + f^*(g(p'_{y'})), \qquad p = \mathrm{softmax}(z), \quad
      p' = \mathrm{softmax}(z')

    Its mean is least where the model's answers tell as much as possible about the labels. A peer is
    another example's input with a third one's label: draw both from the training set by
    independent permutations. Start from a model warmed up with the cross-entropy.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      peer_logits: z' of other inputs, of the logits' shape.
      peer_labels: y', drawn independently of those inputs, of the labels' shape.
      divergence: "total_variation", the most robust; "jensen_shannon", "pearson",
        "kullback_leibler" or "jeffrey".
      where: True for the examples (with their peers) that count, of the labels' shape; the others
        give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, of the labels' shape, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or another divergence.

    The gradient is :math:`g'(p_y) p_y (p_j - 1[j = y])`, and the opposite for the peer, times
    :math:`f^{*\prime}(g)`, which the divergence makes 1 (total variation) up to exp(p' - 1).

    The conjugate of Jeffrey's divergence is solved for by Newton's method; the authors' code takes
    the cubic t + t^2/4 + t^3/16 instead, which is 0.02 too low at t = 1.

    References:
      Wei and Liu, `When Optimizing f-Divergence Is Robust with Label Noise
      <https://arxiv.org/abs/2011.03687>`_, 2021. Nowozin, Cseke and Tomioka, `f-GAN
      <https://arxiv.org/abs/1606.00709>`_, 2016, table 2 (g and f*).

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
      >>> labels = jnp.array([0, 1])
      >>> print(xent.robust_f_divergence(logits, labels, logits[::-1], labels))
      [-0.3643 -0.3643]
    """
    if divergence not in _BOUNDS:
        raise ValueError(f"divergence must be one of {', '.join(_BOUNDS)}, got {divergence!r}")
    _check_shape("peer_logits", peer_logits, logits)
    examples = prepare(logits, labels, where=where, axis=axis)
    peers = prepare(peer_logits, peer_labels, where=where, axis=axis, name="peer_logits")
    gain, price = _BOUNDS[divergence]
    p = jnp.exp(label_log_probability(examples.logits, examples.labels))
    peer_p = jnp.exp(label_log_probability(peers.logits, peers.labels))
    return peers.finish(examples.finish(price(peer_p) - gain(p)))


def _jeffrey_conjugate(t: Array) -> Array:
    """Returns max_u t u - (u - 1) log u = u - 1 + log u at log u + 1 - 1/u = t."""
    log_u = 0.5 * t
    for _ in range(5):  # for 0 <= t <= 1 the error is below 1e-15 after four steps
        slope = 1.0 + jnp.exp(-log_u)
        log_u = log_u - (log_u + 1.0 - jnp.exp(-log_u) - t) / slope
    return jnp.expm1(log_u) + log_u


# The pairs g(p) and f*(g(p)).
_BOUNDS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "total_variation": (lambda p: 0.5 * jnp.tanh(p), lambda p: 0.5 * jnp.tanh(p)),
    "jensen_shannon": (
        lambda p: math.log(2.0) - jnp.log1p(jnp.exp(-p)),
        lambda p: p + jnp.log1p(jnp.exp(-p)) - math.log(2.0),
    ),
    "pearson": (lambda p: p, lambda p: p + 0.25 * p**2),
    "kullback_leibler": (lambda p: p, lambda p: jnp.exp(p - 1.0)),
    "jeffrey": (lambda p: p, _jeffrey_conjugate),
}
