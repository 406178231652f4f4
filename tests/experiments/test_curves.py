"""The stored numbers of the pictures are what the losses return today."""

import json
from typing import Any

import numpy as np
import pytest

from experiments import catalogue, curves, pictures
from xent_jax import losses

STORED = json.loads((catalogue.PICTURES / "curves.json").read_text())


ROOMS = [*catalogue.ROOMS, "grey"]
QUICK = ("information", "categorical", "binary", "imbalance", "metric", "grey")


@pytest.mark.parametrize(
    "room",
    # The others by `make test-slow`: together their programs take a minute and a half to compile.
    [room if room in QUICK else pytest.param(room, marks=pytest.mark.slow) for room in ROOMS],
)
def test_last_curves_are_current(room: str) -> None:
    """The last of each picture alone, which is most often the farthest from the others."""
    for name, picture in _pictures(room):
        label = list(picture.curves)[-1]
        now = curves.numbers(picture._replace(curves={label: picture.curves[label]}))
        assert list(picture.curves) == list(STORED[name]), f"{name}: run `make docs`"
        _assert_close(now[label], STORED[name][label], f"{name}, {label}")


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_all_curves_are_current(room: str) -> None:
    for name, picture in _pictures(room):
        for label, now in curves.numbers(picture).items():
            _assert_close(now, STORED[name][label], f"{name}, {label}")


def _pictures(room: str) -> list[tuple[str, curves.Picture]]:
    if room == "grey":
        return list(curves.GREY.items())
    drawn = curves.pictures()
    return [(name, drawn[name]) for name in catalogue.functions(room) if name in drawn]


def _assert_close(now: Any, stored: Any, name: str) -> None:
    for kind, values in now.items():
        expected = np.asarray(stored[kind])
        tolerance = 1e-4 * np.abs(expected).max()
        message = f"{name}, {kind}: run `make docs`"
        np.testing.assert_allclose(values, expected, 1e-4, tolerance, err_msg=message)


def test_picture_is_drawn_from_the_numbers_alone() -> None:
    name = "generalized_cross_entropy"
    drawn = pictures.draw(name, curves.pictures()[name], STORED)
    assert drawn == pictures.draw(name, curves.pictures()[name], STORED)
    other = {**STORED, name: {label: _doubled(both) for label, both in STORED[name].items()}}
    assert drawn != pictures.draw(name, curves.pictures()[name], other)
    assert "q = 0.7" in drawn  # text stays text
    assert "cross-entropy" in drawn


def _doubled(both: dict[str, list[float]]) -> dict[str, list[float]]:
    return {kind: [2.0 * value for value in values] for kind, values in both.items()}


def test_slope_is_the_derivative_of_the_value() -> None:
    picture = curves.pictures()["softmax_focal_loss"]
    for both in curves.numbers(picture).values():
        numeric = np.gradient(both["value"], picture.points)[1:-1]
        np.testing.assert_allclose(numeric, both["slope"][1:-1], atol=0.02)


def test_grey_is_plain_cross_entropy() -> None:
    points = curves.GREY["cross-entropy"].points
    stored = STORED["cross-entropy"]["cross-entropy"]["value"]
    np.testing.assert_allclose(stored, np.log(np.exp(points) + 9.0) - points, rtol=1e-4)


def test_rare_and_frequent_classes_differ() -> None:
    rows = STORED["balanced_softmax"]
    assert np.all(
        np.asarray(rows["a rare class"]["value"]) > np.asarray(rows["a frequent class"]["value"])
    )


def test_sweep_names_its_curves() -> None:
    assert curves.sweep(q=(0.3, 1.0)) == {"q = 0.3": {"q": 0.3}, "q = 1": {"q": 1.0}}
    assert set(curves.WITHOUT_PICTURE) <= set(losses.__all__)
