"""Runs per second: a mapped sweep, the same runs one after another, and PyTorch's eager loop.

A run is one epoch of shuffled batches of 64 8-bit images, from fresh parameters, with Adam. Each
contestant has a process of its own, as its user would give it: a sweep's has a device for every
core of a CPU that has a run to train, our single trainer's has one. They take turns, round by
round, and medians over the rounds count. One after another, each run takes as long as any, so that
one is timed per round.

Then the widths: how many runs a device should train side by side, by `vmap`, instead of one after
another, by `lax.map`, which is the width of 1. `xent_jax.training.stack.WIDTHS` is made of these.
"""

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.bench import eager
from experiments.bench.size import EXAMPLES, ROUNDS, RUNS
from xent_jax import training
from xent_jax.data import Dataset
from xent_jax.training import grouping
from xent_jax.training.feed import make_feed
from xent_jax.training.run import prepare
from xent_jax.training.stack import Stack, compile_stack, make_stack, stacked, use_cores
from xent_jax.training.study import default_study, expand

_MODELS = flags.DEFINE_multi_enum(
    "model",
    ["mlp_8x8", "mlp", "lenet"],
    list(eager.NETWORKS),
    "Network to train (sweep); may be repeated.",
)
_WIDTHS = flags.DEFINE_multi_integer(
    "width", [1, 2, 4, 8, 16, 32], "Runs side by side (sweep); may be repeated.", 1
)

_BATCH = 64
_ROUNDS = 7
_ALONE = "one after another"
_PARTS_OF_WIDTHS = 4  # An epoch's images over those that a width is timed with.

Program = Callable[[], Any]
_programs: dict[str, Program] = {}  # of a contestant's process


class Workload(NamedTuple):
    """What a run trains."""

    model: str
    examples: int


class Contestant(NamedTuple):
    """A program that a process keeps."""

    process: ProcessPoolExecutor
    name: str
    runs: int
    first_seconds: float  # of its first time, compiling included

    def seconds(self) -> float:
        return self.process.submit(_seconds, self.name).result()


def measure() -> dict[str, Any]:
    """Prints and returns runs per second, by network: of every contestant, and of every width."""
    if not eager.INSTALLED:
        print("PyTorch is not installed, so it is left out.")
    examples = EXAMPLES.value or 6_400
    return {model: _contest(Workload(model, examples)) for model in _MODELS.value}


