"""The plain cross-entropy of float16 and bfloat16 logits, which need not be float32 all at once.

A pass over the logits converts what it reads. XLA on CPUs needs help with that for bfloat16. It
would write converted logits out for two passes to share: the sum is made of logits of its own. And
it rounds float32 to bfloat16 slower than it takes exponentials: `conversion` does not.
"""

import jax
import jax.numpy as jnp

from xent_jax.losses.softmax import is_label, label_entry
from xent_jax.typing import Array


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
    from xent_jax.kernels.conversion import convert  # Not by `import xent_jax`: it loads Pallas.

    (logits, labels), (logits_dot, _) = primals, tangents
    largest, total = _largest_and_total(logits)
    p = jnp.exp(_wide(logits) - largest[..., None]) * (1.0 / total)[..., None]
    slopes = jnp.where(is_label(logits, labels), 1.0 - p, -p)
    along = convert(logits_dot, dtype=jnp.float32)
    return label_log_probability(logits, labels), jnp.sum(slopes * along, axis=-1)


@jax.custom_jvp
def _largest_and_total(logits: Array) -> tuple[Array, Array]:
    """Returns max z and sum exp(z - max z), each (...) in float32."""
    largest = _wide(jnp.max(logits, axis=-1))
    own_logits, own_largest = jax.lax.optimization_barrier((logits, largest))
    return largest, jnp.sum(jnp.exp(_wide(own_logits) - own_largest[..., None]), axis=-1)


@_largest_and_total.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], ...]:
    # The largest logit is held constant: what is made of both does not change with it.
    (logits,), (logits_dot,) = primals, tangents
    largest, total = _largest_and_total(logits)
    weights = jnp.exp(_wide(logits) - largest[..., None])
    total_dot = jnp.sum(weights * _wide(logits_dot), axis=-1)
    return (largest, total), (jnp.zeros_like(largest), total_dot)


def _wide(array: Array) -> Array:
    return array.astype(jnp.float32)
