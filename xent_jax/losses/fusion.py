"""How formulas are written so that XLA computes them in few passes over the logits.

An array of the logits' size that is written to memory and read again costs a CPU more time than
the whole plain cross-entropy. There are two ways to end up with one.

Terms that value and gradient share are kept for the second. `recomputed` makes the gradient start
from the arguments instead: an exponential takes less time than its way through memory.

On CPUs sums over the classes are compiled together with the arithmetic of their terms, be it
exponentials, logarithms, powers, products or maxima, but not with a `where`, a comparison or a
conversion, whose results are all written out first. `possible` says by arithmetic which classes
can occur; `written` lets only the terms themselves be written out, where they need a `where`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from xent_jax.typing import Array


def apart(array: Array, part: int) -> Array:
    """Returns the array, which XLA does not know to be the same as that of another part.

    It would otherwise write out what two passes share, be it the broadcast of a number.
    """
    bound = 2.0**-part * float(jnp.finfo(array.dtype).max)
    return _clamped(array, jnp.asarray(bound, array.dtype))


def recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function of positional arrays, its tangent computed anew from the first."""

    @jax.custom_jvp
    @functools.wraps(function)
    def value(*arguments: Array) -> Any:
        return function(*arguments)

    @functools.partial(value.defjvp, symbolic_zeros=True)
    def _(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        # What does not move is left out: its tangent of 0 times an infinite slope would be NaN.
        again = [jax.lax.optimization_barrier(primals[0]), *primals[1:]]
        moving = [i for i, dot in enumerate(tangents) if not isinstance(dot, SymbolicZero)]

        def of_moving(*arrays: Array) -> Any:
            given = dict(zip(moving, arrays, strict=True))
            return function(*(given.get(i, array) for i, array in enumerate(again)))

        arrays, dots = [again[i] for i in moving], [tangents[i] for i in moving]
        return value(*primals), jax.jvp(of_moving, arrays, dots)[1]

    return value


def possible(logits: Array, part: int = 0) -> Array:
    """Returns 1 for classes that can occur and 0 for those at -inf, or hardly above; constants."""
    return jnp.sign(jax.lax.stop_gradient(finite(logits, part)) - _lowest(logits, part))


def finite(logits: Array, part: int = 0) -> Array:
    """Returns the logits, with a number so low that no other is lower for those at -inf."""
    return at_least(logits, _lowest(logits, part))


@jax.custom_jvp
def at_least(array: Array, bound: Array) -> Array:
    """Returns max(x, bound), without slope where x is not above the bound."""
    return jnp.maximum(array, bound)


@at_least.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # JAX compares x with the result, which XLA may have computed twice and rounded differently.
    (array, bound), (array_dot, _) = primals, tangents
    return at_least(array, bound), jnp.where(array > bound, array_dot, 0.0)


def _lowest(logits: Array, part: int) -> Array:
    """Returns half of the lowest number, so that differences from it are finite."""
    return jnp.asarray(2.0 ** (-part - 1) * float(jnp.finfo(logits.dtype).min), logits.dtype)


def written(terms: Array) -> Array:
    """Returns the terms, which a sum of them then does not take apart."""
    return _clamped(terms, jnp.asarray(jnp.inf, terms.dtype))


@jax.custom_jvp
def _clamped(array: Array, bound: Array) -> Array:
    return jax.lax.clamp(-bound, array, bound)


@_clamped.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _clamped(*primals), tangents[0]
