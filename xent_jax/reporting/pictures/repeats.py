"""What is drawn: the finished runs of each method under each condition, which seeds repeat."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xent_jax.reporting.study import Record, Study, StudyRun, chosen, reported_record, value

Condition = dict[str, Any]


class Repeats(NamedTuple):
    """The runs of one method under one condition, a seed each, that came to their end."""

    method: str
    condition: Condition
    runs: tuple[StudyRun, ...]
    records: tuple[Record, ...]  # that each run reports

    def numbers(self, path: str) -> np.ndarray:
        """Returns what stands at `path` in the records that hold it: a row per run."""
        found = [value(record, path) for record in self.records]
        return np.asarray([each for each in found if each is not None], float)


def repeats_of(study: Study) -> list[Repeats]:
    """Returns each method under each condition, in the grid's order, if a run of it finished."""
    rule = study.config["report"]["epoch"]
    found: dict[str, Repeats] = {}  # Seeds that a study has grown by are not beside the others.
    for run in chosen(study):
        record = reported_record(run, rule)
        if record is None:
            continue
        cell = json.dumps([run.method, run.conditions], sort_keys=True)
        last = found.get(cell, Repeats(run.method, run.conditions, (), ()))
        found[cell] = last._replace(runs=(*last.runs, run), records=(*last.records, record))
    return list(found.values())


def methods_of(cells: Sequence[Repeats]) -> list[str]:
    """Returns each method once, in the grid's order."""
    return list(dict.fromkeys(cell.method for cell in cells))


def conditions_of(cells: Sequence[Repeats]) -> list[Condition]:
    """Returns each condition once, in the grid's order."""
    found: list[Condition] = []
    for cell in cells:
        if cell.condition not in found:
            found.append(cell.condition)
    return found


def under(cells: Sequence[Repeats], condition: Condition) -> list[Repeats]:
    """Returns those of one condition, or of all that agree with a part of one."""
    return [cell for cell in cells if condition.items() <= cell.condition.items()]
