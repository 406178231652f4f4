"""A convolution whose gradients are fast inside a compiled loop on CPU, too.

Inside a loop, such as a scan over training steps, XLA's CPU backend runs the two convolutions of
a convolution's gradient 17 to 72 times slower (`experiments.bench convolution`) than where they
are in the form (batch, space, channels) of a forward one, in which they are written here.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(
    images: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: Any,
    *,
    precision: Any = None,
    **others: Any,
) -> Array:
    """Convolves images (B, H, W, C) with a kernel (h, w, C, F), as `nnx.Conv` asks for it.

    On CPU it has a hand-derived gradient in reverse mode; it takes neither dilation nor groups.
    Elsewhere it is `jax.lax.conv_general_dilated`.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, precision=precision, **others
        )
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    return _convolution(images, kernel, tuple(strides), tuple(map(tuple, padding)), precision)


def _plain(x: Array, kernel: Array, strides: Any, padding: Any, precision: Any, **kw: Any) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_LAYOUT, precision=precision, **kw
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(x: Array, kernel: Array, strides: Any, padding: Any, precision: Any) -> Array:
    return _plain(x, kernel, strides, padding, precision)


def _forward(
    x: Array, kernel: Array, strides: Any, padding: Any, precision: Any
) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, strides, padding, precision), (x, kernel)


def _backward(
    strides: Any, padding: Any, precision: Any, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    # dx[i] = sum_o g[o] kernel[i + low - stride o]: g, spread by the stride, against the kernel
    # turned round. dkernel[j] = sum_o x[stride o + j - low] g[o]: x against g as a kernel with
    # gaps, summed over the batch, which takes the channels' place in both.
    x, kernel = saved
    spread = [(n - 1) * s + 1 for n, s in zip(g.shape[1:3], strides, strict=True)]
    sizes = list(zip(x.shape[1:3], kernel.shape[:2], spread, padding, strict=True))
    around_g = [(k - 1 - low, n + low - m) for n, k, m, (low, _) in sizes]
    around_x = [(low, k + m - 1 - n - low) for n, k, m, (low, _) in sizes]
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx = _plain(g, turned, (1, 1), around_g, precision, lhs_dilation=strides)
    over_batch = (x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3))
    dkernel = _plain(*over_batch, (1, 1), around_x, precision, rhs_dilation=strides)
    return dx, dkernel.transpose(1, 2, 0, 3)


_convolution.defvjp(_forward, _backward)
