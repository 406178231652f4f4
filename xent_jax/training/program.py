"""What is compiled for a config: its model, objective and optimiser, as pure functions of arrays.

A program knows of its run and training set only what `Facts` hold. They may be traced: one
compiled program then trains a stack of runs that differ in them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xent_jax import data, losses, models
from xent_jax.data import pipeline
from xent_jax.errors import UserError
from xent_jax.training import networks, stages
from xent_jax.training.config import (
    Config,
    Section,
    call_arguments,
    is_traced,
    known_name,
    with_numbers,
)
from xent_jax.training.objective import choose, make_objective
from xent_jax.training.step import Program, TrainState, init_state
from xent_jax.training.teacher import load_teacher
from xent_jax.training.wrappers import make_mixing, make_reweighting
from xent_jax.typing import Array


class Shapes(NamedTuple):
    """What all runs of one program have in common of their training sets."""

    dataset: str
    examples: int
    num_classes: int
    image_shape: tuple[int, int, int]


class Facts(NamedTuple):
    """What the runs of one program may differ in."""

    key: Any  # the data of the seed's key: (2,) uint32, as arrays of keys cannot be saved
    mean: Any  # (C,), of the training images
    deviation: Any  # (C,)
    class_counts: Any  # (K,), of the given labels
    sampler: pipeline.ClassSampler | None
    transition_matrix: Any  # (K, K), or None where none is known
    noise_rate: Any  # or None
    choice: Any = np.zeros((), np.int32)  # which of the program's losses is this run's
    numbers: Mapping[str, Any] = {}  # in the place of the config's, by dotted keys
    loss_numbers: Sequence[Mapping[str, Any]] = ({},)  # likewise of each loss's section
    second_sampler: pipeline.ClassSampler | None = None  # of the second stage


def shapes_of(train: data.Dataset) -> Shapes:
    """Returns the shapes of a training set."""
    return Shapes(train.name, len(train.labels), train.num_classes, train.images.shape[1:])


def facts_of(config: Config, train: data.Dataset) -> Facts:
    """Returns the facts of a single run, on the host."""
    matrix, rate = _noise(config, train)
    sampler, second_sampler = _samplers(config, train)
    return Facts(
        np.asarray(jax.random.key_data(jax.random.key(config.seed))),
        *_scaling(config, train),
        class_counts=np.bincount(train.labels, minlength=train.num_classes).astype(np.float32),
        sampler=sampler,
        transition_matrix=matrix,
        noise_rate=rate,
        second_sampler=second_sampler,
    )


def make_program(
    config: Config, shapes: Shapes, facts: Facts, sections: Sequence[Section] = ()
) -> tuple[Program, Callable[[], TrainState]]:
    """Returns what is compiled for a checked config, and what makes the state it starts from.

    Args:
      config: the run's own, or one that stands for all runs of a stack.
      shapes: of its training set.
      facts: of this run; traced where a stack of runs is mapped over.
      sections: the losses that `facts.choice` chooses from; by default the config's alone.
    """
    config = with_numbers(config, facts.numbers) if facts.numbers else config
    axis_name = "data" if config.parallel == "pmap" else None
    model_key, order_key, step_key = jax.random.split(jax.random.wrap_key_data(facts.key), 3)
    create = partial(create_model, config, shapes, axis_name)
    teacher, teacher_params = None, None
    if config.teacher:
        plain = facts._replace(numbers={}, loss_numbers=({},))
        build = partial(make_program, shapes=shapes, facts=plain)
        teacher, teacher_params = load_teacher(config.teacher, shapes.dataset, facts, build)
    fed = feed_shapes(config, shapes)
    constants = constants_of(facts, shapes, axis_name)
    objective = choose(
        facts.choice,
        [
            make_objective("loss", dict(section) | numbers, fed, constants)
            for section, numbers in zip(sections or [config.loss], facts.loss_numbers, strict=True)
        ],
    )
    if config.mixing.name != "none" and objective.state is not None:
        raise UserError(f"config.mixing: {config.loss.name!r} keeps a state of unmixed labels")
    steps_per_epoch = pipeline.steps_per_epoch(shapes.examples, config.batch_size)
    first_epochs, _ = stages.stage_epochs(config)
    optimizer = stages.stage_optimizer(config, first_epochs, steps_per_epoch)
    tau = config.evaluation
    program = Program(
        graphdef=nnx.split(nnx.eval_shape(partial(create, jax.random.key(0))), ...)[0],
        objective=objective,
        optimizer=optimizer,
        order_key=order_key,
        step_key=step_key,
        num_classes=shapes.num_classes,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        steps_per_epoch=steps_per_epoch,
        mean=facts.mean,
        deviation=facts.deviation,
        shift=config.dataset.shift,
        flip=config.dataset.flip,
        ema_decay=config.ema_decay,
        axis_name=axis_name,
        sampler=facts.sampler,
        reweighting=make_reweighting(config.reweighting, constants),
        mixing=make_mixing(config.mixing),
        teacher=teacher,
        forget_rate=_forget_rate(config),
        classify=partial(
            networks.classify,
            class_prior=constants["class_prior"],
            logit_adjustment=tau.logit_adjustment,
            tau_normalisation=tau.tau_normalisation,
        ),
    )

    def init(model_key: jax.Array = model_key) -> TrainState:
        def one(key: jax.Array) -> TrainState:
            ema = config.ema_decay > 0
            return init_state(partial(create, key), optimizer, ema=ema, loss_state=objective.state)

        if program.forget_rate is None:
            state = one(model_key)
        else:
            state = jax.vmap(one)(jax.random.split(model_key))
        state = state._replace(step=jnp.zeros((), jnp.int32), teacher=teacher_params)
        if not stages.estimates_transition(config):
            return state
        return state._replace(transition_matrix=jnp.eye(shapes.num_classes))

    other = partial(init, jax.random.fold_in(model_key, 1))
    second_stage = stages.make_second_stage(config, program, other, facts.second_sampler)
    return program._replace(second_stage=second_stage), init


def constants_of(facts: Facts, shapes: Shapes, axis_name: str | None) -> dict[str, Any]:
    """Returns what is known of `objective.CONSTANTS`."""
    known = {
        "class_counts": facts.class_counts,
        "class_prior": facts.class_counts / facts.class_counts.sum(),
        "num_examples": shapes.examples,
        "num_classes": shapes.num_classes,
        "axis_name": axis_name,
        "transition_matrix": facts.transition_matrix,
        "noise_rate": facts.noise_rate,
    }
    return {key: value for key, value in known.items() if value is not None or key == "axis_name"}


def feed_shapes(config: Config, shapes: Shapes) -> dict[str, Any]:
    """Returns the shapes of what a step can feed a loss, of a batch of two."""
    known_name("model", config.model.name, models.NAMES)
    shape = jax.ShapeDtypeStruct
    images, mask = shape((2, *shapes.image_shape), jnp.float32), shape((2,), jnp.bool)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0)))

    def feed(images: jax.Array, mask: jax.Array, keys: jax.Array) -> dict[str, Array]:
        model = create_model(config, shapes, None, jax.random.key(0))  # None: no axis is bound here
        return networks.feed(model, images, mask, keys)

    try:
        fed = jax.eval_shape(feed, images, mask, keys)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.model: {config.model.name!r} cannot be made: {reason}") from None
    labels = shape((2,), jnp.int32)
    fed |= {"labels": labels, "indices": labels, "where": mask, "epoch": shape((), jnp.int32)}
    if stages.estimates_transition(config):
        fed["transition_matrix"] = shape((shapes.num_classes, shapes.num_classes), jnp.float32)
    return fed | ({"teacher_logits": fed["logits"]} if config.teacher else {})


def create_model(config: Config, shapes: Shapes, axis_name: str | None, key: jax.Array) -> Any:
    """Returns the config's network with random parameters."""
    arguments = {name: value for name, value in config.model.items() if name != "name"}
    return models.create(
        config.model.name,
        num_classes=shapes.num_classes,
        image_shape=shapes.image_shape,
        rngs=nnx.Rngs(key),
        axis_name=axis_name,
        **arguments,
    )


