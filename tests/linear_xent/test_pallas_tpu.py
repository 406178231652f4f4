"""The TPU's kernels: interpreted against NumPy in float64, and lowered for a TPU, without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

import xent_jax as xent
from tests.linear_xent.plain import linear_cross_entropy, problem
from tests.linear_xent.test_api import close
from xent_jax.linear_xent import pallas_tpu_blocks as blocks

loss = functools.partial(xent.linear_softmax_cross_entropy, implementation="pallas_tpu")
loss_sum = functools.partial(xent.linear_softmax_cross_entropy_sum, implementation="pallas_tpu")


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(blocks, "INTERPRET", True)
    monkeypatch.setattr(blocks, "SIZES", ((128, 128),))


@pytest.fixture
def simulated(monkeypatch):
    """Memory and copies are a TPU's too: what was never written is NaN."""
    monkeypatch.setattr(blocks, "INTERPRET", pltpu.InterpretParams())


@pytest.fixture
def lowered(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def total(*arguments, **options):
    return jnp.sum(loss(*arguments, **options))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("size", [(1, 1, 1), (150, 4, 300)])
def test_values_and_gradients_are_numpys(size):
    hidden, weights, labels, options = problem(*size)
    of_loss, of_logsumexp = np.random.default_rng(1).normal(size=(2, size[0])).astype(np.float32)
    where = np.arange(size[0]) % 5 != 1
    dirty, wrong = hidden.copy(), labels.copy()
    dirty[~where], wrong[~where] = np.nan, -7
    also = {"where": where, "return_logsumexp": True, "return_argmax": True}

    def run(hidden, weights, bias):
        results = loss(hidden, weights, wrong, **{**options, "bias": bias}, **also)
        return jnp.vdot(of_loss, results[0]) + jnp.vdot(of_logsumexp, results[1]), results

    gradients, results = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(
        dirty, weights, options["bias"]
    )
    cotangents = {"of_loss": of_loss, "of_logsumexp": of_logsumexp}
    expected = linear_cross_entropy(hidden, weights, labels, where=where, **options, **cotangents)
    for actual, right in zip((*results, *gradients), expected, strict=True):
        close(actual, right)
    assert np.all(np.asarray(results[0])[~where] == 0.0)
    assert np.all(np.asarray(gradients[0])[~where] == 0.0)


@pytest.mark.usefixtures("interpreted")
def test_the_sum_has_every_gradient_of_the_reference():
    hidden, weights, labels, options = problem(21, 4, 140)
    omega = np.random.default_rng(1).uniform(size=21).astype(np.float32)
    options = {name: jnp.asarray(value) for name, value in options.items()}

    def run(implementation, hidden, weights, omega, options):
        also = {"weights_per_token": omega, "implementation": implementation}
        return 3.0 * loss_sum(hidden, weights, labels, **options, **also)[0]

    def gradients(implementation):
        f = jax.value_and_grad(functools.partial(run, implementation), (0, 1, 2, 3))
        return jax.tree.leaves(jax.jit(f)(hidden, weights, omega, options))

    expected = gradients("reference")
    assert len(expected) == 1 + 3 + 6
    for actual, right in zip(gradients("pallas_tpu"), expected, strict=True):
        close(actual, right)


@pytest.mark.usefixtures("interpreted")
def test_bfloat16_is_added_up_in_float32():
    hidden, weights, labels, options = problem(150, 16, 140)
    hidden, weights = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(weights, jnp.bfloat16)
    f = jax.jit(jax.value_and_grad(functools.partial(total, **options), (0, 1)))
    value, gradients = f(hidden, weights, labels)
    expected = linear_cross_entropy(hidden, weights, labels, **options)
    assert value.dtype == np.float32
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16, jnp.bfloat16]
    close(value, expected.loss.sum(), 2e-6)
    close(gradients[0], expected.hidden, 1e-2)
    close(gradients[1], expected.weights, 1e-2)


