"""Where models meet losses: a loss by its name, its context bound by the names it asks for."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from xent_jax import losses
from xent_jax.errors import UserError
from xent_jax.training.config import Section, call_arguments, known_name
from xent_jax.typing import Array, Bool, Float, Int

# What the step itself passes; everything else a loss takes is a hyper-parameter or context.
_PASSED = {"logits", "labels", "where", "axis"}

Objective = Callable[..., Array]


def trainable_losses() -> tuple[str, ...]:
    """Returns the catalogue's losses of (logits, labels), which a config may name."""
    return tuple(name for name in losses.__all__ if _parameters(name).keys() >= _PASSED)


def make_objective(
    section: str, spec: Section, num_classes: int, context: Mapping[str, Any]
) -> Objective:
    """Returns `objective(logits_BxK, labels_B, mask_B) -> loss_B`, masked examples being 0.

    Args:
      section: the config's key, for messages.
      spec: `dict(name='generalized_cross_entropy', q=0.7)`.
      num_classes: K.
      context: what a loss may ask for by the name of an argument, such as `class_counts`.

    Raises:
      UserError: an unknown loss or hyper-parameter, a hyper-parameter out of its range, context
        that is missing, or a loss that integer class labels cannot feed.
    """
    name = spec["name"]
    if name in losses.__all__ and name not in trainable_losses():
        raise UserError(f"config.{section}: {name!r} is no loss of (logits, class labels)")
    known_name(section, name, trainable_losses())
    parameters = _parameters(name)
    arguments = call_arguments(section, spec, parameters.keys() - _PASSED)
    for key, parameter in parameters.items():
        if key in context:
            arguments.setdefault(key, context[key])
        elif parameter.default is parameter.empty and key not in arguments.keys() | _PASSED:
            raise UserError(f"config.{section}: {name!r} needs {key!r}: add it to the config")
    loss = getattr(losses, name)

    def objective(
        logits: Float[Array, "batch classes"],
        labels: Int[Array, " batch"],
        mask: Bool[Array, " batch"],
    ) -> Array:
        return loss(logits, labels, where=mask, **arguments)

    _try(section, name, objective, num_classes)
    return objective


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(losses, name)).parameters)


def _try(section: str, name: str, objective: Objective, num_classes: int) -> None:
    """Traces the objective once, so that a bad hyper-parameter is told before anything starts."""
    logits = jax.ShapeDtypeStruct((2, num_classes), jnp.float32)
    labels, mask = (jax.ShapeDtypeStruct((2,), dtype) for dtype in (jnp.int32, jnp.bool))
    try:
        result = jax.eval_shape(objective, logits, labels, mask)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.{section}: {name!r} cannot be trained so: {reason}") from None
    if result.shape != (2,):
        raise UserError(f"config.{section}: {name!r} does not give one value per example")
