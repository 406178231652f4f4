"""Losses that weigh gradients until all classes, or all sizes of gradients, have their share.

A rare class is seldom a label and always a negative example for the others, and is talked down more
than it can be talked up. These losses spare it: by its known share, or by statistics of the batches
seen, which they return as a new state. With `axis_name` those are of the global batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from xent_jax.losses.binary import Labels, sigmoid_binary_cross_entropy
from xent_jax.losses.class_statistics import below_largest, per_class, prior_of
from xent_jax.losses.contract import Examples, masked, prepare, prepare_elements, scalar
from xent_jax.losses.fusion import written
from xent_jax.losses.logarithms import times
from xent_jax.losses.softmax import is_label, label_entry, label_log_probability, log_normalizer
from xent_jax.typing import Array, Bool, Float, Int, Key, Scalar


def equalization(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_prior: Float[Array, " classes"],
    threshold: Scalar = 0.005,
    gamma: Scalar = 0.9,
    key: Key[Array, ""] | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the softmax equalization loss: other classes' examples push rare classes less.

    .. math::
      L = -\log \frac{e^{z_y}}{\sum_k w_k e^{z_k}}, \qquad
      w_k = 1 - \beta_k\, 1[\pi_k < \lambda]\, 1[k \ne y], \quad \beta_k \sim
      \mathrm{Bernoulli}(\gamma)

    Each positive example is a negative one for all other classes, and a rare class gets far more
    discouragement than it can make up for. Here it is mostly spared.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_prior: pi, of shape (K,): the classes' shares of the training examples, of sum 1; 0
        counts as rare.
      threshold: lambda in [0, 1]: classes of a smaller share are rare; 0.005 and gamma 0.9 are the
        defaults of Zhang et al.'s comparison.
      gamma: in [0, 1]: how often a rare class is spared; at 0 it is the cross-entropy.
      key: draws beta, for every example and class. Without it beta is its mean, gamma: a loss
        without chance, with the same expected weights.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 logits);
      at least 0.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter outside [0, 1], or a prior that does not
        sum to 1.

    The gradient is :math:`q_j - 1[j = y]` with :math:`q_j = w_j e^{z_j} / \sum_k w_k e^{z_k}`; no
    gradient goes to the threshold.

    Numerics: a weight of exactly 0 takes a class out like a logit of -inf, however large its own;
    the slope in gamma at gamma = 1 is taken as 0.

    References:
      Tan et al., `Equalization Loss for Long-Tailed Object Recognition
      <https://arxiv.org/abs/2003.05176>`_, 2020, section 3, its softmax form. Zhang et al., `Bag of
      Tricks for Long-Tailed Visual Recognition <https://github.com/zhangyongshun/BagofTricks-LT>`_,
      2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[0.0, 0.0, 2.0], [0.0, 0.0, 2.0]]), jnp.array([0, 2])
      >>> print(xent.equalization(logits, labels, class_prior=jnp.array([0.9, 0.099, 0.001])))
      [1.0076 0.2395]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    gamma = scalar("gamma", gamma, like=z, at_least=0.0, at_most=1.0)
    rare = _rare(prior_of(class_prior, z), threshold, z) & ~is_label(z, y)
    if key is None:
        spared, log_weight = gamma == 1.0, jnp.log1p(-jnp.where(gamma == 1.0, 0.0, gamma))
    else:
        spared, log_weight = jax.random.bernoulli(key, gamma, z.shape), jnp.zeros((), z.dtype)
    z = below_largest(jnp.where(rare & spared, -jnp.inf, z))
    return examples.finish(-label_log_probability(jnp.where(rare, z + log_weight, z), y))


def _rare(shares: Array, threshold: Scalar, logits: Array) -> Array:
    """Returns booleans of the logits' shape: True where the class's share is below threshold."""
    threshold = scalar("threshold", threshold, like=logits, at_least=0.0, at_most=1.0)
    return jnp.broadcast_to(shares < threshold, logits.shape)


def sigmoid_equalization(
    logits: Float[Array, "..."],
    labels: Labels,
    *,
    class_prior: Float[Array, " classes"],
    threshold: Scalar = 0.00177,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the equalization loss of detectors: rare classes are no negatives of other objects.

    .. math::
      L_k = -w_k \left( y_k \log p_k + (1 - y_k) \log (1 - p_k) \right), \qquad
      w_k = 1 - E\, 1[\pi_k < \lambda]\, (1 - y_k), \quad p = \sigma(z)

    with E = 1 where the example has a positive label, and 0 where it is background, which stays a
    negative for every class. `equalization` is its form for a softmax.

    Args:
      logits: z, floating point, of shape (..., K).
      labels: y, between 0 and 1, of the logits' shape; background has 0 everywhere.
      class_prior: pi, of shape (K,): the share of training images that show the class; 0 counts as
        rare. The shares need not sum to 1.
      threshold: lambda in [0, 1]: classes of a smaller share are rare; at 0 the loss is the binary
        cross-entropy. 0.00177 in the authors' code, for LVIS.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold, and their labels make no object.

    Returns:
      One value per element in nats, of the logits' shape, in float32 (float64 for float64 logits):
      at least 0, NaN where the label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, or a threshold outside [0, 1].

    The gradient is :math:`w_k (p_k - y_k)`; none goes to the threshold.

    References:
      Tan et al., `Equalization Loss for Long-Tailed Object Recognition
      <https://arxiv.org/abs/2003.05176>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss = xent.sigmoid_equalization(
      ...     jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([[1, 0], [0, 0]]),
      ...     class_prior=jnp.array([0.999, 0.001]),
      ... )
      >>> print(loss)
      [[0.1269 0.    ]
       [2.1269 0.6931]]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    objects = jnp.broadcast_to(jnp.any(y > 0.0, axis=-1, keepdims=True), z.shape)
    rare = _rare(per_class("class_prior", class_prior, z), threshold, z)
    weights = jnp.where(rare & objects, y, 1.0)
    return elements.finish(times(weights, sigmoid_binary_cross_entropy(z, y)))


class EqualizationV2State(NamedTuple):
    """How much each class was pushed up and down so far, in weighted sizes of gradients."""

    positive: Float[Array, " classes"]
    negative: Float[Array, " classes"]


def init_equalization_v2_state(num_classes: int) -> EqualizationV2State:
    """Returns the state of `equalization_v2` before the first batch: no gradient of any class.

    Example:
      >>> import xent_jax as xent
      >>> print(xent.init_equalization_v2_state(3).negative)
      [0. 0. 0.]
    """
    return EqualizationV2State(jnp.zeros(num_classes), jnp.zeros(num_classes))


def equalization_v2(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    state: EqualizationV2State,
    *,
    gamma: Scalar = 12.0,
    mu: Scalar = 0.8,
    alpha: Scalar = 4.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
    axis_name: str | None = None,
) -> tuple[Float[Array, "..."], EqualizationV2State]:
    r"""Computes the equalization loss v2: sigmoids weighted until pushes up and down balance.

    .. math::
      L = q_y \log (1 + e^{-z_y}) + \sum_{k \ne y} r_k \log (1 + e^{z_k}), \qquad
      r_k = \sigma(\gamma (g_k - \mu)), \quad q_k = 1 + \alpha (1 - r_k), \quad
      g_k = \frac{\sum q_k |\nabla^+_k|}{\sum r_k |\nabla^-_k|}

    with the sums over all batches before this one. Rare classes are drowned by negatives, g near 0:
    their positives then count up to 1 + alpha times, their negatives hardly. It needs no counts.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      state: from `init_equalization_v2_state(K)`, then from the call before.
      gamma: how sharply the weights follow g, at least 0; 12 in the paper.
      mu: the ratio at which negatives weigh 1/2; 0.8 in the paper.
      alpha: at least 0; 4 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold, and do not reach the state.
      axis: the logits' axis of classes.
      axis_name: the mapped axis over which the state sums too, inside `jax.shard_map`, `jax.pmap`
        or `jax.vmap`, so that all devices keep the same one. Under plain `jax.jit` over a mesh it
        is not needed.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits); and the new state. A class whose negatives sum to 0, as all do at first,
      has r = q = 1.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`q_y (p_y - 1)` at the label and :math:`r_k p_k` elsewhere, with
    :math:`p = \sigma(z)`. None goes to the state. At test time use the logits as they are.

    References:
      Tan et al., `Equalization Loss v2: A New Gradient Balance Approach for Long-tailed Object
      Detection <https://arxiv.org/abs/2012.08548>`_, 2021, section 3; without its separate
      branch for background.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 0])
      >>> state = xent.init_equalization_v2_state(2)
      >>> loss, state = xent.equalization_v2(logits, labels, state)
      >>> print(loss)
      [0.8201 0.8201]
      >>> loss, state = xent.equalization_v2(logits, labels, state)
      >>> print(loss)
      [0.127 0.127]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, truth = examples.logits, is_label(examples.logits, examples.labels)
    gamma = scalar("gamma", gamma, like=z, at_least=0.0)
    mu, alpha = scalar("mu", mu, like=z), scalar("alpha", alpha, like=z, at_least=0.0)
    down = jnp.broadcast_to(_weights_of_negatives(state, gamma, mu, z), z.shape)
    weights = jnp.where(truth, 1.0 + alpha * (1.0 - down), down)
    toward_truth = jnp.where(truth, z, -z)
    terms = sigmoid_binary_cross_entropy(toward_truth, jnp.ones_like(z))
    sizes = masked(weights * sigmoid(-toward_truth), _counted(examples))
    new_state = EqualizationV2State(
        _accumulate(state.positive, jnp.where(truth, sizes, 0.0), axis_name),
        _accumulate(state.negative, jnp.where(truth, 0.0, sizes), axis_name),
    )
    return examples.finish(jnp.sum(written(times(weights, terms)), axis=-1)), new_state


