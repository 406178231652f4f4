"""Optimisers and schedules of optax, by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xent_jax.errors import UserError
from xent_jax.training.config import Config, call_arguments, is_traced, known_name
from xent_jax.typing import Scalar

OPTIMIZERS = (
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "novograd",
    "radam",
    "rmsprop",
    "sgd",
    "yogi",
)

# Averages forget by these, which optax does not check.
_DECAYS = ("b1", "b2", "decay", "momentum", "rho")


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """Returns clipping, weight decay and the named optimiser under its schedule, in this order.

    Weight decay goes to the optimiser where it takes one (adamw, lamb, lion ...: decoupled), and
    is otherwise added to the clipped gradient, as PyTorch's optimisers do (L2).

    Raises:
      UserError: unknown optimiser, schedule or argument, or an argument out of its range.
    """
    spec = config.optimizer
    function = getattr(optax, known_name("optimizer", spec.name, OPTIMIZERS))
    takes = set(inspect.signature(function).parameters)
    arguments = call_arguments("optimizer", spec, takes - {"weight_decay"})
    _check_decays(arguments)
    arguments["learning_rate"] = make_schedule(config, steps_per_epoch)
    decay = []
    if "weight_decay" in takes:
        arguments["weight_decay"] = config.weight_decay
    elif is_traced(config.weight_decay) or config.weight_decay:
        decay = [optax.add_decayed_weights(config.weight_decay)]
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    try:
        optimizer = optax.chain(*clip, *decay, function(**arguments))
        _trace(optimizer)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"config.optimizer: {spec.name!r} refuses its arguments: {reason}"
        ) from None
    return optimizer


def _check_decays(arguments: Mapping[str, Any]) -> None:
    for key in arguments.keys() & set(_DECAYS):
        value = arguments[key]
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f"config.optimizer.{key}={value!r} must be at least 0 and below 1")


def _trace(optimizer: optax.GradientTransformation) -> None:
    """Takes an abstract step, as optax finds out about many arguments only then."""

    def update(params: jax.Array) -> Any:
        return optimizer.update(params, optimizer.init(params), params)

    jax.eval_shape(update, jax.ShapeDtypeStruct((2, 2), jnp.float32))


def constant(peak: Scalar, steps: int) -> optax.Schedule:
    """The learning rate itself, throughout."""
    del steps
    return optax.constant_schedule(peak)


def cosine(peak: Scalar, steps: int, *, final_fraction: float = 0.0) -> optax.Schedule:
    """Half a cosine from the learning rate to `final_fraction` of it (Loshchilov 2017, eq. 5)."""
    return optax.cosine_decay_schedule(peak, steps, alpha=final_fraction)


def linear(peak: Scalar, steps: int, *, final_fraction: float = 0.0) -> optax.Schedule:
    """A straight line from the learning rate to `final_fraction` of it."""
    return optax.linear_schedule(peak, final_fraction * peak, steps)


def step(
    peak: Scalar, steps: int, *, at: float | tuple[float, ...] = (0.5, 0.75), factor: float = 0.1
) -> optax.Schedule:
    """The learning rate times `factor` from each of the fractions `at` of the run on."""
    factors: dict[int, float] = {}
    for fraction in np.ravel(at):  # In a short run several may fall on the same step.
        boundary = round(fraction * steps)
        factors[boundary] = factors.get(boundary, 1.0) * factor
    return optax.piecewise_constant_schedule(peak, factors)


def exponential(
    peak: Scalar, steps: int, *, factor: float = 0.1, every_steps: int = 10_000
) -> optax.Schedule:
    """The learning rate times `factor` per `every_steps` steps, smoothly."""
    del steps
    if every_steps < 1:  # optax would take it for a constant.
        raise UserError(f"config.schedule.every_steps={every_steps} must be at least 1")
    return optax.exponential_decay(peak, every_steps, factor)


_SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    function.__name__: function for function in (constant, cosine, linear, step, exponential)
}
SCHEDULES = tuple(_SCHEDULES)


def make_schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """Returns the named schedule over the run's steps, after `warmup_epochs` of a linear rise.

    Raises:
      UserError: unknown schedule or argument, a learning rate that is not positive, or a warm-up
        that takes the whole run.
    """
    spec, peak = config.schedule, config.optimizer.get("learning_rate")
    if not (is_traced(peak) or (isinstance(peak, int | float) and 0 < peak < float("inf"))):
        raise UserError(f"config.optimizer.learning_rate={peak!r} must be a positive number")
    function = _SCHEDULES[known_name("schedule", spec.name, SCHEDULES)]
    takes = inspect.signature(function).parameters.keys() - {"peak", "steps"}
    arguments = call_arguments("schedule", spec, takes | {"warmup_epochs"})
    for key, value in arguments.items():
        numbers = np.ravel(value)
        if numbers.dtype.kind not in "if" or not np.all((numbers >= 0) & (numbers < np.inf)):
            raise UserError(f"config.schedule.{key}={value!r} must be finite and at least 0")
    warmup = arguments.pop("warmup_epochs", 0)
    if not warmup < config.epochs:
        raise UserError(
            f"config.schedule.warmup_epochs={warmup} must be less than "
            f"config.epochs={config.epochs}"
        )
    warmup_steps = round(warmup * steps_per_epoch)
    schedule = function(peak, config.epochs * steps_per_epoch - warmup_steps, **arguments)
    if not warmup_steps:
        return schedule
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([rise, schedule], [warmup_steps])
