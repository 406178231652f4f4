"""Losses of one class out of K: the softmax cross-entropies, and what they are compared with."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from xent_jax.losses import narrow
from xent_jax.losses.contract import (
    Examples,
    example_mask,
    floating,
    masked,
    prepare,
    prepare_targets,
    scalar,
)
from xent_jax.losses.softmax import (
    complement,
    first_of_largest,
    is_label,
    label_entry,
    label_log_probability,
    log_normalizer,
    prediction_entropy,
    probabilities,
    smoothed_cross_entropy,
    target_cross_entropy,
    uniform,
)
from xent_jax.typing import Array, Bool, Float, Int, Num, Scalar


def softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    class_mask: Bool[Array, "..."] | None = None,
    label_smoothing: Scalar = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
    z_loss: Scalar = 0.0,
    logit_softcap: Scalar | None = None,
    ignore_label: int | None = None,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of softmax(logits) and the labels: the loss to start with.

    .. math::
      L = -w_y \sum_k t_k \log p_k + \lambda \left(\log \sum_k e^{z_k}\right)^2, \qquad
      p = \mathrm{softmax}(z), \quad
      t_k = (1 - \varepsilon)\, 1[k = y] + \varepsilon / K

    With the defaults, :math:`L = -\log p_y`.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A logit of -inf is a class
        that cannot occur.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      axis: the logits' axis of classes.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      class_mask: True for the classes that can occur, of shape (K,) or of the logits' shape.
      label_smoothing: epsilon in [0, 1], spread over the classes that can occur, and only them.
      class_weights: w, of shape (K,), which multiplies the first term by the label's weight. Their
        weighted mean as in PyTorch: `masked_mean(loss, weights=class_weights[labels])` of the loss
        without this argument.
      z_loss: lambda >= 0, which keeps the normaliser near 1; 1e-4 in PaLM.
      logit_softcap: c > 0: the logits are replaced by c tanh(z / c), inside (-c, c); 30 in Gemma 2.
      ignore_label: a label that means padding, as -100 in PyTorch: like `where` False.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 logits):
      at least 0 unless the weights are negative, +inf where the label's class cannot occur, NaN
      where the label is outside [0, K) or no class can occur.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`\partial L / \partial z_j = w_y (p_j - t_j) + 2 \lambda p_j \log \sum_k
    e^{z_k}`: what the model says less what it should say.

    Numerics: no probability is formed to take its logarithm, and none is clipped; no one-hot array
    is built. float16 and bfloat16 logits are computed in float32; their gradient keeps their dtype.

    References:
      Szegedy et al., `Rethinking the Inception Architecture <https://arxiv.org/abs/1512.00567>`_,
      2015, section 7 (smoothing). Chowdhery et al., `PaLM <https://arxiv.org/abs/2204.02311>`_,
      2022, section 5 (z-loss). Gemma Team, `Gemma 2 <https://arxiv.org/abs/2408.00118>`_, 2024,
      section 2 (soft-capping).

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1])))
      [0.2395 2.2395]
    """
    plain = logit_softcap is None and _is_zero(label_smoothing) and _is_zero(z_loss)
    examples = prepare(
        logits,
        labels,
        where=where,
        axis=axis,
        class_mask=class_mask,
        ignore_label=ignore_label,
        narrow=plain,
    )
    z, y = _soft_capped(examples.logits, logit_softcap), examples.labels
    if narrow.is_narrow(z):
        loss = -narrow.label_log_probability(z, y)
    elif _is_zero(label_smoothing):
        loss = -label_log_probability(z, y)
    else:
        loss = smoothed_cross_entropy(z, y, _smoothing(label_smoothing, z))
    if class_weights is not None:
        loss = loss * _weights(class_weights, z.shape[-1], loss.dtype)[y]
    return examples.finish(_with_z_loss(loss, z, z_loss))


