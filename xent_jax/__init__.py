"""The cross-entropy family for JAX: pure, proven loss functions, and the studies built on them."""

from xent_jax import losses
from xent_jax.losses import *  # noqa: F403

__version__ = "0.1.0"

__all__ = ["losses"]
__all__ += losses.__all__
