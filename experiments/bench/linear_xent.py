"""Linear layer and softmax cross-entropy, forward and backward, against whoever does the same.

The three matrix products that are needed make 6 N D V operations, which are what is reported per
second: whoever computes the logits twice does more than is counted. The floor is these products
alone, by XLA, of arrays that exist; they take their turns with the others.

Temporary memory is what the compiler states beside arguments and results. Where the weights'
gradient is narrower than float32, ours is added up over the chunks in a float32 array, 4 V D
bytes, which is told beside it.
"""

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import xent_jax as xent
from experiments.bench import contest, programs
from experiments.bench.size import ROUNDS
from xent_jax.linear_xent import arguments
from xent_jax.linear_xent.api import IMPLEMENTATIONS

_ROWS = flags.DEFINE_multi_integer(
    "rows", [], "Tokens per chunk to try beside our own choice (linear_xent); may be repeated.", 1
)
_SHAPES = {
    "cpu": ["2048x512x32768", "4096x1024x65536"],
    "others": ["4096x4096x128256"],
}
_ROUNDS = 5
_PRODUCTS = "the three products alone"
_SAMPLES = 64  # tokens and classes whose gradients are held against exact ones
_BATCH = 256  # tokens whose exact logits exist at a time


class Workload(NamedTuple):
    tokens: int
    features: int
    classes: int
    dtype: str


def measure() -> dict[str, Any]:
    """Prints and returns every contestant's figures, by shape and dtype."""
    return contest.measure(3, _SHAPES, _contest)


def _contest(shape: tuple[int, ...], dtype: str, platform: str) -> contest.Figures:
    tokens, features, classes = shape
    workload = Workload(tokens, features, classes, dtype)
    figures = programs.contend(
        platform,
        (_PRODUCTS, products_program),
        _jax_losses(platform),
        _torch_losses(platform),
        exact(workload),
        prepare,
        workload,
        ROUNDS.value or _ROUNDS,
    )
    useful = 6 * workload.tokens * workload.features * workload.classes
    for name, of_one in figures.items():
        if "failed" not in of_one:
            of_one["TFLOP/s"] = useful / of_one["median_ms"] / 1e9
            of_one["accumulator_bytes"] = _accumulator(workload) if name.startswith("ours") else 0
    contest.report(figures, "TFLOP/s")
    return figures


def _accumulator(workload: Workload) -> int:
    return 0 if workload.dtype == "float32" else 4 * workload.classes * workload.features


def products_program(workload: Workload) -> contest.Prepared:
    """Returns the products of which logits and gradients consist."""
    hidden, weights, _ = arrays(workload)
    slopes = np.random.default_rng(1).standard_normal((workload.tokens, workload.classes), "f")
    given = [jnp.asarray(array, workload.dtype) for array in (hidden, weights, slopes)]

    def products(hidden: Any, weights: Any, slopes: Any) -> tuple[Any, ...]:
        pairs = (hidden, weights, 1, 1), (slopes, weights, 1, 0), (slopes, hidden, 0, 0)
        return tuple(
            jax.lax.dot_general(
                left, right, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32
            )
            for left, right, i, j in pairs
        )

    began = time.perf_counter()
    compiled = jax.jit(products).lower(*given).compile()
    seconds = time.perf_counter() - began
    return contest.Prepared(lambda: jax.block_until_ready(compiled(*given)), {}, seconds)


def prepare(workload: Workload, program: Any, loss: programs.Loss) -> contest.Prepared:
    hidden, weights, labels = arrays(workload)
    tokens, classes = sampled(workload, labels)

    def sample(value: Any, d_hidden: Any, d_weights: Any) -> dict[str, np.ndarray]:
        parts = {"loss": value, "d_hidden": d_hidden[tokens], "d_weights": d_weights[classes]}
        return {name: programs.as_double(part) for name, part in parts.items()}

    return program(loss, (hidden, weights), labels, workload.dtype, sample)


