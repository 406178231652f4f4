"""One row per public loss: what the matrix of `losses/test_contract_matrix.py` must know of it.

A reference is the formula as the paper prints it, in float64 NumPy, written without looking at the
implementation: probabilities rather than log-probabilities, sums over one-hot targets. It takes
what the loss takes, with the classes on the last axis, and returns what the loss returns.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import xent_jax as xent

Arrays = tuple[np.ndarray, ...]


class Parameter(NamedTuple):
    """A float hyper-parameter: where to differentiate, and the closed range it is allowed in."""

    value: float
    low: float = -np.inf
    high: float = np.inf
    also: float | None = None  # a limit outside the range that has a meaning too

    @property
    def other(self) -> float:
        """Returns another allowed value."""
        if self.high == np.inf:
            return self.value + 0.5
        return 0.5 * (self.value + (self.low if self.value == self.high else self.high))


def logits_and_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return 2.0 * rng.normal(size=(examples, classes)), rng.integers(0, classes, examples)


@dataclasses.dataclass(frozen=True)
class LossCase:
    """A public loss, its independent reference, and how to call it.

    Attributes:
      function: the public loss.
      family: which contract it keeps; `test_contract_matrix.py` says what is run for each.
      reference: the textbook formula, of the same positional arguments and hyper-parameters.
      parameters: every float hyper-parameter; they are differentiated at these values.
      defaults: the published values, which the signature must hold.
      limit: (logits, labels) -> two arrays that an identity says are equal.
      inputs: draws the positional arguments for so many examples and classes.
      context: further keyword arguments that depend on the number of classes, such as weights.
      variant: tells rows apart where a loss has several.
    """

    function: Callable[..., Any]
    family: str
    reference: Callable[..., np.ndarray]
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limit: Callable[..., tuple[Any, Any]] | None = None
    inputs: Callable[[np.random.Generator, int, int], Arrays] = logits_and_labels
    context: Callable[[int], dict[str, np.ndarray]] = lambda classes: {}
    variant: str = ""

    @property
    def name(self) -> str:
        return self.function.__name__ + self.variant

    @property
    def values(self) -> dict[str, float]:
        return {name: parameter.value for name, parameter in self.parameters.items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[labels]


def label_probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (softmax(logits) * one_hot(labels, logits.shape[-1])).sum(-1)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.log(label_probability(logits, labels))


# ---------------------------------------------------------------------------- categorical


def logits_and_targets(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    """Targets that do not sum to one, some of them 0."""
    targets = rng.uniform(size=(examples, classes)) * (rng.uniform(size=(examples, classes)) < 0.8)
    return 2.0 * rng.normal(size=(examples, classes)), targets


def probabilities_and_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits, labels = logits_and_labels(rng, examples, classes)
    return softmax(logits), labels


def class_weights(classes: int) -> dict[str, np.ndarray]:
    return {"class_weights": np.linspace(0.5, 2.0, classes, dtype=np.float32)}


def regularised_cross_entropy(
    logits, labels, label_smoothing, z_loss, logit_softcap, class_weights
):
    possible = np.isfinite(logits)
    uniform = possible / possible.sum(-1, keepdims=True)
    targets = (1.0 - label_smoothing) * one_hot(
        labels, logits.shape[-1]
    ) + label_smoothing * uniform
    return _regularised(logits, class_weights[labels][:, None] * targets, z_loss, logit_softcap)


def regularised_dense_cross_entropy(
    logits, targets, label_smoothing, z_loss, logit_softcap, class_weights
):
    targets = class_weights * targets
    mean = targets.mean(-1, keepdims=True)
    targets = (1.0 - label_smoothing) * targets + label_smoothing * mean
    return _regularised(logits, targets, z_loss, logit_softcap)


def _regularised(logits, targets, z_loss, logit_softcap):
    possible = np.isfinite(logits)
    z = np.where(possible, logit_softcap * np.tanh(logits / logit_softcap), -np.inf)
    normaliser = np.log(np.exp(z).sum(-1))
    log_p = np.where(targets == 0, 0.0, np.log(softmax(z)))
    return -(targets * log_p).sum(-1) + z_loss * normaliser**2


def dense_cross_entropy(logits, targets):
    return -(targets * np.log(softmax(logits))).sum(-1)


def cross_entropy_from_probabilities(probabilities, labels):
    return -np.log((probabilities * one_hot(labels, probabilities.shape[-1])).sum(-1))


def softmax_focal_loss(logits, labels, gamma):
    p = label_probability(logits, labels)
    return -((1.0 - p) ** gamma) * np.log(p)


def poly_loss_cross_entropy(logits, labels, epsilon):
    p = label_probability(logits, labels)
    return -np.log(p) + epsilon * (1.0 - p)


def dense_poly_loss_cross_entropy(logits, targets, epsilon):
    p = softmax(logits)
    return (targets * (-np.log(p) + epsilon * (1.0 - p))).sum(-1)


def confidence_penalty(logits, labels, beta):
    p = softmax(logits)
    entropy = -np.where(p > 0, p * np.log(p), 0.0).sum(-1)
    return cross_entropy(logits, labels) - beta * entropy


def brier_score(logits, labels):
    return ((softmax(logits) - one_hot(labels, logits.shape[-1])) ** 2).sum(-1)


def squared_error(logits, labels, label_weight, label_value):
    target = one_hot(labels, logits.shape[-1])
    possible = np.isfinite(logits)
    others = np.where(possible, logits, 0.0) ** 2
    squares = np.where(target == 1, label_weight * (logits - label_value) ** 2, others)
    return squares.sum(-1) / possible.sum(-1)


def multiclass_hinge_loss(logits, labels):
    label_logit = np.take_along_axis(logits, labels[:, None], -1)[:, 0]
    return np.maximum(0.0, logits + 1.0 - one_hot(labels, logits.shape[-1])
                      - label_logit[:, None]).max(-1)  # fmt: skip


def with_integer_labels(logits, labels, **keywords):
    return xent.softmax_cross_entropy_with_integer_labels(logits, labels, **keywords)


REGULARISERS = {
    "label_smoothing": Parameter(0.1, 0.0, 1.0),
    "z_loss": Parameter(0.01, 0.0),
    "logit_softcap": Parameter(5.0, 0.0),
}

CATEGORICAL = [
    LossCase(
        function=xent.softmax_cross_entropy_with_integer_labels,
        family="classification",
        reference=cross_entropy,
        defaults={"label_smoothing": 0.0, "z_loss": 0.0, "logit_softcap": None, "axis": -1},
        limit=lambda logits, labels: (
            with_integer_labels(logits, labels),
            xent.softmax_cross_entropy(logits, one_hot(labels, logits.shape[-1])),
        ),
    ),
    LossCase(
        function=xent.softmax_cross_entropy_with_integer_labels,
        variant=" regularised",
        family="classification",
        reference=regularised_cross_entropy,
        parameters=REGULARISERS,
        context=class_weights,
        limit=lambda logits, labels: (
            with_integer_labels(logits, labels, label_smoothing=1.0),
            -np.log(softmax(logits)).mean(-1),
        ),
    ),
    LossCase(
        function=xent.softmax_cross_entropy,
        family="classification",
        reference=dense_cross_entropy,
        inputs=logits_and_targets,
        defaults={"label_smoothing": 0.0, "z_loss": 0.0, "logit_softcap": None, "axis": -1},
        limit=lambda logits, targets: (  # the cross-entropy of p with itself is its entropy
            xent.softmax_cross_entropy(logits, softmax(logits)),
            -(softmax(logits) * np.log(softmax(logits))).sum(-1),
        ),
    ),
    LossCase(
        function=xent.softmax_cross_entropy,
        variant=" regularised",
        family="classification",
        reference=regularised_dense_cross_entropy,
        inputs=logits_and_targets,
        parameters=REGULARISERS,
        context=class_weights,
    ),
    LossCase(
        function=xent.cross_entropy_from_probabilities,
        family="classification",
        reference=cross_entropy_from_probabilities,
        inputs=probabilities_and_labels,
        limit=lambda probabilities, labels: (
            xent.cross_entropy_from_probabilities(probabilities, labels),
            with_integer_labels(np.log(probabilities), labels),
        ),
    ),
    LossCase(
        function=xent.softmax_focal_loss,
        family="classification",
        reference=softmax_focal_loss,
        parameters={"gamma": Parameter(2.0, 0.0)},
        defaults={"gamma": 2.0},
        limit=lambda logits, labels: (
            xent.softmax_focal_loss(logits, labels, gamma=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.poly_loss_cross_entropy,
        family="classification",
        reference=poly_loss_cross_entropy,
        parameters={"epsilon": Parameter(2.0, -1.0)},
        defaults={"epsilon": 2.0},
        limit=lambda logits, labels: (
            xent.poly_loss_cross_entropy(logits, labels, epsilon=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.poly_loss_cross_entropy,
        variant=" of targets",
        family="classification",
        reference=dense_poly_loss_cross_entropy,
        inputs=logits_and_targets,
        parameters={"epsilon": Parameter(-0.5, -1.0)},
    ),
    LossCase(
        function=xent.confidence_penalty,
        family="classification",
        reference=confidence_penalty,
        parameters={"beta": Parameter(0.1, 0.0)},
        defaults={"beta": 0.1},
        limit=lambda logits, labels: (
            xent.confidence_penalty(logits, labels, beta=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.brier_score,
        family="classification",
        reference=brier_score,
        limit=lambda logits, labels: (  # of two classes
            xent.brier_score(logits[:, :2], labels % 2),
            2.0 * (1.0 - label_probability(logits[:, :2], labels % 2)) ** 2,
        ),
    ),
    LossCase(
        function=xent.squared_error,
        family="classification",
        reference=squared_error,
        parameters={"label_weight": Parameter(5.0, 0.0), "label_value": Parameter(3.0)},
        defaults={"label_weight": 1.0, "label_value": 1.0},
        limit=lambda logits, labels: (
            xent.squared_error(logits, labels, label_value=0.0),
            (logits**2).mean(-1),
        ),
    ),
    LossCase(
        function=xent.multiclass_hinge_loss,
        family="classification",
        reference=multiclass_hinge_loss,
        limit=lambda logits, labels: (  # past the margin
            xent.multiclass_hinge_loss(logits + 100.0 * one_hot(labels, logits.shape[-1]), labels),
            np.zeros(len(labels)),
        ),
    ),
]


# ---------------------------------------------------------------------------- noisy_labels


def generalized_cross_entropy(logits, labels, q):
    return (1.0 - label_probability(logits, labels) ** q) / q


def mean_absolute_error(logits, labels):
    return np.abs(softmax(logits) - one_hot(labels, logits.shape[-1])).sum(-1)


def reverse_cross_entropy(logits, labels, log_zero):
    log_target = np.where(one_hot(labels, logits.shape[-1]) == 1, 0.0, log_zero)
    return -(softmax(logits) * log_target).sum(-1)


def symmetric_cross_entropy(logits, labels, alpha, beta, log_zero):
    reverse = reverse_cross_entropy(logits, labels, log_zero)
    return alpha * cross_entropy(logits, labels) + beta * reverse


NOISY_LABELS = [
    LossCase(
        function=xent.generalized_cross_entropy,
        family="classification",
        reference=generalized_cross_entropy,
        parameters={"q": Parameter(0.7, 0.0, 1.0)},
        defaults={"q": 0.7},
        limit=lambda logits, labels: (
            xent.generalized_cross_entropy(logits, labels, q=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.mean_absolute_error,
        family="classification",
        reference=mean_absolute_error,
        limit=lambda logits, labels: (
            xent.mean_absolute_error(logits, labels),
            2.0 * xent.generalized_cross_entropy(logits, labels, q=1.0),
        ),
    ),
    LossCase(
        function=xent.reverse_cross_entropy,
        family="classification",
        reference=reverse_cross_entropy,
        parameters={"log_zero": Parameter(-4.0, high=0.0)},
        defaults={"log_zero": -4.0},
        limit=lambda logits, labels: (
            xent.reverse_cross_entropy(logits, labels, log_zero=-2.0),
            xent.mean_absolute_error(logits, labels),
        ),
    ),
    LossCase(
        function=xent.symmetric_cross_entropy,
        family="classification",
        reference=symmetric_cross_entropy,
        parameters={
            "alpha": Parameter(0.1, 0.0),
            "beta": Parameter(1.0, 0.0),
            "log_zero": Parameter(-4.0, high=0.0),
        },
        defaults={"alpha": 0.1, "beta": 1.0, "log_zero": -4.0},
        limit=lambda logits, labels: (
            xent.symmetric_cross_entropy(logits, labels, alpha=1.0, beta=0.0),
            cross_entropy(logits, labels),
        ),
    ),
]


# ---------------------------------------------------------------------------- information


def one_distribution(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return (softmax(rng.normal(size=(examples, classes))),)


def two_distributions(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return tuple(softmax(rng.normal(size=(2, examples, classes))))


def three_distributions(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return tuple(softmax(rng.normal(size=(3, examples, classes))))


def log_prediction_and_target(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    q, t = two_distributions(rng, examples, classes)
    return np.log(q), t


def log_prediction_and_log_target(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return tuple(np.log(two_distributions(rng, examples, classes)))


def joint_tables(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    (flat,) = one_distribution(rng, examples, 3 * classes)
    return (flat.reshape(examples, 3, classes),)


def entropy(p, base=np.e):
    return -(p * np.log(p)).sum(-1) / np.log(base)


def cross_entropy_of_distributions(p, q, base=np.e):
    return -(p * np.log(q)).sum(-1) / np.log(base)


def relative_entropy(p, q, base=np.e):
    return (p * np.log(p / q)).sum(-1) / np.log(base)


def kl_divergence(log_q, t, base=np.e):
    return relative_entropy(t, np.exp(log_q), base)


def kl_divergence_with_log_targets(log_q, log_t, base=np.e):
    return relative_entropy(np.exp(log_t), np.exp(log_q), base)


def generalized_kl_divergence(log_q, t):
    q = np.exp(log_q)
    return (t * np.log(t / q) - t + q).sum(-1)


def jensen_shannon_divergence(*distributions, weights=None, base=np.e):
    weights = np.full(len(distributions), 1 / len(distributions)) if weights is None else weights
    mixture = sum(w * p for w, p in zip(weights, distributions, strict=True))
    return sum(
        w * relative_entropy(p, mixture, base) for w, p in zip(weights, distributions, strict=True)
    )


def renyi_divergence(p, q, alpha, base=np.e):
    total = (p**alpha * q ** (1.0 - alpha)).sum(-1) / p.sum(-1)
    return np.log(total) / (alpha - 1.0) / np.log(base)


def tsallis_entropy(p, q):
    return (p.sum(-1) - (p**q).sum(-1)) / (q - 1.0)


def total_variation(p, q):
    return np.abs(p - q).sum(-1) / 2.0


def mutual_information(joint, base=np.e):
    product = joint.sum(-1, keepdims=True) * joint.sum(-2, keepdims=True)
    return (joint * np.log(joint / product)).sum((-2, -1)) / np.log(base)


BITS = {"base": Parameter(2.0, 1.0)}

INFORMATION = [
    LossCase(
        function=xent.entropy,
        family="distribution",
        reference=entropy,
        inputs=one_distribution,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p: (xent.entropy(np.full((1, 8), 0.125, np.float32), base=2), [3.0]),
    ),
    LossCase(
        function=xent.cross_entropy,
        family="distribution",
        reference=cross_entropy_of_distributions,
        inputs=two_distributions,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p, q: (
            xent.cross_entropy(p, q),
            xent.entropy(p) + xent.relative_entropy(p, q),
        ),
    ),
    LossCase(
        function=xent.relative_entropy,
        family="distribution",
        reference=relative_entropy,
        inputs=two_distributions,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p, q: (xent.relative_entropy(p, p), np.zeros(len(p))),
    ),
    LossCase(
        function=xent.kl_divergence,
        family="distribution",
        reference=kl_divergence,
        inputs=log_prediction_and_target,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda log_q, t: (
            xent.kl_divergence(log_q, t),
            xent.relative_entropy(t, np.exp(log_q)),
        ),
    ),
    LossCase(
        function=xent.kl_divergence_with_log_targets,
        family="distribution",
        reference=kl_divergence_with_log_targets,
        inputs=log_prediction_and_log_target,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda log_q, log_t: (
            xent.kl_divergence_with_log_targets(log_q, log_t),
            xent.kl_divergence(log_q, np.exp(log_t)),
        ),
    ),
    LossCase(
        function=xent.generalized_kl_divergence,
        family="distribution",
        reference=generalized_kl_divergence,
        inputs=log_prediction_and_target,
        defaults={"axis": -1},
        limit=lambda log_q, t: (  # of distributions
            xent.generalized_kl_divergence(log_q, t),
            xent.kl_divergence(log_q, t),
        ),
    ),
    LossCase(
        function=xent.jensen_shannon_divergence,
        family="distribution",
        reference=jensen_shannon_divergence,
        inputs=two_distributions,
        parameters=BITS,
        defaults={"weights": None, "base": None, "axis": -1},
        limit=lambda p, q: (
            xent.jensen_shannon_divergence(p, q),
            xent.jensen_shannon_divergence(q, p),
        ),
    ),
    LossCase(
        function=xent.jensen_shannon_divergence,
        variant=" of three",
        family="distribution",
        reference=jensen_shannon_divergence,
        inputs=three_distributions,
        context=lambda classes: {"weights": np.array([0.5, 0.375, 0.125], np.float32)},
        limit=lambda p, q, r: (  # the mixture's entropy less the mean entropy
            xent.jensen_shannon_divergence(p, q, r),
            xent.entropy((p + q + r) / 3)
            - (xent.entropy(p) + xent.entropy(q) + xent.entropy(r)) / 3,
        ),
    ),
    LossCase(
        function=xent.renyi_divergence,
        family="distribution",
        reference=renyi_divergence,
        inputs=two_distributions,
        parameters={"alpha": Parameter(0.7, 0.0, also=np.inf)} | BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p, q: (
            xent.renyi_divergence(p, q, alpha=1.0),
            xent.relative_entropy(p, q),
        ),
    ),
    LossCase(
        function=xent.tsallis_entropy,
        family="distribution",
        reference=tsallis_entropy,
        inputs=one_distribution,
        parameters={"q": Parameter(1.5, 0.0)},
        limit=lambda p: (xent.tsallis_entropy(p, q=1.0), xent.entropy(p)),
    ),
    LossCase(
        function=xent.total_variation,
        family="distribution",
        reference=total_variation,
        inputs=two_distributions,
        limit=lambda p, q: (xent.total_variation(p, q), np.maximum(p - q, 0.0).sum(-1)),
    ),
    LossCase(
        function=xent.mutual_information,
        family="distribution",
        reference=mutual_information,
        inputs=joint_tables,
        parameters=BITS,
        defaults={"base": None, "axes": (-2, -1)},
        limit=lambda joint: (
            xent.mutual_information(joint),
            xent.entropy(joint.sum(-1))
            + xent.entropy(joint.sum(-2))
            - xent.entropy(joint.reshape(len(joint), -1)),
        ),
    ),
    LossCase(
        function=xent.perplexity,
        family="distribution",
        reference=lambda p: (p**-p).prod(-1),
        inputs=one_distribution,
        limit=lambda p: (xent.perplexity(np.full((1, 7), 1 / 7, np.float32)), [7.0]),
    ),
]


# ---------------------------------------------------------------------------- binary


def logits_and_binary_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits = 2.0 * rng.normal(size=(examples, classes))
    return logits, rng.integers(0, 2, (examples, classes))


def logits_and_soft_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits = 2.0 * rng.normal(size=(examples, classes))
    return logits, rng.uniform(size=(examples, classes))


def probabilities_and_soft_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits, labels = logits_and_soft_labels(rng, examples, classes)
    return sigmoid(0.5 * logits), labels


def pixels_and_masks(rng: np.random.Generator, sets: int, pixels: int) -> Arrays:
    return 2.0 * rng.normal(size=(sets, pixels, 2)), rng.integers(0, 2, (sets, pixels, 2))


def pixels_and_soft_masks(rng: np.random.Generator, sets: int, pixels: int) -> Arrays:
    return 2.0 * rng.normal(size=(sets, pixels, 2)), rng.uniform(size=(sets, pixels, 2))


def pixels_and_labels(rng: np.random.Generator, sets: int, classes: int) -> Arrays:
    logits = 2.0 * rng.normal(size=(sets, 2, 3, classes))
    return logits, rng.integers(0, classes, (sets, 2, 3))


def class_counts(classes: int) -> dict[str, np.ndarray]:
    return {"class_counts": np.linspace(500, 5, classes).astype(np.int32)}


def sigmoid(logits):
    return 1.0 / (1.0 + np.exp(-logits))


def binary_cross_entropy_from_probabilities(p, y):
    return -y * np.log(p) - (1.0 - y) * np.log(1.0 - p)


def sigmoid_binary_cross_entropy(logits, labels, pos_weight=1.0, label_smoothing=0.0):
    t, p = (1.0 - label_smoothing) * labels + label_smoothing / 2.0, sigmoid(logits)
    return -pos_weight * t * np.log(p) - (1.0 - t) * np.log(1.0 - p)


def sigmoid_focal_loss(logits, labels, alpha, gamma):
    p = sigmoid(logits)
    error, weight = (x * labels + (1.0 - x) * (1.0 - labels) for x in (1.0 - p, alpha))
    return weight * error**gamma * binary_cross_entropy_from_probabilities(p, labels)


def asymmetric_loss(logits, labels, gamma_negative, gamma_positive, clip):
    p = sigmoid(logits)
    shifted = np.maximum(p - clip, 0.0)
    positive = (1.0 - p) ** gamma_positive * np.log(p)
    negative = shifted**gamma_negative * np.log(1.0 - shifted)
    return -labels * positive - (1.0 - labels) * negative


def distribution_balanced(
    logits, labels, class_counts, num_examples, alpha, beta, mu, negative_scale, kappa, gamma
):
    prior = class_counts / num_examples
    z = logits + kappa * -np.log(1.0 / prior - 1.0)
    rate = (1.0 / class_counts) / (labels / class_counts).sum(-1, keepdims=True)
    weight = alpha + sigmoid(beta * (rate - mu))
    positive = sigmoid(-z) ** gamma * np.log(1.0 + np.exp(-z))
    z = negative_scale * z
    negative = sigmoid(z) ** gamma * np.log(1.0 + np.exp(z)) / negative_scale
    return weight * (labels * positive + (1.0 - labels) * negative)


def zlpr_multilabel(logits, labels):
    positive = np.log(1.0 + (labels * np.exp(-logits)).sum(-1))
    return positive + np.log(1.0 + ((1.0 - labels) * np.exp(logits)).sum(-1))


def binary_dice_loss(logits, labels, smooth):
    p, elements = sigmoid(logits), (1, 2)
    overlap = 2.0 * (p * labels).sum(elements) + 2.0 * smooth
    return 1.0 - overlap / (p.sum(elements) + labels.sum(elements) + 2.0 * smooth)


def tversky(logits, labels, alpha, beta, smooth):
    p, elements = sigmoid(logits), (1, 2)
    hits = (p * labels).sum(elements)
    false_alarms, misses = p.sum(elements) - hits, labels.sum(elements) - hits
    return 1.0 - (hits + smooth) / (hits + alpha * false_alarms + beta * misses + smooth)


def jaccard_loss_of_errors(wrong: np.ndarray, truth: np.ndarray) -> float:
    """Returns 1 - Jaccard index of the prediction that is wrong where it says."""
    predicted = truth ^ wrong
    union = (truth | predicted).sum()
    return 1.0 - (truth & predicted).sum() / union if union else 0.0


def lovasz_extension(errors: np.ndarray, truth: np.ndarray) -> float:
    """Returns sum_i m_i (Delta(first i) - Delta(first i - 1)) in falling order of the errors."""
    total, wrong, before = 0.0, np.zeros(len(errors), bool), 0.0
    for i in np.argsort(-errors):
        wrong[i] = True
        after = jaccard_loss_of_errors(wrong, truth)
        total, before = total + errors[i] * (after - before), after
    return total


def lovasz_hinge(logits, labels):
    logits, labels = (x.reshape(len(x), -1) for x in (logits, labels))
    violations = np.maximum(1.0 - logits * (2.0 * labels - 1.0), 0.0)
    return np.array([lovasz_extension(*s) for s in zip(violations, labels == 1, strict=True)])


def lovasz_softmax(logits, labels):
    classes = logits.shape[-1]
    p, labels = softmax(logits).reshape(len(logits), -1, classes), labels.reshape(len(logits), -1)
    return np.array([
        np.mean([
            lovasz_extension(np.abs((y == c) - q[:, c]), y == c) for c in np.unique(y)
        ])
        for q, y in zip(p, labels, strict=True)
    ])  # fmt: skip


BALANCE = {
    "num_examples": Parameter(1000.0, 0.0),
    "alpha": Parameter(0.1, 0.0),
    "beta": Parameter(10.0, 0.0),
    "mu": Parameter(0.2),
    "negative_scale": Parameter(2.0, 0.0),
    "kappa": Parameter(0.05),
    "gamma": Parameter(0.5, 0.0),
}

BINARY = [
    LossCase(
        function=xent.sigmoid_binary_cross_entropy,
        family="binary",
        reference=sigmoid_binary_cross_entropy,
        inputs=logits_and_binary_labels,
        defaults={"pos_weight": 1.0, "label_smoothing": 0.0},
        limit=lambda logits, labels: (
            xent.sigmoid_binary_cross_entropy(logits, labels),
            with_integer_labels(np.stack([0.0 * logits, logits], -1), labels),
        ),
    ),
    LossCase(
        function=xent.sigmoid_binary_cross_entropy,
        variant=" of soft labels",
        family="binary",
        reference=sigmoid_binary_cross_entropy,
        inputs=logits_and_soft_labels,
        parameters={
            "pos_weight": Parameter(3.0, 0.0),
            "label_smoothing": Parameter(0.1, 0.0, 1.0),
        },
        limit=lambda logits, labels: (  # the cross-entropy of p with itself is its entropy
            xent.sigmoid_binary_cross_entropy(logits, sigmoid(logits)),
            xent.entropy(np.stack([sigmoid(logits), sigmoid(-logits)], -1)),
        ),
    ),
    LossCase(
        function=xent.binary_cross_entropy_from_probabilities,
        family="binary",
        reference=binary_cross_entropy_from_probabilities,
        inputs=probabilities_and_soft_labels,
        limit=lambda p, labels: (
            xent.binary_cross_entropy_from_probabilities(p, labels),
            xent.sigmoid_binary_cross_entropy(np.log(p / (1.0 - p)), labels),
        ),
    ),
    LossCase(
        function=xent.sigmoid_focal_loss,
        family="binary",
        reference=sigmoid_focal_loss,
        inputs=logits_and_soft_labels,
        parameters={"alpha": Parameter(0.25, 0.0, 1.0), "gamma": Parameter(0.5, 0.0)},
        defaults={"alpha": 0.25, "gamma": 2.0},
        limit=lambda logits, labels: (
            xent.sigmoid_focal_loss(logits, labels, alpha=None, gamma=0.0),
            xent.sigmoid_binary_cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.asymmetric_loss,
        family="binary",
        reference=asymmetric_loss,
        inputs=logits_and_soft_labels,
        parameters={
            "gamma_negative": Parameter(1.5, 0.0),
            "gamma_positive": Parameter(0.5, 0.0),
            "clip": Parameter(0.2, 0.0, 1.0),
        },
        defaults={"gamma_negative": 4.0, "gamma_positive": 1.0, "clip": 0.05},
        limit=lambda logits, labels: (
            xent.asymmetric_loss(
                logits, labels.round(), gamma_negative=2.0, gamma_positive=2.0, clip=0.0
            ),
            xent.sigmoid_focal_loss(logits, labels.round(), alpha=None, gamma=2.0),
        ),
    ),
    LossCase(
        function=xent.distribution_balanced,
        family="binary",
        reference=distribution_balanced,
        inputs=logits_and_soft_labels,
        parameters=BALANCE,
        context=class_counts,
        defaults={"alpha": 0.1, "beta": 10.0, "mu": 0.2, "negative_scale": 2.0, "kappa": 0.05},
        limit=lambda logits, labels: (  # all weights alpha + 1/2, nothing shifted or scaled
            xent.distribution_balanced(
                logits,
                labels,
                **class_counts(logits.shape[-1]),
                num_examples=1000,
                alpha=0.5,
                beta=0.0,
                negative_scale=1.0,
                kappa=0.0,
            ),
            xent.sigmoid_binary_cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.zlpr_multilabel,
        family="classification",
        reference=zlpr_multilabel,
        inputs=logits_and_soft_labels,
        defaults={"axis": -1},
        limit=lambda logits, labels: (  # of one class
            xent.zlpr_multilabel(logits[:, :1], np.ones_like(logits[:, :1])),
            xent.sigmoid_binary_cross_entropy(logits[:, 0], np.ones(len(logits), np.int32)),
        ),
    ),
    LossCase(
        function=xent.binary_dice_loss,
        family="sets",
        reference=binary_dice_loss,
        inputs=pixels_and_soft_masks,
        parameters={"smooth": Parameter(1.0, 0.0)},
        defaults={"smooth": 1.0},
        limit=lambda logits, labels: (  # all right
            xent.binary_dice_loss(200.0 * labels.round() - 100.0, labels.round()),
            np.zeros(len(labels)),
        ),
    ),
    LossCase(
        function=xent.tversky,
        family="sets",
        reference=tversky,
        inputs=pixels_and_masks,
        parameters={
            "alpha": Parameter(0.3, 0.0),
            "beta": Parameter(0.7, 0.0),
            "smooth": Parameter(1.0, 0.0),
        },
        defaults={"alpha": 0.5, "beta": 0.5, "smooth": 1.0},
        limit=lambda logits, labels: (
            xent.tversky(logits, labels),
            xent.binary_dice_loss(logits, labels),
        ),
    ),
    LossCase(
        function=xent.lovasz_hinge,
        family="sets",
        reference=lovasz_hinge,
        inputs=pixels_and_masks,
        limit=lambda logits, labels: (  # at errors of 0 and 1 it is 1 - Jaccard index
            xent.lovasz_hinge(np.where(logits > 0, 1.0, 0.0), np.ones_like(labels)),
            1.0 - (logits > 0).mean((1, 2)),
        ),
    ),
    LossCase(
        function=xent.lovasz_softmax,
        family="sets",
        reference=lovasz_softmax,
        inputs=pixels_and_labels,
        defaults={"only_present": True, "axis": -1},
        limit=lambda logits, labels: (  # all right
            xent.lovasz_softmax(100.0 * one_hot(labels, logits.shape[-1]), labels),
            np.zeros(len(labels)),
        ),
    ),
]

CASES = [*CATEGORICAL, *NOISY_LABELS, *INFORMATION, *BINARY]
