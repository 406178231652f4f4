"""One training step, an epoch of them in one scan, and evaluation: pure functions of arrays.

Nothing here knows how many devices there are. `mesh.py` compiles these functions for arrays
sharded over a mesh, where sums are global by construction, and `pmap.py` for one program per
device, where `axis_name` makes them so.

Shape suffixes: B examples of a batch, L steps of a chunk, N examples of a data set, K classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from xent_jax.data import pipeline
from xent_jax.metrics import ClassificationSums, classification_sums
from xent_jax.training.objective import Objective
from xent_jax.typing import Array, Key

Batch = dict[str, Array]
Data = dict[str, Array]
Share = Callable[[Array], Array]


class TrainState(NamedTuple):
    """All that changes while a run trains. Random keys are derived from `step`, never stored."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema_params: Any  # None where no average is kept


class Program(NamedTuple):
    """All that is fixed while a run trains."""

    graphdef: nnx.GraphDef
    objective: Objective
    optimizer: optax.GradientTransformation
    order_key: Key[Array, ""]  # of the examples
    step_key: Key[Array, ""]  # of augmentation and dropout
    num_classes: int
    batch_size: int
    eval_batch_size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    shift: int
    flip: bool
    ema_decay: float
    axis_name: str | None


class StepMetrics(NamedTuple):
    """What a step tells: the mean loss of its examples, and their number.

    Not the gradient's norm: another pass over it costs a small model a sixth of its speed.
    """

    loss: Array
    examples: Array


def init_state(
    create_model: Callable[[], nnx.Module], optimizer: optax.GradientTransformation, ema: bool
) -> tuple[nnx.GraphDef, TrainState]:
    """Returns the model's structure and the state at step 0, made in one compiled call."""
    graphdef, *_ = nnx.split(nnx.eval_shape(create_model), nnx.Param, nnx.BatchStat)

    @jax.jit
    def init() -> TrainState:
        _, params, batch_stats = nnx.split(create_model(), nnx.Param, nnx.BatchStat)
        params, batch_stats = nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
        average = jax.tree.map(jnp.copy, params) if ema else None
        return TrainState(
            jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), average
        )

    return graphdef, init()


def train_step(program: Program, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    """Returns the state after one update by the mean loss over the unmasked examples."""
    augment_keys_B, dropout_keys_B = _example_keys(program.step_key, state.step, batch["position"])
    images = batch["image"]
    if program.shift or program.flip:
        images = pipeline.augment(augment_keys_B, images, shift=program.shift, flip=program.flip)
    images = _standardised(program, images)
    examples = _global_sum(program, batch["mask"].sum(dtype=jnp.float32))

    def share_of_mean_loss(params: Any) -> tuple[Array, Any]:
        model = nnx.merge(program.graphdef, params, state.batch_stats)
        logits_BxK = model(images, train=True, mask=batch["mask"], keys=dropout_keys_B)
        loss_B = program.objective(logits_BxK, batch["label"], batch["mask"])
        _, _, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        return loss_B.sum() / jnp.maximum(examples, 1.0), nnx.to_pure_dict(batch_stats)

    (loss, batch_stats), gradient = jax.value_and_grad(share_of_mean_loss, has_aux=True)(
        state.params
    )
    loss, gradient = _global_sum(program, (loss, gradient))
    updates, opt_state = program.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.ema_params
    if average is not None:
        average = optax.incremental_update(params, average, 1.0 - program.ema_decay)
    state = TrainState(state.step + 1, params, batch_stats, opt_state, average)
    return state, StepMetrics(loss, examples)


def train_chunk(
    program: Program,
    share: Share,
    state: TrainState,
    data: Data,
    epoch: Array,
    start: Array,
    length: int,
) -> tuple[TrainState, StepMetrics]:
    """Returns the state after `length` steps of an epoch from its step `start`, and L metrics.

    `share` takes (L, B) arrays that every device could compute, and keeps or marks the part of
    the batch that is this device's.
    """
    epoch_indices = pipeline.epoch_indices(
        program.order_key, epoch, data["label"].shape[0], program.batch_size
    )
    indices_LxB, mask_LxB = (
        jax.lax.dynamic_slice_in_dim(whole, start, length) for whole in epoch_indices
    )
    position_LxB = jnp.broadcast_to(jnp.arange(program.batch_size), indices_LxB.shape)

    def body(state: TrainState, xs: tuple[Array, Array, Array]) -> tuple[TrainState, StepMetrics]:
        index_B, mask_B, position_B = xs
        batch = {"image": data["image"][index_B], "label": data["label"][index_B]}
        return train_step(program, state, batch | {"mask": mask_B, "position": position_B})

    return jax.lax.scan(body, state, (share(indices_LxB), share(mask_LxB), share(position_LxB)))


def evaluate_batch(program: Program, state: TrainState, batch: Batch) -> ClassificationSums:
    """Returns the metrics' sums over one batch, of the averaged parameters where there are any."""
    params = state.params if state.ema_params is None else state.ema_params
    model = nnx.merge(program.graphdef, params, state.batch_stats)
    logits_BxK = model(_standardised(program, batch["image"]))
    sums = classification_sums(
        logits_BxK, batch["label"], clean_labels=batch["clean_label"], where=batch["mask"]
    )
    return _global_sum(program, sums)


def evaluate(program: Program, share: Share, state: TrainState, data: Data) -> ClassificationSums:
    """Returns the metrics' sums over a whole data set; every example counts exactly once."""
    indices_LxB, mask_LxB = pipeline.epoch_indices(
        program.order_key, 0, data["label"].shape[0], program.eval_batch_size, shuffle=False
    )

    def body(sums: ClassificationSums, xs: tuple[Array, Array]) -> tuple[ClassificationSums, None]:
        index_B, mask_B = xs
        batch = {name: data[name][index_B] for name in ("image", "label", "clean_label")}
        return sums + evaluate_batch(program, state, batch | {"mask": mask_B}), None

    empty = ClassificationSums.empty(program.num_classes)
    return jax.lax.scan(body, empty, (share(indices_LxB), share(mask_LxB)))[0]


def _example_keys(
    key: Key[Array, ""], step: Array, position_B: Array
) -> tuple[Key[Array, " batch"], Key[Array, " batch"]]:
    """Returns two keys per example; they depend on its place in the global batch alone."""
    step_key = jax.random.fold_in(key, step)
    keys_B = jax.vmap(lambda position: jax.random.fold_in(step_key, position))(position_B)
    pairs_Bx2 = jax.vmap(jax.random.split)(keys_B)
    return pairs_Bx2[:, 0], pairs_Bx2[:, 1]


def _standardised(program: Program, images: Array) -> Array:
    return pipeline.normalise(images, program.mean, program.deviation)


def _global_sum(program: Program, tree: Any) -> Any:
    return tree if program.axis_name is None else jax.lax.psum(tree, program.axis_name)
