"""Plain convolutional networks: those of the robust-loss papers, and that of few-shot learning.

Ma et al. 2020 (normalised losses), Zhou et al. 2021 (asymmetric losses) and Wang et al. 2024
(epsilon-softmax) share the former, `cnn4` and `cnn8`; `conv4` is the latter. The papers' code has
a bias before every batch normalisation, which cancels it; here it is left out, and the function
and its training are the same.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from xent_jax.errors import UserError
from xent_jax.models.layers import (
    BatchNorm,
    ConvNorm,
    check_size,
    compute_dtype,
    he_uniform,
    max_pool,
)
from xent_jax.typing import Array, Bool, Float, Key


def cnn4(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    axis_name: str | None = None,
    dtype: str = "float32",
) -> "CNN":
    """Returns the 4-layer network for MNIST: 3x3 convolutions to 32 and 64, 128 units, K logits.

    421,866 parameters on 28x28x1 images and 10 classes (the papers' code: 422,090, with its
    224 cancelled biases).

    Args:
      num_classes: K.
      image_shape: (H, W, C), at least 4x4.
      rngs: where the initial parameters come from.
      axis_name: see `BatchNorm`.
      dtype: 'float32' or 'bfloat16', in which layers are computed.

    Raises:
      UserError: images that are too small, or an unknown dtype.
    """
    check_size("cnn4", image_shape, 4)
    return CNN(num_classes, image_shape, [[32], [64]], 128, rngs, axis_name, dtype)


def cnn8(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    axis_name: str | None = None,
    dtype: str = "float32",
) -> "CNN":
    """Returns the 8-layer network for CIFAR-10.

    Pairs of 3x3 convolutions to 64, 128 and 196 channels, 256 units, K logits. 1,638,762
    parameters on 32x32x3 images and 10 classes (the papers' code: 1,639,794, with its 1,032
    cancelled biases).

    Arguments and errors are those of `cnn4`; images of at least 8x8.
    """
    check_size("cnn8", image_shape, 8)
    stages = [[64, 64], [128, 128], [196, 196]]
    return CNN(num_classes, image_shape, stages, 256, rngs, axis_name, dtype)


def conv4(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    channels: int = 64,
    axis_name: str | None = None,
    dtype: str = "float32",
) -> "CNN":
    """Returns the network of few-shot learning: four 3x3 convolutions, each then pooled, K logits.

    The features are what the last pooling leaves, 64 numbers of a 28x28 image. Up to there it has
    111,680 parameters on 28x28x1 images (Snell et al. 2017: 111,936, with 256 cancelled biases).

    Args:
      num_classes: K.
      image_shape: (H, W, C), at least 16x16.
      rngs: where the initial parameters come from.
      channels: of each convolution; 64 in the papers on Omniglot, 32 in MAML's on miniImageNet.
      axis_name: see `BatchNorm`.
      dtype: 'float32' or 'bfloat16', in which layers are computed.

    Raises:
      UserError: images or channels that are too small, or an unknown dtype.

    Reference: Vinyals et al. 2016, "Matching networks for one shot learning", section 4.1.1.
    """
    check_size("conv4", image_shape, 16)
    if channels < 1:
        raise UserError(f"channels={channels} must be at least 1, such as 64")
    return CNN(num_classes, image_shape, [[channels]] * 4, 0, rngs, axis_name, dtype)


class CNN(nnx.Module):
    """Stages of 3x3 convolutions, each ending in a 2x2 maximum, then two fully connected layers.

    Of the latter there is only the last where the other's width is 0. Batch normalisation and a
    rectifier follow every layer but the last. Weights start as He uniform (fan-in, gain 2) in
    convolutions and Glorot uniform in fully connected layers, as in the papers' code, biases as 0.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        stages: Sequence[Sequence[int]],
        width: int,
        rngs: nnx.Rngs,
        axis_name: str | None,
        dtype: str,
    ):
        compute = compute_dtype(dtype)
        conv = {"kernel_init": he_uniform, "dtype": compute, "axis_name": axis_name, "rngs": rngs}
        dense = {
            "kernel_init": nnx.initializers.glorot_uniform(),
            "dtype": compute,
            "rngs": rngs,
        }
        image_height, image_width, channels = image_shape
        self.stages = nnx.List()
        for stage in stages:
            layers = nnx.List()
            for outputs in stage:
                layers.append(ConvNorm(channels, outputs, **conv))
                channels = outputs
            self.stages.append(layers)
        flat = (image_height >> len(stages)) * (image_width >> len(stages)) * channels
        self.width = width
        if width:
            self.dense = nnx.Linear(flat, width, use_bias=False, **dense)
            self.norm = BatchNorm(width, axis_name=axis_name)
        self.logits = nnx.Linear(width or flat, num_classes, **dense)

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
        x = jnp.asarray(images)
        for stage in self.stages:
            for layer in stage:
                x = jax.nn.relu(layer(x, train, mask))
            x = max_pool(x)
        x = x.reshape(len(x), -1)
        if not self.width:
            return x
        return jax.nn.relu(self.norm(self.dense(x), train, mask))
