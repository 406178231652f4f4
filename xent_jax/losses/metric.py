"""Losses of the cosine between a feature and each class: margins on the sphere, and proxies.

`cosine_similarities(features, classifier_weights)` makes the cosines; every loss takes them in
place of logits. To predict, take the largest cosine: the margin is for training alone.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from xent_jax.losses.contract import Examples, example_mask, floating, masked, prepare, scalar
from xent_jax.losses.softmax import (
    first_of_largest,
    is_label,
    label_log_probability,
    probabilities,
    scaled,
)
from xent_jax.typing import Array, Bool, Float, Int, Scalar


def cosine_similarities(
    features: Float[Array, "..."],
    classifier_weights: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    precision: str | None = "highest",
) -> Float[Array, "..."]:
    r"""Computes the cosine of the angle between each feature and each class's weight.

    A last layer for `arcface` and its kin: no bias, and lengths do not count.

    .. math::
      c_k = \frac{x \cdot w_k}{\|x\| \|w_k\|}, \qquad
      c_k = \max_m \frac{x \cdot w_{k m}}{\|x\| \|w_{k m}\|}
      \text{ where classes have sub-centres}

    Args:
      features: x, floating point, of shape (..., D).
      classifier_weights: w, of shape (K, D), or (K, M, D) for M sub-centres of every class, of
        which the nearest counts: with `arcface` that is sub-center ArcFace, for training labels of
        which some are wrong; 3 sub-centres in the paper.
      where: True for the features that count, of shape (...); the others give cosines 0 and
        gradient 0, to the weights too, whatever they hold.
      precision: of the matrix product, as in `jax.numpy.matmul`; None for the device's default. A
        scale of 64 multiplies its error.

    Returns:
      Cosines of shape (..., K), in float32 (float64 for float64 inputs), between -1 and 1 up to
      rounding; 0 where either vector is 0.

    Raises:
      TypeError: inputs that are not floating point, a mask that is not boolean.
      ValueError: shapes that do not fit.

    The gradient is :math:`\partial c_k / \partial x = (\hat w_k - c_k \hat x) / \|x\|`, at a right
    angle to x; a vector of zeros has gradient 0 and not NaN.

    Numerics: lengths neither overflow nor underflow, as their squares do.

    References:
      Wang et al., `NormFace: L2 Hypersphere Embedding for Face Verification
      <https://arxiv.org/abs/1704.06369>`_, 2017. Deng et al., `Sub-center ArcFace: Boosting Face
      Recognition by Large-Scale Noisy Web Faces
      <https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> weights = jnp.array([[1.0, 0.0], [1.0, 1.0]])
      >>> print(xent.cosine_similarities(jnp.array([[0.0, 3.0], [0.0, 0.0]]), weights))
      [[0.     0.7071]
       [0.     0.    ]]
    """
    x, w = floating("features", features), floating("classifier_weights", classifier_weights)
    if w.ndim not in (2, 3) or x.ndim < 1 or w.shape[-1] != x.shape[-1] or w.size == 0:
        raise ValueError(
            "classifier_weights must have shape (classes, D), or (classes, sub-centres, D), for "
            f"features of shape (..., D), got {w.shape} for {x.shape}"
        )
    x = masked(x, example_mask(where, x, "it masks whole features"))
    dtype = jnp.promote_types(x.dtype, w.dtype)
    x, w = unit_vectors(x.astype(dtype)), unit_vectors(w.astype(dtype))
    if w.ndim == 2:
        return jnp.einsum("...d,kd->...k", x, w, precision=precision)
    cosines = jnp.einsum("...d,kmd->...km", x, w, precision=precision)
    nearest = is_label(cosines, first_of_largest(cosines))
    return jnp.sum(jnp.where(nearest, cosines, 0.0), axis=-1)


@jax.custom_jvp
def unit_vectors(x: Array) -> Array:
    """Returns x / |x| along the last axis, and 0 at x = 0."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0)
    x = x / _or_one(largest)  # so that the squares stay in range
    return x / _or_one(jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)))


@unit_vectors.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # du = (dx - u (u . dx)) / |x|, taken as 0 at x = 0, where autodiff divides 0 by 0
    (x,), (x_dot,) = primals, tangents
    u = unit_vectors(x)
    length = jnp.sum(u * x, axis=-1, keepdims=True)
    tangent = (x_dot - u * jnp.sum(u * x_dot, axis=-1, keepdims=True)) / _or_one(length)
    return u, jnp.where(length == 0.0, 0.0, tangent)


def _or_one(length: Array) -> Array:
    return jnp.where(length == 0.0, 1.0, length)


def cosine_softmax(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    scale: Scalar = 10.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of scaled cosines: the classifier of Baseline++ for few examples.

    .. math::
      L = -\log \frac{e^{s c_y}}{\sum_k e^{s c_k}}

    Train features and weights with it on many classes, then weights alone on a few examples of new
    ones: as lengths do not count, the features of a class keep together.

    Args:
      cosines: c, in [-1, 1], of shape (..., K) for the default axis; see `cosine_similarities`.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      scale: s > 0. The authors' code takes 2 up to 200 classes and 10 above; the paper gives none.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 cosines);
      even at its best it is no less than log(1 + (K - 1) exp(-s K / (K - 1))) on balanced classes.

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a scale that is not positive, cosines known to leave
        [-1, 1].

    The gradient is :math:`s (p_j - 1[j = y])`.

    References:
      Chen et al., `A Closer Look at Few-shot Classification <https://arxiv.org/abs/1904.04232>`_,
      2019, section 3.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.9, 0.5, 0.0]])
      >>> print(xent.cosine_softmax(cosines, jnp.array([0])))
      [0.0183]
    """
    examples, scale = prepare_cosines(cosines, labels, scale, where, axis)
    return _finish(examples, examples.logits, scale)


def normface(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    scale: Scalar | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of scaled cosines, with a scale that suits the number of classes.

    .. math::
      L = -\log \frac{e^{s c_y}}{\sum_k e^{s c_k}}

    The margin losses' common ground: `cosface` and `arcface` are this at margin 0.

    Args:
      cosines: c, in [-1, 1], of shape (..., K) for the default axis; see `cosine_similarities`.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      scale: s > 0, which the paper learns, from 10: give it as a parameter of the model. Here by
        default the least with which the loss of balanced classes can fall to 0.01, by the paper's
        proposition 2: s = (K - 1) / K log((K - 1) / (e^0.01 - 1)); 6.1 for 10 classes, 15.4 for
        50,000.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 cosines).

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a scale that is not positive, cosines known to leave
        [-1, 1].

    The gradient is :math:`s (p_j - 1[j = y])`. At a scale of 1 the loss of 10 classes cannot fall
    below log(1 + 9 exp(-10/9)) = 1.38, which is why unscaled cosines do not train.

    References:
      Wang et al., `NormFace: L2 Hypersphere Embedding for Face Verification
      <https://arxiv.org/abs/1704.06369>`_, 2017, section 3.3 and proposition 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.9, 0.5, 0.0]])
      >>> print(xent.normface(cosines, jnp.array([0]), scale=20.0))
      [0.0003]
    """
    examples, given = prepare_cosines(cosines, labels, 1.0 if scale is None else scale, where, axis)
    c = examples.logits
    least = jnp.asarray(_least_scale(c.shape[-1]), c.dtype)
    return _finish(examples, c, least if scale is None else given)


