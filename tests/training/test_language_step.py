"""However tokens fall on devices and micro-batches, a language model learns the same."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from tests.training import tiny_text
from xent_jax.training.feed import make_feed
from xent_jax.training.language_run import LanguageRun

STEPS = 3  # of 8, 8 and 4 windows
NAIVE = {"loss": ConfigDict({"name": "softmax_cross_entropy_with_integer_labels"})}
LSTM = {"model": ConfigDict({"name": "lstm", "width": 8, "layers": 1})}
BFLOAT16 = {"model.dtype": "bfloat16"}


def uneven() -> Any:
    """A corpus in which windows have very different numbers of tokens that count, and some none."""
    given = tiny_text.corpus()
    where = given.windows["train"]["where"]
    length = np.arange(len(where)) % (tiny_text.WINDOW + 1)
    where &= np.arange(tiny_text.WINDOW) < length[:, None]
    return given


def trained(run: LanguageRun) -> dict[str, np.ndarray]:
    """Trains an epoch and returns parameters, moments, losses and the test text's sums."""
    feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)
    state, steps = feed.train(state, 0, 0, STEPS)
    sums = feed.evaluate(state, "test")
    leaves = jax.tree.leaves_with_path(jax.device_get(state))
    outcome = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    outcome |= {"loss": steps.loss, "tokens": steps.examples}
    return outcome | {"nats": sums.nats.value(), "counted": np.asarray(sums.tokens)}


@functools.cache
def run_of(model: str) -> LanguageRun:
    return tiny_text.run(uneven(), **(LSTM if model == "lstm" else {}))


@functools.cache
def alone(model: str) -> dict[str, np.ndarray]:
    return trained(run_of(model))


LAYOUTS = {
    "2 micro-batches": {"accumulate": 2},
    "4 micro-batches": {"accumulate": 4},
    "8 micro-batches": {"accumulate": 8},
    "8 devices": {"devices": 8},
    "4 devices, 2 micro-batches": {"devices": 4, "accumulate": 2},
    "vocabulary over 4": {"devices": 4, "vocabulary_devices": 4},
    "vocabulary over 2 of 4, 2 micro-batches": {
        "devices": 4,
        "vocabulary_devices": 2,
        "accumulate": 2,
    },
    "lstm, vocabulary over 2 of 4": {"devices": 4, "vocabulary_devices": 2, **LSTM},
    "logits": NAIVE,
    "logits on 2 devices, 2 micro-batches": {"devices": 2, "accumulate": 2, **NAIVE},
}


QUICK = ("8 micro-batches", "lstm, vocabulary over 2 of 4")
QUICK += ("vocabulary over 2 of 4, 2 micro-batches", "logits on 2 devices, 2 micro-batches")


@pytest.mark.parametrize(
    "layout",
    # Each compiles a program of its own; what the others show, these show together.
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS],
)
def test_layouts_and_micro_batches_agree(layout: str) -> None:
    run = tiny_text.run(uneven(), **LAYOUTS[layout])
    one, other = alone(run.config.model.name), trained(run)
    tokens = uneven().windows["train"]["where"].sum()
    assert one["tokens"].sum() == tokens
    assert len(set(one["tokens"])) == STEPS  # so that a mean of means would be another number
    assert one["counted"] == 64
    assert other.keys() == one.keys()
    for leaf, value in one.items():
        np.testing.assert_allclose(other[leaf], value, rtol=1e-4, atol=1e-5, err_msg=leaf)


@pytest.mark.parametrize("vocabulary_devices", [1, 2])
def test_a_token_that_is_none_is_loud_on_any_devices(vocabulary_devices: int) -> None:
    given = tiny_text.corpus(train=8 * tiny_text.WINDOW)
    run = tiny_text.run(given, devices=2, vocabulary_devices=vocabulary_devices)
    for token in (-1, tiny_text.VOCABULARY):
        given.windows["train"]["inputs"][3, 2] = token
        _, steps = make_feed(run, 0).train(run.runner.place_state(run.initial_state), 0, 0, 1)
        assert np.isnan(steps.loss).all(), token


