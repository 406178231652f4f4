"""What a picture of a loss is: curves over one axis, and their numbers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax import losses
from xent_jax.typing import Array

Curve = Callable[[Array], Array]
Variants = Mapping[str, Mapping[str, Any]]

CLASSES = 10
# Class 0 has a hundred times the examples of class 9.
COUNTS = np.round(5000.0 * 0.01 ** (np.arange(CLASSES) / (CLASSES - 1)))
PRIOR = COUNTS / COUNTS.sum()
ONCE: Variants = {"": {}}
LABEL_AXIS = "logit of the label (the nine others are 0)"
MARGINS: dict[str, Any] = {"low": -6.0, "high": 6.0}


class Picture(NamedTuple):
    """Curves over one axis.

    Attributes:
      curves: functions of a number, by the name that the legend shows.
      axis: what the number is.
      low: where the axis begins.
      high: where it ends.
      grey: the name in `GREY` of what to compare with, if anything.
      value: what the functions return.
      slope: whether the derivative is drawn too, which it is not of maps that no one descends.
    """

    curves: Mapping[str, Curve]
    axis: str
    low: float
    high: float
    grey: str = ""
    value: str = "loss"
    slope: bool = True

    @property
    def points(self) -> np.ndarray:
        """Returns where the curves are computed: often enough to show a corner as one."""
        return np.linspace(self.low, self.high, 61)


def numbers(picture: Picture) -> dict[str, dict[str, np.ndarray]]:
    """Returns the value and slope of each curve at the points, from one compiled call."""

    def of(points: Array) -> list[dict[str, Array]]:
        return [_along(curve, points, picture.slope) for curve in picture.curves.values()]

    # What is computed once is not worth compiling well.
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    with jax.enable_x64(True):
        found = jax.jit(of, compiler_options=quickly)(jnp.asarray(picture.points))
        return dict(zip(picture.curves, jax.tree.map(np.asarray, found), strict=True))


def _along(curve: Curve, points: Array, slope: bool) -> dict[str, Array]:
    if not slope:
        return {"value": jax.vmap(curve)(points)}
    value, derivative = jax.vmap(jax.value_and_grad(curve))(points)
    return {"value": value, "slope": derivative}


def sweep(**values: tuple[Any, ...]) -> Variants:
    """Returns one curve per value of a hyper-parameter."""
    ((name, settings),) = values.items()
    return {f"{name} = {_shown(value)}": {name: value} for value in settings}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def along(
    rows: Mapping[str, Variants], call: Callable[..., Array], axis: str, **options: Any
) -> dict[str, Picture]:
    """Returns pictures over one axis: `call(loss, x, **variant)` of each loss and each variant."""
    return {
        name: Picture(_curves(name, call, variants), axis, **options)
        for name, variants in rows.items()
    }


def _curves(name: str, call: Callable[..., Array], variants: Variants) -> dict[str, Curve]:
    function = getattr(losses, name)

    def curve(keywords: Mapping[str, Any]) -> Curve:
        return lambda x: call(function, x, **keywords)

    return {label: curve(keywords) for label, keywords in variants.items()}


def raised(x: Array, index: int = 0, size: int = CLASSES) -> Array:
    """Returns x at one place and 0 elsewhere."""
    return jnp.where(jnp.arange(size) == index, x, jnp.zeros_like(x))


def placed(value: float, index: int = 0) -> np.ndarray:
    """Returns a known value at one place and 0 elsewhere."""
    return np.where(np.arange(CLASSES) == index, value, 0.0)


def loss_alone(result: Any) -> Array:
    """Returns the loss alone where a new state or a count comes with it."""
    return result[0] if isinstance(result, tuple) else result


def label_loss(loss: Callable[..., Any], x: Array, label: int = 0, **keywords: Any) -> Array:
    """Returns the loss of x at the label and 0 at the other classes."""
    return loss_alone(loss(raised(x, label), jnp.asarray(label), **keywords))


def frequent_and_rare(**context: Any) -> dict[str, Mapping[str, Any]]:
    return {
        "a frequent class": {"label": 0, **context},
        "a rare class": {"label": CLASSES - 1, **context},
    }