def _least_scale(classes: int, loss: float = 0.01) -> float:
    """Returns s with log(1 + (K - 1) exp(-s K / (K - 1))) = loss."""
    others = max(classes, 2) - 1
    return others / (others + 1) * math.log(others / math.expm1(loss))


def cosface(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    margin: Scalar = 0.35,
    scale: Scalar = 64.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the softmax loss with a margin on the label's cosine, for features to compare by.

    .. math::
      L = -\log \frac{e^{s (c_y - m)}}{e^{s (c_y - m)} + \sum_{k \ne y} e^{s c_k}}

    The label's cosine has to win by m. Easier to train than `arcface`, about as good.

    Args:
      cosines: c, in [-1, 1], of shape (..., K) for the default axis; see `cosine_similarities`.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      margin: m >= 0; 0.35 in the paper. Below 0 it is `negative_margin`.
      scale: s > 0; 64 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 cosines).

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, cosines known to
        leave [-1, 1].

    The gradient is :math:`s (p_j - 1[j = y])` with the probabilities of the formula.

    References:
      Wang et al., `CosFace: Large Margin Cosine Loss for Deep Face Recognition
      <https://arxiv.org/abs/1801.09414>`_, 2018, equation 4. Wang et al., `Additive Margin Softmax
      for Face Verification <https://arxiv.org/abs/1801.05599>`_, 2018: the same with a scale of 30.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.9, 0.5, 0.0], [0.9, 0.6, 0.0]])
      >>> print(xent.cosface(cosines, jnp.array([0, 0])))
      [0.04 3.24]
    """
    examples, scale = prepare_cosines(cosines, labels, scale, where, axis)
    margin = scalar("margin", margin, like=examples.logits, at_least=0.0)
    return _finish(examples, examples.logits - margin, scale)


def negative_margin(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    margin: Scalar = -0.3,
    scale: Scalar = 30.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the softmax loss with a margin below 0, for features that must serve new classes.

    .. math::
      L = -\log \frac{e^{s (c_y - m)}}{e^{s (c_y - m)} + \sum_{k \ne y} e^{s c_k}}, \qquad m \le 0

    A positive margin splits a class that training never saw into several clusters, one near each
    training class; a negative one leaves it whole, at the cost of the training classes.

    Args:
      cosines: c, in [-1, 1], of shape (..., K) for the default axis; see `cosine_similarities`.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      margin: m <= 0; -0.3 by default. Above 0 it is `cosface`.
      scale: s > 0; 30 in the authors' code.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 cosines).

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, cosines known to
        leave [-1, 1].

    The gradient is :math:`s (p_j - 1[j = y])` with the probabilities of the formula: smaller than
    without margin, for the label and the classes near it alike.

    References:
      Liu et al., `Negative Margin Matters: Understanding Margin in Few-shot Classification
      <https://arxiv.org/abs/2003.12060>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.5, 0.7, 0.0], [0.5, 0.9, 0.0]])
      >>> print(xent.negative_margin(cosines, jnp.array([0, 0])))
      [0.0486 3.0486]
    """
    examples, scale = prepare_cosines(cosines, labels, scale, where, axis)
    margin = scalar("margin", margin, like=examples.logits, at_most=0.0)
    return _finish(examples, examples.logits - margin, scale)