@pytest.mark.usefixtures("interpreted")
def test_classes_that_cannot_occur_even_a_block_of_them():
    hidden, weights, _, options = problem(9, 4, 260)
    kept = np.arange(130, 259)
    labels = kept[::15].astype(np.int32)
    bias, prior = options["bias"].copy(), options["class_prior"].copy()
    bias[:130], prior[259] = -np.inf, 0.0
    prior /= prior.sum()
    options = {"label_smoothing": 0.2, "logit_softcap": 3.0, "temperature": 1.5}

    def run(hidden, weights, bias, prior, temperature):
        keywords = {**options, "bias": bias, "class_prior": prior, "temperature": temperature}
        return total(hidden, weights, labels, **keywords)

    arguments = hidden, weights, bias, prior, 1.5
    value, gradients = jax.jit(jax.value_and_grad(run, range(5)))(*arguments)
    options |= {"bias": bias[kept], "class_prior": prior[kept]}
    expected = linear_cross_entropy(hidden, weights[kept], labels - 130, **options)
    close(value, expected.loss.sum())
    close(gradients[0], expected.hidden)
    close(gradients[1][kept], expected.weights)
    assert np.all(np.delete(gradients[1], kept, axis=0) == 0.0)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.usefixtures("interpreted")
def test_logits_at_the_edges():
    hidden, weights, labels, _ = problem(9, 4, 140, scale=3e3)
    bias = np.full((3, 140), 200.0, np.float32)  # exp of it is infinite
    bias[1, labels], bias[2] = -np.inf, -np.inf
    also = {"return_logsumexp": True, "return_argmax": True}
    f = jax.jit(lambda hidden, bias: loss(hidden, weights, labels, bias=bias, **also))
    losses, logsumexp, argmax = zip(*(f(hidden, each) for each in bias), strict=True)
    expected = linear_cross_entropy(hidden, weights, labels, bias=bias[0])
    assert expected.logsumexp.max() > 1e4
    close(losses[0], expected.loss, 1e-6)
    close(argmax[0], expected.argmax)
    assert np.all(losses[1] == np.inf)
    assert np.all(np.isfinite(logsumexp[1]))
    assert np.all(np.isnan(losses[2]) & np.isnan(logsumexp[2]))
    gradients = jax.grad(functools.partial(total, bias=bias[0]), (0, 1))(hidden, weights, labels)
    close(gradients[0], expected.hidden, 1e-3)
    close(gradients[1], expected.weights, 1e-3)
    several = bias[0].copy()
    several[[5, 7, 139]] = 201.0
    assert np.all(f(0.0 * hidden, several)[2] == 5)
    several[[6, 135]] = np.nan
    assert np.all(f(0.0 * hidden, several)[2] == 6)


@pytest.mark.usefixtures("interpreted")
def test_under_vmap_and_remat():
    hidden, weights, labels, _ = problem(18, 4, 11)
    batches = hidden.reshape(2, 9, 4), labels.reshape(2, 9)
    run = jax.checkpoint(jax.value_and_grad(total, (0, 1)))
    values, gradients = jax.jit(jax.vmap(run, (0, None, 0)))(batches[0], weights, batches[1])
    expected = linear_cross_entropy(hidden, weights, labels)
    close(values.sum(), expected.loss.sum())
    close(gradients[0].reshape(hidden.shape), expected.hidden)
    close(gradients[1].sum(0), expected.weights)


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("inside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_tokens_over_devices(inside):
    hidden, weights, labels, options = problem(34, 5, 13)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = P("data"), P(), P("data")

    def run(*arguments):
        return jax.lax.psum(total(*arguments, **options), "data")

    differentiated = functools.partial(jax.value_and_grad, argnums=(0, 1))
    if inside:
        f = jax.shard_map(
            differentiated(run), mesh=mesh, in_specs=specs, out_specs=(P(), specs[:2])
        )
    else:
        f = differentiated(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P()))
    value, gradients = jax.jit(f)(hidden, weights, labels)
    expected = linear_cross_entropy(hidden, weights, labels, **options)
    close(value, expected.loss.sum())
    close(gradients[0], expected.hidden)
    close(gradients[1], expected.weights)


