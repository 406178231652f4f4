"""Draws the pictures of the losses: python -m experiments.catalogue does, and `make docs`."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import curves
from experiments.curves import Picture
from xent_jax.reporting.plots import COLOURS, STYLE

Numbers = Mapping[str, Mapping[str, Any]]

_STYLE: dict[Any, Any] = STYLE | {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlepad": 5,
    "axes.labelsize": 9,
    "lines.linewidth": 1.8,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.w_pad": 0.06,
    # The same numbers give the same file, and text that can be searched.
    "svg.hashsalt": "xent_jax",
    "svg.fonttype": "none",
}
_GREY: dict[str, Any] = {
    "color": "#9A9A9A",
    "linewidth": 1.3,
    "linestyle": "-",
    "zorder": 1.5,
}


def compute() -> dict[str, Numbers]:
    """Returns the numbers of all pictures, rounded as they are stored."""
    return {name: rounded(picture) for name, picture in everything().items()}


def everything() -> dict[str, Picture]:
    """Returns all pictures, and what they compare with."""
    return curves.pictures() | curves.GREY


def rounded(picture: Picture) -> dict[str, dict[str, list[float]]]:
    """Returns the picture's numbers to five digits, more than an eye can see."""
    return {
        label: {kind: [float(f"{x:.5g}") for x in values] for kind, values in both.items()}
        for label, both in curves.numbers(picture).items()
    }


def write(folder: Path) -> None:
    """Computes the numbers, and draws them into an SVG each."""
    numbers = compute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.json").write_text(_json(numbers))
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, picture in curves.pictures().items():
        (folder / f"{name}.svg").write_text(draw(name, picture, numbers))


def _json(numbers: Mapping[str, Numbers]) -> str:
    """Returns one line per curve, so that a change of one is a change of one."""
    text = json.dumps(numbers, indent=1, separators=(",", ":"))
    return re.sub(r"\[[^]]*\]", lambda found: re.sub(r"\s+", "", found[0]), text) + "\n"


def draw(name: str, picture: Picture, stored: Mapping[str, Numbers]) -> str:
    """Returns the picture as SVG: the value, and beside it its derivative."""
    own = {label or name: both for label, both in stored[name].items()}
    grey = stored.get(picture.grey, {})
    kinds = {"value": picture.value} | ({"slope": "gradient"} if picture.slope else {})
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.8 if picture.slope else 4.0, 2.35))
        axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        for ax, (kind, title) in zip(axes, kinds.items(), strict=True):
            _draw_curves(ax, picture, {label: both[kind] for label, both in own.items()})
            for i, both in enumerate(grey.values()):
                label = "_" if i else picture.grey
                ax.plot(picture.points, both[kind], **_GREY, label=label)
            _limit(ax, np.concatenate([both[kind] for both in own.values()]))
            ax.set_title(title)
        figure.supxlabel(picture.axis, fontsize=9)
        if grey or len(own) > 1:
            _draw_legend(figure, axes[0], 6 if picture.slope else 3)
        return _svg(figure)


def _draw_curves(ax: Axes, picture: Picture, values: Mapping[str, Any]) -> None:
    for i, (label, ys) in enumerate(values.items()):
        # A later curve is thinner, so that one below it can be seen.
        style: dict[str, Any] = {"color": COLOURS[i], "linewidth": max(2.6 - 0.5 * i, 1.4)}
        ax.plot(picture.points, ys, **style, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 3, 5, 10)))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))


def _draw_legend(figure: Figure, ax: Axes, columns: int) -> None:
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    longest = max(len(str(line.get_label())) for line in lines)
    figure.legend(
        handles=lines,
        loc="outside upper left",
        ncols=min(columns, max(1, columns * 18 // (longest + 7))),
        handlelength=1.6,
        columnspacing=1.4,
    )


def _limit(ax: Axes, own: np.ndarray) -> None:
    """Leaves to what is compared with no more room than to show that it goes on."""
    low, high = own.min(), own.max()
    room = 0.25 * max(high - low, 0.1 * max(abs(low), abs(high)), 1e-6)
    shown = ax.get_ylim()
    ax.set_ylim(max(shown[0], low - room), min(shown[1], high + room))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r" *<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    # Verdana has the widths of DejaVu Sans, where that is not installed.
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return re.sub(r"<[^>]*>", _shortened, re.sub(r"\n\s*", "\n", text))


def _shortened(tag: re.Match[str]) -> str:
    """Rounds to a tenth of a point, which cannot be seen, and leaves out what is understood."""
    text = re.sub(r"\s+", " ", tag[0]).replace(' transform="rotate(-0 ', ' _="')
    text = re.sub(r' _="[^"]*"', "", text)
    text = re.sub(r' id="(?!m|p[0-9a-f]{6})[^"]*"', "", text)
    if not re.search(r' d="[^"]*[CQ]', text):
        text = text.replace(" L ", " ")  # which what follows M is anyway
    return re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", text)
