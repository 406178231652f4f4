"""What every public loss is called with at a size: what the benches time and the tests try.

Most arguments follow from their names, which mean the same in all rooms; `_OF_ROOM` and `_OF`
hold what a room or a function understands otherwise. Sizes are chosen so that the largest array a
function needs, given or not, has about examples x classes entries, as the logits of the plain
cross-entropy: embeddings are so many that their similarities are, frames so many that their logits
are.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax import losses
from xent_jax.losses.transfer import MixedLabels

DIMENSIONS = 128  # of features and embeddings

# What a model learns through, and a loss is therefore differentiated by.
_LEARNED = {
    "logits", "cosines", "other_logits", "augmented_logits", "adversarial_logits", "peer_logits",
    "embeddings", "other_embeddings", "support_embeddings", "anchors", "positives", "negatives",
    "features", "classifier_weights", "head", "tails", "emissions", "transitions", "probabilities",
    "p", "q", "joint", "distributions", "log_predictions", "predictor_outputs", "real_logits",
    "fake_logits", "positive_scores", "negative_scores", "params", "loss", "log_variance",
    "chosen_log_probabilities", "rejected_log_probabilities",
}  # fmt: skip
_NOT_BY = {  # what is no way to the model in these
    "influence_balanced": {"features"},
    "tsallis_entropy": {"q"},
    "anchor_point_transition_matrix": {"probabilities"},
    "categorical_projection": {"probabilities"},
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """A function and its arguments.

    Attributes:
      function: takes `arguments` as keywords; whatever is static is bound to it.
      arguments: trees of arrays, by name.
      differentiable: the names to differentiate by; none where the function has no gradient.
      note: what the size means where it is not that of logits.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    differentiable: tuple[str, ...]
    note: str = ""

    def total(self, learned: Mapping[str, Any], others: Mapping[str, Any]) -> jax.Array:
        """Returns the sum of the result: of its first array, where it holds a state too."""
        return jax.tree.leaves(self.function(**learned, **others))[0].sum()


