"""Arguments checked, flattened to one axis of tokens, and brought to the dtypes computed in."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from xent_jax.linear_xent.blocks import classes_per_product, rows_per_chunk
from xent_jax.linear_xent.distillation import Side
from xent_jax.linear_xent.reference import Adjustment, Layer, Settings, Tokens
from xent_jax.linear_xent.varying import varies_over
from xent_jax.typing import Array, Scalar


class Problem(NamedTuple):
    settings: Settings
    layer: Layer
    hidden: Array  # (N, D)
    tokens: Tokens
    shape: tuple[int, ...]  # of the tokens, before they were flattened
    axes: tuple[str, ...]  # of the mesh, over which the classes are divided


def prepare(
    hidden: Array,
    weights: Array,
    labels: Array,
    *,
    bias: Array | None,
    where: Array | None,
    logit_softcap: Scalar | None,
    temperature: Scalar,
    class_prior: Array | None,
    uniform: bool,
    vocabulary_axis: str | tuple[str, ...] | None = None,
    argmax: bool = False,
    precision: Any = None,
) -> Problem:
    """Returns the arguments ready for any implementation.

    Raises:
      TypeError: floating-point arguments that are not, labels that are not integers, a mask that
        is not boolean.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, or an axis over which
        the weights are not divided.
    """
    hidden, weights = operands("hidden", hidden, "weights", weights)
    axes = axes_of(vocabulary_axis, weights)
    same_on_all_devices(axes, labels=labels, where=where)
    shape = hidden.shape[:-1]
    settings = settings_of(hidden, weights, uniform, argmax, precision)
    classes = len(weights) * (jax.lax.axis_size(axes) if axes else 1)
    tokens = tokens_of(labels, token_mask(where, shape), shape, classes)
    adjustment = adjustment_of(
        settings, len(weights), bias, logit_softcap, temperature, class_prior
    )
    return Problem(settings, Layer(weights, adjustment), flat(hidden, 1), tokens, shape, axes)


def operands(
    hidden_name: str, hidden: Array, weights_name: str, weights: Array
) -> tuple[Array, Array]:
    """Returns hidden (..., D) and weights (V, D), checked, in a dtype that holds both."""
    hidden, weights = floating(hidden_name, hidden), floating(weights_name, weights)
    if hidden.ndim < 1 or weights.ndim != 2 or len(weights) < 1:
        raise ValueError(
            f"{hidden_name} must have shape (..., D) and {weights_name} (V, D) with at least one "
            f"class, got {hidden.shape} and {weights.shape}"
        )
    if weights.shape[1] != hidden.shape[-1]:
        turned = weights.shape[0] == hidden.shape[-1]
        advice = f"; pass {weights_name}.T" if turned else ""
        raise ValueError(
            f"{weights_name} must have shape (V, {hidden.shape[-1]}), as {hidden_name} have shape "
            f"{hidden.shape}, got {weights.shape}{advice}"
        )
    if hidden.dtype == weights.dtype:
        return hidden, weights
    dtype = np.float64 if np.float64 in (hidden.dtype, weights.dtype) else np.float32
    return hidden.astype(dtype), weights.astype(dtype)


def axes_of(vocabulary_axis: str | tuple[str, ...] | None, weights: Array) -> tuple[str, ...]:
    """Returns the axes of the mesh over which the classes are divided, checked to be that."""
    if vocabulary_axis is None:
        return ()
    axes = (vocabulary_axis,) if isinstance(vocabulary_axis, str) else tuple(vocabulary_axis)
    if not varies_over(weights).issuperset(axes):
        raise ValueError(
            f"vocabulary_axis={vocabulary_axis!r} needs weights that are each device's own rows: "
            f"call it inside jax.shard_map, with in_specs of P({vocabulary_axis!r}) for the "
            "weights, and check_vma as it is by default"
        )
    return axes


def same_on_all_devices(axes: tuple[str, ...], **per_token: Array | None) -> None:
    """Raises a ValueError where one of the arrays is divided over the axes of the classes."""
    for name, array in per_token.items():
        if array is not None and not varies_over(jnp.asarray(array)).isdisjoint(axes):
            raise ValueError(
                f"{name} must be the same on all devices of vocabulary_axis={axes!r}: leave the "
                f"axis out of the in_specs of {name}, or gather the array by "
                "jax.lax.all_gather(..., to='invarying')"
            )


def settings_of(
    hidden: Array, weights: Array, uniform: bool, argmax: bool, precision: Any
) -> Settings:
    """Returns what the program is compiled for.

    The logits' gradient enters the products in bfloat16 where the operands are, but not in float16,
    in which most of a large vocabulary's probabilities would be 0.
    """
    dtype = np.dtype(np.float64 if hidden.dtype == np.float64 else np.float32)
    slopes = hidden.dtype if hidden.dtype == jnp.bfloat16 else dtype
    rows = rows_per_chunk(math.prod(hidden.shape[:-1]), len(weights), dtype.itemsize)
    return Settings(
        dtype=dtype,
        operands=np.dtype(hidden.dtype),
        slopes=slopes,
        rows=rows,
        columns=classes_per_product(),
        uniform=uniform,
        argmax=argmax,
        precision=precision,
    )


def settings_of_pair(
    student: tuple[Array, Array], teacher: tuple[Array, Array], precision: Any
) -> tuple[Settings, Settings]:
    """Returns what student and teacher are compiled for: logits of one dtype, the same chunks."""
    pair = [settings_of(*side, False, False, precision) for side in (student, teacher)]
    dtype = max((settings.dtype for settings in pair), key=lambda dtype: dtype.itemsize)
    tokens, classes = math.prod(student[0].shape[:-1]), len(student[1])
    rows = rows_per_chunk(tokens, classes, 2 * dtype.itemsize)  # of both
    of_student, of_teacher = (settings._replace(dtype=dtype, rows=rows) for settings in pair)
    return of_student, of_teacher


def same_tokens_and_classes(student: tuple[Array, Array], teacher: tuple[Array, Array]) -> None:
    """Raises a ValueError where the two models do not fit."""
    names = ("hidden vectors", "student's and teacher's tokens"), ("weights", "vocabularies")
    shapes = [(hidden.shape[:-1], weights.shape[:1]) for hidden, weights in (student, teacher)]
    for (name, what), ours, theirs in zip(names, *shapes, strict=True):
        if ours != theirs:
            raise ValueError(f"the {name} must be of the same {what}, got {ours} and {theirs}")


def side_of(
    settings: Settings,
    hidden: Array,
    weights: Array,
    bias: Array | None,
    logit_softcap: Scalar | None,
    temperature: Scalar,
) -> Side:
    adjustment = adjustment_of(settings, len(weights), bias, logit_softcap, temperature, None)
    return Side(Layer(weights, adjustment), flat(hidden, 1))


def tokens_of(labels: Array, where: Array | None, shape: tuple[int, ...], classes: int) -> Tokens:
    """Returns the labels, 0 where masked or outside [0, V), and where they are outside."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integer classes, got {labels.dtype}")
    if labels.shape != shape:
        raise ValueError(
            f"labels must have the shape of hidden without the last axis, {shape}, got "
            f"{labels.shape}"
        )
    labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
    invalid = (labels < 0) | (labels >= classes)
    invalid = invalid if where is None else invalid & where
    inside = (labels >= 0) & (labels < classes)
    labels = jnp.where(inside, labels, 0).astype(jnp.int32)
    return Tokens(flat(labels), flat(invalid), None if where is None else flat(where))


