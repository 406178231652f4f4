"""Convolutions' gradients inside a scan: as jax.lax has them and as ours, alone and for a stack.

A stack's runs have images and a kernel each. They are trained one after another by `lax.map`, or
side by side by `vmap`, in each of the forms that `xent_jax.models.convolution` offers; its choice
between them is made of these figures. On CPU times are those of all cores together.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.clock import median_seconds
from experiments.bench.size import RUNS
from xent_jax.models.convolution import convolution
from xent_jax.typing import Array

# images (B, H, W, C), kernel (h, w, C, F), stride: LeNet's second, cnn8's second, a ResNet's step.
_SHAPES = (
    ((128, 14, 14, 6), (5, 5, 6, 16), 1),
    ((8, 32, 32, 64), (3, 3, 64, 64), 1),
    ((32, 32, 32, 16), (3, 3, 16, 32), 2),
)
# LeNet's two, cnn4's two, cnn8's second and fourth; fewer images than are trained with.
_LAYERS = {
    "lenet 1": ((16, 28, 28, 1), (5, 5, 1, 6)),
    "lenet 2": ((16, 14, 14, 6), (5, 5, 6, 16)),
    "cnn4 1": ((16, 28, 28, 1), (3, 3, 1, 32)),
    "cnn4 2": ((16, 14, 14, 32), (3, 3, 32, 64)),
    "cnn8 2": ((4, 32, 32, 64), (3, 3, 64, 64)),
    "cnn8 4": ((4, 16, 16, 128), (3, 3, 128, 128)),
}
_STEPS = 2
_HOPELESS = 2.5  # times the first: a form that is not measured for more runs

Convolve = Callable[..., Array]
_XLA = partial(convolution, form="xla", dimension_numbers=("NHWC", "HWIO", "NHWC"))
_STACKED: dict[str, tuple[Callable[..., Any], Convolve]] = {
    "lax.map": (lambda function: partial(jax.lax.map, function), convolution),
    "in turn": (jax.vmap, partial(convolution, form="in turn")),
    "grouped": (jax.vmap, _XLA),
    "patches": (jax.vmap, partial(convolution, form="patches")),
}


def measure() -> dict[str, float]:
    """Prints and returns the median milliseconds per gradient, in a scan, of one run."""
    return _alone() | _stacked()


def _alone() -> dict[str, float]:
    figures = {}
    print(f"{'images':<20}{'kernel':<16}{'lax, ms':>10}{'ours, ms':>10}{'ratio':>8}")
    for images, kernel, stride in _SHAPES:
        x, w = _random(images, kernel)
        ours, ratio = median_seconds([_steps(f, x, w, stride) for f in (convolution, _XLA)])
        ours *= 1e3 / _STEPS
        figures |= {f"lax {images} {kernel}": ours * ratio, f"ours {images} {kernel}": ours}
        print(f"{images!s:<20}{kernel!s:<16}{ours * ratio:>10.1f}{ours:>10.1f}{ratio:>7.1f}x")
    return figures


def _stacked() -> dict[str, float]:
    figures = {}
    print(f"\n{'ms a run':<10}{'runs':>5}" + "".join(f"{name:>12}" for name in _STACKED))
    for layer, (images, kernel) in _LAYERS.items():
        forms = list(_STACKED)
        for runs in sorted(RUNS.value):
            x, w = _random((runs, *images), (runs, *kernel))
            programs = [_of_stack(*_STACKED[form], x, w) for form in forms]
            first, *ratios = median_seconds(programs)
            times = dict(zip(forms, [1.0, *ratios], strict=True))
            each = {form: first * 1e3 / _STEPS / runs * ratio for form, ratio in times.items()}
            figures |= {f"{form}: {layer}, {runs} runs": time for form, time in each.items()}
            cells = "".join(
                f"{each[form]:>12.2f}" if form in each else f"{'':>12}" for form in _STACKED
            )
            print(f"{layer:<10}{runs:>5}{cells}", flush=True)
            forms = [form for form in forms if times[form] < _HOPELESS]
    return figures


def _random(images: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], images), jax.random.normal(keys[1], kernel)


def _of_stack(map_: Callable[..., Any], convolve: Convolve, x: Array, w: Array) -> Any:
    return partial(jax.jit(map_(lambda pair: _scanned(convolve, *pair))), (x, w))


def _steps(convolve: Convolve, x: Array, w: Array, stride: int) -> Callable[[], Array]:
    return partial(jax.jit(partial(_scanned, convolve, stride=stride)), x, w)


def _scanned(convolve: Convolve, x: Array, w: Array, stride: int = 1) -> Array:
    """Returns the kernel after some steps, each of which needs both gradients."""

    def energy(x: Array, w: Array) -> Array:
        return (convolve(x, w, (stride, stride), [(1, 1), (1, 1)]) ** 2).sum()

    def step(w: Array, _: Any) -> tuple[Array, None]:
        dx, dw = jax.grad(energy, (0, 1))(x, w)
        return w - 1e-9 * dw + 1e-9 * jnp.mean(dx), None

    return jax.lax.scan(step, w, length=_STEPS)[0]
