"""A small study's folder as a sweep leaves it, with numbers that were made up."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("CE", "GCE", "SCE")
NOISE = {"corruption.rate": (0.0, 0.4, 0.8)}
CLASSES = 4


def write_study(
    folder: Path,
    *,
    methods: Iterable[str] = METHODS,
    conditions: Mapping[str, tuple[Any, ...]] = NOISE,
    tuned: Mapping[str, tuple[Any, ...]] | None = None,
    seeds: int = 3,
    epochs: int = 4,
    report: Mapping[str, Any] | None = None,
    diverged: Iterable[str] = (),
    unfinished: Iterable[str] = (),
    validated: bool = True,
    few_shot: bool = False,
) -> Path:
    """Writes runs.json and groups/, and returns the folder.

    Run ids tell what a run is, 'GCE-0.4-1' (method, conditions, tuned values, seed), and may be
    named in `diverged` and `unfinished`. The first condition costs accuracy, the last method most
    of all; `tuned` values are best in the middle, by validation as by test. Every epoch and seed
    differs a little.
    """
    methods, tuned = tuple(methods), tuned or {}
    grid = [*itertools.product(methods, *conditions.values(), *tuned.values(), range(seeds))]
    runs = []
    for method, *values, seed in grid:
        split = len(conditions)
        run = {
            "id": "-".join(map(str, (method, *values, seed))),
            "method": method,
            "conditions": dict(zip(conditions, values[:split], strict=True)),
            "tuned": dict(zip(tuned, values[split:], strict=True)),
            "seed": seed,
        }
        run["config"] = {"seed": seed, "epochs": epochs, "corruption": {"name": "symmetric"}}
        for key, value in (run["conditions"] | run["tuned"]).items():
            section, _, name = key.rpartition(".")
            run["config"].setdefault(section, {})[name] = value
        run["command"] = f"python -m experiments.sweep --config=c.py --only=id={run['id']}"
        runs.append(run)
    config = {
        "seed": 0,
        "seeds": seeds,
        "epochs": epochs,
        "dataset": {"name": "digits", "validation_examples": 100 if validated else 0},
        "model": {"name": "mlp"},
        "methods": [{"label": method} for method in methods],
        "grid": _nested(conditions),
        "tune": _nested(tuned),
        "report": {
            "title": "A small study",
            "metrics": ["shots.1.accuracy", "shots.5.accuracy"] if few_shot else ["test.accuracy"],
            "epoch": "last",
            "published": "",
        }
        | dict(report or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.json").write_text(json.dumps({"config": config, "runs": runs}, indent=2))
    for number, run in enumerate(runs):
        quality = _quality(run, methods, tuned)
        lines = (_shots if few_shot else _noisy)(run, quality, epochs, validated)
        if run["id"] in diverged:
            end = {"epoch": epochs // 2, "step": 10 * (epochs // 2), "diverged": True}
            lines = [*lines[: epochs // 2 - 1], {"run": run["id"], **end}]
        if run["id"] in unfinished:
            lines = lines[: epochs // 2]
        _append(folder / "groups" / "mlp" / str(number % 2) / "records.jsonl", lines)
    return folder


def _nested(axes: Mapping[str, tuple[Any, ...]]) -> dict[str, dict[str, list]]:
    made: dict[str, dict[str, list]] = {}
    for key, values in axes.items():
        section, _, name = key.rpartition(".")
        made.setdefault(section, {})[name] = list(values)
    return made


def _quality(run: dict, methods: tuple[str, ...], tuned: Mapping[str, tuple]) -> float:
    hardness = next((x for x in run["conditions"].values() if isinstance(x, int | float)), 0)
    rank = methods.index(run["method"]) + 1
    lost = 0.5 * min(hardness, 1.0) ** 2 * rank / len(methods)
    off = sum(
        abs(values.index(run["tuned"][key]) - len(values) // 2) for key, values in tuned.items()
    )
    # As irregular as training's luck, and the same on every machine.
    luck = math.sin(1000 * run["seed"] + 10 * rank + hardness)
    return 0.97 - lost - 0.03 * off + 0.004 * luck


def _noisy(run: dict, quality: float, epochs: int, validated: bool) -> list[dict]:
    rate = run["conditions"].get("corruption.rate", 0.0)
    lines = []
    for epoch in range(1, epochs + 1):
        # With wrong labels the best epoch is the one before the last.
        accuracy = quality * (1 - 0.5**epoch) - (0.08 if rate and epoch == epochs else 0)
        lines.append(_record(run, epoch, accuracy))
        if rate:
            memorised = rate * epoch / epochs
            lines[-1]["wrong_labels"] = {"memorised": memorised, "recovered": 0.9 - memorised}
        if validated:
            lines[-1]["validation"] = {"accuracy": accuracy * (1 - rate), "nll": 1 - accuracy}
    _finish(lines[-1], run)
    return lines


def _record(run: dict, epoch: int, accuracy: float) -> dict:
    recall = [accuracy - 0.01 * k for k in range(CLASSES)]
    test = {
        "accuracy": accuracy,
        "balanced_accuracy": sum(recall) / CLASSES,
        "macro_f1": accuracy - 0.01,
        "nll": 1 - accuracy,
        "brier": (1 - accuracy) / 2,
        "expected_calibration_error": 0.05,
        "maximum_calibration_error": 0.2,
        "top_5_accuracy": 1.0,
        "per_class_recall": recall,
        "examples": 400,
    }
    if "imbalance.ratio" in run["conditions"]:
        names = ("many_accuracy", "medium_accuracy", "few_accuracy")
        test |= {name: accuracy - 0.1 * i for i, name in enumerate(names)}
    return {
        "run": run["id"],
        "epoch": epoch,
        "step": 10 * epoch,
        "train": {"loss": 1 / epoch},
        "test": test,
        "timing": {"seconds": 0.5 * epoch, "steps_per_second": 20.0},
    }


def _finish(record: dict, run: dict) -> None:
    right = round(100 * record["test"]["accuracy"])
    matrix = np.full((CLASSES, CLASSES), (100 - right) // (CLASSES - 1))
    np.fill_diagonal(matrix, right)
    record["test"]["confusion_matrix"] = matrix.tolist()
    count, confidence = [0, 50, 350], ["NaN", 0.5, 0.9]
    record["test"]["reliability"] = [count, ["NaN", 0.45, 0.85], confidence]
    record["environment"] = {"device": {"platform": "cpu", "kind": "cpu"}, "git": None}
    if run["seed"] == 0:
        random = np.random.default_rng(0)
        label = np.arange(40) % CLASSES
        x, y = 3 * np.stack([np.cos(label), np.sin(label)]) + random.normal(size=(2, 40))
        record["embedding"] = {"x": x.tolist(), "y": y.tolist(), "label": label.tolist()}


def _shots(run: dict, quality: float, epochs: int, validated: bool) -> list[dict]:
    lines = []
    for epoch in range(1, epochs + 1):
        shots = {
            str(k): {"accuracy": quality - 0.2 / k - 0.1 / epoch, "interval": 0.004 / k}
            for k in (1, 5)
        }
        shots = {k: told | {"episodes": 1000} for k, told in shots.items()}
        record = {"run": run["id"], "epoch": epoch, "step": 10 * epoch, "train": {"loss": 0.4}}
        record |= {"test": shots["1"], "shots": shots, "timing": {"seconds": 1.0 * epoch}}
        if validated:
            record["validation"] = shots["1"]
        lines.append(record)
    lines[-1]["environment"] = {"device": {"platform": "cpu", "kind": "cpu"}, "git": None}
    return lines


def _append(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
