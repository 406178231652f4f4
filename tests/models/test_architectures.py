"""Each family's forward pass against plain NumPy in float64, its start, and its gradients."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xent_jax import models
from xent_jax.models.cnn import CNN
from xent_jax.models.layers import he_normal
from xent_jax.models.resnet import ResNet


def relu(x):
    return np.maximum(x, 0.0)


def conv(x, layer, *, padding, stride=1):
    """Sums shifted images times the kernel's slices; the kernel is not flipped."""
    kernel = layer["kernel"]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = (x.shape[i + 1] - kernel.shape[i] + 1 for i in (0, 1))
    return layer.get("bias", 0.0) + sum(
        x[:, i : i + rows : stride, j : j + columns : stride] @ kernel[i, j]
        for i, j in np.ndindex(kernel.shape[:2])
    )


def dense(x, layer):
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def norm(x, layer):
    inverse = layer["scale"] / np.sqrt(layer["variance"] + 1e-5)
    return (x - layer["mean"]) * inverse + layer["bias"]


def conv_norm(x, layer, stride=1):
    padding = layer["conv"]["kernel"].shape[0] // 2
    return norm(conv(x, layer["conv"], padding=padding, stride=stride), layer["norm"])


def pool(x, combine):
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return combine([c[:, : x.shape[1] // 2, : x.shape[2] // 2] for c in corners], 0)


def numpy_mlp(x, state):
    x = x.reshape(len(x), -1)
    for i in range(2):
        x = relu(dense(x, state["hidden"][i]))
    return dense(x, state["logits"])


def numpy_lenet(x, state):
    x = pool(relu(conv(x, state["conv1"], padding=2)), np.mean)
    x = pool(relu(conv(x, state["conv2"], padding=0)), np.mean)
    x = relu(dense(x.reshape(len(x), -1), state["dense1"]))
    return dense(relu(dense(x, state["dense2"])), state["logits"])


def numpy_cnn(x, state):
    for stage in state["stages"].values():
        for layer in stage.values():
            x = relu(conv_norm(x, layer))
        x = pool(x, np.max)
    x = x.reshape(len(x), -1)
    if "dense" in state:
        x = relu(norm(dense(x, state["dense"]), state["norm"]))
    return dense(x, state["logits"])


def numpy_resnet(x, state):
    x = relu(conv_norm(x, state["stem"]))
    for i in range(4):
        block, stride = state["blocks"][i], 2 if i == 2 else 1
        y = conv_norm(relu(conv_norm(x, block["first"], stride)), block["second"])
        if "projection" in block:
            x = conv_norm(x, block["projection"], stride)
        elif stride == 2:
            x = np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2)))
        x = relu(y + x)
    return dense(x.mean((1, 2)), state["logits"])


def small_resnet(project):
    return partial(
        ResNet,
        5,
        2,
        widths=(4, 8),
        blocks=2,
        project=project,
        conv_init=he_normal,
        dense_init=he_normal,
        axis_name=None,
        dtype="float32",
    )


def create(name, shape, **hyperparameters):
    return partial(models.create, name, num_classes=5, image_shape=shape, **hyperparameters)


def small_cnn(dtype="float32"):
    return partial(CNN, 5, (9, 7, 2), [[4, 6], [8]], 8, axis_name=None, dtype=dtype)


def random_state(make, rng):
    """The structure of `make(rngs=...)` and parameters and statistics away from their start.

    The initial zeros and ones would hide a missing bias, scale or mean.
    """

    def draw(path, leaf):
        positive = getattr(path[-1], "key", None) in ("scale", "variance")
        values = rng.uniform(0.5, 2.0, leaf.shape) if positive else rng.normal(0, 0.3, leaf.shape)
        return values.astype(np.float32)

    model = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, *(jax.tree.map_with_path(draw, nnx.to_pure_dict(s)) for s in states)


# Odd sizes, so that pooling's and striding's rounding is tested too.
CASES = {
    "mlp": (create("mlp", (3, 2, 2), hidden=(8, 6)), (3, 2, 2), numpy_mlp),
    "lenet": (create("lenet", (13, 17, 2)), (13, 17, 2), numpy_lenet),
    "cnn": (small_cnn(), (9, 7, 2), numpy_cnn),
    "conv4": (create("conv4", (17, 16, 2), channels=3), (17, 16, 2), numpy_cnn),
    "resnet option A": (small_resnet(False), (7, 6, 2), numpy_resnet),
    "resnet option B": (small_resnet(True), (7, 6, 2), numpy_resnet),
}


