"""Steps per second: an epoch in one scan, a loop of single steps, and PyTorch's eager loop.

All train the same 784-256-10 perceptron with Adam on the same shuffled batches of 8-bit images,
their epochs interleaved; the median over the epochs counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.bench import eager
from experiments.bench.size import EXAMPLES
from xent_jax import training
from xent_jax.data import Dataset
from xent_jax.training.feed import make_feed
from xent_jax.training.run import Run, prepare

_BATCH = flags.DEFINE_integer("batch_size", 64, "Images in a step.", lower_bound=1)
_HIDDEN = flags.DEFINE_integer("hidden", 256, "Units of the hidden layer.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 9, "Epochs timed of each.", lower_bound=1)

Epoch = Callable[[], None]


def _images_in_epoch() -> int:
    return EXAMPLES.value or 12_800


def measure() -> dict[str, float]:
    """Prints and returns the median steps per second of every contestant."""
    images, labels = _examples()
    contestants = {
        "epoch in one scan": _scanned(_run(images, labels)),
        "loop of steps": _looped(_run(images, labels)),
    }
    if eager.INSTALLED:
        network = partial(eager.mlp, _HIDDEN.value)
        for name, tuned in {"PyTorch eager": False, "PyTorch eager, tuned": True}.items():
            contestants[name] = eager.trainer(network, images, labels, _BATCH.value, tuned=tuned)()
    else:
        print("PyTorch is not installed, so it is left out.")
    seconds = {name: [] for name in contestants}
    for epoch in contestants.values():
        epoch()
    for _ in range(_EPOCHS.value):
        for name, epoch in contestants.items():
            began = time.perf_counter()
            epoch()
            seconds[name].append(time.perf_counter() - began)
    steps = -(-_images_in_epoch() // _BATCH.value)
    figures = {name: steps / statistics.median(times) for name, times in seconds.items()}
    _report(figures)
    return figures


def _report(figures: dict[str, float]) -> None:
    device = jax.devices()[0].device_kind
    print(f"784-{_HIDDEN.value}-10, Adam, batch {_BATCH.value}, on {device}; medians of epochs")
    print(f"{'':<24}{'steps/s':>10}{'the scan is':>14}")
    scanned = figures["epoch in one scan"]
    for name, figure in figures.items():
        print(f"{name:<24}{figure:>10,.0f}{scanned / figure:>13.2f}x")


def _examples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (_images_in_epoch(), 28, 28, 1), np.uint8)
    return images, random.integers(0, 10, _images_in_epoch(), np.int32)


def _run(images: np.ndarray, labels: np.ndarray) -> Run:
    config = training.default_config()
    config.model = ConfigDict({"name": "mlp", "hidden": (_HIDDEN.value,)})
    config.batch_size, config.devices = _BATCH.value, 1
    names = tuple(map(str, range(10)))
    dataset = Dataset(images, labels, labels, names, "random")
    return prepare(config, {"train": dataset, "test": dataset})


def _scanned(run: Run) -> Epoch:
    feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)

    def epoch() -> None:
        nonlocal state
        state, _ = feed.train(state, 0, 0, run.steps_per_epoch)

    return epoch


def _looped(run: Run) -> Epoch:
    runner, state = run.runner, run.runner.place_state(run.initial_state)

    def epoch() -> None:
        nonlocal state
        for batch in _shuffled_batches(run):
            state, _ = runner.train_batch(state, runner.place_batch(batch))
        jax.block_until_ready(state)

    return epoch


def _shuffled_batches(run: Run) -> Iterator[dict[str, np.ndarray]]:
    train, size = run.sets["train"], run.config.batch_size
    order = np.random.default_rng(0).permutation(len(train.labels))
    for start in range(0, len(order) - size + 1, size):
        index = order[start : start + size]
        batch = {"image": train.images[index], "label": train.labels[index], "index": index}
        yield batch | {
            "mask": np.ones(size, bool),
            "position": np.arange(size, dtype=np.int32),
        }
