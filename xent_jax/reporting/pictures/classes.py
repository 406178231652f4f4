"""What becomes of each class: groups of classes, each class, confidence, and the last layer."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from xent_jax.reporting.names import condition_name
from xent_jax.reporting.pictures.repeats import Repeats, conditions_of, methods_of, under
from xent_jax.reporting.pictures.style import (
    FULL,
    MARKERS,
    Drawing,
    Mark,
    add_legend,
    as_percent,
    grid_of,
    panels,
    set_title,
)
from xent_jax.reporting.plots import COLOURS, INK, PERCENT, draw_reliability
from xent_jax.reporting.statistics import summarise
from xent_jax.reporting.study import value

Marks = Mapping[str, Mark]

_GROUPS = ("many", "medium", "few")


def class_groups(cells: Sequence[Repeats], marks: Marks) -> Iterator[Drawing]:
    """Draws the accuracy of classes with many, a medium number and few examples as bars."""
    groups = [g for g in _GROUPS if any(_finite(c, f"test.{g}_accuracy").size for c in cells)]
    if not groups:
        return
    conditions, methods = conditions_of(cells), methods_of(cells)
    columns = 1 if len(methods) > 6 else 2
    figure, axes = panels(len(conditions), columns=columns, size=(FULL / columns, 1.8), sharey=True)
    for ax, condition in zip(axes, conditions, strict=True):
        for cell in under(cells, condition):
            _draw_bars(ax, cell, groups, marks[cell.method], methods)
        ax.set_xticks(range(len(groups)), [f"{group} examples" for group in groups])
        set_title(ax, condition_name(condition))
    as_percent(axes, low=0.0)
    axes[0].set_ylabel("test accuracy")
    add_legend(figure, {each: Patch(**marks[each].bar()) for each in methods})
    told = "Bars are means over the seeds, lines one standard deviation to both sides."
    yield Drawing("class_groups", "accuracy by the classes' training examples", told, figure)


def class_recall(cells: Sequence[Repeats]) -> Iterator[Drawing]:
    """Draws the recall of each class by each method as a heat map."""
    cells = [cell for cell in cells if cell.numbers("test.per_class_recall").size]
    if not cells:
        return
    conditions, methods = conditions_of(cells), methods_of(cells)
    classes = cells[0].numbers("test.per_class_recall").shape[1]
    columns = 2 if classes <= 10 else 1
    size = (FULL / columns, 0.17 * len(methods) + 0.5)
    figure, axes = panels(len(conditions), columns=columns, size=size, sharex=True, sharey=True)
    for ax, condition in zip(axes, conditions, strict=True):
        _draw_recall(ax, under(cells, condition), methods)
        set_title(ax, condition_name(condition))
    for ax in axes[-columns:]:
        ax.set_xlabel("class")
    bar = figure.colorbar(axes[0].images[0], ax=axes, aspect=10 * figure.get_figheight(), pad=0.02)
    bar.ax.yaxis.set_major_formatter(PERCENT)
    bar.outline.set_visible(False)
    told = "The share of each class's test examples that are found, as a mean over the seeds."
    yield Drawing("class_recall", "recall of each class", told, figure)


def reliability(cells: Sequence[Repeats]) -> Iterator[Drawing]:
    """Draws a reliability diagram per method, a figure per condition."""
    cells = [cell for cell in cells if cell.numbers("test.reliability").size]
    for number, condition in enumerate(conditions_of(cells), start=1):
        own = under(cells, condition)
        figure, axes = panels(len(own), columns=4, size=(1.75, 1.85), sharex=True, sharey=True)
        for ax, cell in zip(axes, own, strict=True):
            _draw_pooled(ax, cell)
        _label_confidence(figure, axes, grid_of(len(own), 4)[1])
        yield Drawing(
            f"reliability_{number}",
            _under("confidence and accuracy", condition),
            "Among predictions of one confidence, the share that is right; on the dashed line "
            "confidence can be believed. All seeds' predictions together.",
            figure,
        )


def embeddings(cells: Sequence[Repeats]) -> Iterator[Drawing]:
    """Draws the last layer's features of test examples, a figure per condition."""
    cells = [cell for cell in cells if _embedded(cell)]
    for number, condition in enumerate(conditions_of(cells), start=1):
        own = under(cells, condition)
        figure, axes = panels(len(own), columns=4, size=(1.75, 1.85))
        for ax, cell in zip(axes, own, strict=True):
            _draw_embedding(ax, cell)
        yield Drawing(
            f"embedding_{number}",
            _under("features of the last layer", condition),
            "Test examples in the plane of the two largest principal components, of the first "
            "seed; a number names a class at its median.",
            figure,
        )


