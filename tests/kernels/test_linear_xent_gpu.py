"""The sums of logits that never exist: interpreted here, lowered for a GPU, run on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent_jax.kernels import linear_xent_gpu as kernel
from xent_jax.kernels import mosaic_gpu
from xent_jax.kernels.linear_xent_gpu import linear_sums


def check(tokens, classes, depth, dtype=jnp.bfloat16, scale=1.0):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(scale * rng.normal(size=(tokens, depth)), dtype)
    weights = jnp.asarray(rng.normal(size=(classes, depth)), dtype)
    labels = rng.integers(0, classes, tokens).astype(np.int32)
    z = np.asarray(hidden, np.float64) @ np.asarray(weights, np.float64).T
    largest = z.max(-1)
    total = np.exp(z - largest[:, None]).sum(-1)
    right = largest, total, z[np.arange(tokens), labels]
    for actual, expected in zip(jax.jit(linear_sums)(hidden, weights, labels), right, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5 * scale, atol=1e-5 * depth**0.5)


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="JAX interprets no transposed tiles")
@pytest.mark.parametrize(
    ("tokens", "classes", "depth", "scale", "groups"),
    [(1, 1, 5, 1.0, 1), (130, 300, 130, 1.0, 2), (3, 129, 64, 100.0, 1)],
)
def test_awkward_sizes_are_exact(monkeypatch, tokens, classes, depth, scale, groups):
    monkeypatch.setattr(mosaic_gpu, "INTERPRET", True)
    monkeypatch.setattr(kernel, "GROUPS", groups)
    monkeypatch.setattr(kernel, "SLOTS", 2)
    monkeypatch.setattr(kernel, "PROCESSORS", 4)  # thus shares of two tiles, and of one
    check(tokens, classes, depth, scale=scale)


@pytest.mark.parametrize("tokens", [1, 4096])
@pytest.mark.parametrize(("classes", "depth"), [(1, 1), (50257, 768), (128256, 4096)])
def test_lowers_for_a_gpu(tokens, classes, depth):
    dtype = jnp.float16 if tokens == 1 else jnp.bfloat16
    shapes = ((tokens, depth), dtype), ((classes, depth), dtype), ((tokens,), jnp.int32)
    shapes = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    program = jax.jit(linear_sums).trace(*shapes).lower(lowering_platforms=("cuda",))
    assert program.as_text().count("custom_call @mosaic_gpu") == 1


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (300, 1000, 130), (257, 50257, 768)])
def test_on_a_gpu(shape, dtype):
    check(*shape, dtype=dtype)
