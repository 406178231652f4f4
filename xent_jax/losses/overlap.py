"""Losses of the overlap of predicted and true segments, each class on its own."""

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import (
    Examples,
    classes_last,
    example_mask,
    masked,
    scalar,
    unit_interval,
)
from xent_jax.losses.softmax import probabilities
from xent_jax.typing import Array, Bool, Float, Num, Scalar

AxisName = str | tuple[str, ...] | None


def dice_loss(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."],
    *,
    class_weights: Num[Array, "_"] | None = None,
    smooth: Scalar = 1.0,
    alpha: Scalar = 0.5,
    beta: Scalar = 0.5,
    ignore_background: bool = False,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " sets"]:
    r"""Computes 1 - Dice coefficient of softmax probabilities, the classes' mean, per set.

    For segmentation into several classes: small ones count as much as large ones.

    .. math::
      L = \frac{1}{K} \sum_k w_k \left( 1 - \frac{T_k + s}
      {T_k + \alpha F_k + \beta M_k + s} \right), \qquad p = \mathrm{softmax}(z)

      T_k = \sum_i p_{ik} y_{ik}, \quad F_k = \sum_i p_{ik} (1 - y_{ik}), \quad
      M_k = \sum_i (1 - p_{ik})\, y_{ik}

    A set is an image: what the first axis counts. Two classes told apart by one logit are
    `binary_dice_loss`.

    Args:
      logits: z, floating point, of shape (sets, ..., K) with at least two classes.
      labels: y, between 0 and 1, of the logits' shape: `jax.nn.one_hot` of integer classes.
      class_weights: w, of shape (K,); 1 each by default. Their sum does not divide.
      smooth: s, at least 0, which tempers small segments and makes a class perfect that is neither
        there nor predicted; 1 in optax.
      alpha: the weight of false alarms F, at least 0.
      beta: the weight of misses M, at least 0. 1/2 each is Dice, others are Tversky's.
      ignore_background: whether to leave class 0 out of the mean.
      where: True for the elements that count, of the logits' shape without the class axis.

    Returns:
      One value per set, of shape (sets,), in float32 (float64 for float64 logits): from 0, up to
      rounding, where all is right, to the mean weight; 0 where no element counts, NaN where a label
      is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that do not fit, fewer than two classes, or a hyper-parameter below 0.

    The gradient in :math:`p_{ik}` is :math:`w_k ((1 - L_k) (\alpha (1 - y_{ik}) - \beta y_{ik}) -
    L_k y_{ik}) / (K S_k)`, L_k being the class's loss without its weight and S_k its denominator.

    References:
      Milletari et al., `V-Net <https://arxiv.org/abs/1606.04797>`_, 2016, section 3, for one class
      and with squares in the denominator; here without, as in optax. Salehi et al., `Tversky Loss
      Function for Image Segmentation <https://arxiv.org/abs/1706.05721>`_, 2017, equation 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 0.0, 0.0]]])
      >>> labels = jnp.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]]])
      >>> print(xent.dice_loss(logits, labels))
      [0.1856]
    """
    examples = _segments(logits, labels, where)
    losses = _losses_by_class(examples, alpha, beta, smooth)
    if class_weights is not None:
        losses = losses * _weights_of_classes(class_weights, losses)[None, :]
    return examples.finish_sets(jnp.mean(losses[:, int(ignore_background) :], axis=-1))


