"""Inside `jax.shard_map`: which arrays differ between devices, as JAX keeps track of it.

JAX marks arrays for its own operations. Where a scan begins with zeros, or a derivative is given by
hand, the marks have to be set.
"""

from typing import Any

import jax

from xent_jax.typing import Array


def vary_alike(tree: Any) -> Any:
    """Returns the arrays, all marked as varying over what any of them varies over.

    So the gradient of an array that the devices share is summed over them, as JAX does it for its
    own functions.
    """
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    axes = frozenset().union(*(_axes(x) for x in arrays))
    return jax.tree.map(lambda x: _vary(x, axes) if isinstance(x, jax.Array) else x, tree)


def vary_like(array: Array, like: Array) -> Array:
    """Returns the array, marked as varying over what the other varies over."""
    return _vary(array, _axes(like))


def _vary(array: Array, axes: frozenset[Any]) -> Array:
    return jax.lax.pcast(array, tuple(axes - _axes(array)), to="varying")


def _axes(array: Array) -> frozenset[Any]:
    return jax.typeof(array).manual_axis_type.varying
