"""A stack of runs as one compiled program: mapped over what the runs differ in, sharded over them.

The runs are spread over the devices. Each device trains its share in blocks of so many runs as
`vmap` puts side by side, one block after another: wide blocks fill an accelerator, while the cores
of a CPU, each of which is a device of its own here, are busy with a run each.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax.errors import UserError
from xent_jax.training.step import StepMetrics
from xent_jax.training.trainable import Trainable
from xent_jax.typing import Array

WIDTHS = {"cpu": 1, "gpu": 1024, "tpu": 1024}
"""Runs that a device trains side by side, by its kind. On CPU as measured (`experiments.bench
sweep`): two perceptrons gain 3 % at most and more of them lose, LeNets all lose. Elsewhere as many
as there may be, which nobody has measured yet."""

LARGEST = {"cpu": 32, "gpu": 1024, "tpu": 1024}
"""Runs of one stack for each device, where its memory allows them."""

_MEMORY = Path("/proc/meminfo")
_SHARE_OF_MEMORY = {"cpu": 0.5, "gpu": 0.85, "tpu": 0.85}


def use_cores(runs: int, *, factorise: bool = False) -> None:
    """Makes a device of every core of a CPU, as runs are spread over devices.

    Args:
      runs: in the largest stack. There are no more devices than these: they share the cores.
      factorise: whether a run factorises batches of matrices, as ridge regression does. JAX shares
        out such a batch among the threads of XLA's pool and waits for them in one of these: were
        there no more threads than devices, all of them could wait for ever. One thread more costs
        other runs a tenth of their speed.
    """
    if "XLA_FLAGS" in os.environ or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", max(1, min(cores, runs)))
    os.environ.setdefault("PJRT_NPROC", str(cores + factorise))


class Stack(NamedTuple):
    """A Trainable's functions for a stack, not compiled yet. States are donated to `train`."""

    init: Any  # (facts)
    train: Any  # (state, facts, shared, epoch): one epoch; also StepMetrics, and what is finite
    evaluate: Any  # (state, facts, shared)
    finish: Any  # (state, facts, shared)
    by_run: NamedSharding
    everywhere: NamedSharding


class Compiled(NamedTuple):
    """A stack's functions, compiled for `size` runs of which `runs` at most are different."""

    stack: Stack
    runs: int
    size: int
    bytes: int  # of each device's memory
    seconds: float  # to compile
    shared: Any  # on the devices

    def place(self, facts: Sequence[Any]) -> Any:
        """Returns the runs' facts on the devices; the last run fills up what is over."""
        return jax.device_put(stacked(facts, self.size), self.stack.by_run)


def make_stack(trainable: Trainable, devices: Sequence[Any], width: int) -> Stack:
    """Returns the functions, mapped over runs.

    Args:
      trainable: of one run.
      devices: over which the runs are spread; their number must divide by that of the devices.
      width: how many runs a device trains side by side.
    """
    mesh = Mesh(np.asarray(devices), ("runs",))

    def mapped(function: Callable[..., Any], shared: int, **options: Any) -> Any:
        """Maps all but the last `shared` arguments of a function over the runs."""

        def of_device(runs: Any, common: Any) -> Any:
            return _map(lambda run: function(*run, *common), runs, width)

        def of_all(*arguments: Any) -> Any:
            split = len(arguments) - shared
            specs = {"in_specs": (P("runs"), P()), "out_specs": P("runs")}
            # No device needs what another one has, so that there is nothing to check.
            spread = jax.shard_map(of_device, mesh=mesh, check_vma=False, **specs)
            return spread(arguments[:split], arguments[split:])

        return jax.jit(of_all, **options)

    def train(state: Any, facts: Any, shared: Any, epoch: Array) -> tuple[Any, StepMetrics, Array]:
        start, length = jnp.zeros((), jnp.int32), trainable.steps_per_epoch
        state, metrics = trainable.train(state, facts, shared, epoch, start, length)
        return state, metrics, _all_finite((state, metrics))

    return Stack(
        init=mapped(trainable.init, shared=0),
        train=mapped(train, shared=2, donate_argnums=0),
        evaluate=mapped(trainable.evaluate, shared=1),
        finish=mapped(trainable.finish, shared=1),
        by_run=NamedSharding(mesh, P("runs")),
        everywhere=NamedSharding(mesh, P()),
    )


