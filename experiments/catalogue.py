"""Writes the README's catalogue from docstrings: python -m experiments.catalogue."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import entry
from xent_jax import losses

_README = Path(__file__).parents[1] / "README.md"
_BEGIN, _END = "<!-- catalogue: begin -->", "<!-- catalogue: end -->"


def catalogue() -> str:
    """Returns the table: every public loss, by its module, with its docstring's first sentence."""
    lines = ["| module | function | |", "|---|---|---|"]
    previous = None
    for module, name, sentence in _entries():
        lines.append(f"| {module if module != previous else ''} | `{name}` | {sentence} |")
        previous = module
    return "\n".join(lines)


def with_catalogue(readme: str) -> str:
    """Returns the README's text with the table between its marks made anew."""
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{catalogue()}\n{_END}{after}"


def _entries() -> Iterator[tuple[str, str, str]]:
    for name in losses.__all__:
        function = getattr(losses, name)
        paragraph = inspect.cleandoc(function.__doc__).split("\n\n")[0]
        sentence = " ".join(paragraph.split()).split(". ")[0].rstrip(".").replace("|", "\\|")
        yield function.__module__.rpartition(".")[2], name, sentence


def main(argv: Sequence[str]) -> None:
    del argv
    _README.write_text(with_catalogue(_README.read_text()))


if __name__ == "__main__":
    entry.run(main)
