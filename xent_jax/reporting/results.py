"""A study's numbers: every method under every condition, compared over the seeds and ranked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xent_jax.errors import UserError, nearest
from xent_jax.reporting import names, published, statistics
from xent_jax.reporting.study import Study, StudyRun, chosen, reported_record, value
from xent_jax.typing import Float


class Column(NamedTuple):
    """What is compared between methods."""

    conditions: Mapping[str, Any]  # by dotted key of the config
    metric: str  # dotted, into a record


class Cell(NamedTuple):
    """What the seeds of one method measured of one column."""

    method: str
    column: Column
    summary: statistics.Summary | None  # of the runs that finished; None if none did
    runs: int  # how many there are to be
    diverged: int  # how many of them ended so, or with a value that is not finite
    unfinished: int
    bold: bool  # the best, or not significantly worse
    p_value: float | None  # against the best, Holm-corrected within the column
    rank: float | None  # in the column; cells with diverged runs rank last
    published: float | None  # likewise a share, or whatever the metric is

    @property
    def difference(self) -> float | None:
        """Our mean minus the published number, where there are both."""
        if self.summary is None or self.published is None:
            return None
        return self.summary.mean - self.published


class Ranking(NamedTuple):
    """How methods rank on average over the conditions in which all of them have a rank."""

    metric: str
    average: dict[str, float]  # by method; 1 is the best there can be
    conditions: int
    friedman: statistics.Friedman
    critical_difference: float  # Nemenyi's


class Results(NamedTuple):
    """All cells of a study."""

    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: dict[str, tuple[Cell, ...]]  # by method, one per column
    rankings: dict[str, Ranking]  # by metric, where there are two methods and two conditions
    published: published.Published | None  # what stands beside ours

    @property
    def ranking(self) -> Ranking | None:
        """That of the main metric."""
        return self.rankings.get(self.columns[0].metric) if self.columns else None


def measure(study: Study) -> Results:
    """Computes what a study found, from the records that its config says are reported.

    A mean is taken over the runs that finished, which flatters a method whose other runs diverged.
    So a cell with a diverged run is never bold, compares with nothing and ranks behind those
    without, whatever its mean.

    Raises:
      UserError: an unknown metric or published table, or nothing to choose an epoch or a
        hyper-parameter by.
    """
    report, runs = study.config["report"], chosen(study)
    table = _published(report.get("published", ""))
    _check_metrics(report["metrics"], runs, report["epoch"])
    methods = tuple(dict.fromkeys(run.method for run in runs))
    measured = [
        _cells(methods, column, runs, report["epoch"], table)
        for column in _columns(runs, report["metrics"])
    ]
    # Nothing is memorised where no label is wrong: such a column has no values, and never will.
    measured = [cells for cells in measured if any(map(_tells, cells))]
    return Results(
        methods,
        columns=tuple(cells[0].column for cells in measured),
        cells={method: tuple(column[i] for column in measured) for i, method in enumerate(methods)},
        rankings=_rankings(methods, measured),
        published=table,
    )


def _columns(runs: Iterable[StudyRun], metrics: Iterable[str]) -> list[Column]:
    places: list[Mapping[str, Any]] = []
    for run in runs:
        if run.conditions not in places:
            places.append(run.conditions)
    return [Column(place, metric) for place in places for metric in metrics]


def _published(name: str) -> published.Published | None:
    if not name:
        return None
    if name not in published.PUBLISHED:
        raise UserError(
            f"config.report.published={name!r} is not known{nearest(name, published.PUBLISHED)}; "
            f"'' or one of: {', '.join(published.PUBLISHED)}"
        )
    return published.PUBLISHED[name]


def _check_metrics(metrics: Sequence[str], runs: Iterable[StudyRun], rule: str) -> None:
    ends = [record for run in runs if (record := reported_record(run, rule)) is not None]
    known = {path for record in ends for path in _numbers(record)}
    for metric in metrics:
        if ends and metric not in known:
            raise UserError(
                f"config.report.metrics: no record holds {metric!r}{nearest(metric, known)}; "
                f"they hold {', '.join(sorted(known))}"
            )


def _numbers(record: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yields the dotted paths of a record's numbers, but those of where and how long it ran."""
    for key, item in record.items():
        if isinstance(item, Mapping) and prefix + key not in ("environment", "embedding"):
            yield from _numbers(item, f"{prefix}{key}.")
        elif prefix and isinstance(item, int | float):
            yield prefix + key


