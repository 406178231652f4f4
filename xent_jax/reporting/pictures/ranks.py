"""The critical-difference diagram: which methods' average ranks differ over all conditions."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xent_jax.reporting.names import metric_name
from xent_jax.reporting.pictures.style import COLUMN, FULL, Drawing
from xent_jax.reporting.plots import INK
from xent_jax.reporting.results import Ranking

# Inches: from one method's line to the next, from one bar to the next, and above the axis.
_ROW, _BAR, _TOP = 0.16, 0.08, 0.55


def average_ranks(ranking: Ranking) -> Drawing:
    """Draws the critical-difference diagram of a ranking."""
    figure = critical_difference_diagram(ranking.average, ranking.critical_difference)
    told = (
        f"By {metric_name(ranking.metric)}, averaged over {ranking.conditions} conditions; 1 is "
        "the best. A bar joins methods whose ranks differ by less than Nemenyi's critical "
        "difference: they are not told apart."
    )
    return Drawing("average_ranks", "average ranks", told, figure)


def critical_difference_diagram(ranks: Mapping[str, float], difference: float) -> Figure:
    """Draws each method at its average rank, 1 being the best, and bars over those alike.

    Methods under one bar lie no further apart than the critical difference, whose length stands
    above the axis. Half of the names stand to the left, half to the right.

    Reference: Demsar, 2006, "Statistical comparisons of classifiers over multiple data sets",
    figure 1.
    """
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    count, left = len(ordered), -(-len(ordered) // 2)
    bars = alike([rank for _, rank in ordered], difference)
    first_row = _BAR * (len(bars) + 1) + 0.06
    width, height = (COLUMN if count <= 8 else FULL), _TOP + first_row + _ROW * left
    margin = 0.6 + 0.058 * max(map(len, ranks))  # for a name and its rank

    def place(rank: int | float) -> float:
        return margin + (rank - 1) / (count - 1) * (width - 2 * margin)

    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(_TOP - height, _TOP))
    figure.set_layout_engine("none")  # All is placed in inches.
    ax.set_axis_off()
    _draw_axis(ax, place, count, difference)
    for i, (name, rank) in enumerate(ordered):
        row = i if i < left else count - 1 - i
        end = margin - 0.06 if i < left else width - margin + 0.06
        _draw_method(ax, f"{name}  {rank:.2f}", place(rank), end, -first_row - _ROW * row)
    for i, (first, last) in enumerate(bars, start=1):
        ends = (place(ordered[first][1]) - 0.04, place(ordered[last][1]) + 0.04)
        ax.plot(
            ends,
            (-_BAR * i, -_BAR * i),
            color=INK,
            linestyle="-",
            linewidth=2.6,
            solid_capstyle="butt",
        )
    return figure


def alike(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Returns first and last of each longest stretch of ascending ranks within the difference."""
    stretches: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank <= difference)
        if last > first and (not stretches or last > stretches[-1][1]):
            stretches.append((first, last))
    return stretches


def _draw_axis(
    ax: Axes, place: Callable[[int | float], float], count: int, difference: float
) -> None:
    ax.plot((place(1), place(count)), (0, 0), color=INK, linestyle="-", linewidth=0.8)
    for rank in range(1, count + 1):
        ax.plot((place(rank), place(rank)), (0, 0.05), color=INK, linestyle="-", linewidth=0.8)
        ax.text(place(rank), 0.08, str(rank), ha="center", va="bottom", size=7)
    ends, height = (place(1), place(min(1 + difference, count))), 0.32
    ax.plot(
        ends, (height, height), color=INK, linestyle="-", linewidth=0.8, marker="|", markersize=4
    )
    more = "" if 1 + difference <= count else " (longer than the axis)"
    told = f"critical difference {difference:.2f}{more}"
    ax.text(ends[0], height + 0.05, told, va="bottom", size=7)


def _draw_method(ax: Axes, name: str, x: float, end: float, y: float) -> None:
    """Draws the line from the axis down to the method's row, and to the side to its name."""
    ax.plot(
        (x, x, end), (0, y, y), color=INK, linestyle="-", linewidth=0.8, solid_joinstyle="miter"
    )
    side = -0.04 if end < x else 0.04
    ax.text(end + side, y, name, ha="right" if end < x else "left", va="center")
