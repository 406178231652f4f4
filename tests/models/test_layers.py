"""Batch normalisation against its formula in float64, dropout against its law, pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax.errors import UserError
from xent_jax.models.layers import BatchNorm, avg_pool, dropout, max_pool

FEATURES = 4


def batch_of(rng, size=16):
    """Features far from 0, where E[x^2] - E[x]^2 has hardly a correct digit left in float32."""
    x = rng.normal(size=(size, 3, 2, FEATURES)) * [1.0, 0.1, 3.0, 1.0] + [0.0, 100.0, -50.0, 2.0]
    return x.astype(np.float32), rng.random(size) < 0.7


def state_of(rng):
    scale, variance = rng.uniform(0.5, 2.0, size=(2, FEATURES)).astype(np.float32)
    bias, mean = rng.normal(size=(2, FEATURES)).astype(np.float32)
    return {"scale": scale, "bias": bias}, {"mean": mean, "variance": variance}


def normalise(params, stats, x, mask, train=True, axis_name=None):
    """Batch normalisation as a pure function: the result and the new running statistics."""
    graphdef, *_ = nnx.split(BatchNorm(FEATURES, axis_name=axis_name), nnx.Param, nnx.BatchStat)
    layer = nnx.merge(graphdef, params, stats)
    y = layer(x, train=train, mask=mask)
    return y, nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat))


def pullback(params, stats, x, mask, cotangent, axis_name=None):
    """The result, the new statistics and the gradients of sum(cotangent * result)."""

    def weighted_sum(params, x):
        y, new_stats = normalise(params, stats, x, mask, axis_name=axis_name)
        return (cotangent * y).sum(), (y, new_stats)

    gradients, (y, new_stats) = jax.grad(weighted_sum, (0, 1), has_aux=True)(params, x)
    return y, new_stats, gradients


def reference(params, stats, x, mask, cotangent):
    """The same by the formulas, in float64. The gradient is Ioffe & Szegedy's, Section 3."""
    x, cotangent = np.asarray(x, np.float64), np.asarray(cotangent, np.float64)
    counted = x[mask].reshape(-1, FEATURES)
    mean, variance = counted.mean(0), counted.var(0)
    inverse = 1 / np.sqrt(variance + 1e-5)
    normal = (x - mean) * inverse
    y = normal * params["scale"] + params["bias"]
    new_stats = {
        "mean": 0.9 * stats["mean"] + 0.1 * mean,
        "variance": 0.9 * stats["variance"] + 0.1 * counted.var(0, ddof=1),
    }
    total = cotangent.sum((0, 1, 2))
    total_normal = (cotangent * normal).sum((0, 1, 2))
    through_batch = (total + normal * total_normal) / len(counted) * mask[:, None, None, None]
    return (
        y,
        new_stats,
        (
            {"scale": total_normal, "bias": total},
            params["scale"] * inverse * (cotangent - through_batch),
        ),
    )


def test_batch_norm_is_the_formula_on_one_device_a_mesh_and_pmap():
    rng = np.random.default_rng(0)
    (x, mask), (params, stats) = batch_of(rng), state_of(rng)
    mask[2:4] = False  # the whole share of one of 8 devices
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    expected = reference(params, stats, x, mask, cotangent)
    inputs = (params, stats, x, mask, cotangent)

    single = jax.jit(pullback)(*inputs)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = [jax.device_put(a, NamedSharding(mesh, P("data"))) for a in inputs[2:]]
    sharded = jax.jit(pullback)(params, stats, *spread)
    split = [a.reshape(8, 2, *a.shape[1:]) for a in inputs[2:]]
    y, new_stats, (in_params, in_x) = jax.pmap(
        lambda *args: pullback(*args, axis_name="data"), "data", in_axes=(None, None, 0, 0, 0)
    )(params, stats, *split)
    # Every device holds the same statistics, and its share of the parameters' gradient.
    mapped = (
        y.reshape(x.shape),
        jax.tree.map(lambda s: s[5], new_stats),
        (jax.tree.map(lambda g: g.sum(0), in_params), in_x.reshape(x.shape)),
    )
    # Feature 1 has mean 100 and deviation 0.1: a few roundings of the mean, 8e-6 each, are 3e-4
    # of a deviation, while one pass would miss the variance by a tenth.
    loose, tight = [1], [0, 2, 3]
    for got in (single, sharded, mapped):
        for features, tolerance in ((tight, 2e-5), (loose, 1e-3)):
            jax.tree.map(
                lambda a, b, f=features, t=tolerance: np.testing.assert_allclose(
                    a[..., f], b[..., f], rtol=t, atol=t
                ),
                got,
                expected,
            )


def test_batch_norm_without_a_mask_counts_everything():
    rng = np.random.default_rng(1)
    (x, mask), state = batch_of(rng), state_of(rng)
    whole, masked = jax.jit(
        lambda x, mask: (normalise(*state, x, None), normalise(*state, x, mask))
    )(x, np.ones_like(mask))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), whole, masked)


