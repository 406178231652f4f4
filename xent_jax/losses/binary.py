"""Losses of yes-or-no labels: one sigmoid per element, many labels per example, overlap of sets.

Labels have the logits' shape and lie between 0 and 1. The element-wise losses, as in optax, return
one value per element, and their `where` masks elements; `zlpr_multilabel` returns one value per
example; `binary_dice_loss`, `tversky`, `lovasz_hinge` and `lovasz_softmax` one value per set, such
as the pixels of an image, the sets being the first axis.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import sigmoid

from xent_jax.losses.contract import (
    Examples,
    floating,
    masked,
    prepare,
    prepare_elements,
    prepare_targets,
    scalar,
    unit_interval,
)
from xent_jax.losses.fusion import recomputed, written
from xent_jax.losses.logarithms import log1p_of_share, times, x_log_y
from xent_jax.losses.softmax import is_label, probabilities
from xent_jax.typing import Array, Bool, Float, Int, Num, Scalar

Labels = Num[Array, "..."] | Bool[Array, "..."]


def sigmoid_binary_cross_entropy(
    logits: Float[Array, "..."],
    labels: Labels,
    *,
    pos_weight: Scalar | Float[Array, " classes"] = 1.0,
    label_smoothing: Scalar = 0.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of sigmoid(logits) and yes-or-no labels, element by element.

    For two classes with one logit, or for many labels that do not exclude one another.

    .. math::
      L = -w\, t \log p - (1 - t) \log (1 - p), \qquad p = \sigma(z), \quad
      t = (1 - \varepsilon)\, y + \varepsilon / 2

    Args:
      logits: z, floating point, of any shape. At -inf the answer cannot be yes, at +inf not no.
      labels: y, between 0 and 1, of the logits' shape: booleans, integers or soft labels.
      pos_weight: w, at least 0: a scalar, or one number for each class on the last axis. Above 1
        it raises recall, below 1 precision; the number of negatives over positives balances them.
      label_smoothing: epsilon in [0, 1]. It leaves infinite logits alone.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per element in nats, of the logits' shape, in float32 (float64 for float64 logits):
      at least 0, +inf where the label cannot occur, NaN where it is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, or a hyper-parameter outside its range.

    The gradient is :math:`(1 - t)\, p - w\, t\, (1 - p)`: what the model says less what it should
    say, p - y, with the defaults.

    Numerics: :math:`-\log \sigma(z) = \max(-z, 0) + \log(1 + e^{-|z|})`. A logit of -inf with label
    0, or of +inf with label 1, gives loss 0 and gradient 0, where optax gives NaN.

    References:
      Goodfellow, Bengio and Courville, `Deep Learning <https://www.deeplearningbook.org>`_, 2016,
      section 6.2.2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, -1.0, -jnp.inf]])
      >>> print(xent.sigmoid_binary_cross_entropy(logits, jnp.array([[1, 1, 0]])))
      [[0.1269 1.3133 0.    ]]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    smoothing = scalar("label_smoothing", label_smoothing, like=z, at_least=0.0, at_most=1.0)
    weight = _per_class("pos_weight", pos_weight, z)
    return elements.finish(_smoothed(z, y, weight, smoothing))


@recomputed
def _smoothed(z: Array, y: Array, weight: Array, smoothing: Array) -> Array:
    t = jnp.where(jnp.isinf(z), y, (1.0 - smoothing) * y + 0.5 * smoothing)
    return _cross_entropy(z, weight * t, 1.0 - t)


@jax.custom_jvp
def _cross_entropy(z: Array, positive: Array, negative: Array) -> Array:
    """Returns -a log sigmoid(z) - b log sigmoid(-z), for weights a and b of yes and no."""
    common = (positive + negative) * log1p_of_share(jnp.exp(-jnp.abs(z)))
    return times(positive, jnp.maximum(-z, 0.0)) + times(negative, jnp.maximum(z, 0.0)) + common


@_cross_entropy.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = (b sigmoid(z) - a sigmoid(-z)) dz - log sigmoid(z) da - log sigmoid(-z) db
    # By hand for its digits, and because |z| has no slope at 0; infinite slopes are taken as 0.
    (z, positive, negative), (z_dot, positive_dot, negative_dot) = primals, tangents
    tangent = (negative * sigmoid(z) - positive * sigmoid(-z)) * z_dot
    finite = jnp.where(jnp.isinf(z), 0.0, z)
    tangent += _surprise(finite) * positive_dot + _surprise(-finite) * negative_dot
    return _cross_entropy(z, positive, negative), tangent


@jax.custom_jvp
def _surprise(z: Array) -> Array:
    """Returns -log sigmoid(z)."""
    return jnp.maximum(-z, 0.0) + log1p_of_share(jnp.exp(-jnp.abs(z)))


@_surprise.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d(-log sigmoid(z)) = -sigmoid(-z) dz, by hand for its digits and because |z| has none at 0.
    (z,), (z_dot,) = primals, tangents
    return _surprise(z), -sigmoid(-z) * z_dot


def _per_class(name: str, value: Scalar | Array, logits: Array) -> Array:
    """Returns one weight per element, from a scalar or from one number per class."""
    if jnp.ndim(value) == 0:
        return jnp.broadcast_to(scalar(name, value, like=logits, at_least=0.0), logits.shape)
    value = floating(name, jnp.asarray(value)).astype(logits.dtype)
    if value.shape != logits.shape[-1:]:
        raise ValueError(
            f"{name} must be a scalar or have shape {logits.shape[-1:]}, got {value.shape}"
        )
    return jnp.broadcast_to(value, logits.shape)


def binary_cross_entropy_from_probabilities(
    probabilities: Float[Array, "..."],
    labels: Labels,
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the binary cross-entropy for a model that ends in a sigmoid.

    .. math::
      L = -y \log p - (1 - y) \log (1 - p)

    Give logits to `sigmoid_binary_cross_entropy` where there are any: a probability that was
    rounded to 0 or 1 gives an infinite loss here, and a large, useful one there.

    Args:
      probabilities: p, floating point, between 0 and 1, of any shape.
      labels: y, between 0 and 1, of the shape of `probabilities`.
      where: True for the elements that count, of the shape of `probabilities`; the others give loss
        0 and gradient 0 whatever they hold.

    Returns:
      One value per element in nats, at least 0; +inf where p = 0 < y or p = 1 > y, NaN where p or y
      is outside [0, 1].

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: shapes that differ; outside of jit also numbers outside [0, 1], as logits are.

    The gradient is :math:`-y / p + (1 - y) / (1 - p)`. Nothing is clipped: PyTorch's `BCELoss` cuts
    the logarithms at -100 and Keras p at 1e-7, which changes value and gradient.

    References:
      Goodfellow, Bengio and Courville, `Deep Learning <https://www.deeplearningbook.org>`_, 2016,
      section 6.2.2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> p, y = jnp.array([0.8, 0.3, 0.0]), jnp.array([1, 1, 0])
      >>> print(xent.binary_cross_entropy_from_probabilities(p, y))
      [0.2231 1.204  0.    ]
    """
    elements = prepare_elements(probabilities, labels, where=where, name="probabilities")
    rounded, inside = unit_interval(elements.logits)
    if not isinstance(inside, Tracer) and not np.all(inside):
        raise ValueError(
            "probabilities must lie between 0 and 1; logits go to sigmoid_binary_cross_entropy"
        )
    p, y = jnp.where(inside, rounded, elements.logits), elements.labels
    rest = jnp.where((p == 1.0) & (y == 1.0), 0.0, p)  # whose logarithm's slope would be infinite
    loss = -x_log_y(y, p) - times(1.0 - y, jnp.log1p(-rest))
    return elements.only(inside).finish(loss)


