"""Writes docs/performance.md from the committed benches: python -m experiments.performance."""

from collections.abc import Sequence
from pathlib import Path

from experiments import entry
from experiments.guide.template import render
from experiments.performance import figures, pictures

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PICTURE = DOCS / "performance.md", DOCS / "performance.svg"
_TEMPLATE = Path(__file__).with_name("performance.md")


def text(measured: figures.Measured) -> str:
    """Returns the page: the template with its tables filled in."""
    return render(_TEMPLATE.read_text(), {"tables": figures.Tables(measured)})


def main(argv: Sequence[str]) -> None:
    del argv
    measured = figures.load(DOCS / "results")
    PAGE.write_text(text(measured))
    pictures.draw_growth(figures.growth(measured), PICTURE)


if __name__ == "__main__":
    entry.run(main)
