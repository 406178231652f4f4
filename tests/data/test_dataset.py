"""No data set exists that is empty or labelled with what is not a class."""

import numpy as np
import pytest

from xent_jax import data
from xent_jax.errors import UserError


def dataset(labels, clean_labels=None, images=None):
    labels = np.array(labels, np.int32)
    return data.Dataset(
        images=np.zeros((len(labels), 2, 2, 1), np.uint8) if images is None else images,
        labels=labels,
        clean_labels=labels if clean_labels is None else np.array(clean_labels, np.int32),
        class_names=("cat", "dog", "eel"),
        name="pets",
    )


def test_labels_outside_the_classes_are_told_with_value_and_place():
    with pytest.raises(UserError, match=r"pets: label 3 of example 1 .* 3 classes.* 0 to 2"):
        dataset([0, 3, 7])
    with pytest.raises(UserError, match=r"pets: label -1 of example 2 "):
        dataset([0, 1, 2], clean_labels=[0, 1, -1])
    assert dataset([0, 1, 2]).num_classes == 3


def test_an_empty_data_set_is_told():
    with pytest.raises(UserError, match="pets: the data set is empty"):
        dataset([])
    with pytest.raises(UserError, match="pets: the data set is empty"):
        data.select(dataset([0, 1]), np.array([False, False]))


def test_select_takes_the_same_examples_of_every_column():
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    whole = dataset([2, 1, 0], clean_labels=[0, 1, 2], images=images)
    for which in (slice(1, 3), np.array([False, True, True])):
        part = data.select(whole, which)
        columns = (part.images.ravel(), part.labels, part.clean_labels)
        assert [list(column) for column in columns] == [[1, 2], [1, 0], [1, 2]]
        assert (part.class_names, part.name) == (whole.class_names, whole.name)


def test_held_out_examples_are_drawn_by_the_seed_and_by_nothing_else():
    whole = dataset(np.arange(300) % 3)
    rest, held = data.split(whole, 60, seed=1)
    assert (len(rest.labels), len(held.labels)) == (240, 60)
    numbers = np.stack([np.arange(300) // 256, np.arange(300) % 256], -1).astype(np.uint8)
    numbered = dataset(np.arange(300) % 3, images=numbers.reshape(-1, 1, 1, 2))
    places = [places_of(part) for part in data.split(numbered, 60, seed=1)]
    assert sorted(places[0] + places[1]) == list(range(300))
    assert all(part == sorted(part) for part in places)
    _, held = data.split(numbered, 60, seed=1)
    assert places[1] == places_of(held) != places_of(data.split(numbered, 60, seed=2)[1])
    np.testing.assert_array_equal(held.labels, np.array(places[1]) % 3)
    with pytest.raises(
        UserError, match="cannot hold out 300 of 300 examples; choose from 1 to 299"
    ):
        data.split(whole, 300, seed=1)


def places_of(part):
    return (part.images.reshape(-1, 2).astype(int) @ [256, 1]).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_held_out_examples_are_as_often_wrong_as_the_others(seed):
    clean = dataset(np.arange(3000) % 3)
    rest, held = data.split(data.corrupt(clean, rate=0.4, seed=seed), 1000, seed)
    wrong = [np.mean(part.labels != part.clean_labels) for part in (rest, held)]
    np.testing.assert_allclose(wrong, 0.4, atol=0.06)
