"""Labelled images: read through TensorFlow Datasets, corrupted once, batched without end."""

from xent_jax.data.corruption import CORRUPTIONS, corrupt, transition_matrix
from xent_jax.data.dataset import Dataset, check_labels, select, split
from xent_jax.data.pipeline import SAMPLERS
from xent_jax.data.sources import NAMES, load

__all__ = [
    "CORRUPTIONS",
    "NAMES",
    "SAMPLERS",
    "Dataset",
    "check_labels",
    "corrupt",
    "load",
    "select",
    "split",
    "transition_matrix",
]
