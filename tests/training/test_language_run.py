"""A language model's run: its records, its end however often it is stopped, and what is told."""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from configs import language_model
from tests.training import tiny_run, tiny_text
from xent_jax import models
from xent_jax.data.text import load_text
from xent_jax.data.tokens import byte_tokens, windows
from xent_jax.errors import Interrupted, UserError
from xent_jax.reporting import summary
from xent_jax.training import (
    LanguageRun,
    Run,
    check_config,
    language_run,
    load_corpus,
    loop,
    prepare,
    prepare_language_model,
    trainable_losses,
)
from xent_jax.training.checkpoint import Checkpointer
from xent_jax.training.feed import Feed, make_feed

EPOCHS, STEPS, VOCABULARY = 2, 3, tiny_text.VOCABULARY


@pytest.fixture(scope="module")
def run() -> LanguageRun:
    return tiny_text.run(epochs=EPOCHS, steps_per_call=2, devices=2, vocabulary_devices=2)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("language")


@pytest.fixture(scope="module")
def whole(run: LanguageRun, workdir: Path) -> loop.Result:
    return loop.train(run, workdir, progress=False)


def test_records_tell_perplexity_and_bits_per_byte(run: LanguageRun, whole: loop.Result) -> None:
    test = {key: jnp.asarray(column) for key, column in run.sets["test"].items()}
    params = jax.tree.map(jnp.asarray, jax.device_get(whole.state.params))
    model: Any = nnx.merge(run.program.graphdef, params)
    hidden = np.asarray(jax.jit(lambda tokens: model(tokens))(test["inputs"]), np.float64)
    logits = hidden @ np.asarray(params["embedding"], np.float64).T
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_labels = log_p[*np.indices(test["labels"].shape), test["labels"]]
    nats = -of_labels[np.asarray(test["where"])].sum()
    told = whole.records[-1]["test"]
    assert (told["tokens"], told["bytes"]) == (64, 128)
    assert told["nll"] == pytest.approx(nats / 64, rel=1e-6)
    assert told["perplexity"] == pytest.approx(np.exp(nats / 64), rel=1e-6)
    assert told["bits_per_byte"] == pytest.approx(nats / np.log(2) / 128, rel=1e-6)
    facts = whole.records[-1]
    assert (facts["text_digest"], facts["vocabulary"]) == ("0" * 16, 16)
    assert [record["step"] for record in whole.records] == [STEPS, 2 * STEPS]
    assert whole.records[1]["train"]["loss"] < whole.records[0]["train"]["loss"]


def test_a_stopped_run_ends_as_the_whole_one(
    run: LanguageRun, whole: loop.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)

    def armed(*args: Any) -> Feed:
        feed = make_feed(*args)

        def train(*args: Any) -> Any:
            if next(calls) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return feed.train(*args)

        return feed._replace(train=train)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_feed", armed)
        with pytest.raises(Interrupted, match="saved at step 5 of 6"):
            loop.train(run, tmp_path, progress=False)
    assert Checkpointer(tmp_path / "checkpoints").steps() == [3, 5]
    again = loop.train(run, tmp_path, progress=False)
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)
    ours, theirs = (
        [{**record, "timing": ..., "environment": ...} for record in result.records]
        for result in (again, whole)
    )
    assert ours == theirs


def test_a_run_does_not_go_on_with_another_text(
    run: LanguageRun, workdir: Path, whole: loop.Result
) -> None:
    del whole  # It was trained in this folder.
    other = run._replace(corpus=run.corpus._replace(digest="1" * 16))
    message = f"other data .text_digest: {'0' * 16} -> {'1' * 16}.; give it the same data"
    with pytest.raises(UserError, match=message) as told:
        loop.train(other, workdir, progress=False)
    assert "\n" not in str(told.value)


def test_the_summary_tells_and_draws_them(whole: loop.Result, workdir: Path) -> None:
    told = summary.summarise(workdir)
    perplexity = f"{whole.records[-1]['test']['perplexity']:.3f}"
    for each in ("test perplexity", "bits per byte", perplexity):
        assert each in told
    assert "accuracy" not in told
    assert (workdir / "learning_curve.png").stat().st_size > 1000