def compile_stack(
    trainable: Trainable, facts: Any, shared: Any, runs: int, memory: float | None = None
) -> Compiled:
    """Returns the functions compiled for `runs` runs, or for as many as the memory holds.

    Several stacks then train them all; the runs are shared out evenly.

    Args:
      trainable: of one run.
      facts: of any run, on the host.
      shared: of all runs, on the host.
      runs: how many there are.
      memory: bytes of each device that may be taken; None: as much as is sensible.

    Raises:
      UserError: not even one run fits.
    """
    devices = jax.local_devices()[:runs]  # A core that fills up would hinder the others.
    platform = devices[0].platform
    budget = memory or _memory(devices)
    largest = LARGEST.get(platform, 1024) * len(devices)
    stack = make_stack(trainable, devices, WIDTHS.get(platform, 1024))
    placed = jax.device_put(shared, stack.everywhere)
    while True:
        even = math.ceil(runs / math.ceil(runs / largest))
        compiled = _compiled(stack, facts, placed, even, len(devices))
        if compiled.bytes <= budget:
            return compiled
        fixed = sum(leaf.nbytes for leaf in jax.tree.leaves(shared))
        each = (compiled.bytes - fixed) * len(devices) / compiled.size
        fit = min(math.floor((budget - fixed) / each), compiled.size // len(devices) - 1)
        if fit < 1:
            raise UserError(
                f"one run of {runs} needs {_gigabytes(fixed + each)} of memory, of which "
                f"{_gigabytes(budget)} may be taken (--memory_gb): make config.batch_size, "
                "config.eval_batch_size or the model smaller"
            )
        largest = fit * len(devices)


def stacked(runs: Sequence[Any], size: int) -> Any:
    """Returns the runs' arrays on a leading axis of `size`; the last run fills up what is over."""
    filled = [*runs, *[runs[-1]] * (size - len(runs))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *filled)


def _compiled(stack: Stack, facts: Any, shared: Any, runs: int, devices: int) -> Compiled:
    began, size = time.perf_counter(), math.ceil(runs / devices) * devices

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        x = np.asarray(x)
        return jax.ShapeDtypeStruct((size, *x.shape), x.dtype, sharding=stack.by_run)

    abstract = jax.tree.map(shape, facts)
    init = stack.init.lower(abstract).compile()
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=stack.by_run),
        jax.eval_shape(stack.init, abstract),
    )
    train = stack.train.lower(state, abstract, shared, np.int32(0)).compile()
    evaluate = stack.evaluate.lower(state, abstract, shared).compile()
    finish = stack.finish.lower(state, abstract, shared).compile()
    return Compiled(
        stack._replace(init=init, train=train, evaluate=evaluate, finish=finish),
        runs=runs,
        size=size,
        bytes=max(map(_bytes, (init, train, evaluate, finish))),
        seconds=time.perf_counter() - began,
        shared=shared,
    )


def _bytes(compiled: Any) -> int:
    """Returns what a program needs of a device's memory, as its compiler has measured."""
    sizes = compiled.memory_analysis()
    arrays = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return arrays + sizes.temp_size_in_bytes


def _memory(devices: Sequence[Any]) -> float:
    platform = devices[0].platform
    share = _SHARE_OF_MEMORY.get(platform, 0.5)
    statistics = devices[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return share * statistics["bytes_limit"]
    return share * _available() / len(devices)


def _available() -> int:
    """Returns the bytes that are free, and those of caches that the system gives up for others."""
    try:
        table = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
        return 1024 * int(table["MemAvailable"].split()[0])
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB"


def _map(function: Callable[[Any], Any], runs: Any, width: int) -> Any:
    if width == 1:
        return jax.lax.map(function, runs)
    if jax.tree.leaves(runs)[0].shape[0] <= width:
        return jax.vmap(function)(runs)
    return jax.lax.map(function, runs, batch_size=width)


def _all_finite(tree: Any) -> Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
