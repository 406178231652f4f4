"""Every model by name: its size, its shapes, its state, and what it says to bad input."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from xent_jax import models
from xent_jax.errors import UserError

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)

# Published, or counted in the papers' code; cnn4, cnn8 and conv4 are without the biases that code
# has before batch normalisation.
PARAMETERS = {
    "mlp": (MNIST, 784 * 256 + 256 + 256 * 10 + 10),
    "lenet": (MNIST, 61_706),
    "cnn4": (MNIST, 422_090 - (32 + 64 + 128)),
    "cnn8": (CIFAR, 1_639_794 - (2 * (64 + 128 + 196) + 256)),
    "conv4": (MNIST, 111_936 - 4 * 64 + 64 * 10 + 10),
    "resnet20": (CIFAR, 269_722),
    "resnet32": (CIFAR, 464_154),
    "resnet18": (CIFAR, 11_173_962),
}


@cache
def abstract(name, image_shape=MNIST, **hyperparameters):
    """The model's structure and the shapes of its state; nothing is computed or compiled."""
    model = nnx.eval_shape(
        lambda: models.create(
            name,
            num_classes=10,
            image_shape=image_shape,
            rngs=nnx.Rngs(0),
            **hyperparameters,
        )
    )
    # Raises if the model holds any other state, such as random number generators.
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def logits_of(graphdef, params, stats, images, train=False, mask=None):
    return nnx.merge(graphdef, params, stats)(images, train=train, mask=mask)


def test_every_model_has_a_published_size():
    assert tuple(PARAMETERS) == models.NAMES


@pytest.mark.parametrize("name", models.NAMES)
def test_parameter_count(name):
    image_shape, expected = PARAMETERS[name]
    _, params, _ = abstract(name, image_shape)
    assert sum(p.size for p in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("name", models.NAMES)
def test_shapes_and_dtypes(name):
    odd = {"lenet": (13, 17, 2), "conv4": (16, 19, 2)}.get(name, (8, 9, 1))
    cases = [(PARAMETERS[name][0], True, {}), (odd, False, {"dtype": "bfloat16"})]
    for image_shape, train, options in cases:
        graphdef, *state = abstract(name, image_shape, **options)
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
        images = jax.ShapeDtypeStruct((3, *image_shape), jnp.float32)
        mask = jax.ShapeDtypeStruct((3,), bool)
        forward = partial(logits_of, graphdef, train=train)
        logits = jax.eval_shape(forward, *state, images, mask=mask)
        assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "unknown model 'resnet' (did you mean 'resnet"),
        ("vit", {}, "one of: mlp, lenet, cnn4, cnn8, conv4, resnet20, resnet32, resnet18"),
        ("mlp", {"hiden": (3,)}, "no hyper-parameter 'hiden' (did you mean 'hidden'?); it takes: "),
        ("cnn4", {"dropout": 0.5}, "model 'cnn4' has no hyper-parameter 'dropout'"),
        ("mlp", {"hidden": (3, 0)}, "hidden=(3, 0) must hold widths of at least 1"),
        ("mlp", {"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ("mlp", {"dropout": -0.1}, "dropout=-0.1 must be at least 0 and below 1"),
        ("resnet20", {"dtype": "float16"}, "dtype='float16' is not offered"),
        ("lenet", {"image_shape": (8, 8, 1)}, "at least 12x12, not 8x8; mlp takes any size"),
        ("cnn4", {"image_shape": (28, 3, 1)}, "at least 4x4, not 28x3"),
        ("cnn8", {"image_shape": (7, 8, 1)}, "at least 8x8, not 7x8"),
        ("conv4", {"image_shape": (15, 16, 1)}, "at least 16x16, not 15x16"),
        ("conv4", {"channels": 0}, "channels=0 must be at least 1"),
    ],
)
def test_bad_input_is_told_in_one_line(name, options, message):
    with pytest.raises(UserError) as error:
        abstract(name, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_smallest_images_work():
    sizes = {"lenet": 12, "cnn4": 4, "cnn8": 8, "conv4": 16, "resnet18": 1, "mlp": 1}
    for name, size in sizes.items():
        graphdef, *state = abstract(name, (size, size, 1))
        images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
        assert jax.eval_shape(partial(logits_of, graphdef), *state, images).shape == (2, 10)


def test_hidden_may_be_one_width_or_none():
    assert abstract("mlp", hidden=32)[1].keys() == abstract("mlp", hidden=(32,))[1].keys()
    _, linear, _ = abstract("mlp", hidden=())
    assert sum(p.size for p in jax.tree.leaves(linear)) == 784 * 10 + 10
    _, teacher, _ = abstract("mlp", hidden=(1200, 1200))
    assert sum(p.size for p in jax.tree.leaves(teacher)) == 785 * 1200 + 1201 * 1200 + 1201 * 10
