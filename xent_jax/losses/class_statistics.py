"""What losses know of the classes before training: counts and shares, checked, and as shifts.

Values are checked where they are known, that is not while JAX traces or maps over them. A shift is
a logarithm per class that is added to the logits.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from xent_jax.losses.contract import floating
from xent_jax.typing import Array


def per_class(name: str, values: Array, logits: Array, known: bool = True) -> Array:
    """Returns one number per class in the logits' dtype, checked where it is known."""
    if jnp.shape(values) != logits.shape[-1:]:
        raise ValueError(f"{name} must have shape {logits.shape[-1:]}, got {jnp.shape(values)}")
    if known:
        _check_counts(name, values)
    return jnp.asarray(values).astype(logits.dtype)


def floating_counts(class_counts: Array) -> Array:
    """Returns the counts in floating point, of shape (K,)."""
    if jnp.ndim(class_counts) != 1:
        raise ValueError(f"class_counts must have shape (K,), got {jnp.shape(class_counts)}")
    _check_counts("class_counts", class_counts)
    class_counts = jnp.asarray(class_counts)
    if jnp.issubdtype(class_counts.dtype, jnp.integer):
        return class_counts.astype(jnp.float32)
    return floating("class_counts", class_counts)


def _check_counts(name: str, values: Array) -> None:
    if isinstance(values, Tracer):
        return
    numbers = np.asarray(values, np.float64)
    if not (np.all(numbers >= 0) and np.all(np.isfinite(numbers)) and np.any(numbers > 0)):
        raise ValueError(f"{name} must be at least 0 and not all 0, got {values}")


def prior_of(class_prior: Array, logits: Array) -> Array:
    """Returns the classes' shares in the logits' dtype."""
    prior = per_class("class_prior", class_prior, logits)
    if not isinstance(class_prior, Tracer):
        total = float(np.sum(np.asarray(class_prior, np.float64)))
        if abs(total - 1.0) > 1e-2:
            raise ValueError(
                f"class_prior must sum to 1, got a sum of {total:g}; divide counts by their sum"
            )
    return prior


def log_or_minus_infinity(values: Array) -> Array:
    """Returns log x, and -inf at x = 0, with slope 0 there."""
    positive = values > 0.0
    return jnp.where(positive, jnp.log(jnp.where(positive, values, 1.0)), -jnp.inf)


def below_largest(logits: Array) -> Array:
    """Returns z - max z, whose softmax is the same: to a large z a shift would be rounded away."""
    return logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
