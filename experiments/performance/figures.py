"""What the benches of both cross-entropies recorded, and tables of it."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Figures = Mapping[str, Mapping[str, Any]]  # of each contestant
FLOORS = {"softmax_xent": "copy", "linear_xent": "the three products alone"}
NAIVE = "optax"
GROWING = ("optax", "ours, chunked", "ours, chunked sum")
BASE = (1024, 256, 16384)
"""Tokens, features and classes, of which one at a time is varied to show how costs grow."""


class Contest(NamedTuple):
    """One shape and dtype of a bench, on one machine."""

    bench: str
    shape: tuple[int, ...]
    dtype: str
    figures: Figures  # of those who took part
    failed: Mapping[str, str]  # why the others did not
    where: str  # device, versions and date


class Growth(NamedTuple):
    """One contestant's costs against one size."""

    sizes: list[int]
    seconds: list[float]
    temporary: list[float]  # bytes


Measured = list[Contest]


def load(folder: Path) -> Measured:
    """Returns every contest that was recorded, of each the newest on its kind of device."""
    newest: dict[Any, Contest] = {}
    for path in sorted(folder.glob("bench_*_xent_*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            for contest in _contests(record):
                key = contest.bench, contest.shape, contest.dtype
                newest[*key, record["environment"]["device"]["kind"], _pages(record)] = contest
    return list(newest.values())


def _contests(record: Mapping[str, Any]) -> Iterable[Contest]:
    for title, figures in record["figures"].items():
        if title == "load_before":
            continue
        shape, dtype = title.split(" ")
        yield Contest(
            bench=record["bench"],
            shape=tuple(map(int, shape.split("x"))),
            dtype=dtype,
            figures={name: f for name, f in figures.items() if "failed" not in f},
            failed={name: f["failed"] for name, f in figures.items() if "failed" in f},
            where=_where(record),
        )


def _where(record: Mapping[str, Any]) -> str:
    environment, load = record["environment"], record["figures"]["load_before"]
    versions, device = environment["versions"], environment["device"]
    processor = environment["processor"]
    cpu = f"{processor['model']}, {processor['cores']} cores"
    machine = cpu if device["platform"] == "cpu" else device["kind"]
    known = {"python": "Python", "jax": "JAX", "optax": "optax", "torch": "PyTorch"}
    software = ", ".join(
        f"{name} {versions[key]}" for key, name in known.items() if key in versions
    )
    return f"{machine}; {software}; {record['date']}; load before: {load:.1f}{_pages(record)}"


def _pages(record: Mapping[str, Any]) -> str:
    large = "hugetlb=1" in record["environment"].get("glibc_tunables", "")
    return "; large pages" if large else ""


def growth(measured: Measured) -> dict[str, dict[str, Growth]]:
    """Returns how float32 costs grow, by the axis that is varied and the contestant."""
    linear = [c for c in measured if c.bench == "linear_xent" and c.dtype == "float32"]
    grown: dict[str, dict[str, Growth]] = {}
    for axis, name in enumerate(("tokens N", "features D", "classes V")):
        varied = sorted(
            (c for c in linear if _without(c.shape, axis) == _without(BASE, axis)),
            key=lambda contest: contest.shape[axis],
        )
        grown[name] = {who: _growth(varied, axis, who) for who in GROWING}
    return grown


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _growth(varied: Measured, axis: int, who: str) -> Growth:
    theirs = [(c.shape[axis], c.figures[who]) for c in varied if who in c.figures]
    return Growth(
        sizes=[size for size, _ in theirs],
        seconds=[f["median_ms"] / 1e3 for _, f in theirs],
        temporary=[float(f["temporary_bytes"]) for _, f in theirs],
    )


class Tables(NamedTuple):
    """What the page's template asks for."""

    measured: Measured

    def of(self, bench: str, columns: Mapping[str, Callable[..., str]]) -> str:
        """Returns a table for each shape and dtype of a bench that PyTorch took part in."""
        shown = [c for c in self.measured if c.bench == bench and "PyTorch" in c.figures]
        return "\n\n".join(_table(contest, columns) for contest in shown)

    def rows(self) -> str:
        """Returns which chunks were tried, and how long they took against our own choice."""
        tried = [(c, name) for c in self.measured for name in c.figures if name.endswith(" rows")]
        if not tried:
            return "No others were tried yet."
        lines = ["Others, against our own choice:", "", "| | tokens per chunk | time |"]
        lines.append("| --- | ---: | ---: |")
        for contest, name in tried:
            own, rows = name.rsplit(", ", 1)
            ratio = contest.figures[name]["median_ms"] / contest.figures[own]["median_ms"]
            title = f"{' x '.join(map(str, contest.shape))}, {contest.dtype}"
            lines.append(f"| {title} | {rows.removesuffix(' rows')} | {ratio:.2f} |")
        return "\n".join(lines)

    def softmax(self) -> str:
        return self.of("softmax_xent", {**_COMMON, "of a copy's speed": _of_floor})

    def linear(self) -> str:
        return self.of("linear_xent", {**_COMMON, "of the products' speed": _of_floor})


def _table(contest: Contest, columns: Mapping[str, Callable[..., str]]) -> str:
    lines = [
        f"**{' x '.join(map(str, contest.shape))}, {contest.dtype}** ({contest.where})",
        "",
        f"| | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for name in contest.figures:
        cells = " | ".join(cell(contest, name) for cell in columns.values())
        lines.append(f"| {name} | {cells} |")
    missing = [f"{name}: {reason}" for name, reason in contest.failed.items()]
    return "\n".join([*lines, *(["", "Not here: " + "; ".join(missing) + "."] if missing else [])])


def _milliseconds(contest: Contest, name: str) -> str:
    return f"{contest.figures[name]['median_ms']:,.1f}"


def _fastest(contest: Contest, name: str) -> str:
    return f"{contest.figures[name]['minimum_ms']:,.1f}"


def _cores(contest: Contest, name: str) -> str:
    of_one = contest.figures[name]
    return f"{of_one['processor_ms'] / of_one['median_ms']:.1f}"


def _times_naive(contest: Contest, name: str) -> str:
    return f"{contest.figures[name]['minimum_ms'] / contest.figures[NAIVE]['minimum_ms']:.2f}"


def _temporary(contest: Contest, name: str) -> str:
    found = contest.figures[name]["temporary_bytes"]
    return "" if found is None else f"{found / 2**20:,.0f}"


def _value_error(contest: Contest, name: str) -> str:
    return _largest([*contest.figures[name]["errors"].values()][:1])


def _gradient_error(contest: Contest, name: str) -> str:
    return _largest([*contest.figures[name]["errors"].values()][1:])


def _largest(errors: list[float]) -> str:
    return f"{max(errors):.0e}" if errors else ""


def _of_floor(contest: Contest, name: str) -> str:
    floor = contest.figures[FLOORS[contest.bench]]["minimum_ms"]
    return f"{100 * floor / contest.figures[name]['minimum_ms']:.0f} %"


_COMMON: dict[str, Callable[..., str]] = {
    "median ms": _milliseconds,
    "least ms": _fastest,
    "x optax": _times_naive,
    "cores": _cores,
    "temporary MiB": _temporary,
    "error of values": _value_error,
    "of gradients": _gradient_error,
}
