"""Sparse relatives of softmax, and the losses whose gradient is prediction less target.

A convex Omega on the simplex defines a map from logits to probabilities and a loss,

    p(z) = argmax_p <p, z> - Omega(p),    L(z, t) = max_p (<p, z> - Omega(p)) + Omega(t) - <t, z>,

the Fenchel-Young loss: at least 0, 0 exactly where p(z) = t, and of gradient p(z) - t. Shannon's
negative entropy gives softmax and cross-entropy. Here Omega is minus Tsallis' entropy of order
alpha, H(p) = sum_k (p_k - p_k^alpha) / (alpha (alpha - 1)): above alpha = 1 the map is sparse, and
the loss is exactly 0 from a finite margin on.

The maps are p_k = max((alpha - 1) z_k - tau, 0)^(1 / (alpha - 1)), where tau makes them sum to 1.
Nothing is sorted: Newton's method finds tau in a few sums over the classes, which takes less time
than a sort of them. It is not differentiated; the rules below are those of the solution.
"""

import functools

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import (
    Examples,
    classes_last,
    example_mask,
    masked,
    prepare,
    prepare_elements,
    prepare_targets,
    scalar,
)
from xent_jax.losses.fusion import written
from xent_jax.losses.logarithms import relative_expm1, times
from xent_jax.losses.softmax import (
    first_of_largest,
    is_label,
    label_entry,
)
from xent_jax.typing import Array, Bool, Float, Int, Num, Scalar

# ------------------------------------------------------------------ maps


def sparsemax(
    logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Returns the point of the simplex closest to the logits: probabilities of which many are 0.

    For attention or an output layer that should choose few.

    .. math::
      p = \arg\min_{q \in \Delta} \|q - z\|^2, \qquad p_k = \max(z_k - \tau, 0)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis; a class of -inf gets 0.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      Probabilities that sum to 1, of the logits' shape, in float32 (float64 for float64 logits).
      NaN where all logits are -inf.

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that do not fit.

    The Jacobian, of the support S (the classes above 0), is :math:`\partial p_i / \partial z_j =
    1[i = j] - 1 / |S|` inside S and 0 outside; a class just at the threshold counts as outside.

    Numerics: the largest logit is subtracted first, so that logits of any size lose no digits.

    References:
      Martins and Astudillo, `From Softmax to Sparsemax <https://arxiv.org/abs/1602.02068>`_, 2016,
      equations 2 and 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.sparsemax(jnp.array([1.0, 0.8, 0.1, -2.0])))
      [0.6 0.4 0.  0. ]
    """
    return _mapped(logits, where, axis, lambda z: _sparse_map(z, 1))


def entmax15(
    logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Returns probabilities half-way between softmax and sparsemax: smooth, and some exactly 0.

    .. math::
      p = \arg\max_{q \in \Delta} \langle q, z \rangle + H_{1.5}(q), \qquad
      p_k = \max(z_k / 2 - \tau, 0)^2

    Args:
      logits: z, floating point, of shape (..., K) for the default axis; a class of -inf gets 0.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      Probabilities that sum to 1, of the logits' shape, in float32 (float64 for float64 logits).
      NaN where all logits are -inf.

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that do not fit.

    With :math:`s_i = \sqrt{p_i}` the Jacobian is :math:`\partial p_i / \partial z_j = s_i 1[i = j]
    - s_i s_j / \sum_k s_k`, which is 0 outside of the support.

    References:
      Peters, Niculae and Martins, `Sparse Sequence-to-Sequence Models
      <https://arxiv.org/abs/1905.05702>`_, 2019, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.entmax15(jnp.array([1.0, 0.8, 0.1, -2.0])))
      [0.5292 0.3937 0.077  0.    ]
    """
    return _mapped(logits, where, axis, lambda z: _sparse_map(z, 2))


