"""Every loss's time and memory against the plain cross-entropy's, optax's and PyTorch's.

A loss's forward pass, and its value with its gradient, are compiled ahead and timed in turns with
those of `softmax_cross_entropy_with_integer_labels` of as many examples and classes, in the same
run. No argument is donated. What is reported is a multiple of that cross-entropy's time; the
temporary memory, which the compiler states, is counted in arrays of the logits' size.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.bench.clock import Program, median_seconds
from experiments.bench.exceptions import EXCEPTIONS
from experiments.bench.peers import optax_peer, torch_peer
from experiments.bench.size import CLASSES, EXAMPLES, asked
from experiments.workloads import Workload, workload
from xent_jax import losses
from xent_jax.errors import UserError

PLAIN = "softmax_cross_entropy_with_integer_labels"
BUDGET = 3.0
Figures = dict[str, dict[str, Any]]


class OverBudget(UserError):
    """A loss got slow, or a new one is."""

    exit_status = 1


class Programs(NamedTuple):
    """A loss, ready to run."""

    forward: Program
    both: Program | None  # with the gradient, where there is one
    memory: float  # temporary bytes of `both`, or of `forward` where there is no gradient


def measure() -> Figures:
    """Prints and returns every loss's figures."""
    examples, classes = EXAMPLES.value or 4096, CLASSES.value
    plain = compiled(workload(PLAIN, examples, classes))
    logits = examples * classes * np.float32().itemsize
    print(f"{examples} examples of {classes} classes, float32, on {jax.devices()[0].device_kind}")
    print(f"{'times the plain cross-entropy':<46}{'forward':>9}{'+ grad':>8}{'memory':>8}")
    figures, room = {}, None
    for name in chosen():
        if room != _room(name):
            print(room := _room(name))
        figures[name] = _against(plain, name, examples, classes, logits)
        print(_line(name, figures[name]), flush=True)
    return figures


def chosen() -> list[str]:
    """Returns the names that --only asks for, room by room; what makes a state is no loss."""
    names = [name for name in losses.__all__ if not name.startswith("init_")]
    (names,) = asked(dict.fromkeys(names))
    return sorted(names, key=lambda name: (_room(name), name))


def compiled(loss: Workload) -> Programs:
    """Returns the loss's programs under jit."""
    forward = jax.jit(lambda given: loss.function(**given)).lower(loss.arguments).compile()
    if not loss.differentiable:
        return Programs(lambda: forward(loss.arguments), None, _temporary(forward))
    learned, others = split(loss, loss.arguments)
    both = jax.jit(jax.value_and_grad(loss.total)).lower(learned, others).compile()
    return Programs(
        lambda: forward(loss.arguments), lambda: both(learned, others), _temporary(both)
    )


def split(loss: Workload, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arguments to differentiate by, and the others."""
    learned = {name: arguments[name] for name in loss.differentiable}
    return learned, {k: v for k, v in arguments.items() if k not in learned}


def _temporary(program: Any) -> float:
    return program.memory_analysis().temp_size_in_bytes


def _eager(function: Callable[..., Any], loss: Workload) -> Programs:
    """Returns PyTorch's programs, without a compiler and with its own automatic derivatives."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    tensors = {k: torch.tensor(np.asarray(v), device=device) for k, v in loss.arguments.items()}
    tensors = {k: v if v.is_floating_point() else v.long() for k, v in tensors.items()}

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> None:
        with torch.no_grad():
            function(**tensors)
        wait()

    def both() -> None:
        learned = {k: tensors[k].detach().requires_grad_() for k in loss.differentiable}
        function(**tensors | learned).sum().backward()
        wait()

    return Programs(forward, both, math.nan)


def _against(plain: Programs, name: str, examples: int, classes: int, logits: int) -> dict:
    loss = workload(name, examples, classes)
    contestants = {"ours": compiled(loss)}
    if peer := optax_peer(name):
        contestants["optax"] = compiled(dataclasses.replace(loss, function=peer))
    if peer := torch_peer(name):
        contestants["torch"] = _eager(peer, loss)
    figures: dict[str, Any] = {"note": loss.note}
    for who, contestant in contestants.items():
        for kind in ("forward", "both"):
            if program := getattr(contestant, kind):
                seconds, ratio = median_seconds([getattr(plain, kind), program])
                figures |= {f"plain_{kind}_ms": round(1e3 * seconds, 3)}
                figures |= {f"{who}_{kind}": round(ratio, 3)}
        if not math.isnan(contestant.memory):
            figures[f"{who}_memory"] = round(contestant.memory / logits, 4)
    return figures


def _room(name: str) -> str:
    return getattr(losses, name).__module__.rpartition(".")[2]


def _line(name: str, figures: dict[str, Any]) -> str:
    def cells(who: str) -> str:
        widths = {"forward": 9, "both": 8, "memory": 8}
        return "".join(
            f"{figures[f'{who}_{kind}']:>{width}.2f}" if f"{who}_{kind}" in figures else " " * width
            for kind, width in widths.items()
        )

    lines = [f"  {name:<44}{cells('ours')}  {figures['note']}".rstrip()]
    for who in ("optax", "torch"):
        if f"{who}_both" in figures:
            lines.append(f"{who:>45} {cells(who)}".rstrip())
    return "\n".join(lines)


def judge(figures: Figures) -> None:
    """Says which losses are over the budget, and which need not be listed any more.

    Raises:
      OverBudget: a loss is over the budget without being listed.
    """
    costs = {name: f["ours_both"] for name, f in figures.items() if "ours_both" in f}
    over = {name: cost for name, cost in costs.items() if cost > BUDGET}
    for name in sorted(over.keys() & EXCEPTIONS.keys()):
        print(f"listed: {name} takes {over[name]:.1f}x: {EXCEPTIONS[name]}")
    for name in sorted((costs.keys() & EXCEPTIONS.keys()) - over.keys()):
        print(f"listed, but within {BUDGET:g}x: {name} takes {costs[name]:.1f}x")
    if unlisted := sorted(over.keys() - EXCEPTIONS.keys()):
        told = ", ".join(f"{name} ({over[name]:.1f}x)" for name in unlisted)
        raise OverBudget(
            f"over {BUDGET:g}x the plain cross-entropy and not in experiments/bench/exceptions.py: "
            + told
        )
