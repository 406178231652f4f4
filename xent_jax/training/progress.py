"""What a sweep says of itself while it runs: one bar for the grid, and a line per group."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from xent_jax.training.stack import Compiled
from xent_jax.training.study import Member

_SILENCE = 10.0
"""Seconds without a word where there is no terminal."""


class Progress:
    """Counts runs, in fractions; the bar is shown on a terminal only, the lines everywhere."""

    def __init__(self, runs: int, left: int, *, shown: bool):
        self._shown, self._done = shown, 0.0
        self._bar = tqdm(
            total=runs,
            initial=runs - left,
            unit="run",
            dynamic_ncols=True,
            disable=None if shown else True,
            bar_format="{l_bar}{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}, {rate_fmt}]",
        )
        self._runs, self._finished = runs, float(runs - left)
        if runs > left:
            self._say(f"{runs - left} of {runs} runs are finished already")
        self._spoke = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._end_group()
        self._bar.close()

    def begin(self, name: str, group: Sequence[Member]) -> None:
        """Tells that a group's runs come next."""
        self._end_group()
        config = group[0].config
        epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
        self._group = f"{name}: {config.model.name}, {_runs(len(group))} of {epochs}"
        self._size, self._began, self._compiling = len(group), time.monotonic(), 0.0

    def compiled(self, program: Compiled) -> None:
        """Tells that a program was compiled."""
        self._compiling += program.seconds

    def advance(self, runs: float) -> None:
        """Tells that so many runs' worth of epochs are behind."""
        self._bar.update(runs)
        self._finished += runs
        if self._shown and not sys.stderr.isatty() and time.monotonic() - self._spoke > _SILENCE:
            self._say(f"{self._finished:.0f} of {self._runs} runs")

    def _end_group(self) -> None:
        if hasattr(self, "_group"):
            seconds = time.monotonic() - self._began
            rate = self._size / max(seconds - self._compiling, 1e-9)
            self._say(
                f"{self._group}: compiled in {self._compiling:.1f} s, trained in "
                f"{seconds - self._compiling:.1f} s ({rate:.2g} runs/s)"
            )
            del self._group

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        if self._shown:
            tqdm.write(text, file=sys.stderr)


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"
