"""Softmax cross-entropy of logits that exist, forward and backward, against whoever does the same.

The floor is a copy: one read of the logits and one write of their gradient. It takes its turns with
the others, and each one's share of its speed is reported.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import xent_jax as xent
from experiments.bench import contest, programs
from experiments.bench.size import ROUNDS

_SHAPES = {
    "cpu": ["8192x1000", "4096x32768"],
    "others": ["65536x1000", "16384x32768", "8192x128256", "4096x262144"],
}
_ROUNDS = 5
_COPY = "copy"


class Workload(NamedTuple):
    examples: int
    classes: int
    dtype: str


def measure() -> dict[str, Any]:
    """Prints and returns every contestant's figures, by shape and dtype."""
    return contest.measure(2, _SHAPES, _contest)


def _contest(shape: tuple[int, ...], dtype: str, platform: str) -> contest.Figures:
    examples, classes = shape
    workload = Workload(examples, classes, dtype)
    figures = programs.contend(
        platform,
        (_COPY, copy_program),
        _JAX_LOSSES,
        _torch_losses(platform),
        exact(workload),
        prepare,
        workload,
        ROUNDS.value or _ROUNDS,
    )
    for of_one in figures.values():
        if "failed" not in of_one:
            of_one["of a copy's speed"] = figures[_COPY]["minimum_ms"] / of_one["minimum_ms"]
    contest.report(figures, "of a copy's speed")
    return figures


def copy_program(workload: Workload) -> contest.Prepared:
    """Returns what reads the logits and writes as much."""
    logits = jnp.asarray(arrays(workload)[0], workload.dtype)
    copy = jax.jit(jnp.negative)
    jax.block_until_ready(copy(logits))
    return contest.Prepared(lambda: jax.block_until_ready(copy(logits)), {}, 0.0)


def prepare(workload: Workload, program: Any, loss: programs.Loss) -> contest.Prepared:
    logits, labels = arrays(workload)

    def sample(values: Any, gradient: Any) -> dict[str, np.ndarray]:
        parts = {"losses": values, "gradient": gradient[_rows(workload)]}
        return {name: programs.as_double(part) for name, part in parts.items()}

    return program(loss, (logits,), labels, workload.dtype, sample)


def _rows(workload: Workload) -> np.ndarray:
    """Returns the examples whose gradients are compared."""
    return np.linspace(0, workload.examples - 1, 64).astype(int)


def arrays(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits of a standard deviation of 2, and labels."""
    random = np.random.default_rng(0)
    logits = 2.0 * random.standard_normal((workload.examples, workload.classes), np.float32)
    labels = random.integers(0, workload.classes, workload.examples)
    return programs.rounded(logits, workload.dtype), labels


def exact(workload: Workload) -> dict[str, np.ndarray]:
    """Returns all losses and some rows of the mean's gradient, by NumPy in float64."""
    logits, labels = arrays(workload)
    losses = np.concatenate([
        _exact_losses(logits[start : start + 256], labels[start : start + 256])
        for start in range(0, workload.examples, 256)
    ])  # fmt: skip
    rows = _rows(workload)
    z = logits[rows].astype(np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(rows)), labels[rows]] -= 1.0
    return {"losses": losses, "gradient": p / workload.examples}


def _exact_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]


def _optax(logits: Any, labels: Any) -> Any:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def _jnp(logits: Any, labels: Any) -> Any:
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def _ours(logits: Any, labels: Any) -> Any:
    return xent.softmax_cross_entropy_with_integer_labels(logits, labels)


_JAX_LOSSES = {"optax": _optax, "jnp": _jnp, "ours": _ours}


def _torch_losses(platform: str) -> dict[str, tuple[Any, programs.Loss]]:
    """Returns PyTorch's losses; the kernel for GPUs has never been run by us."""
    plain = programs.torch_program
    losses = {
        "PyTorch": (plain, _torch),
        "PyTorch compiled": (functools.partial(plain, compiled=True), _torch),
    }
    return losses | ({"QuACK": (plain, _quack)} if platform == "gpu" else {})


def _torch(logits: Any, labels: Any) -> Any:
    from torch.nn import functional

    return functional.cross_entropy(logits, labels, reduction="none")


def _quack(logits: Any, labels: Any) -> Any:
    from quack.cross_entropy import cross_entropy

    return cross_entropy(logits, labels, reduction="none")