def sigmoid_focal_loss(
    logits: Float[Array, "..."],
    labels: Labels,
    *,
    alpha: Scalar | None = 0.25,
    gamma: Scalar = 2.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the focal loss: binary cross-entropy that fades where the label is predicted.

    .. math::
      L = -\alpha_t (1 - p_t)^\gamma \log p_t, \qquad
      p_t = \begin{cases} p & y = 1 \\ 1 - p & y = 0 \end{cases}, \quad
      \alpha_t = \begin{cases} \alpha & y = 1 \\ 1 - \alpha & y = 0 \end{cases}, \quad
      p = \sigma(z)

    Made for a few positives among very many easy negatives, as in detection. For soft labels, as in
    optax, :math:`1 - p_t = y (1 - p) + (1 - y)\, p`, :math:`\alpha_t = \alpha y + (1 - \alpha)
    (1 - y)` and :math:`-\log p_t` is the cross-entropy.

    Args:
      logits: z, floating point, of any shape.
      labels: y, between 0 and 1, of the logits' shape.
      alpha: the positives' weight in [0, 1]; 0.25 in the paper, which is best with gamma = 2. None
        for no weighting, which is optax's default.
      gamma: at least 0, where it is the weighted cross-entropy; 2 in the paper.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per element in nats, of the logits' shape, in float32 (float64 for float64 logits):
      at least 0, NaN where the label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, or a hyper-parameter outside its range.

    The gradient is :math:`\alpha_t (1 - p_t)^\gamma (\gamma p_t \log p_t + p_t - 1)` times 1 for
    label 1, and times -1 for label 0.

    Numerics: :math:`1 - p_t` is formed without cancellation, and value and derivatives are finite
    however sure the prediction, for gamma below 1 too.

    References:
      Lin et al., `Focal Loss for Dense Object Detection <https://arxiv.org/abs/1708.02002>`_, 2017,
      equation 5.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.sigmoid_focal_loss(jnp.array([3.0, -3.0, 3.0]), jnp.array([1, 1, 0])))
      [0.     0.6916 2.0747]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    gamma = scalar("gamma", gamma, like=z, at_least=0.0)
    if alpha is None:
        return elements.finish(_focal(z, y, gamma))
    alpha = scalar("alpha", alpha, like=z, at_least=0.0, at_most=1.0)
    return elements.finish(_weighted_focal(z, y, gamma, alpha))