def softmax_cross_entropy(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."],
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    class_mask: Bool[Array, "..."] | None = None,
    label_smoothing: Scalar = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
    z_loss: Scalar = 0.0,
    logit_softcap: Scalar | None = None,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of softmax(logits) and a distribution over the classes.

    For soft targets: annotators who disagree, mixed examples, a teacher's probabilities.

    .. math::
      L = -\sum_k t_k \log p_k + \lambda \left(\log \sum_k e^{z_k}\right)^2, \qquad
      p = \mathrm{softmax}(z), \quad
      t_k = (1 - \varepsilon)\, w_k y_k + \frac{\varepsilon}{K} \sum_i w_i y_i

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A logit of -inf is a class
        that cannot occur.
      labels: y, one number per class, of the logits' shape. They need not sum to 1.
      axis: the axis of classes.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      class_mask: True for the classes that can occur, of shape (K,) or of the logits' shape.
      label_smoothing: epsilon in [0, 1], spread over the classes that can occur, and only them.
      class_weights: w, of shape (K,), which multiplies the labels.
      z_loss: lambda >= 0, which keeps the normaliser near 1; 1e-4 in PaLM.
      logit_softcap: c > 0: the logits are replaced by c tanh(z / c), inside (-c, c); 30 in Gemma 2.

    Returns:
      One value per example in nats, of the logits' shape without the class axis, in float32
      (float64 for float64 logits); +inf where a class of positive label cannot occur, NaN where no
      class can.

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`\partial L / \partial z_j = p_j \sum_k t_k - t_j + 2 \lambda p_j \log
    \sum_k e^{z_k}`; with respect to the labels it is :math:`-\log p_j`, taken as 0 for a class that
    cannot occur.

    Numerics: :math:`0 \log 0 = 0`, so that a class of logit -inf and label 0 adds nothing to the
    loss or to any gradient.

    References:
      Cover and Thomas, Elements of Information Theory, 2006, section 2.3. Szegedy et al.,
      `Rethinking the Inception Architecture <https://arxiv.org/abs/1512.00567>`_, 2015, section 7.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, -jnp.inf]])
      >>> print(xent.softmax_cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0]])))
      [1.1269]
    """
    examples = prepare_targets(logits, labels, where=where, axis=axis, class_mask=class_mask)
    z, targets = _soft_capped(examples.logits, logit_softcap), examples.labels
    if class_weights is not None:
        targets = targets * jnp.broadcast_to(_weights(class_weights, z.shape[-1], z.dtype), z.shape)
    if not _is_zero(label_smoothing):
        smoothing = _smoothing(label_smoothing, z)
        mass = jnp.sum(targets, axis=-1, keepdims=True)
        targets = (1.0 - smoothing) * targets + smoothing * mass * uniform(z)
    return examples.finish(_with_z_loss(target_cross_entropy(z, targets), z, z_loss))


def _is_zero(value: Scalar) -> bool:
    """Whether a term is known to be absent, so that nothing is computed for it."""
    return isinstance(value, float | int) and value == 0


def _smoothing(label_smoothing: Scalar, like: Array) -> Array:
    return scalar("label_smoothing", label_smoothing, like, at_least=0.0, at_most=1.0)


def _soft_capped(logits: Array, limit: Scalar | None) -> Array:
    """Returns c tanh(z / c); a class at -inf stays there, because it cannot occur."""
    if limit is None:
        return logits
    limit = scalar("logit_softcap", limit, like=logits, above=0.0)
    possible = ~jnp.isneginf(logits)
    capped = limit * jnp.tanh(jnp.where(possible, logits, 0.0) / limit)
    return jnp.where(possible, capped, -jnp.inf)


def _with_z_loss(loss: Array, logits: Array, strength: Scalar) -> Array:
    if _is_zero(strength):
        return loss
    strength = scalar("z_loss", strength, like=logits, at_least=0.0)
    return loss + strength * log_normalizer(logits) ** 2


def _weights(class_weights: Array, classes: int, dtype: np.dtype) -> Array:
    class_weights = floating("class_weights", class_weights).astype(dtype)
    if class_weights.shape != (classes,):
        raise ValueError(f"class_weights must have shape ({classes},), got {class_weights.shape}")
    return class_weights


def cross_entropy_from_probabilities(
    probabilities: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy for a model that ends in a softmax, or outputs probabilities.

    .. math::
      L = -\log p_y

    Give logits to `softmax_cross_entropy_with_integer_labels` where there are any: a probability
    that was rounded to 0 gives an infinite loss here, and a large, useful one there.

    Args:
      probabilities: p, floating point, of shape (..., K) for the default axis, each example's
        classes summing to 1.
      labels: y, integers in [0, K), of the shape of `probabilities` without the class axis.
      where: True for the examples that count, of the labels' shape.
      axis: the axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape; +inf where p_y = 0.

    Raises:
      TypeError: probabilities that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit; outside of jit also numbers that are no distribution, as
        logits are not.

    The gradient is :math:`-1[j = y] / p_y`. Unlike Keras' `from_logits=False`, nothing is clipped
    and nothing renormalised.

    References:
      Goodfellow, Bengio and Courville, `Deep Learning <https://www.deeplearningbook.org>`_, 2016,
      section 6.2.2.3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> p = jnp.array([[0.9, 0.1], [0.9, 0.1]])
      >>> print(xent.cross_entropy_from_probabilities(p, jnp.array([0, 1])))
      [0.1054 2.3026]
    """
    examples = prepare(probabilities, labels, where=where, axis=axis, name="probabilities")
    _check_distribution(examples)
    p = label_entry(examples.logits, examples.labels)
    if examples.where is not None:
        p = jnp.where(examples.where, p, 1.0)
    return examples.finish(-jnp.log(p))


