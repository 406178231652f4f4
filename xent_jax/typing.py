"""Shapes in signatures: `Float[Array, "*batch classes"]`, checked at run time in the tests.

jaxtyping is optional. Where it is missing, the names below are subscriptable stand-ins that
check nothing, so that the losses need JAX and NumPy alone.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

Array = jax.Array | np.ndarray

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Key, Num, Shaped, UInt8
    from jaxtyping import Integer as Int
else:
    try:
        from jaxtyping import Bool, Float, Key, Num, Shaped, UInt8
        from jaxtyping import Integer as Int  # unsigned too: data sets store labels as bytes
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = Key = Num = Shaped = UInt8 = _Unchecked

Scalar = float | int | jax.Array | np.ndarray | np.generic
"""A hyper-parameter: a Python number, or an array of rank 0 (which may be traced or vmapped)."""

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Num", "Scalar", "Shaped", "UInt8"]
