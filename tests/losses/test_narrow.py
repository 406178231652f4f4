"""Logits of half precision: the numbers of float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import xent_jax as xent
from xent_jax.kernels import conversion

DTYPES = (jnp.bfloat16, jnp.float16)
ALONG = {"in_specs": P("i"), "out_specs": P("i")}


def given(dtype, shape=(10, 5)):
    random = np.random.default_rng(0)
    logits = jnp.asarray(3.0 * random.standard_normal(shape), dtype)
    return logits, jnp.asarray(random.integers(0, shape[-1], shape[:-1]), jnp.int32)


def mean(logits, labels, **options):
    return jnp.sum(xent.softmax_cross_entropy_with_integer_labels(logits, labels, **options)) / 7.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(10, 5), (2, 3, 5), (5,), (1, 17)])
def test_losses_and_gradients_are_those_of_float32(dtype, shape):
    logits, labels = given(dtype, shape)
    logits = logits.at[..., 1].set(-jnp.inf)
    both = jax.jit(jax.value_and_grad(mean))
    loss, gradient = both(logits, labels)
    expected, wide = both(logits.astype(jnp.float32), labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, wide.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_weights_and_labels_outside(dtype):
    logits, labels = given(dtype)
    logits, labels = logits.at[0].set(jnp.nan), labels.at[0].set(77).at[1].set(5)
    where, weights = jnp.arange(10) != 0, jnp.linspace(0.7, 1.3, 5)

    @jax.jit
    def losses(logits):
        return xent.softmax_cross_entropy_with_integer_labels(
            logits, labels, where=where, class_weights=weights
        )

    values, pull = jax.vjp(losses, logits)
    expected = losses(logits.astype(jnp.float32))
    assert values[0] == 0.0
    assert jnp.isnan(values[1])
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    (gradient,) = pull(jnp.ones(10))
    assert not gradient[0].any()
    assert jnp.isnan(gradient[1]).all()
    assert jnp.isfinite(gradient[2:]).all()


def test_forward_and_second_derivatives_and_vmap():
    logits, labels = given(jnp.bfloat16, (4, 5))
    direction = logits[::-1]

    @jax.jit
    @jax.value_and_grad
    def slope_and_curve(z):
        # In float32 from here on, for the gradient itself is rounded to half precision.
        return jax.jvp(lambda z: mean(z, labels), (z,), (direction.astype(z.dtype),))[1]

    slope, curve = slope_and_curve(logits)
    expected, wide_curve = slope_and_curve(logits.astype(jnp.float32))
    np.testing.assert_allclose(slope, expected, rtol=1e-5)
    np.testing.assert_allclose(curve.astype(jnp.float32), wide_curve, rtol=1e-2, atol=1e-4)
    stacked = jnp.stack([logits, logits[::-1]])
    mapped = jax.jit(jax.vmap(jax.grad(mean), in_axes=(0, None)))(stacked, labels)
    np.testing.assert_array_equal(mapped[1], jax.jit(jax.grad(mean))(stacked[1], labels))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA does on CPUs")
def test_no_array_of_the_logits_size_is_kept():
    logits, labels = given(jnp.bfloat16, (2048, 512))
    compiled = jax.jit(jax.grad(mean)).lower(logits, labels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.05 * 2048 * 512 * 2


def test_float32_is_rounded_to_the_nearest_bfloat16():
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32)
    halves = np.uint32([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001])  # between two, and beside
    every = np.concatenate([bits, halves, halves | 0x80000000]).view(np.float32)
    largest = np.finfo(np.float32).max
    every = np.append(every, np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, largest, -largest]))
    with np.errstate(all="ignore"):
        expected = every.astype(jnp.bfloat16)
    rounded = np.asarray(conversion.convert(every, dtype=jnp.bfloat16))
    number = ~np.isnan(every)
    np.testing.assert_array_equal(rounded.view(np.uint16)[number], expected.view(np.uint16)[number])
    assert np.isnan(rounded[~number].astype(np.float32)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_conversions_are_transposed_and_mapped_as_they_are_made(dtype):
    every = jax.lax.bitcast_convert_type(jnp.arange(65536, dtype=jnp.uint16), dtype)
    widen = functools.partial(conversion.convert, dtype=jnp.float32)
    wide, narrowed = jax.vjp(jax.vmap(widen), every.reshape(256, 256))
    np.testing.assert_array_equal(wide.ravel(), every.astype(jnp.float32))
    (back,) = narrowed(wide)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.ravel().astype(jnp.float32), wide.ravel())
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    shared = jax.shard_map(jax.grad(lambda z: widen(z).sum()), mesh=mesh, **ALONG)
    assert (shared(every) == 1).all()
