"""Lines: the main metric against a condition, accuracy over the epochs and against shots."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from xent_jax.reporting.names import condition_name, is_share, key_name, metric_name
from xent_jax.reporting.pictures.repeats import (
    Condition,
    Repeats,
    conditions_of,
    methods_of,
    under,
)
from xent_jax.reporting.pictures.style import (
    COLUMN,
    FULL,
    Drawing,
    Mark,
    add_methods,
    as_percent,
    grid_of,
    panels,
    set_title,
)
from xent_jax.reporting.statistics import summarise
from xent_jax.reporting.study import value

Marks = Mapping[str, Mark]
Number = int | float

_OVER_EPOCHS = ("test.accuracy", "wrong_labels.memorised")
_BAND = "Lines are means over the seeds, bands one standard deviation to both sides."


def against_condition(cells: Sequence[Repeats], marks: Marks, metric: str) -> Iterator[Drawing]:
    """Draws the main metric against the condition that is a number, if one is."""
    axis = _numeric_axis(conditions_of(cells))
    rows = _rows_along(axis, conditions_of(cells)) if axis else []
    if axis is None or not rows:
        return
    figure, axes = panels(len(rows), columns=3, size=(3.5, 2.2), sharey=True)
    for ax, (other, values) in zip(axes, rows, strict=True):
        for method in methods_of(cells):
            own = [cell for cell in under(cells, other) if cell.method == method]
            points = [(cell.condition[axis], cell.numbers(metric)) for cell in own]
            _draw_line(ax, points, marks[method])
        _scale_condition(ax, values)
        ax.set_xlabel(key_name(axis))
        set_title(ax, condition_name(other))
    if is_share(metric):
        as_percent(axes)
    axes[0].set_ylabel(metric_name(metric))
    add_methods(figure, marks, methods_of(cells))
    title = f"{metric_name(metric)} against {key_name(axis)}"
    yield Drawing("against_condition", title, _BAND, figure)


def over_epochs(cells: Sequence[Repeats], marks: Marks) -> Iterator[Drawing]:
    """Draws test accuracy and memorised wrong labels after each evaluated epoch."""
    paths = [path for path in _OVER_EPOCHS if any(len(_history(c, path)) > 1 for c in cells)]
    conditions = conditions_of(cells)
    if not paths:
        return
    blocks, columns = grid_of(len(conditions), 4)
    width = COLUMN if columns == 1 else FULL
    figure = Figure(figsize=(width, 1.5 * blocks * len(paths)))
    axes = figure.subplots(blocks * len(paths), columns, squeeze=False, sharex=True)
    for i, condition in enumerate(conditions):
        row, column = i // columns * len(paths), i % columns
        set_title(axes[row, column], condition_name(condition))
        for ax, path in zip(axes[row:, column], paths, strict=False):
            _draw_histories(ax, under(cells, condition), path, marks)
    for number, path in enumerate(paths):
        _share_scale(axes[number :: len(paths)], path)
    _end_columns(axes, len(conditions), len(paths))
    add_methods(figure, marks, methods_of(cells))
    title = " and ".join(map(metric_name, paths))
    yield Drawing("over_epochs", f"{title} over the epochs", _BAND, figure)


def against_shots(cells: Sequence[Repeats], marks: Marks) -> Iterator[Drawing]:
    """Draws few-shot accuracy against the examples per class, with intervals of 95 %."""
    cells = [cell for cell in cells if any(record.get("shots") for record in cell.records)]
    conditions = conditions_of(cells)
    if not conditions:
        return
    figure, axes = panels(len(conditions), columns=3, size=(3.5, 2.2), sharey=True)
    for ax, condition in zip(axes, conditions, strict=True):
        for i, cell in enumerate(under(cells, condition)):
            _draw_shots(ax, cell, marks[cell.method], i)
        _mark_values(ax, sorted(int(count) for count in cells[0].records[0]["shots"]))
        ax.set_xlabel("shots: labelled examples per class")
        set_title(ax, condition_name(condition))
    as_percent(axes)
    axes[0].set_ylabel("test accuracy")
    add_methods(figure, marks, methods_of(cells))
    yield Drawing("against_shots", "accuracy against shots", "Bars are intervals of 95 %.", figure)


def _numeric_axis(conditions: Sequence[Condition]) -> str | None:
    """Returns the condition with the most values, if they are numbers; the grid's first of them."""
    values = {key: [condition.get(key) for condition in conditions] for key in conditions[0]}
    numeric = {
        key: len(set(found))
        for key, found in values.items()
        if all(isinstance(each, int | float) and not isinstance(each, bool) for each in found)
    }
    axis = max(numeric, key=numeric.__getitem__, default=None)
    return axis if axis is not None and numeric[axis] > 1 else None


