"""The bi-tempered loss: a bounded logarithm of a softmax whose tail is heavy, or ends."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from xent_jax.losses.contract import prepare, scalar
from xent_jax.losses.logarithms import relative_expm1, relative_log1p
from xent_jax.losses.noisy_labels import box_cox
from xent_jax.losses.softmax import is_label, label_entry, label_log_probability
from xent_jax.typing import Array, Bool, Float, Int, Scalar

MAX_STEPS = 20  # Newton's method needs 5 at t2 = 1.4, and 12 at most for t2 from 0 to 5


def bi_tempered_logistic(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    t1: Scalar = 0.8,
    t2: Scalar = 1.4,
    label_smoothing: Scalar = 0.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the bi-tempered logistic loss: bounded far away, heavy-tailed near the boundary.

    .. math::
      L = \sum_k t_k (\log_{t_1} t_k - \log_{t_1} p_k)
          - \frac{1}{2 - t_1} \sum_k (t_k^{2 - t_1} - p_k^{2 - t_1}), \qquad
      p_k = \exp_{t_2}(z_k - \lambda(z))

    with :math:`\log_t x = (x^{1-t} - 1) / (1 - t)`, its inverse :math:`\exp_t x = [1 + (1 - t) x
    ]_+^{1 / (1 - t)}`, and lambda such that the probabilities sum to 1. A t1 below 1 bounds the
    loss of an example far on the wrong side; a t2 above 1 lets it forget wrong labels near the
    boundary too. At t1 = t2 = 1 it is the cross-entropy, at t2 = 0 the probabilities are the
    sparsemax.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      t1: between 0 and 1; tuned, with t2, for each data set.
      t2: at least 0. Above 1 every class has a probability, which falls as a power; below 1 classes
        far behind have none.
      label_smoothing: epsilon in [0, 1]: the label's target is 1 - epsilon, each other's
        epsilon / (K - 1), over the classes that can occur.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0 up to rounding, of the labels' shape, in float32 (float64
      for float64 logits): without smoothing at most 1 / (1 - t1).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`g_j - w_j \sum_k g_k`, where :math:`g_k = (p_k - t_k) p_k^{t_2 - t_1}`
    and :math:`w_k = p_k^{t_2} / \sum_i p_i^{t_2}`, the escort probabilities.

    Numerics: Newton's method solves :math:`(\sum_k \exp_{t_2}(z_k - \lambda))^{1 - t_2} = 1`, whose
    left side is a power mean, hence monotone and concave or convex in lambda: the iterates rise to
    the root from one side, for every t2. The authors take five fixed-point steps above 1 and ten
    bisections below, after which probabilities may sum to something else than 1. Derivatives, in
    t1 and t2 too, are those of the solution, not of the steps.

    References:
      Amid et al., `Robust Bi-Tempered Logistic Loss Based on Bregman Divergences
      <https://arxiv.org/abs/1906.03361>`_, 2019.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.bi_tempered_logistic(logits, jnp.array([0, 1])))
      [0.1028 1.8638]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    t1 = scalar("t1", t1, like=z, at_least=0.0, at_most=1.0)
    excess = scalar("t2", t2, like=z, at_least=0.0) - 1.0
    log_p, supported = _tempered_log_softmax(z, excess)
    powers = jnp.sum(jnp.where(supported, jnp.exp((2.0 - t1) * log_p), 0.0), axis=-1)
    label_log_p = jnp.sum(jnp.where(is_label(z, y), log_p, 0.0), axis=-1)  # no scatter backwards
    # -inf, as the label's probability falls to 0, has a slope at t1 = t2 = 1 alone.
    impossible = jnp.where(excess == 0.0, label_log_probability(z, y), -jnp.inf)
    label_log_p = jnp.where(label_entry(supported, y), label_log_p, impossible)
    loss = box_cox(label_log_p, 1.0 - t1) + (powers - 1.0) / (2.0 - t1)
    if isinstance(label_smoothing, float | int) and label_smoothing == 0:
        return examples.finish(loss)
    smoothing = scalar("label_smoothing", label_smoothing, like=z, at_least=0.0, at_most=1.0)
    surprises = box_cox(jnp.where(supported, log_p, -jnp.inf), 1.0 - t1)
    return examples.finish(loss + _smoothing_excess(z, y, surprises, smoothing, t1))


def _smoothing_excess(
    logits: Array, labels: Array, surprises: Array, smoothing: Array, t1: Array
) -> Array:
    """Returns what the loss of a smoothed target exceeds the label's by; surprise = -log_t1 p."""
    label = is_label(logits, labels)
    others = ~jnp.isneginf(logits) & ~label
    count = jnp.sum(others, axis=-1, dtype=logits.dtype)
    smoothing = jnp.where(count > 0.0, smoothing, 0.0)
    share = smoothing / jnp.where(count > 0.0, count, 1.0)
    of_label = jnp.sum(jnp.where(label, surprises, 0.0), axis=-1)
    of_others = jnp.sum(jnp.where(others, surprises, 0.0), axis=-1)
    constant = _entropy_terms(1.0 - smoothing, t1) + count * _entropy_terms(share, t1)
    return share * of_others - smoothing * of_label + constant + 1.0 / (2.0 - t1)