def _weights_of_negatives(
    state: EqualizationV2State, gamma: Array, mu: Array, logits: Array
) -> Array:
    """Returns r, which is 1 for the classes that were not pushed down yet."""
    positive = per_class("state.positive", state.positive, logits, known=False)
    negative = per_class("state.negative", state.negative, logits, known=False)
    begun = negative > 0.0
    ratio = jax.lax.stop_gradient(positive / jnp.where(begun, negative, 1.0))
    return jnp.where(begun, sigmoid(gamma * (ratio - mu)), 1.0)


def _accumulate(total: Array, added: Array, axis_name: str | None) -> Array:
    """Returns the total per class with what all examples, on all devices, add to it."""
    added = jnp.sum(added.reshape(-1, added.shape[-1]), axis=0)
    if axis_name is not None:
        added = jax.lax.psum(added, axis_name)
    return jax.lax.stop_gradient(total + added.astype(total.dtype))


def _counted(examples: Examples) -> Array:
    """Returns which examples count for statistics: neither masked nor with an invalid label."""
    valid = jnp.asarray(True) if examples.valid is None else examples.valid
    return valid if examples.where is None else valid & examples.where


def init_seesaw_state(num_classes: int) -> Int[Array, " classes"]:
    """Returns the state of `seesaw` before the first batch: no example of any class.

    Example:
      >>> import xent_jax as xent
      >>> print(xent.init_seesaw_state(3))
      [0 0 0]
    """
    return jnp.zeros(num_classes, jnp.int32)


