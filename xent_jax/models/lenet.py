"""LeNet-5 in the form that noisy-label studies on MNIST train."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xent_jax.models.convolution import convolution
from xent_jax.models.layers import avg_pool, check_size, compute_dtype
from xent_jax.typing import Array, Bool, Float, Key

_init = nnx.initializers.truncated_normal(1.0, lower=-0.2, upper=0.2)


def lenet(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    dtype: str = "float32",
) -> "LeNet":
    """Returns LeNet-5, of 61,706 parameters on 28x28x1 images and 10 classes.

    Args:
      num_classes: K.
      image_shape: (H, W, C), at least 12x12.
      rngs: where the initial parameters come from.
      dtype: 'float32' or 'bfloat16', in which layers are computed.

    Raises:
      UserError: images that are too small, or an unknown dtype.
    """
    check_size("lenet", image_shape, 12)
    return LeNet(num_classes, image_shape, rngs, compute_dtype(dtype))


class LeNet(nnx.Module):
    """LeNet-5 (LeCun et al. 1998) with rectifiers, as in the code of the PHuber replication.

    5x5 convolutions to 6 (zero-padded) and 16 channels (not padded), each with a rectifier and
    a 2x2 mean, then 120, 84 and K fully connected units. Against 1998: rectifiers for scaled
    tanh, plain means, all pairs of channels connected, a linear output layer. Weights start as
    the replication's, a standard normal truncated to [-0.2, 0.2] (deviation 0.115) whatever the
    fan-in, biases as 0.

    Reference: https://github.com/dmizr/phuber, for Menon et al. 2020, "Can gradient clipping
    mitigate label noise?"
    """

    def __init__(
        self, num_classes: int, image_shape: tuple[int, int, int], rngs: nnx.Rngs, dtype: Any
    ):
        height, width, channels = image_shape
        flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        common = {"kernel_init": _init, "dtype": dtype, "rngs": rngs}
        convolve = {"conv_general_dilated": convolution, **common}
        self.conv1 = nnx.Conv(channels, 6, (5, 5), padding=2, **convolve)
        self.conv2 = nnx.Conv(6, 16, (5, 5), padding=0, **convolve)
        self.dense1 = nnx.Linear(flat, 120, **common)
        self.dense2 = nnx.Linear(120, 84, **common)
        self.logits = nnx.Linear(84, num_classes, **common)

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
        x = avg_pool(jax.nn.relu(self.conv1(jnp.asarray(images))))
        x = avg_pool(jax.nn.relu(self.conv2(x)))
        x = x.reshape(len(x), -1)
        x = jax.nn.relu(self.dense1(x))
        return jax.nn.relu(self.dense2(x))
