"""One training step, an epoch of them in one scan, and evaluation: pure functions of arrays.

Nothing here knows how many devices there are. `mesh.py` compiles these functions for arrays
sharded over a mesh, where sums are global by construction, and `pmap.py` for one program per
device, where `axis_name` makes them so.

Shape suffixes: B examples of a batch, L steps of a chunk, N examples of a data set, K classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from xent_jax import losses
from xent_jax.data import pipeline
from xent_jax.metrics import ClassificationSums, classification_sums
from xent_jax.training import networks
from xent_jax.training.objective import Objective
from xent_jax.training.wrappers import Mixing, Reweighting
from xent_jax.typing import Array, Key

Batch = dict[str, Array]
Data = dict[str, Array]
Share = Callable[[Array], Array]


class TrainState(NamedTuple):
    """All that changes while a run trains. Random keys are derived from `step`, never stored.

    In co-teaching every field but `step`, `teacher` and `transition_matrix` holds two networks' on
    a leading axis.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema_params: Any  # None where no average is kept
    loss_state: Any = None  # of a stateful loss
    teacher: Any = None  # the teacher's parameters and statistics, which never change
    transition_matrix: Any = None  # (K, K), where training itself estimates it


class Program(NamedTuple):
    """All that is fixed while a run trains."""

    graphdef: nnx.GraphDef
    objective: Objective
    optimizer: optax.GradientTransformation
    order_key: Key[Array, ""]  # of the examples
    step_key: Key[Array, ""]  # of augmentation, mixing and dropout
    num_classes: int
    batch_size: int
    eval_batch_size: int
    steps_per_epoch: int
    mean: Array  # (C,)
    deviation: Array
    shift: int
    flip: bool
    ema_decay: float
    axis_name: str | None
    classify: Callable[[nnx.Module, Array], Array]  # in evaluation
    sampler: pipeline.ClassSampler | None = None
    reweighting: Reweighting | None = None
    mixing: Mixing | None = None
    teacher: Callable[[Any, Array], Array] | None = None  # (its state, images) -> logits
    forget_rate: Callable[[Array], Array] | None = None  # (epoch) -> rate, in co-teaching
    first_epoch: int = 0  # from which its own epochs are counted
    frozen_features: bool = False  # all but the last layer stay as they are
    second_stage: "SecondStage | None" = None


class SecondStage(NamedTuple):
    """What a run goes on with after some epochs."""

    epoch: int  # its first
    program: Program
    start: Callable[[Share, TrainState, Data], TrainState]  # the state from the first stage's last


_MIXING = 2**32 - 1  # which no place in a batch is folded in as


class StepMetrics(NamedTuple):
    """What a step tells: the mean loss of its examples, and their number.

    Not the gradient's norm: another pass over it costs a small model a sixth of its speed.
    """

    loss: Array
    examples: Array


def init_state(
    create_model: Callable[[], nnx.Module],
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
    loss_state: Any = None,
) -> TrainState:
    """Returns the state at step 0."""
    _, params, batch_stats = nnx.split(create_model(), nnx.Param, nnx.BatchStat)
    params, batch_stats = nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
    average = jax.tree.map(jnp.copy, params) if ema else None
    step, opt_state = jnp.zeros((), jnp.int32), optimizer.init(params)
    return TrainState(step, params, batch_stats, opt_state, average, loss_state)


def train_step(program: Program, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    """Returns the state after one update by the weighted mean loss over the unmasked examples."""
    examples = _global_sum(program, batch["mask"].sum(dtype=jnp.float32))
    share_of_mean_loss = partial(
        _share_of_mean_loss, program, state, _prepared(program, state, batch)
    )
    gradient, (loss, changed) = jax.grad(share_of_mean_loss, has_aux=True)(state.params)
    loss, gradient = _global_sum(program, (loss, gradient))
    return _updated(program, state, gradient)._replace(**changed), StepMetrics(loss, examples)


def _share_of_mean_loss(
    program: Program, state: TrainState, batch: Batch, params: Any
) -> tuple[Array, tuple[Array, dict[str, Any]]]:
    """Returns this device's share of the mean loss, to differentiate and to tell, and new state.

    Of two networks the sum is differentiated, so that each has its own gradient, and the mean told.
    """
    epoch = state.step // program.steps_per_epoch - program.first_epoch
    losses_of = partial(_losses, program, batch, epoch)
    if program.forget_rate is None:
        loss_B, changed = losses_of(params, state.batch_stats, state.loss_state)
        weight_B = batch["mask"].astype(jnp.float32)
    else:
        both = jax.vmap(losses_of)
        loss_B, changed = both(params, state.batch_stats, state.loss_state)
        weight_B = _exchanged(program, epoch, loss_B, batch["mask"]).astype(jnp.float32)
    if program.reweighting is not None:
        class_weight_B = program.reweighting(epoch)[batch["label"]]
        weight_B = weight_B * jnp.broadcast_to(class_weight_B, weight_B.shape)
    total = _global_sum(program, weight_B.sum(-1))
    shares = (weight_B * loss_B).sum(-1) / jnp.where(total > 0, total, 1.0)
    return shares.sum(), (shares.mean(), changed)


def _updated(program: Program, state: TrainState, gradient: Any) -> TrainState:
    """Returns the state with the optimiser's update; in co-teaching each network has its own."""
    update = program.optimizer.update
    if program.forget_rate is not None:
        update = jax.vmap(update)
    updates, opt_state = update(gradient, state.opt_state, state.params)
    params = _learnt(program, state.params, optax.apply_updates(state.params, updates))
    average = state.ema_params
    if average is not None:
        moved = optax.incremental_update(params, average, 1.0 - program.ema_decay)
        average = _learnt(program, average, moved)
    return state._replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema_params=average
    )