def seesaw(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    state: Int[Array, " classes"],
    *,
    p: Scalar = 0.8,
    q: Scalar = 2.0,
    epsilon: Scalar = 0.01,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
    axis_name: str | None = None,
) -> tuple[Float[Array, "..."], Int[Array, " classes"]]:
    r"""Computes the seesaw loss: rare classes are pushed down less, unless they are mistaken.

    .. math::
      L = -\log \frac{e^{z_y}}{e^{z_y} + \sum_{k \ne y} M_{yk} C_{yk} e^{z_k}}, \qquad
      M_{yk} = \min \left( 1, \frac{n_k}{n_y} \right)^p, \quad
      C_{yk} = \max \left( 1, \frac{\sigma_k}{\max(\sigma_y, \epsilon)} \right)^q

    with :math:`\sigma = \mathrm{softmax}(z)` and n the counts of the examples seen so far, these
    included. The first factor spares classes rarer than the label's; the second takes that back
    where the model prefers them to the label.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      state: integers of shape (K,), how many examples of each class were seen: from
        `init_seesaw_state(K)` or, if they are known before training, the class counts; then from
        the call before. A class not seen yet counts as seen once.
      p: at least 0; 0.8 in the paper. At p = q = 0 it is the cross-entropy.
      q: at least 0; 2 in the paper.
      epsilon: in (0, 1]: the least probability to divide by; 0.01 in the authors' code, not in the
        paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold, and are not counted.
      axis: the logits' axis of classes.
      axis_name: the mapped axis over which examples are counted too, inside `jax.shard_map`,
        `jax.pmap` or `jax.vmap`, so that all devices keep the same counts. Under plain `jax.jit`
        over a mesh it is not needed.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits); and the new state.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`s_j - 1[j = y]` with s the softmax whose terms are weighted by M and C;
    as in the paper, the two factors are taken as constants, so that none goes through C.

    Numerics: the factors are added to the logits as logarithms; no power is formed.

    References:
      Wang et al., `Seesaw Loss for Long-Tailed Instance Segmentation
      <https://arxiv.org/abs/2008.10032>`_, 2021, section 3; without its separate branch for
      background.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1])
      >>> loss, state = xent.seesaw(logits, labels, jnp.array([899, 99]))
      >>> print(loss, state)
      [0.0231 6.0025] [900 100]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    p, q = scalar("p", p, like=z, at_least=0.0), scalar("q", q, like=z, at_least=0.0)
    epsilon = scalar("epsilon", epsilon, like=z, above=0.0, at_most=1.0)
    new_state, z = _count_classes(state, examples, axis_name), below_largest(z)
    shifts = p * _log_rarity(new_state, z, y) + q * _log_excess(z, y, epsilon)
    shifted = z + jnp.where(is_label(z, y), 0.0, shifts)
    return examples.finish(-label_log_probability(shifted, y)), new_state


def _count_classes(counts: Array, examples: Examples, axis_name: str | None) -> Array:
    """Returns the counts per class with those of all examples, on all devices, added."""
    counts = jnp.asarray(counts)
    if counts.shape != examples.logits.shape[-1:]:
        raise ValueError(
            f"state must have shape {examples.logits.shape[-1:]}, got {counts.shape}: "
            "see init_seesaw_state"
        )
    seen = _counted(examples).astype(counts.dtype).reshape(-1)
    added = jnp.zeros_like(counts).at[examples.labels.reshape(-1)].add(seen)
    return counts + (added if axis_name is None else jax.lax.psum(added, axis_name))


def _log_rarity(counts: Array, logits: Array, labels: Array) -> Array:
    """Returns log min(1, n_k / n_y), of the logits' shape."""
    log_counts = jnp.log(jnp.maximum(counts, 1).astype(logits.dtype))
    ratio = jnp.broadcast_to(log_counts, logits.shape) - log_counts[labels][..., None]
    return jnp.where(ratio < 0.0, ratio, 0.0)


