"""Masked, weighted and distributed means, and the mean of nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh, PartitionSpec

import xent_jax as xent

WHERE = np.array([True, False, True, True])


def test_counts_what_is_not_masked():
    losses = np.float32([1.0, np.nan, 2.0, 6.0])
    weights = np.float32([2.0, np.nan, 1.0, 1.0])
    assert xent.masked_sum(losses, where=WHERE) == 9.0
    assert xent.masked_mean(losses, where=WHERE) == 3.0
    assert xent.masked_sum(losses, where=WHERE, weights=weights) == 10.0
    assert xent.masked_mean(losses, where=WHERE, weights=weights) == 2.5
    np.testing.assert_array_equal(
        jax.grad(lambda x: xent.masked_mean(x, where=WHERE, weights=weights))(losses),
        np.float32([0.5, 0.0, 0.25, 0.25]),
    )


@pytest.mark.parametrize("reduction", [xent.masked_sum, xent.masked_mean])
def test_nothing_gives_zero_and_no_gradient(reduction):
    losses = np.float32([1.0, np.nan, np.inf, 6.0])
    value, gradients = jax.value_and_grad(
        lambda x, w: reduction(x, where=np.zeros(4, bool), weights=w), (0, 1)
    )(losses, np.ones(4, np.float32))
    assert value == 0.0
    assert not np.any(gradients)
    assert reduction(np.zeros(0, np.float32)) == 0.0
    assert not np.any(jax.grad(lambda x: reduction(x, weights=jnp.zeros(4)))(jnp.ones(4)))


def test_the_weighted_mean_is_torchs():
    # torch.nn.CrossEntropyLoss(weight=w): sum_i w[y_i] l_i / sum_i w[y_i]
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    labels, class_weights = np.array([0, 1, 2, 2, 1, 0]), np.float32([0.2, 1.0, 3.0])
    where = labels != 1  # its ignore_index
    loss = jax.jit(xent.softmax_cross_entropy_with_integer_labels, static_argnames="ignore_label")
    mean = xent.masked_mean(loss(logits, labels), where=where, weights=class_weights[labels])
    kept, weight = logits[where], class_weights[labels[where]]
    p = np.exp(kept) / np.exp(kept).sum(-1, keepdims=True)
    expected = (weight * -np.log(p[np.arange(4), labels[where]])).sum() / weight.sum()
    np.testing.assert_allclose(mean, expected, rtol=1e-6)

    by_number = xent.masked_mean(
        loss(logits, labels, class_weights=class_weights, ignore_label=1), where=where
    )
    np.testing.assert_allclose(by_number, expected * weight.sum() / 4, rtol=1e-6)


@given(
    losses=hnp.arrays(np.float32, 7, elements=st.floats(-100, 100, width=32)),
    where=hnp.arrays(bool, 7),
)
def test_is_the_mean_of_what_is_kept(losses, where):
    expected = np.mean(losses[where], dtype=np.float64) if where.any() else 0.0
    np.testing.assert_allclose(xent.masked_mean(losses, where=where), expected, 1e-5, 1e-4)


def test_accumulates_half_precision_in_float32():
    losses = jnp.full(3000, 1.0, jnp.bfloat16)
    total = xent.masked_sum(losses)
    assert total.dtype == jnp.float32
    assert total == 3000.0  # bfloat16 has 8 bits: 256 + 1 is 256
    with jax.enable_x64(True):
        assert xent.masked_mean(np.ones(3)).dtype == jnp.float64


def test_every_example_counts_the_same_over_devices():
    devices = jax.devices()[:4]
    if len(devices) < 4:
        pytest.skip("needs four devices")
    mesh = Mesh(np.array(devices), ("data",))
    losses = np.arange(12, dtype=np.float32)
    where = losses % 5 != 0  # a different number on each device

    def mean(losses, where):
        return xent.masked_mean(losses, where=where, axis_name="data")

    spec = PartitionSpec("data")
    sharded = jax.shard_map(mean, mesh=mesh, in_specs=(spec, spec), out_specs=PartitionSpec())
    value, gradient = jax.jit(jax.value_and_grad(sharded))(losses, where)
    np.testing.assert_allclose(value, losses[where].mean())
    np.testing.assert_allclose(gradient, where / where.sum())

    replicated = jax.pmap(mean, axis_name="data", devices=devices)(
        losses.reshape(4, 3), where.reshape(4, 3)
    )
    np.testing.assert_allclose(replicated, np.full(4, losses[where].mean()))


def test_arguments_that_do_not_fit_are_told():
    losses = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"where must have the losses' shape \(2, 3\), got \(2,\)"):
        xent.masked_mean(losses, where=np.ones(2, bool))
    with pytest.raises(ValueError, match="weights must have the losses' shape"):
        xent.masked_sum(losses, weights=np.ones(3, np.float32))
    with pytest.raises(TypeError):
        xent.masked_mean(losses, where=np.ones((2, 3), np.float32))
