"""The plain convolutional networks of the robust-loss papers, for MNIST and for CIFAR-10.

Ma et al. 2020 (normalised losses), Zhou et al. 2021 (asymmetric losses) and Wang et al. 2024
(epsilon-softmax) share them. Their code has a bias before every batch normalisation, which
cancels it; here it is left out, and the function and its training are the same.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

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


class CNN(nnx.Module):
    """Stages of 3x3 convolutions, each ending in a 2x2 maximum, then two fully connected layers.

    Batch normalisation and a rectifier follow every layer but the last. Weights start as He
    uniform (fan-in, gain 2) in convolutions and Glorot uniform in fully connected layers, as
    in the papers' code, biases as 0.
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
        self.dense = nnx.Linear(flat, width, use_bias=False, **dense)
        self.norm = BatchNorm(width, axis_name=axis_name)
        self.logits = nnx.Linear(width, num_classes, **dense)

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
        x = self.dense(x.reshape(len(x), -1))
        return jax.nn.relu(self.norm(x, train, mask))
