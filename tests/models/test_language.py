"""The language models against plain NumPy in float64, and what every one of them promises."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xent_jax.errors import UserError
from xent_jax.models import LANGUAGE_MODELS
from xent_jax.models.transformer import rotate, rotations

VOCABULARY, WIDTH, HEADS, HIDDEN = 31, 8, 2, 12
SIZES = {
    "transformer": {"width": WIDTH, "layers": 2, "heads": HEADS, "hidden": HIDDEN},
    "lstm": {"width": WIDTH, "layers": 2},
}
# JAX's attention widens bfloat16 by promotions that it leaves implicit.
implicit_promotion = partial(jax.numpy_dtype_promotion, "standard")


def create(name, *, vocabulary=VOCABULARY, seed=0, **sizes):
    return LANGUAGE_MODELS[name](vocabulary, rngs=nnx.Rngs(seed), **(SIZES[name] | sizes))


@cache
def split(name, **options):
    # Raises if the model holds any other state, such as random number generators.
    graphdef, params = nnx.split(create(name, **options), nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


@cache
def hidden_of(name, **options):
    """The compiled model, of parameters and tokens."""
    graphdef, _ = split(name, **options)
    return jax.jit(lambda params, tokens: nnx.merge(graphdef, params)(tokens))


def drawn(name):
    """Parameters away from their start, where zeros and ones would hide a bias or a scale."""
    rng = np.random.default_rng(0)
    _, params = split(name)
    return jax.tree.map(lambda p: rng.normal(0.2, 0.5, p.shape).astype(np.float32), params)


def some_tokens(batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length), np.int32)


def rms_norm(x, layer):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * layer["scale"]


def turn(x):
    """Rotates features (H, L, E) as complex numbers, the form that the paper derives."""
    length, features = x.shape[-2:]
    angles = np.outer(np.arange(length), 10_000.0 ** (-np.arange(0, features, 2) / features))
    z = (x[..., : features // 2] + 1j * x[..., features // 2 :]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], -1)


def attention(x, block):
    """Of one sequence (L, D)."""
    length = len(x)
    parts = (x @ block["query_key_value"]["kernel"]).reshape(length, 3, HEADS, -1)
    query, key, value = parts.transpose(1, 2, 0, 3)
    scores = turn(query) @ turn(key).transpose(0, 2, 1) / math.sqrt(WIDTH // HEADS)
    weights = np.where(np.tri(length, dtype=bool), np.exp(scores), 0.0)
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    return mixed.transpose(1, 0, 2).reshape(length, -1) @ block["attended"]["kernel"]


def gelu(x):
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def numpy_transformer(params, tokens):
    x = params["embedding"][tokens]
    for block in params["blocks"].values():
        x = x + attention(rms_norm(x, block["attention_norm"]), block)
        units = gelu(rms_norm(x, block["perceptron_norm"]) @ block["up"]["kernel"])
        x = x + units @ block["down"]["kernel"]
    return rms_norm(x, params["norm"])


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def numpy_lstm(params, tokens):
    x = params["embedding"][tokens] * math.sqrt(WIDTH)
    for layer in params["layers"].values():
        below, past = layer["cell"]["dense_i"], layer["cell"]["dense_h"]
        memory, output, outputs = np.zeros(WIDTH), np.zeros(WIDTH), []
        for step in x:
            gates = step @ below["kernel"] + output @ past["kernel"] + past["bias"]
            i, f, g, o = np.split(gates, 4)
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
            output = sigmoid(o) * np.tanh(memory)
            outputs.append(output)
        x = np.stack(outputs)
    return x


@pytest.mark.parametrize(
    ("name", "reference"), [("transformer", numpy_transformer), ("lstm", numpy_lstm)]
)
def test_a_model_is_its_formula(name, reference):
    params, tokens = drawn(name), some_tokens(2, 7)
    exact = jax.tree.map(lambda p: p.astype(np.float64), params)
    expected = np.stack([reference(exact, sequence) for sequence in tokens])
    np.testing.assert_allclose(hidden_of(name)(params, tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_no_hidden_vector_depends_on_later_tokens(name):
    params, tokens = drawn(name), some_tokens(2, 7)
    before = np.asarray(hidden_of(name)(params, tokens))
    for t in (1, 4, 6):
        changed = tokens.copy()
        changed[0, t] = (changed[0, t] + 1) % VOCABULARY
        after = np.asarray(hidden_of(name)(params, changed))
        np.testing.assert_array_equal(after[0, :t], before[0, :t])
        np.testing.assert_array_equal(after[1], before[1])
        assert (np.abs(after[0, t:] - before[0, t:]).max(-1) > 1e-6).all()


def test_rotated_vectors_have_products_of_their_distance_alone():
    rng = np.random.default_rng(0)
    query, key = (
        np.broadcast_to(rng.normal(size=(3, 6)), (1, 9, 3, 6)).astype(np.float32) for _ in range(2)
    )
    turned = [np.asarray(rotate(jnp.asarray(x), rotations(9, 6)))[0] for x in (query, key)]
    products = np.einsum("qhe,khe->hqk", *turned)
    for distance in range(-8, 9):
        line = np.diagonal(products, distance, 1, 2)
        np.testing.assert_allclose(line, line[:, :1] + 0 * line, atol=1e-5)
    assert np.ptp(products[:, 0], axis=-1).min() > 0.1
    np.testing.assert_allclose(turned[0][0], query[0, 0])  # The first position is not turned.


def test_rotations_are_exact_far_into_a_text():
    cos, sin = rotations(4096, 64)
    angles = np.outer(np.arange(4096), 10_000.0 ** (-np.arange(0, 64, 2) / 64))
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-3)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("transformer", {}, 31 * 8 + 2 * (4 * 64 + 2 * 8 * 12 + 2 * 8) + 8),
        ("transformer", {"hidden": None}, 31 * 8 + 2 * (12 * 64 + 2 * 8) + 8),
        ("lstm", {}, 31 * 8 + 2 * (8 * 64 + 4 * 8)),
    ],
)
def test_parameter_count(name, sizes, expected):
    params = nnx.state(nnx.eval_shape(lambda: create(name, **sizes)))
    assert sum(p.size for p in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_bfloat16_keeps_float32_parameters(name):
    tokens = some_tokens(2, 7)
    _, params = split(name, dtype=jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}

    def total(params, dtype):
        hidden = hidden_of(name, dtype=dtype)(params, tokens)
        return jnp.square(hidden.astype(jnp.float32) - 1.0).sum(), hidden

    differentiate = jax.jit(jax.grad(total, has_aux=True), static_argnames="dtype")
    with implicit_promotion():
        gradient, hidden = differentiate(params, dtype=jnp.bfloat16)
    assert hidden.dtype == jnp.bfloat16
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    exact_gradient, exact = differentiate(params, dtype=jnp.float32)
    assert_near((hidden, gradient), (exact, exact_gradient), 0.03)
    assert not np.array_equal(hidden.astype(jnp.float32), exact)  # It was not computed in float32.


def assert_near(ours, exact, tolerance):
    """Each array's error in the Euclidean norm, relative to the array's."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


