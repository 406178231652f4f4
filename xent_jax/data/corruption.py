"""Wrong labels, made once and on purpose."""

import dataclasses
from collections.abc import Callable

import numpy as np

from xent_jax.data.dataset import Dataset
from xent_jax.errors import UserError, nearest
from xent_jax.typing import Bool, Float, Int

Labels = Int[np.ndarray, " examples"]


def symmetric(
    labels: Labels,
    num_classes: int,
    chosen: Bool[np.ndarray, " examples"],
    uniform: Float[np.ndarray, " examples"],
) -> Labels:
    """Returns each chosen label replaced by one of the other classes, all equally likely.

    A share `rate` of the labels is then wrong. It is the "symmetric noise" of Zhang and Sabuncu,
    2018, "Generalized cross entropy loss for training deep neural networks with noisy labels".
    """
    steps = 1 + np.floor(uniform * (num_classes - 1)).astype(labels.dtype)
    return np.where(chosen, (labels + steps) % num_classes, labels)


def symmetric_all(
    labels: Labels,
    num_classes: int,
    chosen: Bool[np.ndarray, " examples"],
    uniform: Float[np.ndarray, " examples"],
) -> Labels:
    """Returns each chosen label replaced by any class, its own included, all equally likely.

    A share `rate` * (K - 1) / K of the labels is then wrong. Papers call this symmetric, too.
    """
    return np.where(chosen, np.floor(uniform * num_classes).astype(labels.dtype), labels)


def _symmetric_matrix(num_classes: int) -> Float[np.ndarray, "classes classes"]:
    if num_classes == 1:  # There is no other class to become.
        return np.eye(1)
    return (1.0 - np.eye(num_classes)) / (num_classes - 1)


def _symmetric_all_matrix(num_classes: int) -> Float[np.ndarray, "classes classes"]:
    return np.full((num_classes, num_classes), 1.0 / num_classes)


CORRUPTIONS: dict[str, Callable[..., Labels]] = {
    "symmetric": symmetric,
    "symmetric_all": symmetric_all,
}
"""What `corrupt` knows, by name. Each maps (labels, number of classes, which of them are chosen,
a uniform number in [0, 1) per example) to new labels."""


_CHOSEN_BECOME = {"symmetric": _symmetric_matrix, "symmetric_all": _symmetric_all_matrix}


def transition_matrix(
    name: str, num_classes: int, *, rate: float
) -> Float[np.ndarray, "classes classes"]:
    """Returns T of shape (K, K): T[i, j] = P(the label becomes j | it was i) under `corrupt`.

    Raises:
      UserError: unknown name, or `rate` outside [0, 1].
    """
    _check(name, rate)
    return (1.0 - rate) * np.eye(num_classes) + rate * _CHOSEN_BECOME[name](num_classes)


def corrupt(dataset: Dataset, name: str = "symmetric", *, rate: float, seed: int) -> Dataset:
    """Returns the data set with some labels changed; images and clean labels stay.

    Each label is chosen independently with probability `rate`, and what becomes of a chosen one
    says the function of that name in `CORRUPTIONS`. The result depends on the labels, the number
    of classes, `rate` and `seed` alone, on every machine and with every version of NumPy. Of two
    rates with one seed, the labels chosen at the lower are chosen at the higher, too, and become
    the same.

    Raises:
      UserError: unknown name, `rate` outside [0, 1] or negative `seed`.
    """
    _check(name, rate)
    if not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"the corruption's seed={seed!r} must be a whole number, at least 0")
    choice, uniform = _uniform(seed, len(dataset.labels))
    labels = CORRUPTIONS[name](dataset.labels, dataset.num_classes, choice < rate, uniform)
    return dataclasses.replace(dataset, labels=labels)


def _check(name: str, rate: float) -> None:
    if name not in CORRUPTIONS:
        raise UserError(
            f"unknown corruption {name!r}{nearest(name, CORRUPTIONS)}; "
            f"one of: {', '.join(CORRUPTIONS)}"
        )
    if not (isinstance(rate, int | float) and 0 <= rate <= 1):
        raise UserError(f"the corruption's rate={rate!r} must be a number from 0 to 1")


def _uniform(seed: int, examples: int) -> Float[np.ndarray, "2 examples"]:
    # From the raw bits, which NumPy promises never to change; `Generator.random` may change.
    bits = np.random.Philox(seed).random_raw((2, examples))
    return (bits >> 11) * 2.0**-53
