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
