"""Few-shot learning: networks trained on some classes, and tested by episodes of unseen ones.

`few_shot_methods.py` says how each method learns and classifies. Here a config becomes a run of
one of them, as pure functions that can be compiled alone or mapped over a stack of runs.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from xent_jax import data, models
from xent_jax.data import episodes, pipeline
from xent_jax.errors import UserError
from xent_jax.training.config import (
    OF_TEXT,
    Config,
    call_arguments,
    check_config,
    check_unread,
    known_name,
    with_numbers,
)
from xent_jax.training.few_shot_methods import (
    METHODS,
    Data,
    Method,
    Program,
    Protocol,
    class_labels,
    features,
)
from xent_jax.training.optimizer import make_optimizer
from xent_jax.training.program import Shapes, create_model
from xent_jax.training.step import StepMetrics, TrainState
from xent_jax.training.trainable import Trainable
from xent_jax.typing import Array, Float, Key

FEW_SHOT_METHODS = tuple(METHODS)
"""How a config may learn from few examples, by name."""

_AT_ONCE = 50  # test episodes, which are in memory together

_UNREAD = ("loss", "baseline", "corruption", "imbalance", "sampler", "reweighting", "mixing")
_UNREAD += ("teacher", "co_teaching", "evaluation", "ema_decay", "dataset.shift", "dataset.flip")
_UNREAD += ("dataset.train_examples", "dataset.validation_examples", "second_stage", *OF_TEXT)


def load_few_shot_sets(
    config: Config, *, data_dir: str | None = None, raw_dir: str | None = None
) -> dict[str, data.Dataset]:
    """Returns train, test and perhaps validation: data sets without a class in common.

    All examples of an ordinary data set, its test set's too, are divided by their classes.

    Raises:
      UserError: an unknown data set, too few classes, or data that is missing or damaged.
    """
    _, protocol, _ = _settings(config)
    name = known_name("dataset", config.dataset.name, data.NAMES)
    load = partial(data.load, name, data_dir=data_dir, raw_dir=raw_dir)
    if name not in data.SPLIT_BY_CLASS:
        sets = _by_classes(_joined(load(split="train"), load(split="test")), protocol)
    elif protocol.train_classes or protocol.validation_classes:
        raise UserError(
            f"config.few_shot: {name!r} is split by classes already; leave out train_classes and "
            "validation_classes"
        )
    else:
        sets = {split: load(split=split) for split in ("train", "validation", "test")}
    return {s: episodes.with_rotations(d) for s, d in sets.items()} if protocol.rotations else sets


def prepare_few_shot(
    config: Config, sets: Mapping[str, data.Dataset]
) -> tuple[Trainable, dict[str, Any], dict[str, Any]]:
    """Returns a run as pure functions, its facts, and what it shares with others of its kind.

    Facts are the data of the seed's key, and the numbers that runs of one compiled program may
    differ in, by their dotted keys in the config. From the key come the initial parameters, the
    training episodes and the test's: runs with one seed are tested by the same episodes, whatever
    their method. The functions are to be compiled, as their numbers are traced.

    Args:
      config: of a run, with a section `few_shot`.
      sets: of `load_few_shot_sets`.

    Raises:
      UserError: bad input of any kind, in one line.
    """
    config = check_config(config)
    _check_unread(config)
    method, protocol, arguments = _settings(config)
    _check_sets(method, protocol, sets)
    make = partial(_program, config, sets["train"])
    trainable = Trainable(
        init=lambda facts: _init(make(facts), facts),
        train=lambda state, facts, shared, epoch, start, length: _train(
            make(facts), state, facts, shared["train"], length
        ),
        evaluate=lambda state, facts, shared: _evaluate(make(facts), state, facts, shared),
        finish=lambda state, facts, shared: None,
        describe=partial(_describe, protocol),
        steps_per_epoch=_steps_per_epoch(protocol),
        epochs=config.epochs,
    )
    key = np.asarray(jax.random.key_data(jax.random.key(config.seed)))
    facts = {"key": key, "numbers": _numbers(config, arguments)}
    _try_model(trainable, facts, config)
    return trainable, facts, {split: _arrays(dataset) for split, dataset in sets.items()}


def _settings(config: Config) -> tuple[Method, Protocol, dict[str, Any]]:
    """Returns the section's method, and its arguments: those that all take, and its own."""
    spec = config.few_shot
    method = METHODS[known_name("few_shot", spec.name, METHODS)]
    given = call_arguments("few_shot", spec, {*Protocol._fields, *method.arguments})
    if isinstance(given.get("test_shots"), int | list):
        given["test_shots"] = tuple(np.ravel(given["test_shots"]).tolist())
    defaults = {**Protocol._field_defaults, **method.arguments}
    for key, value in given.items():
        _check_argument(key, value, defaults[key])
    arguments = {key: type(own)(given.get(key, own)) for key, own in method.arguments.items()}
    protocol = Protocol(**{k: v for k, v in given.items() if k in Protocol._fields})
    if protocol.episodes_per_epoch % protocol.episodes_per_step:
        raise UserError(
            f"config.few_shot: episodes_per_epoch={protocol.episodes_per_epoch} must be a multiple "
            f"of episodes_per_step={protocol.episodes_per_step}"
        )
    return method, protocol, arguments