def traced(tokens, width, classes, dtype, argnums=(0, 1), sharding=None, **options):
    f = functools.partial(total, **options)
    f = jax.value_and_grad(f, argnums) if argnums else f
    shapes = ((tokens, width), dtype), ((classes, width), dtype), ((tokens,), jnp.int32)
    return jax.jit(f).trace(*(jax.ShapeDtypeStruct(*x, sharding=sharding) for x in shapes))


def kernels(*arguments, **options):
    """Returns how many there are in the program for a TPU."""
    lowered = traced(*arguments, **options).lower(lowering_platforms=("tpu",))
    return lowered.as_text().count("@tpu_custom_call")


@pytest.mark.usefixtures("lowered")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    "size", [(1, 1, 1), (129, 768, 50257), (4096, 4096, 128256), (8192, 16384, 7)]
)
def test_lowered_for_a_tpu(size, dtype):
    _, _, _, options = problem(1, 1, size[2])
    with jax.enable_x64(dtype == jnp.float32):
        assert kernels(*size, dtype, **options) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("lowered")
@pytest.mark.parametrize("chip", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_compiled_for_a_tpu_that_is_not_there(chip, dtype, monkeypatch):
    pytest.importorskip("libtpu", reason="the compiler for TPUs is not installed")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    device = topologies.get_topology_desc(chip, "tpu").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    for width in (5, 1024):
        _, _, _, options = problem(1, 1, 5000)
        with jax.enable_x64(dtype == jnp.float32):
            traced(300, width, 5000, dtype, sharding=sharding, **options).lower().compile()


@pytest.mark.usefixtures("lowered")
@pytest.mark.parametrize(("argnums", "count"), [((), 1), ((0,), 2), ((1,), 2), ((0, 1), 3)])
def test_what_is_not_asked_for_is_not_computed(argnums, count):
    assert kernels(9, 4, 7, jnp.float32, argnums) == count


def test_what_does_not_run_says_so(monkeypatch):
    hidden, weights, labels, _ = problem(3, 4, 5)
    with pytest.raises(ValueError, match=r"needs a TPU, got the backend '\w+': leave"):
        loss(hidden, weights, labels)
    monkeypatch.setattr(blocks, "INTERPRET", True)
    with pytest.raises(ValueError, match=r"bfloat16 or float32, got float16: pass .*'chunked'"):
        loss(hidden.astype(np.float16), weights.astype(np.float16), labels)
    with pytest.raises(NotImplementedError, match="implementation='reference'"):
        jax.jacrev(jax.grad(total))(hidden, weights, labels)


@pytest.mark.parametrize("count", [0, 1, 16, 17, 1000, 1024, 1025, 128256])
@pytest.mark.parametrize("token_axis", [0, 1])
def test_blocks_cover_all_and_fit(count, token_axis):
    for width in (1, 768, 4096, 5120):
        hidden, weights = (np.empty((rows, width), jnp.bfloat16) for rows in (count, count + 1))
        tiling = blocks.tiling_of(hidden, weights, token_axis)
        assert tiling.tokens % blocks.SUBLANES == tiling.classes % blocks.LANES == 0
        number = tiling.all_tokens // tiling.tokens
        assert tiling.all_tokens == number * tiling.tokens >= count
        assert tiling.all_tokens - count <= blocks.SUBLANES * number
        rows = tiling.classes * -(-(count + 1) // tiling.classes)
        assert rows <= count + 1 + -(count + 1) % blocks.SIZES[0][0]
        assert tiling.memory == blocks.MEMORY


def test_long_vectors_ask_for_more_memory():
    assert blocks.block_sizes(256, 2) == (1024, 256)
    assert blocks.block_sizes(16384, 4) == (128, 128)
    hidden = np.empty((1, 16384), np.float32)
    assert blocks.tiling_of(hidden, hidden, 0).memory > blocks.MEMORY
