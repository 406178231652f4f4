"""Labelled images: read through TensorFlow Datasets, corrupted once, batched without end."""

from xent_jax.data.corruption import CORRUPTIONS, corrupt
from xent_jax.data.dataset import Dataset, check_labels, select
from xent_jax.data.sources import NAMES, load

__all__ = ["CORRUPTIONS", "NAMES", "Dataset", "check_labels", "corrupt", "load", "select"]