def _check_argument(key: str, value: Any, default: Any) -> None:
    """Raises UserError for what is not of its default's kind, or out of its range."""
    least = 0 if key in ("train_classes", "validation_classes") else 1
    if isinstance(default, bool):
        right, wanted = isinstance(value, bool), "True or False"
    elif isinstance(default, float):
        right = type(value) in (int, float) and 0 < value < np.inf
        wanted = "a number above 0"
    else:
        numbers = value if isinstance(default, tuple) else (value,)
        right = bool(numbers) and all(type(number) is int and number >= least for number in numbers)
        wanted = f"whole, at least {least}"
    if not right:
        raise UserError(f"config.few_shot.{key}={value!r} must be {wanted}")


def _check_unread(config: Config) -> None:
    """Raises UserError where a key is set that few-shot runs do not read."""
    check_unread(config, _UNREAD, "few-shot learning")
    if config.model.get("cosine_scale"):
        raise UserError(
            "config.model.cosine_scale: in few-shot learning the method chooses the last layer; "
            "name cosine_classifier, with its scale"
        )


def _check_sets(method: Method, protocol: Protocol, sets: Mapping[str, data.Dataset]) -> None:
    """Raises UserError if the data cannot fill the episodes."""
    if method.adapts and protocol.ways != protocol.test_ways:
        raise UserError(
            f"config.few_shot: MAML's last layer tells ways={protocol.ways} classes apart, and so "
            f"test_ways={protocol.test_ways} must be as many"
        )
    if not method.of_training_classes:
        train = {"ways": protocol.ways, "shots": protocol.shots, "queries": protocol.queries}
        episodes.check_episodes(sets["train"], **train)
    test = {"ways": protocol.test_ways, "shots": max(protocol.test_shots)}
    for split in sets.keys() - {"train"}:
        episodes.check_episodes(sets[split], **test, queries=protocol.test_queries)


def _joined(train: data.Dataset, test: data.Dataset) -> data.Dataset:
    images = np.concatenate([train.images, test.images])
    labels = np.concatenate([train.labels, test.labels])
    return data.Dataset(images, labels, labels, train.class_names, train.name)


def _by_classes(whole: data.Dataset, protocol: Protocol) -> dict[str, data.Dataset]:
    train, validation = protocol.train_classes, protocol.validation_classes
    if not train:
        raise UserError(
            f"config.few_shot: {whole.name!r} is not split by classes: set train_classes, below "
            f"{whole.num_classes}"
        )
    names = ("train", "validation", "test") if validation else ("train", "test")
    sizes = (train, validation) if validation else (train,)
    return dict(zip(names, episodes.split_classes(whole, sizes), strict=True))


def _steps_per_epoch(protocol: Protocol) -> int:
    return protocol.episodes_per_epoch // protocol.episodes_per_step


def _numbers(config: Config, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers that the runs of one compiled program may differ in."""
    make_optimizer(config, 1)  # Tells of bad ones, which could not be told once they are traced.
    numbers = {"optimizer.learning_rate": config.optimizer.learning_rate}
    numbers["weight_decay"] = config.weight_decay
    numbers |= {f"few_shot.{k}": v for k, v in arguments.items() if isinstance(v, float)}
    return {key: np.float32(value) for key, value in numbers.items()}


def _arrays(dataset: data.Dataset) -> dict[str, Any]:
    table = episodes.class_table(dataset)
    return {"image": dataset.images, "label": dataset.labels, "table": table}


def _program(config: Config, train: data.Dataset, facts: Mapping[str, Any]) -> Program:
    """Returns what is compiled, with the facts' numbers, which may be traced, in their places."""
    method, protocol, arguments = _settings(config)
    numbers = facts["numbers"]
    classes = train.num_classes if method.of_training_classes else protocol.ways
    shapes = Shapes(train.name, len(train.labels), classes, train.images.shape[1:])
    # A layer of cosines is not scaled itself: the scale may be traced.
    changed = {"model.cosine_scale": 1.0} if config.few_shot.name == "cosine_classifier" else {}
    create = partial(create_model, with_numbers(config, changed), shapes, None)
    mean, deviation = pipeline.channel_statistics(train)
    if not config.dataset.standardise:
        mean, deviation = 0.0 * mean, np.ones_like(deviation)
    return Program(
        method=method,
        protocol=protocol,
        arguments={key: numbers.get(f"few_shot.{key}", arguments[key]) for key in arguments},
        create=create,
        graphdef=nnx.split(nnx.eval_shape(partial(create, jax.random.key(0))), ...)[0],
        optimizer=make_optimizer(with_numbers(config, numbers), _steps_per_epoch(protocol)),
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        mean=tuple(map(float, mean)),
        deviation=tuple(map(float, deviation)),
    )


def _try_model(trainable: Trainable, facts: Mapping[str, Any], config: Config) -> None:
    known_name("model", config.model.name, models.NAMES)
    try:
        jax.eval_shape(trainable.init, facts)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"config.model: {config.model.name!r} cannot be made: {reason}") from None