def entmax(
    logits: Float[Array, "..."],
    *,
    alpha: Scalar = 1.5,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Returns probabilities of any sparsity: softmax at alpha = 1, sparsemax at alpha = 2.

    For an alpha that is learnt, or one per attention head by `jax.vmap`. Where alpha is 1.5 or 2,
    `entmax15` and `sparsemax` take a fraction of the time.

    .. math::
      p = \arg\max_{q \in \Delta} \langle q, z \rangle + H_\alpha(q), \qquad
      p_k = \max((\alpha - 1) z_k - \tau, 0)^{1 / (\alpha - 1)}

    Args:
      logits: z, floating point, of shape (..., K) for the default axis; a class of -inf gets 0.
      alpha: at least 1; 1.5 is the paper's choice between dense and sparse.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      Probabilities that sum to 1, of the logits' shape, in float32 (float64 for float64 logits).
      NaN where all logits are -inf.

    Raises:
      TypeError: logits that are not floating point, or a mask that is not boolean.
      ValueError: shapes that do not fit, or alpha below 1.

    With :math:`s_i = p_i^{2 - \alpha}` on the support, the Jacobian is :math:`s_i 1[i = j] - s_i
    s_j / \sum_k s_k`, and the slope in alpha :math:`-s_i (v_i - \sum_k s_k v_k / \sum_k s_k)` with
    :math:`v = (x e^x - e^x + 1) / (\alpha - 1)^2`, :math:`x = (\alpha - 1) \log p`.

    Numerics: the logarithm of the largest probability is what is searched for, by Newton's steps
    inside of a bracket that is halved where they leave it, and v is a series near x = 0. So value
    and slopes, in alpha too, are exact down to alpha = 1.

    References:
      Peters, Niculae and Martins, `Sparse Sequence-to-Sequence Models
      <https://arxiv.org/abs/1905.05702>`_, 2019, section 3; Correia, Niculae and Martins,
      `Adaptively Sparse Transformers <https://arxiv.org/abs/1909.00015>`_, 2019, section 3, for the
      slope in alpha.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.entmax(jnp.array([1.0, 0.8, 0.1, -2.0]), alpha=1.2))
      [0.4759 0.3753 0.1475 0.0012]
    """
    prepared = classes_last("logits", logits, axis)
    alpha = scalar("alpha", alpha, like=prepared, at_least=1.0)
    return _mapped(logits, where, axis, lambda z: _entmax(z, alpha))


def _mapped(logits: Array, where: Array | None, axis: int, function) -> Array:
    """Returns the function of the logits with the classes last, 0 where masked, axis put back."""
    logits = classes_last("logits", logits, axis)
    where = example_mask(where, logits)
    return jnp.moveaxis(masked(function(masked(logits, where)), where), -1, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sparse_map(logits: Array, power: int) -> Array:
    """Returns the map of order alpha = 1 + 1 / power: sparsemax for 1, entmax15 for 2."""
    z = (logits - jnp.max(logits, axis=-1, keepdims=True)) / power

    def gaps(threshold: Array) -> Array:
        gap = z - threshold[..., None]
        return jnp.where(gap <= 0.0, 0.0, gap)  # NaN stays: all logits are -inf

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # The mass above the threshold is convex and falls: from the left Newton's method rises
        # without ever passing the solution, so that it has arrived when it no longer rises.
        threshold, _ = state
        gap = gaps(threshold)
        slope = power * jnp.sum(jnp.where(gap > 0.0, gap ** (power - 1), 0.0), axis=-1)
        higher = threshold + (jnp.sum(gap**power, axis=-1) - 1.0) / slope
        rises = higher > threshold
        return jnp.where(rises, higher, threshold), jnp.any(rises)

    # Where the largest alone has mass 1. Like the logits, so that under shard_map the loop starts
    # with what varies over the devices that they vary over.
    start = jnp.full_like(z[..., 0], -1.0)
    state = (start, jnp.any(start < 0.0))
    threshold, _ = jax.lax.while_loop(lambda state: state[1], step, state)
    return gaps(threshold) ** power


@_sparse_map.defjvp
def _(power: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # dp_i = s_i (dz_i - sum_k s_k dz_k / sum_k s_k),  s = p^(2 - alpha) on the support
    # that is 1 for sparsemax and sqrt(p) for entmax15.
    (logits,), (logits_dot,) = primals, tangents
    p = _sparse_map(logits, power)
    return p, _centred(_on_support(p, power), logits_dot)


def _on_support(p: Array, power: int) -> Array:
    """Returns p^(2 - alpha) = p^(1 - 1 / power), and 0 where p is 0."""
    inside = p > 0.0
    root = jnp.ones_like(p) if power == 1 else jnp.sqrt(jnp.where(inside, p, 1.0))
    return jnp.where(inside, root, 0.0)


def _centred(slopes: Array, values: Array) -> Array:
    """Returns s_i (v_i - sum_k s_k v_k / sum_k s_k), which sums to 0."""
    mean = jnp.sum(slopes * values, axis=-1) / jnp.sum(slopes, axis=-1)
    return slopes * (values - mean[..., None])


@jax.custom_jvp
def _entmax(logits: Array, alpha: Array) -> Array:
    """Returns the map of order alpha."""
    order = alpha - 1.0
    below = logits - jnp.max(logits, axis=-1, keepdims=True)
    below = jnp.where(jnp.isneginf(below), -1e9, below)  # times an order of 0 must not be NaN

    def at(log_top: Array) -> tuple[Array, Array]:
        """Returns probabilities whose largest is exp(log_top), and d log_top's slope of each."""
        scaled = below * jnp.exp(-order * log_top)[..., None]
        shrink = order * jnp.where(below == 0.0, 0.0, scaled)
        inside = jnp.logical_not(shrink <= -1.0)
        shrink = jnp.where(inside, shrink, 0.0)
        divisor = jnp.where(order == 0.0, 1.0, order)
        log_ratio = jnp.where(order == 0.0, below, jnp.log1p(shrink) / divisor)
        p = jnp.where(inside, jnp.exp(log_top[..., None] + log_ratio), 0.0)
        return p, p / (1.0 + shrink)

    def step(state):
        low, high, log_top, count, _ = state
        p, slopes = at(log_top)
        total, slope = jnp.sum(p, axis=-1), jnp.sum(slopes, axis=-1)
        low, high = jnp.where(total < 1.0, log_top, low), jnp.where(total < 1.0, high, log_top)
        newton = log_top - total * jnp.log(total) / slope
        # At the solution, which is a bound by now, halving would lead away from it.
        trusted = ((newton > low) & (newton < high)) | (newton == log_top)
        following = jnp.where(trusted, newton, 0.5 * (low + high))
        # Newton's error after a step is about the step's square; the total's own rounding, which
        # grows with the classes, says less.
        far = jnp.abs(following - log_top) > jnp.finfo(p.dtype).eps ** 0.75
        return low, high, following, count + 1, jnp.any(far) & (count < _MOST_STEPS)

    # Like all that the steps read: see `_sparse_map`.
    high = jnp.zeros_like(below[..., 0] * order)
    low = high - jnp.log(jnp.asarray(logits.shape[-1], below.dtype))
    softmax_top = high - jnp.log(jnp.sum(jnp.exp(below), axis=-1))  # the solution at alpha = 1
    state = (low, high, softmax_top, jnp.array(0), jnp.any(low <= high))
    log_top = jax.lax.while_loop(lambda state: state[-1], step, state)[2]
    p, _ = at(log_top)
    return p / jnp.sum(p, axis=-1, keepdims=True)


