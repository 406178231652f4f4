"""The plain cross-entropy of float16 and bfloat16 logits, which are never float32 all at once.

A pass over the logits converts what it reads. CPUs need help with that: XLA writes converted
logits out before it sums over the classes, so that sums are taken over a few rows at a time, whose
converted logits stay in the cache.
"""

import math

import jax
import jax.numpy as jnp

from xent_jax.losses.softmax import is_label, label_entry, largest_and_total
from xent_jax.typing import Array

BLOCK = 2**20  # logits whose float32 exists at a time on a CPU: 4 MiB


def is_narrow(logits: Array) -> bool:
    return logits.dtype.itemsize < 4


@jax.custom_jvp
def label_log_probability(logits: Array, labels: Array) -> Array:
    """Returns log p_y in float32: -inf where the label's logit is."""
    largest, total = _largest_and_total(logits)
    return _wide(label_entry(logits, labels)) - largest - jnp.log(total)


@label_log_probability.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d log p_y = sum_j (1[j = y] - p_j) dz_j
    (logits, labels), (logits_dot, _) = primals, tangents
    largest, total = _largest_and_total(logits)
    p = jnp.exp(_wide(logits) - largest[..., None]) * (1.0 / total)[..., None]
    slopes = jnp.where(is_label(logits, labels), 1.0 - p, -p)
    return label_log_probability(logits, labels), jnp.sum(slopes * _wide(logits_dot), axis=-1)


@jax.custom_jvp
def _largest_and_total(logits: Array) -> tuple[Array, Array]:
    """Returns max z and sum exp(z - max z), each (...) in float32."""
    return jax.lax.platform_dependent(logits, cpu=_by_blocks, default=_at_once)


@_largest_and_total.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], ...]:
    # The largest logit is held constant: what is made of both does not change with it.
    (logits,), (logits_dot,) = primals, tangents
    largest, total = _largest_and_total(logits)
    weights = jnp.exp(_wide(logits) - largest[..., None])
    total_dot = jnp.sum(weights * _wide(logits_dot), axis=-1)
    return (largest, total), (jnp.zeros_like(largest), total_dot)


def _at_once(logits: Array) -> tuple[Array, Array]:
    return largest_and_total(_wide(logits))


def _by_blocks(logits: Array) -> tuple[Array, Array]:
    shape, dtype = logits.shape, logits.dtype
    count, rows = math.prod(shape[:-1]), max(1, BLOCK // shape[-1])
    if count <= rows:
        return _at_once(logits)
    # As integers, or XLA would take the conversion out of the loop and write it out after all.
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint16).reshape(count, shape[-1])

    def of_row(bits: Array) -> tuple[Array, Array]:
        return _at_once(jax.lax.bitcast_convert_type(bits, dtype))

    largest, total = jax.lax.map(of_row, bits, batch_size=rows)
    return largest.reshape(shape[:-1]), total.reshape(shape[:-1])


def _wide(array: Array) -> Array:
    return array.astype(jnp.float32)
