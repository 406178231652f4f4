"""How tokens are divided into chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import xent_jax as xent
from tests.linear_xent import test_distillation as distillation
from tests.linear_xent.plain import linear_cross_entropy, problem
from tests.linear_xent.test_api import close
from xent_jax.linear_xent import blocks


@pytest.mark.parametrize("tokens", [0, 1, 2, 127, 128, 129, 1000, 4096, 4097, 65536])
@pytest.mark.parametrize("classes", [1, 1000, 262_144])
def test_chunks_hold_a_small_part_with_little_padding(tokens, classes):
    rows = blocks.rows_per_chunk(tokens, classes)
    chunks = -(-tokens // rows)
    assert chunks * rows - tokens < max(chunks, 1)
    assert rows <= max(blocks.FEWEST, tokens // blocks.SHARE)
    assert rows <= blocks.FEWEST or rows * classes * 4 <= blocks.MEASURED["cpu"].largest


def test_the_usual_numbers_of_tokens_need_no_padding():
    for tokens in (256, 1024, 2048, 4096, 3 * 4096, 16384):
        for classes in (1000, 32000, 50257, 128_256):
            assert tokens % blocks.rows_per_chunk(tokens, classes) == 0


def test_a_device_that_was_not_measured_has_the_fallback(monkeypatch):
    assert blocks.classes_per_product() == blocks.MEASURED["cpu"].columns
    monkeypatch.setattr(blocks, "MEASURED", {"cpu": blocks.Blocks(2**20, 7)})
    assert blocks.rows_per_chunk(4096, 1024) == 256
    assert blocks.classes_per_product() == 7
    monkeypatch.setattr(blocks, "MEASURED", {})
    assert blocks.rows_per_chunk(4096, 1024) == 512
    assert blocks.classes_per_product() is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize(("columns", "classes"), [(8, 37), (8, 32), (None, 37)])
def test_the_weights_gradient_is_added_up_class_by_class(
    monkeypatch, dtype, tolerance, columns, classes
):
    monkeypatch.setattr(blocks, "MEASURED", {"cpu": blocks.Blocks(2**20, columns)})
    random = np.random.default_rng(3)
    hidden = jnp.asarray(random.normal(size=(300, 5)), dtype)  # three chunks
    labels = random.integers(0, classes, 300)
    weights = jnp.asarray(random.normal(size=(classes, 5)), dtype)  # four blocks of 8, and the rest

    def total(weights):
        return xent.linear_softmax_cross_entropy_sum(hidden, weights, labels)[0]

    expected = linear_cross_entropy(hidden, weights, labels).weights
    found = np.asarray(jax.jit(jax.grad(total))(weights), np.float64)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_class_by_class_under_transformations(monkeypatch):
    monkeypatch.setattr(blocks, "MEASURED", {"cpu": blocks.Blocks(2**20, 4)})
    monkeypatch.setattr(blocks, "FEWEST", 2)
    hidden, weights, labels, _ = (jnp.asarray(x) for x in (*problem(16, 3, 11)[:3], 0))
    expected = linear_cross_entropy(hidden, weights, labels).weights

    def total(weights, hidden, labels):
        return xent.linear_softmax_cross_entropy_sum(hidden, weights, labels)[0]

    mapped = jax.jit(jax.vmap(jax.grad(total), (None, 0, 0)))
    close(mapped(weights, hidden.reshape(2, 8, 3), labels.reshape(2, 8)).sum(0), expected)

    def squared_norm(scale):
        return jnp.sum(jax.grad(lambda w: scale * total(w, hidden, labels))(weights) ** 2)

    close(jax.jit(jax.grad(squared_norm))(1.5), 3.0 * np.sum(expected**2))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def divided(*arguments):
        return jax.lax.psum(total(*arguments), "data")

    over = jax.shard_map(divided, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    close(jax.jit(jax.grad(over))(weights, hidden, labels), expected)


def test_class_by_class_in_a_distillation(monkeypatch):
    monkeypatch.setattr(blocks, "MEASURED", {"cpu": blocks.Blocks(2**20, 4)})
    monkeypatch.setattr(blocks, "FEWEST", 2)
    arguments = distillation.models(5, 11)
    gradient = jax.jit(jax.grad(lambda *a: xent.linear_distillation(*a).sum(), 1))(*arguments)
    close(gradient, distillation.plain(*arguments)[2])
