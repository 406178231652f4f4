"""The embedding of tokens, which is a language model's first layer and its last."""

from typing import Any

import jax
import jax.numpy as jnp

from xent_jax.errors import UserError
from xent_jax.typing import Array, Float, Int


def embed(
    embedding_VxD: Float[jax.Array, "vocabulary width"],
    tokens_BxL: Int[Array, "batch length"],
    dtype: Any,
) -> Float[jax.Array, "batch length width"]:
    """Returns the row of each token, of NaN where a token is outside [0, V)."""
    rows = embedding_VxD.at[tokens_BxL]
    # -1 is no token: by default it would be the last.
    return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False).astype(dtype)


def check_sizes(model: str, **sizes: int) -> None:
    """Raises UserError if one of the model's sizes is not a whole number of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"{model}: {name}={size!r} must be a whole number of at least 1")
