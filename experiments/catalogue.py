"""Writes the README's catalogue from docstrings: python -m experiments.catalogue."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

from experiments import entry
from xent_jax import losses

_README = Path(__file__).parents[1] / "README.md"
_ROOMS = ("information", "categorical", "binary", "noisy_labels")
_BEGIN, _END = "<!-- catalogue: begin -->", "<!-- catalogue: end -->"


def catalogue() -> str:
    """Returns the table: every public loss, its docstring's first sentence and first reference."""
    lines = ["| module | function | | source |", "|---|---|---|---|"]
    previous = None
    for module, name in sorted(map(_place, losses.__all__)):
        function = getattr(losses, name)
        cells = (f"`{name}`", _sentence(function.__doc__), _source(function.__doc__))
        shown = _ROOMS[module] if module != previous else ""
        lines.append(f"| {' | '.join((shown, *cells))} |")
        previous = module
    return "\n".join(lines)


def with_catalogue(readme: str) -> str:
    """Returns the README's text with the table between its marks made anew."""
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{catalogue()}\n{_END}{after}"


def _place(name: str) -> tuple[int, str]:
    return _ROOMS.index(getattr(losses, name).__module__.rpartition(".")[2]), name


def _sentence(docstring: str) -> str:
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    return paragraph.partition(". ")[0].removeprefix("Computes ").rstrip(".").replace("|", "\\|")


def _source(docstring: str) -> str:
    """Returns the first reference's authors and year, linked where it has an address."""
    references = " ".join(docstring.partition("References:")[2].split())
    year = re.search(r", (1[89]\d\d|20\d\d)\b", references)
    if not year:
        return ""
    first = references[: year.start()]
    authors, title, _ = first.partition("`")
    authors = authors.rstrip(", ").split(", ")
    more = " et al." if title and len(authors) > 1 else ""
    text, link = f"{authors[0]}{more} {year[1]}", re.search(r"<(http[^>]+)>", first)
    return f"[{text}]({link[1]})" if link else text


def main(argv: Sequence[str]) -> None:
    del argv
    _README.write_text(with_catalogue(_README.read_text()))


if __name__ == "__main__":
    entry.run(main)
