"""What `losses/test_contract_matrix.py` must know of a public loss, and what its references share.

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
      pick: takes the array that is compared out of a result that holds more, such as a new state.
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
    pick: Callable[[Any], Any] = lambda result: result
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


def class_weights(classes: int) -> dict[str, np.ndarray]:
    return {"class_weights": np.linspace(0.5, 2.0, classes, dtype=np.float32)}


def class_counts(classes: int) -> dict[str, np.ndarray]:
    return {"class_counts": np.linspace(500, 5, classes).astype(np.int32)}


def sigmoid(logits):
    return 1.0 / (1.0 + np.exp(-logits))


def with_integer_labels(logits, labels, **keywords):
    return xent.softmax_cross_entropy_with_integer_labels(logits, labels, **keywords)