@recomputed
def _weighted_focal(z: Array, y: Array, gamma: Array, alpha: Array) -> Array:
    return times(alpha * y + (1.0 - alpha) * (1.0 - y), _focal(z, y, gamma))


@recomputed
def _focal(z: Array, y: Array, gamma: Array) -> Array:
    cross_entropy = _cross_entropy(z, y, 1.0 - y)
    return _modulated(cross_entropy, y * sigmoid(-z) + (1.0 - y) * sigmoid(z), gamma)


@jax.custom_jvp
def _modulated(surprise: Array, error: Array, gamma: Array) -> Array:
    """Returns error^gamma * surprise, for a surprise that is as small as the error near 0."""
    return _power(error, gamma) * surprise


@_modulated.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = e^gamma (ds + gamma (s / e) de + s log e dgamma), with s / e = 1 where both are tiny.
    # By hand, because the derivative of e^gamma is infinite at e = 0 and s = 0 does not cancel it.
    (surprise, error, gamma), (surprise_dot, error_dot, gamma_dot) = primals, tangents
    none, tiny = error == 0.0, error < jnp.finfo(error.dtype).eps ** 2
    s = jnp.where(jnp.isinf(surprise), 0.0, surprise)  # there the error is 1 and does not move
    e = jnp.where(none, 1.0, error)
    power = jnp.where(none, jnp.where(gamma == 0.0, 1.0, 0.0), _power(e, gamma))
    ratio = jnp.where(tiny, 1.0, s / jnp.where(tiny, 1.0, error))
    tangent = surprise_dot + gamma * ratio * error_dot + s * jnp.log(e) * gamma_dot
    return _modulated(surprise, error, gamma), power * tangent


def _power(base: Array, exponent: Array) -> Array:
    """Returns base^exponent; without a power for an exponent of 1, 2 or 4, which XLA sees."""
    root = base ** (0.5 * exponent)
    return root * root


