"""Writes docs/losses.md, its pictures and the README's catalogue: python -m experiments.catalogue.

Everything comes from the docstrings, except for the numbers of the pictures, which are computed.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import curves, docstring, entry, pictures
from experiments.bench import rules
from experiments.curves import Picture
from xent_jax import losses

ROOT = Path(__file__).parents[1]
README, PAGE, PICTURES = ROOT / "README.md", ROOT / "docs/losses.md", ROOT / "docs/losses"

# From what everyone needs to what a single field does; a test tells of rooms left out.
ROOMS = {
    "information": "Information",
    "categorical": "Categorical",
    "binary": "Binary",
    "overlap": "Overlap",
    "imbalance": "Imbalance",
    "gradient_balancing": "Gradient balancing",
    "noisy_labels": "Noisy labels",
    "normalized": "Normalized",
    "tempered": "Tempered",
    "label_correction": "Label correction",
    "metric": "Margins over cosines",
    "few_shot": "Few-shot",
    "contrastive": "Contrastive",
    "sequence": "Sequences",
    "alignment": "Alignment",
    "large_vocabulary": "Large vocabularies",
    "transfer": "Transfer",
    "adversarial": "Adversarial",
    "policy": "Policy",
    "ordinal": "Ordinal",
    "regression": "Regression",
    "fenchel_young": "Fenchel-Young",
    "ranking": "Ranking",
}
_BEGIN, _END = "<!-- catalogue: begin -->", "<!-- catalogue: end -->"


def functions(room: str) -> list[str]:
    """Returns the public functions of a module, in the order in which it defines them."""
    module = sys.modules[f"{losses.__name__}.{room}"]
    public = set(losses.__all__)
    return [
        name
        for name, value in vars(module).items()
        if name in public and value.__module__ == module.__name__
    ]


def catalogue() -> str:
    """Returns the README's tables, one per room: every public loss, what it is for, its paper."""
    notes = rules.rule_notes()
    return "\n\n".join(_table(room, notes) for room in ROOMS)


def with_catalogue(readme: str) -> str:
    """Returns the README's text with the tables between its marks made anew."""
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{catalogue()}\n{_END}{after}"


def page() -> str:
    """Returns docs/losses.md."""
    notes = rules.rule_notes()
    contents = "\n".join(
        f"- [{title}](#{_anchor(title)}): " + ", ".join(f"[{n}](#{n})" for n in functions(room))
        for room, title in ROOMS.items()
    )
    drawn = curves.pictures()
    rooms = "\n\n".join(_room(room, drawn, notes) for room in ROOMS)
    return f"{_INTRODUCTION}\n{contents}\n\n{rooms}\n"


_INTRODUCTION = f"""# The losses

What `xent_jax` offers, {len(losses.__all__)} functions: for each its formula, its gradient, what it
returns and where it comes from. This page is made from the docstrings by `make docs`; they say more
on arguments, numerics and errors, and hold examples: `help(xent_jax.generalized_cross_entropy)`.

z are logits, y the label, p the probabilities; `where` and `axis` mean the same everywhere. Losses
are per example and never averaged: [`masked_mean`](../README.md#a-loss-in-your-own-code) does that.
The pictures show each loss, and its derivative as `jax.grad` computes it, along the line named
under them: most often the logit of the label, while nine other classes stay at 0.
"""


def _room(room: str, drawn: Mapping[str, Picture], notes: Mapping[str, str]) -> str:
    module = sys.modules[f"{losses.__name__}.{room}"]
    lead = docstring.markdown((module.__doc__ or "").split("\n\n")[0])
    source = f"[source](../xent_jax/losses/{room}.py)"
    entries = "\n\n".join(
        _entry(name, drawn.get(name), notes.get(name, "")) for name in functions(room)
    )
    return f"## {ROOMS[room]}\n\n{lead} ({source})\n\n{entries}"


def _entry(name: str, picture: Picture | None, note: str) -> str:
    function = getattr(losses, name)
    text = docstring.read(function, linked=set(losses.__all__) - {name})
    parts = (
        f"### {name}",
        text.summary,
        f"```python\n{docstring.signature(function)}\n```",
        text.formula,
        text.gradient,
        f"![{_alt(name, picture)}](losses/{name}.svg)" if picture else "",
        f"**Returns.** {text.returns}" if text.returns else "",
        f"**By hand.** The derivative is derived by hand: {note}." if note else "",
        f"**Source.** {text.references}" if text.references else "",
    )
    return "\n\n".join(filter(None, parts))


def _alt(name: str, picture: Picture) -> str:
    both = f"{picture.value} and gradient" if picture.slope else picture.value
    return f"{name}: {both} against the {picture.axis}".replace("[", "(").replace("]", ")")


def _anchor(title: str) -> str:
    """Returns what GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _table(room: str, notes: Mapping[str, str]) -> str:
    names = functions(room)
    titles = ("function", "", "source", *(["derivative by hand"] if notes else []))
    lines = [
        f"<details><summary><b>{ROOMS[room]}</b> ({len(names)}): {', '.join(names)}</summary>",
        "",
        _row(titles),
        _row(["---"] * len(titles)),
    ]
    for name in names:
        text = docstring.read(getattr(losses, name))
        link = f"[`{name}`](docs/losses.md#{name})"
        cells = (link, _sentence(text.summary), _paper(text.references), notes.get(name, ""))
        lines.append(_row(cells[: len(titles)]))
    return "\n".join([*lines, "", "</details>"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _sentence(summary: str) -> str:
    return summary.partition(". ")[0].rstrip(".")


def _paper(references: str) -> str:
    """Returns the first reference's authors and year, linked where it has an address."""
    year = re.search(r", (1[89]\d\d|20\d\d)\b", references)
    if not year:
        return ""
    first = references[: year.start()]
    authors, title, _ = first.partition("[")
    names = authors.rstrip(", ").split(", ")
    more = " et al." if title and len(names) > 1 else ""
    text, link = f"{names[0]}{more} {year[1]}", re.search(r"\]\((http[^)]+)", first)
    return f"[{text}]({link[1]})" if link else text


def main(argv: Sequence[str]) -> None:
    del argv
    pictures.write(PICTURES)
    PAGE.write_text(page())
    README.write_text(with_catalogue(README.read_text()))


if __name__ == "__main__":
    entry.run(main)
