"""What every metric does to the examples it is given: check, flatten, and make padding harmless."""

import jax
import jax.numpy as jnp

from xent_jax.errors import UserError
from xent_jax.typing import Array


def check_labels(logits: Array, labels: Array) -> None:
    """Refuses labels that are not one integer per example."""
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(
            f"labels must be integers of shape {logits.shape[:-1]} (the logits' without classes), "
            f"got {labels.dtype} of shape {labels.shape}; turn one-hot labels into "
            "integers with jnp.argmax(labels, axis=-1)"
        )


def mask_of(values: Array, where: Array | None) -> jax.Array:
    """Which of `values` count, flat: all where no mask is given."""
    if where is None:
        return jnp.ones(values.size, bool)
    if where.shape != values.shape or where.dtype != bool:
        raise UserError(
            f"where must be a boolean mask of shape {values.shape} (one entry per example), "
            f"got {where.dtype} of shape {where.shape}"
        )
    return jnp.asarray(where).reshape(-1)


def at_least_float32(values: Array) -> jax.Array:
    """float16 and bfloat16 as float32, float64 as it is."""
    values = jnp.asarray(values)
    return values.astype(jnp.float32) if values.dtype.itemsize < 4 else values


def is_positive(outcomes: Array) -> jax.Array:
    """Which of the outcomes (booleans, 0 and 1, or -1 and 1) are positive, flat."""
    return jnp.asarray(outcomes).astype(jnp.float32).reshape(-1) > 0


def flatten_labels(labels: Array, keep: jax.Array, classes: int) -> jax.Array:
    """One int32 label per example: 0 where masked, `classes` where it lies outside the classes.

    JAX would read -1 as the last class.
    """
    labels = jnp.where(keep, jnp.asarray(labels).astype(jnp.int32).reshape(-1), 0)
    return jnp.where((labels >= 0) & (labels < classes), labels, classes)


def flatten(
    logits: Array, labels: Array, where: Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits `(n, classes)`, labels and mask `(n,)`; masked rows become 0, whatever they held."""
    check_labels(logits, labels)
    keep = mask_of(labels, where)
    classes = logits.shape[-1]
    logits = at_least_float32(logits).reshape(-1, classes)
    return jnp.where(keep[:, None], logits, 0.0), flatten_labels(labels, keep, classes), keep


def entry_of(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Each row's entry at its label, shape `(n, 1)`; NaN for a label outside the classes."""
    return jnp.take_along_axis(values, labels[:, None], -1, mode="fill", fill_value=jnp.nan)
