"""A conversion of floats that is transposed to its like, which on CPUs rounds by integers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from xent_jax.typing import Array


@functools.partial(jax.jit, static_argnames="dtype")
def convert(array: Array, *, dtype: Any) -> Array:
    """Returns the array in another dtype of floats, on CPUs quickly, and transposed as well."""
    return _convert.bind(array, dtype=np.dtype(dtype))


def _plainly(array: Array, *, dtype: np.dtype) -> Array:
    return array.astype(dtype)


def _by_integers(array: Array, *, dtype: np.dtype) -> Array:
    if (array.dtype, dtype) != (jnp.float32, jnp.bfloat16):
        return array.astype(dtype)
    bits = jax.lax.bitcast_convert_type(array, jnp.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # of two the even one
    nearest = jnp.where(jnp.isnan(array), jnp.uint32(0x7FC0), nearest)
    return jax.lax.bitcast_convert_type(nearest.astype(jnp.uint16), jnp.bfloat16)


# A primitive: no other function can say what it is transposed to and be mapped by `jax.vmap`.
_convert = Primitive("convert")
_convert.def_impl(convert)
_convert.def_abstract_eval(lambda array, *, dtype: array.update(dtype=dtype, weak_type=False))
ad.deflinear2(_convert, lambda slopes, array, **_: [convert(slopes, dtype=array.aval.dtype)])
batching.defvectorized(_convert)
mlir.register_lowering(_convert, mlir.lower_fun(_plainly, multiple_results=False))
mlir.register_lowering(_convert, mlir.lower_fun(_by_integers, multiple_results=False), "cpu")