def _contest(workload: Workload) -> dict[str, Any]:
    with contextlib.ExitStack() as processes:

        def process(runs: int) -> ProcessPoolExecutor:
            spawn = multiprocessing.get_context("spawn")  # A fork would share JAX's threads.
            return processes.enter_context(ProcessPoolExecutor(1, spawn, _begin, (runs,)))

        sweeps = [_enter(process(n), f"sweep of {n}", n, _swept, workload, n) for n in RUNS.value]
        rivals = [_enter(process(1), _ALONE, 1, _alone, workload)]
        for name, tuned in {"PyTorch": False, "PyTorch, tuned": True}.items():
            if eager.INSTALLED:
                rivals.append(_enter(process(1), name, 1, _torch, workload, tuned))
        figures = _rounds([*sweeps, *rivals])
        _report(workload, figures, [c.name for c in sweeps], [c.name for c in rivals])
        short = workload._replace(examples=-(-workload.examples // _PARTS_OF_WIDTHS))
        wide = process(os.cpu_count() or 1)  # A device for each core.
        widths = [_enter(wide, f"width {n}", n, _side_by_side, short, n) for n in _WIDTHS.value]
        of_widths = _rounds(widths)
    _report_widths(short, of_widths)
    return {"examples": workload.examples, "batch_size": _BATCH} | figures | of_widths


def _rounds(contestants: Sequence[Contestant]) -> dict[str, Any]:
    """Returns each one's runs per second, and by how much it is faster than the others."""
    rounds = [[c.seconds() / c.runs for c in contestants] for _ in range(ROUNDS.value or _ROUNDS)]
    names = [c.name for c in contestants]
    figures = {}
    for contestant, times in zip(contestants, zip(*rounds, strict=True), strict=True):
        each, others = statistics.median(times), zip(*rounds, strict=True)
        figures[contestant.name] = {
            "runs_per_second": 1 / each,
            "compile_seconds": contestant.first_seconds - each * contestant.runs,
            "times": {
                name: statistics.median(b / a for a, b in zip(times, other, strict=True))
                for name, other in zip(names, others, strict=True)
            },
        }
    return figures


def _report(
    workload: Workload, figures: dict[str, Any], sweeps: Sequence[str], rivals: Sequence[str]
) -> None:
    steps = -(-workload.examples // _BATCH)
    told = f"runs of {steps} steps of {_BATCH} images; {ROUNDS.value or _ROUNDS} rounds"
    print(f"\n{workload.model}, {told}")
    columns = "".join(f"{f'x {name}':>22}" for name in rivals)
    print(f"{'':<20}{'runs/s':>9}{'steps/s':>10}{'compiled in':>13}{columns}")
    for name in (*sweeps, *rivals):
        speed, compiled, times = figures[name].values()
        ratios = "".join(f"{times[rival]:>22.2f}" for rival in rivals)
        print(f"{name:<20}{speed:>9.2f}{speed * steps:>10,.0f}{compiled:>11.1f} s{ratios}")


def _report_widths(workload: Workload, figures: dict[str, Any]) -> None:
    steps = -(-workload.examples // _BATCH)
    first = next(iter(figures))
    print(f"{workload.model}, side by side on each device: steps/s, and times {first}")
    for name, (speed, _, times) in ((name, found.values()) for name, found in figures.items()):
        print(f"{name:<20}{speed * steps:>19,.0f}{times[first]:>9.2f}")


def _enter(
    process: ProcessPoolExecutor, name: str, runs: int, make: Callable[..., Program], *given: Any
) -> Contestant:
    return Contestant(process, name, runs, process.submit(_prepare, name, make, given).result())


def _begin(runs: int) -> None:
    """Gives this process a CPU's devices as a sweep of so many runs has them.

    An accelerator's memory is shared by all contestants.
    """
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)
    use_cores(runs)


def _prepare(name: str, make: Callable[..., Program], given: Sequence[Any]) -> float:
    """Makes a program and runs it once; returns the seconds."""
    began = time.perf_counter()
    _programs[name] = make(*given)
    _programs[name]()
    return time.perf_counter() - began


def _seconds(name: str) -> float:
    began = time.perf_counter()
    _programs[name]()
    return time.perf_counter() - began


def _swept(workload: Workload, runs: int) -> Program:
    """Trains runs of several seeds as `training.sweep` does: in stacks."""
    group = _group(workload, runs)
    compiled = compile_stack(group.trainable, group.facts[0], group.shared, runs)
    starts = range(0, runs, compiled.runs)
    stacks = [compiled.place(group.facts[start : start + compiled.runs]) for start in starts]
    return lambda: [_trained(compiled.stack, facts, compiled.shared) for facts in stacks]


def _side_by_side(workload: Workload, width: int) -> Program:
    """Trains `width` runs on each device together; runs are counted as of one device."""
    devices = jax.local_devices()
    group = _group(workload, width * len(devices))
    stack = make_stack(group.trainable, devices, width)
    shared = jax.device_put(group.shared, stack.everywhere)
    facts = jax.device_put(stacked(group.facts, len(group.facts)), stack.by_run)
    return lambda: _trained(stack, facts, shared)


def _trained(stack: Stack, facts: Any, shared: Any) -> Any:
    state, *_ = stack.train(stack.init(facts), facts, shared, np.int32(0))
    return jax.block_until_ready(state)


def _alone(workload: Workload) -> Program:
    """Trains one run as `experiments.train` does: an epoch in one scan."""
    config = training.default_config()
    config.model, config.batch_size, config.devices = _model(workload), _BATCH, 1
    run = prepare(config, _splits(workload))
    feed = make_feed(run, 0)

    def program() -> Any:
        state = run.runner.place_state(run.initial_state)
        return jax.block_until_ready(feed.train(state, 0, 0, run.steps_per_epoch))

    return program


def _torch(workload: Workload, tuned: bool) -> Program:
    train, network = _splits(workload)["train"], eager.NETWORKS[workload.model]
    begin = eager.trainer(network, train.images, train.labels, _BATCH, tuned=tuned)
    return lambda: begin()()


def _group(workload: Workload, runs: int) -> grouping.Group:
    config = default_study()
    config.model, config.batch_size, config.seeds = _model(workload), _BATCH, runs
    members = expand(config)
    return grouping.assemble(members, members, _splits(workload))


def _model(workload: Workload) -> ConfigDict:
    return ConfigDict(_CONFIGS.get(workload.model, {"name": workload.model}))


_MLP = {"name": "mlp", "hidden": (256,)}
_CONFIGS = {"mlp_8x8": _MLP, "mlp": _MLP}
_SIDES = {"mlp_8x8": 8}


def _splits(workload: Workload) -> dict[str, Dataset]:
    random = np.random.default_rng(0)
    side = _SIDES.get(workload.model, 28)
    images = random.integers(0, 256, (workload.examples, side, side, 1), np.uint8)
    labels = random.integers(0, 10, workload.examples, np.int32)
    dataset = Dataset(images, labels, labels, tuple(map(str, range(10))), "random")
    return {"train": dataset, "test": dataset}