@pytest.mark.slow
def test_real_text_gives_the_same_perplexity_with_logits_as_without() -> None:
    parts, found = load_text("python_language_reference"), []
    columns = {
        name: windows(byte_tokens(b"").encode(part), 32)._asdict()
        for name, part in (("train", parts.train[:8192]), ("test", parts.validation[:2048]))
    }
    corpus = language_run.Corpus(columns, 256, test_bytes=2048, digest=parts.digest)
    settings = {"optimizer": ConfigDict({"name": "adamw", "learning_rate": 0.01})}
    naive = ConfigDict({"name": "softmax_cross_entropy_with_integer_labels"})
    with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction leaves it implicit.
        for loss in ({}, {"loss": naive}):
            run = tiny_text.run(corpus, **settings, **loss)
            feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)
            state, _ = feed.train(state, 0, 0, run.steps_per_epoch)
            found.append(run.describe({"test": feed.evaluate(state, "test")}, last=True)["test"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["perplexity"] < 60


@pytest.mark.parametrize("variant", language_model.VARIANTS)
def test_every_variant_can_be_made(variant: str) -> None:
    config = check_config(language_model.get_config(variant))
    config.unlock().devices = 1
    size = config.tokens.get("size", 256)
    given = tiny_text.corpus(train=2 * config.batch_size)._replace(vocabulary=size)
    heads = {"heads": 2} if "heads" in config.model else {}
    config.model = ConfigDict(config.model.to_dict() | {"width": 8} | heads)
    # Adam's own bias correction does not keep the rule on implicit casts.
    with jax.numpy_dtype_promotion("standard"):
        run = prepare_language_model(config, given)
    assert run.initial_state.params["embedding"].shape == (size, 8)


def test_an_unknown_variant_is_told() -> None:
    with pytest.raises(UserError, match="did you mean 'bytes'"):
        language_model.get_config("byte")


@pytest.mark.slow  # 43 losses
def test_every_loss_that_can_be_prepared_is_traced_on_devices_of_their_own_tokens() -> None:
    mesh, by_window = Mesh(np.asarray(jax.devices()[:2]), ("data",)), P("data")
    shape, prepared = jax.ShapeDtypeStruct, []
    shapes = [shape((2, 3, 4), jnp.float32), shape((VOCABULARY, 4), jnp.float32)]
    shapes += [shape((2, 3), jnp.int32), shape((2, 3), jnp.bool)]
    for name in trainable_losses():
        config = check_config(tiny_text.config(loss=ConfigDict({"name": name})))
        try:
            total = language_run._of_logits("loss", config, VOCABULARY)
        except UserError:
            continue  # It asks for what no text gives.
        prepared.append(name)
        gradient = jax.shard_map(
            jax.grad(lambda *given, total=total: total(*given, axis=None)),
            mesh=mesh,
            in_specs=(by_window, P(), by_window, by_window),
            out_specs=by_window,
        )
        assert jax.eval_shape(gradient, *shapes).shape == (2, 3, 4)
    assert {"entmax_loss", "entmax15_loss", "multiclass_sparsemax_loss"} < set(prepared)


MISTAKES = {
    "what images have": ({"ema_decay": 0.9}, "config.ema_decay has no meaning in a language"),
    "a part of it": ({"dataset.shift": 1}, "config.dataset.shift has no meaning"),
    "too many parts": ({"accumulate": 3}, "batch_size=8 does not divide into config.accumulate=3"),
    "a vocabulary over 3": (
        {"devices": 3, "vocabulary_devices": 3, "batch_size": 9, "eval_batch_size": 9},
        "vocabulary_devices=3 must divide both the 3 devices and the 16 tokens",
    ),
    "more than all devices": ({"vocabulary_devices": 2}, "vocabulary_devices=2 must divide both"),
    "logits of a split vocabulary": (
        {
            "devices": 2,
            "vocabulary_devices": 2,
            "loss": ConfigDict({"name": "softmax_cross_entropy_with_integer_labels"}),
        },
        "needs all logits: set config.vocabulary_devices=1, or name linear_softmax_cross_entropy",
    ),
    "a model's argument": ({"model.depth": 2}, "'transformer' has no argument 'depth'"),
    "heads": ({"model.heads": 3}, "heads=3 must divide width=8"),
    "a type of number": ({"model.dtype": "float8"}, "float8"),
    "a number of bits": ({"model.dtype": 16}, "dtype=16 is not offered; one of: float32, bfloat16"),
    "no width": ({"model": ConfigDict({"name": "lstm", "layers": 1})}, "'lstm' cannot be made"),
    "a loss's argument": ({"loss.zloss": 1.0}, "has no argument 'zloss'.*'z_loss'"),
    "a loss's range": ({"loss.label_smoothing": 2.0}, "cannot be trained so: label_smoothing"),
    "an implementation": ({"loss.implementation": "quick"}, "cannot be trained so: implementation"),
    "a baseline's range": (
        {"baseline": ConfigDict({"name": "linear_softmax_cross_entropy", "z_loss": -1.0})},
        "config.baseline: 'linear_softmax_cross_entropy' cannot be trained so: z_loss",
    ),
    "a baseline's logits": (
        {
            "devices": 2,
            "vocabulary_devices": 2,
            "baseline": ConfigDict({"name": "generalized_cross_entropy"}),
        },
        "config.baseline: 'generalized_cross_entropy' needs all logits",
    ),
    "an unknown loss": ({"loss.name": "linear_softmax"}, "config.loss.name='linear_softmax'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as told:
        tiny_text.run(**changes)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"tokens.name": "words"}, {}, "config.tokens.name='words' is unknown.*bytes, bpe"),
        (
            {"tokens": ConfigDict({"name": "bpe", "size": "big"})},
            {},
            "config.tokens.size='big' must be a whole number, at least 256",
        ),
        ({"tokens": ConfigDict({"name": "bpe", "size": 300.5})}, {}, "tokens.size=300.5 must be a"),
        ({"tokens.size": 300}, {}, "config.tokens: 'bytes' has no argument 'size'"),
        ({}, {"raw_dir": "files"}, "--raw_dir"),
    ],
)
def test_mistakes_of_texts_are_told(
    changes: dict[str, Any], place: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_corpus(check_config(tiny_text.config(**changes)), **place)


def test_a_text_is_cut_into_windows_of_every_byte(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(f"file {number}: the cat sat on the mat\n" * 3)
    settings = {"dataset.name": "folder", "dataset.window": 50}
    plain = load_corpus(check_config(tiny_text.config(**settings)), data_dir=str(tmp_path))
    settings |= {"tokens": ConfigDict({"name": "bpe", "size": 270})}
    pairs = load_corpus(check_config(tiny_text.config(**settings)), data_dir=str(tmp_path))
    assert (plain.vocabulary, pairs.vocabulary) == (256, 270)
    assert plain.test_bytes == pairs.test_bytes == plain.windows["test"]["where"].sum()
    assert pairs.windows["test"]["where"].sum() < 0.7 * plain.test_bytes
    assert plain.windows["train"]["inputs"].shape[1] == 50


@pytest.mark.parametrize("key", ["accumulate", "vocabulary_devices", "dataset.window"])
def test_images_do_not_read_what_texts_do(key: str) -> None:
    sets = {"train": tiny_run.dataset(9), "test": tiny_run.dataset(4)}
    with pytest.raises(UserError, match=f"config.{key} has no meaning in training on images"):
        prepare(tiny_run.config(**{key: 2}), sets)


def test_both_kinds_of_run_give_the_loop_what_it_asks_for() -> None:
    asked = {"name", "steps_per_epoch", "steps", "columns", "describe", "facts", "metadata"}
    fields = {"config", "runner", "initial_state"}
    for kind in (Run, LanguageRun):
        assert asked <= set(dir(kind))
        assert fields <= set(kind._fields)
    assert models.LANGUAGE_MODELS.keys().isdisjoint(models.NAMES)
