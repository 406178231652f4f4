"""Episodes are drawn uniformly, without replacement, and from the key alone."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from xent_jax.data import Dataset, episodes
from xent_jax.errors import UserError

COUNTS = (9, 4, 6, 5, 9, 7)


@pytest.fixture(scope="module")
def dataset():
    """Classes of several sizes, their examples mixed up; an image's pixels are its place."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(6), COUNTS)).astype(np.int32)
    images = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 2, 2, 1))
    return Dataset(images, labels, labels, tuple("abcdef"), "mixed")


@pytest.fixture(scope="module")
def drawn(dataset):
    """6,000 episodes of 3 ways, 1 shot and 3 queries."""
    table = episodes.class_table(dataset)
    draw = functools.partial(episodes.draw_episode, table=table, ways=3, shots=1, queries=3)
    return jax.device_get(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 6000)))


def test_the_table_lists_each_class_s_examples_in_order(dataset):
    table = episodes.class_table(dataset)
    np.testing.assert_array_equal(table.counts, COUNTS)
    for label, (row, count) in enumerate(zip(*table, strict=True)):
        np.testing.assert_array_equal(row[:count], np.flatnonzero(dataset.labels == label))


def test_an_episode_has_distinct_classes_and_no_example_twice(dataset, drawn):
    labels = dataset.labels[np.concatenate(drawn, axis=2)]
    assert (labels == labels[:, :, :1]).all()
    rows = np.sort(labels[:, :, 0], axis=1)
    assert (np.diff(rows, axis=1) > 0).all()
    together = np.sort(np.concatenate(drawn, axis=2).reshape(6000, -1), axis=1)
    assert (np.diff(together, axis=1) > 0).all()


def test_classes_and_their_examples_are_equally_likely(dataset, drawn):
    labels = dataset.labels[drawn.support[:, :, 0]]
    for way in range(3):
        assert stats.chisquare(np.bincount(labels[:, way], minlength=6)).pvalue > 1e-3
    pairs = np.bincount(labels[:, 0] * 6 + labels[:, 1], minlength=36).reshape(6, 6)
    assert not pairs.diagonal().any()
    assert stats.chisquare(pairs[~np.eye(6, dtype=bool)]).pvalue > 1e-3
    for part in drawn:
        times = np.bincount(part.ravel(), minlength=40)
        for label in range(6):
            assert stats.chisquare(times[dataset.labels == label]).pvalue > 1e-3


def test_support_and_queries_are_independent_of_the_order_in_the_data(drawn):
    # Within a class of 9, the pairs (support, first query) are equally likely.
    assert 0.4 < (drawn.support[:, :, 0] < drawn.query[:, :, 0]).mean() < 0.6


def test_a_key_draws_the_same_under_jit_scan_and_vmap(dataset):
    table = episodes.class_table(dataset)
    draw = functools.partial(episodes.draw_episode, table=table, ways=6, shots=2, queries=2)
    keys = jax.random.split(jax.random.key(3), 4)
    one_by_one = jax.tree.map(lambda *x: np.stack(x), *[draw(key) for key in keys])
    scanned = jax.jit(lambda keys: jax.lax.scan(lambda _, key: (_, draw(key)), None, keys)[1])(keys)
    for other in (jax.vmap(draw)(keys), scanned):
        jax.tree.map(np.testing.assert_array_equal, one_by_one, other)
    assert len({part.tobytes() for part in one_by_one.support}) == 4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ways": 7, "shots": 1, "queries": 1}, r"mixed: .* 7 ways needs .* there are 6; ask"),
        ({"ways": 2, "shots": 2, "queries": 3}, r"need 5 examples of every class, and 'b' has 4"),
    ],
)
def test_episodes_that_the_data_cannot_fill_are_told(dataset, asked, message):
    with pytest.raises(UserError, match=message):
        episodes.check_episodes(dataset, **asked)
    episodes.check_episodes(dataset, ways=6, shots=1, queries=3)


def test_classes_are_split_in_their_order_and_no_example_is_lost(dataset):
    parts = episodes.split_classes(dataset, (3, 1))
    assert [part.class_names for part in parts] == [("a", "b", "c"), ("d",), ("e", "f")]
    for part, first in zip(parts, (0, 3, 4), strict=True):
        places = part.images[:, 0, 0, 0]
        np.testing.assert_array_equal(part.labels + first, dataset.labels[places])
        np.testing.assert_array_equal(part.labels, part.clean_labels)
        assert part.labels.dtype == np.int32
    assert sum(len(part.labels) for part in parts) == 40


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (4, 0), (-1, 2)])
def test_class_splits_that_leave_nothing_are_told(dataset, sizes):
    with pytest.raises(UserError, match=r"mixed: cannot take .* of 6 classes"):
        episodes.split_classes(dataset, sizes)


def test_rotations_are_classes_of_their_own():
    labels = np.array([0, 1, 1], np.int32)
    images = np.arange(3 * 9, dtype=np.uint8).reshape(3, 3, 3, 1)
    turned = episodes.with_rotations(Dataset(images, labels, labels, ("a", "b"), "three"))
    assert turned.class_names[:3] == ("a", "b", "a, 90 degrees")
    np.testing.assert_array_equal(turned.labels, [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7])
    np.testing.assert_array_equal(turned.images[:3], images)
    np.testing.assert_array_equal(turned.images[3], images[0].transpose(1, 0, 2)[::-1])
    np.testing.assert_array_equal(turned.images[6], images[0, ::-1, ::-1])
    with pytest.raises(UserError, match="2x1 pixels cannot be turned"):
        episodes.with_rotations(Dataset(images[:, :2, :1], labels, labels, ("a", "b"), "three"))
