"""Losses of embeddings that are compared with one another: contrastive, triplet and their kin.

Each returns one value per anchor, an anchor being an example of the batch that is compared with all
others. Equal labels make a positive pair, different ones a negative pair. An anchor without a
positive has nothing to be pulled to: its loss is 0, and never NaN.

Where a batch is split over devices, plain `jit` already compares across them. Inside
`jax.shard_map` give `axis_name`: embeddings and labels are gathered over that axis, so that each
device compares its own anchors with the global batch. The gradient that reaches a device's
embeddings is that of the sum of all devices' losses.

All comparisons are by a matrix product, so that no array is larger than that of all pairs, (B, N),
as (B, N, D) would be, the difference of all embeddings.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from xent_jax.losses.contract import (
    Examples,
    example_mask,
    floating,
    masked,
    scalar,
    unit_interval,
)
from xent_jax.typing import Array, Bool, Float, Int, Num, Scalar

Embeddings = Float[Array, "_ _"]  # (B, D), one row per example
Labels = Int[Array, "_"]  # (B,), any integers: equal ones belong together
Mask = Bool[Array, "_"]  # (B,)
Losses = Float[Array, "_"]  # (B,), one value per anchor
AxisName = str | tuple[str, ...] | None

CLIP_LOG_SCALE = math.log(1.0 / 0.07)
SIGLIP_LOG_SCALE = math.log(10.0)
EMPTY = -1e30  # stands for log 0, as -inf would, but differences of two of them are no NaN


class Pairs(NamedTuple):
    """The anchors of a device and what they are compared with: the N examples of all devices."""

    embeddings: Array  # (B, D) in at least float32; 0 where masked
    positive: Array  # (B, N), two examples of one label, both of which count
    negative: Array  # (B, N), two examples of different labels, both of which count
    axis_name: AxisName

    def cosines(self, scale: Array | float = 1.0) -> Array:
        """Returns the cosine of every pair times `scale`."""
        unit = _unit(self.embeddings)
        return _inner(scale * unit, _gathered(unit, self.axis_name))

    def squared_distances(self) -> Array:
        """Returns the squared Euclidean distance of every pair."""
        keys = _gathered(self.embeddings, self.axis_name)
        # Distances do not depend on the origin, and the closer it is, the fewer digits cancel. It
        # is not the mean, of which XLA may compute two that differ by rounding.
        origin = jax.lax.stop_gradient(keys[:1])
        anchors, keys = self.embeddings - origin, keys - origin
        lengths = _squared_length(anchors)[:, None] + _squared_length(keys)[None, :]
        squared = lengths - 2.0 * _inner(anchors, keys)
        return _hinge(squared)


def _pairs(embeddings: Array, labels: Array, where: Array | None, axis_name: AxisName) -> Pairs:
    """Returns checked embeddings, and which of their pairs are positive and negative."""
    embeddings, where = _checked("embeddings", embeddings, where)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels must hold one integer per embedding, shape {embeddings.shape[:1]}, "
            f"got {labels.shape}"
        )
    same, both = _equal(labels, axis_name), _both(where, axis_name)
    another = ~_equal(_places(labels, axis_name), axis_name)
    return Pairs(embeddings, same & another & both, ~same & both, axis_name)


class Towers(NamedTuple):
    """Two embeddings of each example, and which of their combinations belong together."""

    embeddings: Array  # (B, D) in at least float32; 0 where masked
    others: Array  # (B, D)
    matched: Array  # (B, N), both embeddings are of the same example
    unmatched: Array  # (B, N), they are of different examples, both of which count


def _towers(
    embeddings: Array, other_embeddings: Array, where: Array | None, axis_name: AxisName
) -> Towers:
    """Returns two checked embeddings per example, and which combinations belong together."""
    embeddings, checked = _checked("embeddings", embeddings, where)
    others, _ = _checked("other_embeddings", other_embeddings, where)
    _same_shapes(embeddings=embeddings, other_embeddings=others)
    both = _both(checked, axis_name)
    same = _equal(_places(checked, axis_name), axis_name)
    return Towers(embeddings, others, same & both, ~same & both)


def _checked(name: str, embeddings: Array, where: Array | None) -> tuple[Array, Array]:
    """Returns embeddings with 0 where masked, and which of them count."""
    embeddings = floating(name, embeddings)
    if embeddings.ndim != 2:
        raise ValueError(
            f"{name} must have shape (batch, dimensions), got {embeddings.shape}: "
            "use jax.vmap for several batches"
        )
    where = example_mask(where, embeddings, "it masks examples")
    if where is None:
        return embeddings, jnp.ones(embeddings.shape[:1], jnp.bool_)
    return masked(embeddings, where), where


def _same_shapes(**arrays: Array) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{', '.join(shapes)} must have one shape, got {[*shapes.values()]}")


def _gathered(array: Array, axis_name: AxisName) -> Array:
    """Returns the rows of all devices, or those given where there is no axis."""
    return array if axis_name is None else jax.lax.all_gather(array, axis_name, tiled=True)


def _places(array: Array, axis_name: AxisName) -> Array:
    """Returns the places of this device's examples in the global batch."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(array)
    return jnp.arange(len(array), dtype=jnp.int32) + first


def _equal(array: Array, axis_name: AxisName) -> Array:
    return array[:, None] == _gathered(array, axis_name)[None, :]


def _both(where: Array, axis_name: AxisName) -> Array:
    return where[:, None] & _gathered(where, axis_name)[None, :]


def _inner(rows: Array, columns: Array) -> Array:
    """Returns the inner products, with all digits: accelerators would round them to three."""
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


def _squared_length(embeddings: Array) -> Array:
    return jnp.sum(embeddings * embeddings, axis=-1)


