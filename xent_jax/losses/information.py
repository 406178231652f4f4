"""Entropies and divergences of probability distributions, given as probabilities.

A distribution lies along one axis; the functions take it as it is and never renormalise or clip.
In all of them 0 log 0 = 0, a probability of 0 where it should not be gives +inf, and a gradient
with respect to a distribution that holds exact zeros is finite wherever the value is.

A model's logits go to `softmax_cross_entropy` instead, which never forms a probability.
"""

import math

import jax
import jax.numpy as jnp
from jax.core import Tracer

from xent_jax.losses.contract import classes_last, example_mask, floating, masked, scalar
from xent_jax.losses.logarithms import relative_expm1, relative_log1p, times, x_log_x, x_log_y
from xent_jax.typing import Array, Bool, Float, Scalar

Axis = int | tuple[int, ...] | None


def entropy(
    p: Float[Array, "..."],
    *,
    base: Scalar | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the entropy: how uncertain a draw from the distribution is.

    .. math::
      H(p) = -\sum_k p_k \log p_k

    Args:
      p: probabilities, floating point, of shape (..., K) for the default axis.
      base: the logarithm's, above 1; nats by default, 2 for bits.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per distribution, of the shape of `p` without the axis, from 0 (one certain class)
      to log K (all alike), in float32 (float64 for float64 probabilities).

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: a mask of another shape, or a base that is not above 1.

    The gradient is :math:`-\log p_k - 1`, taken as 0 where :math:`p_k = 0`.

    References:
      Shannon, `A Mathematical Theory of Communication
      <https://doi.org/10.1002/j.1538-7305.1948.tb01338.x>`_, 1948, section 6.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.entropy(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), base=2))
      [1. 0.]
    """
    (p,), where = _distributions(where, axis, p=p)
    return masked(_in_base(jnp.sum(-x_log_x(p), axis=-1), base), where)


def cross_entropy(
    p: Float[Array, "..."],
    q: Float[Array, "..."],
    *,
    base: Scalar | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy: the mean surprise under q at draws from p.

    .. math::
      H(p, q) = -\sum_k p_k \log q_k = H(p) + D(p \,\|\, q)

    It is a sum over the classes, not a mean, and no distance: it is not symmetric, and H(p, p) is
    the entropy of p rather than 0. With p fixed it has no upper bound, with q fixed it is at most
    :math:`-\log \min_k q_k`.

    Args:
      p: the true probabilities, floating point, of shape (..., K) for the default axis.
      q: the predicted probabilities, of the shape of `p`.
      base: the logarithm's, above 1; nats by default, 2 for bits.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per pair of distributions, at least H(p), in float32 (float64 if an argument is);
      +inf where some :math:`q_k = 0 < p_k`.

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: shapes that differ, or a base that is not above 1.

    The gradient is :math:`-p_k / q_k` with respect to q, and :math:`-\log q_k` with respect to p.

    Numerics: nothing is added to q inside the logarithm, which would bias the value and cut the
    gradient where it matters most.

    References:
      Cover and Thomas, Elements of Information Theory, 2006, section 2.3; Goodfellow, Bengio and
      Courville, `Deep Learning <https://www.deeplearningbook.org>`_, 2016, equation 3.51.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.cross_entropy(jnp.array([[0.0, 1.0]]), jnp.array([[0.9, 0.1]])))
      [2.3026]
    """
    (p, q), where = _distributions(where, axis, p=p, q=q)
    return masked(_in_base(jnp.sum(-x_log_y(p, q), axis=-1), base), where)