_MOST_STEPS = 60  # of which 2 to 16 are taken; halving alone needs 25 in float32, 55 in float64


@_entmax.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # p_i^(alpha - 1) = (alpha - 1) z_i - tau, differentiated with sum_i dp_i = 0, is
    # dp_i = s_i (u_i - sum_k s_k u_k / sum_k s_k),  u_i = dz_i - v_i dalpha,  s = p^(2 - alpha),
    # v = (x e^x - e^x + 1) / (alpha - 1)^2 = (log p)^2 chi(x),  x = (alpha - 1) log p
    (logits, alpha), (logits_dot, alpha_dot) = primals, tangents
    p = _entmax(logits, alpha)
    inside = p > 0.0
    log_p = jnp.log(jnp.where(inside, p, 1.0))
    slopes = jnp.where(inside, jnp.exp((2.0 - alpha) * log_p), 0.0)
    bend = log_p**2 * _chi((alpha - 1.0) * log_p)
    return p, _centred(slopes, logits_dot - bend * alpha_dot)


def _chi(x: Array) -> Array:
    """Returns (x e^x - e^x + 1) / x^2 for x <= 0, which is 1/2 at x = 0."""
    near = x > -0.5
    small, large = jnp.where(near, x, 0.0), jnp.where(near, -1.0, x)
    series = jnp.zeros_like(x)
    factorial = 1.0
    terms = []
    for n in range(2, 18):  # the first term left out is below 1e-18
        factorial *= n
        terms.append((n - 1) / factorial)
    for term in reversed(terms):
        series = term + small * series
    return jnp.where(near, series, (large * jnp.exp(large) - jnp.expm1(large)) / large**2)


# ------------------------------------------------------------------ losses