def _length(embeddings: Array) -> Array:
    """Returns the Euclidean length; its slope at 0 is taken as 0."""
    return _root(_squared_length(embeddings))


def _root(x: Array) -> Array:
    """Returns the square root; its slope at 0 is taken as 0."""
    return jnp.where(x <= 0.0, 0.0, jnp.sqrt(jnp.where(x <= 0.0, 1.0, x)))


def _unit(embeddings: Array) -> Array:
    """Returns embeddings of length 1, or 0 with slope 0 where there is no direction."""
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(embeddings)), -1, keepdims=True, initial=0.0)
    # Divided by the largest first, so that no square overflows or vanishes.
    scaled = embeddings / jnp.where(largest > 0.0, largest, 1.0)
    length = _length(scaled)[:, None]
    return scaled / jnp.where(length == 0.0, 1.0, length)


def _hinge(x: Array) -> Array:
    """Returns what is above 0, and NaN for NaN: a broken embedding is not to look right."""
    return jnp.where(x <= 0.0, 0.0, x)


def _mean(values: Array, mask: Array) -> Array:
    """Returns each row's mean over the mask, 0 where it is empty."""
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1) / _count(mask, values)


def _count(mask: Array, like: Array) -> Array:
    """Returns each row's number of entries, and 1 where there are none."""
    count = jnp.sum(mask, axis=-1, dtype=like.dtype)
    return jnp.where(count > 0.0, count, 1.0)


def _log_sums(scores: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
    """Returns log sum exp(s) of each row's positives and of its negatives, EMPTY for none."""
    (pulling, pulled), (pushing, pushed) = _log_sum(scores, positive), _log_sum(scores, negative)
    return (pulling + pulled)[:, 0], (pushing + pushed)[:, 0]


@jax.custom_jvp
def _log_odds(scores: Array, positive: Array, negative: Array) -> Array:
    """Returns mean_p log(1 + sum_n exp(s_n - s_p)): each positive alone against all negatives."""
    largest, total = _log_sum(scores, negative)
    return _mean(softplus(largest - scores + total), positive)


@_log_odds.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = mean_p w_p (sum_n q_n ds_n - ds_p), q = softmax over the negatives, w_p the probability
    # of any negative in place of p: one array of slopes, where autodiff keeps w and q.
    (scores, positive, negative), (scores_dot, *_) = primals, tangents
    largest, total = _log_sum(scores, negative)
    wrong = sigmoid(largest - scores + total) / _count(positive, scores)[:, None]
    wrong = jnp.where(positive, wrong, 0.0)
    shares = _exponentials(scores - largest - total, negative)
    slopes = jnp.sum(wrong, axis=-1, keepdims=True) * shares - wrong
    return _log_odds(scores, positive, negative), jnp.sum(slopes * scores_dot, axis=-1)


def _log_sum(scores: Array, mask: Array) -> tuple[Array, Array]:
    """Returns two parts, (B, 1), of each row's log sum exp(s) over the mask, EMPTY for none.

    They are the largest score and the logarithm of the sum relative to it: subtracted one after the
    other, they leave all digits.
    """
    largest = jnp.max(
        jax.lax.stop_gradient(scores), axis=-1, keepdims=True, initial=-jnp.inf, where=mask
    )
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)
    total = jnp.sum(_exponentials(scores - largest, mask), axis=-1, keepdims=True)
    none = total == 0.0
    return largest, jnp.where(none, EMPTY, jnp.log(jnp.where(none, 1.0, total)))


def _exponentials(scores: Array, mask: Array) -> Array:
    """Returns exp(s), and 0 outside the mask, where exp(s) might be infinite."""
    return jnp.exp(jnp.where(mask, scores, -jnp.inf))


