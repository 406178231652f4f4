"""How the pictures of a study look: drawn at the size they are printed at, each method alike."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xent_jax.reporting.plots import COLOURS, PERCENT, STYLE

DOTS_PER_INCH = 250
COLUMN, FULL = 3.3, 7.0  # inches: a column of a two-column paper, and its whole width

# At these widths a size in points is that of the printed page.
SMALL: dict[Any, Any] = STYLE | {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titlepad": 4,
    "axes.labelsize": 7.5,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "axes.xmargin": 0.04,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.8,
    "legend.fontsize": 7.5,
    "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.h_pad": 0.04,
    "savefig.dpi": DOTS_PER_INCH,
    "pdf.fonttype": 42,  # TrueType, which conferences ask for
}

MARKERS = "os^DvpPX<>hd"
_LINES = ("-", "--", ":", "-.")
_HATCHES = ("", "/////", ".....", "xxxxx")


class Drawing(NamedTuple):
    """A figure, and what is told of it."""

    name: str  # of its files
    title: str
    caption: str
    figure: Figure


class Mark(NamedTuple):
    """How one method is told from the others, also without colour."""

    colour: str
    line: str
    marker: str
    hatch: str

    def curve(self, *, markers: bool = True) -> dict[str, Any]:
        """Returns the arguments of a line, with a marker at each value where these are few."""
        marker = {"marker": self.marker, "markeredgecolor": "white", "markeredgewidth": 0.4}
        return {"color": self.colour, "linestyle": self.line} | (marker if markers else {})

    def bar(self) -> dict[str, Any]:
        """Returns the arguments of a filled bar."""
        return {"facecolor": self.colour, "hatch": self.hatch, "edgecolor": "white", "linewidth": 0}


def marks_of(methods: Sequence[str]) -> dict[str, Mark]:
    """Returns a mark per method: seven colours, then the same with other lines and hatches."""
    return {
        method: Mark(
            COLOURS[i % len(COLOURS)],
            _LINES[i // len(COLOURS) % len(_LINES)],
            MARKERS[i % len(MARKERS)],
            _HATCHES[i // len(COLOURS) % len(_HATCHES)],
        )
        for i, method in enumerate(methods)
    }


def grid_of(count: int, most: int) -> tuple[int, int]:
    """Returns rows and columns, at most so many, of which the last row is as full as it can be."""
    rows = -(-count // most)
    return rows, -(-count // rows)


def panels(
    count: int, *, columns: int, size: tuple[float, float], **keywords: Any
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of panels of about this size in inches, and them, row by row.

    It is as wide as a column if they fit into one, else at most as wide as the page. The last
    panels, one for each column, are those that nothing stands below.
    """
    rows, columns = grid_of(count, columns)
    width = columns * size[0]
    figure = Figure(figsize=(COLUMN if width < 1.1 * COLUMN else min(width, FULL), rows * size[1]))
    axes = list(figure.subplots(rows, columns, squeeze=False, **keywords).flat)
    for spare in axes[count:]:
        spare.remove()
    for ax in axes[count - columns : count]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:count]


def set_title(ax: Axes, title: str) -> None:
    """Writes above a panel, in as many lines as its width asks for."""
    place = ax.get_subplotspec()
    columns = place.get_gridspec().ncols if place else 1
    width = ax.figure.bbox.width / ax.figure.dpi / columns
    ax.set_title("\n".join(textwrap.wrap(title, max(8, int((width - 0.25) / 0.064)))))


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Puts a legend below the panels, in as many columns as fit, and makes room for its rows."""
    width, height = figure.get_size_inches()
    entry = 0.056 * max(map(len, handles)) + 0.44  # inches: of its letters, and of line and gap
    rows = -(-len(handles) // max(1, int((width - 0.1) / entry)))
    figure.set_figheight(height + 0.16 * rows + 0.06)
    figure.legend(
        *(handles.values(), handles),
        loc="outside lower center",
        ncols=-(-len(handles) // rows),
        handlelength=2.2,
        columnspacing=1,
        handletextpad=0.5,
        labelspacing=0.35,
        borderpad=0.2,
    )


def add_methods(figure: Figure, marks: Mapping[str, Mark], methods: Sequence[str]) -> None:
    """Puts the lines of the methods into a legend below the panels."""
    add_legend(figure, {each: Line2D([], [], **marks[each].curve()) for each in methods})


def as_percent(axes: Sequence[Axes], *, low: float | None = None) -> None:
    """Labels the vertical axes in percent, and ends them near 0 and 1, or below at `low`."""
    for ax in axes:
        ax.yaxis.set_major_formatter(PERCENT)
        bottom, top = ax.get_ylim()
        ax.set_ylim(max(-0.02, bottom) if low is None else low, min(1.02, top))