def arcface(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    margin: Scalar = 0.5,
    scale: Scalar = 64.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the softmax loss with a margin on the label's angle: the standard of face features.

    .. math::
      L = -\log \frac{e^{s \phi(\theta_y)}}{e^{s \phi(\theta_y)} + \sum_{k \ne y} e^{s c_k}}, \qquad
      \phi(\theta) = \cos(\theta + m), \quad \theta = \arccos c

    Beyond :math:`\theta = \pi - m`, where :math:`\cos(\theta + m)` would rise again,
    :math:`\phi = c - m \sin m` as in the authors' code; the paper leaves those angles out.

    Args:
      cosines: c, in [-1, 1], of shape (..., K) for the default axis; see `cosine_similarities`,
        which with three-dimensional weights makes this sub-center ArcFace.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      margin: m in radians, in [0, pi/2]; 0.5 in the paper.
      scale: s > 0; 64 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 cosines).
      It falls as the label's cosine rises, with a step where the angle is pi - m.

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, cosines known to
        leave [-1, 1].

    The gradient is :math:`s (p_j - 1[j = y])`, times
    :math:`\phi'(c) = \sin(\theta_y + m) / \sin \theta_y` at the label, and 1 beyond pi - m.

    Numerics: no arc cosine is taken. At c = 1 the slope is infinite; it is held to that of the
    nearest cosine below, so that it is finite at c = 1 and where rounding takes the cosine above.

    References:
      Deng et al., `ArcFace: Additive Angular Margin Loss for Deep Face Recognition
      <https://arxiv.org/abs/1801.07698>`_, 2019, equation 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.9, 0.5, 0.0], [0.9, 0.6, 0.0]])
      >>> print(xent.arcface(cosines, jnp.array([0, 0])))
      [0.0056 1.4831]
    """
    examples, scale = prepare_cosines(cosines, labels, scale, where, axis)
    margin = scalar("margin", margin, like=examples.logits, at_least=0.0, at_most=math.pi / 2)
    return _finish(examples, _arc(_of_label(examples), margin)[..., None], scale)


def sphereface(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    margin: Scalar = 4.0,
    scale: Scalar = 30.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the softmax loss with the label's angle multiplied: the first of the angle margins.

    .. math::
      L = -\log \frac{e^{s \psi(\theta_y)}}{e^{s \psi(\theta_y)} + \sum_{k \ne y} e^{s c_k}}, \qquad
      \psi(\theta) = (-1)^n \cos(m \theta) - 2 n, \quad n = \lfloor m \theta / \pi \rfloor

    The label has to win though its angle counts m times. Harder to train than `arcface`.

    Args:
      cosines: c, in [-1, 1], of shape (..., K) for the default axis; see `cosine_similarities`.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      margin: m >= 1; 4 in the paper. It need not be an integer.
      scale: s > 0. The paper multiplies by the length of each feature in its place; 30 is of the
        authors' revision, which normalises the features.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 cosines).

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, cosines known to
        leave [-1, 1].

    The gradient is :math:`s (p_j - 1[j = y])`, times
    :math:`\psi'(c) = m |\sin m \theta_y| / \sin \theta_y` at the label, between 0 and m^2 for an
    integer m.

    References:
      Liu et al., `SphereFace: Deep Hypersphere Embedding for Face Recognition
      <https://arxiv.org/abs/1704.08063>`_, 2017, equation 7. Liu et al., `SphereFace Revived
      <https://arxiv.org/abs/2109.05565>`_, 2022.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.99, 0.5, 0.0], [0.9, 0.5, 0.0]])
      >>> print(xent.sphereface(cosines, jnp.array([0, 0])))
      [ 0.    21.936]
    """
    examples, scale = prepare_cosines(cosines, labels, scale, where, axis)
    margin = scalar("margin", margin, like=examples.logits, at_least=1.0)
    return _finish(examples, _multiplied(_of_label(examples), margin)[..., None], scale)


