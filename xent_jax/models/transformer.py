"""The decoder-only transformer, a language model whose last layer is left to the loss.

Shape suffixes: B sequences, L tokens of each, D width, H heads, E features of a head, V vocabulary.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xent_jax.errors import UserError
from xent_jax.models.embedding import check_sizes, embed
from xent_jax.typing import Array, Float, Int

# GPT-2's: section 2.3 of Radford et al. 2019, and its code.
_STANDARD_DEVIATION = 0.02
_SLOWEST_WAVELENGTH = 10_000.0


class Transformer(nnx.Module):
    """Predicts each token from those before it: `hidden = model(tokens)`, before the last layer.

        x_0 = E[tokens]
        y_l = x_l + attention(norm(x_l)),  x_{l+1} = y_l + W_down gelu(W_up norm(y_l))
        hidden = norm(x_layers),           logits = hidden E^T

    The embedding E is the last layer too (Press & Wolf 2017): give `hidden` and `model.embedding`
    to a linear cross-entropy. Attention is causal and sees positions by rotation alone, layers
    have no biases, and there is no dropout. The model has V D + layers (4 D^2 + 2 D hidden + 2 D)
    + D parameters.

    Parameters are float32. In bfloat16 the products and the sum of layers are bfloat16, what is in
    norms, rotations and the softmax of attention float32. Weights start normal with a standard
    deviation of 0.02, divided by sqrt(2 layers) where a layer's result is added to the sum, which
    would otherwise grow with depth (Radford et al. 2019).

    Args:
      vocabulary: V.
      width: D.
      layers: of attention and of the perceptron after it.
      heads: of attention; they divide the width into parts of even length.
      hidden: the perceptron's units; by default 4 D.
      dtype: `jnp.float32` or `jnp.bfloat16`, in which layers are computed.
      rngs: where the initial parameters come from.

    Raises:
      UserError: a size that is no number above 0, or heads that do not divide the width.

    References: Vaswani et al. 2017, "Attention is all you need". Su et al. 2021, "RoFormer".
    Zhang & Sennrich 2019, "Root mean square layer normalization". Radford et al. 2019, "Language
    models are unsupervised multitask learners", section 2.3. Press & Wolf 2017, "Using the output
    embedding to improve language models".
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        layers: int,
        heads: int,
        hidden: int | None = None,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = 4 * width if hidden is None else hidden
        sizes = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads}
        check_sizes("transformer", **sizes, hidden=hidden)
        if width % (2 * heads):
            fits = 2 * heads * math.ceil(width / (2 * heads))
            raise UserError(
                f"transformer: heads={heads} must divide width={width} into parts of even length, "
                f"whose halves are rotated; width={fits} would do"
            )
        init = nnx.initializers.normal(_STANDARD_DEVIATION)
        self.embedding = nnx.Param(init(rngs.params(), (vocabulary, width), jnp.float32))
        self.blocks = nnx.List(
            Block(width, heads, hidden, layers=layers, dtype=dtype, rngs=rngs)
            for _ in range(layers)
        )
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head_features = width // heads
        self.dtype = dtype

    def __call__(
        self, tokens: Int[Array, "batch length"]
    ) -> Float[jax.Array, "batch length width"]:
        x_BxLxD = embed(self.embedding[...], tokens, self.dtype)
        turns = rotations(tokens.shape[1], self.head_features)
        for block in self.blocks:
            x_BxLxD = block(x_BxLxD, turns)
        return _normalised(self.norm, x_BxLxD)


class Block(nnx.Module):
    """Causal attention, then a perceptron, each added to what it was given."""

    def __init__(
        self, width: int, heads: int, hidden: int, *, layers: int, dtype: Any, rngs: nnx.Rngs
    ):
        common = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        inner = nnx.initializers.normal(_STANDARD_DEVIATION)
        added = nnx.initializers.normal(_STANDARD_DEVIATION / math.sqrt(2 * layers))
        self.attention_norm = nnx.RMSNorm(width, rngs=rngs)
        self.query_key_value = nnx.Linear(width, 3 * width, kernel_init=inner, **common)
        self.attended = nnx.Linear(width, width, kernel_init=added, **common)
        self.perceptron_norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, kernel_init=inner, **common)
        self.down = nnx.Linear(hidden, width, kernel_init=added, **common)
        self.heads = heads

    def __call__(self, x_BxLxD: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
        x = x_BxLxD + self._attention(_normalised(self.attention_norm, x_BxLxD), turns)
        return x + self.down(jax.nn.gelu(self.up(_normalised(self.perceptron_norm, x))))

    def _attention(self, x_BxLxD: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
        batch, length, width = x_BxLxD.shape
        heads = (batch, length, 3, self.heads, width // self.heads)
        query, key, value = jnp.unstack(self.query_key_value(x_BxLxD).reshape(heads), axis=2)
        query, key = rotate(query, turns), rotate(key, turns)
        mixed_BxLxHxE = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return self.attended(mixed_BxLxHxE.reshape(batch, length, width))


def rotations(length: int, features: int) -> tuple[jax.Array, jax.Array]:
    """Returns the cosines and sines (L, E/2) of the angles t 10000^(-2 i / E), i < E/2."""
    i = jnp.arange(features // 2, dtype=jnp.float32)
    frequencies = _SLOWEST_WAVELENGTH ** (-2.0 * i / features)
    angles_LxE = jnp.outer(jnp.arange(length, dtype=jnp.float32), frequencies)
    return jnp.cos(angles_LxE), jnp.sin(angles_LxE)


def rotate(x_BxLxHxE: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns each pair of features by its position's angle (Su et al. 2021, section 3.2).

    A query and a key so turned have a product that depends on their positions' difference alone.
    A pair is a feature of the first half and one of the second, not neighbours as in the paper:
    the model is the same, but for the order of its features.
    """
    cos, sin = (turn[None, :, None, :] for turn in turns)
    first, second = jnp.split(x_BxLxHxE.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x_BxLxHxE.dtype)


def _normalised(norm: nnx.RMSNorm, x: jax.Array) -> jax.Array:
    return norm(x.astype(jnp.float32)).astype(x.dtype)
