"""The compiled step of a language model: text over all devices, its vocabulary over some.

Devices form a mesh of two axes. Windows are split over both. The rows of the embedding, which is
the last layer as well, are split over `vocabulary` and copied along `data`; all else is copied to
every device. Tables and logits are never gathered: devices exchange tokens and hidden vectors.

Shape suffixes: B windows of L tokens, V tokens in the vocabulary, D the model's width, S steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax.data import pipeline
from xent_jax.linear_xent import linear_softmax_cross_entropy_sum
from xent_jax.metrics.summation import CompensatedSum
from xent_jax.training.step import StepMetrics, TrainState
from xent_jax.typing import Array, Bool, Float, Int, Key

DATA, VOCABULARY = "data", "vocabulary"
BY_WINDOW = P((DATA, VOCABULARY))

Windows = dict[str, Array]
"""inputs, labels and where, each (B, L): where says which labels count."""

SumOfLosses = Callable[[Array, Array, Array, Array, str | None], Array]
"""(hidden, table, labels, where, the axis over which the table's rows are split or None)."""


class LanguageProgram(NamedTuple):
    """All that is fixed while a language model trains."""

    graphdef: nnx.GraphDef
    sum_of_losses: SumOfLosses
    optimizer: optax.GradientTransformation
    order_key: Key[Array, ""]  # of the windows
    batch_size: int
    eval_batch_size: int
    accumulate: int  # micro-batches of a step
    mesh: Mesh


class LanguageSums(NamedTuple):
    """Sums over a text that was predicted, each token once."""

    nats: CompensatedSum
    tokens: jax.Array

    def __add__(self, other: "LanguageSums") -> "LanguageSums":  # pyright: ignore
        return LanguageSums(self.nats + other.nats, self.tokens + other.tokens)


def init_state(
    create_model: Callable[[], nnx.Module], optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state at step 0; the parameters are float32 whatever the model computes in."""
    params = nnx.to_pure_dict(nnx.split(create_model(), nnx.Param)[1])
    return TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params), None)


def state_specs(state: Any) -> Any:
    """Returns how each array is split: the embedding and its moments by rows, the others not."""

    def spec(path: Any, x: Any) -> P:
        # Some optimisers keep one number for a whole table.
        by_rows = getattr(path[-1], "key", None) == "embedding" and jnp.ndim(x) == 2
        return P(VOCABULARY, None) if by_rows else P()

    return jax.tree_util.tree_map_with_path(spec, state)


def train_step(
    program: LanguageProgram, state: TrainState, batch: Windows
) -> tuple[TrainState, StepMetrics]:
    """Returns the state after one update by the mean loss of the tokens that count.

    The optimiser sees whole arrays, so that a norm to clip is that of the whole gradient.
    """
    specs = state_specs(state.params)
    total = jax.shard_map(
        partial(_totals, program),
        mesh=program.mesh,
        in_specs=(specs, BY_WINDOW),
        out_specs=(specs, P(), P()),
    )
    gradient, loss, tokens = total(state.params, batch)
    # Once, at the end: no mean of the micro-batches' or of the devices' means.
    share = 1.0 / jnp.maximum(tokens, 1.0)
    gradient = jax.tree.map(lambda x: share * x, gradient)
    updates, opt_state = program.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    moved = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
    return moved, StepMetrics(share * loss, tokens)


def _totals(program: LanguageProgram, params: Any, batch: Windows) -> tuple[Any, Array, Array]:
    """Returns the batch's sum of losses with its gradient, and the number of its tokens."""
    # Marked as each device's own, the gradients are summed over devices below, not at every use.
    own = jax.tree.map(partial(_varying, axes=(DATA, VOCABULARY)), params)
    loss_and_gradient = jax.value_and_grad(partial(_sum_of_losses, program))

    def add(totals: Any, part: Windows) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, totals, loss_and_gradient(own, part)), None

    parts = jax.tree.map(lambda x: x.reshape(program.accumulate, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(loss_and_gradient, own, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(_zeros, shapes)
    (loss, gradient), _ = jax.lax.scan(add, zeros, parts)
    gradient = jax.tree.map(lambda x, like: _summed(x, _axes(x) - _axes(like)), gradient, params)
    tokens = batch["where"].sum(dtype=jnp.float32)
    return gradient, _summed(loss, _axes(loss)), jax.lax.psum(tokens, (DATA, VOCABULARY))


def _sum_of_losses(program: LanguageProgram, params: Any, windows: Windows) -> Float[Array, ""]:
    return program.sum_of_losses(*_last_layer(program, params, windows))


def _last_layer(program: LanguageProgram, params: Any, windows: Windows) -> tuple[Any, ...]:
    """Returns what a loss is given: of each token the vector, the label, and whether it counts.

    A device that holds a part of the vocabulary sees all tokens of those that hold the others.
    """
    hidden_BxLxD = _hidden(program, params, windows["inputs"])
    table = params["embedding"].astype(hidden_BxLxD.dtype)
    if program.mesh.shape[VOCABULARY] == 1:
        return hidden_BxLxD, table, windows["labels"], windows["where"], None
    gathered = partial(jax.lax.all_gather, axis_name=VOCABULARY, tiled=True)
    labels, where = (gathered(windows[name], to="invarying") for name in ("labels", "where"))
    return gathered(hidden_BxLxD), table, labels, where, VOCABULARY


def _hidden(
    program: LanguageProgram, params: Any, tokens_BxL: Int[Array, "windows length"]
) -> Float[Array, "windows length width"]:
    """Returns the network's outputs.

    Where the vocabulary is split, it is given a table of just the rows that its tokens name.
    """
    if program.mesh.shape[VOCABULARY] > 1:
        rows = _rows(params["embedding"], tokens_BxL)
        params = params | {"embedding": rows.reshape(-1, rows.shape[-1])}
        tokens_BxL = jnp.arange(tokens_BxL.size, dtype=jnp.int32).reshape(tokens_BxL.shape)
    model: Any = nnx.merge(program.graphdef, params)
    return model(tokens_BxL)


def _rows(
    table: Float[Array, "rows width"], tokens_BxL: Int[Array, "windows length"]
) -> Float[Array, "windows length width"]:
    """Returns the tokens' embeddings, of which each device of the axis adds those that it holds.

    As `embed`, it gives NaN for a token outside of the vocabulary, which no device holds.
    """
    tokens = jax.lax.all_gather(tokens_BxL, VOCABULARY, tiled=True)
    places = tokens - jax.lax.axis_index(VOCABULARY) * len(table)
    held = (places >= 0) & (places < len(table))
    rows = jnp.where(held[..., None], table[jnp.where(held, places, 0)], 0.0)
    known = (tokens_BxL >= 0) & (tokens_BxL < len(table) * jax.lax.axis_size(VOCABULARY))
    added = jax.lax.psum_scatter(rows, VOCABULARY, tiled=True)
    return jnp.where(known[..., None], added, jnp.nan)


def train_chunk(
    program: LanguageProgram,
    state: TrainState,
    data: Windows,
    epoch: Array,
    start: Array,
    length: int,
) -> tuple[TrainState, StepMetrics]:
    """Returns the state after `length` steps of an epoch from its step `start`, and S metrics."""
    windows = data["inputs"].shape[0]
    order = pipeline.epoch_indices(program.order_key, epoch, windows, program.batch_size)
    steps = [jax.lax.dynamic_slice_in_dim(whole, start, length) for whole in order]

    def body(state: TrainState, xs: Any) -> tuple[TrainState, StepMetrics]:
        return train_step(program, state, _taken(program, data, *xs))

    return jax.lax.scan(body, state, tuple(steps))


def evaluate(program: LanguageProgram, state: TrainState, data: Windows) -> LanguageSums:
    """Returns the sums over a whole text; every token counts exactly once."""
    windows = data["inputs"].shape[0]
    order = pipeline.epoch_indices(
        program.order_key, 0, windows, program.eval_batch_size, shuffle=False
    )
    sums = jax.shard_map(
        partial(_evaluated, program),
        mesh=program.mesh,
        in_specs=(state_specs(state.params), BY_WINDOW),
        out_specs=P(),
    )

    def body(total: LanguageSums, xs: Any) -> tuple[LanguageSums, None]:
        nats, tokens = sums(state.params, _taken(program, data, *xs))
        return total + LanguageSums(CompensatedSum.of(nats), tokens), None

    zero = LanguageSums(CompensatedSum.of(jnp.zeros(())), jnp.zeros((), jnp.int32))
    return jax.lax.scan(body, zero, order)[0]


def _evaluated(
    program: LanguageProgram, params: Any, windows: Windows
) -> tuple[jax.Array, jax.Array]:
    nats = cross_entropy(*_last_layer(program, params, windows))
    tokens = windows["where"].sum(dtype=jnp.int32)
    return _summed(nats, _axes(nats)), jax.lax.psum(tokens, (DATA, VOCABULARY))


def cross_entropy(
    hidden: Array, table: Array, labels: Array, where: Array, axis: str | None, **arguments: Any
) -> Array:
    """Returns the tokens' summed cross-entropy without ever holding their logits."""
    split = {} if axis is None else {"vocabulary_axis": axis}
    total, _ = linear_softmax_cross_entropy_sum(
        hidden, table, labels, where=where, **split, **arguments
    )
    return total


def _taken(
    program: LanguageProgram,
    data: Windows,
    index_B: Int[Array, " windows"],
    mask_B: Bool[Array, " windows"],
) -> Windows:
    """Returns a batch's windows, of which each device takes its share."""
    sharding = NamedSharding(program.mesh, BY_WINDOW)
    index_B, mask_B = (jax.lax.with_sharding_constraint(x, sharding) for x in (index_B, mask_B))
    batch = {name: column[index_B] for name, column in data.items()}
    return batch | {"where": batch["where"] & mask_B[:, None]}


def _zeros(like: jax.ShapeDtypeStruct) -> Array:
    axes = tuple(like.manual_axis_type.varying)  # pyright: ignore
    return _varying(jnp.zeros(like.shape, like.dtype), axes)


def _varying(array: Array, axes: tuple[str, ...]) -> Array:
    return jax.lax.pcast(array, tuple(set(axes) - _axes(array)), to="varying")


def _summed(array: Any, axes: frozenset[str]) -> jax.Array:
    return jax.lax.psum(array, tuple(axes)) if axes else array


def _axes(array: Any) -> frozenset[str]:
    """Returns the axes of the mesh along which an array differs."""
    return jax.typeof(array).manual_axis_type.varying
