"""The bi-tempered loss: a bounded logarithm of a softmax whose tail is heavy, or ends."""

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import prepare, scalar
from xent_jax.losses.logarithms import relative_expm1, relative_log1p
from xent_jax.losses.noisy_labels import box_cox
from xent_jax.losses.softmax import is_label, label_entry
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
      t1: between 0 and 1; 0.8 on noisy MNIST and CIFAR-100, as t2 tuned.
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
    label_log_p = jnp.where(label_entry(supported, y), label_log_p, -jnp.inf)
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
    return _log_tempered(_normalizer(logits, excess)[..., None] - logits, excess)


def _log_tempered(gaps: Array, excess: Array) -> tuple[Array, Array]:
    """Returns log exp_t(-gap), and where exp_t(-gap) > 0; the logarithm is 0 elsewhere."""
    supported = (gaps < jnp.inf) & (1.0 + excess * jnp.where(gaps < jnp.inf, gaps, 0.0) > 0.0)
    missing = jnp.isnan(gaps)  # no class can occur: everything is NaN
    return _log_exp(jnp.where(supported | missing, gaps, 0.0), excess), supported | missing


@jax.custom_jvp
def _log_exp(gaps: Array, excess: Array) -> Array:
    """Returns -log(1 + c g) / c for the excess c, which is -g at c = 0."""
    return -gaps * relative_log1p(excess * gaps)


@_log_exp.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # -dg / (1 + c g) + (the series' slope) dc. By hand, because autodiff differentiates the series
    # for dg too.
    (gaps, excess), (gaps_dot, excess_dot) = primals, tangents
    _, by_excess = jax.jvp(
        lambda c: -gaps * relative_log1p(c * gaps), (excess,), (jnp.ones_like(excess),)
    )
    return _log_exp(gaps, excess), by_excess * excess_dot - gaps_dot / (1.0 + excess * gaps)


@jax.custom_jvp
def _normalizer(logits: Array, excess: Array) -> Array:
    """Returns the lambda (...) with sum_k exp_t(z_k - lambda) = 1."""
    largest = jnp.max(logits, axis=-1)
    gaps = largest[..., None] - logits
    tolerance = 8.0 * jnp.finfo(logits.dtype).eps

    def rise(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        shift, _, steps = state
        log_p, supported = _log_tempered(gaps + shift[..., None], excess)
        p = jnp.where(supported, jnp.exp(log_p), 0.0)
        total = jnp.sum(p, axis=-1)
        slope = jnp.sum(_powers(gaps + shift[..., None], p, excess), axis=-1)
        # h = (f^-c - 1) / c for the sum f, h' = f^(-c - 1) slope: the step is -h / h'.
        log_total = jnp.log(total)
        step = log_total * relative_expm1(-excess * log_total)
        step = step * jnp.exp((1.0 + excess) * log_total) / slope
        return shift + step, log_total, steps + 1

    def unsolved(state: tuple[Array, Array, Array]) -> Array:
        _, log_total, steps = state
        return jnp.any(log_total > tolerance) & (steps < MAX_STEPS)

    zero = jnp.zeros_like(largest)
    shift, _, _ = jax.lax.while_loop(unsolved, rise, rise((zero, zero, jnp.int32(0))))
    return largest + shift


@_normalizer.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # sum_k dp_k = 0 with dp_k = p_k^t (dz_k - dlambda) + p_k (dlog p_k / dc) dc.
    (logits, excess), (logits_dot, excess_dot) = primals, tangents
    normalizer = _normalizer(logits, excess)
    gaps = normalizer[..., None] - logits
    (log_p, supported), (by_excess, _) = jax.jvp(
        lambda c: _log_tempered(gaps, c), (excess,), (excess_dot,)
    )
    p = jnp.where(supported, jnp.exp(log_p), 0.0)
    powers = _powers(gaps, p, excess)
    change = jnp.sum(powers * logits_dot + p * by_excess, axis=-1)
    return normalizer, change / jnp.sum(powers, axis=-1)


def _powers(gaps: Array, p: Array, excess: Array) -> Array:
    """Returns p^t, which is p / (1 + c g), where p > 0."""
    return p / jnp.where(p > 0.0, 1.0 + excess * jnp.where(p > 0.0, gaps, 0.0), 1.0)