def test_the_vocabulary_s_rows_and_moments_lie_on_their_devices() -> None:
    run = tiny_text.run(devices=4, vocabulary_devices=4)
    state = run.runner.place_state(run.initial_state)
    state, _ = make_feed(run, 0).train(state, 0, 0, 1)
    trace = state.opt_state[1][0].trace
    for table in (state.params["embedding"], trace["embedding"]):
        assert {shard.data.shape for shard in table.addressable_shards} == {(4, 8)}
    down = state.params["blocks"][0]["down"]["kernel"]
    assert down.sharding.is_fully_replicated


def test_a_step_is_that_of_the_mean_over_all_tokens_that_count() -> None:
    given, run = uneven(), tiny_text.run(uneven(), clip_norm=0.0, batch_size=24)
    feed = make_feed(run, 0)
    state, steps = feed.train(run.runner.place_state(run.initial_state), 0, 0, 1)
    train = {key: jnp.asarray(column) for key, column in given.windows["train"].items()}

    def mean(params: Any) -> jax.Array:
        model: Any = nnx.merge(run.program.graphdef, params)
        logits = model(train["inputs"]) @ params["embedding"].T
        gaps = jax.nn.log_softmax(logits)[*np.indices(train["labels"].shape), train["labels"]]
        return -gaps.sum(where=train["where"]) / train["where"].sum(dtype=jnp.float32)

    loss, slopes = jax.jit(jax.value_and_grad(mean))(run.initial_state.params)
    np.testing.assert_allclose(steps.loss, [loss], rtol=1e-6)
    moved = jax.tree.map(jnp.subtract, run.initial_state.params, slopes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, moved)


def test_a_batch_without_a_token_that_counts_teaches_nothing() -> None:
    given = tiny_text.corpus()
    given.windows["train"]["where"][:] = False
    run = run_of("transformer")._replace(corpus=given)
    state, steps = make_feed(run, 0).train(run.runner.place_state(run.initial_state), 0, 0, STEPS)
    assert (steps.loss.tolist(), steps.examples.tolist()) == ([0.0] * STEPS, [0.0] * STEPS)
    jax.tree.map(np.testing.assert_array_equal, state.params, run.initial_state.params)


def test_bfloat16_computes_on_float32_parameters() -> None:
    run = tiny_text.run(uneven(), **BFLOAT16)
    tokens = jnp.zeros((1, 2), jnp.int32)

    def output(params: Any) -> jax.Array:
        model: Any = nnx.merge(run.program.graphdef, params)
        return model(tokens)

    with jax.numpy_dtype_promotion("standard"):  # JAX's attention does not keep the strict rule.
        found = trained(run)
        hidden = jax.eval_shape(output, run.initial_state.params)
    expected = alone("transformer")
    dtypes = {found[leaf].dtype for leaf in found if ".params" in leaf}
    assert dtypes == {np.dtype("float32")}
    assert hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=0.01)
    assert np.abs(found["loss"] - expected["loss"]).max() > 0


def test_twenty_steps_without_logits_are_those_with_them() -> None:
    settings = {"optimizer.learning_rate": 0.2, "batch_size": 4}
    given, curves = tiny_text.corpus(train=20 * 4 * tiny_text.WINDOW), []
    for changes in ({}, NAIVE):
        run = tiny_text.run(given, **settings, **changes)
        state = run.runner.place_state(run.initial_state)
        _, steps = make_feed(run, 0).train(state, 0, 0, 20)
        curves.append(steps.loss)
    np.testing.assert_allclose(*curves, rtol=1e-5)
    assert curves[0][-5:].mean() < 0.9 * curves[0][:5].mean()


def test_the_linear_loss_needs_a_fraction_of_the_logits_memory() -> None:
    windows, vocabulary = np.zeros((16, 64), np.int32), 4096
    columns = {"inputs": windows, "labels": windows, "where": windows == 0}
    given = tiny_text.corpus()._replace(windows={"train": columns}, vocabulary=vocabulary)
    needed = {}
    for name, changes in {"linear": {}, "naive": NAIVE}.items():
        run = tiny_text.run(given, batch_size=16, **changes)
        state = run.runner.place_state(run.initial_state)
        compiled = run.runner.train_chunk.lower(state, columns, 0, 0, 1).compile()
        needed[name] = compiled.memory_analysis().temp_size_in_bytes
    logits = windows.size * vocabulary * 4
    assert needed["linear"] < needed["naive"] - logits
    assert needed["linear"] < needed["naive"] / 4
