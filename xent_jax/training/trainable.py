"""What a run of any kind is to those who carry it out: six functions of one run, and two counts."""

from collections.abc import Callable
from typing import NamedTuple


class Trainable(NamedTuple):
    """One run as pure functions, to be compiled alone or mapped over a stack of runs.

    `facts` is the run's own pytree of arrays: keys from its seed, its labels, its numeric
    hyper-parameters. `shared` is what all runs of a stack have in common: images, index tables.
    Both may be traced.
    """

    init: Callable
    """(facts) -> state, a pytree of arrays whose `step` is an int32 scalar."""
    train: Callable
    """(state, facts, shared, epoch, start, length) -> (state, StepMetrics of (length,) arrays):
    `length` steps of an epoch from its step `start`. `length` is static."""
    evaluate: Callable
    """(state, facts, shared) -> sums: a pytree of arrays whose shapes are always the same."""
    finish: Callable
    """(state, facts, shared) -> further arrays, once after the last epoch, or None."""
    describe: Callable
    """(sums, what finish returned or None), on the host -> fields of a record."""
    steps_per_epoch: int
    epochs: int
