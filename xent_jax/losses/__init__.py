"""The catalogue of losses: pure functions of arrays, one family per file."""

from xent_jax.losses.noisy_labels import (
    generalized_cross_entropy,
)

__all__ = [
    "generalized_cross_entropy",
]
