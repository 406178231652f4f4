"""Products and quotients with logarithms that stay right where their argument is 0.

Autodiff of the plain formulas gives 0 * inf = NaN there. The rules below keep one convention: a
factor that is 0 makes the product 0, and a slope that is infinite only because a probability is
exactly 0 is taken as 0, so that gradients with respect to a target with zeros stay finite.
"""

import jax
import jax.numpy as jnp

from xent_jax.typing import Array


def x_log_x(x: Array) -> Array:
    """Returns x log x, and 0 at x = 0, where the slope log x + 1 is taken as 0."""
    return x * jnp.log(jnp.where(x == 0.0, 1.0, x))


@jax.custom_jvp
def x_log_y(x: Array, y: Array) -> Array:
    """Returns x log y, and 0 at x = 0 even if y = 0 too."""
    return times(x, jnp.log(y))


@x_log_y.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d(x log y) = log y dx + x / y dy, where log 0 and 0 / 0 are taken as 0.
    # At x > 0 = y the loss is infinite and so is its slope in y: that one is left as it is.
    (x, y), (x_dot, y_dot) = primals, tangents
    log_y = jnp.log(jnp.where(y == 0.0, 1.0, y))
    ratio = x / jnp.where((x == 0.0) & (y == 0.0), 1.0, y)
    return x_log_y(x, y), log_y * x_dot + ratio * y_dot


@jax.custom_jvp
def times(weight: Array, value: Array) -> Array:
    """Returns weight * value, and 0 where the weight is 0 though the value be infinite."""
    return jnp.where((weight == 0.0) & jnp.isinf(value), 0.0, weight * value)


@times.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (weight, value), (weight_dot, value_dot) = primals, tangents
    finite = jnp.where(jnp.isinf(value), 0.0, value)
    return times(weight, value), finite * weight_dot + weight * value_dot


def relative_expm1(x: Array) -> Array:
    """Returns (exp(x) - 1) / x, which is 1 at x = 0; exact with all its derivatives."""
    near = jnp.abs(x) < 0.25
    small, large = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
    series = jnp.ones_like(x)
    for n in range(13, 1, -1):  # the first term left out is below 1e-18
        series = 1.0 + small / n * series
    return jnp.where(near, series, jnp.expm1(large) / large)


def relative_log1p(x: Array) -> Array:
    """Returns log(1 + x) / x, which is 1 at x = 0; exact with all its derivatives."""
    near = jnp.abs(x) < 0.2
    small, large = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
    # log(1 + x) = 2 artanh(u) with u = x / (2 + x), whose series converges four times as fast.
    square = (small / (2.0 + small)) ** 2
    series = jnp.zeros_like(x)
    for n in range(17, -1, -2):  # u^2 <= 1/81: the first term left out is below 1e-18
        series = 1.0 / n + square * series
    return jnp.where(near, 2.0 / (2.0 + small) * series, jnp.log1p(large) / large)


def log1p_of_share(u: Array) -> Array:
    """Returns log(1 + u) for 0 <= u <= 1, on CPUs in less than a third of `jnp.log1p`'s time."""
    # log(1 + u) = 2 artanh(v) with v = u / (2 + u) <= 1/3: products alone, which are vectorised.
    v = u / (2.0 + u)
    square, series = v * v, jnp.zeros_like(u)
    terms = 7 if u.dtype.itemsize <= 4 else 16  # the first left out is below a quarter of an ulp
    for n in range(2 * terms - 1, 0, -2):
        series = 1.0 / n + square * series
    return 2.0 * v * series