def _learnt(program: Program, before: Any, after: Any) -> Any:
    """Returns the parameters after an update, but frozen ones, which weight decay would move."""
    return before | {"logits": after["logits"]} if program.frozen_features else after


def _prepared(program: Program, state: TrainState, batch: Batch) -> Batch:
    """Returns the batch augmented, standardised and perhaps mixed, with what else a loss is fed."""
    step_key = jax.random.fold_in(program.step_key, state.step)
    augment_keys_B, dropout_keys_B = _example_keys(step_key, batch["position"])
    images = batch["image"]
    if program.shift or program.flip:
        images = pipeline.augment(augment_keys_B, images, shift=program.shift, flip=program.flip)
    images = standardised(program, images)
    batch = batch | {"image": images, "dropout_keys": dropout_keys_B}
    if program.mixing is not None:
        key = jax.random.fold_in(step_key, _MIXING)
        images, mixed = program.mixing(key, images, batch["label"], where=batch["mask"])
        batch |= {"image": images, "other_label": mixed.other_labels, "share": mixed.share}
    if program.teacher is not None:
        batch |= {"teacher_logits": program.teacher(state.teacher, batch["image"])}
    if state.transition_matrix is not None:
        batch |= {"transition_matrix": state.transition_matrix}
    return batch


def _losses(
    program: Program, batch: Batch, epoch: Array, params: Any, batch_stats: Any, loss_state: Any
) -> tuple[Array, dict[str, Any]]:
    """Returns a network's loss of every example, its new statistics and the loss's new state."""
    model = nnx.merge(program.graphdef, params, batch_stats)
    frozen, keys_B = program.frozen_features, batch["dropout_keys"]
    feed = networks.feed(model, batch["image"], batch["mask"], keys_B, frozen=frozen)
    _, _, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    feed |= {"labels": batch["label"], "where": batch["mask"], "indices": batch["index"]}
    feed |= {"epoch": epoch, "state": loss_state}
    feed |= {key: batch[key] for key in ("teacher_logits", "transition_matrix") if key in batch}
    loss_B, loss_state = program.objective.loss(feed)
    if "other_label" in batch:
        other_B, _ = program.objective.loss(feed | {"labels": batch["other_label"]})
        loss_B = batch["share"] * loss_B + (1.0 - batch["share"]) * other_B
    return loss_B, {"batch_stats": nnx.to_pure_dict(batch_stats), "loss_state": loss_state}


def _exchanged(program: Program, epoch: Array, loss_2xB: Array, mask_B: Array) -> Array:
    """Returns which examples each network learns from: the other one's small losses."""
    assert program.forget_rate is not None
    select = partial(
        losses.small_loss_selection,
        forget_rate=program.forget_rate(epoch),
        where=mask_B,
        axis_name=program.axis_name,
    )
    return jax.vmap(select)(loss_2xB)[::-1]


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
    second = program.second_stage
    if second is None:
        return _train_chunk(program, share, state, data, epoch, start, length)

    def in_first(state: TrainState) -> tuple[TrainState, StepMetrics]:
        return _train_chunk(program, share, state, data, epoch, start, length)

    def in_second(state: TrainState) -> tuple[TrainState, StepMetrics]:
        begins = (epoch == second.epoch) & (start == 0)
        state = jax.lax.cond(
            begins, lambda state: second.start(share, state, data), lambda state: state, state
        )
        since = epoch - second.epoch
        return _train_chunk(second.program, share, state, data, since, start, length)

    # By the epoch, which all runs of a stack share: mapped over, a branch not taken costs nothing.
    return jax.lax.cond(epoch < second.epoch, in_first, in_second, state)