def prepare_cosines(
    cosines: Array, labels: Array, scale: Scalar, where: Array | None, axis: int
) -> tuple[Examples, Array]:
    """Returns checked examples and scale of a loss of cosines that it multiplies itself."""
    examples = prepare(cosines, labels, where=where, axis=axis, name="cosines")
    _check_cosines(examples.logits)
    return examples, scalar("scale", scale, like=examples.logits, above=0.0)


def _check_cosines(cosines: Array) -> None:
    """Raises a ValueError where known numbers are no cosines; most often they are logits."""
    if isinstance(cosines, Tracer):
        return
    known = np.asarray(cosines)
    if np.any(np.isfinite(known) & (np.abs(known) > 1.01)):  # half precision rounds
        raise ValueError(
            "cosines must lie in [-1, 1]: make them with cosine_similarities(features, "
            "classifier_weights); logits go to softmax_cross_entropy_with_integer_labels"
        )


def _of_label(examples: Examples) -> Array:
    """Returns the label's cosine. A sum, because the way back of a gather is a scatter."""
    chosen = is_label(examples.logits, examples.labels)
    return jnp.sum(jnp.where(chosen, examples.logits, 0.0), axis=-1)


def _finish(examples: Examples, at_label: Array, scale: Array) -> Array:
    """Returns the cross-entropy of the scaled cosines, with `at_label` in the label's place."""
    chosen = is_label(examples.logits, examples.labels)
    cosines = jnp.where(chosen, jnp.broadcast_to(at_label, chosen.shape), examples.logits)
    return examples.finish(-label_log_probability(scaled(scale, cosines), examples.labels))


def _arc(cosine: Array, margin: Array) -> Array:
    """Returns cos(theta + m), and c - m sin m where theta + m is above pi."""
    before_pi = cosine > -jnp.cos(margin)
    c = jnp.where(before_pi, cosine, 0.0)
    inside = c * jnp.cos(margin) - _sine(c) * jnp.sin(margin)
    return jnp.where(before_pi, inside, cosine - margin * jnp.sin(margin))


