"""Labelled images in memory."""

import dataclasses

import numpy as np

from xent_jax.errors import UserError
from xent_jax.typing import Bool, Int, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images with the labels to train on and the labels they were published with.

    The two kinds of labels differ only where `corrupt` changed them. There is at least one
    example, and every label is one of the classes: `UserError` otherwise. Where examples were
    selected, `places` says where each one was in the whole.
    """

    images: UInt8[np.ndarray, "examples height width channels"]
    labels: Int[np.ndarray, " examples"]
    clean_labels: Int[np.ndarray, " examples"]
    class_names: tuple[str, ...]
    name: str
    places: Int[np.ndarray, " examples"] | None = None

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise UserError(f"{self.name}: the data set is empty; it needs at least one example")
        check_labels(self.labels, self.num_classes, self.name)
        check_labels(self.clean_labels, self.num_classes, self.name)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def check_labels(labels: Int[np.ndarray, " examples"], num_classes: int, name: str) -> None:
    """Raises a `UserError` that names the first label outside [0, num_classes) and where it is."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        first = outside[0]
        raise UserError(
            f"{name}: label {labels[first]} of example {first} is not one of the {num_classes} "
            f"classes; labels go from 0 to {num_classes - 1}"
        )


def select(dataset: Dataset, which: slice | Bool[np.ndarray, " examples"]) -> Dataset:
    """Returns the examples that a slice or a mask picks; `UserError` if it picks none."""
    places = np.arange(len(dataset.labels)) if dataset.places is None else dataset.places
    return dataclasses.replace(
        dataset,
        images=dataset.images[which],
        labels=dataset.labels[which],
        clean_labels=dataset.clean_labels[which],
        places=places[which],
    )


def split(dataset: Dataset, examples: int, seed: int) -> tuple[Dataset, Dataset]:
    """Returns the data set without some examples drawn at random, and those; order is kept.

    Raises:
      UserError: none would be left on either side.
    """
    if not 0 < examples < len(dataset.labels):
        raise UserError(
            f"{dataset.name}: cannot hold out {examples} of {len(dataset.labels)} examples; "
            f"choose from 1 to {len(dataset.labels) - 1}"
        )
    # Raw bits, as `Generator.permutation` may change between versions of NumPy, and others than
    # those of `corrupt`: with them, the held out would be those with wrong labels.
    bits = np.random.Philox(seed).jumped().random_raw(len(dataset.labels))
    ranks = np.argsort(bits, kind="stable")
    held = np.zeros(len(dataset.labels), bool)
    held[ranks[:examples]] = True
    return select(dataset, ~held), select(dataset, held)
