"""The pass over logits that exist: interpreted here, lowered for a GPU, run on one."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent_jax.kernels import mosaic_gpu
from xent_jax.kernels import softmax_xent_gpu as kernel
from xent_jax.kernels.softmax_xent_gpu import Factors, softmax_cross_entropy_slopes

DTYPES = jnp.float32, jnp.bfloat16, jnp.float16


@pytest.fixture
def interpreter(monkeypatch):
    # Two warpgroups at most: the interpreter blocks a thread of the machine for each.
    monkeypatch.setattr(mosaic_gpu, "INTERPRET", True)
    monkeypatch.setattr(kernel, "GROUPS", 2)


def examples(rows, classes, dtype, scale=5.0, seed=0):
    rng = np.random.default_rng(seed)
    z = jnp.asarray(scale * rng.normal(size=(rows, classes)), dtype)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    factors = Factors(*rng.normal(size=(3, rows)).astype(np.float32))
    return z, labels, factors


def plain(z, labels, factors):
    """Returns slopes and sums in float64."""
    z, (a, b, c) = np.asarray(z, np.float64), factors
    largest = z.max(-1)
    exponentials = np.exp(z - largest[:, None])
    total = exponentials.sum(-1)
    scale = (b + c * (np.log(total) + largest)) / total
    is_label = np.arange(z.shape[1]) == labels[:, None]
    slopes = scale[:, None] * exponentials - a[:, None] * is_label
    return slopes, largest, total, z[np.arange(len(z)), np.maximum(labels, 0)]


def check(z, labels, factors, rtol=3e-6, **options):
    run = jax.jit(lambda *arrays: softmax_cross_entropy_slopes(*arrays, **options))
    slopes, sums = run(z, labels, factors)
    right, *right_sums = plain(z, labels, factors)
    for actual, expected in zip(sums, right_sums, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-6)
    error = np.abs(np.asarray(slopes, np.float64) - right).max()
    assert error <= rtol * np.abs(right).max()
    return slopes


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("rows", "classes", "dtype", "slopes"),
    [
        (7, 1, jnp.float32, jnp.float32),
        (1, 2, jnp.bfloat16, jnp.float32),
        (2, 129, jnp.float16, jnp.float32),
        (3, 1511, jnp.float32, jnp.bfloat16),
    ],
)
def test_awkward_sizes_and_dtypes_are_exact(rows, classes, dtype, slopes):
    rtol = 3e-6 if slopes == jnp.float32 else 4e-3
    check(*examples(rows, classes, dtype), rtol=rtol, dtype=slopes)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("slots", [pytest.param(8, marks=pytest.mark.slow), 2])
def test_rows_that_warpgroups_share_in_memory_and_read_again(monkeypatch, slots):
    def planned(*arguments):
        plan = dataclasses.replace(original(*arguments), rows=2, slots=slots)
        assert (plan.groups, plan.steps, plan.resident) == (2, 3, slots == 8)
        return plan

    original = kernel.planned
    monkeypatch.setattr(kernel, "planned", planned)
    check(*examples(3, 5000, jnp.float32), in_place=jax.__version_info__ >= (0, 11))


@pytest.mark.usefixtures("interpreter")
def test_edges():
    z, labels, factors = examples(5, 40, jnp.float32)
    factors = factors._replace(logsumexp=np.zeros(5, np.float32))
    z = z.at[0, :30].set(-jnp.inf).at[1, :].set(jnp.nan).at[2].set(-jnp.inf).at[3].multiply(1e4)
    labels[:2] = 3, -1
    slopes, sums = jax.jit(softmax_cross_entropy_slopes)(z, labels, factors)
    usual = np.array([0, 3, 4])
    right = plain(z[usual], labels[usual], Factors(*(factor[usual] for factor in factors)))[0]
    np.testing.assert_allclose(slopes[usual], right, rtol=1e-5, atol=1e-6)
    assert sums.at_label[0] == -jnp.inf
    assert jnp.all(slopes[0, np.r_[:3, 4:30]] == 0.0)  # cannot occur
    assert jnp.all(slopes[1] == 0.0)  # does not count
    assert jnp.all(jnp.isnan(slopes[2]))  # no class can occur
    empty, _ = softmax_cross_entropy_slopes(z[:0], labels[:0], Factors(*(x[:0] for x in factors)))
    assert empty.shape == (0, 40)


@pytest.mark.usefixtures("interpreter")
def test_mapped_rows_are_more_rows():
    z, labels, factors = examples(4, 130, jnp.float32)
    right, *_ = plain(z, labels, factors)
    arrays = jax.tree.map(
        lambda x: jnp.asarray(x).reshape(2, 2, *x.shape[1:]), (z, labels, factors)
    )
    slopes, _ = jax.jit(jax.vmap(softmax_cross_entropy_slopes))(*arrays)
    np.testing.assert_allclose(slopes.reshape(4, 130), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_row_is_cut_into_blocks_that_fit(dtype):
    for classes in (1, 1000, 32000, 50257, 65536, 128256, 262144):
        width = classes + -classes % kernel.line(dtype)
        plan = kernel.planned(4096, width, classes, dtype)
        block = plan.lines * plan.line
        assert (plan.steps - 1) * plan.groups * block < width <= plan.steps * plan.groups * block
        assert plan.groups * plan.slots <= kernel.BARRIERS
        size = block * jnp.dtype(dtype).itemsize
        assert plan.groups * (plan.slots + 2 * 2) * size <= 200 * 2**10  # of 227 KB
    assert kernel.planned(4096, 65536, 65536, jnp.bfloat16).resident
    assert not kernel.planned(4096, 128256, 128256, jnp.bfloat16).resident


def lowered(function, *shapes):
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    program = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",))
    return program.as_text()


def check_lowers(classes, dtype, slopes):
    def run(z, labels, *factors):
        return softmax_cross_entropy_slopes(z, labels, Factors(*factors), dtype=slopes)

    row = (100,), jnp.float32
    text = lowered(run, ((100, classes), dtype), ((100,), jnp.int32), row, row, row)
    assert text.count("custom_call @mosaic_gpu") == 1


@pytest.mark.parametrize(
    ("classes", "dtype", "slopes"),
    [
        (1, jnp.float16, jnp.float16),
        (50257, jnp.float32, jnp.bfloat16),
        (128256, jnp.bfloat16, jnp.bfloat16),
    ],
)
def test_lowers_for_a_gpu(classes, dtype, slopes):
    check_lowers(classes, dtype, slopes)


@pytest.mark.slow
@pytest.mark.parametrize("slopes", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 129, 1000, 32000, 65536, 262144])
def test_lowers_for_a_gpu_at_every_size_and_dtype(classes, dtype, slopes):
    check_lowers(classes, dtype, slopes)


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="copies before JAX 0.11")
def test_slopes_take_the_place_of_logits():
    def run(z, labels, *factors):
        return softmax_cross_entropy_slopes(z, labels, Factors(*factors), in_place=True)

    row = (9,), jnp.float32
    text = lowered(run, ((9, 1024), jnp.bfloat16), ((9,), jnp.int32), row, row, row)
    assert "output_operand_alias" in text


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 129, 1000, 32000, 50257, 128256, 262144])
def test_on_a_gpu(classes, dtype):
    rows = max(3, math.floor(2**24 / classes) % 5000)
    arrays = examples(rows, classes, dtype)
    for in_place in (False, True):
        check(*arrays, rtol=1e-5, dtype=jnp.float32, in_place=in_place)
    check(*arrays, rtol=1e-5 if dtype == jnp.float32 else 1e-2, in_place=True)
