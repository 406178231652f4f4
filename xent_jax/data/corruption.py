"""Wrong labels: drawn once and on purpose, or read from a file of somebody's mistakes."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xent_jax.data.arguments import check_arguments
from xent_jax.data.dataset import Dataset
from xent_jax.data.label_file import read_labels
from xent_jax.errors import UserError, nearest
from xent_jax.typing import Bool, Float, Int

Labels = Int[np.ndarray, " examples"]
Matrix = Float[np.ndarray, "classes classes"]

_DIGITS = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
CLASS_MAPS: Mapping[str, Mapping[int, int]] = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    # Ankle boot to sneaker, sneaker to sandal, pullover to shirt, coat and dress to each other.
    "fashion_mnist": {9: 7, 7: 5, 2: 6, 4: 3, 3: 4},
    # Truck to automobile, bird to airplane, deer to horse, cat and dog to each other.
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
}
"""What each class is mistaken for, by data set; classes that are not there are never mistaken.

MNIST: Patrini et al. 2017, "Making deep neural networks robust to label noise: a loss correction
approach", whose code is github.com/giorgiop/loss-correction, noise.py; `digits` are the same.
CIFAR-10: from there, too. Fashion-MNIST: Zhang and Sabuncu 2018, section 4.1."""


def symmetric(dataset: Dataset, *, seed: int, rate: float | int, exact: bool = False) -> Labels:
    """Returns each chosen label replaced by one of the other classes, all equally likely.

    A share `rate` of the labels is then wrong. It is the "symmetric noise" of Zhang and Sabuncu,
    2018, "Generalized cross entropy loss for training deep neural networks with noisy labels".
    """
    chosen, uniform = _chosen(dataset, seed, rate, exact)
    steps = 1 + np.floor(uniform * (dataset.num_classes - 1)).astype(dataset.labels.dtype)
    return np.where(chosen, (dataset.labels + steps) % dataset.num_classes, dataset.labels)


def symmetric_all(dataset: Dataset, *, seed: int, rate: float | int, exact: bool = False) -> Labels:
    """Returns each chosen label replaced by any class, its own included, all equally likely.

    A share `rate` * (K - 1) / K of the labels is then wrong. Papers call this symmetric, too.
    """
    chosen, uniform = _chosen(dataset, seed, rate, exact)
    drawn = np.floor(uniform * dataset.num_classes).astype(dataset.labels.dtype)
    return np.where(chosen, drawn, dataset.labels)


def pair_flip(dataset: Dataset, *, seed: int, rate: float | int, exact: bool = False) -> Labels:
    """Returns each chosen label replaced by the next class, the last class's by the first.

    It is the "pair flipping" of Han et al. 2018, "Co-teaching: robust training of deep neural
    networks with extremely noisy labels"; a rate of 1/2 leaves nothing to tell right from wrong.
    """
    chosen, _ = _chosen(dataset, seed, rate, exact)
    return np.where(chosen, (dataset.labels + 1) % dataset.num_classes, dataset.labels)


def asymmetric(
    dataset: Dataset, *, seed: int, rate: float | int, class_map: str = "", exact: bool = False
) -> Labels:
    """Returns each chosen label replaced by the class that it is mistaken for, if there is one.

    Which that is says the map of that name in `CLASS_MAPS`, by default the data set's own. Where
    half of the classes are mistaken, a share `rate` / 2 of the labels is wrong.
    """
    mistaken_for = _mistaken_for(class_map or dataset.name, dataset.num_classes)
    chosen, _ = _chosen(dataset, seed, rate, exact)
    return np.where(chosen, mistaken_for[dataset.labels], dataset.labels)


def transition(
    dataset: Dataset, *, seed: int, matrix: Sequence[Any] | str, exact: bool = False
) -> Labels:
    """Returns each label i replaced by a draw from row i of a matrix T, T[i, j] = P(j | i).

    T is nested tuples, or the path of a `.npy` file or of a `.csv` file without a header.
    """
    cumulative = np.cumsum(_row_stochastic(matrix, dataset.num_classes), axis=1)
    cumulative /= cumulative[:, -1:]  # Rounding must not leave a gap below 1.
    _, uniform = _uniform(seed, len(dataset.labels))
    if exact:
        uniform = _evened(uniform, dataset.labels)
    labels = dataset.labels.copy()
    for old, row in enumerate(cumulative):
        of_class = dataset.labels == old
        labels[of_class] = np.searchsorted(row, uniform[of_class], side="right")
    return labels


def instance_dependent(
    dataset: Dataset, *, seed: int, rate: float | int, deviation: float = 0.1
) -> Labels:
    """Returns labels that are the more often wrong, the more an image looks as if they were.

    Example i is mistaken with a probability q_i of its own, drawn from a normal distribution with
    mean `rate` and the given deviation, truncated to [0, 1]. What it is mistaken for is drawn from
    softmax(x_i W) over the other classes, x_i being the flattened image and W a matrix of
    standard normal numbers, one per class. Pixels are those stored, from 0 to 255, as in the
    authors' code: the softmax is then near a maximum. A rate of 0 changes nothing.

    Unlike the other corruptions, it is the same on every machine only up to rounding.

    Reference: Xia et al. 2020, "Part-dependent label noise: towards instance-dependent label
    noise", algorithm 2; github.com/xiaoboxia/Part-dependent-label-noise, tools.py.
    """
    if not (isinstance(deviation, int | float) and deviation > 0):
        raise UserError(f"the corruption's deviation={deviation!r} must be a number above 0")
    labels = dataset.labels.copy()
    if rate == 0 or dataset.num_classes == 1:
        return labels
    choice, uniform = _uniform(seed, len(labels))
    flip_rate = _truncated_normal(choice, rate, deviation)
    for where, likely in _look_alikes(dataset, seed):
        # One draw for both: the part of [0, 1) below q_i is shared out among the other classes.
        within = uniform[where] / np.maximum(flip_rate[where], np.finfo(float).tiny)
        drawn = (within[:, None] >= np.cumsum(likely, axis=1)).sum(axis=1)
        drawn = np.minimum(drawn, dataset.num_classes - 1)  # A sum of shares may end below 1.
        labels[where] = np.where(within < 1, drawn, labels[where])
    return labels


def from_file(dataset: Dataset, *, seed: int, path: str, key: str = "") -> Labels:
    """Returns the labels in a file, such as those that people gave to CIFAR-10's images.

    The whole training set's, in its published order. CIFAR-10N (Wei et al. 2022, "Learning with
    noisy labels revisited") is read from `CIFAR-10_human.pt`, with `key` one of aggre_label,
    random_label1, random_label2, random_label3 and worse_label; its other file,
    `CIFAR-10_human_ordered.npy`, has the order of TensorFlow Datasets. If the file holds a
    `clean_label`, it must agree with the data set's own, or else the orders differ.

    Reference: github.com/UCSC-REAL/cifar-10-100n.
    """
    del seed  # Nothing is drawn: the mistakes are made already.
    arrays = read_labels(path)
    if key not in arrays:
        names = ", ".join(filter(None, arrays)) or "one array, which needs no key"
        raise UserError(
            f"{path} has no labels called {key!r}{nearest(key, arrays)}; it has {names}"
        )
    labels = _whole(arrays[key], dataset, f"{path}: {key}")
    if "clean_label" in arrays:
        clean = _whole(arrays["clean_label"], dataset, f"{path}: clean_label")
        if differing := int((clean != dataset.clean_labels).sum()):
            raise UserError(
                f"{path}: clean_label differs from {dataset.name}'s labels in {differing} of "
                f"{len(clean)} places: the file has another order (of CIFAR-10N, take "
                "CIFAR-10_human.pt)"
            )
    return labels


CORRUPTIONS: dict[str, Callable[..., Labels]] = {
    function.__name__: function
    for function in (
        symmetric,
        symmetric_all,
        pair_flip,
        asymmetric,
        transition,
        instance_dependent,
        from_file,
    )
}
"""What `corrupt` knows, by name. Each maps a data set, a seed and its own arguments to labels."""


def corrupt(dataset: Dataset, name: str = "symmetric", *, seed: int, **arguments: Any) -> Dataset:
    """Returns the data set with some labels changed; images and clean labels stay.

    How says the function of that name in `CORRUPTIONS`, which takes the `arguments`. With a
    `rate`, each label is chosen with this probability, independently, or with `exact=True` exactly
    `rate` * n, rounded, of the n examples of each class. The result depends on the data set, the
    arguments and `seed` alone, on every machine and with every version of NumPy. Of two rates with
    one seed, the labels chosen at the lower are chosen at the higher, too, and become the same.

    Raises:
      UserError: an unknown name or argument, one that is missing or out of its range, a negative
        `seed`, or a file that cannot be read.
    """
    _check(name, arguments)
    if not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"the corruption's seed={seed!r} must be a whole number, at least 0")
    labels = CORRUPTIONS[name](dataset, seed=seed, **arguments)
    return dataclasses.replace(dataset, labels=labels)


def transition_matrix(
    name: str, num_classes: int, *, dataset_name: str = "", **arguments: Any
) -> Matrix | None:
    """Returns T of shape (K, K): T[i, j] = P(the label becomes j | it was i) under `corrupt`.

    None for corruptions that have none, as they look at images or a file. `dataset_name` says
    whose class map `asymmetric` follows, if its arguments do not.

    Raises:
      UserError: an unknown name or argument, or one that is missing or out of its range.
    """
    _check(name, arguments)
    if name == "transition":
        return _row_stochastic(arguments["matrix"], num_classes)
    eye, ones = np.eye(num_classes), np.ones((num_classes, num_classes))
    if name == "symmetric":
        chosen = (ones - eye) / (num_classes - 1) if num_classes > 1 else eye
    elif name == "symmetric_all":
        chosen = ones / num_classes
    elif name == "pair_flip":
        chosen = np.roll(eye, 1, axis=1)
    elif name == "asymmetric":
        chosen = eye[_mistaken_for(arguments.get("class_map") or dataset_name, num_classes)]
    else:
        return None
    return (1.0 - arguments["rate"]) * eye + arguments["rate"] * chosen


def _check(name: str, arguments: Mapping[str, Any]) -> None:
    takes = check_arguments("corruption", CORRUPTIONS, name, arguments, given=("dataset", "seed"))
    for key, parameter in takes.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise UserError(f"the corruption {name!r} needs {key}, {_NEEDED[key]}")
    rate = arguments.get("rate", 0.0)
    if not (isinstance(rate, int | float) and 0 <= rate <= 1):
        raise UserError(f"the corruption's rate={rate!r} must be a number from 0 to 1")


_NEEDED = {
    "rate": "a number from 0 to 1",
    "matrix": "rows of probabilities, or the path of a .npy or .csv file with them",
    "path": "a file of labels",
}


def _mistaken_for(class_map: str, num_classes: int) -> Int[np.ndarray, " classes"]:
    flips = CLASS_MAPS.get(class_map)
    if flips is None or num_classes != 10:
        raise UserError(
            f"the corruption 'asymmetric' has no class map for {class_map!r} with {num_classes} "
            f"classes; give class_map=, one of {', '.join(CLASS_MAPS)} (10 classes each), or use "
            "'transition' with a matrix="
        )
    return np.array([flips.get(old, old) for old in range(num_classes)], np.int32)


def _row_stochastic(matrix: Any, num_classes: int) -> Matrix:
    """Returns T in float64, from nested sequences or a file.

    Raises:
      UserError: it cannot be read, or is not a square of probabilities whose rows sum to 1.
    """
    what = f"the corruption's matrix {matrix}" if isinstance(matrix, str) else "the matrix"
    try:
        found = np.asarray(_read_matrix(matrix) if isinstance(matrix, str) else matrix, np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{what} cannot be read: {str(error).splitlines()[0]}") from None
    if found.shape != (num_classes, num_classes):
        raise UserError(
            f"{what} has shape {found.shape}; {num_classes} classes need {(num_classes,) * 2}"
        )
    if not (found >= 0).all():
        raise UserError(f"{what} must hold probabilities, at least 0")
    sums = found.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > 1e-6:
        raise UserError(f"{what}: row {worst} sums to {sums[worst]:.6g}, and each must to 1")
    return found


def _read_matrix(path: str) -> np.ndarray:
    file = Path(path).expanduser()
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    if file.suffix == ".csv":
        return np.loadtxt(file, delimiter=",", ndmin=2)
    raise ValueError("it must end in .npy or .csv")


def _whole(labels: np.ndarray, dataset: Dataset, what: str) -> Labels:
    if labels.shape != dataset.labels.shape:
        raise UserError(
            f"{what} has shape {labels.shape}, and {dataset.name} as it is used here has "
            f"{len(dataset.labels)} examples: take the whole training set"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(f"{what} holds {labels.dtype}; labels must be whole numbers")
    return labels.astype(dataset.labels.dtype)


def _chosen(
    dataset: Dataset, seed: int, rate: float | int, exact: bool
) -> tuple[Bool[np.ndarray, " examples"], Float[np.ndarray, " examples"]]:
    """Returns which labels are chosen, and a uniform number in [0, 1) for each."""
    choice, uniform = _uniform(seed, len(dataset.labels))
    if exact:
        choice = _evened(choice, dataset.labels)
    return choice < rate, uniform


def _evened(draws: Float[np.ndarray, " examples"], labels: Labels) -> np.ndarray:
    """Returns draws in the same order within each class, but evenly spaced: (rank + 1/2) / n.

    Then a part r of a class's draws is below r, up to rounding, and not only on average.
    """
    order = np.lexsort((draws, labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(draws))
    ranks[order] = np.arange(len(draws)) - starts[labels[order]]
    return (ranks + 0.5) / counts[labels]


def _uniform(seed: int, examples: int) -> Float[np.ndarray, "2 examples"]:
    return _unit(np.random.Philox(seed).random_raw((2, examples)))


def _unit(bits: np.ndarray) -> np.ndarray:
    # From the raw bits, which NumPy promises never to change; `Generator.random` may change.
    return (bits >> 11) * 2.0**-53


def _truncated_normal(uniform: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    from scipy.special import ndtr, ndtri  # Takes a moment, which other corruptions do not need.

    low, high = ndtr(-mean / deviation), ndtr((1 - mean) / deviation)
    return np.clip(mean + deviation * ndtri(low + uniform * (high - low)), 0.0, 1.0)


def _look_alikes(dataset: Dataset, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields examples of one class, a chunk at a time, and softmax(x W) over the other classes."""
    from scipy.special import ndtri

    pixels = dataset.images[0].size
    for own in range(dataset.num_classes):
        # Bits of their own: one jump on are those of `split`, two on those of `subsample`.
        bits = np.random.Philox(seed).jumped(3 + own).random_raw((pixels, dataset.num_classes))
        projection = ndtri(_unit(bits) + 2.0**-54)  # never 0, whose normal number is infinite
        of_class = np.flatnonzero(dataset.labels == own)
        for start in range(0, len(of_class), _CHUNK):
            where = of_class[start : start + _CHUNK]
            scores = dataset.images[where].reshape(len(where), pixels) @ projection
            scores[:, own] = -np.inf
            likely = np.exp(scores - scores.max(axis=1, keepdims=True))
            yield where, likely / likely.sum(axis=1, keepdims=True)


_CHUNK = 1024  # Images of CIFAR-10 in float64 then take 25 MB.
