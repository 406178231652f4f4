"""A loss with its gradients as a program, by JAX or by PyTorch, for a contest."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import eager
from experiments.bench.contest import (
    Contestant,
    Figures,
    Prepared,
    compete,
    enter,
    processes,
)
from experiments.bench.size import asked

Loss = Callable[..., Any]
"""Of arrays and labels; the mean of its values is differentiated."""
Sample = Callable[..., dict[str, np.ndarray]]
"""What is compared of the values and the gradients."""


def contend(
    platform: str,
    floor: tuple[str, Callable[..., Prepared]],
    of_jax: Mapping[str, Loss],
    of_torch: Mapping[str, tuple[Callable[..., Prepared], Loss]],
    correct: Mapping[str, np.ndarray],
    prepare: Callable[..., Prepared],
    workload: Any,
    rounds: int,
) -> Figures:
    """Returns the figures of the floor, and of all losses that --only asks for, taking turns.

    Args:
      platform: of JAX's contestants.
      floor: its name, and what makes it of the workload.
      of_jax, of_torch: losses by their names, PyTorch's each with what makes a program of it.
      correct: what the losses' samples should be.
      prepare: (workload, program, loss) -> what is timed.
      workload: what all compute.
      rounds: how often each has its turn.
    """
    of_jax, of_torch = asked(of_jax, of_torch)
    name, make = floor
    with processes() as start:
        ours = start()
        contestants = [enter(ours, name, {}, make, workload)]
        contestants += [
            enter(ours, name, correct, prepare, workload, jax_program, loss)
            for name, loss in of_jax.items()
        ]
        contestants += torch_contestants(start, platform, of_torch, correct, prepare, workload)
        return compete(contestants, rounds)


def begin_torch(threads: int | None) -> None:
    """Makes this process PyTorch's, with so many threads, or with all cores'."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def torch_contestants(
    start: Callable[..., Any],
    platform: str,
    losses: Mapping[str, tuple[Callable[..., Prepared], Loss]],
    correct: Mapping[str, np.ndarray],
    prepare: Callable[..., Prepared],
    workload: Any,
) -> list[Contestant]:
    """Returns PyTorch's contestants, each with all threads, and on a CPU also with one."""
    if not eager.INSTALLED:
        print("PyTorch is not installed, so it is left out.")
        return []
    entered = []
    for threads in (None, 1) if platform == "cpu" else (None,):
        process = start(begin_torch, threads)
        told = "" if threads is None else f", {threads} thread"
        entered += [
            enter(process, name + told, correct, prepare, workload, program, loss)
            for name, (program, loss) in losses.items()
        ]
    return entered


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns float32 numbers that the dtype holds exactly."""
    return array.astype(jnp.dtype(dtype)).astype(np.float32)


def jax_program(
    loss: Loss, arrays: Sequence[np.ndarray], labels: np.ndarray, dtype: str, sample: Sample
) -> Prepared:
    """Returns the loss and its gradients with respect to the arrays, under jit."""

    def both(arrays: Sequence[Any], labels: Any) -> tuple[Any, ...]:
        values, pull = jax.vjp(lambda *arrays: loss(*arrays, labels), *arrays)
        return values, *pull(jnp.full_like(values, 1.0 / values.size))

    given = [jnp.asarray(array, dtype) for array in arrays], jnp.asarray(labels, jnp.int32)
    began = time.perf_counter()
    compiled = jax.jit(both).lower(*given).compile()
    seconds = time.perf_counter() - began
    memory: Any = compiled.memory_analysis()
    samples = sample(*compiled(*given))
    return Prepared(
        lambda: jax.block_until_ready(compiled(*given)),
        samples,
        seconds,
        memory.temp_size_in_bytes,
    )


def torch_program(
    loss: Loss,
    arrays: Sequence[np.ndarray],
    labels: np.ndarray,
    dtype: str,
    sample: Sample,
    *,
    compiled: bool = False,
) -> Prepared:
    """Returns the same in PyTorch, eager or by `torch.compile`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [torch.tensor(a, dtype=getattr(torch, dtype), device=device) for a in arrays]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    on_device = torch.tensor(labels, device=device).long()
    function = torch.compile(loss) if compiled else loss

    def run() -> tuple[Any, ...]:
        values = function(*tensors, on_device)
        gradients = torch.autograd.grad(values.mean(), tensors)
        if device == "cuda":
            torch.cuda.synchronize()
        return values.detach(), *gradients

    began = time.perf_counter()
    samples = sample(*run())
    first = time.perf_counter() - began
    began = time.perf_counter()
    run()
    compiling = max(0.0, first - (time.perf_counter() - began))
    return Prepared(run, samples, compiling, _peak(run) if device == "cuda" else None)


def _peak(run: Callable[[], Any]) -> int:
    """Returns the bytes that PyTorch takes on a GPU besides arguments and results."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = run()
    kept = sum(result.numel() * result.element_size() for result in results)
    return torch.cuda.max_memory_allocated() - before - kept


def as_double(array: Any) -> np.ndarray:
    """Returns numbers of JAX or PyTorch in float64."""
    if hasattr(array, "cpu"):
        array = array.double().cpu()
    return np.asarray(array, np.float64)
