"""Cross-entropies of softmax(z) with hand-derived tangents: what most losses are made of.

Arguments are positional and already prepared (`contract.py`): logits (..., K) with the classes
last, labels (...) inside [0, K). A logit of -inf is a class that cannot occur: its probability and
gradient are 0. Where all logits are -inf, everything is NaN.

The rules are by hand because autodiff of the same formulas keeps the exponentials for the way
back, scatters into an array of zeros, and multiplies 0 by infinity where a logit is -inf. Each rule
is one sum over the classes, so that it fuses: under jit the plain cross-entropy holds nothing of
the logits' size besides its gradient.
"""

import jax
import jax.numpy as jnp

from xent_jax.losses.fusion import apart, finite, possible
from xent_jax.typing import Array


@jax.custom_jvp
def label_log_probability(logits: Array, labels: Array) -> Array:
    """Returns log p_y: -inf where the label's logit is."""
    largest, total = largest_and_total(logits)
    return label_entry(logits, labels) - largest - jnp.log(total)


@label_log_probability.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d log p_y = sum_j (1[j = y] - p_j) dz_j
    (logits, labels), (logits_dot, _) = primals, tangents
    p = probabilities(logits)
    tangent = jnp.sum(jnp.where(is_label(logits, labels), 1.0 - p, -p) * logits_dot, axis=-1)
    return label_log_probability(logits, labels), tangent


@jax.custom_jvp
def target_cross_entropy(logits: Array, targets: Array) -> Array:
    """Returns -sum_k t_k log p_k with 0 log 0 = 0, for targets (..., K) of any sum."""
    largest, total = largest_and_total(logits)
    gaps = jnp.where(targets == 0, 0.0, largest[..., None] - logits)
    return jnp.sum(targets, axis=-1) * jnp.log(total) + jnp.sum(targets * gaps, axis=-1)


@target_cross_entropy.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # dL = sum_j (p_j sum_k t_k - t_j) dz_j - sum_k log p_k dt_k
    # The target of a class that cannot occur has slope 0, as one that `class_mask` left out.
    (logits, targets), (logits_dot, targets_dot) = primals, tangents
    mass = jnp.sum(targets, axis=-1, keepdims=True)
    slopes = probabilities(logits) * mass - targets
    largest, total = largest_and_total(logits)
    log_p = logits - largest[..., None] - jnp.log(total)[..., None]
    log_p = jnp.where(jnp.isneginf(logits), 0.0, log_p)
    tangent = jnp.sum(slopes * logits_dot - log_p * targets_dot, axis=-1)
    return target_cross_entropy(logits, targets), tangent


@jax.custom_jvp
def smoothed_cross_entropy(logits: Array, labels: Array, smoothing: Array) -> Array:
    """Returns -(1 - e) log p_y - e mean_k log p_k, the mean over the classes that can occur."""
    # At e = 1 the label has no weight, and may be one that cannot occur: 0 times infinity is NaN.
    of_label = jnp.where(smoothing == 1.0, 0.0, -label_log_probability(logits, labels))
    return (1.0 - smoothing) * of_label + smoothing * uniform_cross_entropy(logits)


@smoothed_cross_entropy.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = sum_j (p_j - (1 - e) 1[j = y] - e u_j) dz_j + (log p_y - mean_k log p_k) de
    (logits, labels, smoothing), (logits_dot, _, smoothing_dot) = primals, tangents
    targets = jnp.where(is_label(logits, labels), 1.0 - smoothing, 0.0)
    slopes = probabilities(logits) - targets - smoothing * uniform(logits)
    log_p = label_log_probability(logits, labels)
    lowest = jnp.finfo(log_p.dtype).min
    log_p = jnp.where(log_p < lowest, lowest, log_p)  # -inf times de = 0 would be NaN
    excess = uniform_cross_entropy(logits) + log_p
    tangent = jnp.sum(slopes * logits_dot, axis=-1) + excess * smoothing_dot
    return smoothed_cross_entropy(logits, labels, smoothing), tangent


@jax.custom_jvp
def uniform_cross_entropy(logits: Array) -> Array:
    """Returns -mean_k log p_k over the classes that can occur."""
    largest, total = largest_and_total(logits)
    counted = possible(logits)
    gaps = jnp.sum(counted * (largest[..., None] - finite(logits)), axis=-1)
    return jnp.log(total) + gaps / jnp.sum(counted, axis=-1)