@pytest.mark.parametrize("name", CASES)
def test_forward_pass_and_gradients(name):
    make, shape, numpy_forward = CASES[name]
    rng = np.random.default_rng(0)
    graphdef, params, stats = random_state(make, rng)
    x = rng.normal(size=(6, *shape)).astype(np.float32)

    @jax.jit
    def run(params):
        def loss(params):
            logits = nnx.merge(graphdef, params, stats)(x, train=True)
            return -jax.nn.log_softmax(logits)[:, 0].mean(), logits

        gradients, train_logits = jax.grad(loss, has_aux=True)(params)
        padded, mask = np.concatenate([x, 9.0 * x[:2]]), np.arange(8) < 6
        padded_logits = nnx.merge(graphdef, params, stats)(padded, train=True, mask=mask)
        return nnx.merge(graphdef, params, stats)(x), train_logits, padded_logits, gradients

    logits, train_logits, padded_logits, gradients = run(params)
    state = nnx.to_pure_dict(nnx.merge_state(*map(nnx.State, (params, stats))))
    expected = numpy_forward(x.astype(np.float64), jax.tree.map(np.float64, state))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    if stats:
        assert np.abs(train_logits - logits).max() > 0.1  # the batch's own statistics
    else:
        np.testing.assert_allclose(train_logits, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(padded_logits[:6], train_logits, rtol=1e-4, atol=1e-4)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


def test_an_mlp_drops_every_hidden_unit_by_a_draw_of_its_own():
    make = partial(
        models.create, "mlp", num_classes=50, image_shape=(1, 50, 1), hidden=(50, 50), dropout=0.5
    )
    graphdef, params, stats = random_state(make, np.random.default_rng(0))
    identity = jax.tree.map(lambda p: jnp.eye(50) if p.ndim == 2 else jnp.zeros(50), params)
    model = nnx.merge(graphdef, identity, stats)
    images, keys = jnp.ones((40, 1, 50, 1)), jax.random.split(jax.random.key(0), 40)
    logits = model(images, train=True, keys=keys)
    assert set(np.unique(logits)) == {0.0, 4.0}
    # Kept in both layers, of 2,000: a quarter with a deviation of 0.01; half if they drew alike.
    assert abs(float((logits > 0).mean()) - 0.25) < 0.04
    np.testing.assert_array_equal(model(images), 1.0)


def test_bfloat16_computes_nearly_the_same():
    rng = np.random.default_rng(0)
    graphdef, *state = random_state(small_cnn(), rng)
    rough_graphdef, *_ = random_state(small_cnn("bfloat16"), rng)
    x = rng.normal(size=(4, 9, 7, 2)).astype(np.float32)
    exact, rough = jax.jit(
        lambda state: tuple(nnx.merge(g, *state)(x) for g in (graphdef, rough_graphdef))
    )(state)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("name", "path", "deviation", "bound"),
    [
        ("mlp", ("hidden", 0), (2 / 128) ** 0.5, None),
        ("mlp", ("logits",), (1 / 256) ** 0.5, None),
        ("lenet", ("conv2",), 0.1151, 0.2),
        ("lenet", ("dense1",), 0.1151, 0.2),
        ("cnn4", ("stages", 1, 0, "conv"), (2 / 288) ** 0.5, (6 / 288) ** 0.5),
        ("cnn4", ("dense",), (2 / (1024 + 128)) ** 0.5, (6 / (1024 + 128)) ** 0.5),
        ("resnet20", ("blocks", 3, "first", "conv"), (2 / 144) ** 0.5, None),
        ("resnet18", ("blocks", 1, "second", "conv"), (2 / 576) ** 0.5, (6 / 576) ** 0.5),
    ],
)
def test_initial_weights(name, path, deviation, bound):
    shape = (16, 16, 1) if name != "mlp" else (8, 8, 2)

    @jax.jit  # so that only the kernel looked at is drawn
    def kernel():
        state = nnx.to_pure_dict(nnx.state(create(name, shape)(rngs=nnx.Rngs(0))))
        return reduce(lambda node, key: node[key], path, state)["kernel"]

    weights = np.asarray(kernel())
    assert weights.size > 1000
    # The deviation of n draws is off by deviation / sqrt(2 n) at most.
    assert abs(weights.std() - deviation) < 4 * deviation / (2 * weights.size) ** 0.5
    assert abs(weights.mean()) < 4 * deviation / weights.size**0.5
    if bound is None:  # a normal law, whose tails a uniform one of that deviation lacks
        assert np.abs(weights).max() > 2.0 * deviation
    else:
        assert 0.98 * bound < np.abs(weights).max() <= bound