def _check_distribution(examples: Examples) -> None:
    """Raises a ValueError where known numbers are no distribution; most often they are logits."""
    if isinstance(examples.logits, Tracer):
        return
    p, where = np.asarray(examples.logits), examples.where
    p = p if where is None else p[np.asarray(where)]
    if not np.all(p >= 0) or not np.allclose(p.sum(-1), 1.0, atol=1e-2):
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 over the classes; "
            "logits go to softmax_cross_entropy_with_integer_labels"
        )


def smooth_labels(
    labels: Float[Array, "..."],
    alpha: Scalar,
    *,
    axis: int | tuple[int, ...] | None = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Returns targets mixed with the uniform distribution, which keeps a model from certainty.

    .. math::
      t'_k = (1 - \alpha)\, t_k + \frac{\alpha}{K}

    For losses that take targets. `softmax_cross_entropy_with_integer_labels` smooths class labels
    without an array of targets.

    Args:
      labels: t, floating point, of shape (..., K) for the default axis.
      alpha: in [0, 1]; 0.1 for ImageNet in the paper.
      axis: the axis, or axes, of classes; None for all.
      where: True for the classes that can occur, of the labels' shape: K counts them alone, and the
        others get the target 0, whatever they hold. optax gives them a share.

    Returns:
      An array of the labels' shape, in float32 (float64 for float64 labels).

    Raises:
      TypeError: labels that are not floating point, or a mask that is not boolean.
      ValueError: a mask of another shape, or alpha outside [0, 1].

    The gradient is :math:`1 - \alpha` times that of t'.

    References:
      Szegedy et al., `Rethinking the Inception Architecture for Computer Vision
      <https://arxiv.org/abs/1512.00567>`_, 2015, section 7.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.smooth_labels(jnp.array([0.0, 1.0, 0.0, 0.0]), 0.1))
      [0.025 0.925 0.025 0.025]
    """
    labels = floating("labels", labels)
    alpha = scalar("alpha", alpha, like=labels, at_least=0.0, at_most=1.0)
    where = example_mask(where, labels[..., None], "it masks classes")
    counted = jnp.ones(labels.shape, jnp.bool_) if where is None else where
    count = jnp.sum(counted, axis=axis, keepdims=True, dtype=labels.dtype)
    share = jnp.broadcast_to(alpha / jnp.where(count > 0.0, count, 1.0), labels.shape)
    return masked((1.0 - alpha) * masked(labels, where) + share, where)


def softmax_focal_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    gamma: Scalar = 2.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the focal loss: cross-entropy that fades where the label is already predicted.

    .. math::
      L = -(1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(z)

    Made for many easy examples against few hard ones; it also tempers confidence.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      gamma: at least 0, where it is the cross-entropy; 2 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0 and at most the cross-entropy, of the labels' shape,
      in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or gamma below 0.

    The gradient is :math:`(1 - p_y)^\gamma \left(1 - \gamma \frac{p_y \log p_y}{1 - p_y}\right)
    (p_j - 1[j = y])`.

    Numerics: the derivatives are finite at :math:`p_y = 1` for every gamma, where those of the
    plain power are NaN for gamma below 1; 1 - p_y is computed without cancellation.

    References:
      Lin et al., `Focal Loss for Dense Object Detection <https://arxiv.org/abs/1708.02002>`_, 2017,
      equation 4, here over K classes.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.softmax_focal_loss(logits, jnp.array([0, 1])))
      [0.0109 1.7879]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    gamma = scalar("gamma", gamma, like=examples.logits, at_least=0.0)
    return examples.finish(_focal(-label_log_probability(examples.logits, examples.labels), gamma))


@jax.custom_jvp
def _focal(surprise: Array, gamma: Array) -> Array:
    """Returns (1 - p)^gamma s for the surprise s = -log p >= 0."""
    return complement(-surprise) ** gamma * surprise


@_focal.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # With r = 1 - p = 1 - e^-s:  dL/ds = r^gamma (1 + gamma s p / r),  dL/dgamma = r^gamma s log r.
    # By hand, because the derivative of r^gamma is infinite at r = 0 and s = 0 does not cancel it.
    (s, gamma), (s_dot, gamma_dot) = primals, tangents
    r = complement(-s)
    bounded = jnp.where(s > 80.0, 80.0, s)  # beyond it s p is below 1e-32, and inf * 0 would be NaN
    certain = bounded == 0.0
    nonzero = jnp.where(certain, 1.0, bounded)
    odds = jnp.where(certain, 1.0 - 0.5 * bounded, nonzero / jnp.expm1(nonzero))  # s p / r
    log_r = jnp.log(jnp.where(certain, 1.0, r))
    slope = r**gamma * (1.0 + gamma * odds)
    return _focal(s, gamma), slope * s_dot + r**gamma * bounded * log_r * gamma_dot


def poly_loss_cross_entropy(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."],
    *,
    epsilon: Scalar = 2.0,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes Poly-1: cross-entropy with a heavier first term of its expansion in 1 - p_y.

    .. math::
      L = -\sum_k t_k \log p_k + \varepsilon \sum_k t_k (1 - p_k), \qquad
      p = \mathrm{softmax}(z)

    which is :math:`-\log p_y + \varepsilon (1 - p_y)` for a class label y.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K) of the logits' shape without the class axis, or targets t of the
        logits' shape.
      epsilon: at least -1; 2 for ImageNet, -1 for detection in the paper.
      axis: the axis of classes.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.

    Returns:
      One value per example, of the logits' shape without the class axis, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, or epsilon below -1.

    The gradient for a class label is :math:`(1 + \varepsilon p_y)(p_j - 1[j = y])`.

    References:
      Leng et al., `PolyLoss <https://arxiv.org/abs/2204.12511>`_, 2022, equation 6.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.poly_loss_cross_entropy(logits, jnp.array([0, 1])))
      [0.6656 4.0265]
    """
    if jnp.ndim(labels) == jnp.ndim(logits):
        examples = prepare_targets(logits, labels, where=where, axis=axis)
        cross_entropy = target_cross_entropy(examples.logits, examples.labels)
        missing = jnp.sum(examples.labels * (1.0 - probabilities(examples.logits)), axis=-1)
    else:
        examples = prepare(logits, labels, where=where, axis=axis)
        cross_entropy = -label_log_probability(examples.logits, examples.labels)
        missing = complement(-cross_entropy)
    epsilon = scalar("epsilon", epsilon, like=examples.logits, at_least=-1.0)
    return examples.finish(cross_entropy + epsilon * missing)


