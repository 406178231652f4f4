"""Rare classes: how many examples are left, which, and in what order."""

import dataclasses

import numpy as np
import pytest

from xent_jax import data
from xent_jax.errors import UserError


def dataset(num_classes=10, per_class=5000):
    n = num_classes * per_class
    clean = np.arange(n, dtype=np.int32) % num_classes
    index = np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 2, 2, 1)
    labels = (clean + (np.arange(n) % 7 == 0)).astype(np.int32) % num_classes
    return data.Dataset(index, labels, clean, tuple(map(str, range(num_classes))), "numbered")


def index_of(part):
    return part.images.reshape(-1, 4).copy().view(np.uint32).ravel()


def sizes(part):
    return np.bincount(part.clean_labels, minlength=part.num_classes).tolist()


WHOLE = dataset()


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        # The counts of LDAM-DRW's own code, whose products are cut and not rounded.
        ("long_tail", {"ratio": 100}, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        ("long_tail", {"ratio": 10}, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        ("step", {"ratio": 100}, [5000] * 5 + [50] * 5),
        ("step", {"ratio": 10.0}, [5000] * 5 + [500] * 5),
        ("long_tail", {"ratio": 1}, [5000] * 10),
        ("minority", {"classes": (0, 7), "fraction": 0.1}, [500, *[5000] * 6, 500, 5000, 5000]),
        ("minority", {"classes": (3,), "count": 7}, [5000] * 3 + [7] + [5000] * 6),
    ],
)
def test_class_sizes_are_those_of_the_protocol(name, arguments, expected):
    part = data.subsample(WHOLE, name, seed=1, **arguments)
    assert sizes(part) == expected
    index = index_of(part)
    assert (np.diff(index.astype(np.int64)) > 0).all()  # in the same order, none twice
    np.testing.assert_array_equal(part.clean_labels, WHOLE.clean_labels[index])
    np.testing.assert_array_equal(part.labels, WHOLE.labels[index])


def test_an_odd_class_in_the_middle_is_common():
    assert sizes(data.subsample(dataset(5, 40), "step", seed=0, ratio=10)) == [40, 40, 40, 4, 4]


def test_a_class_that_is_smaller_than_its_share_keeps_all():
    uneven = data.subsample(WHOLE, "minority", seed=0, classes=(0,), count=100)
    assert sizes(data.subsample(uneven, "step", seed=0, ratio=2))[:6] == [100, *[4510] * 4, 2255]
    tail = sizes(data.subsample(uneven, "long_tail", seed=0, ratio=1))
    assert tail == [100] + [4510] * 9


def test_which_examples_stay_depends_on_the_seed_and_nests_in_the_ratio():
    mild, hard = (data.subsample(WHOLE, "long_tail", seed=3, ratio=r) for r in (10, 100))
    assert set(index_of(hard)) < set(index_of(mild))
    again, other = (data.subsample(WHOLE, "long_tail", seed=s, ratio=100) for s in (3, 4))
    np.testing.assert_array_equal(index_of(again), index_of(hard))
    rare = WHOLE.clean_labels[index_of(other)] == 9
    assert set(index_of(other)[rare]) != set(index_of(hard)[hard.clean_labels == 9])
    # Of 50 drawn from 5,000, some come from either half of the set.
    assert 5 < (index_of(hard)[hard.clean_labels == 9] < 25_000).sum() < 45


def test_the_examples_that_stay_are_the_same_for_ever():
    part = data.subsample(dataset(2, 30), "step", seed=0, ratio=10)
    assert index_of(part)[part.clean_labels == 1].tolist() == [3, 25, 27]


def test_wrong_labels_are_as_common_among_the_examples_that_stay():
    clean = data.Dataset(
        WHOLE.images, WHOLE.clean_labels, WHOLE.clean_labels, WHOLE.class_names, "x"
    )
    noisy = data.corrupt(clean, rate=0.4, seed=0)
    part = data.subsample(noisy, "minority", seed=0, classes=tuple(range(10)), fraction=0.2)
    assert abs((part.labels != part.clean_labels).mean() - 0.4) < 0.025


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "longtail",
            {},
            r"'longtail' \(did you mean 'long_tail'\?\); one of: long_tail, step, min",
        ),
        ("step", {}, r"'step' needs ratio; it takes ratio"),
        ("step", {"ratio": 10, "rates": 3}, r"no argument 'rates'.*it takes ratio"),
        ("long_tail", {"ratio": 0.5}, r"ratio=0.5 must be a number, at least 1"),
        ("long_tail", {"ratio": float("nan")}, r"ratio=nan must be a number"),
        (
            "step",
            {"ratio": 50},
            r"small: .* ratio=50 leaves no example of class 2 \(2\), which has 4",
        ),
        ("long_tail", {"ratio": 5}, r"leaves no example of class 3 \(3\)"),
        ("minority", {"classes": (0,)}, r"needs either fraction= or count="),
        ("minority", {"classes": (0,), "count": 1, "fraction": 0.5}, r"needs either fraction= or"),
        (
            "minority",
            {"classes": (4,), "count": 1},
            r"classes=\(4,\) must name classes from 0 to 3",
        ),
        ("minority", {"classes": (), "count": 1}, r"classes=\(\) must name classes"),
        ("minority", {"classes": (0,), "count": 0}, r"count=0 must be at least 1"),
        ("minority", {"classes": (0,), "fraction": 0.0}, r"fraction=0.0 must be above 0"),
        ("minority", {"classes": (0,), "fraction": 0.1}, r"leaves no example of class 0 \(0\)"),
        ("step", {"ratio": 2, "seed": -1}, r"seed=-1 must be a whole number, at least 0"),
    ],
)
def test_bad_arguments_are_told(name, arguments, message):
    small = dataclasses.replace(dataset(4, 4), name="small")
    with pytest.raises(UserError, match=message):
        data.subsample(small, name, **{"seed": 0} | arguments)
