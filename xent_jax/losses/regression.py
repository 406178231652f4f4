"""Regression as classification: a number becomes a distribution over bins, and is learnt as one.

Predicted are the logits of K bins, the number is the distribution's mean (`expected_value`), and
the loss is the cross-entropy with a distribution made of the target value. Its gradient is bounded
however far the value, which is why it trains better than the squared error on noisy targets.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import log_ndtr

from xent_jax.losses.contract import (
    Examples,
    classes_last,
    example_mask,
    floating,
    masked,
    scalar,
)
from xent_jax.losses.softmax import probabilities as softmax
from xent_jax.losses.softmax import target_cross_entropy
from xent_jax.typing import Array, Bool, Float, Scalar


def hl_gauss(
    logits: Float[Array, "..."],
    values: Float[Array, "..."],
    bin_edges: Float[Array, " edges"],
    *,
    sigma_ratio: Scalar = 0.75,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the histogram loss: cross-entropy with a Gaussian around the value, cut into bins.

    .. math::
      L = -\sum_k t_k \log p_k, \qquad t_k \propto \Phi\!\left(\frac{e_{k+1} - v}{\sigma}\right)
      - \Phi\!\left(\frac{e_k - v}{\sigma}\right), \quad p = \mathrm{softmax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis, one per bin.
      values: v, floating point, of the logits' shape without the class axis.
      bin_edges: e, K + 1 rising numbers, such as `jnp.linspace(low, high, K + 1)`.
      sigma_ratio: sigma over the mean width of the bins, above 0; 0.75 spreads most of a value over
        six bins.
      where: True for the examples that count, of the values' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of bins.

    Returns:
      One value per example in nats, of the values' shape, in float32 (float64 for float64 logits);
      NaN for a value that is not finite.

    Raises:
      TypeError: logits or values that are not floating point.
      ValueError: shapes that do not fit, edges that do not rise, or sigma_ratio not above 0.

    The gradient in the logits is :math:`p - t`.

    References:
      Imani and White, `Improving Regression Performance with Distributional Losses
      <https://arxiv.org/abs/1806.04613>`_, 2018, section 3; Farebrother et al., `Stop Regressing:
      Training Value Functions via Classification for Scalable Deep RL
      <https://arxiv.org/abs/2403.03950>`_, 2024, section 3, for the ratio.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> edges = jnp.linspace(-2.0, 2.0, 5)
      >>> logits = jnp.array([[0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
      >>> print(xent.hl_gauss(logits, jnp.array([0.5, -1.0]), edges))
      [1.3272 2.1484]
    """
    examples, edges = _prepare(logits, values, "bin_edges", bin_edges, 1, where, axis)
    sigma = _sigma(sigma_ratio, edges)
    targets = _gauss_targets(examples.labels, edges, sigma)
    return examples.finish(target_cross_entropy(examples.logits, targets))


def hl_gauss_targets(
    values: Float[Array, "..."],
    bin_edges: Float[Array, " edges"],
    *,
    sigma_ratio: Scalar = 0.75,
) -> Float[Array, "..."]:
    r"""Returns the mass in each bin of a Gaussian around the value, cut off at the outer edges.

    .. math::
      t_k = \frac{\Phi((e_{k+1} - v) / \sigma) - \Phi((e_k - v) / \sigma)}
      {\Phi((e_K - v) / \sigma) - \Phi((e_0 - v) / \sigma)}

    The mean of the bins' centres under it is the value, to a few thousandths of a bin, for values
    three sigma or more inside the outer edges; closer to them it is drawn inside.

    Args:
      values: v, floating point, of any shape.
      bin_edges: e, K + 1 rising numbers.
      sigma_ratio: sigma over the mean width of the bins, above 0.

    Returns:
      Probabilities that sum to 1, of shape (..., K), in float32 (float64 for float64 values); NaN
      for a value that is not finite.

    Raises:
      TypeError: values that are not floating point.
      ValueError: edges that do not rise, or sigma_ratio not above 0.

    Numerics: formed from logarithms of the normal distribution's tail, so that a value far outside
    gives its mass to the nearest bin, where the plain quotient is 0 / 0.

    References:
      Imani and White, `Improving Regression Performance with Distributional Losses
      <https://arxiv.org/abs/1806.04613>`_, 2018, section 3; Farebrother et al., `Stop Regressing:
      Training Value Functions via Classification for Scalable Deep RL
      <https://arxiv.org/abs/2403.03950>`_, 2024, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.hl_gauss_targets(jnp.array([0.5, 9.0]), jnp.linspace(-2.0, 2.0, 5)))
      [[0.0229 0.2352 0.5068 0.2352]
       [0.     0.     0.     1.    ]]
    """
    values = floating("values", values)
    edges = _rising("bin_edges", bin_edges, values, at_least=2)
    return _gauss_targets(values, edges, _sigma(sigma_ratio, edges))


