"""Under JAX's transformations, in models, over devices: the same numbers, nothing superfluous."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import xent_jax as xent
from tests.linear_xent.plain import linear_cross_entropy, problem
from tests.linear_xent.test_api import close, total
from xent_jax.linear_xent import blocks

both = pytest.mark.parametrize("form", ["per token", "sum"])
HIDDEN, WEIGHTS, LABELS, _ = (
    jnp.asarray(x) if not isinstance(x, dict) else x for x in problem(32, 4, 11)
)


@pytest.fixture(autouse=True)
def chunks_of_two_tokens(monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 2)


@functools.cache
def expected():
    plain = linear_cross_entropy(HIDDEN, WEIGHTS, LABELS)
    return plain.loss.sum(), plain.hidden, plain.weights


def check(value, gradients):
    for actual, right in zip((value, *gradients), expected(), strict=True):
        close(actual, right)


@both
def test_remat_of_a_scan_over_micro_batches(form):
    batches = HIDDEN.reshape(4, 8, 4), LABELS.reshape(4, 8)

    @jax.checkpoint
    def run(hidden, weights):
        def step(carry, batch):
            return carry + jax.jit(total, static_argnums=0)(form, batch[0], weights, batch[1]), None

        return jax.lax.scan(step, 0.0, (hidden, batches[1]))[0]

    value, gradients = jax.jit(jax.value_and_grad(run, (0, 1)))(batches[0], WEIGHTS)
    check(value, (gradients[0].reshape(HIDDEN.shape), gradients[1]))


@both
def test_vmap_inside_and_outside_of_the_gradient(form):
    hidden, labels = HIDDEN.reshape(4, 8, 4), LABELS.reshape(4, 8)
    run = functools.partial(total, form)

    def mapped(hidden, weights):
        return jax.vmap(run, (0, None, 0))(hidden, weights, labels).sum()

    value, gradients = jax.jit(jax.value_and_grad(mapped, (0, 1)))(hidden, WEIGHTS)
    check(value, (gradients[0].reshape(HIDDEN.shape), gradients[1]))
    outside = jax.jit(jax.vmap(jax.value_and_grad(run, (0, 1)), (0, None, 0)))
    values, gradients = outside(hidden, WEIGHTS, labels)
    check(values.sum(), (gradients[0].reshape(HIDDEN.shape), gradients[1].sum(0)))
    layers = jnp.stack([WEIGHTS, 2.0 * WEIGHTS])
    values = jax.vmap(run, (None, 0, None))(HIDDEN, layers, LABELS)
    close(values[1], linear_cross_entropy(HIDDEN, layers[1], LABELS).loss.sum())


@both
def test_vmap_over_hyper_parameters(form):
    names = "label_smoothing", "z_loss", "logit_softcap", "temperature"
    values = np.array([[0.1, 0.01, 3.0, 1.7], [0.3, 0.1, 9.0, 0.6]])

    def run(values, hidden):
        return total(form, hidden, WEIGHTS, LABELS, **dict(zip(names, values, strict=True)))

    def plain(values):
        options = dict(zip(names, values, strict=True))
        return linear_cross_entropy(HIDDEN, WEIGHTS, LABELS, **options)

    mapped = jax.jit(jax.vmap(jax.value_and_grad(run, (0, 1)), (0, None)))
    results = mapped(jnp.asarray(values, jnp.float32), HIDDEN)
    for i, at in enumerate(values):
        value, (d_values, d_hidden) = jax.tree.map(lambda x, i=i: x[i], results)
        close(value, plain(at).loss.sum())
        close(d_hidden, plain(at).hidden)
        slopes = [(plain(at + h).loss - plain(at - h).loss).sum() / 2e-5 for h in 1e-5 * np.eye(4)]
        close(d_values, slopes, 1e-4)


def over_devices(form, weights_spec, gather, differentiate_inside):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(hidden, weights, labels):
        weights = gather(weights)
        return jax.lax.psum(total(form, hidden, weights, labels), "data")

    differentiated = functools.partial(jax.value_and_grad, argnums=(0, 1))
    specs = (P("data"), weights_spec, P("data"))
    if differentiate_inside:
        out = (P(), specs[:2])
        return jax.shard_map(differentiated(run), mesh=mesh, in_specs=specs, out_specs=out)
    return differentiated(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P()))


@both
@pytest.mark.parametrize("inside", [True, False])
def test_tokens_over_devices(form, inside):
    run = over_devices(form, P(), lambda weights: weights, inside)
    check(*jax.jit(run)(HIDDEN, WEIGHTS, LABELS))


@both
@pytest.mark.parametrize("inside", [True, False])
def test_weights_kept_in_parts_and_gathered(form, inside):
    def gather(weights):
        return jax.lax.all_gather(weights, "data", tiled=True)[:11]

    padded = jnp.concatenate([WEIGHTS, jnp.zeros((5, 4))])
    value, gradients = jax.jit(over_devices(form, P("data"), gather, inside))(
        HIDDEN, padded, LABELS
    )
    check(value, (gradients[0], gradients[1][:11]))


@both
def test_under_jit_each_device_computes_its_own_tokens(form, monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    own, shared = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    hidden = jax.ShapeDtypeStruct((256, 4), jnp.float32, sharding=own)  # eight chunks of 32
    weights = jax.ShapeDtypeStruct((11, 4), jnp.float32, sharding=shared)
    labels = jax.ShapeDtypeStruct((256,), jnp.int32, sharding=own)
    run = jax.jit(jax.value_and_grad(functools.partial(total, form), (0, 1)))
    text = run.lower(hidden, weights, labels).compile().as_text()
    assert "all-gather(" not in text
    products = set(re.findall(r"= f32\[([\d,]+)\]\S* dot\(", text))
    assert products == {"4,11", "4,4", "11,4"}  # of 4 tokens: logits, and both gradients


@both
@pytest.mark.parametrize(("argnums", "fewer"), [((0, 1), 0), ((0,), 1), ((1,), 1)])
def test_what_is_not_asked_for_is_not_computed(form, argnums, fewer):
    def products(function):
        return str(jax.make_jaxpr(function)(HIDDEN, WEIGHTS)).count("dot_general")

    def run(hidden, weights):
        return total(form, hidden, weights, LABELS)

    assert products(run) == 1
    every = 3 if form == "sum" else 4
    assert products(jax.grad(run, argnums)) == every - fewer
    assert products(jax.jit(jax.grad(jax.jit(run), argnums))) == every - fewer


def gradient(form, hidden, implementation):
    options = {"z_loss": 0.1, "implementation": implementation}
    return jax.grad(lambda h: total(form, h, WEIGHTS, LABELS[:2], **options))(hidden)


@both
def test_second_derivatives_through_the_reference(form):
    of = jax.jit(functools.partial(gradient, form, implementation="reference"))
    hessian = jax.jit(jax.jacfwd(of))(HIDDEN[:2])
    step = 1e-2 * jnp.eye(8).reshape(8, 2, 4)[3]
    close(hessian[..., 0, 3], (of(HIDDEN[:2] + step) - of(HIDDEN[:2] - step)) / 2e-2, 1e-3)


@both
@pytest.mark.parametrize("second", [jax.jacfwd, jax.jacrev])
def test_second_derivatives_elsewhere_are_an_error_that_says_so(form, second):
    with pytest.raises(NotImplementedError, match="implementation='reference'"):
        second(functools.partial(gradient, form, implementation="chunked"))(HIDDEN[:2])


@both
def test_a_gradient_has_a_derivative_in_what_scales_it(form):
    def squared_norm(scale):
        run = functools.partial(total, form)
        return jnp.sum(jax.grad(lambda h: scale * run(h, WEIGHTS, LABELS))(HIDDEN) ** 2)

    close(jax.jit(jax.grad(squared_norm))(1.5), 3.0 * np.sum(expected()[1] ** 2))


@both
def test_the_products_of_bfloat16_are_of_bfloat16(form):
    half = HIDDEN.astype(jnp.bfloat16), WEIGHTS.astype(jnp.bfloat16)
    program = jax.make_jaxpr(jax.grad(lambda *layer: total(form, *layer, LABELS), (0, 1)))(*half)
    products = [line for line in str(program).splitlines() if "dot_general" in line]
    operands = re.findall(r"dot_general\[.*?\] (\w+) (\w+)", str(program), re.DOTALL)
    types = dict(re.findall(r"(\w+):(\w+)\[", str(program)))
    assert len(operands) == len(products) == (3 if form == "sum" else 4)
    assert {types[name] for pair in operands for name in pair} == {"bf16"}


@both
def test_a_tied_embedding_in_nnx_and_linen(form):
    tokens = jnp.arange(32) % 11

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(11, 4, rngs=rngs)

        def __call__(self, tokens, labels):
            return total(form, jnp.sin(self.embed(tokens)), self.embed.embedding[...], labels)

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, tokens, labels):
            embed = linen.Embed(11, 4)
            return total(form, jnp.sin(embed(tokens)), embed.embedding, labels)

    def plainly(table):
        z = jnp.sin(table[tokens]) @ table.T
        return -jax.nn.log_softmax(z)[jnp.arange(32), LABELS].sum()

    right = jax.jit(jax.grad(plainly))(WEIGHTS)
    model = Nnx(nnx.Rngs(0))
    model.embed.embedding[...] = WEIGHTS
    gradient = nnx.jit(nnx.grad(lambda model: model(tokens, LABELS)))(model)
    close(gradient.embed.embedding[...], right)
    parameters = {"params": {"Embed_0": {"embedding": WEIGHTS}}}
    gradient = jax.jit(jax.grad(lambda p: Linen().apply(p, tokens, LABELS)))(parameters)
    close(gradient["params"]["Embed_0"]["embedding"], right)


@both
def test_the_kernel_of_a_dense_layer_by_a_transposed_view(form):
    run = jax.jit(jax.value_and_grad(lambda h, kernel: total(form, h, kernel.T, LABELS), (0, 1)))
    value, gradients = run(HIDDEN, WEIGHTS.T)
    check(value, (gradients[0], gradients[1].T))


@both
def test_no_temporary_is_near_the_size_of_the_logits(form, monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 128)
    tokens, width, classes = 2048, 4, 4096
    shapes = jnp.zeros((tokens, width)), jnp.zeros((classes, width)), jnp.zeros(tokens, int)

    def temporary(implementation):
        run = functools.partial(total, form, implementation=implementation)
        compiled = jax.jit(jax.value_and_grad(run, (0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("chunked") < min(temporary("reference") / 7, tokens * classes * 4 / 3)


def test_names_are_exported():
    assert set(xent.linear_xent.__all__) <= set(xent.__all__)
