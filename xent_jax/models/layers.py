"""What the models are built of: batch normalisation and dropout that know about padding.

A batch may be padded (`mask` says which examples count) and may be split over devices in any way.
Statistics are those of the whole unpadded batch, and random masks are drawn from one key per
example, so that neither padding nor the number of devices changes what is computed.

Shape suffixes: B examples, H height, W width, C channels, F features, K classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xent_jax.errors import UserError, nearest
from xent_jax.models.convolution import convolution
from xent_jax.typing import Array, Bool, Float, Key

# PyTorch's defaults, with which the studies we follow were trained; its momentum is 1 - ours.
_EPSILON = 1e-5
_MOMENTUM = 0.9

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

he_normal = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
he_uniform = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform")


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, Algorithm 1) over all axes but the last.

        y = (x - mean) / sqrt(variance + 1e-5) * scale + bias

    In training, mean and variance are those of the global batch's unmasked examples, the
    variance in two passes (the one-pass E[x^2] - E[x]^2 cancels in float32) and biased. The
    running statistics used in evaluation move a tenth of the way towards them at every step,
    the variance unbiased as in PyTorch; a batch of which nothing counts leaves them as they
    are. All of this is float32, whatever the dtype of `x`, which the result has.

    Args:
      features: F, the length of the last axis.
      axis_name: the mapped axis over which the batch is split, under `jax.pmap` or
        `jax.shard_map`. None where the arrays are global, as they are under `jax.jit` however
        they are sharded.
    """

    def __init__(self, features: int, *, axis_name: str | None = None):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones(features, jnp.float32))
        self.axis_name = axis_name

    def __call__(
        self,
        x: Float[jax.Array, "batch *space features"],
        train: bool = False,
        mask: Bool[Array, " batch"] | None = None,
    ) -> Float[jax.Array, "batch *space features"]:
        x32 = x.astype(jnp.float32)
        mean, variance = self._train(x32, mask) if train else (self.mean[...], self.variance[...])
        mean, variance, scale, bias = (
            jnp.expand_dims(v, range(x.ndim - 1))
            for v in (mean, variance, self.scale[...], self.bias[...])
        )
        y = (x32 - mean) * (jax.lax.rsqrt(variance + _EPSILON) * scale) + bias
        return y.astype(x.dtype)

    def _train(self, x: jax.Array, mask: Array | None) -> tuple[jax.Array, jax.Array]:
        """Returns the batch's mean and variance (F,), having updated the running ones."""
        axes = tuple(range(x.ndim - 1))
        where = None if mask is None else jnp.expand_dims(mask, range(1, x.ndim))
        examples = jnp.float32(len(x)) if mask is None else jnp.sum(mask, dtype=jnp.float32)
        sums, count = self._global((x.sum(axes, where=where), examples * math.prod(x.shape[1:-1])))
        mean = sums / jnp.maximum(count, 1.0)
        centred = x - jnp.expand_dims(mean, axes)
        squares = self._global(jnp.square(centred).sum(axes, where=where))
        self._move(self.mean, mean, count)
        self._move(self.variance, squares / jnp.maximum(count - 1.0, 1.0), count)
        return mean, squares / jnp.maximum(count, 1.0)

    def _global(self, tree: Any) -> Any:
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    @staticmethod
    def _move(running: nnx.BatchStat, batch: jax.Array, count: jax.Array) -> None:
        moved = _MOMENTUM * running[...] + (1.0 - _MOMENTUM) * batch
        running.set_value(jnp.where(count > 0, moved, running[...]))


