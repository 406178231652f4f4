"""The multi-layer perceptron: 784-256-10 on MNIST, and its family."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xent_jax.errors import UserError
from xent_jax.models.layers import compute_dtype, dropout, he_normal
from xent_jax.typing import Array, Bool, Float, Key


def mlp(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    hidden: int | Sequence[int] = (256,),
    dropout: float = 0.0,
    dtype: str = "float32",
) -> "MLP":
    """Returns a perceptron on the flattened image; 784-256-10 has 203,530 parameters.

    Args:
      num_classes: K.
      image_shape: (H, W, C), of any size.
      rngs: where the initial parameters come from.
      hidden: the hidden layers' widths; a number is one layer, () is a linear model.
      dropout: the probability of leaving out a hidden unit in training, in [0, 1).
      dtype: 'float32' or 'bfloat16', in which layers are computed.

    Raises:
      UserError: a hyper-parameter out of its range.
    """
    hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    if any(width < 1 for width in hidden):
        raise UserError(f"hidden={hidden} must hold widths of at least 1, such as (256,)")
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout={dropout} must be at least 0 and below 1")
    return MLP((math.prod(image_shape), *hidden, num_classes), dropout, rngs, compute_dtype(dtype))


class MLP(nnx.Module):
    """Fully connected layers with rectifiers, then dropout, between them.

    Weights start as He normal (fan-in, gain 2) before a rectifier and LeCun normal before the
    logits, biases as 0.
    """

    def __init__(self, widths: Sequence[int], dropout: float, rngs: nnx.Rngs, dtype: Any):
        *hidden, last = pairwise(widths)
        self.hidden = nnx.List(
            nnx.Linear(*pair, kernel_init=he_normal, dtype=dtype, rngs=rngs) for pair in hidden
        )
        self.logits = nnx.Linear(*last, dtype=dtype, rngs=rngs)
        self.dropout = dropout

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        train: bool = False,
        mask: Bool[Array, " batch"] | None = None,
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch classes"]:
        return self.logits(self.features(images, train, mask, keys)).astype(jnp.float32)

    def features(
        self,
        images: Float[Array, "batch height width channels"],
        train: bool = False,
        mask: Bool[Array, " batch"] | None = None,
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[jax.Array, "batch features"]:
        x = jnp.asarray(images).reshape(len(images), -1)
        for i, layer in enumerate(self.hidden):
            x = jax.nn.relu(layer(x))
            x = dropout(x, keys, rate=self.dropout, layer=i) if train else x
        return x