def _train_chunk(
    program: Program,
    share: Share,
    state: TrainState,
    data: Data,
    epoch: Array,
    start: Array,
    length: int,
) -> tuple[TrainState, StepMetrics]:
    epoch_indices = pipeline.epoch_indices(
        program.order_key,
        epoch,
        data["label"].shape[0],
        program.batch_size,
        sampler=program.sampler,
    )
    indices_LxB, mask_LxB = (
        jax.lax.dynamic_slice_in_dim(whole, start, length) for whole in epoch_indices
    )
    position_LxB = jnp.broadcast_to(jnp.arange(program.batch_size), indices_LxB.shape)

    def body(state: TrainState, xs: tuple[Array, Array, Array]) -> tuple[TrainState, StepMetrics]:
        index_B, mask_B, position_B = xs
        batch = _taken(data, index_B, ("label",))
        batch |= {"index": index_B, "mask": mask_B, "position": position_B}
        return train_step(program, state, batch)

    return jax.lax.scan(body, state, (share(indices_LxB), share(mask_LxB), share(position_LxB)))


def _taken(data: Data, index_B: Array, names: tuple[str, ...]) -> Batch:
    """Returns examples. Where runs share a pool of images, `place` says which are this run's."""
    place_B = data["place"][index_B] if "place" in data else index_B
    return {name: data[name][index_B] for name in names} | {"image": data["image"][place_B]}


def evaluate_batch(program: Program, state: TrainState, batch: Batch) -> ClassificationSums:
    """Returns the metrics' sums over one batch, of the averaged parameters where there are any."""
    sums = classification_sums(
        predict_batch(program, state, batch),
        batch["label"],
        clean_labels=batch["clean_label"],
        where=batch["mask"],
    )
    return _global_sum(program, sums)


def predict_batch(program: Program, state: TrainState, batch: Batch) -> Array:
    """Returns the logits by which a batch is evaluated."""
    model = nnx.merge(program.graphdef, *evaluated(program, state))
    return program.classify(model, standardised(program, batch["image"]))


def features(program: Program, state: TrainState, images: Array) -> Array:
    """Returns what the last layer of the evaluated network is given, (B, D)."""
    model: Any = nnx.merge(program.graphdef, *evaluated(program, state))
    return model.features(standardised(program, images)).astype(jnp.float32)


def evaluated(program: Program, state: TrainState) -> tuple[Any, Any]:
    """Returns the parameters and statistics that count: averaged ones, the first network's."""
    params = state.params if state.ema_params is None else state.ema_params
    if program.forget_rate is None:
        return params, state.batch_stats
    return jax.tree.map(lambda x: x[0], (params, state.batch_stats))


def evaluate(program: Program, share: Share, state: TrainState, data: Data) -> ClassificationSums:
    """Returns the metrics' sums over a whole data set; every example counts exactly once."""
    indices_LxB, mask_LxB = pipeline.epoch_indices(
        program.order_key, 0, data["label"].shape[0], program.eval_batch_size, shuffle=False
    )

    def body(sums: ClassificationSums, xs: tuple[Array, Array]) -> tuple[ClassificationSums, None]:
        index_B, mask_B = xs
        batch = _taken(data, index_B, ("label", "clean_label"))
        mask_B &= data["mask"][index_B] if "mask" in data else True
        return sums + evaluate_batch(program, state, batch | {"mask": mask_B}), None

    empty = ClassificationSums.empty(program.num_classes)
    return jax.lax.scan(body, empty, (share(indices_LxB), share(mask_LxB)))[0]


def predict(program: Program, share: Share, state: TrainState, data: Data) -> Array:
    """Returns the logits of a whole data set's examples in their order, (N, K)."""
    examples = data["label"].shape[0]
    indices_LxB, _ = pipeline.epoch_indices(
        program.order_key, 0, examples, program.eval_batch_size, shuffle=False
    )

    def body(_: None, index_B: Array) -> tuple[None, Array]:
        return None, predict_batch(program, state, _taken(data, index_B, ()))

    _, logits_LxBxK = jax.lax.scan(body, None, share(indices_LxB))
    if program.axis_name is not None:
        logits_LxBxK = jax.lax.all_gather(logits_LxBxK, program.axis_name, axis=1, tiled=True)
    return logits_LxBxK.reshape(-1, program.num_classes)[:examples]


def _example_keys(
    step_key: Key[Array, ""], position_B: Array
) -> tuple[Key[Array, " batch"], Key[Array, " batch"]]:
    """Returns two keys per example; they depend on its place in the global batch alone."""
    keys_B = jax.vmap(lambda position: jax.random.fold_in(step_key, position))(position_B)
    pairs_Bx2 = jax.vmap(jax.random.split)(keys_B)
    return pairs_Bx2[:, 0], pairs_Bx2[:, 1]


def standardised(program: Program, images: Array) -> Array:
    """Returns 8-bit images scaled by the training images' mean and deviation."""
    return pipeline.normalise(images, program.mean, program.deviation)


def _global_sum(program: Program, tree: Any) -> Any:
    return tree if program.axis_name is None else jax.lax.psum(tree, program.axis_name)
