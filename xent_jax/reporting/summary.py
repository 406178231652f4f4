"""The end of a command: a few lines of results, and where everything lies, from records alone."""

import contextlib
from pathlib import Path
from typing import Any

from xent_jax.reporting import plots, records

Record = dict[str, Any]

# Each column is shown where every run has it.
_COLUMNS = {
    "test accuracy": lambda record: f"{record['test']['accuracy']:.2%}",
    "test perplexity": lambda record: f"{record['test']['perplexity']:.3f}",
    "bits per byte": lambda record: f"{record['test']['bits_per_byte']:.4f}",
    "calibration error": lambda record: f"{record['test']['expected_calibration_error']:.2%}",
    "temperature": lambda record: f"{record['calibrated']['temperature']:.2f}",
    "calibration error with it": lambda record: (
        f"{record['calibrated']['expected_calibration_error']:.2%}"
    ),
    "wrong labels memorised": lambda record: f"{record['wrong_labels']['memorised']:.1%}",
    "training time": lambda record: f"{record['timing']['seconds']:.1f} s",
}


def find_runs(workdir: Path) -> dict[Path, list[Record]]:
    """Returns the records of every run in `workdir` or in a folder of it, by the run's folder."""
    paths = [*sorted(workdir.glob("records.jsonl")), *sorted(workdir.glob("*/records.jsonl"))]
    found = {path.parent: records.read(path) for path in paths}
    return {folder: lines for folder, lines in found.items() if lines}


def summarise(workdir: Path) -> str:
    """Draws the runs in `workdir` and returns a table of their last records, and all paths."""
    runs = find_runs(workdir)
    if not runs:
        return f"no records in {workdir} yet"
    last = {folder: lines[-1] for folder, lines in runs.items()}
    pictures = [workdir / "learning_curve.png"]
    plots.learning_curve({lines[-1]["run"]: lines for lines in runs.values()}, pictures[0])
    for folder, record in last.items():
        if "confusion_matrix" in record["test"]:
            pictures.append(folder / "confusion_matrix.png")
            plots.confusion_matrix(
                record["test"]["confusion_matrix"],
                record.get("classes"),
                pictures[-1],
                title=record["run"],
            )
        if "reliability" in record["test"]:
            pictures.append(folder / "reliability.png")
            count, accuracy, confidence = record["test"]["reliability"]
            plots.reliability_diagram(
                count, accuracy, confidence, pictures[-1], title=record["run"]
            )
    lines = [*_table(list(last.values())), ""]
    lines += _paths("records", [folder / "records.jsonl" for folder in runs])
    lines += _paths("checkpoints", [folder / "checkpoints" for folder in runs])
    lines += _paths("pictures", pictures)
    return "\n".join(lines)


def _table(rows: list[Record]) -> list[str]:
    heading = f"after epoch {rows[-1]['epoch']}"
    columns = [[heading, *(row["run"] for row in rows)]]
    for name, cell in _COLUMNS.items():
        with contextlib.suppress(KeyError, TypeError):
            columns.append([name, *map(cell, rows)])
    widths = [max(map(len, column)) for column in columns]
    justify = [str.ljust] + [str.rjust] * (len(columns) - 1)
    return [
        "  ".join(
            just(cell, width) for just, cell, width in zip(justify, line, widths, strict=True)
        )
        for line in zip(*columns, strict=True)
    ]


def _paths(name: str, paths: list[Path]) -> list[str]:
    names = [name, *[""] * (len(paths) - 1)]
    return [f"{name:<13}{path}" for name, path in zip(names, paths, strict=True)]
