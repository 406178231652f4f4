"""The methods of few-shot learning: how a network is trained, and how it classifies by a support.

Three kinds of methods share the network, the episodes and the optimiser:

- `prototypical`, `matching` and `ridge` classify an episode's queries by the features of its
  support, in training as in the test.
- `linear_baseline` and `cosine_classifier` train an ordinary classifier of the training classes,
  `batch_size` examples a step. In the test its last layer is replaced by one fitted to the
  support, by gradient descent over the frozen features.
- `maml` and `maml_first_order` learn parameters from which a few steps on the support suffice.

Batch normalisation is as in the papers' code. In training it has the statistics of what goes
through the network together: an episode's support and queries (prototypical, matching, ridge), or
the batch (the baselines). In the test these five use the running statistics, so that a query is
classified alone. MAML takes, in training and in the test, the support's own statistics for the
support and the queries' for the queries: it is transductive.

Shape suffixes: W ways, S support examples, Q queries, B examples, D features, K training classes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from xent_jax import losses
from xent_jax.data import pipeline
from xent_jax.data.episodes import draw_episode
from xent_jax.typing import Array, Key

Data = Mapping[str, Any]
"""A set on the device: its images (uint8), labels and table of classes."""


class Protocol(NamedTuple):
    """What every method takes, and the defaults."""

    ways: int = 5  # classes of a training episode
    shots: int = 1  # support examples of each
    queries: int = 5  # of each
    test_ways: int = 5
    test_shots: tuple[int, ...] = (1, 5)  # each is tested; the first is the main one
    test_queries: int = 15
    test_episodes: int = 1000
    episodes_per_epoch: int = 100
    episodes_per_step: int = 1
    train_classes: int = 0  # the first so many of a set that has no split by classes
    validation_classes: int = 0  # the next so many of it; the rest is for the test
    rotations: bool = False  # three more classes of each, by quarter turns


class Program(NamedTuple):
    """All that is fixed while a run trains; the floats among the arguments may be traced."""

    method: "Method"
    protocol: Protocol
    arguments: Mapping[str, Any]  # the method's own
    create: Callable[[jax.Array], nnx.Module]  # (key) -> the network
    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    batch_size: int
    eval_batch_size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Method(NamedTuple):
    """How a network learns in a step, and how it classifies in the test."""

    arguments: Mapping[str, Any]
    """Its own, and their defaults. Runs of one compiled program may differ in the floats."""
    loss: Callable
    """(program, params, batch_stats, data, key) -> (mean loss of an episode or batch, new
    batch_stats)."""
    classify: Callable
    """(program, params, batch_stats, key, support, label_S, queries) -> logits (Q, W). Support
    and queries are features or, for a method that adapts the network, images."""
    learned: Callable = lambda arguments: {}
    """(arguments) -> parameters beside the network's, at their start."""
    adapts: bool = False
    of_training_classes: bool = False  # whether the network's last layer tells these apart


def features(
    program: Program,
    params: Any,
    batch_stats: Any,
    image_B: Array,
    *,
    train: bool = False,
    key: Key[Array, ""] | None = None,
) -> tuple[Array, Any, Any]:
    """Returns the features (B, D) of raw images, the network and its new statistics."""
    model: Any = nnx.merge(program.graphdef, params["network"], batch_stats)
    images = pipeline.normalise(image_B, program.mean, program.deviation)
    keys = None if key is None else jax.random.split(key, len(images))
    x_BxD = model.features(images, train, None, keys).astype(jnp.float32)
    _, _, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return x_BxD, model, nnx.to_pure_dict(batch_stats)


def class_labels(ways: int, examples: int) -> Array:
    """Returns the labels of so many examples of each class in turn."""
    return jnp.repeat(jnp.arange(ways, dtype=jnp.int32), examples)