def ntxent(
    embeddings: Embeddings,
    labels: Labels,
    temperature: Scalar = 0.07,
    *,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the normalised, temperature-scaled cross-entropy of SimCLR, per anchor.

    For self-supervised learning: the views of one image share a label, all others are negatives.

    .. math::
      L_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \log \frac{e^{s_{ip} / \tau}}
      {e^{s_{ip} / \tau} + \sum_{n \in N_i} e^{s_{in} / \tau}}, \qquad
      s_{ij} = \frac{x_i \cdot x_j}{\|x_i\| \|x_j\|}

    P and N are the anchor's positives and negatives: other positives do not stand in the
    denominator, as they do in `supervised_contrastive`.

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      temperature: tau, above 0. The default is optax's; the paper takes 0.1 on ImageNet and 0.5 on
        CIFAR-10.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      for an anchor without a positive or without a negative. optax's scalar is the mean over all
      positive pairs, which is the mean of these values where all labels occur equally often, and
      else `jnp.sum(loss * positives) / jnp.sum(positives)` with the number of each anchor's
      positives. Where there are none at all, optax gives NaN.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`-w_p / (\tau |P|)` for a positive, w_p being the probability
    of any negative in its place, and :math:`q_n \sum_p w_p / (\tau |P|)` for a negative, q being
    the softmax over the negatives: the lower tau, the more it is the hardest negative's alone.

    Numerics: the loss is a softplus of log-sum-exp, which keeps its digits where it is near 0, and
    is finite down to temperatures of 1e-3 and below. An embedding of 0 has cosine 0 and gradient 0.

    References:
      Chen et al., `A Simple Framework for Contrastive Learning of Visual Representations
      <https://arxiv.org/abs/2002.05709>`_, 2020, equation 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> print(xent.ntxent(embeddings, labels, 0.5))
      [0.2115 0.4549 0.4549 0.2115]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    temperature = scalar("temperature", temperature, like=pairs.embeddings, above=0.0)
    return _log_odds(pairs.cosines(1.0 / temperature), pairs.positive, pairs.negative)


def decoupled_contrastive(
    embeddings: Embeddings,
    labels: Labels,
    *,
    temperature: Scalar = 0.1,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the decoupled contrastive loss: `ntxent` without the positive in its denominator.

    For self-supervised learning with small batches, where SimCLR's positive, once it is close,
    takes the gradient of its negatives away.

    .. math::
      L_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \frac{s_{ip}}{\tau}
      + \log \sum_{n \in N_i} e^{s_{in} / \tau}, \qquad
      s_{ij} = \frac{x_i \cdot x_j}{\|x_i\| \|x_j\|}

    P and N are the anchor's positives and negatives: `ntxent` is the softplus of this, for one
    positive.

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      temperature: tau, above 0; 0.1 in the implementations in use.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor in nats, which may be negative, of shape (B,), in float32 (float64 for
      float64 embeddings); 0 for an anchor without a positive or without a negative.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`-1 / (\tau |P|)` for a positive and :math:`q_n / \tau` for a
    negative, q being the softmax over the negatives. `ntxent` multiplies both by the probability of
    any negative, which goes to 0 for an easy positive.

    References:
      Yeh et al., `Decoupled Contrastive Learning <https://arxiv.org/abs/2110.06848>`_, 2022. Their
      DCLW also weighs the positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> print(xent.decoupled_contrastive(embeddings, labels, temperature=0.5))
      [-1.4461 -0.5517 -0.5517 -1.4461]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    temperature = scalar("temperature", temperature, like=pairs.embeddings, above=0.0)
    scores = pairs.cosines(1.0 / temperature)
    largest, total = _log_sum(scores, pairs.negative)
    # One after the other, which leaves all digits.
    gaps = jnp.where(pairs.positive, largest - scores + total, 0.0)
    mean = _mean(gaps, pairs.positive)
    return jnp.where(jnp.any(pairs.negative, axis=-1), mean, 0.0)


def supervised_contrastive(
    embeddings: Embeddings,
    labels: Labels,
    *,
    temperature: Scalar = 0.1,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the supervised contrastive loss: all examples of a class attract one another.

    For training an encoder with labels before a linear classifier is put on it.

    .. math::
      L_i = -\frac{1}{|P_i|} \sum_{p \in P_i} \log \frac{e^{s_{ip} / \tau}}
      {\sum_{a \neq i} e^{s_{ia} / \tau}}, \qquad s_{ij} = \frac{x_i \cdot x_j}{\|x_i\| \|x_j\|}

    This is the paper's L_out, the mean outside of the logarithm, which it recommends. With the mean
    inside, its L_in is `neighbourhood_component_analysis` of embeddings of length 1, at the
    temperature 2 tau, plus log |P|.

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      temperature: tau, above 0; 0.1 in the paper.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      for an anchor without a positive. At least log |P|, so that it is not 0 at the optimum
      for more than one positive.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`(q_j - 1[j \in P] / |P|) / \tau` with q the softmax over all
    others: a cross-entropy with equal targets for the positives. The authors' code multiplies it by
    tau over a base temperature of 0.07; this is the paper's equation.

    References:
      Khosla et al., `Supervised Contrastive Learning <https://arxiv.org/abs/2004.11362>`_, 2020,
      equation 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 0, 1])
      >>> print(xent.supervised_contrastive(embeddings, labels, temperature=0.5))
      [1.1059 0.9021 1.7965 0.    ]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    temperature = scalar("temperature", temperature, like=pairs.embeddings, above=0.0)
    scores = pairs.cosines(1.0 / temperature)
    pulled, pushed = _log_sums(scores, pairs.positive, pairs.negative)
    # log sum_all - mean s_p in two parts, the first of which keeps its digits near 0 and the second
    # of which is 0 for one positive.
    loss = softplus(pushed - pulled) + (pulled - _mean(scores, pairs.positive))
    return masked(loss, jnp.any(pairs.positive, axis=-1))


def info_nce(
    embeddings: Embeddings,
    other_embeddings: Embeddings,
    *,
    temperature: Scalar = 0.07,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes InfoNCE: which of the other embeddings belongs to this one?

    For two views of each example, or a context and its future; the negatives are those of the
    other examples. One direction; both are in `clip_loss`.

    .. math::
      L_i = -\log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}, \qquad
      s_{ij} = \frac{x_i \cdot y_j}{\|x_i\| \|y_j\|}

    Args:
      embeddings: x, floating point, of shape (B, D): the queries.
      other_embeddings: y, of the same shape: the keys, the i-th belonging to the i-th query.
      temperature: tau, above 0; 0.07 in He et al. `n_pairs` is the form without normalisation and
        temperature.
      where: True for the pairs that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per query in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      where there is no negative. Over N examples, log N less the mean bounds the mutual information
      of the two from below, and so can never tell of more than log N nats.

    Raises:
      TypeError: embeddings that are not floating point.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`(p_j - 1[j = i]) / \tau` with p the softmax over the keys.

    References:
      van den Oord, Li and Vinyals, `Representation Learning with Contrastive Predictive Coding
      <https://arxiv.org/abs/1807.03748>`_, 2018, equation 4. He et al., `Momentum Contrast for
      Unsupervised Visual Representation Learning <https://arxiv.org/abs/1911.05722>`_, 2020,
      equation 1 (cosines and temperature).

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> texts = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, 0.0]])
      >>> print(xent.info_nce(images, texts, temperature=0.5))
      [0.8764 0.3828 1.2868]
    """
    towers = _towers(embeddings, other_embeddings, where, axis_name)
    temperature = scalar("temperature", temperature, like=towers.embeddings, above=0.0)
    queries = _unit(towers.embeddings) / temperature
    keys = _gathered(_unit(towers.others), axis_name)
    return _log_odds(_inner(queries, keys), towers.matched, towers.unmatched)


def clip_loss(
    embeddings: Embeddings,
    other_embeddings: Embeddings,
    *,
    log_scale: Scalar = CLIP_LOG_SCALE,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the loss of CLIP: InfoNCE from images to texts and from texts to images, averaged.

    .. math::
      L_i = -\frac{1}{2} \log \frac{e^{a s_{ii}}}{\sum_j e^{a s_{ij}}}
      - \frac{1}{2} \log \frac{e^{a s_{ii}}}{\sum_j e^{a s_{ji}}}, \qquad a = e^{t}, \quad
      s_{ij} = \frac{x_i \cdot y_j}{\|x_i\| \|y_j\|}

    Args:
      embeddings: x, floating point, of shape (B, D), such as of images.
      other_embeddings: y, of the same shape, such as of their texts.
      log_scale: t, the logarithm of the inverse temperature. The paper learns it from the default,
        log(1 / 0.07), on and keeps it at log(100) or below, which is the caller's to do.
      where: True for the pairs that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per example in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      where there is no other example.

    Raises:
      TypeError: embeddings that are not floating point.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`a (p_{ij} + p'_{ij} - 2\,1[i = j]) / 2` in the sum over the
    batch, p being the softmax along the row and p' along the column.

    References:
      Radford et al., `Learning Transferable Visual Models From Natural Language Supervision
      <https://arxiv.org/abs/2103.00020>`_, 2021, figure 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> texts = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, 0.0]])
      >>> print(xent.clip_loss(images, texts, log_scale=jnp.log(2.0)))
      [0.901  0.4543 1.1992]
    """
    towers = _towers(embeddings, other_embeddings, where, axis_name)
    scale = jnp.exp(scalar("log_scale", log_scale, like=towers.embeddings))
    rows, columns = scale * _unit(towers.embeddings), _unit(towers.others)
    forth = _inner(rows, _gathered(columns, axis_name))
    back = _inner(columns, _gathered(rows, axis_name))
    texts = _log_odds(forth, towers.matched, towers.unmatched)
    return 0.5 * (texts + _log_odds(back, towers.matched, towers.unmatched))