def adjustment_of(
    settings: Settings,
    classes: int,
    bias: Array | None,
    logit_softcap: Scalar | None,
    temperature: Scalar,
    class_prior: Array | None,
) -> Adjustment:
    """Returns what becomes of the products; a class of bias -inf or prior 0 cannot occur."""
    divisor = scalar("temperature", temperature, settings.dtype, above=0.0)
    scale = None if known(temperature, 1.0) else 1.0 / divisor
    cap = None
    if logit_softcap is not None:
        cap = scalar("logit_softcap", logit_softcap, settings.dtype, above=0.0) / divisor
    offset = None if class_prior is None else _log_prior(class_prior, classes, settings.dtype)
    if bias is not None:
        bias = _per_class("bias", floating("bias", bias), classes, settings.dtype)
        excluded = jnp.isneginf(bias)
        offset = jnp.where(excluded, -jnp.inf, jnp.zeros_like(bias) if offset is None else offset)
        bias = jnp.where(excluded, 0.0, bias)
    return Adjustment(bias, scale, cap, offset)


def _log_prior(class_prior: Array, classes: int, dtype: np.dtype) -> Array:
    """Returns log pi, and -inf, with slope 0, at 0."""
    prior = _per_class("class_prior", class_prior, classes, dtype)
    if not isinstance(class_prior, Tracer):
        shares = np.asarray(class_prior, np.float64)
        if not (np.all(shares >= 0.0) and abs(np.sum(shares) - 1.0) <= 1e-2):
            raise ValueError(
                f"class_prior must be at least 0 and sum to 1, got a least of {shares.min():g} and "
                f"a sum of {shares.sum():g}; divide counts by their sum"
            )
    positive = prior > 0.0
    return jnp.where(positive, jnp.log(jnp.where(positive, prior, 1.0)), -jnp.inf)


