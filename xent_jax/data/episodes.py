"""N-way K-shot episodes, drawn on the device: pure functions of a key and a table of examples.

Shape suffixes: W ways, K shots, Q queries of a class, C classes.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.data.dataset import Dataset, select
from xent_jax.errors import UserError
from xent_jax.typing import Array, Int, Key


class ClassTable(NamedTuple):
    """Which examples each class has. A row's places from its count on hold no example."""

    examples: Int[Array, "classes most"]
    counts: Int[Array, " classes"]


class Episode(NamedTuple):
    """Places in a data set: row k has the examples of the episode's class k."""

    support: Int[Array, "ways shots"]
    query: Int[Array, "ways queries"]


def class_table(dataset: Dataset) -> ClassTable:
    """Returns the table of a data set's classes, on the host; a class may have no example."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes).astype(np.int32)
    order = np.argsort(dataset.labels, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(order)) - starts[dataset.labels[order]]
    examples = np.zeros((len(counts), counts.max()), np.int32)
    examples[dataset.labels[order], rank] = order
    return ClassTable(examples, counts)


def draw_episode(
    key: Key[Array, ""], table: ClassTable, *, ways: int, shots: int, queries: int
) -> Episode:
    """Returns an episode's examples; under `jit`, `vmap` or `scan` as well.

    Its classes are drawn without replacement, all equally likely, and so are each class's
    examples, so that support and queries have none in common. No class may have fewer examples
    than shots and queries together: see `check_episodes`.
    """
    class_key, example_key = jax.random.split(key)
    score_C = jax.random.uniform(class_key, table.counts.shape)
    class_W = jax.lax.top_k(score_C, ways)[1]
    count_Wx1 = jnp.asarray(table.counts)[class_W][:, None]
    score_WxM = jax.random.uniform(example_key, (ways, table.examples.shape[1]))
    place_WxM = jax.lax.broadcasted_iota(jnp.int32, score_WxM.shape, 1)
    there_WxM = place_WxM < jnp.broadcast_to(count_Wx1, score_WxM.shape)
    drawn = jax.lax.top_k(jnp.where(there_WxM, score_WxM, -1.0), shots + queries)[1]
    examples = jnp.take_along_axis(jnp.asarray(table.examples)[class_W], drawn, axis=1)
    return Episode(examples[:, :shots], examples[:, shots:])


def check_episodes(dataset: Dataset, *, ways: int, shots: int, queries: int) -> None:
    """Raises UserError if the data set has too few classes or examples for such episodes."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    if ways > len(counts):
        raise UserError(
            f"{dataset.name}: an episode of {ways} ways needs as many classes, and there are "
            f"{len(counts)}; ask for fewer ways"
        )
    if shots + queries > counts.min():
        raise UserError(
            f"{dataset.name}: {shots} shots and {queries} queries need {shots + queries} examples "
            f"of every class, and {dataset.class_names[counts.argmin()]!r} has {counts.min()}; "
            "ask for fewer"
        )


def split_classes(dataset: Dataset, sizes: tuple[int, ...]) -> tuple[Dataset, ...]:
    """Returns data sets of the first so many classes, of the next so many, and of the rest.

    Raises:
      UserError: a size below 1, or no class left for the rest.
    """
    if min(sizes) < 1 or sum(sizes) >= dataset.num_classes:
        raise UserError(
            f"{dataset.name}: cannot take {' + '.join(map(str, sizes))} of {dataset.num_classes} "
            "classes and leave some; each number must be at least 1 and their sum smaller"
        )
    edges = [0, *np.cumsum(sizes).tolist(), dataset.num_classes]
    return tuple(_classes(dataset, *ends) for ends in itertools.pairwise(edges))


def _classes(dataset: Dataset, first: int, end: int) -> Dataset:
    mine = select(dataset, (dataset.labels >= first) & (dataset.labels < end))
    labels, names = mine.labels - np.int32(first), mine.class_names[first:end]
    return dataclasses.replace(mine, labels=labels, clean_labels=labels, class_names=names)


def with_rotations(dataset: Dataset) -> Dataset:
    """Returns the data set with its images turned by 90, 180 and 270 degrees, as new classes.

    Raises:
      UserError: the images are not square.

    Reference: Santoro et al. 2016, "Meta-learning with memory-augmented neural networks".
    """
    height, width = dataset.images.shape[1:3]
    if height != width:
        raise UserError(f"{dataset.name}: images of {height}x{width} pixels cannot be turned")
    turned = [np.rot90(dataset.images, quarters, axes=(1, 2)) for quarters in range(4)]
    labels = [dataset.labels + np.int32(q * dataset.num_classes) for q in range(4)]
    names = [
        f"{name}, {90 * q} degrees" if q else name for q in range(4) for name in dataset.class_names
    ]
    labels = np.concatenate(labels)
    return Dataset(np.concatenate(turned), labels, labels, tuple(names), dataset.name)
