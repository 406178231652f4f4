"""Draws how time and memory grow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.performance.figures import Growth
from xent_jax.reporting.plots import COLOURS, STYLE

_STYLE: dict[Any, Any] = STYLE | {"svg.hashsalt": "xent_jax", "svg.fonttype": "path"}


def draw_growth(growth: Mapping[str, Mapping[str, Growth]], path: Path) -> None:
    """Writes the picture: time above memory, against tokens, features and classes."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 5.6))
        grid = figure.subplots(2, len(growth), sharey="row", squeeze=False)
        for (times, memory), (size, curves) in zip(grid.T, growth.items(), strict=True):
            for (name, grown), colour in zip(curves.items(), COLOURS, strict=False):
                _plot(
                    times, grown.sizes, [1e3 * seconds for seconds in grown.seconds], name, colour
                )
                _plot(memory, grown.sizes, [b / 2**20 for b in grown.temporary], name, colour)
            memory.set_xlabel(size)
        grid[0][0].set_title("milliseconds, forward and backward")
        grid[1][0].set_title("temporary memory, MiB")
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
        figure.savefig(path, metadata={"Date": None})


def _plot(ax: Axes, sizes: list[int], values: list[float], name: str, colour: str) -> None:
    ax.plot(sizes, values, "o-", color=colour, label=name, markersize=4)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7.5)
