"""The catalogue of losses: pure functions of arrays, one family per file."""

from xent_jax.losses.categorical import (
    brier_score,
    confidence_penalty,
    cross_entropy_from_probabilities,
    multiclass_hinge_loss,
    poly_loss_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
    squared_error,
)
from xent_jax.losses.noisy_labels import (
    generalized_cross_entropy,
    mean_absolute_error,
    reverse_cross_entropy,
    symmetric_cross_entropy,
)

__all__ = [
    "brier_score",
    "confidence_penalty",
    "cross_entropy_from_probabilities",
    "generalized_cross_entropy",
    "mean_absolute_error",
    "multiclass_hinge_loss",
    "poly_loss_cross_entropy",
    "reverse_cross_entropy",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    "squared_error",
    "symmetric_cross_entropy",
]
