"""The kernel inside the linear cross-entropy: interpreted here, lowered for a GPU, run on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import xent_jax as xent
from tests.linear_xent.plain import linear_cross_entropy, problem
from tests.linear_xent.test_api import close
from xent_jax.kernels import linear_xent_gpu, mosaic_gpu
from xent_jax.kernels.softmax_xent_gpu import Sums
from xent_jax.linear_xent import blocks, pallas_gpu

interpreted = pytest.mark.usefixtures("interpreter")


@pytest.fixture
def interpreter(monkeypatch):
    monkeypatch.setattr(mosaic_gpu, "INTERPRET", True)
    monkeypatch.setattr(blocks, "FEWEST", 4)


def total(hidden, weights, labels, **options):
    options = {"implementation": "pallas_gpu", **options}
    return xent.linear_softmax_cross_entropy_sum(hidden, weights, labels, **options)[0]


def total_of_terms(hidden, weights, labels, **options):
    options = {"implementation": "pallas_gpu", **options}
    return xent.linear_softmax_cross_entropy(hidden, weights, labels, **options).sum()


def check(tokens, width, classes, dtype=jnp.float32, names=(), rtol=2e-5, loss=total, **options):
    """Compares loss and gradients with those of NumPy in float64."""
    hidden, weights, labels, every = problem(tokens, width, classes)
    hidden, weights = (jnp.asarray(x, dtype) for x in (hidden, weights))
    options |= {name: every[name] for name in names}
    run = jax.jit(jax.value_and_grad(functools.partial(loss, **options), (0, 1)))
    value, gradients = run(hidden, weights, labels)
    options.pop("precision", None)
    plain = linear_cross_entropy(
        np.asarray(hidden, np.float64), np.asarray(weights, np.float64), labels, **options
    )
    np.testing.assert_allclose(value, plain.loss.sum(), rtol=1e-5)
    for actual, right in zip(gradients, (plain.hidden, plain.weights), strict=True):
        assert actual.dtype == dtype
        error = np.abs(np.asarray(actual, np.float64) - right).max()
        assert error <= rtol * np.abs(right).max() + 1e-7


@interpreted
@pytest.mark.parametrize(("tokens", "classes"), [(7, 129), (1, 2), (4, 1)])
def test_awkward_sizes_are_exact(tokens, classes):
    check(tokens, 3, classes)


@interpreted
def test_every_gradient_with_every_adjustment_and_masked_tokens():
    hidden, weights, labels, options = problem(5, 3, 131)
    del options["label_smoothing"]
    options = {name: jnp.asarray(value) for name, value in options.items()}
    options["weights_per_token"] = jnp.arange(1.0, 6.0)
    where = np.array([True, False, True, True, True])

    def results(implementation):
        def run(hidden, weights, options):
            how = {"where": where, "implementation": implementation}
            return 3.0 * total(hidden, weights, labels, **options, **how)

        gradients = jax.jit(jax.value_and_grad(run, (0, 1, 2)))(hidden, weights, options)
        return jax.tree.leaves(gradients)

    for actual, right in zip(results("pallas_gpu"), results("reference"), strict=True):
        close(actual, right)


@interpreted
def test_products_of_bfloat16_take_slopes_of_bfloat16():
    check(5, 3, 131, dtype=jnp.bfloat16, names=("z_loss",), rtol=2e-2)


@interpreted
@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="JAX interprets no transposed tiles")
def test_terms_without_logits(monkeypatch):
    monkeypatch.setattr(linear_xent_gpu, "GROUPS", 1)
    monkeypatch.setattr(linear_xent_gpu, "SLOTS", 2)
    where = np.array([True, False, True, True, True])
    options = {"dtype": jnp.bfloat16, "loss": total_of_terms, "names": ("z_loss",), "where": where}
    check(5, 3, 131, rtol=2e-2, **options)


@interpreted
def test_what_the_kernels_do_not_cover_is_chunked():
    arguments = (*problem(5, 3, 11)[:3],)
    for form, options in (
        (total, {"label_smoothing": 0.1}),
        (total_of_terms, {"logit_softcap": 2.0, "label_smoothing": 0.1}),
    ):
        right = form(*arguments, implementation="chunked", **options)
        np.testing.assert_array_equal(form(*arguments, **options), right)


@interpreted
def test_a_label_outside_is_loud():
    hidden, weights, labels, _ = map(jnp.asarray, (*problem(3, 3, 11)[:3], 0))
    labels = labels.at[1].set(11)
    value, gradients = jax.value_and_grad(total, (0, 1))(hidden, weights, labels)
    assert jnp.isnan(value)
    assert jnp.all(jnp.isnan(gradients[0][1]))
    assert jnp.all(jnp.isfinite(gradients[0][np.array([0, 2])]))
    assert jnp.all(jnp.isnan(gradients[1]))


def in_plain_jax(z, labels, factors, classes, dtype):
    """Returns what the kernel does."""
    z = jnp.where(jnp.arange(z.shape[1])[None] < classes, z, -jnp.inf)
    largest = jnp.max(z, axis=1)
    exponentials = jnp.exp(z - largest[:, None])
    total = jnp.sum(exponentials, axis=1)
    scale = (factors.every + factors.logsumexp * (jnp.log(total) + largest)) / total
    is_label = jnp.arange(z.shape[1])[None] == labels[:, None]
    slopes = scale[:, None] * exponentials - jnp.where(is_label, factors.label[:, None], 0.0)
    at_label = jnp.sum(jnp.where(is_label, z, 0.0), axis=1)
    return slopes.astype(dtype), Sums(largest, total, at_label)


# JAX's interpreter clears what devices share when the first is done: the kernel runs on one only.
@interpreted
@pytest.mark.parametrize("devices", [1, 2])
def test_under_vmap_and_shard_map(monkeypatch, devices):
    if devices > 1:
        monkeypatch.setattr(pallas_gpu, "softmax_cross_entropy_slopes", in_plain_jax)
    hidden, weights, labels, _ = map(jnp.asarray, (*problem(8, 3, 11)[:3], 0))
    right = jax.grad(functools.partial(total, implementation="chunked"), (0, 1))
    d_hidden, d_weights = right(hidden, weights, labels)
    mapped = jax.vmap(jax.grad(total, (0, 1)), (0, None, 0))
    halves = jax.jit(mapped)(hidden.reshape(2, 4, 3), weights, labels.reshape(2, 4))

    def divided(hidden, weights, labels):
        return jax.lax.psum(total(hidden, weights, labels), "data")

    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.shard_map(divided, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P())
    gradients = jax.jit(jax.grad(over, (0, 1)))(hidden, weights, labels)
    for of_hidden, of_weights in ((halves[0].reshape(8, 3), halves[1].sum(0)), gradients):
        np.testing.assert_allclose(of_hidden, d_hidden, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(of_weights, d_weights, rtol=1e-5, atol=1e-6)


def test_elsewhere_it_says_what_it_needs(monkeypatch):
    hidden, weights, labels, _ = problem(2, 3, 11)
    if jax.default_backend() == "cpu":
        with pytest.raises(ValueError, match="needs an NVIDIA GPU of compute capability 9"):
            total(hidden, weights, labels)
    monkeypatch.setattr(mosaic_gpu, "INTERPRET", True)
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="got float64: pass implementation='chunked'"),
    ):
        total(jnp.asarray(hidden, jnp.float64), jnp.asarray(weights, jnp.float64), labels)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("loss", [total, total_of_terms])
def test_lowers_for_a_gpu_with_its_gradients(monkeypatch, loss, dtype):
    monkeypatch.setattr(pallas_gpu, "require_hopper", lambda: None)
    shapes = (300, 64), (50257, 64)
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    labels = jax.ShapeDtypeStruct((300,), jnp.int32)
    program = jax.jit(jax.grad(loss, (0, 1))).trace(*arrays, labels)
    text = program.lower(lowering_platforms=("cuda",)).as_text()
    kernels = 0 if (loss, dtype) == (total_of_terms, jnp.float32) else 1
    assert text.count("custom_call @mosaic_gpu") == kernels


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("loss", [total, total_of_terms])
@pytest.mark.parametrize("classes", [1, 129, 1000, 50257])
def test_on_a_gpu(loss, classes):
    check(300, 72, classes, dtype=jnp.bfloat16, names=("z_loss",), rtol=2e-2, loss=loss)
    names = ("bias", "z_loss", "logit_softcap", "temperature", "class_prior")
    check(300, 72, classes, names=names, rtol=1e-3, loss=loss, precision="highest")