def relative_entropy(
    p: Float[Array, "..."],
    q: Float[Array, "..."],
    *,
    base: Scalar | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the Kullback-Leibler divergence of two probability vectors.

    .. math::
      D(p \,\|\, q) = \sum_k p_k \log \frac{p_k}{q_k}

    The cross-entropy less the part that no prediction can save. `kl_divergence` is the same of
    log-predictions, with optax's order of arguments: the prediction first.

    Args:
      p: the true probabilities, floating point, of shape (..., K) for the default axis.
      q: the predicted probabilities, of the shape of `p`.
      base: the logarithm's, above 1; nats by default, 2 for bits.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per pair of distributions, at least 0 up to rounding, in float32 (float64 if an
      argument is); +inf where some :math:`q_k = 0 < p_k`.

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: shapes that differ, or a base that is not above 1.

    The gradient is :math:`-p_k / q_k` with respect to q, and :math:`\log (p_k / q_k) + 1` with
    respect to p, of which :math:`-\log q_k` is left where :math:`p_k = 0`.

    References:
      Kullback and Leibler, `On Information and Sufficiency <https://www.jstor.org/stable/2236703>`_,
      1951, equation 2.2; Cover and Thomas, Elements of Information Theory, 2006, section 2.3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> p, q = jnp.array([[0.5, 0.5, 0.0]]), jnp.array([[0.25, 0.25, 0.5]])
      >>> print(xent.relative_entropy(p, q, base=2), xent.relative_entropy(q, p))
      [1.] [inf]
    """
    (p, q), where = _distributions(where, axis, p=p, q=q)
    return masked(_in_base(jnp.sum(x_log_x(p) - x_log_y(p, q), axis=-1), base), where)


def kl_divergence(
    log_predictions: Float[Array, "..."],
    targets: Float[Array, "..."],
    axis: Axis = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    base: Scalar | None = None,
) -> Float[Array, "..."]:
    r"""Computes the Kullback-Leibler divergence of targets from log-predictions, as optax does.

    .. math::
      D(t \,\|\, q) = \sum_k t_k (\log t_k - \log q_k)

    Args:
      log_predictions: log q, floating point, such as `jax.nn.log_softmax(logits)`.
      targets: t, probabilities, of the shape of `log_predictions`; they may hold zeros.
      axis: the axis of classes, or several, or None for all.
      where: True for what counts: of the result's shape for distributions, or of the shape of
        `targets` for single classes as in optax.
      base: the logarithm's, above 1; nats by default, 2 for bits. Log-predictions are in nats.

    Returns:
      One value per distribution, in float32 (float64 if an argument is); +inf where some
      :math:`\log q_k = -\infty` and :math:`t_k > 0`.

    Raises:
      TypeError: arguments that are not floating point.
      ValueError: shapes that differ, or a base that is not above 1.

    The gradient is :math:`-t_k` with respect to :math:`\log q_k`, and :math:`\log t_k - \log q_k +
    1` with respect to t, of which :math:`-\log q_k` is left where :math:`t_k = 0`.

    Numerics: a target of 0 adds 0 even where :math:`\log q_k = -\infty`, and its gradient is
    finite; optax gives NaN for both.

    References:
      Kullback and Leibler, `On Information and Sufficiency <https://www.jstor.org/stable/2236703>`_,
      1951, equation 2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> log_predictions = jnp.log(jnp.array([[0.25, 0.25, 0.5]]))
      >>> print(xent.kl_divergence(log_predictions, jnp.array([[0.5, 0.5, 0.0]])))
      [0.6931]
    """
    log_q, t, where = _elements(where, axis, log_predictions=log_predictions, targets=targets)
    return _in_base(jnp.sum(masked(x_log_x(t) - times(t, log_q), where), axis=axis), base)


def kl_divergence_with_log_targets(
    log_predictions: Float[Array, "..."],
    log_targets: Float[Array, "..."],
    axis: Axis = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    base: Scalar | None = None,
) -> Float[Array, "..."]:
    r"""Computes the Kullback-Leibler divergence of two distributions given by their logarithms.

    .. math::
      D(t \,\|\, q) = \sum_k e^{\log t_k} (\log t_k - \log q_k)

    For a teacher and a student that both end in a log-softmax.

    Args:
      log_predictions: log q, floating point, such as `jax.nn.log_softmax(logits)`.
      log_targets: log t, of the shape of `log_predictions`; -inf for a probability of 0.
      axis: the axis of classes, or several, or None for all.
      where: True for what counts: of the result's shape for distributions, or of the shape of
        `log_targets` for single classes as in optax.
      base: the result's logarithm's, above 1; nats by default, 2 for bits.

    Returns:
      One value per distribution, in float32 (float64 if an argument is).

    Raises:
      TypeError: arguments that are not floating point.
      ValueError: shapes that differ, or a base that is not above 1.

    The gradient is :math:`-t_k` with respect to :math:`\log q_k`, and :math:`t_k (\log t_k - \log
    q_k + 1)` with respect to :math:`\log t_k`.

    Numerics: a log-target of -inf adds 0 with gradient 0; optax gives NaN for both.

    References:
      Kullback and Leibler, `On Information and Sufficiency <https://www.jstor.org/stable/2236703>`_,
      1951, equation 2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> log_q, log_t = jnp.log(jnp.array([[0.25, 0.75]])), jnp.log(jnp.array([[1.0, 0.0]]))
      >>> print(xent.kl_divergence_with_log_targets(log_q, log_t, base=2))
      [2.]
    """
    log_q, log_t, where = _elements(
        where, axis, log_predictions=log_predictions, log_targets=log_targets
    )
    possible = ~jnp.isneginf(log_t)
    log_q, log_t = jnp.where(possible, log_q, 0.0), jnp.where(possible, log_t, 0.0)
    terms = jnp.where(possible, jnp.exp(log_t) * (log_t - log_q), 0.0)
    return _in_base(jnp.sum(masked(terms, where), axis=axis), base)


def generalized_kl_divergence(
    log_predictions: Float[Array, "..."],
    targets: Float[Array, "..."],
    axis: Axis = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the Kullback-Leibler divergence of non-negative numbers that need not sum to 1.

    .. math::
      D(t \,\|\, q) = \sum_k \left( t_k \log \frac{t_k}{q_k} - t_k + q_k \right)

    The Bregman divergence of :math:`x \log x - x`: unlike `kl_divergence` it is at least 0 for any
    masses, and 0 only where they agree.

    Args:
      log_predictions: log q, floating point.
      targets: t, at least 0, of the shape of `log_predictions`.
      axis: the axis to sum over, or several, or None for all.
      where: True for what counts: of the result's shape, or of the shape of `targets` for single
        classes as in optax.

    Returns:
      One value per pair, in float32 (float64 if an argument is).

    Raises:
      TypeError: arguments that are not floating point.
      ValueError: shapes that differ.

    The gradient is :math:`q_k - t_k` with respect to :math:`\log q_k`, and :math:`\log (t_k / q_k)`
    with respect to t, of which :math:`-\log q_k - 1` is left where :math:`t_k = 0`.

    References:
      Boyd and Vandenberghe, `Convex Optimization <https://stanford.edu/~boyd/cvxbook/>`_, 2004,
      page 90.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> log_predictions = jnp.log(jnp.array([[2.0, 3.0]]))
      >>> print(xent.generalized_kl_divergence(log_predictions, jnp.array([[2.0, 0.0]])))
      [3.]
    """
    log_q, t, where = _elements(where, axis, log_predictions=log_predictions, targets=targets)
    terms = x_log_x(t) - times(t, log_q) + jnp.exp(log_q) - t
    return jnp.sum(masked(terms, where), axis=axis)