def _multiplied(cosine: Array, margin: Array) -> Array:
    """Returns (-1)^n cos(m theta) - 2 n, and -inf for a class that cannot occur."""
    possible = ~jnp.isneginf(cosine)
    turned = margin * _angle(jnp.where(possible, cosine, 0.0))
    half_turns = jnp.floor(jax.lax.stop_gradient(turned) / math.pi)
    sign = jnp.where(half_turns % 2.0 == 0.0, 1.0, -1.0).astype(cosine.dtype)
    return jnp.where(possible, sign * jnp.cos(turned) - 2.0 * half_turns, cosine)


@jax.custom_jvp
def _sine(cosine: Array) -> Array:
    """Returns sin(arccos c), and 0 where rounding took the cosine past 1."""
    square = (1.0 - cosine) * (1.0 + cosine)  # unlike 1 - c^2, exact near 1
    return jnp.sqrt(jnp.where(square > 0.0, square, 0.0))


@_sine.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d sin = -c / sin dc, where autodiff gives inf or NaN at c = 1
    (cosine,), (cosine_dot,) = primals, tangents
    sine = _sine(cosine)
    return sine, -cosine / _at_least_rounding(sine) * cosine_dot


@jax.custom_jvp
def _angle(cosine: Array) -> Array:
    """Returns arccos c, and 0 or pi where rounding took the cosine past 1 or -1."""
    return jnp.arctan2(_sine(cosine), cosine)


@_angle.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d arccos = -dc / sin
    (cosine,), (cosine_dot,) = primals, tangents
    return _angle(cosine), -cosine_dot / _at_least_rounding(_sine(cosine))


def _at_least_rounding(sine: Array) -> Array:
    """Returns the sine, no smaller than that of the largest cosine below 1."""
    smallest = math.sqrt(jnp.finfo(sine.dtype).eps)
    return jnp.where(sine > smallest, sine, smallest)


