"""The cross-entropy family for JAX: pure, proven loss functions, and the studies built on them."""

from xent_jax import linear_xent, losses, metrics, presets
from xent_jax.linear_xent import *  # noqa: F403
from xent_jax.losses import *  # noqa: F403  the catalogue: `losses.__all__`
from xent_jax.losses.reduction import masked_mean, masked_sum

__version__ = "0.1.0"

__all__ = ["linear_xent", "losses", "masked_mean", "masked_sum", "metrics", "presets"]
__all__ += linear_xent.__all__ + losses.__all__