class ConvNorm(nnx.Module):
    """A square convolution, zero-padded by half its size, then batch normalisation.

    It has no bias: batch normalisation subtracts the mean, and any bias with it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        stride: int = 1,
        kernel_init: nnx.Initializer,
        dtype: Any,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=False,
            kernel_init=kernel_init,
            conv_general_dilated=convolution,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(outputs, axis_name=axis_name)

    def __call__(self, x_BxHxWxC: jax.Array, train: bool, mask: Array | None) -> jax.Array:
        return self.norm(self.conv(x_BxHxWxC), train, mask)


class CosineLinear(nnx.Module):
    """The last layer of margin losses: `scale` times the cosine of features and class weights.

        logits_k = scale * <x, w_k> / (|x| |w_k|)

    It has no bias. A cosine with a zero vector is 0, and so is its gradient. Cosines are float32
    whatever the dtype of `x`. Weights start uniform in [-1, 1], of which the direction alone
    counts.

    Args:
      features: D, the length of the last axis.
      classes: K.
      scale: what the cosines are multiplied by, above 0.
      rngs: where the initial weights come from.

    Reference: Wang et al. 2017, "NormFace", Section 3.
    """

    def __init__(self, features: int, classes: int, *, scale: float, rngs: nnx.Rngs):
        weights = jax.random.uniform(rngs.params(), (features, classes), jnp.float32, -1.0, 1.0)
        self.kernel = nnx.Param(weights)
        self.scale = scale

    def __call__(self, x: Float[jax.Array, "batch features"]) -> Float[jax.Array, "batch classes"]:
        x = _unit(x.astype(jnp.float32), axis=1)
        return self.scale * (x @ _unit(self.kernel[...], axis=0))


def _unit(vectors: jax.Array, axis: int) -> jax.Array:
    squares = jnp.sum(vectors**2, axis=axis, keepdims=True)
    # A root of 0 has no finite gradient, not even where a select drops it.
    inverse = jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))
    return jnp.where(squares > 0, vectors * inverse, 0.0)


def dropout(
    x: Float[jax.Array, "batch *rest"],
    keys: Key[Array, " batch"] | None,
    *,
    rate: float,
    layer: int,
) -> Float[jax.Array, "batch *rest"]:
    """Sets each value to 0 with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
      x: any array of examples.
      keys: one key per example, so that an example's mask depends on its key alone and not on
        the batch or the device it is in.
      rate: in [0, 1). At 0 nothing is drawn and no keys are needed.
      layer: folded into the keys, so that one set of keys serves all layers.

    Raises:
      UserError: keys are needed and not given.

    Reference: Srivastava et al. 2014, Section 10 ("inverted" scaling).
    """
    if rate == 0.0:
        return x
    if keys is None:
        raise UserError(f"dropout={rate} draws at random in training: pass keys=, one per example")

    def keep_one(key: Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, layer), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(keep_one)(keys), x / (1.0 - rate), 0.0)


def max_pool(x_BxHxWxC: jax.Array) -> jax.Array:
    """Returns the maximum over windows of 2x2, an odd last row or column left out."""
    x = _even(x_BxHxWxC)
    rows = _larger(x[:, ::2], x[:, 1::2])
    return _larger(rows[:, :, ::2], rows[:, :, 1::2])


def avg_pool(x_BxHxWxC: jax.Array) -> jax.Array:
    """Returns the mean over windows of 2x2, an odd last row or column left out."""
    batch, height, width, channels = x_BxHxWxC.shape
    windows = (batch, height // 2, 2, width // 2, 2, channels)
    return _even(x_BxHxWxC).reshape(windows).mean((2, 4))


def _even(x: jax.Array) -> jax.Array:
    return x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    # Not jnp.maximum or max: their gradient goes to the operand that equals the result, and is
    # lost where XLA computes that operand twice and rounds it differently (JAX issue 40564). Nor
    # a reduce_window, whose gradient is a scatter, many times slower on a CPU.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def compute_dtype(name: Any) -> Any:
    """Returns the dtype in which layers multiply; parameters, statistics and logits are float32.

    Raises:
      UserError: it is none that is offered (float16 would need its loss scaled).
    """
    if name not in _DTYPES:
        near = nearest(str(name), _DTYPES)
        raise UserError(f"dtype={name!r} is not offered{near}; one of: {', '.join(_DTYPES)}")
    return _DTYPES[name]


def check_size(name: str, image_shape: Sequence[int], smallest: int) -> None:
    """Raises UserError if the images are too small for the model `name` to pool."""
    height, width, _ = image_shape
    if min(height, width) < smallest:
        raise UserError(
            f"{name} pools its images down, so they must be at least {smallest}x{smallest}, "
            f"not {height}x{width}; mlp takes any size"
        )
