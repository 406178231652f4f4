"""What a study found, in a few sentences made of its records."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xent_jax.reporting.names import (
    condition_name,
    is_share,
    key_name,
    lower_is_better,
    metric_name,
    shown,
)
from xent_jax.reporting.results import Cell, Ranking, Results
from xent_jax.reporting.study import Study, StudyRun, value


def describe(study: Study, results: Results) -> list[str]:
    """Returns what was compared, what came out, what did not, and on what it was trained."""
    return [
        _compared(study),
        *_missing(study.runs),
        *(_best(cells) for cells in _main_columns(study, results)),
        *_ranked(results.ranking),
        *([f"Diverged: {lost}."] if (lost := diverged(study.runs)) else []),
        _reported(study),
        *_trained_on(study.runs),
    ]


def diverged(runs: Sequence[StudyRun]) -> str:
    """Returns which runs diverged: 'GCE at noise rate 0.4 (2 runs)', or ''."""
    places: dict[str, int] = {}
    for run in runs:
        if run.status == "diverged":
            place = " at ".join(filter(None, (run.method, condition_name(run.conditions))))
            places[place] = places.get(place, 0) + 1
    return "; ".join(f"{place} ({_counted(n, 'run')})" for place, n in places.items())


def _compared(study: Study) -> str:
    methods = [method["label"] for method in study.config["methods"]]
    axes: dict[str, list[str]] = {}
    for run in study.runs:
        for key, each in run.conditions.items():
            if shown(each) not in axes.setdefault(key_name(key), []):
                axes[key_name(key)].append(shown(each))
    parts = [
        f"{_counted(len(methods), 'method')} ({', '.join(methods)})",
        *_places(study.runs, axes),
        *_fixed(study.config, axes),
        f"{_counted(study.config['seeds'], 'seed')} each",
    ]
    return f"{'; '.join(parts)}: {_counted(len(study.runs), 'run')}."


def _places(runs: Iterable[StudyRun], axes: Mapping[str, list[str]]) -> Iterable[str]:
    """Yields each axis with its values; or the conditions, where not every combination is run."""
    places = dict.fromkeys(condition_name(run.conditions) for run in runs)
    if len(places) == math.prod(map(len, axes.values())):
        yield from (f"{name} {_listed(values)}" for name, values in axes.items())
    else:
        yield f"{_counted(len(places), 'condition')} ({' / '.join(places)})"


def _fixed(config: Mapping[str, Any], axes: Mapping[str, Any]) -> Iterable[str]:
    """Yields data set and model, where they are not among the conditions."""
    for section in ("dataset", "model"):
        name = config.get(section, {}).get("name")
        if name and section not in axes:
            yield f"{section} {shown(name)}"


def _missing(runs: Sequence[StudyRun]) -> list[str]:
    missing = sum(run.status == "unfinished" for run in runs)
    if not missing:
        return []
    return [
        f"The sweep has not ended: {missing} of {_counted(len(runs), 'run')} are missing, and all "
        "that follows is of the others."
    ]


def _main_columns(study: Study, results: Results) -> Iterable[list[Cell]]:
    metric = study.config["report"]["metrics"][0]
    for i, column in enumerate(results.columns):
        if column.metric == metric:
            yield [row[i] for row in results.cells.values()]


def _best(cells: Sequence[Cell]) -> str:
    """Says which method is the best of a column, and how sure that is."""
    column = cells[0].column
    place = condition_name(column.conditions)
    start = f"With {place}," if place else "Of all methods"
    sound = [cell for cell in cells if cell.bold and cell.summary is not None]
    if not sound:
        return f"{start} no method has come to its end without diverging."
    sign = -1 if lower_is_better(column.metric) else 1
    best = max(sound, key=lambda cell: sign * cell.summary.mean if cell.summary else 0)
    assert best.summary is not None
    told = f"{start} {best.method} has the best {metric_name(column.metric)}, {_number(best)}"
    return f"{told}{_how_sure(best, sound, cells)}."


def _how_sure(best: Cell, sound: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """Continues a sentence that names the best."""
    if best.summary is None or best.summary.n < 2:
        return "; one seed cannot tell how sure that is" if len(cells) > 1 else ""
    alike = [cell.method for cell in sound if cell is not best]
    worse = [cell.p_value for cell in cells if not cell.bold and cell.p_value is not None]
    if len(alike) == len(cells) - 1 > 1:
        return "; none of the others is significantly worse"
    if alike:
        return f"; not significantly worse: {_listed(alike)}"
    if not worse:
        return ""
    p = f"≤ {max(worse):.2g}" if max(worse) >= 0.001 else "< 0.001"
    return f", significantly better than the others (p {p})"


def _number(cell: Cell) -> str:
    assert cell.summary is not None
    scale, digits, unit = (100, 2, "%") if is_share(cell.column.metric) else (1, 3, "")
    mean, sd = cell.summary.mean, cell.summary.sd
    spread = "" if sd is None else f" ± {scale * sd:.{digits}f}"
    return f"{scale * mean:.{digits}f}{unit}{spread}"


def _ranked(ranking: Ranking | None) -> list[str]:
    if ranking is None:
        return []
    best = min(ranking.average, key=ranking.average.__getitem__)
    least = ranking.average[best]
    alike = [
        method
        for method, rank in ranking.average.items()
        if method != best and rank - least < ranking.critical_difference
    ]
    told = f"not told apart from it: {_listed(alike)}" if alike else "significantly before all"
    return [
        f"Over all {ranking.conditions} conditions {best} ranks best, {least:.2f} on average; "
        f"{told} (Nemenyi, 5%)."
    ]


def _reported(study: Study) -> str:
    """Says which epoch is reported, and that test data chose nothing."""
    judge = f"alidation {metric_name(study.runs[0].judge)}"
    if study.config["report"]["epoch"] == "last":
        epoch = "All numbers are of the last epoch"
    else:
        epoch = f"All numbers are of the epoch with the best v{judge}"
    tuned = dict.fromkeys(key for run in study.runs for key in run.tuned)
    if not tuned:
        return f"{epoch}. Test data chose nothing."
    keys = _listed(map(key_name, tuned))
    return f"{epoch}. V{judge} chose {keys}; test data chose nothing."


def _trained_on(runs: Sequence[StudyRun]) -> list[str]:
    devices: dict[str, None] = {}
    for environment in environments(runs):
        device = environment.get("device", {})
        count, kind = device.get("count", 1), device.get("kind", "unknown device")
        model = environment.get("processor", {}).get("model")
        cores = environment.get("processor", {}).get("cores")
        if device.get("platform") == "cpu" and model:
            devices[f"{cores} cores of {model}"] = None
        else:
            devices[f"{count} × {kind}"] = None
    seconds = _seconds(runs)
    if not devices or not seconds:
        return []
    return [f"Trained on {_listed(devices)} in {_duration(seconds)}."]


def environments(runs: Iterable[StudyRun]) -> list[Mapping[str, Any]]:
    """Returns each environment that a run was trained in, once."""
    found: list[Mapping[str, Any]] = []
    for run in runs:
        for record in run.records:
            environment = record.get("environment")
            if environment and environment not in found:
                found.append(environment)
    return found


def _seconds(runs: Iterable[StudyRun]) -> float:
    """Returns the time of training; each run tells its own, or its share of a stack's."""
    told = ([value(record, "timing.seconds") or 0.0 for record in run.records] for run in runs)
    return math.fsum(max(each, default=0.0) for each in told)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(words: Iterable[str]) -> str:
    """Returns 'a, b and c'."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