def siglip_loss(
    embeddings: Embeddings,
    other_embeddings: Embeddings,
    *,
    log_scale: Scalar = SIGLIP_LOG_SCALE,
    bias: Scalar = -10.0,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the sigmoid loss of SigLIP: do this image and this text belong together, yes or no?

    In place of `clip_loss`: no normaliser over the batch, so that small batches do well.

    .. math::
      L_i = -\sum_j \log \sigma(z_{ij} (a s_{ij} + b)), \qquad z_{ij} = 2 \cdot 1[i = j] - 1, \quad
      a = e^{t}, \quad s_{ij} = \frac{x_i \cdot y_j}{\|x_i\| \|y_j\|}

    Args:
      embeddings: x, floating point, of shape (B, D), such as of images.
      other_embeddings: y, of the same shape, such as of their texts.
      log_scale: t, the logarithm of the cosines' scale; learned from the default, log(10), on.
      bias: b, learned from the default on, which makes the many negatives right at the start.
      where: True for the pairs that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per row x in nats, summed over all y, of shape (B,), in float32 (float64 for float64
      embeddings); their mean is the paper's loss.

    Raises:
      TypeError: embeddings that are not floating point.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`a (\sigma(a s_{ij} + b) - 1[i = j])`: the binary
    cross-entropy's, pair by pair.

    References:
      Zhai et al., `Sigmoid Loss for Language Image Pre-Training
      <https://arxiv.org/abs/2303.15343>`_, 2023, section 3.2 and algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> texts = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, 0.0]])
      >>> print(xent.siglip_loss(images, texts, log_scale=0.0, bias=0.0))
      [2.3492 1.948  2.7848]
    """
    towers = _towers(embeddings, other_embeddings, where, axis_name)
    scale = jnp.exp(scalar("log_scale", log_scale, like=towers.embeddings))
    bias = scalar("bias", bias, like=towers.embeddings)
    rows, columns = scale * _unit(towers.embeddings), _unit(towers.others)
    logits = _inner(rows, _gathered(columns, axis_name)) + bias
    return _surprises(logits, towers.matched, towers.unmatched)


@jax.custom_jvp
def _surprises(logits: Array, matched: Array, unmatched: Array) -> Array:
    """Returns -sum log sigmoid(z) over the matched, and of -z over the unmatched."""
    surprise = softplus(jnp.where(matched, -logits, logits))
    return jnp.sum(jnp.where(matched | unmatched, surprise, 0.0), axis=-1)


@_surprises.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = sum_j (sigmoid(z_j) - 1[matched]) dz_j: one array of slopes, where autodiff keeps two.
    (logits, matched, unmatched), (logits_dot, *_) = primals, tangents
    wrong = sigmoid(jnp.where(matched, -logits, logits))
    slopes = jnp.where(matched, -wrong, jnp.where(unmatched, wrong, 0.0))
    return _surprises(logits, matched, unmatched), jnp.sum(slopes * logits_dot, axis=-1)


def n_pairs(
    embeddings: Embeddings,
    other_embeddings: Embeddings,
    *,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the N-pair loss: one positive against the positives of all other classes at once.

    .. math::
      L_i = \log \Big(1 + \sum_{j \neq i} e^{x_i \cdot y_j - x_i \cdot y_i}\Big)

    This is a softmax cross-entropy over inner products, neither normalised nor with a temperature.

    Args:
      embeddings: x, floating point, of shape (B, D): an anchor of each of B different classes.
      other_embeddings: y, of the same shape: another example of each of these classes.
      where: True for the pairs that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      where there is no negative. The paper adds a small multiple of the embeddings' squared
      lengths, which keeps them from growing; that is the caller's to add.

    Raises:
      TypeError: embeddings that are not floating point.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`\partial L_i / \partial x_i = \sum_j p_j y_j - y_i`, p being the softmax
    over the inner products.

    References:
      Sohn, `Improved Deep Metric Learning with Multi-class N-pair Loss Objective
      <https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective>`_,
      2016, section 3.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> texts = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, 0.0]])
      >>> print(xent.n_pairs(images, texts))
      [0.862  0.6803 1.2944]
    """
    towers = _towers(embeddings, other_embeddings, where, axis_name)
    scores = _inner(towers.embeddings, _gathered(towers.others, axis_name))
    return _log_odds(scores, towers.matched, towers.unmatched)


