"""The gradient of a convolution inside a scan, as jax.lax has it and as the models have it."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from xent_jax.models.convolution import convolution
from xent_jax.typing import Array

# images (B, H, W, C), kernel (h, w, C, F), stride: LeNet's second, cnn8's second, a ResNet's step.
_SHAPES = (
    ((128, 14, 14, 6), (5, 5, 6, 16), 1),
    ((32, 32, 32, 64), (3, 3, 64, 64), 1),
    ((32, 32, 32, 16), (3, 3, 16, 32), 2),
)
_STEPS, _REPEATS = 4, 3
_LAX = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def measure() -> dict[str, float]:
    """Prints and returns the median milliseconds per gradient, in a scan."""
    figures = {}
    print(f"{'images':<20}{'kernel':<16}{'lax, ms':>10}{'ours, ms':>10}{'ratio':>8}")
    for images, kernel, stride in _SHAPES:
        x = jax.random.normal(jax.random.key(0), images)
        w = jax.random.normal(jax.random.key(1), kernel)
        lax, ours = (_milliseconds(f, x, w, stride) for f in (_LAX, convolution))
        figures |= {f"lax {images} {kernel}": lax, f"ours {images} {kernel}": ours}
        print(f"{images!s:<20}{kernel!s:<16}{lax:>10.1f}{ours:>10.1f}{lax / ours:>7.1f}x")
    return figures


def _milliseconds(convolve: Callable[..., Array], x: Array, w: Array, stride: int) -> float:
    def energy(x: Array, w: Array) -> Array:
        return (convolve(x, w, (stride, stride), [(1, 1), (1, 1)]) ** 2).sum()

    def step(w: Array, _: Any) -> tuple[Array, None]:
        dx, dw = jax.grad(energy, (0, 1))(x, w)
        return w - 1e-9 * dw + 1e-9 * jnp.mean(dx), None

    steps = jax.jit(lambda w: jax.lax.scan(step, w, length=_STEPS)[0])
    jax.block_until_ready(steps(w))
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(steps(w))
        times.append(1e3 * (time.perf_counter() - began) / _STEPS)
    return statistics.median(times)