def proxy_nca(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    scale: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes how much nearer a feature is to its class's proxy than to the other proxies.

    For retrieval: proxies stand for the classes, so that no pairs or triplets have to be sampled.

    .. math::
      L = -\log \frac{e^{-s d_y}}{\sum_{k \ne y} e^{-s d_k}}, \qquad
      d_k = \|\hat x - \hat p_k\|^2 = 2 - 2 c_k

    Args:
      cosines: c of features and proxies, in [-1, 1], of shape (..., K) for the default axis; see
        `cosine_similarities`.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      scale: s > 0; 1 in the paper. Larger values attend to the nearest proxies.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example, of the labels' shape, in float32 (float64 for float64 cosines): below 0
      where the right proxy is nearer than all others together, and 0 where there is no other.

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a scale that is not positive, cosines known to leave
        [-1, 1].

    The gradient is :math:`2 s (q_j - 1[j = y])`, with q the softmax over the other proxies: the
    pull towards the right proxy never fades, as the cross-entropy's does.

    References:
      Movshovitz-Attias et al., `No Fuss Distance Metric Learning using Proxies
      <https://arxiv.org/abs/1703.07464>`_, 2017, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.9, 0.5, 0.0]])
      >>> print(xent.proxy_nca(cosines, jnp.array([0])))
      [-0.4867]
    """
    examples, scale = prepare_cosines(cosines, labels, scale, where, axis)
    z = scaled(2.0 * scale, examples.logits)
    return examples.finish(_others_over_label(z, examples.labels))


@jax.custom_jvp
def _others_over_label(z: Array, labels: Array) -> Array:
    """Returns log sum_{k != y} exp(z_k) - z_y; 0 without others, NaN if no class can occur."""
    shift, terms = _terms_of_others(z, labels)
    total = jnp.sum(terms, axis=-1)
    right = jnp.sum(jnp.where(is_label(z, labels), z, 0.0), axis=-1)
    loss = shift + jnp.log(jnp.where(total == 0.0, 1.0, total)) - right
    return jnp.where(total == 0.0, 0.0 * right, loss)


@_others_over_label.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dL = sum_{k != y} q_k dz_k - dz_y with q the softmax over the others
    (z, labels), (z_dot, _) = primals, tangents
    _, terms = _terms_of_others(z, labels)
    total = jnp.sum(terms, axis=-1, keepdims=True)
    pull = jnp.where(total == 0.0, 0.0, -1.0)
    slopes = jnp.where(is_label(z, labels), pull, terms / jnp.where(total == 0.0, 1.0, total))
    return _others_over_label(z, labels), jnp.sum(slopes * z_dot, axis=-1)


def _terms_of_others(z: Array, labels: Array) -> tuple[Array, Array]:
    """Returns m = max_{k != y} z_k, or 0 without others, and exp(z_k - m), which is 0 at y."""
    others = jnp.where(is_label(z, labels), -jnp.inf, z)
    largest = jax.lax.stop_gradient(jnp.max(others, axis=-1))
    shift = jnp.where(jnp.isneginf(largest), 0.0, largest)
    return shift, jnp.exp(others - shift[..., None])


def proxy_anchor(
    cosines: Float[Array, "examples classes"],
    labels: Int[Array, " examples"],
    *,
    margin: Scalar = 0.1,
    scale: Scalar = 32.0,
    where: Bool[Array, " examples"] | None = None,
) -> Float[Array, " classes"]:
    r"""Computes one loss per proxy, over the whole batch: the hardest examples pull the most.

    .. math::
      L_k = \frac{K}{|P^+|} \log\Bigl(1 + \sum_{i: y_i = k} e^{-s (c_{ik} - m)}\Bigr)
      + \log\Bigl(1 + \sum_{i: y_i \ne k} e^{s (c_{ik} + m)}\Bigr)

    where :math:`|P^+|` is the number of classes that the batch holds.

    Args:
      cosines: c of features and proxies, in [-1, 1], of shape (B, K); see `cosine_similarities`.
      labels: y, integers in [0, K), of shape (B,).
      margin: m >= 0; 0.1 in the paper.
      scale: s > 0; 32 in the paper.
      where: True for the examples that count, of shape (B,); the others have no influence whatever
        they hold.

    Returns:
      One value per class, at least 0, of shape (K,), in float32 (float64 for float64 cosines).
      Their mean is the paper's loss; 0 where no example counts, NaN where a label is outside
      [0, K).

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, cosines known to
        leave [-1, 1].

    The gradient shares the pull and the push of a proxy out among the examples by a softmax of how
    hard they are; a proxy whose examples are all far beyond the margin is left alone.

    References:
      Kim et al., `Proxy Anchor Loss for Deep Metric Learning <https://arxiv.org/abs/2003.13911>`_,
      2020, equation 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[0.9, 0.0], [0.2, 0.1]])
      >>> print(xent.proxy_anchor(cosines, jnp.array([0, 1])))
      [9.6001 3.9331]
    """
    if jnp.ndim(cosines) != 2:
        raise ValueError(
            f"cosines must have shape (examples, classes), got {jnp.shape(cosines)}: "
            "use jax.vmap for several batches"
        )
    examples, scale = prepare_cosines(cosines, labels, scale, where, -1)
    margin = scalar("margin", margin, like=examples.logits, at_least=0.0)
    c, y = examples.logits, examples.labels
    counts = ~jnp.isneginf(c)
    if examples.where is not None:
        counts &= examples.where[:, None]
    right = is_label(c, y) & counts
    c = jnp.where(counts, c, 0.0)
    pull = _log_one_plus_sum(jnp.where(right, -scale * (c - margin), -jnp.inf))
    push = _log_one_plus_sum(jnp.where(counts & ~right, scale * (c + margin), -jnp.inf))
    present = jnp.sum(jnp.any(right, axis=0), dtype=c.dtype)
    loss = c.shape[-1] / jnp.where(present == 0.0, 1.0, present) * pull + push
    assert examples.valid is not None  # as the labels are integers
    return examples._replace(valid=jnp.all(examples.valid), where=None).finish(loss)


@jax.custom_jvp
def _log_one_plus_sum(z: Array) -> Array:
    """Returns log(1 + sum_i exp(z_i)) over the first axis."""
    largest, total = _largest_and_total(z)
    return largest + jnp.log(total)


@_log_one_plus_sum.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d log(1 + sum_i exp(z_i)) = sum_i exp(z_i) dz_i / (1 + sum_i exp(z_i))
    (z,), (z_dot,) = primals, tangents
    largest, total = _largest_and_total(z)
    shares = jnp.exp(z - largest[None]) * (1.0 / total)[None]
    return _log_one_plus_sum(z), jnp.sum(shares * z_dot, axis=0)


def _largest_and_total(z: Array) -> tuple[Array, Array]:
    """Returns m = max(0, max_i z_i) and exp(-m) + sum_i exp(z_i - m), over the first axis."""
    largest = jax.lax.stop_gradient(jnp.max(z, axis=0, initial=0.0))
    return largest, jnp.exp(-largest) + jnp.sum(jnp.exp(z - largest[None]), axis=0)


def soft_triple(
    cosines: Float[Array, "*batch classes centres"],
    labels: Int[Array, "*batch"],
    *,
    scale: Scalar = 20.0,
    margin: Scalar = 0.01,
    gamma: Scalar = 0.1,
    where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Computes a softmax loss with several centres per class, for classes that look several ways.

    .. math::
      L = -\log \frac{e^{s (S_y - m)}}{e^{s (S_y - m)} + \sum_{k \ne y} e^{s S_k}}, \qquad
      S_k = \sum_j \frac{e^{c_{kj} / \gamma}}{\sum_l e^{c_{kl} / \gamma}} c_{kj}

    Args:
      cosines: c, in [-1, 1], of shape (..., K, M) for M centres in each of K classes:
        `cosine_similarities(features, centres.reshape(K * M, D)).reshape(-1, K, M)`. Where a class
        has fewer centres, -inf stands for those it lacks.
      labels: y, integers in [0, K), of shape (...).
      scale: s > 0; 20 in the paper, where it is called lambda.
      margin: m >= 0; 0.01 in the paper, where it is called delta.
      gamma: above 0: how softly the nearest centre is chosen; 0.1 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 cosines).
      The paper adds a penalty on the centres' distances, which is no function of the examples.

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is that of `cosface`, handed on to each centre by how near it is.

    References:
      Qian et al., `SoftTriple Loss: Deep Metric Learning Without Triplet Sampling
      <https://arxiv.org/abs/1909.05235>`_, 2019, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> cosines = jnp.array([[[0.9, -0.5], [0.5, 0.6]]])
      >>> print(xent.soft_triple(cosines, jnp.array([0])))
      [0.0018]
    """
    c = floating("cosines", cosines)
    if c.ndim < 2 or c.shape[-1] == 0:
        raise ValueError(f"cosines must have shape (..., classes, centres), got {c.shape}")
    c = masked(c, example_mask(where, c[..., 0], "it masks whole examples"))
    gamma = scalar("gamma", gamma, like=c, above=0.0)
    relaxed = _softly_largest(c, gamma)
    return cosface(relaxed, labels, margin=margin, scale=scale, where=where)