@uniform_cross_entropy.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d(-mean_k log p_k) = sum_j (p_j - u_j) dz_j
    (logits,), (logits_dot,) = primals, tangents
    largest, total = (apart(array, 1) for array in largest_and_total(logits))
    again = apart(logits, 1)
    p = jnp.exp(again - largest[..., None]) * (1.0 / total)[..., None]
    tangent = jnp.sum((p - uniform(logits)) * logits_dot, axis=-1)
    return uniform_cross_entropy(logits), tangent


def uniform(logits: Array) -> Array:
    """Returns the distribution that gives the same to every class that can occur."""
    number = apart(jnp.sum(possible(logits), axis=-1, keepdims=True), 1)
    return possible(apart(logits, 1), 1) * (1.0 / number)


@jax.custom_jvp
def log_normalizer(logits: Array) -> Array:
    """Returns log sum_k exp(z_k)."""
    largest, total = largest_and_total(logits)
    return largest + jnp.log(total)


@log_normalizer.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d log sum_k exp(z_k) = sum_j p_j dz_j
    (logits,), (logits_dot,) = primals, tangents
    return log_normalizer(logits), jnp.sum(probabilities(logits) * logits_dot, axis=-1)


@jax.custom_jvp
def prediction_entropy(logits: Array) -> Array:
    """Returns -sum_k p_k log p_k of softmax(z); a class at -inf adds 0."""
    gaps, weights, total = _gaps(logits)
    return jnp.log(total) + jnp.sum(weights * gaps, axis=-1) / total


@prediction_entropy.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # dH = -sum_j p_j (log p_j + H) dz_j, where -log p_j - H is the gap less the mean gap.
    (logits,), (logits_dot,) = primals, tangents
    gaps, weights, total = _gaps(logits)
    mean = jnp.sum(weights * gaps, axis=-1) / total
    slopes = weights * (1.0 / total)[..., None] * (gaps - mean[..., None])
    return prediction_entropy(logits), jnp.sum(slopes * logits_dot, axis=-1)


def _gaps(logits: Array) -> tuple[Array, Array, Array]:
    """Returns max z - z (0 for a class that cannot occur), exp(z - max z) and its sum."""
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    gaps = jnp.where(jnp.isneginf(logits), 0.0, largest - logits)
    weights = jnp.exp(logits - largest)
    return gaps, weights, jnp.sum(weights, axis=-1)


def probabilities(logits: Array) -> Array:
    """Returns softmax(z). Large logits lose no digits, as they do in exp(z - log_normalizer)."""
    largest, total = largest_and_total(logits)
    return jnp.exp(logits - largest[..., None]) * (1.0 / total)[..., None]


@jax.custom_jvp
def scaled(factor: Array, logits: Array) -> Array:
    """Returns factor * z; a class that cannot occur stays at -inf, for a factor of 0 too."""
    return jnp.where(jnp.isneginf(logits), logits, factor * logits)


@scaled.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d(f z) = f dz + z df, by hand because 0 * inf would be NaN where z = -inf
    (factor, logits), (factor_dot, logits_dot) = primals, tangents
    finite = jnp.where(jnp.isneginf(logits), 0.0, logits)
    return scaled(factor, logits), factor * logits_dot + finite * factor_dot


@jax.custom_jvp
def complement(log_p: Array) -> Array:
    """Returns 1 - p, exact for p near 1 as its tangent is for p near 0."""
    return -jnp.expm1(log_p)


@complement.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d(1 - p) = -p dlog p. JAX forms p as expm1 + 1, which has no digits left for a small p.
    (log_p,), (log_p_dot,) = primals, tangents
    return complement(log_p), -jnp.exp(log_p) * log_p_dot


def label_entry(array: Array, labels: Array) -> Array:
    """Returns the entry of (..., K) at the label."""
    picked = jnp.take_along_axis(array, labels[..., None], axis=-1, mode="promise_in_bounds")
    return picked[..., 0]


def first_of_largest(logits: Array) -> Array:
    """Returns the first class of the largest logit, or of the first NaN; a constant.

    It is `jnp.argmax` in two plain reductions, which take a fifth of its time on CPUs. The barrier
    keeps XLA from computing the logits twice, rounded differently, for the two.
    """
    logits = jax.lax.optimization_barrier(jax.lax.stop_gradient(logits))
    largest, last = jnp.max(logits, axis=-1, keepdims=True), logits.shape[-1] - 1
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.min(jnp.where((logits >= largest) | jnp.isnan(logits), classes, last), axis=-1)


def is_label(logits: Array, labels: Array) -> Array:
    """Returns booleans of the logits' shape; a comparison fuses, a one-hot array is memory."""
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    return classes == labels[..., None]


def largest_and_total(logits: Array) -> tuple[Array, Array]:
    """Returns max z and sum exp(z - max z), each (...)."""
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    return largest, jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
