"""Wrong labels: how many, which, and the same on every machine."""

import numpy as np
import pytest

from xent_jax import data
from xent_jax.errors import UserError

N = 20_000


def dataset(num_classes=10, n=N):
    labels = np.arange(n, dtype=np.int32) % num_classes
    names = tuple(map(str, range(num_classes)))
    return data.Dataset(np.zeros((n, 1, 1, 1), np.uint8), labels, labels, names, "counted")


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize(("name", "own"), [("symmetric", 0.0), ("symmetric_all", 1.0)])
@pytest.mark.parametrize("rate", [0.05, 0.4, 1.0])
def test_each_chosen_label_becomes_each_allowed_class_equally_often(name, own, rate, num_classes):
    clean = dataset(num_classes)
    noisy = data.corrupt(clean, name, rate=rate, seed=1)
    joint = np.zeros((num_classes, num_classes))
    np.add.at(joint, (noisy.clean_labels, noisy.labels), 1)
    joint *= num_classes / N
    eye = np.eye(num_classes)
    target = (1 - (1 - own) * eye) / (num_classes - 1 + own)
    expected = (1 - rate) * eye + rate * target
    # Five standard deviations of a binomial share, and exactly none where none are allowed.
    tolerance = 5 * np.sqrt(expected * (1 - expected) * num_classes / N)
    assert (np.abs(joint - expected) <= tolerance).all()
    matrix = data.transition_matrix(name, num_classes, rate=rate)
    np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", data.CORRUPTIONS)
def test_rate_0_changes_nothing_and_one_class_has_no_other(name):
    clean = dataset()
    np.testing.assert_array_equal(data.corrupt(clean, name, rate=0.0, seed=0).labels, clean.labels)
    assert data.transition_matrix(name, 1, rate=1.0) == [[1.0]]
    single = dataset(num_classes=1, n=5)
    np.testing.assert_array_equal(data.corrupt(single, name, rate=1.0, seed=0).labels, np.zeros(5))


@pytest.mark.parametrize(
    ("name", "seed", "labels"),
    [
        ("symmetric", 0, "33624169260223926928"),
        ("symmetric", 7, "80610527590191626689"),
        ("symmetric_all", 0, "21494661370023566149"),
    ],
)
def test_labels_are_the_same_for_ever(name, seed, labels):
    noisy = data.corrupt(dataset(n=20), name, rate=0.5, seed=seed)
    assert "".join(map(str, noisy.labels)) == labels


def test_a_higher_rate_keeps_the_labels_that_a_lower_one_made_wrong():
    clean = dataset()
    low, high = (data.corrupt(clean, "symmetric", rate=r, seed=3).labels for r in (0.2, 0.6))
    wrong = low != clean.labels
    np.testing.assert_array_equal(high[wrong], low[wrong])


def test_only_labels_change_and_the_original_not_at_all():
    clean = dataset()
    before = clean.labels.copy()
    noisy = data.corrupt(clean, "symmetric", rate=0.5, seed=0)
    np.testing.assert_array_equal(clean.labels, before)
    np.testing.assert_array_equal(noisy.clean_labels, before)
    assert noisy.images is clean.images
    assert noisy.labels.dtype == np.int32
    assert (noisy.labels != data.corrupt(clean, "symmetric", rate=0.5, seed=1).labels).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "symetric", "rate": 0.1, "seed": 0}, r"'symetric' \(did you mean 'symmetric'"),
        ({"rate": 1.1, "seed": 0}, r"rate=1.1 must be a number from 0 to 1"),
        ({"rate": -0.1, "seed": 0}, r"rate=-0.1 must be"),
        ({"rate": float("nan"), "seed": 0}, r"rate=nan must be"),
        ({"rate": 0.1, "seed": -1}, r"seed=-1 must be a whole number, at least 0"),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        data.corrupt(dataset(n=4), **arguments)