@jax.custom_jvp
def _softly_largest(c: Array, gamma: Array) -> Array:
    """Returns sum_j q_j c_j with q = softmax(c / gamma), over the last axis; -inf is no centre."""
    q, present = _nearness(c, gamma)
    softly = jnp.sum(jnp.where(present, q * c, 0.0), axis=-1)
    return jnp.where(jnp.any(present, axis=-1), softly, -jnp.inf)


@_softly_largest.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dS = sum_j q_j (1 + (c_j - S) / gamma) dc_j - sum_j q_j (c_j - S)^2 / gamma^2 dgamma
    (c, gamma), (c_dot, gamma_dot) = primals, tangents
    (q, present), softly = _nearness(c, gamma), _softly_largest(c, gamma)
    above = jnp.where(present, c - softly[..., None], 0.0) / gamma
    tangent = q * ((1.0 + above) * c_dot - above**2 * gamma_dot)
    return softly, jnp.sum(tangent, axis=-1)


def _nearness(c: Array, gamma: Array) -> tuple[Array, Array]:
    """Returns q = softmax(c / gamma), of any values for a class without centres, and c > -inf."""
    present = ~jnp.isneginf(c)
    some = jnp.any(present, axis=-1, keepdims=True)
    return probabilities(jnp.where(some, c, 0.0) / gamma), present
