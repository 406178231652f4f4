"""The recurrent language model: long short-term memory, whose last layer is left to the loss."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xent_jax.models.embedding import check_sizes, embed
from xent_jax.typing import Array, Float, Int


class LSTM(nnx.Module):
    """Predicts each token from those before it: `hidden = model(tokens)`, before the last layer.

    Layers of long short-term memory, one on the other, all of the width of the embedding E, which
    is the last layer too: give `hidden` and `model.embedding` to a linear cross-entropy. Every
    sequence starts with an empty memory. The model has V D + layers (8 D^2 + 4 D) parameters.

    Parameters are float32. In bfloat16 the products are bfloat16; gates and memory stay float32,
    as what a token adds to the memory may be below bfloat16's precision. The embedding starts
    normal with a variance of 1 / D, as a last layer wants it, and is multiplied by sqrt(D) as the
    first, without which the layers hardly learn what follows what (Vaswani et al. 2017, section
    3.4). The layers start as Flax's: LeCun normal from below, orthogonal from the past, biases 0.

    Args:
      vocabulary: V.
      width: D.
      layers: how many.
      dtype: `jnp.float32` or `jnp.bfloat16`, in which layers are computed.
      rngs: where the initial parameters come from.

    Raises:
      UserError: a size that is no number above 0.

    References: Hochreiter & Schmidhuber 1997, "Long short-term memory". Vaswani et al. 2017,
    "Attention is all you need", section 3.4.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        layers: int,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes("lstm", vocabulary=vocabulary, width=width, layers=layers)
        init = nnx.initializers.normal(width**-0.5)
        self.embedding = nnx.Param(init(rngs.params(), (vocabulary, width), jnp.float32))
        # No random numbers: the memory is given, and a model's state is its parameters alone.
        self.layers = nnx.List(
            nnx.RNN(_cell(width, dtype, rngs), rngs=False) for _ in range(layers)
        )
        self.dtype = dtype

    def __call__(
        self, tokens: Int[Array, "batch length"]
    ) -> Float[jax.Array, "batch length width"]:
        root = math.sqrt(self.embedding.shape[-1])
        x_BxLxD = embed(self.embedding[...], tokens, self.dtype) * root
        # Like x, so that under shard_map it varies over the devices that x varies over.
        empty_BxD = jnp.zeros_like(x_BxLxD[:, 0], jnp.float32)
        for layer in self.layers:
            hidden: Any = layer(x_BxLxD, initial_carry=(empty_BxD, empty_BxD))
            x_BxLxD = hidden.astype(self.dtype)
        return x_BxLxD


def _cell(width: int, dtype: Any, rngs: nnx.Rngs) -> nnx.OptimizedLSTMCell:
    return nnx.OptimizedLSTMCell(
        width,
        width,
        dtype=dtype,
        gate_fn=lambda y: jax.nn.sigmoid(y.astype(jnp.float32)),
        activation_fn=lambda y: jnp.tanh(y.astype(jnp.float32)),
        rngs=rngs,
    )
