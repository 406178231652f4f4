"""Inside `jax.shard_map`: which arrays differ between devices, as JAX keeps track of it.

JAX marks arrays for its own operations. Where a scan begins with zeros, or a derivative is given by
hand, the marks have to be set.
"""

from typing import Any

import jax

from xent_jax.typing import Array


def vary_alike(tree: Any, but: tuple[str, ...] = ()) -> Any:
    """Returns the arrays, all marked as varying over what any of them varies over, but these axes.

    So the gradient of an array that the devices share is summed over them, as JAX does it for its
    own functions.
    """
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    axes = frozenset().union(*(varies_over(x) for x in arrays)).difference(but)
    return jax.tree.map(lambda x: _vary(x, axes) if isinstance(x, jax.Array) else x, tree)


def vary_like(array: Array, like: Array) -> Array:
    """Returns the array, marked as varying over what the other varies over."""
    return _vary(array, varies_over(like))


def _vary(array: Array, axes: frozenset[Any]) -> Array:
    return jax.lax.pcast(array, tuple(axes - varies_over(array)), to="varying")


def varies_over(array: Array) -> frozenset[Any]:
    return jax.typeof(array).manual_axis_type.varying