def _cross_entropy(logits: Array, labels: Array) -> Array:
    return losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _draw(program: Program, data: Data, key: Key[Array, ""]) -> tuple[Array, Array, Array, Array]:
    """Returns a training episode: the support's images and labels, then the queries'."""
    ways, shots, queries = program.protocol[:3]
    episode = draw_episode(key, data["table"], ways=ways, shots=shots, queries=queries)
    support, query = (data["image"][part.reshape(-1)] for part in episode)
    return support, class_labels(ways, shots), query, class_labels(ways, queries)


# By the features of the support.


def _episode_loss(
    head: Callable,
    program: Program,
    params: Any,
    batch_stats: Any,
    data: Data,
    key: Key[Array, ""],
) -> tuple[Array, Any]:
    draw_key, dropout_key = jax.random.split(key)
    support, label_S, query, label_Q = _draw(program, data, draw_key)
    together = jnp.concatenate([support, query])
    x, _, batch_stats = features(
        program, params, batch_stats, together, train=True, key=dropout_key
    )
    x_SxD, x_QxD = x[: len(support)], x[len(support) :]
    logits = head(program, params["head"], x_QxD, x_SxD, label_S, num_classes=program.protocol.ways)
    return _cross_entropy(logits, label_Q), batch_stats


def _by_features(head: Callable, **options: Any) -> Method:
    """Returns the method of a head, which gives logits by queries, a support and its labels."""

    def classify(
        program: Program,
        params: Any,
        batch_stats: Any,
        key: Key[Array, ""],
        support: Array,
        label_S: Array,
        queries: Array,
    ) -> Array:
        del batch_stats, key
        ways = program.protocol.test_ways
        return head(program, params["head"], queries, support, label_S, num_classes=ways)

    return Method(loss=partial(_episode_loss, head), classify=classify, **options)


def _prototypical(program: Program, learned: Any, *episode: Array, num_classes: int) -> Array:
    del program, learned
    return losses.prototypical_logits(*episode, num_classes=num_classes)


def _matching(program: Program, learned: Any, *episode: Array, num_classes: int) -> Array:
    del learned
    scale = program.arguments["scale"]
    return losses.matching_network_logits(*episode, num_classes=num_classes, scale=scale)


def _ridge(program: Program, learned: Any, *episode: Array, num_classes: int) -> Array:
    del program
    scale, penalty = jnp.exp(learned["log_scale"]), jnp.exp(learned["log_penalty"])
    return losses.ridge_regression_logits(
        *episode, num_classes=num_classes, scale=scale, penalty=penalty
    )


def _ridge_learned(arguments: Mapping[str, Any]) -> dict[str, Array]:
    # Their logarithms are learned, so that they stay positive.
    return {f"log_{key}": jnp.log(jnp.float32(arguments[key])) for key in ("scale", "penalty")}


# By a classifier of the training classes, and a new last layer.


def _classifier_loss(
    program: Program, params: Any, batch_stats: Any, data: Data, key: Key[Array, ""]
) -> tuple[Array, Any]:
    draw_key, dropout_key = jax.random.split(key)
    index_B = jax.random.randint(draw_key, (program.batch_size,), 0, len(data["label"]))
    x, model, batch_stats = features(
        program, params, batch_stats, data["image"][index_B], train=True, key=dropout_key
    )
    logits = _scale(program) * model.logits(x).astype(jnp.float32)
    return _cross_entropy(logits, data["label"][index_B]), batch_stats


def _fitted(
    program: Program,
    params: Any,
    batch_stats: Any,
    key: Key[Array, ""],
    support: Array,
    label_S: Array,
    queries: Array,
) -> Array:
    """Returns the queries' logits by a last layer that gradient descent fits to the support."""
    del batch_stats
    ways = program.protocol.test_ways
    linear, shape = "bias" in params["network"]["logits"], (support.shape[1], ways)
    if linear:  # Its loss is convex: nothing is won by chance.
        start = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(ways)}
    else:
        start = {"kernel": jax.random.normal(key, shape) / jnp.sqrt(jnp.float32(shape[0]))}

    def logits(layer: Any, x: Array) -> Array:
        if linear:
            return x @ layer["kernel"] + jnp.broadcast_to(layer["bias"], (len(x), ways))
        return _scale(program) * losses.cosine_similarities(x, layer["kernel"].T)

    fitted = losses.maml_adapt(
        start,
        lambda layer: _cross_entropy(logits(layer, support), label_S),
        steps=program.arguments["head_steps"],
        learning_rate=program.arguments["head_learning_rate"],
    )
    return logits(fitted, queries)