def test_what_a_token_adds_to_an_lstm_s_memory_is_not_rounded_away():
    # A gate that forgets nothing, and 600 times 1 in 512: bfloat16 would stop at 0.5.
    _, params = split("lstm", dtype=jnp.bfloat16, layers=1, width=1)
    cell = params["layers"][0]["cell"]
    biases = [math.log(1 / 511), 40.0, 40.0, 40.0]  # input, forget, candidate, output
    cell["dense_h"] = {"kernel": np.zeros((1, 4), np.float32), "bias": np.array(biases, np.float32)}
    cell["dense_i"] = {"kernel": np.zeros((1, 4), np.float32)}
    hidden = hidden_of("lstm", dtype=jnp.bfloat16, layers=1, width=1)(params, some_tokens(1, 600))
    assert float(hidden[0, -1, 0]) == pytest.approx(math.tanh(600 / 512), rel=0.02)


def test_a_model_starts_from_a_guess_that_what_it_reads_can_change():
    options = {"vocabulary": 4096, "width": 128}
    tokens, labels = np.random.default_rng(0).integers(0, 4096, (2, 4, 16), np.int32)
    for name in LANGUAGE_MODELS:
        _, params = split(name, **options)
        hidden = np.asarray(hidden_of(name, **options)(params, tokens))
        assert np.std(hidden, (0, 1)).mean() > 0.05  # Else it learns how often tokens are, no more.
        logits = hidden @ params["embedding"].T
        labelled = np.take_along_axis(logits, labels[..., None], 2)[..., 0]
        loss = np.mean(np.log(np.exp(logits).sum(-1)) - labelled)
        assert loss == pytest.approx(math.log(4096), rel=0.015)


