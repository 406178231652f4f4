"""Pictures of records and metrics, in one style that stays legible at the width of a README."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from xent_jax.errors import UserError
from xent_jax.typing import Array

Record = Mapping[str, Any]
Runs = Mapping[str, Sequence[Record]]

# Okabe and Ito's colours, which readers with any colour vision can tell apart; after seven runs
# the lines are dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, PALE = "#404040", "#E4E4E4"
# Of the gap between a bin's confidence and its accuracy: above the bar, and within the bar.
OVER_CONFIDENT, UNDER_CONFIDENT = "#F2B58E", COLOURS[5]

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that it looks alike everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#909090",
    "axes.titlecolor": INK,
    "axes.titlesize": "large",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.xmargin": 0.01,
    "axes.prop_cycle": cycler(linestyle=("-", "--", ":")) * cycler(color=COLOURS),
    "grid.color": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
    "savefig.dpi": 200,
}


PERCENT = FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}%")


class _Panel(NamedTuple):
    title: str
    keys: tuple[str, str]
    percent: bool
    from_zero: bool = False


_PANELS = (
    _Panel("test accuracy", ("test", "accuracy"), percent=True),
    _Panel("test perplexity", ("test", "perplexity"), percent=False),
    _Panel("bits per byte of the test text", ("test", "bits_per_byte"), percent=False),
    _Panel("training loss", ("train", "loss"), percent=False),
    _Panel("wrong labels memorised", ("wrong_labels", "memorised"), percent=True, from_zero=True),
)


def learning_curve(runs: Runs, path: str | os.PathLike[str], title: str | None = None) -> None:
    """Draws what was measured of test accuracy or perplexity, loss and memorisation against epochs.

    Each curve's last value stands at its end. With label noise a dashed line marks the share of
    training labels that are right, which a model that believes them all would reach at most.

    Args:
      runs: the records of each run by the name to show; keys that a record lacks are left out.
      path: the picture to write; its suffix (png, svg, pdf) says how.
      title: a line above the legend; by default what the runs' configs have in common.

    Raises:
      UserError: no record holds anything to draw.
    """
    panels = [p for p in _PANELS if any(len(_points(r, p)[0]) for r in runs.values())]
    if not panels:
        raise UserError("no record holds an epoch and a test accuracy or a training loss to draw")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.7))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, panel, runs)
        _draw_legend(figure, axes[0].lines, list(runs), title or _subject(runs))
        figure.savefig(path)


def confusion_matrix(
    matrix: Array | Sequence[Sequence[int]],
    class_names: Sequence[str] | None,
    path: str | os.PathLike[str],
    title: str = "",
) -> None:
    """Draws how many examples of each class were taken for which; each row's shares are coloured.

    Args:
      matrix: counts of shape (classes, classes); a row per true class, a column per prediction.
      class_names: a name per class; None shows their numbers.
      path: the picture to write.
      title: a line above it.

    Raises:
      UserError: the matrix is not square, or there is not one name per class.
    """
    counts, names = _checked(matrix, class_names)
    cell = float(np.clip(6 / len(names), 0.1, 0.62))  # inches
    side = max(2.2, cell * len(names))
    style: dict[Any, Any] = STYLE | {"axes.grid": False, "font.size": max(10, 1.4 * side)}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(side + 3, side + 1.5))
        ax = figure.subplots()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        # The square root lets confusions of one percent be seen.
        image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
        if len(names) <= 25:
            _write_counts(ax, counts, shares, cell)
        _name_classes(ax, names, cell)
        bar = figure.colorbar(image, ax=ax, shrink=0.6, aspect=25, ticks=(0, 0.01, 0.1, 0.5, 1))
        bar.ax.yaxis.set_major_formatter(PERCENT)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        right, total = int(np.trace(counts)), int(counts.sum())
        _write_title(ax, title, f"{right:,} of {total:,} right ({right / max(total, 1):.1%})")
        figure.savefig(path, bbox_inches="tight")


def reliability_diagram(
    count: Array, accuracy: Array, confidence: Array, path: str | os.PathLike[str], title: str = ""
) -> None:
    """Draws whether predictions of confidence 80 % are right in 80 % of cases, and how many are so.

    A bin's accuracy is the height of its blue bar; the part of it above the confidence is paler,
    and what it lacks to the confidence stands on top of it in orange.

    Args:
      count: examples per bin of confidence, the bins being of equal width over [0, 1]; this and
        the next two as `xent_jax.metrics.reliability` returns them.
      accuracy: of the examples of each bin, shape (bins,); NaN where there are none.
      confidence: their mean confidence, shape (bins,).
      path: the picture to write.
      title: a line above it.
    """
    count, accuracy, confidence = (np.asarray(x, float) for x in (count, accuracy, confidence))
    filled = count > 0
    error = np.sum(count[filled] * np.abs(accuracy - confidence)[filled]) / max(count.sum(), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 5.2))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        centres, width = draw_reliability(top, accuracy, confidence)
        bottom.bar(centres, count / max(count.sum(), 1), width, color="#909090")
        bottom.set(xlim=(0, 1), ylabel="examples", xlabel="confidence")
        for axis in (top.yaxis, bottom.yaxis, bottom.xaxis):
            axis.set_major_formatter(PERCENT)
        _write_title(top, title, f"expected calibration error {error:.1%}")
        figure.legend(loc="outside lower center", ncols=3, handlelength=1, columnspacing=1.2)
        figure.savefig(path)


def draw_reliability(ax: Axes, accuracy: Array, confidence: Array) -> tuple[np.ndarray, float]:
    """Draws the bars of a reliability diagram; returns their centres and their width."""
    width = 1 / len(accuracy)
    centres, bar = (np.arange(len(accuracy)) + 0.5) * width, 0.9 * width
    ax.bar(centres, accuracy, bar, color=COLOURS[0], label="accuracy")
    over, under = np.maximum(confidence - accuracy, 0), np.minimum(confidence - accuracy, 0)
    ax.bar(centres, over, bar, accuracy, color=OVER_CONFIDENT, label="over-confident")
    ax.bar(centres, under, bar, accuracy, color=UNDER_CONFIDENT, label="under-confident")
    line = {"color": INK, "linewidth": 0.55 * matplotlib.rcParams["lines.linewidth"]}
    ax.axline((0, 0), (1, 1), linestyle="--", **line)
    ax.set(ylim=(0, 1))
    return centres, bar


def _points(records: Sequence[Record], panel: _Panel) -> tuple[np.ndarray, np.ndarray]:
    group, name = panel.keys
    points = [(r.get("epoch"), (r.get(group) or {}).get(name)) for r in records]
    known = [(x, y) for x, y in points if x is not None and y is not None]
    xy = np.asarray(known, float).reshape(-1, 2)
    return xy[:, 0], xy[:, 1]


def _draw_panel(ax: Axes, panel: _Panel, runs: Runs) -> None:
    for records in runs.values():
        epochs, values = _points(records, panel)
        # A single point has no line to be seen by; one at 0 % or 100 % is not cut in half.
        ax.plot(epochs, values, marker="o" if len(epochs) == 1 else "", clip_on=False)
    ax.set_title(panel.title)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    _set_limits(ax, panel)
    if panel.keys == ("test", "accuracy"):
        _draw_right_labels(ax, _shared(runs, "corruption", "rate"))
    if panel.keys == ("train", "loss") and len(runs) > 1 and not _shared(runs, "loss", "name"):
        ax.set_title("training loss (each its own)")
    _write_last_values(ax, "{:.1%}" if panel.percent else "{:.3g}")


def _set_limits(ax: Axes, panel: _Panel) -> None:
    epochs = np.concatenate([np.asarray(line.get_xdata(), float) for line in ax.lines])
    if np.ptp(epochs) < 1:  # of a single evaluation, so that its value stands beside it
        ax.set_xlim(epochs.max() - 1, epochs.max() + 0.04)
    if panel.percent:
        ax.yaxis.set_major_formatter(PERCENT)
        low, high = ax.get_ylim()
        ax.set_ylim(0 if panel.from_zero else max(0, low), min(1, high))


def _write_last_values(ax: Axes, form: str) -> None:
    """Writes each line's last value beside its end, moved apart where two would overlap."""
    lines = [line for line in ax.lines if line.get_label() != "_reference"]
    finite = [(line, np.asarray(line.get_ydata(), float)) for line in lines]
    ends = [(y[np.isfinite(y)][-1], line) for line, y in finite if np.isfinite(y).any()]
    if len(ends) > 6:
        return
    low, high = ax.get_ylim()
    ends.sort(key=lambda end: end[0])
    heights = _moved_apart([(value - low) / (high - low) for value, _ in ends], 0.075)
    for (value, line), height in zip(ends, heights, strict=True):
        ax.text(
            *(1.02, height, form.format(value)),
            transform=ax.transAxes,
            color=line.get_color(),
            va="center",
            fontweight="bold",
            fontsize=9.5,
        )