def _under(title: str, condition: Mapping) -> str:
    return f"{title}: {condition_name(condition)}" if condition else title


def _finite(cell: Repeats, path: str) -> np.ndarray:
    numbers = cell.numbers(path)
    return numbers[np.isfinite(numbers)]


def _draw_bars(
    ax: Axes, cell: Repeats, groups: Sequence[str], mark: Mark, methods: Sequence[str]
) -> None:
    width = 0.84 / len(methods)
    offset = (methods.index(cell.method) - (len(methods) - 1) / 2) * width
    for place, group in enumerate(groups):
        numbers = _finite(cell, f"test.{group}_accuracy")
        if numbers.size:
            over_seeds = summarise(numbers)
            ax.bar(place + offset, over_seeds.mean, 0.9 * width, **mark.bar())
            ax.errorbar(place + offset, *over_seeds[:2], color=INK, elinewidth=0.8)


def _draw_recall(ax: Axes, cells: Sequence[Repeats], methods: Sequence[str]) -> None:
    rows = {cell.method: cell.numbers("test.per_class_recall").mean(axis=0) for cell in cells}
    classes = len(next(iter(rows.values())))
    recall = np.stack([rows.get(method, np.full(classes, np.nan)) for method in methods])
    ax.imshow(recall, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_yticks(range(len(methods)), methods)
    every = -(-classes // 20)
    ax.set_xticks(range(0, classes, every))
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if classes <= 10:
        for (i, j), share in np.ndenumerate(recall):
            if np.isfinite(share):
                colour = "white" if share > 0.55 else INK
                ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=colour, size=6)


def _draw_pooled(ax: Axes, cell: Repeats) -> None:
    """Draws the bins of all seeds' predictions together."""
    counts, accuracies, confidences = np.moveaxis(cell.numbers("test.reliability"), 1, 0)
    count = counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        accuracy = np.nansum(counts * accuracies, axis=0) / count
        confidence = np.nansum(counts * confidences, axis=0) / count
    draw_reliability(ax, accuracy, confidence)
    error = np.nansum(count * np.abs(accuracy - confidence)) / count.sum()
    set_title(ax, cell.method)
    ground = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5}
    ax.text(0.04, 0.94, f"ECE {error:.1%}", va="top", transform=ax.transAxes, bbox=ground)


def _label_confidence(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    for ax in axes:
        ax.set(xlim=(0, 1), xticks=(0.2, 0.5, 0.8), yticks=(0, 0.5, 1))
        ax.xaxis.set_major_formatter(PERCENT)
        ax.yaxis.set_major_formatter(PERCENT)
    for ax in axes[-columns:]:
        ax.set_xlabel("confidence")
    for ax in axes[::columns]:
        ax.set_ylabel("accuracy")
    handles, labels = axes[0].get_legend_handles_labels()
    add_legend(figure, dict(zip(labels, handles, strict=True)))


def _embedded(cell: Repeats) -> Mapping | None:
    return next(filter(None, (value(record, "embedding") for record in cell.records)), None)


def _draw_embedding(ax: Axes, cell: Repeats) -> None:
    embedding = _embedded(cell) or {}
    x, y, label = (np.asarray(embedding[key]) for key in ("x", "y", "label"))
    classes = np.unique(label)
    for i, each in enumerate(classes):
        own = label == each
        colour = COLOURS[i % len(COLOURS)]
        marker = MARKERS[i // len(COLOURS) % len(MARKERS)]
        ax.scatter(x[own], y[own], s=3, color=colour, marker=marker, alpha=0.6, linewidths=0)
        if len(classes) <= 20:
            _name_class(ax, np.median(x[own]), np.median(y[own]), str(each), colour)
    ax.set(xticks=(), yticks=())
    set_title(ax, cell.method)
    ax.margins(0.05)


def _name_class(ax: Axes, x: float, y: float, name: str, colour: str) -> None:
    halo = patheffects.withStroke(linewidth=2, foreground="white")
    ax.text(
        *(x, y, name), color=colour, ha="center", va="center", weight="bold", path_effects=[halo]
    )