class Draw:
    """Random arrays of a size."""

    def __init__(self, examples: int, classes: int, seed: int, library: Any = losses) -> None:
        self.losses = library
        self.examples, self.classes, self.entries = examples, classes, examples * classes
        self.frames = min(256, examples)  # of a sequence
        self.sequences = max(1, examples // self.frames)
        self.pairs = math.isqrt(self.entries)  # so many embeddings have N K similarities
        self.side = math.isqrt(classes)  # of a square of about K entries
        self.random = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return scale * self.random.standard_normal(shape, np.float32)

    def logits(self, *shape: int) -> np.ndarray:
        return self.normal(*(shape or (self.examples, self.classes)), scale=2.0)

    def distributions(self) -> np.ndarray:
        return np.asarray(jax.nn.softmax(self.logits()))

    def below(self, high: int, *shape: int) -> np.ndarray:
        return self.random.integers(0, high, shape or (self.examples,)).astype(np.int32)

    def bits(self) -> np.ndarray:
        return self.below(2, self.examples, self.classes)

    def uniform(self, *shape: int) -> np.ndarray:
        return self.random.uniform(0.05, 0.95, shape).astype(np.float32)

    def counts(self) -> np.ndarray:
        return np.linspace(500, 5, self.classes).astype(np.int32)

    def prior(self) -> np.ndarray:
        return (self.counts() / self.counts().sum()).astype(np.float32)

    def transition_matrix(self) -> np.ndarray:
        kept = 0.6 * np.eye(self.classes) + 0.4 / self.classes
        return kept.astype(np.float32)

    def features(self) -> np.ndarray:
        return self.normal(self.examples, DIMENSIONS)

    def weights(self, classes: int) -> np.ndarray:
        return self.normal(classes, DIMENSIONS, scale=DIMENSIONS**-0.5)

    def images(self) -> np.ndarray:
        return self.uniform(self.examples, self.side, self.side, 1)

    def linear_loss(self) -> Callable[[jax.Array], jax.Array]:
        """Returns the cross-entropy of a linear model, as a function of its inputs."""
        model, labels = self.linear_model(), self.below(self.classes)
        return lambda inputs: self.losses.softmax_cross_entropy_with_integer_labels(
            model(inputs), labels
        )

    def linear_model(self) -> Callable[[jax.Array], jax.Array]:
        weights = self.weights(self.classes).T
        return lambda inputs: inputs @ weights

    def inner_loss(self) -> Callable[[jax.Array], jax.Array]:
        """Returns the mean loss on a fifth of the examples, for five steps, of linear weights."""
        inputs, labels = self.features()[::5], self.below(self.classes)[::5]
        return lambda weights: self.losses.softmax_cross_entropy_with_integer_labels(
            inputs @ weights.T, labels
        ).mean()


Maker = Callable[[Draw], Any]

LOGITS: dict[str, Maker] = dict.fromkeys((
    "logits", "other_logits", "augmented_logits", "adversarial_logits", "peer_logits",
    "teacher_logits", "target_logits", "weak_logits", "real_logits", "fake_logits",
    "predictor_outputs", "positive_scores", "negative_scores", "chosen_log_probabilities",
    "rejected_log_probabilities", "reference_chosen_log_probabilities",
    "reference_rejected_log_probabilities", "anchors", "positives", "negatives",
), Draw.logits)  # fmt: skip
_OF_NAME: dict[str, Maker] = LOGITS | {
    "cosines": lambda d: np.tanh(d.normal(d.examples, d.classes, scale=0.3)),
    "labels": lambda d: d.below(d.classes),
    "peer_labels": lambda d: d.below(d.classes),
    "actions": lambda d: d.below(d.classes),
    "targets": Draw.distributions,
    "probabilities": Draw.distributions,
    "p": Draw.distributions,
    "q": Draw.distributions,
    "distributions": lambda d: (d.distributions(), d.distributions()),
    "log_predictions": lambda d: np.log(d.distributions()),
    "log_targets": lambda d: np.log(d.distributions()),
    "joint": lambda d: jax.nn.softmax(d.logits(d.examples, d.side, d.side), (1, 2)),
    "class_counts": Draw.counts,
    "class_prior": Draw.prior,
    "num_examples": lambda d: int(d.counts().sum()),
    "num_classes": lambda d: d.classes,
    "transition_matrix": Draw.transition_matrix,
    "features": Draw.features,
    "inputs": Draw.features,
    "images": Draw.images,
    "classifier_weights": lambda d: d.weights(d.classes),
    "params": lambda d: d.weights(d.classes),
    "epoch": lambda d: np.float32(170.0),
    "noise_rate": lambda d: np.float32(0.4),
    "forget_rate": lambda d: np.float32(0.4),
    "indices": lambda d: d.random.permutation(d.examples).astype(np.int32),
    "losses": lambda d: d.uniform(d.examples),
    "loss": lambda d: d.linear_loss(),
    "model": lambda d: d.linear_model(),
    "inner_loss": lambda d: d.inner_loss(),
    "log_variance": lambda d: np.float32(0.3),
    "key": lambda d: jax.random.key(d.below(1000, 1)[0]),
    "advantages": lambda d: d.normal(d.examples),
    "old_log_probabilities": lambda d: np.float32(-math.log(d.classes)) + 0 * d.normal(d.examples),
    "values": lambda d: 3.0 * d.normal(d.examples),
    "atoms": lambda d: np.linspace(-10, 10, d.classes, dtype=np.float32),
    "bin_edges": lambda d: np.linspace(-10, 10, d.classes + 1, dtype=np.float32),
    "alpha": lambda d: np.float32(0.5),
}  # fmt: skip

_BITS: dict[str, Maker] = {"labels": Draw.bits, "targets": lambda d: 2 * d.bits() - 1}
_TOKENS: dict[str, Maker] = {
    "logits": lambda d: d.logits(d.sequences, d.frames, d.classes),
    "labels": lambda d: d.below(d.classes, d.sequences, d.frames),
}


def _tags(draw: Draw) -> int:
    return min(50, draw.classes)


def _tagged(draw: Draw) -> tuple[int, int]:
    frames = min(64, draw.examples)
    return max(1, draw.entries // (frames * _tags(draw))), frames


_OF_ROOM: dict[str, dict[str, Maker]] = {
    "binary": _BITS,
    "contrastive": {
        "embeddings": lambda d: d.normal(d.pairs, DIMENSIONS),
        "other_embeddings": lambda d: d.normal(d.pairs, DIMENSIONS),
        "labels": lambda d: np.arange(d.pairs, dtype=np.int32) // 4,
    },
    "few_shot": {
        "embeddings": Draw.features,
        "support_embeddings": lambda d: d.normal(d.classes, DIMENSIONS),
        "support_labels": lambda d: np.arange(d.classes, dtype=np.int32),
    },
    "ranking": {"labels": lambda d: d.below(5, d.examples, d.classes).astype(np.float32)},
    "sequence": _TOKENS | {
        "emissions": lambda d: d.normal(*_tagged(d), _tags(d)),
        "tags": lambda d: d.below(_tags(d), *_tagged(d)),
        "transitions": lambda d: d.normal(_tags(d), _tags(d)),
    },
    "large_vocabulary": {
        "labels": lambda d: d.below(10 * d.classes),
        "classifier_weights": lambda d: d.weights(10 * d.classes),
        "sampled": lambda d: d.below(10 * d.classes, d.classes),
        "log_expected_counts": lambda d: np.full(10 * d.classes, -math.log(10), np.float32),
    },
}  # fmt: skip

_ADAPTIVE: dict[str, Maker] = {
    "labels": lambda d: d.below(d.classes),
    "head": lambda d: d.weights(_shortlist(d)[0] + 2),
    "tails": lambda d: [
        (d.normal(DIMENSIONS // 4**i, DIMENSIONS, scale=0.1), d.normal(size, DIMENSIONS // 4**i))
        for i, size in enumerate(_shortlist(d)[1:], start=1)
    ],
}


def _shortlist(draw: Draw) -> tuple[int, int, int]:
    """Returns the sizes of the shortlist and of two clusters of rarer classes."""
    first, second = max(1, draw.classes // 10), max(1, 3 * draw.classes // 10)
    return first, second, draw.classes - first - second


def _lattice(draw: Draw) -> tuple[int, int, int]:
    """Returns sequences, frames and labels + 1 of a transducer."""
    labels = min(16, math.isqrt(draw.examples))
    frames = min(64, draw.examples // labels)
    return max(1, draw.examples // (frames * labels)), frames, labels


_SETS_OF_PIXELS: dict[str, Maker] = {
    "logits": lambda d: d.logits(d.sequences, d.frames, d.classes),
    "labels": lambda d: d.below(d.classes, d.sequences, d.frames),
}
_SETS_OF_SOFT_PIXELS: dict[str, Maker] = {
    "logits": _SETS_OF_PIXELS["logits"],
    "labels": lambda d: np.asarray(jax.nn.softmax(d.logits(d.sequences, d.frames, d.classes))),
}
_OF: dict[str, dict[str, Maker]] = {
    "softmax_cross_entropy": {"labels": Draw.distributions},
    "poly_loss_cross_entropy": {"labels": Draw.distributions},
    "sparsemax_loss": _BITS,
    "hinge_loss": _BITS,
    "perceptron_loss": _BITS,
    "sigmoid_equalization": _BITS,
    "gradient_harmonising": _BITS | {
        "state": lambda d: d.losses.init_gradient_harmonising_state()
    },
    "equalization_v2": {"state": lambda d: d.losses.init_equalization_v2_state(d.classes)},
    "seesaw": {"state": lambda d: d.losses.init_seesaw_state(d.classes)},
    "early_learning_regularization": {
        "state": lambda d: d.losses.init_early_learning_regularization_state(d.examples, d.classes)
    },
    "binary_cross_entropy_from_probabilities": {
        "probabilities": lambda d: d.uniform(d.examples, d.classes)
    },
    "lovasz_softmax": _SETS_OF_PIXELS,
    "dice_loss": _SETS_OF_SOFT_PIXELS,
    "multiclass_generalized_dice_loss": _SETS_OF_SOFT_PIXELS,
    "smooth_labels": {"labels": Draw.distributions},
    "zlpr_multilabel": _BITS,
    "generalized_jensen_shannon": {"other_logits": lambda d: (d.logits(),)},
    "jensen_shannon_consistency": {"logits": lambda d: (d.logits(), d.logits(), d.logits())},
    "augmix": {"augmented_logits": lambda d: (d.logits(), d.logits())},
    "mixed_loss": {
        "loss": lambda d: d.losses.softmax_cross_entropy_with_integer_labels,
        "mixed": lambda d: MixedLabels(d.below(d.classes), d.below(d.classes), jnp.float32(0.3)),
    },
    "multi_task_uncertainty": {"loss": lambda d: d.uniform(d.examples, d.classes)},
    "tsallis_entropy": {"q": lambda d: np.float32(2.0)},
    "soft_triple": {
        "cosines": lambda d: np.tanh(d.normal(d.examples, max(1, d.classes // 4), 4, scale=0.3)),
        "labels": lambda d: d.below(max(1, d.classes // 4)),
    },
    "contrastive_loss": {
        "embeddings": Draw.logits,
        "other_embeddings": Draw.logits,
        "labels": lambda d: d.below(2),
    },
    "adaptive_softmax": _ADAPTIVE,
    "adaptive_softmax_log_probabilities": _ADAPTIVE,
    "pairwise_logistic": {
        "logits": lambda d: d.logits(d.examples, d.side),
        "labels": lambda d: d.below(5, d.examples, d.side).astype(np.float32),
    },
    "cumulative_link": {
        "logits": lambda d: d.logits(d.examples, 1) + np.linspace(5, -5, d.classes).astype("f")
    },
    "categorical_projection": {
        "probabilities": lambda d: np.asarray(jax.nn.softmax(d.logits(*_atoms(d)))),
        "source_atoms": lambda d: 4.0 * d.normal(*_atoms(d)),
        "atoms": lambda d: np.linspace(-10, 10, _atoms(d)[1], dtype=np.float32),
    },
    "ctc_loss": {
        "logits": lambda d: d.logits(d.sequences, d.frames, d.classes),
        "logit_paddings": lambda d: np.zeros((d.sequences, d.frames), np.float32),
        "labels": lambda d: 1 + d.below(d.classes - 1, d.sequences, max(1, d.frames // 5)),
        "label_paddings": lambda d: np.zeros((d.sequences, max(1, d.frames // 5)), np.float32),
    },
    "rnn_transducer": {
        "logits": lambda d: d.logits(*_lattice(d), d.classes),
        "logit_paddings": lambda d: np.zeros(_lattice(d)[:2], np.float32),
        "labels": lambda d: 1 + d.below(d.classes - 1, _lattice(d)[0], _lattice(d)[2] - 1),
        "label_paddings": lambda d: np.zeros((_lattice(d)[0], _lattice(d)[2] - 1), np.float32),
    },
    "cross_entropy_method": {
        "objective": lambda d: lambda x: (x**2).sum(),
        "mean": lambda d: d.normal(d.classes),
        "scale": lambda d: np.ones(d.classes, np.float32),
    },
}  # fmt: skip


def _atoms(draw: Draw) -> tuple[int, int]:
    """Returns rows and atoms of distributions of returns."""
    atoms = min(51, draw.classes)
    return draw.entries // atoms, atoms


_EMBEDDINGS = "sqrt(N K) embeddings of 128, N K similarities"
_NOTE_OF_ROOM = {
    "contrastive": _EMBEDDINGS,
    "few_shot": "N queries, K support examples of K classes, of 128 dimensions",
    "adversarial": "elements",
}
_NOTE = {
    "contrastive_loss": "N pairs of K dimensions",
    "triplet_margin_loss": "N triplets of K dimensions",
    "maml_adapt": "5 steps on a linear model of 128 K weights and N/5 examples",
    "fgsm": "1 gradient of a linear model of 128 inputs",
    "pgd": "7 gradients of a linear model of 128 inputs",
    "virtual_adversarial_perturbation": "2 derivatives of a linear model of 128 inputs",
    "cross_entropy_method": "K variables",
    "trades": "",
    "linear_chain_crf": "N K / (64 50) sequences of 64 positions and 50 tags",
    "linear_chain_marginals": "N K / (64 50) sequences of 64 positions and 50 tags",
    "viterbi_decode": "N K / (64 50) sequences of 64 positions and 50 tags",
    "ctc_loss": "N/256 sequences of 256 frames and 51 labels",
    "rnn_transducer": "N/1024 lattices of 64 frames and 15 labels",
    "sampled_softmax": "K of 10 K classes sampled, from 128 features",
    "noise_contrastive_estimation": "K of 10 K classes sampled, from 128 features",
    "adaptive_softmax": "from 128 features",
    "adaptive_softmax_log_probabilities": "from 128 features",
    "cosine_similarities": "from 128 features",
    "influence_balanced": "and 128 features",
    "soft_triple": "K/4 classes of 4 centres",
    "pairwise_logistic": "N lists of sqrt(K) items, N K pairs",
    "categorical_projection": "N K / 51 distributions of 51 atoms onto 51",
    "lovasz_softmax": "N/256 sets of 256 elements",
    "dice_loss": "N/256 sets of 256 elements",
    "multiclass_generalized_dice_loss": "N/256 sets of 256 elements",
    "mutual_information": "N tables of sqrt(K) by sqrt(K)",
    "mixup": "N images of K pixels",
    "cutmix": "N images of K pixels",
}


def workload(
    name: str, examples: int = 4096, classes: int = 1000, seed: int = 0, library: Any = losses
) -> Workload:
    """Returns what the public loss `name` is called with at this size, in float32.

    Args:
      name: in `xent_jax.losses.__all__`.
      examples: N.
      classes: K.
      seed: of everything that is drawn.
      library: where the functions are taken from: `xent_jax.losses`, or a copy of it.

    Raises:
      KeyError: an argument that nothing here says how to draw.
    """
    function = getattr(library, name)
    draw, room = Draw(examples, classes, seed, library), function.__module__.rpartition(".")[2]
    makers = _OF_NAME | _OF_ROOM.get(room, {}) | _OF.get(name, {})
    given, static = {}, {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty and parameter.kind != parameter.VAR_KEYWORD:
            value = makers[parameter.name](draw)
            fixed = isinstance(value, int) or callable(value)
            (static if fixed else given)[parameter.name] = value
    bound = functools.partial(_by_name, function, static)
    arguments = jax.tree.map(jnp.asarray, given)
    learned = _LEARNED - _NOT_BY.get(name, set())
    by = tuple(key for key in given if key in learned) if _is_float(bound, arguments) else ()
    return Workload(bound, arguments, by, _NOTE.get(name, _NOTE_OF_ROOM.get(room, "")))


def _by_name(function: Callable[..., Any], static: dict[str, Any], /, **arguments: Any) -> Any:
    """Calls a function by names that may be those of `*views`, which then hold a tuple."""
    positional, named = [], static | arguments
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in named or parameter.kind == parameter.KEYWORD_ONLY:
            continue
        value = named.pop(parameter.name)
        positional += value if parameter.kind == parameter.VAR_POSITIONAL else [value]
    return function(*positional, **named)


def _is_float(function: Callable[..., Any], arguments: dict[str, Any]) -> bool:
    first = jax.tree.leaves(jax.eval_shape(lambda given: function(**given), arguments))[0]
    return jnp.issubdtype(first.dtype, jnp.floating)
