"""A linear layer and the softmax cross-entropy of its outputs, without the outputs.

Over a vocabulary of 128,000 the logits of a batch are the largest array of a language model, and
their probabilities and gradient the next. These losses take the last layer itself, hidden vectors
(..., D) and weights (V, D), and hold the logits of a few tokens at a time, exactly.
"""

from xent_jax.linear_xent.api import (
    linear_distillation,
    linear_softmax_cross_entropy,
    linear_softmax_cross_entropy_sum,
)

__all__ = [
    "linear_distillation",
    "linear_softmax_cross_entropy",
    "linear_softmax_cross_entropy_sum",
]
