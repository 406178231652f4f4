"""The hand-derived gradient of a convolution is that of `jax.lax`, for all sizes and strides."""

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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rule serves CPU")
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_lax(case: str) -> None:
    height, width, kernel, strides, padding = CASES[case]
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(3, height, width, 2)), jnp.float32)
    w = jnp.asarray(random.normal(size=(*kernel, 2, 4)), jnp.float32)
    ours, our_pullback = jax.vjp(lambda x, w: convolution(x, w, strides, padding), x, w)
    theirs, their_pullback = jax.vjp(
        lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=LAYOUT),
        x,
        w,
    )
    np.testing.assert_array_equal(ours, theirs)
    g = jnp.asarray(random.normal(size=ours.shape), jnp.float32)
    for ours, theirs in zip(our_pullback(g), their_pullback(g), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