def _entropy_terms(target: Array, t1: Array) -> Array:
    """Returns t log_t1 t - t^(2 - t1) / (2 - t1)."""
    log_target = jnp.log(jnp.where(target > 0.0, target, jnp.finfo(target.dtype).tiny))
    return -target * box_cox(log_target, 1.0 - t1) - jnp.exp((2.0 - t1) * log_target) / (2.0 - t1)


def _tempered_log_softmax(logits: Array, excess: Array) -> tuple[Array, Array]:
    """Returns log p for t2 = 1 + excess, and where p > 0; log p is 0 elsewhere."""
    # The largest logit is taken off first: beside it the shift would lose its digits.
    gaps = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)) - logits
    return _log_tempered(gaps + _shift(gaps, excess)[..., None], excess)


def _log_tempered(gaps: Array, excess: Array) -> tuple[Array, Array]:
    """Returns log exp_t(-gap), and where exp_t(-gap) > 0; the logarithm is 0 elsewhere."""
    finite = jnp.where(gaps < jnp.inf, gaps, 0.0)
    # A NaN, where no class can occur, is passed on.
    supported = ~(gaps == jnp.inf) & ~(1.0 + excess * finite <= 0.0)
    return _log_exp(jnp.where(supported, gaps, 0.0), excess), supported


@jax.custom_jvp
def _log_exp(gaps: Array, excess: Array) -> Array:
    """Returns -log(1 + c g) / c for the excess c, which is -g at c = 0."""
    plain = excess == 0.0
    return -jnp.where(plain, gaps, jnp.log1p(excess * gaps) / jnp.where(plain, 1.0, excess))


@functools.partial(_log_exp.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # -dg / (1 + c g) + (slope in c) dc. The latter is the derivative of a series, exact near c = 0
    # and dear: it is left out where t2 is a constant.
    (gaps, excess), (gaps_dot, excess_dot) = primals, tangents
    tangent = jnp.zeros_like(gaps)
    if not isinstance(gaps_dot, SymbolicZero):
        tangent = -gaps_dot / (1.0 + excess * gaps)
    if not isinstance(excess_dot, SymbolicZero):
        tangent = tangent + _slope_in_excess(gaps, excess) * excess_dot
    return _log_exp(gaps, excess), tangent


def _slope_in_excess(gaps: Array, excess: Array) -> Array:
    return jax.jvp(lambda c: -gaps * relative_log1p(c * gaps), (excess,), (jnp.ones_like(excess),))[
        1
    ]


@jax.custom_jvp
def _shift(gaps: Array, excess: Array) -> Array:
    """Returns the s (...) with sum_k exp_t(-gap_k - s) = 1, for gaps whose least is 0."""
    tolerance = 8.0 * jnp.finfo(gaps.dtype).eps

    def rise(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        shift, _, steps = state
        p, powers = _tempered(gaps + shift[..., None], excess)
        # h = (f^-c - 1) / c for the sum f, h' = f^(-c - 1) sum p^t: the step is -h / h'.
        log_total = jnp.log(jnp.sum(p, axis=-1))
        step = log_total * relative_expm1(-excess * log_total)
        step = step * jnp.exp((1.0 + excess) * log_total) / jnp.sum(powers, axis=-1)
        return shift + step, log_total, steps + 1

    def unsolved(state: tuple[Array, Array, Array]) -> Array:
        _, log_total, steps = state
        return jnp.any(log_total > tolerance) & (steps < MAX_STEPS)

    zero = jnp.zeros_like(gaps[..., 0])
    shift, _, _ = jax.lax.while_loop(unsolved, rise, rise((zero, zero, jnp.int32(0))))
    return shift


@functools.partial(_shift.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # sum_k dp_k = 0 with dp_k = -p_k^t (dgap_k + ds) + p_k (dlog p_k / dc) dc.
    (gaps, excess), (gaps_dot, excess_dot) = primals, tangents
    shift = _shift(gaps, excess)
    shifted = gaps + shift[..., None]
    p, powers = _tempered(shifted, excess)
    change = jnp.zeros_like(shift)
    if not isinstance(gaps_dot, SymbolicZero):
        change = -jnp.sum(powers * gaps_dot, axis=-1)
    if not isinstance(excess_dot, SymbolicZero):
        slope = _slope_in_excess(jnp.where(p > 0.0, shifted, 0.0), excess)
        change = change + jnp.sum(p * slope, axis=-1) * excess_dot
    return shift, change / jnp.sum(powers, axis=-1)


def _tempered(gaps: Array, excess: Array) -> tuple[Array, Array]:
    """Returns p = exp_t(-gap) and p^t, which is p / (1 + c gap) where p > 0."""
    log_p, supported = _log_tempered(gaps, excess)
    p = jnp.where(supported, jnp.exp(log_p), 0.0)
    return p, p / (1.0 + excess * jnp.where(supported, gaps, 0.0))