def confidence_penalty(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    beta: Scalar = 0.1,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy less the prediction's entropy, so that doubt costs less.

    .. math::
      L = -\log p_y - \beta H(p), \qquad H(p) = -\sum_k p_k \log p_k, \quad
      p = \mathrm{softmax}(z)

    Label smoothing adds KL(uniform || p); this adds KL(p || uniform), up to a constant.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      beta: at least 0; 0.1 for CIFAR-10 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least -beta log K, of the labels' shape, in float32 (float64
      for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or beta below 0.

    The gradient is :math:`p_j - 1[j = y] + \beta p_j (\log p_j + H(p))`.

    References:
      Pereyra et al., `Regularizing Neural Networks by Penalizing Confident Output Distributions
      <https://arxiv.org/abs/1701.06548>`_, 2017, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.confidence_penalty(logits, jnp.array([0, 1])))
      [0.173 2.173]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    beta = scalar("beta", beta, like=examples.logits, at_least=0.0)
    z, y = examples.logits, examples.labels
    return examples.finish(-label_log_probability(z, y) - beta * prediction_entropy(z))


def brier_score(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the squared distance of softmax(logits) from the label: bounded and proper.

    .. math::
      L = \sum_k (p_k - 1[k = y])^2, \qquad p = \mathrm{softmax}(z)

    To be compared with the cross-entropy: its gradient vanishes where the model is surely wrong, so
    that such examples are not learnt.

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

    The gradient is :math:`2 p_j (d_j - \sum_k p_k d_k)` with :math:`d_k = p_k - 1[k = y]`.

    References:
      Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review
      78(1), 1950, equation 2, for one forecast.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.brier_score(logits, jnp.array([0, 1])))
      [0.0681 1.429 ]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    one_hot = is_label(examples.logits, examples.labels).astype(examples.logits.dtype)
    return examples.finish(jnp.sum((probabilities(examples.logits) - one_hot) ** 2, axis=-1))


