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

CASES = [*CATEGORICAL, *NOISY_LABELS]
