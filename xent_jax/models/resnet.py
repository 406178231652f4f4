"""Residual networks (He et al. 2016) for small images: the thin CIFAR family and ResNet-18."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from xent_jax.models.layers import ConvNorm, compute_dtype, he_normal, he_uniform
from xent_jax.typing import Array, Bool, Float, Key


def resnet20(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    axis_name: str | None = None,
    dtype: str = "float32",
) -> "ResNet":
    """Returns the CIFAR ResNet-20 (He et al. 2016, Section 4.2), of 269,722 parameters (0.27M).

    Three stages of three blocks, of 16, 32 and 64 channels, with shortcuts of option A. Weights
    start as He normal (fan-in, gain 2), as in the code of Cao et al. 2019 (LDAM-DRW), biases
    as 0. The number of parameters is that of RGB images and 10 classes.

    Args:
      num_classes: K.
      image_shape: (H, W, C), of any size.
      rngs: where the initial parameters come from.
      axis_name: see `BatchNorm`.
      dtype: 'float32' or 'bfloat16', in which layers are computed.

    Raises:
      UserError: an unknown dtype.
    """
    return _thin_resnet(3, num_classes, image_shape, rngs, axis_name, dtype)


def resnet32(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    axis_name: str | None = None,
    dtype: str = "float32",
) -> "ResNet":
    """Returns the CIFAR ResNet-32, of 464,154 parameters (0.46M): as ResNet-20, of five blocks.

    It is the network of the long-tailed CIFAR studies since Cao et al. 2019.

    Arguments and errors are those of `resnet20`.
    """
    return _thin_resnet(5, num_classes, image_shape, rngs, axis_name, dtype)


def resnet18(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    axis_name: str | None = None,
    dtype: str = "float32",
) -> "ResNet":
    """Returns ResNet-18 with the CIFAR stem, of 11,173,962 parameters (11.17M).

    Four stages of two blocks, of 64, 128, 256 and 512 channels, with projections where the
    shape changes (option B). The stem is one 3x3 convolution of stride 1 without a maximum
    pool, as noisy-label papers train it on 32x32 images, not ImageNet's 7x7 of stride 2. Weights
    start as in the code of Ma et al. 2020 and Zhou et al. 2021: He uniform (fan-in, gain 2) in
    convolutions, Glorot uniform before the logits, biases as 0. The number of parameters is
    that of RGB images and 10 classes.

    Arguments and errors are those of `resnet20`.
    """
    return ResNet(
        num_classes,
        image_shape[-1],
        widths=(64, 128, 256, 512),
        blocks=2,
        project=True,
        conv_init=he_uniform,
        dense_init=nnx.initializers.glorot_uniform(),
        rngs=rngs,
        axis_name=axis_name,
        dtype=dtype,
    )


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut: relu(norm(conv(relu(norm(conv(x))))) + x).

    Where the shape changes, the shortcut is a strided 1x1 convolution with batch normalisation
    if `project` (option B), else every `stride`-th pixel with zeros for the new channels, half
    of them before and half after the old (option A), which has no parameters.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool, **common):
        self.first = ConvNorm(inputs, outputs, stride=stride, **common)
        self.second = ConvNorm(outputs, outputs, **common)
        changes = stride != 1 or inputs != outputs
        self.projection = (
            ConvNorm(inputs, outputs, size=1, stride=stride, **common)
            if project and changes
            else None
        )
        self.stride = stride
        self.new_channels = outputs - inputs

    def __call__(self, x_BxHxWxC: jax.Array, train: bool, mask: Array | None) -> jax.Array:
        y = jax.nn.relu(self.first(x_BxHxWxC, train, mask))
        y = self.second(y, train, mask)
        return jax.nn.relu(y + self._shortcut(x_BxHxWxC, train, mask))

    def _shortcut(self, x: jax.Array, train: bool, mask: Array | None) -> jax.Array:
        if self.projection is not None:
            return self.projection(x, train, mask)
        before = self.new_channels // 2
        channels = (before, self.new_channels - before)
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), channels))


class ResNet(nnx.Module):
    """A 3x3 stem, stages of basic blocks that halve the image but the first, the mean, K logits."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        widths: Sequence[int],
        blocks: int,
        project: bool,
        conv_init: nnx.Initializer,
        dense_init: nnx.Initializer,
        rngs: nnx.Rngs,
        axis_name: str | None,
        dtype: str,
    ):
        compute = compute_dtype(dtype)
        conv = {"kernel_init": conv_init, "dtype": compute, "axis_name": axis_name, "rngs": rngs}
        self.stem = ConvNorm(channels, widths[0], **conv)
        self.blocks = nnx.List()
        inputs = widths[0]
        for stage, outputs in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.blocks.append(BasicBlock(inputs, outputs, stride, project, **conv))
                inputs = outputs
        self.logits = nnx.Linear(
            inputs, num_classes, kernel_init=dense_init, dtype=compute, rngs=rngs
        )

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
        x = jax.nn.relu(self.stem(jnp.asarray(images), train, mask))
        for block in self.blocks:
            x = block(x, train, mask)
        return x.mean((1, 2))


def _thin_resnet(
    blocks: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    axis_name: str | None,
    dtype: str,
) -> ResNet:
    return ResNet(
        num_classes,
        image_shape[-1],
        widths=(16, 32, 64),
        blocks=blocks,
        project=False,
        conv_init=he_normal,
        dense_init=he_normal,
        rngs=rngs,
        axis_name=axis_name,
        dtype=dtype,
    )
