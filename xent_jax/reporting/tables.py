"""A study's tables: its results, published ones beside them, and what validation chose."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

from xent_jax.reporting import names, statistics
from xent_jax.reporting.results import Cell, Column, Results, measure
from xent_jax.reporting.study import Study, StudyRun, chosen, reported_record, value
from xent_jax.reporting.typesetting import Table, Text

_LEVEL = f"{statistics.LEVEL:.0%}"
_MISSING = "–"
_ELSEWHERE = "†"  # a published number that is not from the source named


def make_tables(study: Study) -> list[Table]:
    """Returns the tables of a study, the main one first.

    The results are one table, or one per metric where there are several conditions, too. The
    others are there if they hold anything.

    Raises:
      UserError: as `results.measure` does.
    """
    results = measure(study)
    metrics = list(dict.fromkeys(column.metric for column in results.columns))
    places = _distinct(column.conditions for column in results.columns)
    apart = [[metric] for metric in metrics] if len(places) > 1 else [metrics]
    tables = [_results_table(study, results, group, i == 0) for i, group in enumerate(apart)]
    if _compared(results):
        tables.append(_published_table(results))
    if any(run.tuned for run in study.runs):
        tables.append(_chosen_table(study))
    return tables


def _results_table(study: Study, results: Results, metrics: Sequence[str], is_main: bool) -> Table:
    kept = [i for i, column in enumerate(results.columns) if column.metric in metrics]
    ranking = results.rankings.get(metrics[0]) if len(metrics) == 1 else None
    cells = {method: [row[i] for i in kept] for method, row in results.cells.items()}
    rows = [
        (
            Text(method),
            *(Text(_told(cell), cell.bold) for cell in row),
            *([Text(f"{ranking.average[method]:.2f}")] if ranking else []),
        )
        for method, row in cells.items()
    ]
    told = [cell for row in cells.values() for cell in row]
    title = study.config["report"]["title"] or "Results"
    return Table(
        name="results" if is_main else f"results_{metrics[0].replace('.', '_')}",
        title=title if is_main else f"{title}: {names.metric_name(metrics[0])}",
        caption=_results_caption(study, results, metrics, told),
        header=(
            "method",
            *_headings([results.columns[i] for i in kept]),
            *(["average rank"] if ranking else []),
        ),
        rows=tuple(rows),
        labels=1,
        records=tuple(map(_record, told)),
    )


def _published_table(results: Results) -> Table:
    """Returns three rows per method: ours, the published number and the difference."""
    compared = _compared(results)
    places = [cell.column for cell in compared]
    kept = [i for i, column in enumerate(results.columns) if column in places]
    rows = []
    for method in dict.fromkeys(cell.method for cell in compared):
        row = [results.cells[method][i] for i in kept]
        rows.append((Text(method), Text("ours"), *(Text(_told(cell)) for cell in row)))
        theirs = (Text(_quoted(cell, results)) for cell in row)
        rows.append((Text(method), Text("published"), *theirs))
        rows.append((Text(method), Text("difference"), *(Text(_gap(cell)) for cell in row)))
    return Table(
        name="published",
        title="Beside published results",
        caption=_published_caption(results),
        header=("method", "", *_headings([results.columns[i] for i in kept])),
        rows=tuple(rows),
        labels=2,
        records=tuple(map(_record, compared)),
    )


def _chosen_table(study: Study) -> Table:
    tuned = [run for run in chosen(study) if run.tuned]
    places = _distinct(run.conditions for run in tuned)
    rows, records = [], []
    for method in dict.fromkeys(run.method for run in tuned):
        cells = [
            [run for run in tuned if (run.method, run.conditions) == (method, place)]
            for place in places
        ]
        told = (names.condition_name(runs[0].tuned) if runs else _MISSING for runs in cells)
        rows.append((Text(method), *map(Text, told)))
        records += [_choice(runs, study.config["report"]["epoch"]) for runs in cells if runs]
    return Table(
        name="chosen",
        title="Hyper-parameters chosen",
        caption=_chosen_caption(study),
        header=("method", *(names.condition_name(place) or "chosen" for place in places)),
        rows=tuple(rows),
        labels=1,
        records=tuple(records),
    )


def _compared(results: Results) -> list[Cell]:
    cells = (cell for row in results.cells.values() for cell in row)
    return [cell for cell in cells if cell.published is not None]


def _distinct(conditions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in dict.fromkeys(map(json.dumps, conditions))]


def _headings(columns: Sequence[Column]) -> list[str]:
    """Returns what tells the columns apart: their conditions, their metrics or both."""
    several = len({column.metric for column in columns}) > 1
    headings = []
    for conditions, metric in columns:
        name = names.metric_name(metric) + (" ↓" if names.lower_is_better(metric) else "")
        place = names.condition_name(conditions)
        headings.append(f"{place}, {name}" if several and place else place or name)
    return headings


def _number(number: float, metric: str) -> str:
    return f"{100 * number:.2f}" if names.is_share(metric) else f"{number:.3f}"


def _told(cell: Cell) -> str:
    """Returns '98.60 ± 0.05', and what is to be known of runs that are not in it."""
    notes = []
    if cell.diverged:
        notes.append(f"{cell.diverged} of {cell.runs} diverged")
    if cell.unfinished:
        notes.append(f"{cell.unfinished} of {cell.runs} unfinished")
    if cell.summary is None:
        return ", ".join(notes) or _MISSING
    told = _number(cell.summary.mean, cell.column.metric)
    if cell.summary.sd is not None:
        told += f" ± {_number(cell.summary.sd, cell.column.metric)}"
    return told + (f" ({', '.join(notes)})" if notes else "")


def _quoted(cell: Cell, results: Results) -> str:
    if cell.published is None or results.published is None:
        return _MISSING
    mark = _ELSEWHERE if cell.method in results.published.others else ""
    return f"{100 * cell.published:.{results.published.decimals}f}{mark}"


def _gap(cell: Cell) -> str:
    if cell.difference is None:
        return _MISSING
    return f"{100 * cell.difference:+.2f}".replace("-", "−")


def _record(cell: Cell) -> dict[str, Any]:
    summary = cell.summary
    return {
        "method": cell.method,
        **cell.column.conditions,
        "metric": cell.column.metric,
        "mean": summary and summary.mean,
        "sd": summary and summary.sd,
        "n": summary.n if summary else 0,
        "low": summary and summary.low,
        "high": summary and summary.high,
        "rank": cell.rank,
        "p_value": cell.p_value,
        "bold": cell.bold,
        "runs": cell.runs,
        "diverged": cell.diverged,
        "unfinished": cell.unfinished,
        "published": cell.published,
        "difference": cell.difference,
    }


def _choice(runs: Sequence[StudyRun], rule: str) -> dict[str, Any]:
    ends = [record for run in runs if (record := reported_record(run, rule)) is not None]
    told = [x for record in ends if (x := value(record, "validation.accuracy")) is not None]
    where = {"method": runs[0].method, **runs[0].conditions, **runs[0].tuned}
    mean = sum(told) / len(told) if told else None
    return where | {"validation.accuracy": mean, "n": len(told)}


def _results_caption(
    study: Study, results: Results, metrics: Sequence[str], cells: Sequence[Cell]
) -> str:
    seeds = max((cell.runs for cell in cells), default=0)
    sentences = [_what_is_shown(study, metrics, seeds), _what_bold_means(seeds)]
    if seeds > 1 and cells and all(cell.bold for cell in cells):
        sentences.append(f"With {seeds} seeds no difference is significant.")
    if len(metrics) == 1 and metrics[0] in results.rankings:
        sentences.append(_what_ranks_mean(results, metrics[0]))
    if any(cell.diverged for cell in cells):
        sentences.append(
            "Means are of the runs that did not diverge; where some did, a cell is not bold and "
            "ranks behind those where none did."
        )
    if any(cell.unfinished for cell in cells):
        sentences.append("The sweep has not ended: all this is of the runs so far.")
    if results.published and not _compared(results):
        sentences.append(
            f"{results.published.source}, reports nothing of these methods and conditions."
        )
    return " ".join(sentences)


def _what_is_shown(study: Study, metrics: Sequence[str], seeds: int) -> str:
    told = " and ".join(
        names.metric_name(metric) + (" in percent" if names.is_share(metric) else "")
        for metric in metrics
    )
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    last = study.config["report"]["epoch"] == "last"
    best = f"the epoch of the best validation {names.metric_name(study.runs[0].judge)}"
    epoch = "the last epoch" if last else best
    sentence = f"{told[:1].upper()}{told[1:]}: {spread}, at {epoch}."
    if seeds > 1:
        factor = stats.t.ppf(1 - statistics.LEVEL / 2, seeds - 1) / math.sqrt(seeds)
        sentence += f" The 95% interval of a mean is ± {factor:.2f} standard deviations."
    if any(map(names.lower_is_better, metrics)):
        sentence += " ↓: less is better." if len(metrics) > 1 else " Less is better."
    return sentence


def _what_bold_means(seeds: int) -> str:
    if seeds == 1:
        return "Bold: the best of a column; one seed can tell neither deviations nor significance."
    return (
        "Bold: the best of a column, and those not significantly worse (two-sided paired t-test "
        f"against the best over the seeds, Holm-corrected within the column, {_LEVEL})."
    )


def _what_ranks_mean(results: Results, metric: str) -> str:
    ranking = results.rankings[metric]
    p = ranking.friedman.p_value
    return (
        f"Average rank: over {ranking.conditions} conditions, 1 being the best (Friedman's test: "
        f"p {f'= {p:.2g}' if p >= 0.001 else '< 0.001'}); ranks that differ by less than "
        f"{ranking.critical_difference:.2f} do not differ significantly (Nemenyi, {_LEVEL})."
    )


def _published_caption(results: Results) -> str:
    source = results.published
    assert source is not None  # else nothing was compared
    sentences = [
        "In percent, and differences in points.",
        f"Published: {source.source}, {source.url}.",
        f"Protocol: {source.protocol}.",
    ]
    if source.recalled:
        sentences.append("The published numbers are quoted from memory and not yet confirmed.")
    methods = dict.fromkeys(cell.method for cell in _compared(results))
    for place in dict.fromkeys(source.others[m] for m in methods if m in source.others):
        whose = ", ".join(m for m in methods if source.others.get(m) == place)
        sentences.append(f"{_ELSEWHERE} {whose}: {place}.")
    return " ".join(sentences)


def _chosen_caption(study: Study) -> str:
    """Says by what was chosen, and between what."""
    of: dict[str, list[str]] = {}
    for method in dict.fromkeys(run.method for run in study.runs if run.tuned):
        values = _tried(run.tuned for run in study.runs if run.method == method)
        of.setdefault(values, []).append(method)
    tried = (f"{', '.join(methods)}: {values}" for values, methods in of.items())
    judge = names.metric_name(study.runs[0].judge)
    return (
        f"For each method and condition, what has the best mean validation {judge} over the "
        "seeds; validation labels are as wrong as training's, and the test set chose nothing. "
        f"Tried for {'. For '.join(tried)}."
    )


def _tried(choices: Iterable[Mapping[str, Any]]) -> str:
    values: dict[str, dict[str, None]] = {}
    for choice in choices:
        for key, each in choice.items():
            values.setdefault(names.key_name(key), {})[names.shown(each)] = None
    return "; ".join(f"{key} {', '.join(each)}" for key, each in values.items())
