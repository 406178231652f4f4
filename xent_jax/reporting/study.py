"""A study's folder, read: which runs there are, what each measured and which are reported."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from xent_jax.errors import UserError
from xent_jax.reporting import records

Record = Mapping[str, Any]


class StudyRun(NamedTuple):
    """One cell of the grid with one seed, and what it measured."""

    id: str
    method: str  # the label shown
    conditions: dict[str, Any]  # by dotted key of the config: {"corruption.rate": 0.4}
    tuned: dict[str, Any]  # likewise, the hyper-parameters that validation chooses
    seed: int
    config: dict[str, Any]  # the whole training config
    command: str  # repeats this run alone
    records: tuple[Record, ...]  # one per evaluated epoch, oldest first
    judge: str = "accuracy"  # of the validation examples, by which the study chooses

    @property
    def status(self) -> str:
        """'finished', 'diverged' or 'unfinished'."""
        last = self.records[-1] if self.records else {}
        if last.get("diverged"):
            return "diverged"
        return "finished" if last.get("epoch", -1) >= self.config["epochs"] else "unfinished"


class Study(NamedTuple):
    """All that a report is made from."""

    folder: Path
    config: dict[str, Any]  # the study's own: seeds, methods, grid, tune, report and more
    runs: tuple[StudyRun, ...]  # in the order of the grid


def load_study(folder: str | os.PathLike[str]) -> Study:
    """Reads a sweep's folder: `runs.json`, and every `records.jsonl` below `groups`.

    A line that stands there twice, as where a chunk was begun anew, counts once: the last read.

    Raises:
      UserError: no such folder, or no sweep's, or one whose files are damaged.
    """
    folder = Path(folder)
    config, runs = _listed(folder)
    measured: dict[str, dict[int, Record]] = {run.id: {} for run in runs}
    for path in sorted((folder / "groups").rglob("records.jsonl")):
        for record in records.read(path):
            run, epoch = record.get("run"), record.get("epoch")
            if run not in measured or epoch is None:
                raise UserError(
                    f"{path} holds a line of run {run!r}, epoch {epoch!r}, which is none of "
                    f"{folder / 'runs.json'}; delete that line"
                )
            measured[run][epoch] = record
    ordered = {
        run: tuple(lines[epoch] for epoch in sorted(lines)) for run, lines in measured.items()
    }
    return Study(folder, config, tuple(run._replace(records=ordered[run.id]) for run in runs))


def value(record: Record, path: str) -> Any:
    """Returns what stands at a dotted path, 'shots.1.accuracy', or None if nothing does."""
    found: Any = record
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def reported_record(run: StudyRun, epoch_rule: str) -> Record | None:
    """Returns the record that a report takes a run's numbers from, or None if it has no end yet.

    Neither a diverged nor an unfinished run has one. The test set never chooses an epoch.

    Args:
      run: of which.
      epoch_rule: 'last', or 'validation': the first epoch of the best validation accuracy, or
        balanced accuracy where the study is about that.

    Raises:
      UserError: another rule, or nothing was validated.
    """
    if epoch_rule not in ("last", "validation"):
        raise UserError(f"config.report.epoch={epoch_rule!r} must be 'last' or 'validation'")
    if run.status != "finished":
        return None
    if epoch_rule == "last":
        return run.records[-1]
    return max(run.records, key=partial(_validated, run))


def chosen(study: Study) -> tuple[StudyRun, ...]:
    """Returns the runs that are reported: for each method and condition, one choice of `tuned`.

    It is the choice of the highest mean validation accuracy over the seeds, balanced where the
    study's main metric is, at the epoch that is reported. One that fewer seeds finished loses
    against one that more did, and of two that are equal the grid's first is taken. The test set
    never chooses.

    Raises:
      UserError: there is something to choose, and nothing was validated.
    """
    rule = study.config["report"]["epoch"]
    kept: set[str] = set()
    for cell in _grouped(study.runs, lambda run: (run.method, run.conditions)):
        choices = _grouped(cell, lambda run: run.tuned)
        best = max(choices, key=lambda runs: _score(runs, rule)) if len(choices) > 1 else cell
        kept.update(run.id for run in best)
    return tuple(run for run in study.runs if run.id in kept)


def _score(runs: Iterable[StudyRun], rule: str) -> tuple[int, float]:
    ends = [(run, reported_record(run, rule)) for run in runs]
    found = [_validated(run, record) for run, record in ends if record is not None]
    return len(found), sum(found) / max(len(found), 1)


def _validated(run: StudyRun, record: Record) -> float:
    accuracy = value(record, f"validation.{run.judge}")
    if accuracy is None:
        raise UserError(
            "nothing was validated, by which an epoch or a hyper-parameter could be chosen: set "
            "config.dataset.validation_examples and sweep again, or choose nothing "
            "(config.report.epoch='last' and no tune)"
        )
    return accuracy


def _grouped(
    runs: Iterable[StudyRun], key: Callable[[StudyRun], Any]
) -> list[tuple[StudyRun, ...]]:
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True), []).append(run)
    return [tuple(group) for group in groups.values()]


def _listed(folder: Path) -> tuple[dict[str, Any], list[StudyRun]]:
    path = folder / "runs.json"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name one that experiments.sweep wrote")
    if not path.is_file():
        raise UserError(
            f"{folder} is no sweep's folder: it holds no runs.json; "
            "name one that experiments.sweep wrote"
        )
    try:
        listed = json.loads(path.read_text())
        main = listed["config"]["report"]["metrics"][0]
        judge = "balanced_accuracy" if main.endswith(".balanced_accuracy") else "accuracy"
        runs = [StudyRun(**run, records=(), judge=judge) for run in listed["runs"]]
        if any("epochs" not in run.config for run in runs):
            raise KeyError("epochs")
        return listed["config"], runs
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); delete it and run the sweep's command again, "
            "which writes it anew"
        ) from None
