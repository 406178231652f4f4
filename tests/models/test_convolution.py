"""Every form of a convolution is that of `jax.lax` in value and gradients, alone and mapped."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent_jax.models.convolution import convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")
CASES = {
    # height, width, kernel, strides, padding
    "same": (6, 5, (3, 3), (1, 1), "SAME"),
    "valid": (7, 9, (5, 3), (1, 1), "VALID"),
    "stride 2": (8, 7, (3, 3), (2, 2), [(1, 1), (1, 1)]),
    "a stride that leaves a rest": (8, 10, (3, 2), (3, 2), [(0, 0), (0, 0)]),
    "uneven padding": (5, 6, (2, 4), (2, 1), [(0, 1), (3, 0)]),
    "one by one": (4, 4, (1, 1), (2, 2), [(0, 0), (0, 0)]),
}
OURS = ("in turn", "patches")
LAX = partial(convolution, form="xla", dimension_numbers=LAYOUT)


def drawn(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)


def same_as_lax(function: Callable[..., Any], x: jax.Array, w: jax.Array) -> None:
    """Asserts that a function of a convolution, x and w is one of what the convolution computes."""

    @jax.jit
    def results(x: jax.Array, w: jax.Array) -> list[Any]:
        forms = (*(partial(convolution, form=form) for form in OURS), LAX)
        return [jax.tree.leaves(function(convolve, x, w)) for convolve in forms]

    *ours, theirs = results(x, w)
    for form, arrays in zip(OURS, ours, strict=True):
        for a, b in zip(arrays, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-5, err_msg=form)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_lax(case: str) -> None:
    height, width, kernel, strides, padding = CASES[case]

    def pulled_back(convolve: Callable[..., jax.Array], x: jax.Array, w: jax.Array) -> Any:
        y, pullback = jax.vjp(lambda x, w: convolve(x, w, strides, padding), x, w)
        return y, pullback(jnp.sin(y))

    same_as_lax(pulled_back, drawn(3, height, width, 2), drawn(*kernel, 2, 4))


@pytest.mark.parametrize("case", ["stride 2", "uneven padding"])
def test_a_gradient_of_a_gradient_is_that_of_lax(case: str) -> None:
    height, width, kernel, strides, padding = CASES[case]

    def step(convolve: Callable[..., jax.Array], x: jax.Array, w: jax.Array) -> jax.Array:
        """As MAML does: the loss after a step by the gradient."""

        def loss(w: jax.Array) -> jax.Array:
            return jnp.sin(convolve(x, w, strides, padding)).sum()

        return loss(w - 0.1 * jax.grad(loss)(w))

    gradients = jax.grad(step, (1, 2))
    same_as_lax(gradients, drawn(2, height, width, 1), drawn(*kernel, 1, 2))


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 3)])
def test_mapped_over_images_and_kernels_it_is_that_of_lax(axes: Any) -> None:
    height, width, kernel, strides, padding = CASES["stride 2"]
    shapes = [3, height, width, 2], [*kernel, 2, 4]
    for shape, axis in zip(shapes, axes, strict=True):
        if axis is not None:
            shape.insert(axis, 2)

    def mapped(convolve: Callable[..., jax.Array], x: jax.Array, w: jax.Array) -> Any:
        def energy(x: jax.Array, w: jax.Array) -> jax.Array:
            return (convolve(x, w, strides, padding) ** 2).sum()

        inside = jax.vmap(jax.value_and_grad(energy, (0, 1)), axes)(x, w)
        return inside, jax.grad(lambda x, w: jax.vmap(energy, axes)(x, w).sum(), (0, 1))(x, w)

    same_as_lax(mapped, *(drawn(*shape) for shape in shapes))


def test_mapped_over_kernels_there_is_no_grouped_convolution_on_cpu() -> None:
    def energy(x: jax.Array, w: jax.Array) -> jax.Array:
        return (convolution(x, w, (1, 1), "SAME", form="in turn") ** 2).sum()

    gradient = jax.vmap(jax.vmap(jax.grad(energy, (0, 1))))
    program = str(jax.make_jaxpr(gradient)(drawn(2, 3, 4, 5, 5, 1), drawn(2, 3, 3, 3, 1, 2)))
    assert program.count("conv_general_dilated") >= 3
    for groups in ("feature_group_count", "batch_group_count"):
        assert program.count(f"{groups}=") == program.count(f"{groups}=1")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends have XLA's")
@pytest.mark.parametrize(
    ("kernel", "form"), [((5, 5, 6, 16), "patches"), ((3, 3, 1, 32), "in turn")]
)
def test_the_form_is_the_one_that_is_fast_on_cpu(kernel: tuple[int, ...], form: str) -> None:
    x, w = drawn(2, 7, 7, kernel[2]), drawn(*kernel)

    def program(**chosen: str) -> str:
        convolve = partial(convolution, strides=(1, 1), padding="SAME", **chosen)
        return str(jax.make_jaxpr(convolve)(x, w)).split(" at 0x")[0]

    assert program() == program(form=form)
