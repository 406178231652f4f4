"""Training in two stages: what the second one starts from, and how its steps differ.

A second stage is a program of its own for the last epochs of a run. It begins by a pure function
of the state and the training set, inside the compiled program, so that whatever trains a run
trains both stages, and one that was interrupted goes on in the stage it was in. All that follows
the epoch, such as the learning rate's schedule, starts anew with it; the shuffles go on.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from xent_jax import data, losses
from xent_jax.errors import UserError
from xent_jax.training import step
from xent_jax.training.config import (
    Config,
    Section,
    call_arguments,
    known_name,
    with_numbers,
)
from xent_jax.training.optimizer import make_optimizer
from xent_jax.training.step import Data, Program, SecondStage, Share, TrainState
from xent_jax.typing import Array, Float, Key

_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "classifier_retraining": ("epochs", "sampler"),
    "estimated_transition": ("epochs", "quantile"),
}
SECOND_STAGES = tuple(_ARGUMENTS)
"""What a run may do in the last `epochs` of `config.epochs`.

`classifier_retraining` keeps the features as they are, in training as in evaluation: without
dropout, batch normalisation by the running statistics, averaged where there is an average. The
last layer starts from random weights and is trained with `sampler`, by default 'class_balanced',
which takes the place of `config.sampler` and `config.reweighting`. Kang et al. 2020, section 4.1:
cRT. (In the authors' code the features' batch normalisation still takes the batches' statistics.)

`estimated_transition` starts a new network, whose loss is told by which probabilities labels were
corrupted as `losses.anchor_point_transition_matrix` estimates them, with its `quantile`, from what
the first network predicts of the training images. The first network's loss is told that no label
was: forward and backward correction are the cross-entropy then. Patrini et al. 2017, section 4.
"""


def stage_epochs(config: Config) -> tuple[int, int]:
    """Returns how many epochs the first and the second stage have.

    Raises:
      UserError: an unknown second stage, or one whose epochs leave none for the first.
    """
    spec = config.second_stage
    if known_name("second_stage", spec.name, SECOND_STAGES) == "none":
        return config.epochs, 0
    second = spec.get("epochs")
    if type(second) is not int or not 0 < second < config.epochs:
        raise UserError(
            f"config.second_stage.epochs={second!r} must be a whole number, at least 1 and below "
            f"config.epochs={config.epochs}, of which they are the last"
        )
    return config.epochs - second, second


def second_sampler(config: Config) -> str:
    """Returns the name of the sampler of the second stage."""
    if config.second_stage.name == "classifier_retraining":
        return config.second_stage.get("sampler", "class_balanced")
    return config.sampler.name


def estimates_transition(config: Config) -> bool:
    """Tells whether the state holds what is known of the noise, as training itself finds it out."""
    return config.second_stage.name == "estimated_transition"


def check_second_stage(config: Config) -> None:
    """Tells of a second stage that cannot be.

    Raises:
      UserError: an unknown name or argument, one out of its range, or a loss that does not ask for
        the matrix that is estimated.
    """
    spec, (first, second) = config.second_stage, stage_epochs(config)
    arguments = call_arguments("second_stage", spec, _ARGUMENTS[spec.name])
    warmup = config.schedule.get("warmup_epochs", 0)
    if second and not warmup < min(first, second):
        raise UserError(
            f"config.schedule.warmup_epochs={warmup} must be less than each stage's epochs, "
            f"{first} and {second}"
        )
    if spec.name == "classifier_retraining":
        known_name("second_stage.sampler", second_sampler(config), data.SAMPLERS)
    if estimates_transition(config):
        _check_quantile(arguments.get("quantile", 1.0))
        for section in ("loss", "baseline"):
            _check_asks(section, config[section])


def _check_quantile(quantile: Any) -> None:
    estimate = partial(losses.anchor_point_transition_matrix, quantile=quantile)
    try:
        jax.eval_shape(estimate, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.second_stage.quantile: {reason}") from None


def _check_asks(section: str, spec: Section) -> None:
    loss = getattr(losses, spec["name"], None)
    if callable(loss) and "transition_matrix" not in inspect.signature(loss).parameters:
        raise UserError(
            f"config.{section}: {spec['name']!r} does not ask for the matrix that config."
            "second_stage.name='estimated_transition' estimates; take 'forward_correction', or "
            "'none' of both"
        )
    if "transition_matrix" in spec:
        raise UserError(
            f"config.{section}.transition_matrix is estimated by config.second_stage: remove it"
        )


def make_second_stage(
    config: Config, program: Program, init: Callable[[], TrainState], sampler: Any
) -> SecondStage | None:
    """Returns the config's second stage, or None without one.

    Args:
      config: the run's, whose second stage was checked.
      program: the first stage's.
      init: makes the state of a network that is not the first stage's.
      sampler: of the second stage.
    """
    first, second = stage_epochs(config)
    if not second:
        return None
    program = program._replace(
        optimizer=stage_optimizer(config, second, program.steps_per_epoch),
        order_key=_other_order(program.order_key),
        sampler=sampler,
        first_epoch=first,
    )
    if estimates_transition(config):
        quantile = config.second_stage.get("quantile", 1.0)
        return SecondStage(first, program, partial(_start_corrected, program, init, quantile))
    program = program._replace(reweighting=None, frozen_features=True)
    return SecondStage(first, program, partial(_start_retraining, init))


def stage_optimizer(config: Config, epochs: int, steps_per_epoch: int) -> Any:
    """Returns the optimiser of a stage, whose schedule is that of a run of so many epochs."""
    return make_optimizer(with_numbers(config, {"epochs": epochs}), steps_per_epoch)


def _other_order(order_key: Key[Array, ""]) -> Key[Array, ""]:
    """Its epochs are counted from 0 again, and shall not see the first ones' order."""
    return jax.random.fold_in(order_key, 2**32 - 1)


def _start_retraining(
    init: Callable[[], TrainState], share: Share, state: TrainState, data: Data
) -> TrainState:
    """Returns the features that were evaluated, and what else training starts from."""
    del share, data
    fresh = init()
    params = state.params if state.ema_params is None else state.ema_params
    params = params | {"logits": fresh.params["logits"]}
    average = None if state.ema_params is None else params
    return fresh._replace(
        step=state.step,
        params=params,
        batch_stats=state.batch_stats,
        ema_params=average,
        teacher=state.teacher,
    )


def _start_corrected(
    program: Program,
    init: Callable[[], TrainState],
    quantile: float,
    share: Share,
    state: TrainState,
    data: Data,
) -> TrainState:
    """Returns a new network, and the matrix that the old one's predictions tell of."""
    matrix = _estimated_transition(program, quantile, share, state, data)
    return init()._replace(step=state.step, teacher=state.teacher, transition_matrix=matrix)


def _estimated_transition(
    program: Program, quantile: float, share: Share, state: TrainState, data: Data
) -> Float[Array, "classes classes"]:
    # Without evaluation's corrections of a long tail, as the loss knows nothing of them.
    program = program._replace(classify=lambda model, images: model(images))
    probabilities = jax.nn.softmax(step.predict(program, share, state, data))
    return losses.anchor_point_transition_matrix(probabilities, quantile=quantile)