def _scale(program: Program) -> Any:
    return program.arguments.get("scale", 1.0)


# By adapting the whole network: MAML.


def _network_logits(program: Program, params: Any, batch_stats: Any, images: Array) -> Array:
    """Returns the logits of a batch by its own statistics."""
    x, model, _ = features(program, params, batch_stats, images, train=True)
    return model.logits(x).astype(jnp.float32)


def _adapted(
    program: Program,
    params: Any,
    batch_stats: Any,
    support: Array,
    label_S: Array,
    *,
    steps: int,
    first_order: bool,
) -> Any:
    def loss(params: Any) -> Array:
        return _cross_entropy(_network_logits(program, params, batch_stats, support), label_S)

    rate = program.arguments["inner_learning_rate"]
    return losses.maml_adapt(params, loss, steps=steps, learning_rate=rate, first_order=first_order)


def _maml_loss(
    program: Program,
    params: Any,
    batch_stats: Any,
    data: Data,
    key: Key[Array, ""],
    *,
    first_order: bool,
) -> tuple[Array, Any]:
    support, label_S, query, label_Q = _draw(program, data, key)
    steps = program.arguments["inner_steps"]
    params = _adapted(
        program, params, batch_stats, support, label_S, steps=steps, first_order=first_order
    )
    return _cross_entropy(
        _network_logits(program, params, batch_stats, query), label_Q
    ), batch_stats


def _maml_classify(
    program: Program,
    params: Any,
    batch_stats: Any,
    key: Key[Array, ""],
    support: Array,
    label_S: Array,
    queries: Array,
) -> Array:
    del key
    steps = program.arguments["test_inner_steps"]
    params = _adapted(program, params, batch_stats, support, label_S, steps=steps, first_order=True)
    return _network_logits(program, params, batch_stats, queries)


def _maml(first_order: bool) -> Method:
    return Method(
        arguments={"inner_steps": 5, "test_inner_steps": 10, "inner_learning_rate": 0.01},
        loss=partial(_maml_loss, first_order=first_order),
        classify=_maml_classify,
        adapts=True,
    )


_FITTED = {"head_steps": 100, "head_learning_rate": 0.01}

METHODS: Mapping[str, Method] = {
    "prototypical": _by_features(_prototypical, arguments={}),
    "matching": _by_features(_matching, arguments={"scale": 1.0}),
    "ridge": _by_features(
        _ridge, arguments={"penalty": 50.0, "scale": 1.0}, learned=_ridge_learned
    ),
    "linear_baseline": Method(_FITTED, _classifier_loss, _fitted, of_training_classes=True),
    "cosine_classifier": Method(
        _FITTED | {"scale": 10.0}, _classifier_loss, _fitted, of_training_classes=True
    ),
    "maml": _maml(first_order=False),
    "maml_first_order": _maml(first_order=True),
}
"""The methods by name, with the defaults of their papers where these are the same for all data.

References:
  prototypical: Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", 2017.
  matching: Vinyals et al., "Matching networks for one shot learning", 2016, without the context
    embeddings; `scale` multiplies the cosines.
  ridge: R2-D2 of Bertinetto et al., "Meta-learning with differentiable closed-form solvers",
    2019; `penalty` and `scale` are where the learned ones start.
  linear_baseline, cosine_classifier: Baseline and Baseline++ of Chen et al., "A closer look at
    few-shot classification", 2019; each step on the new layer takes the whole support.
  maml, maml_first_order: Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast
    adaptation of deep networks", 2017.
"""
