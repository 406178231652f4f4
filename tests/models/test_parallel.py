"""Whole models: the same loss, gradients and statistics however a batch, or a study, is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax import models
from xent_jax.models.cnn import CNN

SHAPE, SIZE, DEVICES = (4, 4, 1), 16, 8


def dropout_mlp(rngs, axis_name):
    return models.create(
        "mlp",
        num_classes=3,
        image_shape=SHAPE,
        rngs=rngs,
        axis_name=axis_name,
        hidden=(16, 8),
        dropout=0.5,
    )


def batch_norm_cnn(rngs, axis_name):
    return CNN(3, SHAPE, [[4]], 8, rngs, axis_name, "float32")


def pure(make, axis_name=None):
    """The share of the masked mean loss, its gradient and the new statistics, as in training."""
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0), axis_name))
    graphdef, *_ = nnx.split(model, nnx.Param, nnx.BatchStat)

    def run(params, stats, images, mask, keys):
        count = mask.sum(dtype=jnp.float32)
        count = count if axis_name is None else jax.lax.psum(count, axis_name)

        def loss(params):
            model = nnx.merge(graphdef, params, stats)
            logits = model(images, train=True, mask=mask, keys=keys)
            losses = -jax.nn.log_softmax(logits)[:, 1]
            new_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return jnp.where(mask, losses, 0.0).sum() / count, new_stats

        return jax.value_and_grad(loss, has_aux=True)(params)

    return run


def initial_state(make, seed):
    _, *states = nnx.split(make(nnx.Rngs(seed), None), nnx.Param, nnx.BatchStat)
    return [nnx.to_pure_dict(s) for s in states]


@pytest.mark.parametrize("make", [dropout_mlp, batch_norm_cnn])
def test_mesh_pmap_and_vmap_agree_with_one_device(make):
    rng = np.random.default_rng(0)
    states = jax.jit(lambda: [initial_state(make, seed) for seed in (1, 2)])()
    images = rng.normal(size=(SIZE, *SHAPE)).astype(np.float32)
    mask = np.arange(SIZE) < 11  # two devices hold padding alone, another one some
    batch = images, mask, jax.random.split(jax.random.key(0), SIZE)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731

    single = jax.jit(pure(make))
    expected = [single(*state, *batch) for state in states]

    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = single(*states[0], *jax.device_put(batch, NamedSharding(mesh, P("data"))))
    jax.tree.map(same, sharded, expected[0])

    split = jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), batch)
    mapped = jax.pmap(pure(make, "data"), "data", in_axes=(None, None, 0, 0, 0))
    (loss, stats), gradient = mapped(*states[0], *split)
    summed = jax.tree.map(lambda a: np.asarray(a).sum(0), (loss, gradient))
    jax.tree.map(same, summed, (expected[0][0][0], expected[0][1]))
    for device in (0, DEVICES - 1):
        jax.tree.map(lambda a, b, d=device: same(a[d], b), stats, expected[0][0][1])

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    runs = jax.jit(jax.vmap(pure(make), in_axes=(0, 0, None, None, None)))(*stacked, *batch)
    for i in (0, 1):
        jax.tree.map(lambda a, b, i=i: same(a[i], b), runs, expected[i])