def jensen_shannon_divergence(
    *distributions: Float[Array, "..."],
    weights: Float[Array, " n"] | None = None,
    base: Scalar | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes how far two or more distributions are from their mixture: symmetric and bounded.

    .. math::
      \mathrm{JS} = \sum_i w_i D(p_i \,\|\, m) = H(m) - \sum_i w_i H(p_i), \qquad
      m = \sum_i w_i p_i

    Args:
      *distributions: :math:`p_1, p_2, \dots`, at least two arrays of probabilities, floating
        point, of one shape (..., K) for the default axis.
      weights: w, at least 0, one for each distribution, summing to 1; all alike by default.
      base: the logarithm's, above 1; nats by default, 2 for bits.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per tuple of distributions, at least 0 up to rounding and at most the entropy of the
      weights: log 2 for two distributions, whatever they hold. Never infinite.

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: shapes that differ, fewer than two distributions, weights that are no
        distribution, or a base that is not above 1.

    The gradient is :math:`w_i \log (p_{ik} / m_k)` with respect to :math:`p_{ik}`, of which
    :math:`-w_i (\log m_k + 1)` is left where :math:`p_{ik} = 0`.

    References:
      Lin, `Divergence Measures Based on the Shannon Entropy <https://doi.org/10.1109/18.61115>`_,
      1991, equations 4.1 and 5.1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> p, q = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 0.5, 0.5]])
      >>> print(xent.jensen_shannon_divergence(p, q, base=2))
      [1.]
    """
    if len(distributions) < 2:
        raise ValueError(f"needs at least two distributions, got {len(distributions)}")
    arrays, where = _distributions(where, axis, **{f"p{i}": p for i, p in enumerate(distributions)})
    p = jnp.stack(arrays)
    w = _mixture_weights(weights, p).reshape(-1, *[1] * (p.ndim - 1))
    # Summed class by class, so that equal distributions give exactly 0.
    terms = jnp.sum(w * x_log_x(p), axis=0) - x_log_x(jnp.sum(w * p, axis=0))
    return masked(_in_base(jnp.sum(terms, axis=-1), base), where)


def renyi_divergence(
    p: Float[Array, "..."],
    q: Float[Array, "..."],
    *,
    alpha: Scalar,
    base: Scalar | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the Rényi divergence, which runs from coverage (0) over KL (1) to the worst case.

    .. math::
      D_\alpha(p \,\|\, q) = \frac{1}{\alpha - 1}
        \log \frac{\sum_k p_k^\alpha q_k^{1 - \alpha}}{\sum_k p_k}

    The denominator is 1 for distributions. :math:`D_0 = -\log \sum_{p_k > 0} q_k`, :math:`D_1` is
    the relative entropy and :math:`D_\infty = \log \max_k p_k / q_k`; it grows with alpha.

    Args:
      p: the true probabilities, floating point, of shape (..., K) for the default axis.
      q: the predicted probabilities, of the shape of `p`.
      alpha: the order, at least 0; `math.inf` too, as a number of Python.
      base: the logarithm's, above 1; nats by default, 2 for bits.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per pair of distributions, at least 0 up to rounding, in float32 (float64 if an
      argument is); +inf where some :math:`q_k = 0 < p_k` and alpha is at least 1, or where p and q
      share no class.

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: shapes that differ, alpha below 0, or a base that is not above 1.

    The gradient is taken as 0 where :math:`p_k = 0`, or where :math:`q_k = 0`.

    Numerics: with :math:`\epsilon = \alpha - 1` below 1/2 the value is :math:`\log (1 + \epsilon m)
    / \epsilon` with :math:`m = \sum_k p_k (e^{\epsilon \log p_k / q_k} - 1) / \epsilon`, both
    quotients by their series near 0, so that value and derivatives, in alpha too, are exact through
    alpha = 1.

    References:
      Rényi, On Measures of Entropy and Information, 1961, section 3; van Erven and Harremoës,
      `Rényi Divergence and Kullback-Leibler Divergence <https://arxiv.org/abs/1206.2459>`_, 2014,
      section II.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> p, q = jnp.array([[0.75, 0.25]]), jnp.array([[0.5, 0.5]])
      >>> print(xent.renyi_divergence(p, q, alpha=1.0), xent.relative_entropy(p, q))
      [0.1308] [0.1308]
    """
    (p, q), where = _distributions(where, axis, p=p, q=q)
    if isinstance(alpha, float) and alpha == math.inf:
        ratios = _log_ratio(p, q)
        largest = jnp.argmax(ratios, axis=-1, keepdims=True)
        divergence = jnp.take_along_axis(ratios, largest, axis=-1)[..., 0]
    else:
        divergence = _renyi(p, q, scalar("alpha", alpha, like=p, at_least=0.0) - 1.0)
    return masked(_in_base(divergence, base), where)