class _Keys(NamedTuple):
    model: jax.Array
    train: jax.Array  # of the training's episodes or batches, and of dropout
    test: jax.Array  # of the test's episodes


def _keys(facts: Mapping[str, Any]) -> _Keys:
    return _Keys(*jax.random.split(jax.random.wrap_key_data(facts["key"]), 3))


def _init(program: Program, facts: Mapping[str, Any]) -> TrainState:
    model: Any = program.create(_keys(facts).model)
    _, network, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    network, batch_stats = nnx.to_pure_dict(network), nnx.to_pure_dict(batch_stats)
    params = {"network": network, "head": program.method.learned(program.arguments)}
    step, opt_state = jnp.zeros((), jnp.int32), program.optimizer.init(params)
    return TrainState(step, params, batch_stats, opt_state, None)


def _train(
    program: Program, state: TrainState, facts: Mapping[str, Any], train: Data, length: int
) -> tuple[TrainState, StepMetrics]:
    """Returns the state after `length` steps. Those of step s are drawn from the key and s."""

    def body(state: TrainState, _: None) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(_keys(facts).train, state.step)
        loss = partial(_mean_loss, program, state.batch_stats, train, key)
        gradient, (loss, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = program.optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(state.step + 1, params, batch_stats, opt_state, None)
        return moved, StepMetrics(loss, jnp.ones((), jnp.float32))

    return jax.lax.scan(body, state, length=length)


def _mean_loss(
    program: Program, batch_stats: Any, train: Data, key: Key[Array, ""], params: Any
) -> tuple[Array, tuple[Array, Any]]:
    """Returns the mean loss of a step's episodes, to differentiate and to tell, and statistics.

    Each episode moves the running statistics by itself; what stays is the mean.
    """
    loss = partial(program.method.loss, program, params, batch_stats, train)
    episodes = 1 if program.method.of_training_classes else program.protocol.episodes_per_step
    each = jax.vmap(loss)(jax.random.split(key, episodes))
    loss, batch_stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), each)
    return loss, (loss, batch_stats)


def _evaluate(
    program: Program, state: TrainState, facts: Mapping[str, Any], shared: Mapping[str, Data]
) -> dict[str, dict[str, Array]]:
    """Returns the accuracy of every episode, by the set and the number of shots."""
    accuracies = {}
    for place, split in enumerate(("test", "validation")):
        if split in shared:
            key = jax.random.fold_in(_keys(facts).test, place)
            accuracies[split] = _accuracies(program, state, key, shared[split])
    return accuracies


def _accuracies(
    program: Program, state: TrainState, key: Key[Array, ""], data: Data
) -> dict[str, Float[Array, " episodes"]]:
    protocol, examples = program.protocol, data["image"]
    if not program.method.adapts:  # Then each image needs to go through the network only once.

        def feature(image: Array) -> Array:
            return features(program, state.params, state.batch_stats, image[None])[0][0]

        examples = jax.lax.map(feature, examples, batch_size=program.eval_batch_size)
    keys = jax.random.split(key, protocol.test_episodes)
    one = partial(_accuracy, program, state, data["table"], examples)
    return {
        str(shots): jax.lax.map(partial(one, shots=shots), keys, batch_size=_AT_ONCE)
        for shots in protocol.test_shots
    }


def _accuracy(
    program: Program,
    state: TrainState,
    table: Any,
    examples: Array,
    key: Key[Array, ""],
    *,
    shots: int,
) -> Array:
    """Returns the share of an episode's queries that are classified rightly."""
    protocol = program.protocol
    ways, queries = protocol.test_ways, protocol.test_queries
    draw_key, head_key = jax.random.split(key)
    episode = episodes.draw_episode(draw_key, table, ways=ways, shots=shots, queries=queries)
    support, query = (examples[part.reshape(-1)] for part in episode)
    logits = program.method.classify(
        program,
        state.params,
        state.batch_stats,
        head_key,
        support,
        class_labels(ways, shots),
        query,
    )
    right = jnp.argmax(logits, axis=-1) == class_labels(ways, queries)
    return jnp.mean(right, dtype=jnp.float32)


def _describe(
    protocol: Protocol, sums: Mapping[str, Mapping[str, Any]], finished: None
) -> dict[str, Any]:
    """Returns the record's fields: mean accuracies over episodes, with 95 % intervals."""
    del finished
    shots = {number: _mean_and_interval(x) for number, x in sums["test"].items()}
    fields: dict[str, Any] = {"test": shots[str(protocol.test_shots[0])], "shots": shots}
    if "validation" in sums:
        fields["validation"] = _mean_and_interval(sums["validation"][str(protocol.test_shots[0])])
    return fields


def _mean_and_interval(accuracies: Float[Array, " episodes"]) -> dict[str, float | int]:
    """Returns the mean and the half width 1.96 sd / sqrt(n) of its 95 % interval."""
    x = np.asarray(accuracies, np.float64)
    interval = 1.96 * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.inf
    return {"accuracy": float(x.mean()), "interval": float(interval), "episodes": len(x)}
