"""How tokens are divided into chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.linear_xent.plain import linear_cross_entropy
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
@pytest.mark.parametrize("columns", [8, 37, None])
def test_the_weights_gradient_is_added_up_class_by_class(monkeypatch, dtype, tolerance, columns):
    monkeypatch.setattr(blocks, "MEASURED", {"cpu": blocks.Blocks(2**20, columns)})
    random = np.random.default_rng(3)
    hidden = jnp.asarray(random.normal(size=(300, 5)), dtype)  # three chunks
    labels = random.integers(0, 37, 300)
    weights = jnp.asarray(random.normal(size=(37, 5)), dtype)  # four blocks of 8, and 5 classes

    def total(weights):
        return xent.linear_softmax_cross_entropy_sum(hidden, weights, labels)[0]

    expected = linear_cross_entropy(hidden, weights, labels).weights
    found = np.asarray(jax.jit(jax.grad(total))(weights), np.float64)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
