"""Contestants that take turns, round by round, each in a process as its user would give it.

What is compared is made and compiled first, and its results are held against exact ones before it
is timed. A contestant that cannot be made here, or fails, is named with the reason.

The allocator is the system's own: on Linux arrays above 32 MiB are given back at once, and cleared
pages taken anew by each run, which costs those most that hold large temporary arrays. The pages
are large, and it costs little, with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment.
"""

import contextlib
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.bench.size import DTYPES, shapes

Program = Callable[[], Any]
_TURN = 0.25  # seconds, in which a short program runs several times
_BUSY = 0.5  # processes that run already, on average of the last minute
Figures = dict[str, dict[str, Any]]
_programs: dict[str, Program] = {}  # of a contestant's process


class Prepared(NamedTuple):
    """A program that is ready, in its process."""

    run: Program  # returns when it is done
    samples: dict[str, np.ndarray]  # of its results
    compile_seconds: float
    temporary_bytes: int | None = None  # as the compiler states; None where nobody does


class Contestant(NamedTuple):
    process: ProcessPoolExecutor
    name: str
    facts: dict[str, Any]  # "failed" among them: why it takes no part

    def turn(self) -> list[tuple[float, float]]:
        """Returns the seconds of the clock on the wall, and of all cores together, of each run."""
        return self.process.submit(_turn, self.name).result()


@contextlib.contextmanager
def processes() -> Iterator[Callable[..., ProcessPoolExecutor]]:
    """Yields what starts a process, with a call that it begins with; they end with the context."""
    spawn = multiprocessing.get_context("spawn")  # A fork would share JAX's threads.
    with contextlib.ExitStack() as stack:

        def start(*begin: Any) -> ProcessPoolExecutor:
            return stack.enter_context(ProcessPoolExecutor(1, spawn, _begin, begin))

        yield start


def _begin(begin: Callable[..., None] | None = None, *given: Any) -> None:
    # An accelerator's memory is shared by all contestants.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if begin is not None:
        begin(*given)


def enter(
    process: ProcessPoolExecutor,
    name: str,
    exact: Mapping[str, np.ndarray],
    make: Callable[..., Prepared],
    *given: Any,
) -> Contestant:
    """Returns the contestant, with how far its results are from the exact ones, or why it fails."""
    try:
        samples, seconds, temporary = process.submit(_prepare, name, make, given).result()
    except Exception as error:  # Whatever a peer raises where it does not run.
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return Contestant(process, name, {"failed": reason[:200]})
    errors = {key: relative_error(samples[key], exact[key]) for key in exact}
    facts: dict[str, Any] = {"errors": errors, "compile_seconds": seconds}
    return Contestant(process, name, facts | {"temporary_bytes": temporary})


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """Returns the largest difference as a share of the largest exact number."""
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def _prepare(name: str, make: Callable[..., Prepared], given: Sequence[Any]) -> tuple[Any, ...]:
    prepared = make(*given)
    _programs[name] = prepared.run
    return prepared[1:]


def _turn(name: str) -> list[tuple[float, float]]:
    program, times, began = _programs[name], [], time.perf_counter()
    while not times or time.perf_counter() - began < _TURN:
        wall, processor = time.perf_counter(), time.process_time()
        program()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    return times[1:] or times  # The first of several brings its data into the caches.


def compete(contestants: Sequence[Contestant], rounds: int) -> Figures:
    """Returns each one's facts, and its times over all rounds, in milliseconds."""
    times = {c.name: [] for c in contestants if "failed" not in c.facts}
    for _ in range(rounds):
        for contestant in contestants:
            if contestant.name in times:
                times[contestant.name] += contestant.turn()
    return {
        c.name: c.facts | (_milliseconds(times[c.name]) if c.name in times else {})
        for c in contestants
    }


def _milliseconds(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    wall, processor = zip(*times, strict=True)
    return {
        "median_ms": 1e3 * statistics.median(wall),
        "minimum_ms": 1e3 * min(wall),
        "processor_ms": 1e3 * statistics.median(processor),
    }


def measure(
    axes: int, choice: Mapping[str, Sequence[str]], contest: Callable[..., Figures]
) -> dict[str, Any]:
    """Prints and returns every contestant's figures, by shape and dtype.

    Args:
      axes: sizes that a shape has.
      choice: the shapes to take if none are asked for, by platform, or for "others".
      contest: (shape, dtype, platform) -> the contestants' figures.
    """
    figures: dict[str, Any] = {"load_before": load()}
    here = platform()
    for shape, dtype in itertools.product(
        shapes(axes, choice.get(here, choice["others"])), DTYPES.value
    ):
        title = f"{'x'.join(map(str, shape))} {dtype}"
        print(f"\n{title} on {here}", flush=True)
        figures[title] = contest(shape, dtype, here)
    return figures


def platform() -> str:
    """Returns the platform of JAX's contestants, whose memory this process does not take."""
    with processes() as start:
        return start().submit(jax.default_backend).result()


def load() -> float:
    """Returns how many processes ran, on average, before the bench; warns where that disturbs."""
    running = os.getloadavg()[0]
    if running > _BUSY:
        print(
            f"WARNING: this machine is at work: a load of {running:.1f} before the bench. "
            "Trust the minima, or wait."
        )
    return running


def report(figures: Figures, further: str) -> None:
    """Prints a line for each contestant, with one further of its figures; then who takes no part.

    The cores are the processor time over the time: 1 of a program that runs serially.
    """
    heads = f"{'median':>9}{'minimum':>9}{'cores':>7}{'compiled in':>13}{'temporary':>13}"
    print(f"{'':<38}{heads}{'errors: values':>17}{'gradients':>11}{further:>18}")
    for name, of_one in figures.items():
        if "failed" not in of_one:
            print(f"  {name:<36}{_line(of_one)}{of_one[further]:>18.3g}", flush=True)
    for name, of_one in figures.items():
        if "failed" in of_one:
            print(f"  {name}: not here: {of_one['failed']}")


def _line(of_one: Mapping[str, Any]) -> str:
    values, *gradients = of_one["errors"].values() or (0.0, 0.0)
    median, temporary = of_one["median_ms"], of_one["temporary_bytes"]
    memory = "" if temporary is None else f"{temporary / 2**20:,.0f} MiB"
    times = f"{median:>9,.1f}{of_one['minimum_ms']:>9,.1f}{of_one['processor_ms'] / median:>7.1f}"
    made = f"{of_one['compile_seconds']:>11.1f} s{memory:>13}"
    return f"{times}{made}{values:>17.0e}{max(gradients):>11.0e}"