def arrays(workload: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns hidden (N, D), weights (V, D), of logits of a standard deviation of 1, and labels."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal((workload.tokens, workload.features), np.float32)
    weights = random.standard_normal((workload.classes, workload.features), np.float32)
    weights /= np.sqrt(workload.features, dtype=np.float32)
    labels = random.integers(0, workload.classes, workload.tokens)
    hidden, weights = (programs.rounded(array, workload.dtype) for array in (hidden, weights))
    return hidden, weights, labels


def sampled(workload: Workload, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens and the classes, half of them labels, whose gradients are compared."""
    tokens = np.linspace(0, workload.tokens - 1, _SAMPLES).astype(int)
    classes = np.linspace(0, workload.classes - 1, _SAMPLES // 2).astype(int)
    return tokens, np.concatenate([classes, labels[tokens[::2]]])


def exact(workload: Workload) -> dict[str, np.ndarray]:
    """Returns the loss and some of its gradients, by NumPy in float64."""
    hidden, weights, labels = arrays(workload)
    hidden, weights = hidden.astype(np.float64), weights.astype(np.float64)
    tokens, classes = sampled(workload, labels)
    loss, d_weights, d_hidden = 0.0, 0.0, []
    for start in range(0, workload.tokens, _BATCH):
        rows = np.arange(start, min(start + _BATCH, workload.tokens))
        z = hidden[rows] @ weights.T
        z -= z.max(1, keepdims=True)
        picked = z[np.arange(len(rows)), labels[rows]]
        p = np.exp(z, out=z)
        totals = p.sum(1, keepdims=True)
        loss += np.sum(np.log(totals[:, 0]) - picked)
        p /= totals
        p[np.arange(len(rows)), labels[rows]] -= 1.0
        d_weights += p[:, classes].T @ hidden[rows]
        d_hidden.append(p[np.isin(rows, tokens)] @ weights)
    chosen = np.searchsorted(np.unique(tokens), tokens)  # fewer tokens than samples repeat
    gradients = {"d_hidden": np.concatenate(d_hidden)[chosen], "d_weights": d_weights}
    return {name: sum_ / workload.tokens for name, sum_ in {"loss": loss, **gradients}.items()}


def _jax_losses(platform: str) -> dict[str, programs.Loss]:
    others = {"reference", *({"pallas_gpu", "pallas_tpu"} - {f"pallas_{platform}"})}
    ours = [name for name in IMPLEMENTATIONS if name not in others]
    each = {f"ours, {name}": functools.partial(_ours, implementation=name) for name in ours}
    sums = {f"ours, {name} sum": functools.partial(_ours_sum, implementation=name) for name in ours}
    tried = {
        f"ours, chunked sum, {rows} rows": functools.partial(
            _ours_sum, implementation="chunked", rows=rows
        )
        for rows in _ROWS.value
    }
    return {"optax": _optax, "jnp": _jnp, **each, **sums, **tried, "tokamax": _tokamax}


def _optax(hidden: Any, weights: Any, labels: Any) -> Any:
    return jnp.mean(
        optax.losses.softmax_cross_entropy_with_integer_labels(hidden @ weights.T, labels)
    )


def _jnp(hidden: Any, weights: Any, labels: Any) -> Any:
    logits = jnp.matmul(hidden, weights.T, preferred_element_type=jnp.float32)
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def _ours(hidden: Any, weights: Any, labels: Any, *, implementation: str) -> Any:
    loss: Any = functools.partial(xent.linear_softmax_cross_entropy, implementation=implementation)
    return jnp.mean(loss(hidden, weights, labels))


def _ours_sum(
    hidden: Any, weights: Any, labels: Any, *, implementation: str, rows: int | None = None
) -> Any:
    with _chunks_of(rows):
        total, normalizer = xent.linear_softmax_cross_entropy_sum(
            hidden, weights, labels, implementation=implementation
        )
    return total / normalizer


@contextlib.contextmanager
def _chunks_of(rows: int | None) -> Iterator[None]:
    """Overrules how many tokens a chunk has."""
    if rows is None:
        yield
        return
    with mock.patch.object(arguments, "rows_per_chunk", return_value=rows):
        yield


def _tokamax(hidden: Any, weights: Any, labels: Any) -> Any:
    import tokamax

    return tokamax.linear_softmax_cross_entropy_loss(hidden, labels, weights.T, reduction="mean")


def _torch_losses(platform: str) -> dict[str, tuple[Any, programs.Loss]]:
    """Returns PyTorch's losses; those of kernels for GPUs have never been run by us."""
    plain = programs.torch_program
    losses: dict[str, Any] = {
        "PyTorch": (plain, _torch),
        "PyTorch compiled": (functools.partial(plain, compiled=True), _torch),
        "PyTorch linear_cross_entropy": (plain, _torch_chunked),
    }
    if platform == "gpu":
        for name, loss in {"QuACK": _quack, "Liger": _liger, "cut-cross-entropy": _cut}.items():
            losses[name] = plain, loss
    return losses


def _torch(hidden: Any, weights: Any, labels: Any) -> Any:
    from torch.nn import functional

    return functional.cross_entropy(functional.linear(hidden, weights), labels)


def _torch_chunked(hidden: Any, weights: Any, labels: Any) -> Any:
    import torch

    return torch.nn.functional.linear_cross_entropy(
        hidden, weights, labels, options=torch.nn.LinearCrossEntropyOptions()
    )


def _quack(hidden: Any, weights: Any, labels: Any) -> Any:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return chunked_linear_cross_entropy(hidden, weights, labels)


def _liger(hidden: Any, weights: Any, labels: Any) -> Any:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy(hidden, weights, labels)


def _cut(hidden: Any, weights: Any, labels: Any) -> Any:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(hidden, weights, labels)
