"""What every loss does to its arguments before its formula, and to its result after it.

A per-example loss of integer labels reads

    examples = prepare(logits, labels, where=where, axis=axis)
    q = scalar("q", q, like=examples.logits, at_least=0.0, at_most=1.0)
    return examples.finish(formula(examples.logits, examples.labels, q))

and thereby keeps the contract: masked examples give loss 0 and gradient 0 whatever they hold, a
label outside the classes gives NaN and a NaN gradient, half precision is computed in float32.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from xent_jax.typing import Array, Scalar

ROUNDING = 1e-3  # by which an average of labels 0 and 1 may leave [0, 1]


class Examples(NamedTuple):
    """Logits and labels that a formula can be applied to, and what its result still needs."""

    logits: Array  # (..., K), in at least float32 unless narrow; 0 where the example is masked
    labels: Array  # (...) inside [0, K), or targets (..., K); 0 where masked or outside
    valid: Array | None  # (...), False where an unmasked example's label is outside [0, K)
    where: Array | None  # (...), the examples that count

    def finish(self, loss: Array) -> Array:
        """Returns the loss: NaN where the label is invalid, and exactly 0 where masked."""
        return masked(_nan_unless(self.valid, loss), self.where)

    def finish_sets(self, loss: Array) -> Array:
        """Returns one loss per entry of the first axis: NaN where any of its labels is invalid."""
        valid = self.valid
        if valid is not None:
            valid = jnp.all(valid, axis=tuple(range(1, valid.ndim)))
        return _nan_unless(valid, loss)

    def only(self, valid: Array) -> "Examples":
        """Returns the examples, invalid also where `valid` is False."""
        return self._replace(valid=valid if self.valid is None else self.valid & valid)


def _nan_unless(valid: Array | None, loss: Array) -> Array:
    return loss if valid is None else _or_nan(valid, loss)


@jax.custom_jvp
def _or_nan(valid: Array, loss: Array) -> Array:
    """Returns the loss where it is valid, and elsewhere NaN with a gradient of NaN."""
    return jnp.where(valid, loss, jnp.nan)


@_or_nan.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # By hand, because the gradient of a `where` is 0 where the loss is not taken.
    (valid, loss), (_, loss_dot) = primals, tangents
    return _or_nan(valid, loss), loss_dot * jnp.where(valid, 1.0, jnp.nan).astype(loss.dtype)


def prepare(
    logits: Array,
    labels: Array,
    *,
    where: Array | None,
    axis: int,
    class_mask: Array | None = None,
    ignore_label: int | None = None,
    name: str = "logits",
    narrow: bool = False,
) -> Examples:
    """Returns checked examples with the classes on the last axis.

    With `narrow` half precision is kept, for a formula that converts it itself.

    Raises:
      TypeError: logits that are not floating point, labels that are not integers, a mask that is
        not boolean.
      ValueError: shapes that do not fit.
    """
    logits = classes_last(name, logits, axis, narrow=narrow)
    labels, where = _integer_labels(labels, logits, name), example_mask(where, logits)
    if ignore_label is not None:
        counted = labels != ignore_label
        where = counted if where is None else where & counted
    logits, labels = masked(without_classes(logits, class_mask, axis), where), masked(labels, where)
    valid = (labels >= 0) & (labels < logits.shape[-1])
    return Examples(logits, masked(labels, valid).astype(jnp.int32), valid, where)


def _integer_labels(labels: Array, logits: Array, name: str) -> Array:
    """Returns the labels, wide enough to be compared with any number of classes."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels must be integer classes, got {labels.dtype}; "
            "a distribution over the classes goes to softmax_cross_entropy"
        )
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have the shape of the {name} without the class axis, "
            f"{logits.shape[:-1]}, got {labels.shape}; "
            "a distribution over the classes goes to softmax_cross_entropy"
        )
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


def prepare_targets(
    logits: Array,
    targets: Array,
    *,
    where: Array | None,
    axis: int,
    class_mask: Array | None = None,
) -> Examples:
    """Returns checked examples whose labels are numbers for every class, of the logits' shape."""
    shape, targets = jnp.shape(logits), jnp.asarray(targets)
    if targets.shape != shape:
        raise ValueError(
            f"a distribution over the classes must have the logits' shape {shape}, got "
            f"{targets.shape}; integer classes go to softmax_cross_entropy_with_integer_labels"
        )
    logits = classes_last("logits", logits, axis)
    targets = jnp.moveaxis(targets, axis, -1).astype(logits.dtype)
    where = example_mask(where, logits)
    logits = masked(without_classes(logits, class_mask, axis), where)
    return Examples(logits, masked(targets, where), None, where)