def _tells(cell: Cell) -> bool:
    return cell.summary is not None or cell.diverged + cell.unfinished > 0


def _cells(
    methods: Sequence[str],
    column: Column,
    runs: Iterable[StudyRun],
    rule: str,
    table: published.Published | None,
) -> list[Cell]:
    """Returns a column's cells, a method each."""
    here = [run for run in runs if run.conditions == column.conditions]
    of = {method: [run for run in here if run.method == method] for method in methods}
    values = {method: _values(of[method], column.metric, rule) for method in methods}
    cells = [_cell(method, column, of[method], values[method], table) for method in methods]
    sound = {cell.method: values[cell.method] for cell in cells if not cell.diverged}
    lower = names.lower_is_better(column.metric)
    compared = statistics.compare(sound, lower_is_better=lower)
    ranks = _ranks(cells, lower)
    return [
        cell._replace(
            bold=cell.method in compared.not_worse,
            p_value=compared.p_values.get(cell.method),
            rank=ranks.get(cell.method),
        )
        for cell in cells
    ]


def _values(runs: Iterable[StudyRun], metric: str, rule: str) -> dict[int, float]:
    """Returns the values of the runs that finished, by seed."""
    ends = {run.seed: reported_record(run, rule) for run in runs}
    told = {seed: value(record, metric) for seed, record in ends.items() if record is not None}
    # An accuracy over no examples, such as of medium classes where there are none, is no value.
    empty = metric.endswith("accuracy")
    return {
        seed: float(x)
        for seed, x in told.items()
        if x is not None and not (empty and math.isnan(x))
    }


def _cell(
    method: str,
    column: Column,
    runs: Sequence[StudyRun],
    values: Mapping[int, float],
    table: published.Published | None,
) -> Cell:
    finite = [x for x in values.values() if math.isfinite(x)]
    status = [run.status for run in runs]
    return Cell(
        method,
        column,
        summary=statistics.summarise(finite) if finite else None,
        runs=len(runs),
        diverged=status.count("diverged") + len(values) - len(finite),
        unfinished=status.count("unfinished"),
        bold=False,
        p_value=None,
        rank=None,
        published=_published_value(method, column, runs, table),
    )


def _published_value(
    method: str, column: Column, runs: Sequence[StudyRun], table: published.Published | None
) -> float | None:
    if table is None or not runs:
        return None
    found = published.find(table, method, column.conditions, runs[0].config, column.metric)
    return None if found is None else found.percent / 100


def _ranks(cells: Iterable[Cell], lower_is_better: bool) -> dict[str, float]:
    keys: dict[str, tuple[float, float]] = {}
    for cell in cells:
        if cell.summary is not None or cell.diverged:
            mean = cell.summary.mean if cell.summary else 0.0
            keys[cell.method] = (-cell.diverged / cell.runs, -mean if lower_is_better else mean)
    order = sorted(set(keys.values()))
    places = np.asarray([[order.index(key) for key in keys.values()]], float)
    return dict(zip(keys, statistics.ranks(places)[0].tolist(), strict=True)) if keys else {}


def _rankings(methods: Sequence[str], measured: Iterable[Sequence[Cell]]) -> dict[str, Ranking]:
    ranks: dict[str, list[list[float]]] = {}
    for cells in measured:
        row = [cell.rank for cell in cells if cell.rank is not None]
        if len(row) == len(methods):  # Methods are compared where all of them were.
            ranks.setdefault(cells[0].column.metric, []).append(row)
    found = {metric: _ranking(metric, methods, np.asarray(rows)) for metric, rows in ranks.items()}
    return {metric: ranking for metric, ranking in found.items() if ranking is not None}


def _ranking(
    metric: str, methods: Sequence[str], ranks: Float[np.ndarray, "conditions methods"]
) -> Ranking | None:
    friedman = statistics.friedman(ranks)
    if friedman is None:
        return None
    return Ranking(
        metric=metric,
        average=dict(zip(methods, ranks.mean(axis=0).tolist(), strict=True)),
        conditions=len(ranks),
        friedman=friedman,
        critical_difference=statistics.critical_difference(len(methods), len(ranks)),
    )
