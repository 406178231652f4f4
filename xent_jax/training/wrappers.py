"""What surrounds a loss in training without being one: weights of classes, and mixed examples."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from xent_jax import losses
from xent_jax.errors import UserError
from xent_jax.training.config import Section, call_arguments, known_name
from xent_jax.typing import Array, Float

REWEIGHTINGS = (
    "none",
    "inverse_frequency_weights",
    "class_balanced_weights",
    "deferred_reweighting_weights",
)
"""How a config may weight examples by their class: functions of `xent_jax.losses`."""

MIXINGS = ("none", "mixup", "cutmix")
"""How a config may mix pairs of training examples: functions of `xent_jax.losses`."""

Reweighting = Callable[[Array], Float[Array, " classes"]]
Mixing = Callable[..., Any]


def make_reweighting(spec: Section, constants: Mapping[str, Any]) -> Reweighting | None:
    """Returns (epoch) -> the classes' weights, or None where there are none.

    Raises:
      UserError: an unknown name or argument, or one out of its range.
    """
    name = known_name("reweighting", spec["name"], REWEIGHTINGS)
    if name == "none":
        call_arguments("reweighting", spec, ())
        return None
    function = getattr(losses, name)
    asked = inspect.signature(function).parameters.keys()
    given = {key: constants[key] for key in asked if key in constants}
    arguments = call_arguments("reweighting", spec, asked - given.keys() - {"epoch"})

    def weights(epoch: Array) -> Float[Array, " classes"]:
        now = {"epoch": epoch} if "epoch" in asked else {}
        return function(**given, **arguments, **now)

    _try("reweighting", name, weights, 0)
    return weights


def make_mixing(spec: Section) -> Mixing | None:
    """Returns (key, images, labels, where=) -> mixed images and labels, or None.

    Raises:
      UserError: an unknown name or argument, or one out of its range.
    """
    name = known_name("mixing", spec["name"], MIXINGS)
    if name == "none":
        call_arguments("mixing", spec, ())
        return None
    function = getattr(losses, name)
    asked = inspect.signature(function).parameters.keys()
    arguments = call_arguments("mixing", spec, asked - {"key", "images", "labels", "where"})
    mix = partial(function, **arguments)
    _try("mixing", name, mix, jax.random.key(0), jnp.zeros((2, 2, 2, 1)), jnp.zeros(2, jnp.int32))
    return mix


def _try(section: str, name: str, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        jax.eval_shape(function, *arguments)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.{section}: {name!r} cannot be used so: {reason}") from None
