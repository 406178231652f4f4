"""docs/losses.md is what the docstrings say, and its pictures what the losses return."""

import json
import re

import pytest

from experiments import catalogue, curves
from xent_jax import losses

PAGE = catalogue.PAGE.read_text()


def test_page_is_current() -> None:
    assert catalogue.page() == PAGE, "run `make docs`"


def test_every_function_has_its_place() -> None:
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(losses.__all__)


def test_no_room_is_left_out() -> None:
    modules = {getattr(losses, name).__module__ for name in losses.__all__}
    assert {name.rpartition(".")[2] for name in modules} == set(catalogue.ROOMS)


def test_links_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= set(anchors)


def test_links_lead_to_files() -> None:
    places = re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", PAGE)
    assert all((catalogue.PAGE.parent / place).exists() for place in places)


def test_nothing_of_restructuredtext_is_left() -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    assert not re.findall(r":\w+:`|\.\. \w+::|``|`_\b|>`_", prose)


def test_formulas_are_of_what_github_renders() -> None:
    formulas = re.findall(r"```math\n(.*?)```", PAGE, re.DOTALL) + re.findall(r"\$`(.*?)`\$", PAGE)
    assert len(formulas) > 300
    for formula in formulas:
        assert formula.count("{") - formula.count(r"\{") == formula.count("}") - formula.count(
            r"\}"
        )
        # GitHub refuses these.
        assert not re.search(r"\\(operatorname|def|newcommand|require|href|class|style)\b", formula)


def test_every_function_is_drawn_or_says_why_not() -> None:
    drawn = set(curves.pictures())
    assert not drawn & set(curves.WITHOUT_PICTURE)
    assert drawn | set(curves.WITHOUT_PICTURE) == set(losses.__all__)
    assert {path.stem for path in catalogue.PICTURES.glob("*.svg")} == drawn
    assert set(json.loads((catalogue.PICTURES / "curves.json").read_text())) == drawn | set(
        curves.GREY
    )


@pytest.mark.parametrize("name", sorted(curves.pictures()))
def test_pictures_are_small(name: str) -> None:
    assert (catalogue.PICTURES / f"{name}.svg").stat().st_size < 20_000