def _moved_apart(heights: list[float], gap: float) -> list[float]:
    """Moves ascending heights up until they keep the gap, then down where they pass the top."""
    apart: list[float] = []
    for height in heights:
        apart.append(max(height, apart[-1] + gap) if apart else height)
    top = 1.0
    for i in reversed(range(len(apart))):
        apart[i] = min(apart[i], top)
        top = apart[i] - gap
    return apart


def _draw_right_labels(ax: Axes, rate: float | None) -> None:
    if not rate:
        return
    style = {"color": "#707070", "linestyle": (0, (4, 3)), "linewidth": 1.2, "zorder": 1}
    ax.axhline(1 - rate, label="_reference", **style)
    # The layout makes room for the text even where the line lies outside the limits.
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 1 - rate - 0.03), min(1, max(high, 1 - rate + 0.06)))
    ax.annotate(
        f"right labels in training: {1 - rate:.0%}",
        *((0.99, 1 - rate), (0, 3)),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color="#606060",
    )


def _draw_legend(
    figure: Figure, lines: Sequence[Line2D], names: Sequence[str], title: str | None
) -> None:
    names = [_readable(name) for name in names]
    columns = max(1, min(len(names), 105 // (max(map(len, names)) + 8)))
    # A row of the legend takes its height from the page, not from the panels.
    figure.set_figheight(figure.get_figheight() + 0.24 * ((len(names) - 1) // columns))
    figure.legend(
        *(lines[: len(names)], names),
        loc="outside upper left",
        ncols=columns,
        title=title,
        title_fontproperties={"weight": "bold", "size": 12},
        alignment="left",
        handlelength=1.6,
    )


def _shared(runs: Runs, section: str, key: str) -> Any:
    """Returns config[section][key] if every run has the same, else None."""
    configs = [(records[-1].get("config") or {}) if records else {} for records in runs.values()]
    values = [(config.get(section) or {}).get(key) for config in configs]
    return values[0] if values and all(value == values[0] for value in values) else None


def _subject(runs: Runs) -> str | None:
    rate = _shared(runs, "corruption", "rate")
    parts = [_shared(runs, "dataset", "name"), _shared(runs, "model", "name")]
    parts.append(f"{rate:.0%} of the training labels are wrong" if rate else None)
    return ", ".join(_readable(part) for part in parts if part) or None


def _write_title(ax: Axes, title: str, told: str) -> None:
    ax.set_title(f"{_readable(title)}\n{told}" if title else told)


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _checked(
    matrix: Array | Sequence[Sequence[int]], class_names: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise UserError(f"a confusion matrix must be square and not empty, got {counts.shape}")
    names = range(len(counts)) if class_names is None else class_names
    if len(names) != len(counts):
        raise UserError(f"{len(names)} class names for a confusion matrix of {len(counts)} classes")
    return counts, [textwrap.shorten(str(name), 24, placeholder="…") for name in names]


def _write_counts(ax: Axes, counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    digits = len(str(int(counts.max())))
    size = min(10.0, 72 * cell / 2.6, 72 * cell / (0.75 * digits))
    for i, j in zip(*np.nonzero(counts), strict=True):
        # There is room for the share of those that are right in the cells of a small matrix.
        share = f"\n{shares[i, j]:.0%}" if i == j and len(counts) <= 12 else ""
        colour = "white" if shares[i, j] > 0.35 else INK
        ax.text(j, i, f"{counts[i, j]}{share}", ha="center", va="center", color=colour, size=size)


def _name_classes(ax: Axes, names: Sequence[str], cell: float) -> None:
    size = float(np.clip(72 * cell * 0.75, 5, 10))
    every = int(np.ceil(size * 1.1 / (72 * cell)))  # where even small names would overlap
    ticks = range(0, len(names), every)
    shown = names[::every]
    crowded = max(map(len, names)) * size * 0.62 > 72 * cell * every
    turned = {"rotation": 45 if len(names) <= 25 else 90, "rotation_mode": "anchor", "ha": "right"}
    ax.set_xticks(ticks, shown, fontsize=size, **(turned if crowded else {}))
    ax.set_yticks(ticks, shown, fontsize=size)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
