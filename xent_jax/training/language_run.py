"""A language model's run made ready: from a config to windows of text and a compiled program.

It is what `loop.py` asks of a run, as `run.Run` is for images.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax import metrics, models
from xent_jax.data import pipeline, text, tokens
from xent_jax.errors import UserError
from xent_jax.models.layers import compute_dtype
from xent_jax.training import language_step as step
from xent_jax.training.config import (
    Config,
    call_arguments,
    check_config,
    check_unread,
    known_name,
)
from xent_jax.training.language_step import LanguageProgram, LanguageSums, SumOfLosses, Windows
from xent_jax.training.mesh import placed
from xent_jax.training.objective import make_objective, trainable_losses
from xent_jax.training.optimizer import make_optimizer
from xent_jax.training.run import devices_of, name_of
from xent_jax.training.step import StepMetrics, TrainState
from xent_jax.typing import Array

LINEAR = "linear_softmax_cross_entropy"
"""The loss of a config that never holds logits; all others of the catalogue are given them."""

# Not logit_softcap, temperature and class_prior: they change what the model's probabilities are, so
# that evaluation, and whoever uses the model, would have to apply them as well.
_LINEAR_ARGUMENTS = ("label_smoothing", "z_loss", "implementation")

_UNREAD = ("corruption", "imbalance", "sampler", "reweighting", "mixing", "second_stage")
_UNREAD += ("few_shot", "teacher", "co_teaching", "evaluation", "ema_decay", "parallel")
_UNREAD += ("dataset.resident", "dataset.standardise", "dataset.shift", "dataset.flip")
_UNREAD += ("dataset.train_examples", "dataset.validation_examples")


class Corpus(NamedTuple):
    """A text in windows of tokens."""

    windows: dict[str, dict[str, np.ndarray]]  # train and test: inputs, labels and where, (W, L)
    vocabulary: int
    test_bytes: int  # that the test's tokens stand for
    digest: str  # of the text


class LanguageRunner(NamedTuple):
    """A program compiled for some devices. The state given to `train_chunk` is donated."""

    place_state: Callable[[TrainState], TrainState]
    place_data: Callable[[Mapping[str, np.ndarray]], Windows]
    train_chunk: Callable[..., tuple[TrainState, StepMetrics]]
    evaluate: Callable[[TrainState, Windows], LanguageSums]
    single: Callable[[Any], Any]  # as `mesh.Runner` has it


class LanguageRun(NamedTuple):
    """What a run reads, what is compiled for it and the state it starts from."""

    config: Config
    corpus: Corpus
    program: LanguageProgram
    runner: LanguageRunner
    initial_state: TrainState  # on the host

    @property
    def name(self) -> str:
        return name_of(self.config)

    @property
    def sets(self) -> dict[str, dict[str, np.ndarray]]:
        return self.corpus.windows

    @property
    def steps_per_epoch(self) -> int:
        return pipeline.steps_per_epoch(len(self.sets["train"]["inputs"]), self.config.batch_size)

    @property
    def steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """What the devices hold of a set."""
        return self.sets[name]

    def describe(self, sums: Mapping[str, LanguageSums], *, last: bool) -> dict[str, Any]:
        """What a record tells of an evaluation: nats per token, and bits per byte of the text."""
        del last
        nats, count = float(sums["test"].nats.value()), int(sums["test"].tokens)
        test = {"nll": nats / count, "perplexity": metrics.token_perplexity(nats, count)}
        test["bits_per_byte"] = metrics.bits_per_character(nats, self.corpus.test_bytes)
        return {"test": test | {"tokens": count, "bytes": self.corpus.test_bytes}}

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says of the data."""
        return {"text_digest": self.corpus.digest, "vocabulary": self.corpus.vocabulary}

    @property
    def metadata(self) -> dict[str, Any]:
        """What a checkpoint says beside the state."""
        return {}


def load_corpus(
    config: Config, *, data_dir: str | None = None, raw_dir: str | None = None
) -> Corpus:
    """Returns the config's text, cut into tokens and windows.

    Raises:
      UserError: an unknown text or kind of tokens, or a text that is missing.
    """
    if raw_dir is not None:
        raise UserError("--raw_dir holds images' canonical files; give --data_dir, or nothing")
    make = tokens.TOKENIZERS[known_name("tokens", config.tokens.name, tokens.TOKENIZERS)]
    takes = inspect.signature(make).parameters.keys() - {"text"}
    arguments = call_arguments("tokens", config.tokens, takes)
    if type(size := arguments.get("size", 256)) is not int:
        raise UserError(f"config.tokens.size={size!r} must be a whole number, at least 256")
    found = text.load_text(config.dataset.name, data_dir=data_dir)
    tokenizer = make(found.train, **arguments)
    windows = {
        split: tokens.windows(tokenizer.encode(part), config.dataset.window)._asdict()
        for split, part in (("train", found.train), ("test", found.validation))
    }
    return Corpus(windows, tokenizer.vocabulary, len(found.validation), found.digest)