def squared_error(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    label_weight: Scalar = 1.0,
    label_value: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the mean squared distance of the raw outputs from the one-hot label, no softmax.

    .. math::
      L = \frac{1}{K} \Big( \kappa (z_y - m)^2 + \sum_{k \ne y} z_k^2 \Big)

    To be compared with the cross-entropy, which it rivals on many tasks once rescaled.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A class of -inf cannot
        occur: it is left out of the mean.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      label_weight: kappa, at least 0: 1 for few classes, 5 to 15 for 42 or more in the paper.
      label_value: m, what the label's output should be: 1 for few classes, up to 30 for many.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or label_weight below 0.

    The gradient is :math:`2 \kappa (z_y - m) / K` for the label and :math:`2 z_j / K` for others.

    References:
      Hui and Belkin, `Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy
      in Classification Tasks <https://arxiv.org/abs/2006.07322>`_, 2021, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.squared_error(logits, jnp.array([0, 1])))
      [0.3333 1.6667]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    weight = scalar("label_weight", label_weight, like=z, at_least=0.0)
    value = scalar("label_value", label_value, like=z)
    label, possible = is_label(z, y), ~jnp.isneginf(z)
    residuals = jnp.where(label, z - value, jnp.where(possible, z, 0.0))
    squares = jnp.where(label, weight, 1.0) * residuals**2
    classes = jnp.sum(possible, axis=-1, dtype=z.dtype)
    return examples.finish(jnp.sum(squares, axis=-1) / jnp.where(classes > 0, classes, jnp.nan))


def multiclass_hinge_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes by how much the label's logit misses a margin of 1 over every other.

    .. math::
      L = \max_k (z_k + 1[k \ne y]) - z_y

    To be compared with the cross-entropy: it stops learning an example once the margin is reached.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is 1 for the class of the maximum less 1 for the label.

    References:
      Crammer and Singer, On the Algorithmic Implementation of Multiclass Kernel-based Vector
      Machines, Journal of Machine Learning Research 2, 2001, equation 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.multiclass_hinge_loss(logits, jnp.array([0, 1])))
      [0. 3.]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    rivals = z + 1.0 - is_label(z, y).astype(z.dtype)
    # Not jnp.max: its gradient is lost where XLA computes the rivals twice and rounds differently.
    worst = label_entry(rivals, first_of_largest(rivals))
    return examples.finish(worst - label_entry(z, y))
