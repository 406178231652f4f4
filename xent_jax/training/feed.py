"""How a run's examples reach its compiled steps: from the devices' memory, or streamed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from xent_jax.data import pipeline
from xent_jax.metrics import ClassificationSums
from xent_jax.training.language_run import LanguageRun
from xent_jax.training.run import Run
from xent_jax.training.step import StepMetrics, TrainState

AnyRun = Run | LanguageRun
"""What the loop trains."""


class Feed(NamedTuple):
    """Trains for some steps of an epoch, in order; evaluates a named set: sums, or all logits."""

    train: Callable[[TrainState, int, int, int], tuple[TrainState, StepMetrics]]
    evaluate: Callable[[TrainState, str], Any]
    logits: Callable[[TrainState, str], np.ndarray]


def make_feed(run: AnyRun, step: int) -> Feed:
    """Returns the feed of a run that goes on from `step`."""
    if isinstance(run, LanguageRun) or run.resident:
        return _resident_feed(run)
    return _streamed_feed(run, step)


def _resident_feed(run: AnyRun) -> Feed:
    """Data sets on the devices; each call takes its steps in one compiled scan."""
    runner = run.runner
    placed = {name: runner.place_data(run.columns(name)) for name in run.sets}

    def train(state: TrainState, epoch: int, start: int, length: int) -> Any:
        state, metrics = runner.train_chunk(state, placed["train"], epoch, start, length)
        return state, jax.tree.map(np.asarray, runner.single(metrics))

    def evaluate(state: TrainState, name: str) -> Any:
        return runner.single(runner.evaluate(state, placed[name]))

    return Feed(train, evaluate, partial(_logits, run))


def _streamed_feed(run: Run, step: int) -> Feed:
    """Batches read ahead on the host while the devices compute; one compiled call per step."""
    runner, config = run.runner, run.config
    sampler = run.program.sampler
    batches = _batches(run, "train", config.batch_size, start_step=step, sampler=sampler)

    def train(state: TrainState, epoch: int, start: int, length: int) -> Any:
        del epoch, start  # The stream goes on from where it is.
        steps = []
        for _ in range(length):
            state, metrics = runner.train_batch(state, runner.place_batch(next(batches)))
            steps.append(runner.single(metrics))
        return state, jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(steps))

    def evaluate(state: TrainState, name: str) -> ClassificationSums:
        total = ClassificationSums.empty(run.program.num_classes)
        for batch in _batches(run, name, config.eval_batch_size, epochs=1, shuffle=False):
            total += runner.single(runner.evaluate_batch(state, runner.place_batch(batch)))
        return total

    return Feed(train, evaluate, partial(_logits, run))


def _logits(run: AnyRun, state: TrainState, name: str) -> np.ndarray:
    """Returns the logits of a set's examples, in their order; of a text none are ever held."""
    assert isinstance(run, Run)
    batches = _batches(run, name, run.config.eval_batch_size, epochs=1, shuffle=False)
    place, predict = run.runner.place_batch, run.runner.predict_batch
    logits = [np.asarray(predict(state, place(batch))) for batch in batches]
    return np.concatenate(logits)[: len(run.sets[name].labels)]


def _batches(run: Run, name: str, batch_size: int, **order: Any) -> Iterator[dict[str, Any]]:
    """Yields this process's share of each batch, with each example's place in the whole one."""
    process, processes = jax.process_index(), jax.process_count()
    share = batch_size // processes
    position = np.arange(process * share, (process + 1) * share, dtype=np.int32)
    stream = pipeline.stream(
        run.sets[name],
        run.program.order_key,
        batch_size,
        process_index=process,
        process_count=processes,
        **order,
    )
    for batch in stream:
        yield batch | {"position": position}
