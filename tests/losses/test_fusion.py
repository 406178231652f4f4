"""What `xent_jax/losses/fusion.py` returns, and that it saves the memory it is there for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from xent_jax.losses.fusion import apart, at_least, finite, possible, recomputed, written
from xent_jax.losses.logarithms import log1p_of_share


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p_of_share_is_as_good_as_that_of_jax(dtype):
    u = np.exp(-np.linspace(0, 80, 100_001)).astype(dtype)
    u = np.concatenate([u, np.array([0, 1, 4 * np.finfo(dtype).tiny], dtype)])
    with jax.enable_x64(True):
        ours = np.asarray(jax.jit(log1p_of_share)(u), np.longdouble)
    expected = np.log1p(u.astype(np.longdouble))
    ulps = np.abs(ours - expected) / np.spacing(expected.astype(dtype))
    assert ulps.max() < 3


def test_possible_and_finite_at_the_edges():
    logits = jnp.array([-jnp.inf, -1e30, 0.0, 1e30, jnp.nan])
    np.testing.assert_array_equal(possible(logits), [0, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(finite(logits)[1:], logits[1:])
    assert jnp.isfinite(1e30 - finite(logits)[0])
    np.testing.assert_array_equal(jax.grad(lambda z: finite(z).sum())(logits)[:4], [0, 1, 1, 1])


def test_what_changes_no_number():
    numbers = jnp.array([-jnp.inf, -3.0, 0.0, 2.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(written(numbers), numbers)
    np.testing.assert_array_equal(jax.grad(lambda x: written(x).sum())(numbers), np.ones(6))
    np.testing.assert_array_equal(apart(numbers[1:4], 2), numbers[1:4])
    np.testing.assert_array_equal(at_least(numbers, jnp.float32(0.0))[1:4], [0, 0, 2])


def test_recomputed_has_the_derivatives_of_its_function():
    def plain(x, y):
        return jnp.exp(x) * y**2

    x, y = jnp.array([0.5, -1.0]), jnp.array([2.0, 3.0])
    for derivative in (
        jax.jacfwd,
        jax.jacrev,
        lambda f, args: jax.jacfwd(jax.jacrev(f, args), args),
    ):
        expected = jax.jit(derivative(plain, (0, 1)))(x, y)
        got = jax.jit(derivative(recomputed(plain), (0, 1)))(x, y)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)
    mapped, right = (jax.jit(jax.vmap(f, (0, None)))(x, y) for f in (recomputed(plain), plain))
    np.testing.assert_allclose(mapped, right, rtol=1e-6)


def test_recomputed_leaves_out_what_does_not_move():
    product = recomputed(lambda x, y: x * y)
    x, infinite = jnp.float32(0.0), jnp.float32(jnp.inf)
    assert jax.jvp(lambda y: product(y, x), (infinite,), (jnp.float32(1.0),))[1] == 0.0
    assert jax.grad(product)(x, jnp.float32(3.0)) == 3.0


ELEMENTS = {
    "sigmoid_binary_cross_entropy": 1,
    "sigmoid_focal_loss": 1,
}
EXAMPLES = {"normalized_cross_entropy": 0, "normalized_generalized_cross_entropy": 0}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="compilers of accelerators fuse more")
@pytest.mark.parametrize(("name", "arrays"), [*ELEMENTS.items(), *EXAMPLES.items()])
def test_memory_in_arrays_of_the_logits_size(name, arrays):
    loss, logits = getattr(xent, name), jnp.zeros((512, 1000))
    labels = jnp.zeros((512, 1000) if name in ELEMENTS else 512, jnp.int32)
    both = jax.jit(jax.value_and_grad(lambda z, y: loss(z, y).sum()))
    memory = both.lower(logits, labels).compile().memory_analysis()
    assert memory.temp_size_in_bytes < (arrays + 0.5) * logits.size * 4
