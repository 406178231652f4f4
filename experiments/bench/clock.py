"""Programs timed in turns, so that what else the machine does meets them all."""

import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax

Program = Callable[[], object]
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_ROUNDS, _FEWEST, _SECONDS = 31, 3, 2.0


def median_seconds(programs: Sequence[Program]) -> list[float]:
    """Returns the median seconds of the first, and the others' as its multiples.

    The multiples are medians over the rounds, in each of which every program runs once after
    another. On a CPU the seconds are those of all its cores together: unlike the clock on the
    wall, they hold where other work is running, and parallel loops gain nothing by them.
    """
    with _kept_memory():
        rounds, began = [], time.perf_counter()
        while len(rounds) < _ROUNDS:
            rounds.append([_seconds(program) for program in programs])
            if len(rounds) >= _FEWEST and time.perf_counter() - began > _SECONDS:
                break
    ratios = zip(*([s / times[0] for s in times[1:]] for times in rounds), strict=True)
    return [statistics.median(times[0] for times in rounds), *map(statistics.median, ratios)]


@contextlib.contextmanager
def _kept_memory() -> Iterator[None]:
    """Lets the process keep the memory it frees, as the allocator of an accelerator does.

    Otherwise glibc gives arrays above 32 MiB back at once, and what is timed is the operating
    system's clearing of pages: in training one step's arrays are together that large anyway.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another libc
        yield
        return
    for parameter, value in {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _ARENA_MAX: 1}.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        libc.malloc_trim(0)


def _seconds(program: Program) -> float:
    jax.block_until_ready(program())  # so that its own data are in the caches, not another's
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    began = clock()
    jax.block_until_ready(program())
    return clock() - began