def test_padding_changes_nothing_for_the_others():
    rng = np.random.default_rng(2)
    (x, mask), state = batch_of(rng), state_of(rng)
    other = np.where(mask[:, None, None, None], x, np.float32(1e6))
    run = jax.jit(lambda x: normalise(*state, x, mask))
    (y, stats), (y_other, stats_other) = run(x), run(other)
    np.testing.assert_array_equal(y[mask], y_other[mask])
    jax.tree.map(np.testing.assert_array_equal, stats, stats_other)


def test_a_batch_of_padding_is_harmless():
    rng = np.random.default_rng(3)
    (x, mask), (params, stats) = batch_of(rng), state_of(rng)
    y, new_stats, gradients = jax.jit(pullback)(params, stats, x, np.zeros_like(mask), x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, gradients)))
    jax.tree.map(np.testing.assert_array_equal, new_stats, stats)


def test_one_counted_value_has_a_finite_running_variance():
    params, stats = state_of(np.random.default_rng(4))
    x = jnp.ones((2, 1, 1, FEATURES))
    _, new_stats = normalise(params, stats, x, jnp.array([True, False]))
    np.testing.assert_allclose(new_stats["variance"], 0.9 * stats["variance"], rtol=1e-6)


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    rng = np.random.default_rng(5)
    (x, mask), (params, stats) = batch_of(rng), state_of(rng)
    y, new_stats = normalise(params, stats, jnp.asarray(x), mask, train=False)
    inverse = params["scale"] / np.sqrt(stats["variance"] + 1e-5)
    np.testing.assert_allclose(y, (x - stats["mean"]) * inverse + params["bias"], rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, new_stats, stats)


def test_batch_norm_of_bfloat16_has_float32_statistics():
    rng = np.random.default_rng(6)
    (x, mask), (params, stats) = batch_of(rng), state_of(rng)
    run = jax.jit(lambda x: normalise(params, stats, x, mask))
    y, new_stats = run(jnp.asarray(x, jnp.bfloat16))
    y32, new_stats32 = run(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, y32.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, new_stats, new_stats32)


def test_batch_norm_of_flat_features():
    rng = np.random.default_rng(7)
    (x, mask), state = batch_of(rng), state_of(rng)
    flat, _ = normalise(*state, jnp.asarray(x[:, 0, 0]), mask)
    image, _ = normalise(*state, jnp.asarray(x[:, :1, :1]), mask)
    np.testing.assert_allclose(flat, image[:, 0, 0], rtol=1e-6)


def test_dropout_keeps_the_mean_and_the_rate():
    keys, x = jax.random.split(jax.random.key(0), 100), jnp.ones((100, 200))
    y = jax.jit(lambda keys, x: dropout(x, keys, rate=0.3, layer=0))(keys, x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    # 20,000 draws: the share kept has a deviation of 0.0032.
    assert abs(float((y > 0).mean()) - 0.7) < 0.013
    assert len({row.tobytes() for row in np.asarray(y)}) == 100  # every example has its own mask


def test_dropout_depends_on_the_examples_key_alone():
    keys, x = jax.random.split(jax.random.key(0), 16), jnp.ones((16, 5, 3))
    run = jax.jit(lambda keys, x: dropout(x, keys, rate=0.5, layer=0))
    y = run(keys, x)
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(run(keys[order], x), y[order])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shard = NamedSharding(mesh, P("data"))
    np.testing.assert_array_equal(run(jax.device_put(keys, shard), jax.device_put(x, shard)), y)
    mapped = jax.pmap(lambda keys, x: dropout(x, keys, rate=0.5, layer=0))
    np.testing.assert_array_equal(
        mapped(keys.reshape(8, 2), x.reshape(8, 2, 5, 3)).reshape(x.shape), y
    )


def test_layers_draw_their_own_masks():
    keys, x = jax.random.split(jax.random.key(0), 4), jnp.ones((4, 50))
    first, second = (dropout(x, keys, rate=0.5, layer=i) for i in (0, 1))
    assert 0.3 < float((first == second).mean()) < 0.7


def test_dropout_of_rate_0_is_the_identity_and_needs_no_keys():
    x = jnp.ones((4, 3))
    assert dropout(x, None, rate=0.0, layer=0) is x


def test_dropout_without_keys_says_what_to_pass():
    with pytest.raises(UserError, match="pass keys=, one per example"):
        dropout(jnp.ones((4, 3)), None, rate=0.5, layer=0)


def test_max_pool_lets_nan_through():
    x = jnp.zeros((4, 2, 2, 1)).reshape(4, 4).at[jnp.arange(4), jnp.arange(4)].set(jnp.nan)
    assert jnp.isnan(max_pool(x.reshape(4, 2, 2, 1))).all()


@pytest.mark.parametrize(("pool", "reduce"), [(max_pool, np.max), (avg_pool, np.mean)])
def test_pooling_over_2x2_windows(pool, reduce):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = np.array(
        [[reduce(x[:, i : i + 2, j : j + 2], (1, 2)) for j in (0, 2, 4)] for i in (0, 2)]
    )
    np.testing.assert_allclose(pool(jnp.asarray(x)), expected.transpose(2, 0, 1, 3), rtol=1e-6)