def multiclass_generalized_dice_loss(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."],
    *,
    smooth: Scalar = 1.0,
    ignore_background: bool = False,
    where: Bool[Array, "..."] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, " sets"]:
    r"""Computes the Dice losses of the classes, weighted by 1 / frequency^2, one value per set.

    For segments of very different sizes, which `dice_loss` counts alike.

    .. math::
      L = \frac{1}{K} \sum_k w_k \left( 1 - \frac{2 T_k + 2 s}{P_k + N_k + 2 s} \right), \qquad
      w_k = \frac{K\, n_k^{-2}}{\sum_j n_j^{-2}}, \qquad p = \mathrm{softmax}(z)

    with :math:`T_k = \sum_i p_{ik} y_{ik}`, :math:`P_k = \sum_i p_{ik}` and :math:`N_k = \sum_i
    y_{ik}` over a set, and n the same as N over the whole batch.

    Args:
      logits: z, floating point, of shape (sets, ..., K) with at least two classes.
      labels: y, between 0 and 1, of the logits' shape: `jax.nn.one_hot` of integer classes.
      smooth: s, at least 0, which tempers small segments; 1 in optax.
      ignore_background: whether to leave class 0 out of the mean. It keeps its part in the weights'
        sum.
      where: True for the elements that count, of the logits' shape without the class axis. The
        others are not counted in n either.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that n is
        of the global batch.

    Returns:
      One value per set, of shape (sets,), in float32 (float64 for float64 logits), of which optax's
      scalar is the mean; 0 where no element counts, NaN where a label is outside [0, 1]. A class
      that nothing in the batch belongs to has the weight 0: in optax it has nearly all of it, 1e7
      before the division, so that the others are not learned.

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that do not fit, fewer than two classes, or smooth below 0.

    The gradient is that of `dice_loss` with these weights, which depend on the labels alone.

    References:
      Sudre et al., `Generalised Dice overlap as a deep learning loss function for highly unbalanced
      segmentations <https://arxiv.org/abs/1707.03237>`_, 2017, whose weights these are. Theirs is
      one quotient of weighted sums; this mean of quotients is optax's.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]])
      >>> labels = jnp.array([[[1, 0], [1, 0], [0, 1]]])
      >>> print(xent.multiclass_generalized_dice_loss(logits, labels))
      [0.296]
    """
    examples = _segments(logits, labels, where)
    half = jnp.asarray(0.5, examples.logits.dtype)
    losses = _losses_by_class(examples, half, half, smooth)
    frequencies = jnp.sum(examples.labels, axis=tuple(range(examples.labels.ndim - 1)))
    if axis_name is not None:
        frequencies = jax.lax.psum(frequencies, axis_name)
    weighted = losses * _inverse_squares(frequencies)[None, :]
    return examples.finish_sets(jnp.mean(weighted[:, int(ignore_background) :], axis=-1))


def _segments(logits: Array, labels: Array, where: Array | None) -> Examples:
    """Returns checked examples whose labels are numbers in [0, 1] for every class."""
    logits, labels = classes_last("logits", logits, -1), jnp.asarray(labels)
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits must have shape (sets, ..., classes), classes > 1, got {logits.shape}: "
            "a single set is logits[None], and one logit per element goes to binary_dice_loss"
        )
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must hold a number for every class, shape {logits.shape}, got "
            f"{labels.shape}: see jax.nn.one_hot"
        )
    where = example_mask(where, logits, "it masks elements")
    labels, valid = unit_interval(masked(labels.astype(logits.dtype), where))
    return Examples(masked(logits, where), labels, valid, where)


def _losses_by_class(examples: Examples, alpha: Scalar, beta: Scalar, smooth: Scalar) -> Array:
    """Returns 1 - Tversky index (sets, K)."""
    y, p = examples.labels, masked(probabilities(examples.logits), examples.where)
    alpha, beta, smooth = (
        scalar(name, value, like=y, at_least=0.0)
        for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth))
    )
    elements = tuple(range(1, y.ndim - 1))
    hits = jnp.sum(p * y, axis=elements)
    false_alarms, misses = jnp.sum(p, axis=elements) - hits, jnp.sum(y, axis=elements) - hits
    errors = alpha * false_alarms + beta * misses
    total = hits + errors + smooth
    return errors / jnp.where(total == 0.0, 1.0, total)  # nothing there and nothing predicted


def _weights_of_classes(class_weights: Array, losses: Array) -> Array:
    class_weights = jnp.asarray(class_weights, losses.dtype)
    if class_weights.shape != losses.shape[1:]:
        raise ValueError(
            f"class_weights must hold one number per class, shape {losses.shape[1:]}, got "
            f"{class_weights.shape}"
        )
    return class_weights


def _inverse_squares(frequencies: Array) -> Array:
    """Returns weights 1 / n^2 of mean 1, 0 for a class without examples."""
    there = frequencies > 0.0
    # Relative to the rarest class, so that no square overflows or vanishes.
    finite = jnp.where(there, frequencies, jnp.inf)
    rarest = jax.lax.stop_gradient(jnp.min(finite))
    weights = jnp.where(there, rarest / jnp.where(there, frequencies, 1.0), 0.0) ** 2
    total = jnp.sum(weights)
    return weights * (len(weights) / jnp.where(total == 0.0, 1.0, total))
