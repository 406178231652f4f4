"""Equal scores stand for an unknown order: what a metric expects of a random one."""

import jax
import jax.numpy as jnp

from xent_jax.typing import Array, Float, Shaped


def mean_over_ties(
    ordered: Float[jax.Array, "n"], values: Shaped[Array, "n"]
) -> Float[jax.Array, "n"]:
    """Replaces each value by its mean over the entries with an equal key; keys are in order."""
    previous = jnp.concatenate([ordered[:1], ordered[:-1]])
    group = jnp.cumsum(ordered != previous, dtype=jnp.int32)
    total = jax.ops.segment_sum(jnp.asarray(values, ordered.dtype), group, ordered.size)
    count = jax.ops.segment_sum(jnp.ones_like(ordered), group, ordered.size)
    return total[group] / count[group]