def test_what_a_deep_transformer_adds_up_starts_small():
    _, params = split("transformer", layers=8, width=64, hidden=128)
    for block in params["blocks"].values():
        for layer in ("query_key_value", "up"):
            assert np.std(block[layer]["kernel"]) == pytest.approx(0.02, rel=0.05)
        for layer in ("attended", "down"):
            assert np.std(block[layer]["kernel"]) == pytest.approx(0.02 / 4, rel=0.05)
    assert np.std(params["embedding"]) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_tied_embedding_learns_from_both_ends(name):
    params, tokens = drawn(name), some_tokens(2, 7)
    graphdef, _ = split(name)

    def loss(first, last):
        hidden = nnx.merge(graphdef, params | {"embedding": first})(tokens)
        return jax.nn.logsumexp(hidden @ last.T, axis=-1).sum()

    def tied(embedding):
        model = nnx.merge(graphdef, params | {"embedding": embedding})
        return jax.nn.logsumexp(model(tokens) @ model.embedding[...].T, axis=-1).sum()

    embedding = jnp.asarray(params["embedding"])
    both, (first, last) = jax.jit(
        lambda e: (jax.grad(tied)(e), jax.grad(loss, argnums=(0, 1))(e, e))
    )(embedding)
    np.testing.assert_allclose(both, first + last, rtol=1e-4, atol=1e-4)
    used = np.isin(np.arange(VOCABULARY), tokens)
    assert (np.abs(first).max(1) > 0).tolist() == used.tolist()  # Inputs alone reach it from here,
    assert (np.abs(last).max(1) > 0).all()  # and every token of the vocabulary from there.


@pytest.mark.parametrize("token", [-1, VOCABULARY])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_token_outside_the_vocabulary_is_loud(name, token):
    tokens = some_tokens(2, 7)
    tokens[0, 3] = token
    hidden = hidden_of(name)(drawn(name), tokens)
    assert np.isnan(hidden[0, 3:]).all()
    assert np.isfinite(hidden[1]).all()


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_model_is_decided_by_its_seed(name):
    one, again, other = (nnx.state(create(name, seed=seed)) for seed in (1, 1, 2))
    equal = partial(jax.tree.map, lambda a, b: bool((a == b).all()))
    assert all(jax.tree.leaves(equal(one, again)))
    assert not nnx.to_pure_dict(equal(one, other))["embedding"]


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("transformer", {"layers": 0}, "transformer: layers=0 must be a whole number of at least"),
        ("transformer", {"hidden": 0}, "transformer: hidden=0 must be"),
        ("transformer", {"heads": 3}, "heads=3 must divide width=8 into parts of even length"),
        ("transformer", {"heads": 8}, "whose halves are rotated; width=16 would do"),
        ("lstm", {"width": 0}, "lstm: width=0 must be"),
        ("lstm", {"vocabulary": 0}, "lstm: vocabulary=0 must be"),
    ],
)
def test_bad_sizes_are_told_in_one_line(name, sizes, message):
    with pytest.raises(UserError) as error:
        create(name, **sizes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