def multiclass_sparsemax_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."] | Num[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the sparsemax loss: a smooth hinge that is 0 once the label leads by 1.

    .. math::
      L = \langle p - t, z \rangle + \tfrac{1}{2} \|t\|^2 - \tfrac{1}{2} \|p\|^2, \qquad
      p = \mathrm{sparsemax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: integers in [0, K), of the logits' shape without the class axis; or t, a distribution
        over the classes, of the logits' shape.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the logits' shape without the class axis, in float32
      (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`p - t`: 0 for every class that is neither the target nor predicted.

    References:
      Martins and Astudillo, `From Softmax to Sparsemax <https://arxiv.org/abs/1602.02068>`_, 2016,
      section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 1.5, 0.0], [2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.multiclass_sparsemax_loss(logits, jnp.array([0, 0, 1])))
      [0.0625 0.     2.    ]
    """
    examples = _targets(logits, labels, where, axis)
    return examples.finish(_sparse_loss(examples.logits, examples.labels, 1))


def entmax15_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."] | Num[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the loss of `entmax15`: between cross-entropy and sparsemax loss.

    .. math::
      L = \langle p - t, z \rangle + H_{1.5}(p) - H_{1.5}(t), \qquad
      H_{1.5}(p) = \tfrac{4}{3} \sum_k (p_k - p_k^{1.5}), \quad p = \mathrm{entmax}_{1.5}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: integers in [0, K), of the logits' shape without the class axis; or t, a distribution
        over the classes, of the logits' shape.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0 and exactly 0 once the label leads by 2, of the logits'
      shape without the class axis, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`p - t`: 0 for every class that is neither the target nor predicted.

    References:
      Peters, Niculae and Martins, `Sparse Sequence-to-Sequence Models
      <https://arxiv.org/abs/1905.05702>`_, 2019, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 1.5, 0.0], [2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.entmax15_loss(logits, jnp.array([0, 0, 1])))
      [0.1844 0.     2.    ]
    """
    examples = _targets(logits, labels, where, axis)
    return examples.finish(_sparse_loss(examples.logits, examples.labels, 2))


def entmax_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."] | Num[Array, "..."],
    *,
    alpha: Scalar = 1.5,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the loss of `entmax`: cross-entropy at alpha = 1, sparsemax loss at alpha = 2.

    .. math::
      L = \langle p - t, z \rangle + H_\alpha(p) - H_\alpha(t), \qquad
      H_\alpha(p) = \frac{1}{\alpha (\alpha - 1)} \sum_k (p_k - p_k^\alpha), \quad
      p = \mathrm{entmax}_\alpha(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: integers in [0, K), of the logits' shape without the class axis; or t, a distribution
        over the classes, of the logits' shape. At alpha = 1 that gives KL(t || p).
      alpha: at least 1; the loss is exactly 0 once the label leads by 1 / (alpha - 1).
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the logits' shape without the class axis, in float32
      (float64 for float64 logits); nats at alpha = 1.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or alpha below 1.

    The gradient is :math:`p - t`, and the slope in alpha that of :math:`H_\alpha(p) - H_\alpha(t)`
    with p held, as p is a maximum.

    References:
      Peters, Niculae and Martins, `Sparse Sequence-to-Sequence Models
      <https://arxiv.org/abs/1905.05702>`_, 2019, section 3; Blondel, Martins and Niculae,
      `Learning with Fenchel-Young Losses <https://arxiv.org/abs/1901.02324>`_, 2020, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 1.5, 0.0], [2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
      >>> print(xent.entmax_loss(logits, jnp.array([0, 0, 1]), alpha=1.2))
      [0.3399 0.0678 2.0678]
    """
    examples = _targets(logits, labels, where, axis)
    alpha = scalar("alpha", alpha, like=examples.logits, at_least=1.0)
    return examples.finish(_entmax_loss(examples.logits, examples.labels, alpha))


def _targets(logits: Array, labels: Array, where: Array | None, axis: int) -> Examples:
    """Returns examples whose labels are distributions, whether classes or distributions came."""
    if jnp.ndim(labels) == jnp.ndim(logits):
        return prepare_targets(logits, labels, where=where, axis=axis)
    examples = prepare(logits, labels, where=where, axis=axis)
    one_hot = is_label(examples.logits, examples.labels).astype(examples.logits.dtype)
    return examples._replace(labels=one_hot)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _sparse_loss(logits: Array, targets: Array, power: int) -> Array:
    """Returns the Fenchel-Young loss of order alpha = 1 + 1 / power."""
    p = _sparse_map(logits, power)
    return _linear(logits, targets, p) + _sparse_entropy(p, power) - _sparse_entropy(targets, power)


@_sparse_loss.defjvp
def _(
    power: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # dL = sum_k (p_k - t_k) dz_k - z_k dt_k - dH(t)
    (logits, targets), (logits_dot, targets_dot) = primals, tangents
    _, entropy_dot = jax.jvp(lambda t: _sparse_entropy(t, power), (targets,), (targets_dot,))
    p = _sparse_map(logits, power)
    tangent = _linear_tangent(logits, targets, p, logits_dot, targets_dot) - entropy_dot
    return _sparse_loss(logits, targets, power), tangent


def _sparse_entropy(p: Array, power: int) -> Array:
    """Returns sum_k (p_k - p_k^alpha) / (alpha (alpha - 1)) for alpha = 1 + 1 / power."""
    root = p if power == 1 else jnp.where(p > 0.0, jnp.sqrt(jnp.where(p > 0.0, p, 1.0)), 0.0)
    return power**2 / (power + 1) * jnp.sum(written(p * (1.0 - root)), axis=-1)


@jax.custom_jvp
def _entmax_loss(logits: Array, targets: Array, alpha: Array) -> Array:
    """Returns the Fenchel-Young loss of order alpha."""
    p = _entmax(logits, alpha)
    return _linear(logits, targets, p) + _entropy(p, alpha) - _entropy(targets, alpha)


@_entmax_loss.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = sum_k (p_k - t_k) dz_k - z_k dt_k - dH(t) + (dH(p) / dalpha) dalpha
    (logits, targets, alpha), (logits_dot, targets_dot, alpha_dot) = primals, tangents
    p = _entmax(logits, alpha)
    _, of_p = jax.jvp(lambda alpha: _entropy(p, alpha), (alpha,), (alpha_dot,))
    _, of_targets = jax.jvp(_entropy, (targets, alpha), (targets_dot, alpha_dot))
    tangent = _linear_tangent(logits, targets, p, logits_dot, targets_dot) + of_p - of_targets
    return _entmax_loss(logits, targets, alpha), tangent


def _entropy(p: Array, alpha: Array) -> Array:
    """Returns sum_k (p_k - p_k^alpha) / (alpha (alpha - 1)), Shannon's entropy at alpha = 1.

    At p = 0 its slope is 1 / (alpha (alpha - 1)), and taken as 0 where that is infinite.
    """
    order = alpha - 1.0
    inside, dense = p > 0.0, order == 0.0
    log_p = jnp.log(jnp.where(inside, p, 1.0))
    rest = jnp.where(dense, 0.0, p / jnp.where(dense, 1.0, order))
    terms = jnp.where(inside, -p * log_p * relative_expm1(order * log_p), rest)
    return jnp.sum(written(terms), axis=-1) / alpha


def _linear(logits: Array, targets: Array, p: Array) -> Array:
    """Returns sum_k (p_k - t_k) z_k, where a class that cannot occur and is no target adds 0."""
    # Less the largest logit, so that large logits lose no digits where both sum to 1.
    largest = jnp.max(logits, axis=-1)
    difference = p - targets
    products = difference * (logits - largest[..., None])
    rest = (1.0 - jnp.sum(targets, axis=-1)) * largest
    return jnp.sum(written(jnp.where(difference == 0.0, 0.0, products)), axis=-1) + rest


def _linear_tangent(
    logits: Array, targets: Array, p: Array, logits_dot: Array, targets_dot: Array
) -> Array:
    """Returns sum_k (p_k - t_k) dz_k - z_k dt_k, where a class that cannot occur has dt 0."""
    finite = jnp.where(jnp.isneginf(logits), 0.0, logits)
    return jnp.sum((p - targets) * logits_dot - finite * targets_dot, axis=-1)


# ------------------------------------------------------------------ two classes, and hinges


def sparsemax_loss(
    logits: Float[Array, "..."],
    labels: Num[Array, "..."] | Bool[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the sparsemax loss of yes-or-no labels, element by element.

    .. math::
      L = s(z) - y z - y (1 - y), \qquad
      s(z) = \begin{cases} 0 & z \le -1 \\ (z + 1)^2 / 4 & |z| < 1 \\ z & z \ge 1 \end{cases}

    It is `multiclass_sparsemax_loss` of the logits (z, 0), and Huber's smooth hinge: 0 once the
    logit has the right sign and a size of 1.

    Args:
      logits: z, floating point, of any shape. At -inf the answer cannot be yes, at +inf not no.
      labels: y, between 0 and 1, of the logits' shape: booleans, integers or soft labels.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per element, at least 0, of the logits' shape, in float32 (float64 for float64
      logits); NaN where the label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ.

    The gradient is :math:`p - y` with :math:`p = \min(\max((z + 1) / 2, 0), 1)`.

    References:
      Blondel, Martins and Niculae, `Learning with Fenchel-Young Losses
      <https://arxiv.org/abs/1901.02324>`_, 2020, section 4.4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.sparsemax_loss(jnp.array([2.0, 0.0, -0.5]), jnp.array([1, 1, 1])))
      [0.     0.25   0.5625]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    loss = times(y, _sparse_plus(-z)) + times(1.0 - y, _sparse_plus(z))
    return elements.finish(loss - y * (1.0 - y))


def _sparse_plus(z: Array) -> Array:
    """Returns the integral of the probability min(max((z + 1) / 2, 0), 1)."""
    middle = jnp.abs(z) < 1.0
    square = 0.25 * (jnp.where(middle, z, 0.0) + 1.0) ** 2
    return jnp.where(middle, square, jnp.where(z > 0.0, z, 0.0))


def hinge_loss(
    predictor_outputs: Float[Array, "..."],
    targets: Num[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes by how much a binary output misses a margin of 1: the support vector machine's.

    .. math::
      L = \max(0, 1 - t z)

    To be compared with `sigmoid_binary_cross_entropy`, whose labels are 0 and 1.

    Args:
      predictor_outputs: z, floating point, of any shape.
      targets: t, -1 or 1, of the shape of `predictor_outputs`.
      where: True for the elements that count, of the same shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per element, at least 0, in float32 (float64 for float64 outputs); NaN where the
      target is outside [-1, 1].

    Raises:
      TypeError: outputs that are not floating point.
      ValueError: shapes that differ.

    The gradient is -t where the margin is missed, and 0 elsewhere.

    References:
      Cortes and Vapnik, Support-Vector Networks, Machine Learning 20, 1995.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.hinge_loss(jnp.array([2.0, 0.5, 0.5]), jnp.array([1, 1, -1])))
      [0.  0.5 1.5]
    """
    return _margin_loss(predictor_outputs, targets, where, margin=1.0)


def perceptron_loss(
    predictor_outputs: Float[Array, "..."],
    targets: Num[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes by how much a binary output is on the wrong side: Rosenblatt's perceptron.

    .. math::
      L = \max(0, -t z)

    Args:
      predictor_outputs: z, floating point, of any shape.
      targets: t, -1 or 1, of the shape of `predictor_outputs`.
      where: True for the elements that count, of the same shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per element, at least 0, in float32 (float64 for float64 outputs); NaN where the
      target is outside [-1, 1].

    Raises:
      TypeError: outputs that are not floating point.
      ValueError: shapes that differ.

    The gradient is -t on the wrong side, and 0 elsewhere.

    References:
      Rosenblatt, The Perceptron: A Probabilistic Model for Information Storage and Organization in
      the Brain, Psychological Review 65, 1958.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.perceptron_loss(jnp.array([2.0, 0.5, 0.5]), jnp.array([1, 1, -1])))
      [0.  0.  0.5]
    """
    return _margin_loss(predictor_outputs, targets, where, margin=0.0)


def _margin_loss(outputs: Array, targets: Array, where: Array | None, margin: float) -> Array:
    """Returns max(0, margin - t z)."""
    sides = 0.5 * (jnp.asarray(targets).astype(jnp.float32) + 1.0)  # exact for -1 and 1
    elements = prepare_elements(outputs, sides, where=where, name="predictor_outputs")
    missing = margin - times(2.0 * elements.labels - 1.0, elements.logits)
    return elements.finish(jnp.where(missing > 0.0, missing, 0.0))


def multiclass_perceptron_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes by how much the largest logit exceeds the label's: 0 where the label is predicted.

    .. math::
      L = \max_k z_k - z_y

    The cross-entropy's limit at temperature 0; the Fenchel-Young loss of Omega = 0.

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

    The gradient is 1 for the largest logit (the first of equals) less 1 for the label.

    References:
      Collins, `Discriminative Training Methods for Hidden Markov Models
      <https://aclanthology.org/W02-1001>`_, 2002.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[2.0, 0.5, 0.0], [2.0, 0.5, 0.0]])
      >>> print(xent.multiclass_perceptron_loss(logits, jnp.array([0, 1])))
      [0.  1.5]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    largest = label_entry(z, first_of_largest(z))
    return examples.finish(largest - label_entry(z, y))
