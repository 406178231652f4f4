"""Classes made rare on purpose, by leaving out examples."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xent_jax.data.arguments import check_arguments
from xent_jax.data.dataset import Dataset, select
from xent_jax.errors import UserError
from xent_jax.typing import Int

Counts = Int[np.ndarray, " classes"]


def long_tail(available: Counts, *, ratio: float | int) -> Counts:
    """Returns class sizes that fall exponentially: n_k = int(n_max * ratio ** (-k / (K - 1))).

    n_max is the mean size of a class, so that the first class, which keeps that many if it has
    them, is `ratio` times as large as the last.

    Reference: Cao et al. 2019, "Learning imbalanced datasets with label-distribution-aware margin
    loss"; github.com/kaidic/LDAM-DRW, imbalance_cifar.py.
    """
    classes = len(available)
    mu, n_max = 1 / _checked_ratio(ratio), available.sum() / classes
    place = np.arange(classes) / max(classes - 1.0, 1.0)
    return np.minimum(available, (n_max * mu**place).astype(available.dtype))


def step(available: Counts, *, ratio: float | int) -> Counts:
    """Returns class sizes with one step: int(n_max / ratio) for the second half of the classes.

    n_max is the mean size of a class, which the first half keeps. With an odd number of classes
    the one in the middle is common.

    Reference: Cao et al. 2019, as in `long_tail`.
    """
    n_max, mu = available.sum() / len(available), 1 / _checked_ratio(ratio)
    rare = np.arange(len(available)) >= (len(available) + 1) // 2
    wanted = np.where(rare, int(n_max * mu), int(n_max)).astype(available.dtype)
    return np.minimum(available, wanted)


def minority(
    available: Counts,
    *,
    classes: Sequence[int],
    fraction: float | int | None = None,
    count: int | None = None,
) -> Counts:
    """Returns class sizes with some classes cut to a fraction of theirs, or to a count.

    The others keep all they have. Cao et al. 2019 cut one of IMDB's two classes to a fraction 0.1.
    """
    if not all(isinstance(k, int) and 0 <= k < len(available) for k in classes) or not classes:
        raise UserError(
            f"the imbalance's classes={classes!r} must name classes from 0 to {len(available) - 1}"
        )
    if (fraction is None) == (count is None):
        raise UserError("the imbalance 'minority' needs either fraction= or count=")
    if fraction is not None and not 0 < fraction <= 1:
        raise UserError(f"the imbalance's fraction={fraction!r} must be above 0 and at most 1")
    if count is not None and count < 1:
        raise UserError(f"the imbalance's count={count!r} must be at least 1")
    counts = available.copy()
    cut = np.array(classes)
    counts[cut] = np.minimum(available[cut], count) if count else available[cut] * (fraction or 1)
    return counts


IMBALANCES: dict[str, Callable[..., Counts]] = {
    function.__name__: function for function in (long_tail, step, minority)
}
"""What `subsample` knows, by name. Each maps class sizes and its own arguments to smaller ones."""


def subsample(dataset: Dataset, name: str, *, seed: int, **arguments: Any) -> Dataset:
    """Returns the data set with some classes made rare; the examples left keep their order.

    How rare says the function of that name in `IMBALANCES`, which takes the `arguments`; classes
    are those of the clean labels. Which examples of a class stay is drawn by `seed`, and depends
    on nothing else but the labels: those that stay at one ratio stay at every lower ratio, too.

    Raises:
      UserError: an unknown name or argument, one that is missing or out of its range, a negative
        `seed`, or a class of which nothing would be left.
    """
    _check(name, arguments)
    if not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"the imbalance's seed={seed!r} must be a whole number, at least 0")
    available = np.bincount(dataset.clean_labels, minlength=dataset.num_classes)
    counts = IMBALANCES[name](available, **arguments)
    _check_none_empty(dataset, available, counts, arguments)
    # Raw bits, as in `corrupt` and `split`, and others than theirs.
    bits = np.random.Philox(seed).jumped(2).random_raw(len(dataset.labels))
    order = np.lexsort((bits, dataset.clean_labels))
    starts = np.cumsum(available) - available
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - starts[dataset.clean_labels[order]]
    return select(dataset, ranks < counts[dataset.clean_labels])


def _check(name: str, arguments: dict[str, Any]) -> None:
    takes = check_arguments("imbalance", IMBALANCES, name, arguments, given=("available",))
    for key, parameter in takes.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise UserError(f"the imbalance {name!r} needs {key}; it takes {', '.join(takes)}")


def _checked_ratio(ratio: float | int) -> float:
    if not (isinstance(ratio, int | float) and 1 <= ratio < math.inf):
        raise UserError(f"the imbalance's ratio={ratio!r} must be a number, at least 1")
    return float(ratio)


def _check_none_empty(
    dataset: Dataset, available: Counts, counts: Counts, arguments: dict[str, Any]
) -> None:
    emptied = np.flatnonzero((counts < 1) & (available > 0))
    if emptied.size:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(
            f"{dataset.name}: the imbalance {given} leaves no example of class {emptied[0]} "
            f"({dataset.class_names[emptied[0]]}), which has {available[emptied[0]]}; make it "
            "milder"
        )