def prepare_language_model(config: Config, corpus: Corpus) -> LanguageRun:
    """Returns the run that `config` describes on a text; nothing is trained or written yet.

    Raises:
      UserError: bad input of any kind, in one line.
    """
    config = check_config(config)
    check_unread(config, _UNREAD, "a language model's training")
    mesh = _mesh(config, corpus.vocabulary)
    if config.baseline.name != "none":  # It is trained by a run of its own, but told of here.
        _make_loss("baseline", config, corpus.vocabulary)
    model_key, order_key = jax.random.split(jax.random.key(config.seed))
    create = partial(_create_model, config, corpus.vocabulary)
    shapes = _try_model(config, create)
    steps_per_epoch = pipeline.steps_per_epoch(
        len(corpus.windows["train"]["inputs"]), config.batch_size
    )
    program = LanguageProgram(
        graphdef=nnx.split(shapes, ...)[0],
        sum_of_losses=_make_loss("loss", config, corpus.vocabulary),
        optimizer=make_optimizer(config, steps_per_epoch),
        order_key=order_key,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        accumulate=config.accumulate,
        mesh=mesh,
    )
    init = partial(step.init_state, partial(create, model_key), program.optimizer)
    state = jax.device_get(jax.jit(init)())
    return LanguageRun(config, corpus, program, make_runner(program, state), state)


def make_runner(program: LanguageProgram, state: TrainState) -> LanguageRunner:
    """Returns the program under jit; `state` tells the shapes of what it trains."""
    everywhere = NamedSharding(program.mesh, P())
    by_rows = jax.tree.map(partial(NamedSharding, program.mesh), step.state_specs(state))
    return LanguageRunner(
        place_state=lambda state: jax.tree.map(placed, state, by_rows),
        place_data=lambda data: jax.tree.map(lambda x: placed(x, everywhere), data),
        train_chunk=jax.jit(
            partial(step.train_chunk, program),
            static_argnums=4,
            donate_argnums=0,
            out_shardings=(by_rows, everywhere),
        ),
        evaluate=jax.jit(partial(step.evaluate, program), out_shardings=everywhere),
        single=lambda tree: tree,
    )


def _mesh(config: Config, vocabulary: int) -> Mesh:
    devices, split = devices_of(config), config.vocabulary_devices
    if len(devices) % split or vocabulary % split:
        raise UserError(
            f"config.vocabulary_devices={split} must divide both the {len(devices)} devices and "
            f"the {vocabulary} tokens of the vocabulary"
        )
    if split > 1 and jax.process_count() > 1:
        raise UserError("config.vocabulary_devices must be 1 where several processes train")
    if config.batch_size % (len(devices) * config.accumulate):
        raise UserError(
            f"config.batch_size={config.batch_size} does not divide into config.accumulate="
            f"{config.accumulate} parts over {len(devices)} devices; use a multiple of "
            f"{len(devices) * config.accumulate}"
        )
    shape = (len(devices) // split, split)
    return Mesh(np.asarray(devices).reshape(shape), (step.DATA, step.VOCABULARY))


def _create_model(config: Config, vocabulary: int, key: jax.Array) -> nnx.Module:
    model = models.LANGUAGE_MODELS[known_name("model", config.model.name, models.LANGUAGE_MODELS)]
    takes = inspect.signature(model.__init__).parameters.keys() - {"self", "vocabulary", "rngs"}
    arguments = call_arguments("model", config.model, takes)
    arguments["dtype"] = compute_dtype(arguments.get("dtype", "float32"))
    return model(vocabulary, rngs=nnx.Rngs(key), **arguments)


def _try_model(config: Config, create: Callable[[jax.Array], nnx.Module]) -> Any:
    """Returns the model's shapes, or says why it cannot be made."""
    try:
        return nnx.eval_shape(partial(create, jax.random.key(0)))
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"config.model: {config.model.name!r} cannot be made: {reason}") from None


def _make_loss(section: str, config: Config, vocabulary: int) -> SumOfLosses:
    """Returns the sum of the losses that a section names, from the last layer's input."""
    if config[section].name != LINEAR:
        return _of_logits(section, config, vocabulary)
    arguments = call_arguments(section, config[section], _LINEAR_ARGUMENTS)
    loss = partial(step.cross_entropy, **arguments)
    shape = jax.ShapeDtypeStruct
    hidden, labels = shape((2, 4), jnp.float32), shape((2,), jnp.int32)
    try:
        table, where = shape((vocabulary, 4), jnp.float32), shape((2,), jnp.bool)
        jax.eval_shape(partial(loss, axis=None), hidden, table, labels, where)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.{section}: {LINEAR!r} cannot be trained so: {reason}") from None
    return loss


def _of_logits(section: str, config: Config, vocabulary: int) -> SumOfLosses:
    """Returns the sum of a loss of the catalogue, for which all logits are held."""
    name = known_name(section, config[section].name, (LINEAR, *trainable_losses()))
    if config.vocabulary_devices > 1:
        raise UserError(
            f"config.{section}: {name!r} needs all logits: set config.vocabulary_devices=1, or "
            f"name {LINEAR}"
        )
    shape = jax.ShapeDtypeStruct
    fed = {"logits": shape((2, vocabulary), jnp.float32), "labels": shape((2,), jnp.int32)}
    fed |= {"where": shape((2,), jnp.bool), "epoch": shape((), jnp.int32)}
    objective = make_objective(
        section, config[section], fed, {"num_classes": vocabulary, "axis_name": None}
    )
    if objective.state is not None:
        raise UserError(f"config.{section}: {name!r} keeps a state, which no text has")

    def total(hidden: Array, table: Array, labels: Array, where: Array, axis: str | None) -> Array:
        assert axis is None
        logits = jnp.einsum("bld,vd->blv", hidden, table, preferred_element_type=jnp.float32)
        given = {"logits": logits.reshape(-1, vocabulary), "labels": labels.reshape(-1)}
        return objective.loss(given | {"where": where.reshape(-1)})[0].sum()

    return total