def prepare_elements(
    logits: Array, labels: Array, *, where: Array | None, name: str = "logits"
) -> Examples:
    """Returns checked elements, each of them an example with a label between 0 and 1."""
    logits, labels = floating(name, logits), jnp.asarray(labels)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must hold one number for each of the {name}, shape {logits.shape}, "
            f"got {labels.shape}: see jnp.broadcast_to, or jax.nn.one_hot for classes"
        )
    where = example_mask(where, logits[..., None], "it masks elements")
    logits, labels = masked(logits, where), masked(labels.astype(logits.dtype), where)
    labels, valid = unit_interval(labels)
    return Examples(logits, labels, valid, where)


def unit_interval(labels: Array) -> tuple[Array, Array]:
    """Returns labels inside [0, 1], and which were there up to the rounding of soft labels."""
    valid = jnp.abs(labels - 0.5) <= 0.5 + ROUNDING
    return _clamped(labels), valid


@jax.custom_jvp
def _clamped(labels: Array) -> Array:
    """Returns the labels inside [0, 1], which XLA computes again rather than keep in memory."""
    return jax.lax.clamp(jnp.zeros((), labels.dtype), labels, jnp.ones((), labels.dtype))


@_clamped.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # By hand, because JAX takes the slope at 0 and 1, where most labels are, as 0.
    return _clamped(*primals), tangents[0]


def classes_last(name: str, array: Array, axis: int, *, narrow: bool = False) -> Array:
    """Returns the array in the dtype it is computed in, with its class axis moved to the end."""
    array = floating(name, array, narrow=narrow)
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"{name} of shape {array.shape} have no axis {axis} for the classes")
    array = jnp.moveaxis(array, axis, -1)
    if array.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one class on axis {axis}, got none")
    return array


def floating(name: str, array: Array, *, narrow: bool = False) -> Array:
    """Returns the array in float32, or in float64 where it already is; integers are an error.

    With `narrow` an array of half precision stays as it is.
    """
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {array.dtype}")
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 and not narrow else array


def example_mask(
    where: Array | None,
    logits: Array,
    advice: str = "to leave out classes use class_mask, or set their logits to -inf",
) -> Array | None:
    """Returns `where`, checked to hold one boolean per example of logits (..., K)."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {where.dtype}: pass for instance `mask > 0`")
    if where.shape != logits.shape[:-1]:
        raise ValueError(
            f"where must hold one boolean per example, shape {logits.shape[:-1]}, got "
            f"{where.shape}; {advice}"
        )
    return where


def without_classes(logits: Array, class_mask: Array | None, axis: int) -> Array:
    """Returns logits (..., K) with those classes at -inf that `class_mask` marks False.

    The mask is of shape (K,), or of the logits' shape before their `axis` was moved to the end.
    """
    if class_mask is None:
        return logits
    class_mask = jnp.asarray(class_mask)
    if class_mask.dtype != jnp.bool_:
        raise TypeError(f"class_mask must be boolean, got {class_mask.dtype}")
    if class_mask.ndim != 1:
        class_mask = jnp.moveaxis(class_mask, axis, -1)
    if class_mask.shape not in (logits.shape, logits.shape[-1:]):
        raise ValueError(
            f"class_mask must have shape {logits.shape[-1:]} or the logits' shape, "
            f"got {class_mask.shape} with the classes last"
        )
    return jnp.where(jnp.broadcast_to(class_mask, logits.shape), logits, -jnp.inf)


def masked(array: Array, where: Array | None) -> Array:
    """Returns the array with 0 where the example is masked; its gradient is exactly 0 there."""
    if where is None:
        return array
    where = where.reshape(where.shape + (1,) * (array.ndim - where.ndim))
    return jnp.where(jnp.broadcast_to(where, array.shape), array, jnp.zeros((), array.dtype))


def scalar(
    name: str,
    value: Scalar,
    like: Array,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float = -math.inf,
) -> Array:
    """Returns a hyper-parameter in the dtype of `like`.

    Its range is checked where its value is known, that is not while JAX traces or maps over it.

    Raises:
      ValueError: a known value out of its range, or an array with dimensions.
    """
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got shape {jnp.shape(value)}: use jax.vmap for several"
        )
    if isinstance(value, Tracer):
        return jnp.asarray(value, like.dtype)
    number = float(value)
    if not (math.isfinite(number) and at_least <= number <= at_most and number > above):
        lower = f"[{at_least:g}" if at_least > above else f"({above:g}"
        upper = f"{at_most:g}]" if at_most < math.inf else "inf)"
        raise ValueError(f"{name} must lie in {lower}, {upper}, got {value}")
    return jnp.asarray(value, like.dtype)