def _rows_along(axis: str, conditions: Sequence[Condition]) -> list[tuple[Condition, list[Number]]]:
    """Returns what else tells conditions apart, each with its values on the axis, if several."""
    rows: list[tuple[Condition, list[Number]]] = []
    for condition in conditions:
        other = {key: each for key, each in condition.items() if key != axis}
        along = [c[axis] for c in conditions if other.items() <= c.items()]
        if len(along) > 1 and other not in (known for known, _ in rows):
            rows.append((other, sorted(along)))
    return rows


def _draw_line(ax: Axes, points: Sequence[tuple[Number, np.ndarray]], mark: Mark) -> None:
    """Draws the mean of each point's numbers, and their standard deviation as a band."""
    known = sorted((x, *summarise(numbers)[:2]) for x, numbers in points if numbers.size)
    if not known:
        return
    x, mean, deviation = np.asarray(known, float).T  # no deviation of a single seed: NaN
    ax.plot(x, mean, **mark.curve(markers=len(x) <= 12))
    ax.fill_between(x, mean - deviation, mean + deviation, color=mark.colour, alpha=0.1, lw=0)


def _scale_condition(ax: Axes, values: Sequence[Number]) -> None:
    """Marks the conditions that were run; ratios such as 1, 10 and 100 stand at equal distances."""
    if values[0] > 0 and values[-1] >= 20 * values[0]:
        ax.set_xscale("log")
    _mark_values(ax, values)


def _mark_values(ax: Axes, values: Sequence[Number]) -> None:
    every = -(-len(values) // 7)
    ax.xaxis.set_major_locator(FixedLocator(list(values)[::every]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _history(cell: Repeats, path: str) -> dict[int, np.ndarray]:
    """Returns the seeds' numbers at `path` by epoch."""
    found: dict[int, list[float]] = {}
    for run in cell.runs:
        for record in run.records:
            if value(record, path) is not None:
                found.setdefault(record["epoch"], []).append(value(record, path))
    return {epoch: np.asarray(numbers) for epoch, numbers in found.items()}


def _draw_histories(ax: Axes, cells: Sequence[Repeats], path: str, marks: Marks) -> None:
    for cell in cells:
        _draw_line(ax, list(_history(cell, path).items()), marks[cell.method])
    if not ax.lines:
        ax.text(0.5, 0.5, "no wrong labels", ha="center", va="center", transform=ax.transAxes)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


def _share_scale(axes: np.ndarray, path: str) -> None:
    """Gives all panels of one metric one scale, which only the first column shows."""
    for ax in axes.flat[1:]:
        ax.sharey(axes.flat[0])
    for ax in axes[:, 1:].flat:
        ax.tick_params(labelleft=False)
    for ax in axes[:, 0]:
        ax.set_ylabel(metric_name(path))
    axes.flat[0].autoscale()
    as_percent(list(axes.flat))


def _end_columns(axes: np.ndarray, conditions: int, height: int) -> None:
    """Removes the panels after the last condition, and names the epochs below the others."""
    columns = axes.shape[1]
    for column in range(columns):
        blocks = len(range(column, conditions, columns))
        for spare in axes[blocks * height :, column]:
            spare.remove()
        bottom = axes[blocks * height - 1, column]
        bottom.set_xlabel("epoch")
        bottom.tick_params(labelbottom=True)


def _draw_shots(ax: Axes, cell: Repeats, mark: Mark, place: int) -> None:
    shots = sorted({int(count) for record in cell.records for count in record["shots"]})
    points = [_shot(cell, count) for count in shots]
    mean, interval = np.asarray(points).T
    # Moved a little to the side, so that bars do not hide each other.
    x = np.asarray(shots) * 1.02 ** (place - 1)
    ax.set_xscale("log")
    ax.errorbar(x, mean, interval, **mark.curve(), elinewidth=1, capsize=1.5)


def _shot(cell: Repeats, count: int) -> tuple[float, float]:
    """Returns mean accuracy and half of its interval: over the seeds, or of one over episodes."""
    over_seeds = summarise(cell.numbers(f"shots.{count}.accuracy"))
    if over_seeds.high is not None:
        return over_seeds.mean, over_seeds.high - over_seeds.mean
    return over_seeds.mean, float(cell.numbers(f"shots.{count}.interval").mean())
