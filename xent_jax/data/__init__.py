"""Labelled images: read through TensorFlow Datasets, spoilt once on purpose, then batched.

Text is in `text.py`, which reads it, and in `tokens.py`, which cuts it into tokens and windows.
"""

from xent_jax.data.corruption import CORRUPTIONS, corrupt, transition_matrix
from xent_jax.data.dataset import Dataset, check_labels, select, split
from xent_jax.data.imbalance import IMBALANCES, subsample
from xent_jax.data.pipeline import SAMPLERS
from xent_jax.data.sources import NAMES, SPLIT_BY_CLASS, load

__all__ = [
    "CORRUPTIONS",
    "IMBALANCES",
    "NAMES",
    "SAMPLERS",
    "SPLIT_BY_CLASS",
    "Dataset",
    "check_labels",
    "corrupt",
    "load",
    "select",
    "split",
    "subsample",
    "transition_matrix",
]