def _noise(config: Config, train: data.Dataset) -> tuple[Any, Any]:
    """Returns the matrix and rate by which labels were corrupted, each None where unknown.

    The matrix is none of what is known where training itself shall estimate it.
    """
    spec = config.corruption
    if spec.name not in data.CORRUPTIONS:
        return None, None
    arguments = {key: value for key, value in spec.items() if key not in ("name", "seed")}
    arguments["dataset_name"] = train.name
    matrix = data.transition_matrix(spec.name, train.num_classes, **arguments)
    # Always a float: of a stack's runs one may say 0 and another 0.4.
    rate = float(spec.rate) if "rate" in spec else None
    if matrix is None or stages.estimates_transition(config):
        return None, rate
    return matrix.astype(np.float32), rate


def _samplers(
    config: Config, train: data.Dataset
) -> tuple[pipeline.ClassSampler | None, pipeline.ClassSampler | None]:
    """Returns the first stage's sampler and the second's, if there is one."""
    name = known_name("sampler", config.sampler.name, data.SAMPLERS)
    call_arguments("sampler", config.sampler, ())
    first, second = stages.stage_epochs(config)
    sampler = partial(pipeline.class_sampler, labels=train.labels, num_classes=train.num_classes)
    then = sampler(stages.second_sampler(config), epochs=second) if second else None
    return sampler(name, epochs=first), then


def _scaling(config: Config, train: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    if config.dataset.standardise:
        mean, deviation = pipeline.channel_statistics(train)
        return mean.astype(np.float32), deviation.astype(np.float32)
    channels = train.images.shape[-1]
    return np.zeros(channels, np.float32), np.ones(channels, np.float32)


def _forget_rate(config: Config) -> Callable[[Array], Array] | None:
    """Returns (epoch) -> the share of examples that co-teaching leaves out, or None without it."""
    rate, ramp = config.co_teaching.forget_rate, config.co_teaching.ramp_epochs
    if not is_traced(rate) and rate == 0:
        return None
    return lambda epoch: losses.co_teaching_forget_rate(epoch, noise_rate=rate, ramp_epochs=ramp)