def _log_excess(logits: Array, labels: Array, epsilon: Array) -> Array:
    """Returns log max(1, p_k / max(p_y, epsilon)), a constant of the logits."""
    logits = jax.lax.stop_gradient(logits)
    own, least = label_entry(logits, labels), jnp.log(epsilon) + log_normalizer(logits)
    excess = logits - jnp.where(own < least, least, own)[..., None]
    return jnp.where(excess > 0.0, excess, 0.0)


class GradientHarmonisingState(NamedTuple):
    """The moving average of how many gradients had each size."""

    counts: Float[Array, " bins"]  # not yet divided by `weight`
    weight: Float[Array, ""]  # 0 before the first batch, 1 in the long run


def init_gradient_harmonising_state(num_bins: int = 30) -> GradientHarmonisingState:
    """Returns the state of `gradient_harmonising` before the first batch, of so many bins.

    Example:
      >>> import xent_jax as xent
      >>> print(xent.init_gradient_harmonising_state(num_bins=3).counts)
      [0. 0. 0.]
    """
    return GradientHarmonisingState(jnp.zeros(num_bins), jnp.zeros(()))


def gradient_harmonising(
    logits: Float[Array, "..."],
    labels: Labels,
    state: GradientHarmonisingState,
    *,
    momentum: Scalar = 0.75,
    where: Bool[Array, "..."] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, "..."], GradientHarmonisingState]:
    r"""Computes the gradient harmonising loss (GHM-C): common sizes of gradients weigh less.

    .. math::
      L = \beta \left( -y \log p - (1 - y) \log (1 - p) \right), \qquad p = \sigma(z), \quad
      \beta = \frac{N}{M S_{b(g)}}, \quad g = |p - y|, \quad
      S_j \leftarrow \alpha S_j + (1 - \alpha) R_j

    with R the numbers of this batch's N elements whose gradient size g falls into each of M equal
    bins b of [0, 1]. The very easy, which are most, and the very hard, which are often wrong
    labels, are both held down; were all sizes equally common, every weight would be 1.

    Args:
      logits: z, floating point, of any shape.
      labels: y, between 0 and 1, of the logits' shape.
      state: from `init_gradient_harmonising_state()`, then from the call before.
      momentum: alpha in [0, 1), how long the average remembers; at 0 it is this batch alone. 0.75
        in the authors' code.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold, and are not counted.
      axis_name: the mapped axis over which elements are counted too, inside `jax.shard_map`,
        `jax.pmap` or `jax.vmap`. Under plain `jax.jit` over a mesh it is not needed.

    Returns:
      One value per element, of the logits' shape, in float32 (float64 for float64 logits): at least
      0, NaN where the label is outside [0, 1]; and the new state.

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, or a momentum outside its range.

    The gradient is :math:`\beta (p - y)`: the weight, which is constant within a bin, has none.

    Numerics: the average is over the batches seen. The authors' code starts it at 0, which makes
    the first weights up to :math:`1 / (1 - \alpha)` times as large; and it divides by the number
    of bins that are not empty, where this is the paper's equation.

    References:
      Li, Liu and Wang, `Gradient Harmonized Single-stage Detector
      <https://arxiv.org/abs/1811.05181>`_, 2019, the sections on GHM-C and unit regions.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss, state = xent.gradient_harmonising(
      ...     jnp.array([-4.0, -4.1, -4.2, 1.0]), jnp.array([0, 0, 0, 0]),
      ...     xent.init_gradient_harmonising_state(num_bins=4),
      ... )
      >>> print(loss)
      [0.006  0.0055 0.005  1.3133]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    counted = _counted(elements)
    num_bins = state.counts.shape[0]
    sizes = jnp.abs(sigmoid(jax.lax.stop_gradient(z)) - jax.lax.stop_gradient(y))
    bins = jnp.where(counted, jnp.floor(num_bins * sizes), 0.0).astype(jnp.int32)
    bins = jnp.minimum(bins, num_bins - 1)  # a size of exactly 1 belongs to the last
    now = jnp.zeros(num_bins, z.dtype).at[bins.reshape(-1)].add(counted.astype(z.dtype).reshape(-1))
    now = now if axis_name is None else jax.lax.psum(now, axis_name)
    momentum = scalar("momentum", momentum, like=z, at_least=0.0, at_most=0.9999)
    counts = momentum * state.counts.astype(z.dtype) + (1.0 - momentum) * now
    weight = momentum * state.weight.astype(z.dtype) + (1.0 - momentum)
    density = num_bins * counts / weight
    factor = jnp.sum(now) / jnp.where(counted, density[bins], 1.0)
    loss = times(factor, sigmoid_binary_cross_entropy(z, y))
    new_state = GradientHarmonisingState(
        counts.astype(state.counts.dtype), weight.astype(state.weight.dtype)
    )
    return elements.finish(loss), jax.lax.stop_gradient(new_state)