def _sigma(sigma_ratio: Scalar, edges: Array) -> Array:
    ratio = scalar("sigma_ratio", sigma_ratio, like=edges, above=0.0)
    return ratio * (edges[-1] - edges[0]) / (edges.shape[0] - 1)


def _gauss_targets(values: Array, edges: Array, sigma: Array) -> Array:
    ends = (_spread(edges, values) - values[..., None]) / sigma
    low, high = ends[..., :-1], ends[..., 1:]
    # Each bin is looked at from the tail it lies in, where the distribution function has digits.
    right = low + high > 0.0
    low, high = jnp.where(right, -high, low), jnp.where(right, -low, high)
    log_low, log_high = log_ndtr(low), log_ndtr(high)
    gap = log_low - log_high
    apart = gap < 0.0  # bins of less than a rounding error have no mass
    log_mass = log_high + jnp.log(-jnp.expm1(jnp.where(apart, gap, -1.0)))
    return jax.nn.softmax(jnp.where(apart | jnp.isnan(gap), log_mass, -jnp.inf), axis=-1)


def two_hot(
    logits: Float[Array, "..."],
    values: Float[Array, "..."],
    atoms: Float[Array, " classes"],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy with the value shared between the two atoms around it.

    .. math::
      L = -(1 - w) \log p_i - w \log p_{i+1}, \qquad a_i \le v < a_{i+1}, \quad
      w = \frac{v - a_i}{a_{i+1} - a_i}, \quad p = \mathrm{softmax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis, one per atom.
      values: v, floating point, of the logits' shape without the class axis. A value outside of the
        atoms is moved to the outer one.
      atoms: a, K rising numbers, such as `jnp.linspace(low, high, K)`.
      where: True for the examples that count, of the values' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of atoms.

    Returns:
      One value per example in nats, of the values' shape, in float32 (float64 for float64 logits);
      NaN for a value that is NaN.

    Raises:
      TypeError: logits or values that are not floating point.
      ValueError: shapes that do not fit, or atoms that do not rise.

    The gradient in the logits is :math:`p - t`, t being `two_hot_targets`.

    References:
      Schrittwieser et al., `Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model
      <https://arxiv.org/abs/1911.08265>`_, 2020, appendix F; Hafner et al., `Mastering Diverse
      Domains through World Models <https://arxiv.org/abs/2301.04104>`_, 2023.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
      >>> print(xent.two_hot(logits, jnp.array([0.25, 9.0]), jnp.array([-1.0, 0.0, 1.0])))
      [0.7395 2.2395]
    """
    examples, atoms = _prepare(logits, values, "atoms", atoms, 0, where, axis)
    targets = _two_hot(examples.labels, atoms)
    return examples.finish(target_cross_entropy(examples.logits, targets))


def two_hot_targets(
    values: Float[Array, "..."], atoms: Float[Array, " classes"]
) -> Float[Array, "..."]:
    r"""Returns the distribution on the two atoms around the value whose mean is the value.

    .. math::
      t_i = \frac{a_{i+1} - v}{a_{i+1} - a_i}, \quad t_{i+1} = \frac{v - a_i}{a_{i+1} - a_i},
      \qquad a_i \le v < a_{i+1}

    Args:
      values: v, floating point, of any shape; outside of the atoms it is moved to the outer one.
      atoms: a, K rising numbers, which need not be evenly spaced.

    Returns:
      Probabilities that sum to 1, of shape (..., K), in float32 (float64 for float64 values).

    Raises:
      TypeError: values that are not floating point.
      ValueError: atoms that do not rise.

    References:
      Schrittwieser et al., `Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model
      <https://arxiv.org/abs/1911.08265>`_, 2020, appendix F.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.two_hot_targets(jnp.array([0.25, 9.0]), jnp.array([-1.0, 0.0, 1.0])))
      [[0.   0.75 0.25]
       [0.   0.   1.  ]]
    """
    values = floating("values", values)
    return _two_hot(values, _rising("atoms", atoms, values))


def _two_hot(values: Array, atoms: Array) -> Array:
    if atoms.shape[0] == 1:
        return jnp.ones((*values.shape, 1), values.dtype)
    inside = jnp.where(
        values < atoms[0], atoms[0], jnp.where(values > atoms[-1], atoms[-1], values)
    )
    left = jnp.searchsorted(atoms, inside, side="right") - 1
    left = jnp.where(left > atoms.shape[0] - 2, atoms.shape[0] - 2, left)
    share = (inside - atoms[left]) / (atoms[left + 1] - atoms[left])
    index = _spread(jnp.arange(atoms.shape[0], dtype=left.dtype), left)
    left, share = left[..., None], share[..., None]
    upper = jnp.where(index == left + 1, share, 0.0 * share)  # 0 * NaN: a value that is NaN
    return jnp.where(index == left, 1.0 - share, upper)


def categorical_projection(
    probabilities: Float[Array, "..."],
    source_atoms: Float[Array, "..."],
    atoms: Float[Array, " classes"],
) -> Float[Array, "..."]:
    r"""Returns a distribution moved from its own atoms to given ones, each shared by the two next.

    For distributional reinforcement learning: with `source_atoms` the rewards plus the discounted
    atoms, it is the target of C51, which `softmax_cross_entropy` takes.

    .. math::
      t_i = \sum_j p_j\, h_i(x_j), \qquad h_i \text{ linear between atoms, } h_i(a_k) = 1[i = k]

    Args:
      probabilities: p, floating point, of shape (..., M).
      source_atoms: x, where they lie, of the same shape; outside of the atoms they are moved to the
        outer one.
      atoms: a, K rising numbers, which need not be evenly spaced.

    Returns:
      Probabilities of shape (..., K), of the same sum as p, and of the same mean where no atom was
      outside, in float32 (float64 for float64 probabilities).

    Raises:
      TypeError: arguments that are not floating point.
      ValueError: shapes that differ, or atoms that do not rise.

    Numerics: the (..., M, K) shares are summed as they are formed, and under jit not held.

    References:
      Bellemare, Dabney and Munos, `A Distributional Perspective on Reinforcement Learning
      <https://arxiv.org/abs/1707.06887>`_, 2017, equation 7.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> atoms = jnp.array([-1.0, 0.0, 1.0])
      >>> p = jnp.array([0.5, 0.5, 0.0])
      >>> print(xent.categorical_projection(p, 0.5 + 0.9 * atoms, atoms))
      [0.2  0.55 0.25]
    """
    p = floating("probabilities", probabilities)
    x = floating("source_atoms", source_atoms).astype(p.dtype)
    if x.shape != p.shape or p.ndim == 0:
        raise ValueError(
            "source_atoms must hold one place for each of the probabilities, shape "
            f"{p.shape}, got {x.shape}: see jnp.broadcast_to"
        )
    shares = _two_hot(x, _rising("atoms", atoms, p))
    return jnp.sum(p[..., None] * shares, axis=-2)


def expected_value(
    logits: Float[Array, "..."], atoms: Float[Array, " classes"], *, axis: int = -1
) -> Float[Array, "..."]:
    r"""Returns the mean of a predicted distribution: the number that its logits stand for.

    .. math::
      \hat v = \sum_k p_k a_k, \qquad p = \mathrm{softmax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      atoms: a, the K numbers; for `hl_gauss` the bins' centres,
        `0.5 * (bin_edges[1:] + bin_edges[:-1])`.
      axis: the logits' axis of classes.

    Returns:
      One number per example, of the logits' shape without the class axis, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: a number of atoms other than K.

    References:
      Bellemare, Dabney and Munos, `A Distributional Perspective on Reinforcement Learning
      <https://arxiv.org/abs/1707.06887>`_, 2017, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.expected_value(jnp.array([[0.0, 2.0, 2.0]]), jnp.array([-1.0, 0.0, 1.0])))
      [0.4049]
    """
    z = classes_last("logits", logits, axis)
    atoms = _rising("atoms", atoms, z)
    if atoms.shape != z.shape[-1:]:
        raise ValueError(f"atoms must hold one number per class, {z.shape[-1:]}, got {atoms.shape}")
    return jnp.sum(softmax(z) * _spread(atoms, z[..., 0]), axis=-1)


def _prepare(
    logits: Array,
    values: Array,
    name: str,
    points: Array,
    more: int,
    where: Array | None,
    axis: int,
) -> tuple[Examples, Array]:
    """Returns examples whose labels are values, and the K or K + 1 points, checked."""
    logits, values = classes_last("logits", logits, axis), floating("values", values)
    if values.shape != logits.shape[:-1]:
        raise ValueError(
            "values must have the logits' shape without the class axis, "
            f"{logits.shape[:-1]}, got {values.shape}"
        )
    points = _rising(name, points, logits)
    if points.shape[0] != logits.shape[-1] + more:
        raise ValueError(
            f"{name} must hold {logits.shape[-1] + more} numbers for logits of "
            f"{logits.shape[-1]} classes, got {points.shape[0]}"
        )
    where = example_mask(where, logits)
    values = masked(values.astype(logits.dtype), where)
    return Examples(masked(logits, where), values, None, where), points


def _rising(name: str, points: Array, like: Array, at_least: int = 1) -> Array:
    """Returns rising numbers in the dtype of `like`."""
    points = floating(name, points)
    if points.ndim != 1 or points.shape[0] < at_least:
        raise ValueError(f"{name} must be a list of numbers, got shape {points.shape}")
    if not isinstance(points, Tracer) and not np.all(np.diff(points) > 0):
        raise ValueError(f"{name} must rise, each above the one before: sort them, drop equals")
    return points.astype(like.dtype)


def _spread(points: Array, like: Array) -> Array:
    """Returns points (K,) for each entry of an array (...), of shape (..., K)."""
    return jnp.broadcast_to(points, (*like.shape, points.shape[0]))
