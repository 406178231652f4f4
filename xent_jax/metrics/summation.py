"""Sums that merge: exact in int32, and in float32 without drift.

A float32 total that a million batches are added to, one by one, is off by 1e-4 and more;
`CompensatedSum` carries the rounding errors beside the total and loses nothing that matters.
"""

import dataclasses
import operator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.errors import UserError

Sums = TypeVar("Sums")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CompensatedSum:
    """A float32 sum and what its roundings have lost (Knuth's TwoSum; Neumaier 1974)."""

    # Any, not jax.Array: a pytree's leaves may be shapes, shardings or flags as well.
    total: Any
    lost: Any

    @classmethod
    def of(cls, total: jax.Array) -> "CompensatedSum":
        """Starts from a total of any float type; of float64's 53 bits, 48 are kept."""
        rounded = total.astype(jnp.float32)
        lost = (total - rounded.astype(total.dtype)).astype(jnp.float32)
        return cls(rounded, jnp.where(jnp.isfinite(rounded), lost, 0.0))

    def __add__(self, other: "CompensatedSum") -> "CompensatedSum":
        total = self.total + other.total
        added = total - self.total
        lost = (self.total - (total - added)) + (other.total - added)
        # Where the sum is infinite, inf - inf would turn it into NaN.
        lost = jnp.where(jnp.isfinite(total), lost, 0.0)
        return CompensatedSum(total, self.lost + other.lost + lost)

    def value(self) -> np.ndarray:
        """The sum in float64, on the host."""
        return np.asarray(np.add(self.total, self.lost, dtype=np.float64))


def merge(ours: Sums, theirs: Sums) -> Sums:
    """Adds two pytrees of sums that were made with the same options."""
    if _layout(ours) != _layout(theirs):
        raise UserError(
            f"{type(ours).__name__} can only be merged if both were made with the same options "
            "(number of classes and bins, top_k, confusion)"
        )
    return jax.tree.map(
        operator.add, ours, theirs, is_leaf=lambda node: isinstance(node, CompensatedSum)
    )


def _layout(sums: Any) -> Any:
    leaves, structure = jax.tree.flatten(sums)
    return structure, [np.shape(leaf) for leaf in leaves]