def _per_class(name: str, values: Array, classes: int, dtype: np.dtype) -> Array:
    if jnp.shape(values) != (classes,):
        raise ValueError(f"{name} must have shape ({classes},), got {jnp.shape(values)}")
    return jnp.asarray(values).astype(dtype)


def token_mask(where: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Returns `where`, checked to hold one boolean per token."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {where.dtype}: pass for instance `mask > 0`")
    if where.shape != shape:
        raise ValueError(f"where must hold one boolean per token, shape {shape}, got {where.shape}")
    return where


def token_weights(weights: Array | None, problem: Problem) -> Array | None:
    """Returns `weights_per_token`, checked and flattened."""
    if weights is None:
        return None
    weights = floating("weights_per_token", weights)
    same_on_all_devices(problem.axes, weights_per_token=weights)
    if weights.shape != problem.shape:
        raise ValueError(
            f"weights_per_token must hold one number per token, shape {problem.shape}, got "
            f"{weights.shape}"
        )
    return flat(weights.astype(problem.settings.dtype))


def floating(name: str, array: Array) -> Array:
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {array.dtype}")
    return array


def scalar(
    name: str,
    value: Scalar,
    dtype: np.dtype,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float = -math.inf,
) -> Array:
    """Returns a hyper-parameter, its range checked where its value is known."""
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got shape {jnp.shape(value)}: use jax.vmap for several"
        )
    if not isinstance(value, Tracer):
        number = float(value)
        if not (math.isfinite(number) and at_least <= number <= at_most and number > above):
            lower = f"[{at_least:g}" if at_least > above else f"({above:g}"
            upper = f"{at_most:g}]" if at_most < math.inf else "inf)"
            raise ValueError(f"{name} must lie in {lower}, {upper}, got {value}")
    return jnp.asarray(value, dtype)


def known(value: Scalar, number: float) -> bool:
    """Is it this number, whatever is traced: then its part of the formula is left out."""
    return not isinstance(value, Tracer) and float(value) == number


def flat(array: Array, last: int = 0) -> Array:
    """Returns the array with all axes but the last so many made one."""
    kept = array.ndim - last
    return array.reshape(math.prod(array.shape[:kept]), *array.shape[kept:])