def _renyi(p: Array, q: Array, excess: Array) -> Array:
    """Returns the divergence of order 1 + excess."""
    log_ratio, mass = _log_ratio(p, q), jnp.sum(p, axis=-1)
    impossible = jnp.isposinf(log_ratio)
    log_ratio = jnp.where(impossible, 0.0, log_ratio)
    misses = jnp.any(impossible, axis=-1)
    infinite, near = misses & (excess >= 0.0), ~misses & (jnp.abs(excess) < 0.5)

    # Each side of the last `where` is computed with harmless numbers where the other is taken.
    small = jnp.where(near, excess, 0.0)
    tilted = jnp.where(near[..., None], p * log_ratio, 0.0)
    tilted = tilted * relative_expm1(small[..., None] * log_ratio)
    mean = jnp.sum(tilted, axis=-1) / mass
    series = mean * relative_log1p(small * mean)

    exponents = jnp.log(jnp.where(p == 0.0, 1.0, p)) + excess * log_ratio
    left_out = (p == 0.0) | (impossible & ~infinite[..., None])
    total = jax.nn.logsumexp(jnp.where(left_out, -jnp.inf, exponents), axis=-1)
    closed = (total - jnp.log(mass)) / jnp.where(near | infinite, 1.0, excess)
    return jnp.where(near, series, jnp.where(infinite, jnp.inf, closed))


def _log_ratio(p: Array, q: Array) -> Array:
    """Returns log(p / q): 0 where p = 0, +inf where only q is."""
    zero = (p == 0.0) | (q == 0.0)
    log_ratio = jnp.log(jnp.where(zero, 1.0, p)) - jnp.log(jnp.where(zero, 1.0, q))
    return jnp.where((q == 0.0) & (p > 0.0), jnp.inf, log_ratio)


