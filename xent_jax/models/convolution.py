"""Convolutions in the form that is fast where they run, chosen by `experiments.bench convolution`.

Inside a loop, such as a scan over training steps, XLA's CPU backend runs the two convolutions of
a convolution's gradient 17 to 72 times slower than where they are in the form (batch, space,
channels) of a forward one, in which they are written here.

Mapped over images and kernels by `vmap`, as the networks of co-teaching or the learners of MAML
are, XLA's convolution is a grouped one, which on CPU is slower than one convolution after another.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

FORMS = ("xla", "in turn", "patches")
"""What `convolution` can be, in value and gradient the same:

  xla: that of `jax.lax`; mapped over kernels, a grouped convolution.
  in turn: with a hand-derived gradient in reverse mode, of any order; mapped over kernels, one
    convolution after another.
  patches: a matrix product with every patch of the images, as many times their size as the kernel
    has places; mapped over kernels, a batch of matrix products.
"""

_WIDE, _FEW = 25, 8
"""Places of a kernel and channels of images: from the one and below the other, patches are the
fastest form on CPU. LeNet's convolutions are so, and take a third and half as long."""

Pairs = tuple[tuple[int, int], ...]


def convolution(
    images: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: Any,
    *,
    precision: Any = None,
    form: str | None = None,
    **others: Any,
) -> Array:
    """Convolves images (B, H, W, C) with a kernel (h, w, C, F), as `nnx.Conv` asks for it.

    Args:
      images: (B, H, W, C).
      kernel: (h, w, C, F).
      strides: of height and width.
      padding: 'SAME', 'VALID' or what to pad before and after height and width.
      precision: of the products, as in `jax.lax`.
      form: one of `FORMS`; None: the fastest, as far as that was measured.
      others: what else `jax.lax.conv_general_dilated` takes; only XLA's form knows of it.
    """
    form = form or _fastest(*kernel.shape)
    if form == "xla":
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, precision=precision, **others
        )
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    padding = tuple(map(tuple, padding))
    if form == "patches":
        return _of_patches(images, kernel, strides, padding, precision)
    return _convolution(images, kernel, _Window((strides[0], strides[1]), padding, precision))


def _fastest(height: int, width: int, channels: int, outputs: int) -> str:
    """Returns the form that is fastest on CPU. Others have XLA's: nobody has measured them yet."""
    del outputs
    if jax.default_backend() != "cpu":
        return "xla"
    return "patches" if height * width >= _WIDE and channels < _FEW else "in turn"


class _Window(NamedTuple):
    """How a kernel moves over images. Those with gaps occur in gradients."""

    strides: tuple[int, int]
    padding: Pairs
    precision: Any
    image_gaps: tuple[int, int] = (1, 1)  # from one pixel to the next
    kernel_gaps: tuple[int, int] = (1, 1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: Array, kernel: Array, window: _Window) -> Array:
    return _in_turn(window)(x, kernel)


def _forward(x: Array, kernel: Array, window: _Window) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(x, kernel, window), (x, kernel)  # so that it has a gradient itself


def _backward(window: _Window, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # With stride s and gaps a of images, b of kernels: y[o] = sum_j x[(s o + b j - low) / a] k[j].
    # dx[i] = sum_j g[(a i - b j + low) / s] k[j]: g, spread by s, against the kernel turned round.
    # dk[j] = sum_o x[(s o + b j - low) / a] g[o]: x against g as a kernel with gaps s, summed over
    # the batch, which takes the channels' place in both. So both are convolutions like the first.
    x, kernel = saved
    strides, _, precision, image_gaps, kernel_gaps = window
    of_x, of_g = _spread(x.shape, 1, image_gaps), _spread(g.shape, 1, strides)
    sizes = zip(of_x, of_g, _spread(kernel.shape, 0, kernel_gaps), window.padding, strict=True)
    around_g, around_x = zip(
        *(((k - 1 - low, n + low - m), (low, k + m - 1 - n - low)) for n, m, k, (low, _) in sizes),
        strict=True,
    )
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx: Any = _convolution(
        g, turned, _Window(image_gaps, around_g, precision, strides, kernel_gaps)
    )
    dkernel: Any = _convolution(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        _Window(kernel_gaps, around_x, precision, image_gaps, strides),
    )
    return dx, dkernel.transpose(1, 2, 0, 3)


_convolution.defvjp(_forward, _backward)


def _spread(shape: tuple[int, ...], axis: int, gaps: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width with gaps, of which the former is the shape's axis `axis`."""
    height, width = shape[axis : axis + 2]
    return (height - 1) * gaps[0] + 1, (width - 1) * gaps[1] + 1


def _in_turn(window: _Window) -> Any:
    """Returns the convolution of images and a kernel that stays an ordinary one under `vmap`."""

    @custom_vmap
    def convolve(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window.strides,
            window.padding,
            lhs_dilation=window.image_gaps,
            rhs_dilation=window.kernel_gaps,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=window.precision,
        )

    @convolve.def_vmap
    def _(size: int, mapped: list[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
        if all(mapped):
            return jax.lax.map(lambda pair: convolve(*pair), (x, kernel)), True
        if mapped[0]:  # a larger batch
            y = convolve(x.reshape(-1, *x.shape[2:]), kernel)
            return y.reshape(size, -1, *y.shape[1:]), True
        wide = jnp.moveaxis(kernel, 0, 3)  # more outputs
        y = convolve(x, wide.reshape(*wide.shape[:3], -1))
        return jnp.moveaxis(y.reshape(*y.shape[:3], size, -1), 3, 0), True

    return convolve


def _of_patches(
    x: Array, kernel: Array, strides: tuple[int, int], padding: Pairs, precision: Any
) -> Array:
    height, width, channels, outputs = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    down, right = (
        range(0, n - k + 1, s)
        for n, k, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
    )
    patches = [
        x[:, i : i + down.stop : strides[0], j : j + right.stop : strides[1]]
        for i in range(height)
        for j in range(width)
    ]
    flat = kernel.reshape(height * width * channels, outputs)
    return jnp.matmul(jnp.concatenate(patches, axis=-1), flat, precision=precision)