def asymmetric_loss(
    logits: Float[Array, "..."],
    labels: Labels,
    *,
    gamma_negative: Scalar = 4.0,
    gamma_positive: Scalar = 1.0,
    clip: Scalar = 0.05,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes a focal loss that fades faster for negatives, and drops the easiest of them.

    .. math::
      L = -y\, (1 - p)^{\gamma_+} \log p - (1 - y)\, p_m^{\gamma_-} \log (1 - p_m), \qquad
      p_m = \max(p - m, 0), \quad p = \sigma(z)

    For many labels of which each example has few.

    Args:
      logits: z, floating point, of any shape.
      labels: y, between 0 and 1, of the logits' shape.
      gamma_negative: at least 0; 4 in the paper.
      gamma_positive: at least 0; 1 in the authors' code, 0 in their runs on MS-COCO.
      clip: the margin m in [0, 1]: negatives predicted below it are ignored; 0.05 in the paper.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per element in nats, of the logits' shape, in float32 (float64 for float64 logits):
      at least 0, NaN where the label is outside [0, 1]. With a margin a negative's loss is at most
      -log m: one that is predicted with certainty is taken for a wrong label.

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, or a hyper-parameter outside its range.

    The gradient for a positive is the focal loss's; for a negative it is :math:`p_m^{\gamma_-}
    p\, (1 - p) \left( \frac{1}{1 - p_m} - \frac{\gamma_-}{p_m} \log (1 - p_m) \right)`.

    Numerics: derivatives are finite at the margin and however sure the prediction, for exponents
    below 1 too; :math:`1 - p_m = (1 - p) + m` is formed without cancellation. The authors' code
    cuts probabilities at 1e-8 instead.

    References:
      Ridnik, Ben-Baruch et al., `Asymmetric Loss For Multi-Label Classification
      <https://arxiv.org/abs/2009.14119>`_, 2021, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.asymmetric_loss(jnp.array([1.0, 1.0, -3.0]), jnp.array([1, 0, 0])))
      [0.0842 0.2459 0.    ]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    gamma_negative = scalar("gamma_negative", gamma_negative, like=z, at_least=0.0)
    gamma_positive = scalar("gamma_positive", gamma_positive, like=z, at_least=0.0)
    clip = scalar("clip", clip, like=z, at_least=0.0, at_most=1.0)
    return elements.finish(_asymmetric(z, y, gamma_negative, gamma_positive, clip))


@recomputed
def _asymmetric(
    z: Array, y: Array, gamma_negative: Array, gamma_positive: Array, clip: Array
) -> Array:
    p = sigmoid(z)
    positive = _modulated(_surprise(z), sigmoid(-z), gamma_positive)
    shifted = jnp.where(p > clip, p - clip, 0.0)
    negative = _modulated(_shifted_surprise(z, clip), shifted, gamma_negative)
    return times(y, positive) + times(1.0 - y, negative)


@jax.custom_jvp
def _shifted_surprise(z: Array, clip: Array) -> Array:
    """Returns -log(1 - max(sigmoid(z) - m, 0)) = -log(sigmoid(-z) + m), or 0 below the margin."""
    return jnp.where(sigmoid(z) > clip, -jnp.logaddexp(-_surprise(-z), jnp.log(clip)), 0.0)


@_shifted_surprise.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # With q = 1 - p and s = -log(q + m):  ds/dz = p q / (q + m) = p e^(s + log q),  ds/dm = -e^s.
    # By hand, because log m is -inf at m = 0; e^s is bounded there, as its tangent may be 0.
    (z, clip), (z_dot, clip_dot) = primals, tangents
    s, log_q, p = _shifted_surprise(z, clip), -_surprise(-z), sigmoid(z)
    kept = jnp.exp(jnp.where(jnp.isinf(s), 0.0, s + log_q))
    slope = p * kept * z_dot - jnp.exp(jnp.where(s > 80.0, 80.0, s)) * clip_dot
    return s, jnp.where(p > clip, slope, 0.0)


def distribution_balanced(
    logits: Float[Array, "..."],
    labels: Labels,
    *,
    class_counts: Num[Array, " classes"],
    num_examples: Scalar,
    alpha: Scalar = 0.1,
    beta: Scalar = 10.0,
    mu: Scalar = 0.2,
    negative_scale: Scalar = 2.0,
    kappa: Scalar = 0.05,
    gamma: Scalar = 0.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes a binary cross-entropy for many labels per example, most of them rare.

    .. math::
      L_i = \hat r_i \left( y_i \log (1 + e^{-(z_i - \nu_i)})
        + \frac{1 - y_i}{\lambda} \log (1 + e^{\lambda (z_i - \nu_i)}) \right)

      r_i = \frac{1 / n_i}{\sum_j y_j / n_j}, \qquad
      \hat r_i = \alpha + \sigma(\beta (r_i - \mu)), \qquad
      \nu_i = \kappa \log \left( \frac{N}{n_i} - 1 \right)

    Rare labels weigh more, but less so beside another rare one that had the example sampled; and
    negatives stop pushing once a logit is low, so that rare classes are not drowned.

    Args:
      logits: z, floating point, of shape (..., K).
      labels: y, between 0 and 1, of the logits' shape.
      class_counts: n, of shape (K,): in how many training examples each label occurs.
      num_examples: N, how many training examples there are.
      alpha: added to every weight; 0.1 in the paper.
      beta: how sharply the weights rise, at least 0; 10 in the paper.
      mu: where they do; 0.2 for COCO-MLT and 0.3 for VOC-MLT in the paper.
      negative_scale: lambda > 0; 2 for COCO-MLT and 5 for VOC-MLT.
      kappa: by how much rare classes are shifted; 0.05 in the paper.
      gamma: at least 0; above 0 each term is focal, times :math:`(1 - p_t)^\gamma` of the shifted,
        scaled logit. The paper's DB-focal is gamma = 2, and twice as large in the authors' code.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold, and their labels are left out of the sum over j.

    Returns:
      One value per element, of the logits' shape, in float32 (float64 for float64 logits): at least
      0, NaN where the label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, or counts that are
        not between 0 and `num_examples`.

    The gradient with gamma = 0 is :math:`\hat r_i (-y_i \sigma(\nu_i - z_i) + (1 - y_i) \sigma(
    \lambda (z_i - \nu_i)))`.

    Numerics: without any positive label :math:`r_i = \infty` and :math:`\hat r_i = \alpha + 1`. The
    authors' code divides kappa by lambda, which they call a mistake; this is their equation.

    References:
      Wu et al., `Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets
      <https://arxiv.org/abs/2007.09654>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss = xent.distribution_balanced(
      ...     jnp.array([[1.0, -1.0, 0.0]]), jnp.array([[1, 1, 0]]),
      ...     class_counts=jnp.array([90, 5, 50]), num_examples=100,
      ... )
      >>> print(loss)
      [[0.0816 1.5645 0.1243]]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    frequency = _frequencies(class_counts, num_examples, z)
    weight = scalar("alpha", alpha, like=z, at_least=0.0) + _rebalancing(frequency, y, beta, mu)
    rarity = jnp.log1p(-frequency) - jnp.log(frequency)
    shift = scalar("kappa", kappa, like=z) * rarity
    scale = scalar("negative_scale", negative_scale, like=z, above=0.0)
    gamma = scalar("gamma", gamma, like=z, at_least=0.0)
    return elements.finish(_regularized(z, y, weight, shift, scale, gamma))


@recomputed
def _regularized(
    z: Array, y: Array, weight: Array, shift: Array, scale: Array, gamma: Array
) -> Array:
    positive = z - shift
    negative = scale * positive
    loss = times(y, _modulated(_surprise(positive), sigmoid(-positive), gamma))
    loss += times((1.0 - y) / scale, _modulated(_surprise(-negative), sigmoid(negative), gamma))
    return times(weight, loss)


def _frequencies(class_counts: Array, num_examples: Scalar, logits: Array) -> Array:
    """Returns n / N of the logits' shape."""
    if jnp.shape(class_counts) != logits.shape[-1:]:
        raise ValueError(
            f"class_counts must have shape {logits.shape[-1:]}, got {jnp.shape(class_counts)}"
        )
    total = scalar("num_examples", num_examples, like=logits, above=0.0)
    if not isinstance(class_counts, Tracer) and not isinstance(num_examples, Tracer):
        share = np.asarray(class_counts) / float(num_examples)
        if not np.all((share > 0) & (share < 1)):
            raise ValueError(
                f"class_counts must lie between 0 and num_examples = {num_examples}, both "
                f"excluded, got {class_counts}; for a class without examples say 1"
            )
    return jnp.broadcast_to(jnp.asarray(class_counts).astype(logits.dtype) / total, logits.shape)


def _rebalancing(frequency: Array, labels: Array, beta: Scalar, mu: Scalar) -> Array:
    """Returns sigmoid(beta (r - mu)) with r = (1 / n_i) / sum_j y_j / n_j, 1 where that is 0."""
    beta, mu = scalar("beta", beta, like=labels, at_least=0.0), scalar("mu", mu, like=labels)
    given = jnp.where(jnp.isnan(labels), 0.0, labels)  # an invalid one spoils itself alone
    expected = jnp.sum(written(given / frequency), axis=-1, keepdims=True)
    none = jnp.broadcast_to(expected == 0.0, labels.shape)
    ratio = 1.0 / (frequency * jnp.where(none, 1.0, expected))
    return jnp.where(none, 1.0, sigmoid(beta * (ratio - mu)))


def zlpr_multilabel(
    logits: Float[Array, "..."],
    labels: Labels,
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the ZLPR loss: any number of labels above 0, and every other class below it.

    .. math::
      L = \log \Big( 1 + \sum_k y_k e^{-z_k} \Big) + \log \Big( 1 + \sum_k (1 - y_k) e^{z_k} \Big)

    It ranks the labels of an example against its other classes, as the softmax cross-entropy does
    for one label, with 0 as the threshold that decides how many there are. No weights to tune.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, between 0 and 1, of the logits' shape. Several may be 1, or none.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold. A single class is left out by a logit
        of -inf and a label of 0.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the logits' shape without the class axis, in
      float32 (float64 for float64 logits); NaN where a label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ.

    The gradient is :math:`\frac{(1 - y_k) e^{z_k}}{1 + \sum_j (1 - y_j) e^{z_j}} - \frac{y_k
    e^{-z_k}}{1 + \sum_j y_j e^{-z_j}}`.

    References:
      Su et al., `ZLPR: A Novel Loss for Multi-label Classification
      <https://arxiv.org/abs/2208.02955>`_, 2022, section 3; soft labels as in its soft version.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 1.0, -3.0], [2.0, 1.0, -3.0]])
      >>> print(xent.zlpr_multilabel(logits, jnp.array([[1, 1, 0], [0, 0, 0]])))
      [0.4562 2.4121]
    """
    examples = prepare_targets(logits, jnp.asarray(labels), where=where, axis=axis)
    z = examples.logits
    y, valid = unit_interval(examples.labels)
    loss = _log_one_plus_sum(-z, y) + _log_one_plus_sum(z, 1.0 - y)
    return examples.only(jnp.all(valid, axis=-1)).finish(loss)


@jax.custom_jvp
def _log_one_plus_sum(x: Array, weights: Array) -> Array:
    """Returns log(1 + sum_k w_k e^x_k); a weight of 0 leaves out even +inf."""
    largest, _, total = _terms_and_total(x, weights)
    return largest + jnp.log(total)


@_log_one_plus_sum.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dL = sum_k (w_k dx_k + dw_k) e^x_k / (1 + sum_j w_j e^x_j), and 1 for x_k = +inf.
    (x, weights), (x_dot, weights_dot) = primals, tangents
    _, terms, total = _terms_and_total(x, weights)
    slopes = jnp.sum(terms * (weights * x_dot + weights_dot), axis=-1)
    return _log_one_plus_sum(x, weights), slopes / total


def _terms_and_total(x: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Returns m = max(0, max x), e^(x - m) and e^-m + sum w e^(x - m)."""
    counted = jnp.max(jnp.where(weights > 0.0, x, 0.0), axis=-1, initial=0.0)
    largest = jax.lax.stop_gradient(counted)
    # x - m exceeds 0 where the weight is 0 alone; bounded, so that 0 times it is 0.
    gaps = jnp.where(jnp.isposinf(x), 0.0, x - largest[..., None])
    gaps = jnp.where(gaps > 80.0, 80.0, gaps)
    terms = jnp.exp(gaps)
    return largest, terms, jnp.exp(-largest) + jnp.sum(weights * terms, axis=-1)


def binary_dice_loss(
    logits: Float[Array, "sets *elements"],
    labels: Labels,
    *,
    smooth: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " sets"]:
    r"""Computes 1 - Dice coefficient (F1) of probabilities and labels, one value per set.

    .. math::
      L = 1 - \frac{2 \sum_i p_i y_i + 2 s}{\sum_i p_i + \sum_i y_i + 2 s}, \qquad p = \sigma(z)

    For segmentation, where the foreground is small: true negatives do not count. A set is an image,
    or a class: what the first axis counts. It is `tversky` with alpha = beta = 1/2.

    Args:
      logits: z, floating point, of shape (sets, ...). For a single set give `logits[None]`.
      labels: y, between 0 and 1, of the logits' shape.
      smooth: s, at least 0, which tempers small sets and makes an empty one perfect; 1 in optax.
      where: True for the elements that count, of the logits' shape.

    Returns:
      One value per set, from 0 (all right) to 1, of shape (sets,), in float32 (float64 for float64
      logits); 0 where no element counts, NaN where a label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, logits without an axis of sets, or smooth below 0.

    The gradient is :math:`-p_i (1 - p_i) (2 y_i - D) / S`, D being the quotient above and S its
    denominator.

    Numerics: the loss is formed from the errors rather than as 1 less the quotient, and keeps its
    digits near 0.

    References:
      Milletari et al., `V-Net <https://arxiv.org/abs/1606.04797>`_, 2016, section 3, who square p
      and y in the denominator; without squares as in optax, here from logits alone.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 4.0, -4.0, -4.0], [4.0, -4.0, -4.0, -4.0]])
      >>> print(xent.binary_dice_loss(logits, jnp.array([[1, 1, 0, 0], [1, 1, 0, 0]])))
      [0.012  0.2057]
    """
    elements = _sets(logits, labels, where)
    half = jnp.asarray(0.5, elements.logits.dtype)
    smooth = scalar("smooth", smooth, like=half, at_least=0.0)
    return elements.finish_sets(_tversky(elements, half, half, smooth))


def tversky(
    logits: Float[Array, "sets *elements"],
    labels: Labels,
    *,
    alpha: Scalar = 0.5,
    beta: Scalar = 0.5,
    smooth: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " sets"]:
    r"""Computes 1 - Tversky index: a Dice loss that may mind misses more than false alarms.

    .. math::
      L = 1 - \frac{T + s}{T + \alpha F + \beta M + s}, \qquad
      T = \sum_i p_i y_i, \quad F = \sum_i p_i (1 - y_i), \quad M = \sum_i (1 - p_i)\, y_i, \quad
      p = \sigma(z)

    Args:
      logits: z, floating point, of shape (sets, ...). For a single set give `logits[None]`.
      labels: y, between 0 and 1, of the logits' shape.
      alpha: the weight of false alarms F, at least 0.
      beta: the weight of misses M, at least 0. 1/2 each is Dice, 1 each Jaccard; the paper finds
        alpha = 0.3 and beta = 0.7 best for small lesions.
      smooth: s, at least 0, which tempers small sets and makes an empty one perfect.
      where: True for the elements that count, of the logits' shape.

    Returns:
      One value per set, from 0 (all right) to 1, of shape (sets,), in float32 (float64 for float64
      logits); 0 where no element counts, NaN where a label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, logits without an axis of sets, or a hyper-parameter below 0.

    The gradient is :math:`p_i (1 - p_i) \left( (1 - L) (\alpha (1 - y_i) - \beta y_i) - L y_i
    \right) / S`, S being the denominator.

    Numerics: the loss is formed from the errors rather than as 1 less the quotient, and keeps its
    digits near 0.

    References:
      Salehi et al., `Tversky Loss Function for Image Segmentation
      <https://arxiv.org/abs/1706.05721>`_, 2017, equation 2; s is not in the paper.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[4.0, -4.0, -4.0, -4.0]]), jnp.array([[1, 1, 0, 0]])
      >>> print(xent.tversky(logits, labels, alpha=0.3, beta=0.7))
      [0.2622]
    """
    elements = _sets(logits, labels, where)
    alpha = scalar("alpha", alpha, like=elements.logits, at_least=0.0)
    beta = scalar("beta", beta, like=elements.logits, at_least=0.0)
    smooth = scalar("smooth", smooth, like=elements.logits, at_least=0.0)
    return elements.finish_sets(_tversky(elements, alpha, beta, smooth))


def _tversky(elements: Examples, alpha: Array, beta: Array, smooth: Array) -> Array:
    z, y = elements.logits, elements.labels
    p = masked(sigmoid(z), elements.where)
    hits, false_alarms = jnp.sum(p * y, axis=-1), jnp.sum(p * (1.0 - y), axis=-1)
    errors = alpha * false_alarms + beta * jnp.sum(sigmoid(-z) * y, axis=-1)
    total = hits + errors + smooth
    return errors / jnp.where(total == 0.0, 1.0, total)  # nothing there and nothing predicted


def _sets(logits: Array, labels: Array, where: Array | None) -> Examples:
    """Returns checked elements of shape (sets, elements)."""
    elements = prepare_elements(logits, labels, where=where)
    if elements.logits.ndim < 2:
        raise ValueError(
            f"logits must have shape (sets, ...), got {elements.logits.shape}: "
            "for a single set give logits[None] and labels[None]"
        )
    return jax.tree.map(lambda array: _flatten(array, keep=1), elements)


def _flatten(array: Array, keep: int) -> Array:
    """Returns the array with all but its first axes flattened into one."""
    return array.reshape(*array.shape[:keep], math.prod(array.shape[keep:]))


def lovasz_hinge(
    logits: Float[Array, "sets *elements"],
    labels: Labels,
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " sets"]:
    r"""Computes the Lovász hinge: a convex stand-in for 1 - Jaccard index, one value per set.

    .. math::
      L = \sum_i \max(m_{\pi_i}, 0) \left( \Delta(\{\pi_1 \dots \pi_i\}) -
        \Delta(\{\pi_1 \dots \pi_{i-1}\}) \right), \qquad m_i = 1 - z_i (2 y_i - 1)

    where :math:`\pi` sorts the margins' violations m in falling order and :math:`\Delta(M)` is 1 -
    Jaccard index of a prediction that is wrong on the elements M. For foreground masks.

    Args:
      logits: z, floating point, of shape (sets, ...). For a single set give `logits[None]`.
      labels: y, 0 or 1, of the logits' shape.
      where: True for the elements that count, of the logits' shape.

    Returns:
      One value per set, at least 0, of shape (sets,), in float32 (float64 for float64 logits); 0
      where no element counts, NaN where a label is neither 0 nor 1.

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, or logits without an axis of sets.

    The gradient is :math:`(1 - 2 y_i)` times the increment of :math:`\Delta` at i, and 0 where the
    margin is kept.

    References:
      Berman et al., `The Lovász-Softmax Loss <https://arxiv.org/abs/1705.08790>`_, 2018, sections
      2.1 and 2.2; Yu and Blaschko, `The Lovász Hinge <https://arxiv.org/abs/1512.07797>`_, 2015.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.lovasz_hinge(jnp.array([[2.0, -0.5, -3.0]]), jnp.array([[1, 1, 0]])))
      [0.75]
    """
    elements = _sets(logits, labels, where)
    z, y = elements.logits, elements.labels
    loss = _lovasz_jaccard(1.0 - jnp.where(y == 1.0, z, -z), y == 1.0, elements.where)
    return elements.only((y == 0.0) | (y == 1.0)).finish_sets(loss)


def lovasz_softmax(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    only_present: bool = True,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, " sets"]:
    r"""Computes the Lovász-Softmax loss: a stand-in for 1 - mean Jaccard index, one value per set.

    .. math::
      L = \frac{1}{|C|} \sum_{c \in C} \sum_i m_{\pi_i}(c) \left( \Delta_c(\{\pi_1 \dots \pi_i\}) -
        \Delta_c(\{\pi_1 \dots \pi_{i-1}\}) \right), \qquad
      m_i(c) = | 1[y_i = c] - p_i(c) |, \quad p = \mathrm{softmax}(z)

    where, for each class, :math:`\pi` sorts the errors m in falling order and :math:`\Delta_c(M)`
    is 1 - Jaccard index of a prediction that is wrong on the elements M. For segmentation, most
    often after, or added to, the cross-entropy.

    Args:
      logits: z, floating point, of shape (sets, ..., K) for the default axis. To take a batch of
        images as one set give `logits[None]`.
      labels: y, integers in [0, K), of shape (sets, ...).
      only_present: C holds the classes among the set's labels, as in the authors' code; otherwise
        all K, so that every false alarm for an absent class counts.
      where: True for the elements that count, of the labels' shape.
      axis: the logits' axis of classes, not the first.

    Returns:
      One value per set, from 0 to 1, of shape (sets,), in float32 (float64 for float64 logits); 0
      where no element counts, NaN where a label is outside [0, K).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or logits without an axis of sets.

    The gradient with respect to :math:`p_i(c)` is :math:`1 - 2 \cdot 1[y_i = c]` times the
    increment of :math:`\Delta_c` at i, over :math:`|C|`.

    References:
      Berman et al., `The Lovász-Softmax Loss <https://arxiv.org/abs/1705.08790>`_, 2018, section
      2.2 and algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]]])
      >>> print(xent.lovasz_softmax(logits, jnp.array([[0, 1, 1]])))
      [0.4207]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    if examples.labels.ndim < 2:
        raise ValueError(
            f"logits must have shape (sets, ..., classes), got {examples.logits.shape}: "
            "for a single set give logits[None] and labels[None]"
        )
    p = _by_class(probabilities(examples.logits))
    truth = _by_class(is_label(examples.logits, examples.labels))
    if examples.where is not None:
        where = jnp.broadcast_to(_flatten(examples.where, keep=1)[:, None], truth.shape)
        truth = truth & where
    losses = _lovasz_jaccard(jnp.where(truth, 1.0 - p, p), truth, where)
    counted = jnp.any(truth, axis=-1) | (not only_present)
    number = jnp.sum(counted, axis=-1, dtype=losses.dtype)
    return examples.finish_sets(
        jnp.sum(masked(losses, counted), axis=-1) / jnp.maximum(number, 1.0)
    )


def _by_class(array: Array) -> Array:
    """Returns (sets, classes, elements) of (sets, ..., classes)."""
    return _flatten(jnp.moveaxis(array, -1, 1), keep=2)


def _lovasz_jaccard(errors: Array, truth: Array, where: Array | None) -> Array:
    """Returns the Lovász extension of 1 - Jaccard index at errors (..., elements).

    Masked elements, whose truth must be False, get an error of 0: it comes after all that count.
    """
    errors = masked(errors, where)
    operands = (jnp.asarray(-errors), jnp.asarray(truth, jnp.int32))
    falling, truth = jax.lax.sort(operands, dimension=errors.ndim - 1, num_keys=1)
    positives = jnp.sum(truth, axis=-1, keepdims=True, dtype=jnp.int32)
    intersection = (positives - jnp.cumsum(truth, axis=-1)).astype(errors.dtype)
    union = (positives + jnp.cumsum(1 - truth, axis=-1)).astype(errors.dtype)
    # The increments of 1 - intersection / union, in closed form because their differences cancel.
    # The union is 1 at a negative only if it is the first element and there is no positive.
    negative = intersection / (union * jnp.maximum(union - 1.0, 1.0))
    negative = jnp.where(union == 1.0, 1.0, negative)
    increments = jnp.where(truth == 1, 1.0 / union, negative)
    return jnp.sum(times(increments, jnp.where(falling < 0.0, -falling, 0.0)), axis=-1)