def tsallis_entropy(
    p: Float[Array, "..."],
    *,
    q: Scalar,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the Tsallis entropy: Shannon's at q = 1, Gini's impurity at q = 2.

    .. math::
      S_q(p) = \frac{\sum_k p_k - \sum_k p_k^q}{q - 1}

    where the first sum is 1 for distributions.

    Args:
      p: probabilities, floating point, of shape (..., K) for the default axis.
      q: the order, at least 0, where it is the number of possible classes less 1.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per distribution, from 0 to :math:`(1 - K^{1 - q}) / (q - 1)`, without unit but for
      the nats of q = 1, in float32 (float64 for float64 probabilities).

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: a mask of another shape, or q below 0.

    The gradient is :math:`(1 - q\, p_k^{q - 1}) / (q - 1)`, taken as 0 where :math:`p_k = 0`.

    Numerics: the quotient is a series near q = 1, so that value and derivatives, in q too, are
    exact through it.

    References:
      Tsallis, `Possible Generalization of Boltzmann-Gibbs Statistics
      <https://doi.org/10.1007/BF01016429>`_, 1988, equation 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> p = jnp.array([[0.5, 0.25, 0.25]])
      >>> print(xent.tsallis_entropy(p, q=2.0), xent.tsallis_entropy(p, q=1.0), xent.entropy(p))
      [0.625] [1.0397] [1.0397]
    """
    (p,), where = _distributions(where, axis, p=p)
    excess = scalar("q", q, like=p, at_least=0.0) - 1.0
    log_p = jnp.log(jnp.where(p == 0.0, 1.0, p))
    return masked(jnp.sum(-p * log_p * relative_expm1(excess * log_p), axis=-1), where)


def total_variation(
    p: Float[Array, "..."],
    q: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the total variation: the most by which two distributions differ on any event.

    .. math::
      \mathrm{TV}(p, q) = \frac{1}{2} \sum_k |p_k - q_k|

    A distance, unlike the divergences; by Pinsker :math:`2\, \mathrm{TV}^2 \le D(p \,\|\, q)`.

    Args:
      p: probabilities, floating point, of shape (..., K) for the default axis.
      q: probabilities of the shape of `p`.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per pair of distributions, from 0 (equal) to 1 (no class in common), in float32
      (float64 if an argument is).

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: shapes that differ.

    The gradient is :math:`\mathrm{sign}(p_k - q_k) / 2`, 0 where they agree.

    References:
      Levin, Peres and Wilmer, `Markov Chains and Mixing Times
      <https://pages.uoregon.edu/dlevin/MARKOV/>`_, 2009, proposition 4.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> p, q = jnp.array([[0.5, 0.5, 0.0]]), jnp.array([[0.25, 0.25, 0.5]])
      >>> print(xent.total_variation(p, q))
      [0.5]
    """
    (p, q), where = _distributions(where, axis, p=p, q=q)
    return masked(0.5 * jnp.sum(jnp.abs(p - q), axis=-1), where)


def mutual_information(
    joint: Float[Array, "..."],
    *,
    base: Scalar | None = None,
    where: Bool[Array, "..."] | None = None,
    axes: tuple[int, int] = (-2, -1),
) -> Float[Array, "..."]:
    r"""Computes how much one variable tells of another, from the table of their joint distribution.

    .. math::
      I(X; Y) = \sum_{x, y} p_{xy} \log \frac{p_{xy}}{p_x p_y} = H(X) + H(Y) - H(X, Y)

    Args:
      joint: probabilities p_xy, floating point, of shape (..., X, Y) for the default axes, each
        table summing to 1. Divide a table of counts by its sum.
      base: the logarithm's, above 1; nats by default, 2 for bits.
      where: True for the tables that count, of the result's shape; the others give 0.
      axes: the axes of X and Y.

    Returns:
      One value per table, from 0 (independent) up to rounding, to the smaller of H(X) and H(Y), in
      float32 (float64 for float64 probabilities).

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: a mask of another shape, or a base that is not above 1.

    The gradient is :math:`\log (p_{xy} / p_x p_y) - 1`, of which :math:`-\log p_x - \log p_y - 2`
    is left where :math:`p_{xy} = 0`.

    References:
      Cover and Thomas, Elements of Information Theory, 2006, equations 2.28 and 2.45.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> copies, strangers = jnp.eye(2) / 2, jnp.ones((2, 2)) / 4
      >>> print(xent.mutual_information(jnp.stack([copies, strangers]), base=2))
      [1. 0.]
    """
    joint = jnp.moveaxis(floating("joint", joint), axes, (-2, -1))
    flat = joint.reshape(*joint.shape[:-2], math.prod(joint.shape[-2:]))
    (p,), where = _distributions(where, -1, joint=flat)
    p = p.reshape(joint.shape)
    separate = sum(jnp.sum(x_log_x(jnp.sum(p, axis=axis)), axis=-1) for axis in (-1, -2))
    information = jnp.sum(x_log_x(p), axis=(-2, -1)) - separate
    return masked(_in_base(information, base), where)


def perplexity(
    p: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the perplexity: the number of equally likely classes that are as uncertain.

    .. math::
      \mathrm{PP}(p) = e^{H(p)} = \prod_k p_k^{-p_k}

    A language model's perplexity is the exponential of its mean cross-entropy per token.

    Args:
      p: probabilities, floating point, of shape (..., K) for the default axis.
      where: True for the distributions that count, of the result's shape; the others give 0.
      axis: the axis of classes.

    Returns:
      One value per distribution, from 1 (one certain class) to K (all alike), in float32 (float64
      for float64 probabilities).

    Raises:
      TypeError: probabilities that are not floating point.
      ValueError: a mask of another shape.

    The gradient is :math:`-\mathrm{PP}(p) (\log p_k + 1)`, taken as 0 where :math:`p_k = 0`.

    References:
      Jelinek et al., `Perplexity: a Measure of the Difficulty of Speech Recognition Tasks
      <https://doi.org/10.1121/1.2016299>`_, 1977.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.perplexity(jnp.array([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])))
      [4. 1.]
    """
    (p,), where = _distributions(where, axis, p=p)
    return masked(jnp.exp(jnp.sum(-x_log_x(p), axis=-1)), where)


def _distributions(
    where: Array | None, axis: int, **named: Array
) -> tuple[list[Array], Array | None]:
    """Returns the arrays with the classes last, 1 everywhere in masked distributions."""
    moved = [classes_last(name, array, axis) for name, array in named.items()]
    arrays: list[Array] = _one_dtype(moved)
    _check_one_shape(named)
    where = example_mask(where, arrays[0], "a class leaves the sum where its probability is 0")
    if where is not None:
        arrays = [jnp.where(where[..., None], array, 1.0) for array in arrays]
    return arrays, where


def _elements(where: Array | None, axis: Axis, **named: Array) -> tuple[Array, Array, Array | None]:
    """Returns two arrays, 0 where masked, and the mask of their shape."""
    left, right = _one_dtype([floating(name, array) for name, array in named.items()])
    _check_one_shape(named)
    if where is None:
        return left, right, None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {where.dtype}: pass for instance `mask > 0`")
    if where.shape != left.shape:
        summed = jnp.sum(jnp.zeros(left.shape), axis=axis)
        if where.shape != summed.shape:
            raise ValueError(
                f"where must have shape {summed.shape} (one boolean per distribution) or "
                f"{left.shape} (one per class), got {where.shape}"
            )
        axes = tuple(range(left.ndim)) if axis is None else axis
        where = jnp.broadcast_to(jnp.expand_dims(where, axes), left.shape)
    return masked(left, where), masked(right, where), where


def _one_dtype(arrays: list[Array]) -> list[Array]:
    """Returns the arrays in the widest of their dtypes."""
    widest = max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize)
    return [jnp.asarray(array, widest) for array in arrays]


def _check_one_shape(named: dict[str, Array]) -> None:
    shapes = {name: jnp.shape(array) for name, array in named.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"must have one shape, got {told}: see jnp.broadcast_to")


def _in_base(nats: Array, base: Scalar | None) -> Array:
    if base is None:
        return nats
    return nats / jnp.log(scalar("base", base, like=nats, above=1.0))


def _mixture_weights(weights: Array | None, distributions: Array) -> Array:
    count, dtype = distributions.shape[0], distributions.dtype
    if weights is None:
        return jnp.full(count, 1.0 / count, dtype)
    weights = floating("weights", weights).astype(dtype)
    if weights.shape != (count,):
        raise ValueError(f"weights must have shape ({count},), got {weights.shape}")
    if not isinstance(weights, Tracer) and not (
        jnp.all(weights >= 0.0) and abs(jnp.sum(weights) - 1.0) < 1e-3
    ):
        raise ValueError(f"weights must be at least 0 and sum to 1, got {weights}")
    return weights