def tuplet_margin(
    embeddings: Embeddings,
    labels: Labels,
    *,
    margin: Scalar = 0.1,
    scale: Scalar = 64.0,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the tuplet margin loss: a softmax over cosines that eases the positive's angle.

    .. math::
      L_i = \frac{1}{|P_i|} \sum_{p \in P_i} \log \Big(1 + \sum_{n \in N_i}
      e^{s (\cos \theta_{in} - \cos(\theta_{ip} - \beta))}\Big)

    The slack margin makes positives count as nearer than they are, which keeps the hardest triplets
    of a class that spreads from ruling the gradient.

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      margin: beta in radians, at least 0; 0.1 (5.73 degrees) in the paper.
      scale: s, above 0; 64 in the paper.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      for an anchor without a positive or without a negative. The paper's mean over all positive
      pairs is `jnp.sum(loss * positives) / jnp.sum(positives)` with each anchor's number of them.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is that of `ntxent` at the temperature 1 / s, a positive's times
    :math:`\sin(\theta - \beta) / \sin \theta`. Its slope at angles of exactly 0 and pi, where the
    sine has none, is taken as that of a sine that stays 0.

    References:
      Yu and Tao, `Deep Metric Learning with Tuplet Margin Loss
      <https://openaccess.thecvf.com/content_ICCV_2019/html/Yu_Deep_Metric_Learning_With_Tuplet_Margin_Loss_ICCV_2019_paper.html>`_,
      2019, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> print(xent.tuplet_margin(embeddings, labels, scale=2.0))
      [0.1966 0.4263 0.4263 0.1966]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    margin = scalar("margin", margin, like=pairs.embeddings, at_least=0.0)
    scale = scalar("scale", scale, like=pairs.embeddings, above=0.0)
    cosines = pairs.cosines()
    eased = cosines * jnp.cos(margin) + _root(1.0 - cosines * cosines) * jnp.sin(margin)
    scores = scale * jnp.where(pairs.positive, eased, cosines)
    return _log_odds(scores, pairs.positive, pairs.negative)


def neighbourhood_component_analysis(
    embeddings: Embeddings,
    labels: Labels,
    *,
    temperature: Scalar = 1.0,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the surprise at the label of a neighbour that is drawn by distance (NCA).

    For embeddings that a nearest-neighbour classifier will use.

    .. math::
      L_i = -\log \sum_{j \in P_i} p_{ij}, \qquad
      p_{ij} = \frac{e^{-\|x_i - x_j\|^2 / \tau}}{\sum_{k \neq i} e^{-\|x_i - x_k\|^2 / \tau}}

    The paper's first objective is the expected accuracy, :math:`\sum_i e^{-L_i}`; its second, the
    one here, is the cross-entropy. With a temperature it is the soft nearest neighbour loss.

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      temperature: tau, above 0; 1 in the paper, where the embedding's scale is learned.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      for an anchor without a positive or without a negative.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a squared distance is :math:`(p^+_j - p_j) / \tau` for a positive, p+ being the
    softmax over the positives alone, and :math:`-p_j / \tau` for a negative: near positives are
    pulled first, so that a class may stay in several clusters.

    References:
      Goldberger et al., `Neighbourhood Components Analysis
      <https://papers.nips.cc/paper/2566-neighbourhood-components-analysis>`_, 2004, section 2.
      Frosst, Papernot and Hinton, `Analyzing and Improving Representations with the Soft Nearest
      Neighbor Loss <https://arxiv.org/abs/1902.01889>`_, 2019.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> print(xent.neighbourhood_component_analysis(embeddings, labels))
      [0.2018 0.3875 0.4329 0.1443]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    temperature = scalar("temperature", temperature, like=pairs.embeddings, above=0.0)
    scores = -pairs.squared_distances() / temperature
    pulled, pushed = _log_sums(scores, pairs.positive, pairs.negative)
    return masked(softplus(pushed - pulled), jnp.any(pairs.positive, axis=-1))


def lifted_structure(
    embeddings: Embeddings,
    labels: Labels,
    *,
    margin: Scalar = 1.0,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the generalised lifted structure loss: a smooth hardest positive and negative.

    .. math::
      L_i = \Big[\log \sum_{p \in P_i} e^{D_{ip}} + \log \sum_{n \in N_i} e^{m - D_{in}}\Big]_+,
      \qquad D_{ij} = \|x_i - x_j\|

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      margin: m, at least 0; 1 in Song et al.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor, of shape (B,), in float32 (float64 for float64 embeddings); 0 for an
      anchor without a positive or without a negative.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a distance, where the loss is above 0, is the softmax of D over the positives
    and minus the softmax of -D over the negatives. A distance of 0 has the slope 0.

    References:
      Song et al., `Deep Metric Learning via Lifted Structured Feature Embedding
      <https://arxiv.org/abs/1511.06452>`_, 2016; in the form, per anchor and with all positives, of
      Hermans, Beyer and Leibe, `In Defense of the Triplet Loss for Person Re-Identification
      <https://arxiv.org/abs/1703.07737>`_, 2017, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> print(xent.lifted_structure(embeddings, labels))
      [0.6034 0.8701 0.9379 0.5073]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    margin = scalar("margin", margin, like=pairs.embeddings, at_least=0.0)
    distances = _root(pairs.squared_distances())
    scores = jnp.where(pairs.positive, distances, margin - distances)
    pulled, pushed = _log_sums(scores, pairs.positive, pairs.negative)
    return _hinge(pulled + pushed)


def multi_similarity(
    embeddings: Embeddings,
    labels: Labels,
    *,
    alpha: Scalar = 2.0,
    beta: Scalar = 50.0,
    threshold: Scalar = 1.0,
    mining_margin: Scalar = 0.1,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the multi-similarity loss, which mines hard pairs and weighs them by one another.

    .. math::
      L_i = \frac{1}{\alpha} \log \Big(1 + \sum_{p \in P_i} e^{-\alpha (s_{ip} - \lambda)}\Big)
      + \frac{1}{\beta} \log \Big(1 + \sum_{n \in N_i} e^{\beta (s_{in} - \lambda)}\Big)

    The sums run over the mined pairs: the negatives whose cosine is above the least similar
    positive's less epsilon, and the positives whose cosine is below the most similar negative's
    plus epsilon.

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      alpha: the sharpness for positives, above 0; 2 in the paper.
      beta: the sharpness for negatives, above 0; 50 in the paper, 40 in the authors' code.
      threshold: lambda, the cosine that parts the similar from the others; 1 in the paper, 0.5 in
        the authors' code.
      mining_margin: epsilon; 0.1 in the paper. It decides which pairs count and has gradient 0. At
        2, the whole range of the cosine, and above, all pairs count.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor, of shape (B,), in float32 (float64 for float64 embeddings); 0 where no
      pair is mined, as for an anchor without a positive or without a negative.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`-e^{-\alpha (s_p - \lambda)} / (1 + \sum)` for a positive and
    :math:`e^{\beta (s_n - \lambda)} / (1 + \sum)` for a negative.

    References:
      Wang et al., `Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning
      <https://arxiv.org/abs/1904.06627>`_, 2019, equations 11, 12 and 15.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 1, 0, 1])
      >>> print(xent.multi_similarity(embeddings, labels, threshold=0.5))
      [1.0511 1.0511 1.0511 1.0511]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    alpha = scalar("alpha", alpha, like=pairs.embeddings, above=0.0)
    beta = scalar("beta", beta, like=pairs.embeddings, above=0.0)
    threshold = scalar("threshold", threshold, like=pairs.embeddings)
    mining_margin = scalar("mining_margin", mining_margin, like=pairs.embeddings)
    cosines = pairs.cosines()
    positive, negative = _mined(cosines, pairs, mining_margin)
    gaps = cosines - threshold
    scores = jnp.where(pairs.positive, -alpha * gaps, beta * gaps)
    pulled, pushed = _log_sums(scores, positive, negative)
    return softplus(pulled) / alpha + softplus(pushed) / beta


def _mined(cosines: Array, pairs: Pairs, margin: Array) -> tuple[Array, Array]:
    """Returns the positives and the negatives that are hard by `margin`."""
    nearest = jnp.max(cosines, axis=-1, initial=-jnp.inf, where=pairs.negative)[:, None]
    farthest = jnp.min(cosines, axis=-1, initial=jnp.inf, where=pairs.positive)[:, None]
    # Put so that a pair whose cosine is NaN is mined, and told by the loss.
    easy_positive, easy_negative = cosines >= nearest + margin, cosines <= farthest - margin
    return pairs.positive & ~easy_positive, pairs.negative & ~easy_negative


def circle_loss(
    embeddings: Embeddings,
    labels: Labels,
    *,
    margin: Scalar = 0.4,
    gamma: Scalar = 80.0,
    detach_weights: bool = True,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the circle loss, in which a pair weighs the more, the farther it is from optimal.

    .. math::
      L_i = \log \Big(1 + \sum_{n \in N_i} e^{\gamma \alpha_n (s_{in} - m)}
      \sum_{p \in P_i} e^{-\gamma \alpha_p (s_{ip} - 1 + m)}\Big), \qquad
      \alpha_p = [1 + m - s_{ip}]_+, \quad \alpha_n = [s_{in} + m]_+

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      margin: m, the radius of the circle that bounds the solutions; 0.4 in the paper for
        fine-grained retrieval, 0.25 for faces.
      gamma: the scale, above 0; 80 in the paper for fine-grained retrieval, 256 for faces.
      detach_weights: the weights alpha have no gradient, as in the paper's derivation and the code
        of all who publish it. False differentiates the formula as it stands.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor in nats, of shape (B,), in float32 (float64 for float64 embeddings); 0
      for an anchor without a positive or without a negative.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in a cosine is :math:`Z \gamma \alpha_n q_n` for a negative and
    :math:`-Z \gamma \alpha_p q_p` for a positive, with :math:`Z = 1 - e^{-L}` and q the softmax of
    the exponents over the negatives or the positives.

    References:
      Sun et al., `Circle Loss: A Unified Perspective of Pair Similarity Optimization
      <https://arxiv.org/abs/2002.10857>`_, 2020, equation 6.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> print(xent.circle_loss(embeddings, labels, gamma=2.0))
      [0.8249 0.8517 0.8517 0.8249]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    margin = scalar("margin", margin, like=pairs.embeddings)
    gamma = scalar("gamma", gamma, like=pairs.embeddings, above=0.0)
    cosines = pairs.cosines()
    distance = jnp.where(pairs.positive, 1.0 - cosines, cosines)  # from the optimum, 1 or 0
    weights = _hinge(distance + margin)
    weights = jax.lax.stop_gradient(weights) if detach_weights else weights
    pulled, pushed = _log_sums(
        gamma * weights * (distance - margin), pairs.positive, pairs.negative
    )
    return softplus(pulled + pushed)


def contrastive_loss(
    embeddings: Embeddings,
    other_embeddings: Embeddings,
    labels: Num[Array, "_"] | Bool[Array, "_"],
    *,
    margin: Scalar = 1.0,
    where: Mask | None = None,
) -> Losses:
    r"""Computes the original contrastive loss of pairs, the ancestor that users compare with.

    .. math::
      L = \frac{y}{2} D^2 + \frac{1 - y}{2} [m - D]_+^2, \qquad D = \|x - x'\|

    Args:
      embeddings: x, floating point, of shape (B, D).
      other_embeddings: x', of the same shape: the other half of each pair.
      labels: y, of shape (B,): 1 for pairs that belong together and 0 for the others. The paper's Y
        is the other way round.
      margin: m, above 0, the distance from which on pairs that do not belong together are left
        alone.
      where: True for the pairs that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold.

    Returns:
      One value per pair, of shape (B,), in float32 (float64 for float64 embeddings); NaN where the
      label is outside [0, 1].

    Raises:
      TypeError: embeddings that are not floating point.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in the distance is D for a positive pair and :math:`-[m - D]_+` for a negative one,
    a spring each. A negative pair in one place has no direction to part in: its gradient is 0.

    References:
      Hadsell, Chopra and LeCun, `Dimensionality Reduction by Learning an Invariant Mapping
      <https://doi.org/10.1109/CVPR.2006.100>`_, 2006, equation 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> texts = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, 0.0]])
      >>> print(xent.contrastive_loss(images, texts, jnp.array([1, 1, 0]), margin=2.0))
      [0.125 0.    0.5  ]
    """
    embeddings, counts = _checked("embeddings", embeddings, where)
    others, _ = _checked("other_embeddings", other_embeddings, where)
    _same_shapes(embeddings=embeddings, other_embeddings=others)
    labels = jnp.asarray(labels)
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels must hold one number per pair, shape {embeddings.shape[:1]}, "
            f"got {labels.shape}"
        )
    y, valid = unit_interval(masked(labels.astype(embeddings.dtype), counts))
    margin = scalar("margin", margin, like=embeddings, above=0.0)
    apart = embeddings - others
    loss = 0.5 * (y * _squared_length(apart) + (1.0 - y) * _hinge(margin - _length(apart)) ** 2)
    return Examples(embeddings, y, valid, counts).finish(loss)


def triplet_margin_loss(
    anchors: Float[Array, "..."],
    positives: Float[Array, "..."],
    negatives: Float[Array, "..."],
    axis: int = -1,
    norm_degree: Scalar = 2,
    margin: Scalar = 1.0,
    eps: Scalar = 1e-6,
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the triplet loss of given triplets: the positive nearer than the negative, by m.

    .. math::
      L = [m + D(a, p) - D(a, n)]_+, \qquad
      D(x, y) = \Big(\sum_d |x_d - y_d|^r + \epsilon\Big)^{1/r}

    `batch_hard_triplet` and `batch_semi_hard_triplet` find the triplets in a batch.

    Args:
      anchors: a, floating point, of shape (..., D) for the default axis.
      positives: p, of the same shape: another example of the anchor's class.
      negatives: n, of the same shape: an example of another class.
      axis: the axis of the embedding's dimensions.
      norm_degree: r, at least 1.
      margin: m, at least 0; 1 in the paper.
      eps: added under the root, above 0, so that its slope is finite where two embeddings are one.
      where: True for the triplets that count, of the shape without `axis`; the others have loss 0
        and gradient 0 whatever they hold.

    Returns:
      One value per triplet, of the anchors' shape without `axis`, in float32 (float64 for float64
      embeddings).

    Raises:
      TypeError: embeddings that are not floating point.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient for r = 2 is that of two unit forces, where the loss is above 0: the positive is
    pulled to the anchor, the negative pushed from it. optax raises the differences without their
    absolute value, which is wrong for odd degrees and NaN for fractional ones.

    References:
      Balntas et al., `Learning local feature descriptors with triplets and shallow convolutional
      neural networks <https://doi.org/10.5244/C.30.119>`_, 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> anchors = jnp.array([[0.0, 0.0], [1.0, 1.0]])
      >>> positives = jnp.array([[0.1, 0.1], [1.1, 1.1]])
      >>> negatives = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(xent.triplet_margin_loss(anchors, positives, negatives))
      [0.1414 0.1414]
    """
    named = {"anchors": anchors, "positives": positives, "negatives": negatives}
    named = {name: floating(name, array) for name, array in named.items()}
    _same_shapes(**named)
    arrays = [jnp.moveaxis(array, axis, -1) for array in named.values()]
    where = example_mask(where, arrays[0], "it masks triplets")
    a, p, n = (masked(array, where) for array in arrays)
    degree = scalar("norm_degree", norm_degree, like=a, at_least=1.0)
    margin = scalar("margin", margin, like=a, at_least=0.0)
    eps = scalar("eps", eps, like=a, above=0.0)
    gap = _norm(a - p, degree, eps) - _norm(a - n, degree, eps)
    return masked(_hinge(margin + gap), where)


def _norm(difference: Array, degree: Array, eps: Array) -> Array:
    """Returns (sum |d|^r + eps)^(1/r), whose slopes at d = 0 are 0."""
    size = jnp.where(difference < 0.0, -difference, difference)
    powers = jnp.where(size == 0.0, 0.0, jnp.where(size == 0.0, 1.0, size) ** degree)
    return (jnp.sum(powers, axis=-1) + eps) ** (1.0 / degree)


def batch_hard_triplet(
    embeddings: Embeddings,
    labels: Labels,
    *,
    margin: Scalar | None = None,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the triplet loss of each anchor's farthest positive and nearest negative.

    .. math::
      L_i = f\Big(\max_{p \in P_i} D_{ip} - \min_{n \in N_i} D_{in}\Big), \qquad
      D_{ij} = \|x_i - x_j\|, \quad f(x) = \log(1 + e^x) \text{ or } [m + x]_+

    Made for batches of a few examples of each of some classes; from scratch it may collapse all
    embeddings into one place (loss log 2, or m), from which `batch_semi_hard_triplet` escapes.

    Args:
      embeddings: floating point, of shape (B, D).
      labels: integers of shape (B,); equal ones belong together.
      margin: m, at least 0, for the hinge; None, the default, for the soft margin, the one that the
        paper recommends.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor, of shape (B,), in float32 (float64 for float64 embeddings); 0 for an
      anchor without a positive or without a negative.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient pulls at one positive and pushes one negative, with forces of length f'. The
    distances of these two are computed from the differences, so that they keep all digits, and the
    backward pass needs nothing of the size of all pairs.

    References:
      Hermans, Beyer and Leibe, `In Defense of the Triplet Loss for Person Re-Identification
      <https://arxiv.org/abs/1703.07737>`_, 2017, equation 5.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> print(xent.batch_hard_triplet(embeddings, labels, margin=1.0))
      [0.0858 0.382  0.382  0.    ]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    if margin is not None:
        margin = scalar("margin", margin, like=pairs.embeddings, at_least=0.0)
    if not len(pairs.embeddings):  # the hardest of none
        return jnp.zeros(0, pairs.embeddings.dtype)
    keys = _gathered(pairs.embeddings, axis_name)
    squared = jax.lax.stop_gradient(pairs.squared_distances())
    farthest = jnp.argmax(jnp.where(pairs.positive, squared, -jnp.inf), axis=-1)
    nearest = jnp.argmin(jnp.where(pairs.negative, squared, jnp.inf), axis=-1)
    pulled, pushed = (_length(pairs.embeddings - keys[index]) for index in (farthest, nearest))
    gap = pulled - pushed
    loss = softplus(gap) if margin is None else _hinge(margin + gap)
    return masked(loss, jnp.any(pairs.positive, axis=-1) & jnp.any(pairs.negative, axis=-1))


def batch_semi_hard_triplet(
    embeddings: Embeddings,
    labels: Labels,
    *,
    margin: Scalar = 0.2,
    where: Mask | None = None,
    axis_name: AxisName = None,
) -> Losses:
    r"""Computes the triplet loss with semi-hard negatives: the nearest beyond each positive.

    .. math::
      L_i = \frac{1}{|P_i|} \sum_{p \in P_i} [m + D_{ip} - D_{in(p)}]_+, \qquad
      n(p) = \arg\min_{n \in N_i : D_{in} > D_{ip}} D_{in}, \quad D_{ij} = \|x_i - x_j\|^2

    Unlike the hardest, such negatives do not collapse the embeddings early in training. Where all
    negatives are nearer than the positive, the farthest is taken, as TensorFlow does; the paper
    does not say.

    Args:
      embeddings: floating point, of shape (B, D). The paper gives them length 1 beforehand.
      labels: integers of shape (B,); equal ones belong together.
      margin: m, at least 0; 0.2 in the paper.
      where: True for the examples that count, of shape (B,); the others have loss 0 and gradient 0
        whatever they hold, and the rest is computed as if they were not in the batch.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over, so that anchors
        are compared with the examples of all devices.

    Returns:
      One value per anchor, of shape (B,), in float32 (float64 for float64 embeddings); 0 for an
      anchor without a positive or without a negative.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient in the squared distances is 1 / |P| for each positive whose hinge is open and
    -1 / |P| for its negative. Each row's negatives are sorted once, and every positive finds its
    own by bisection: no array of triplets is formed.

    References:
      Schroff, Kalenichenko and Philbin, `FaceNet: A Unified Embedding for Face Recognition and
      Clustering <https://arxiv.org/abs/1503.03832>`_, 2015, section 3.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0]])
      >>> labels = jnp.array([0, 1, 0, 1])
      >>> print(xent.batch_semi_hard_triplet(embeddings, labels, margin=1.0))
      [0.   2.25 1.75 0.25]
    """
    pairs = _pairs(embeddings, labels, where, axis_name)
    margin = scalar("margin", margin, like=pairs.embeddings, at_least=0.0)
    if not len(pairs.embeddings):  # nothing to sort
        return jnp.zeros(0, pairs.embeddings.dtype)
    squared = pairs.squared_distances()
    pushed = jnp.take_along_axis(squared, _semi_hard(squared, pairs.negative), axis=-1)
    loss = _mean(_hinge(margin + squared - pushed), pairs.positive)
    return masked(loss, jnp.any(pairs.negative, axis=-1))


def _semi_hard(distances: Array, negative: Array) -> Array:
    """Returns for every pair the nearest negative beyond it, or the farthest if there is none."""
    distances = jax.lax.stop_gradient(distances)
    columns = jax.lax.broadcasted_iota(jnp.int32, distances.shape, 1)
    ranked, order = jax.lax.sort_key_val(jnp.where(negative, distances, jnp.inf), columns)
    beyond = jax.vmap(lambda row, values: jnp.searchsorted(row, values, side="right"))
    last = jnp.sum(negative, axis=-1, keepdims=True, dtype=jnp.int32) - 1
    place = jnp.clip(beyond(ranked, distances).astype(jnp.int32), 0, jnp.maximum(last, 0))
    return jnp.take_along_axis(order, place, axis=-1)
