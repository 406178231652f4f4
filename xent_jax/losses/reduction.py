"""Sums and means of per-example losses: masked, weighted, over devices, and never 0 / 0."""

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import floating, masked
from xent_jax.typing import Array, Bool, Float


def masked_sum(
    losses: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    weights: Float[Array, "..."] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Returns the sum of the losses that count, each times its weight.

    Args:
      losses: one value per example.
      where: True for the examples that count, of the losses' shape; the others may hold NaN.
      weights: one number per example, of the losses' shape; 1 by default.
      axis_name: the mapped axis to sum over too, inside `jax.shard_map`, `jax.pmap` or `jax.vmap`.

    Returns:
      One number, in float32 (float64 for float64 losses).

    Raises:
      ValueError: a mask or weights of another shape than the losses.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> losses = jnp.array([1.0, 2.0, jnp.nan])
      >>> print(xent.masked_sum(losses, where=jnp.array([True, True, False])))
      3.0
    """
    losses, weights = _counted(losses, where, weights)
    return _sum(weights * losses, axis_name)


def masked_mean(
    losses: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    weights: Float[Array, "..."] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Returns the mean of the losses that count; 0, with gradient 0, where none does.

    .. math::
      \frac{\sum_i w_i L_i}{\sum_i w_i} \quad \text{over the examples that count}

    The denominator is the number of examples, or the sum of their weights: PyTorch's weighted
    `CrossEntropyLoss` is `masked_mean(loss, weights=class_weights[labels])`. To divide by the
    number of examples instead, weight the losses first: `masked_mean(weights * loss)`.

    Args:
      losses: one value per example.
      where: True for the examples that count, of the losses' shape; the others may hold NaN.
      weights: one number of at least 0 per example, of the losses' shape; 1 by default.
      axis_name: the mapped axis to take the mean over too, inside `jax.shard_map`, `jax.pmap` or
        `jax.vmap`. Every example counts the same, however many the devices hold.

    Returns:
      One number, in float32 (float64 for float64 losses).

    Raises:
      ValueError: a mask or weights of another shape than the losses.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> losses = jnp.array([1.0, 2.0, jnp.nan])
      >>> print(xent.masked_mean(losses, where=jnp.array([True, True, False])))
      1.5
      >>> print(xent.masked_mean(losses, where=jnp.array([False, False, False])))
      0.0
    """
    losses, weights = _counted(losses, where, weights)
    total, count = _sum(weights * losses, axis_name), _sum(weights, axis_name)
    return total / jnp.where(count == 0, 1.0, count)


def _counted(losses: Array, where: Array | None, weights: Array | None) -> tuple[Array, Array]:
    """Returns losses and weights, both 0 where masked: 0 * NaN would be NaN."""
    losses = floating("losses", losses)
    weights = jnp.ones_like(losses) if weights is None else floating("weights", weights)
    if where is not None and jnp.asarray(where).dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {where.dtype}; numbers are `weights`")
    for name, array in (("where", where), ("weights", weights)):
        if array is not None and array.shape != losses.shape:
            raise ValueError(
                f"{name} must have the losses' shape {losses.shape}, got {array.shape}"
            )
    return masked(losses, where), masked(weights.astype(losses.dtype), where)


def _sum(array: Array, axis_name: str | None) -> Array:
    total = jnp.sum(array)
    return total if axis_name is None else jax.lax.psum(total, axis_name)
