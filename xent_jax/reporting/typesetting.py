"""A table written as Markdown, as LaTeX and as CSV."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in r"\`*_|<["})
# What LaTeX takes for a command, or has no letter for.
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "%_&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$"}
    | {"↓": r"$\downarrow$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$"}
    | {"ε": r"$\epsilon$", "λ": r"$\lambda$", "τ": r"$\tau$"}
    | {"[": "{[}"}  # At the start of a row it would be an argument of the line's end before it.
)


class Text(NamedTuple):
    """What stands in one place of a table."""

    text: str
    bold: bool = False


class Table(NamedTuple):
    """A table to be read, and the numbers in it."""

    name: str  # of its files
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    labels: int  # how many columns at the left hold words
    records: tuple[dict[str, Any], ...]  # a cell each, in full precision; shares are up to 1


def write(table: Table, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes NAME.md, NAME.tex and NAME.csv into the folder, made if missing; returns the paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, render in ((".md", markdown), (".tex", latex), (".csv", comma_separated)):
        written.append(Path(folder) / (table.name + suffix))
        written[-1].write_text(render(table), encoding="utf-8")
    return written


def markdown(table: Table) -> str:
    """Returns the table as GitHub shows it, with its title above and its caption below."""
    rules = ["---"] * table.labels + ["---:"] * (len(table.header) - table.labels)
    header = [title.translate(_MARKDOWN) for title in table.header]
    rows = [[_starred(cell) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in (header, rules, *rows)]
    title, caption = (text.translate(_MARKDOWN) for text in (table.title, table.caption))
    return "\n".join([f"**{title}**", "", *lines, "", caption, ""])


def latex(table: Table) -> str:
    """Returns a `table` environment that needs the package booktabs."""
    columns = "l" * table.labels + "r" * (len(table.header) - table.labels)
    title, caption = (text.translate(_LATEX) for text in (table.title, table.caption))
    header = " & ".join(text.translate(_LATEX) for text in table.header)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering\footnotesize",
        r"  \setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}",
        rf"  \caption{{{title}. {caption}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        rf"    {header} \\",
        r"    \midrule",
        *_latex_rows(table),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_rows(table: Table) -> Iterator[str]:
    for before, row in zip((None, *table.rows), table.rows, strict=False):
        # Rows of one name belong together, and stand a little apart from the others.
        if before and table.labels > 1 and before[0] != row[0]:
            yield r"    \addlinespace"
        yield f"    {' & '.join(map(_boldfaced, row))} \\\\"


def comma_separated(table: Table) -> str:
    """Returns the records: a line of names, then a line per cell; what is missing is empty."""
    names = list(dict.fromkeys(name for record in table.records for name in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return file.getvalue()


def _starred(cell: Text) -> str:
    text = cell.text.translate(_MARKDOWN)
    return f"**{text}**" if cell.bold else text


def _boldfaced(cell: Text) -> str:
    text = cell.text.translate(_LATEX)
    # A bold face leaves mathematics as it is unless told.
    return rf"\textbf{{\boldmath {text}}}" if cell.bold else text
