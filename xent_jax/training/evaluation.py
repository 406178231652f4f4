"""What a record tells of an evaluation, from the sums over each set."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from xent_jax import metrics
from xent_jax.data import Dataset
from xent_jax.metrics import ClassificationSums
from xent_jax.training.config import Config

_HELD_OUT = ("accuracy", "balanced_accuracy", "nll", "expected_calibration_error")
_CALIBRATED = ("nll", "brier", "expected_calibration_error", "maximum_calibration_error")


def rare_counts(config: Config, sets: Mapping[str, Dataset]) -> np.ndarray | None:
    """Returns the training examples of each class where some classes were made rare."""
    if config.imbalance.name == "none":
        return None
    train = sets["train"]
    return np.bincount(train.labels, minlength=train.num_classes)


def describe(
    sums: Mapping[str, ClassificationSums], train_counts: np.ndarray | None, *, last: bool
) -> dict[str, Any]:
    """Returns the metrics of the test set and, where there are any, of held-out and wrong labels.

    What is drawn and not followed, the confusion matrix and the reliability, comes last only.

    Args:
      sums: of 'test' and perhaps 'wrong' and 'validation'.
      train_counts: of each class, for the accuracies of many, medium and few examples, or None.
      last: whether no evaluation follows.
    """
    test: dict[str, Any] = dict(metrics.compute(sums["test"], train_counts))
    if last:
        test["reliability"] = metrics.reliability(jax.device_get(sums["test"].bins))
    else:
        test.pop("confusion_matrix")
    result = {"test": test}
    if "wrong" in sums:
        wrong = metrics.compute(sums["wrong"])
        if wrong["examples"]:
            memorised, recovered = wrong["memorisation"], wrong["recovery"]
            result["wrong_labels"] = {"memorised": memorised, "recovered": recovered}
    if "validation" in sums:
        held_out = metrics.compute(sums["validation"])
        result["validation"] = {key: held_out[key] for key in _HELD_OUT}
    return result


def calibrated(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns the temperature that suits the validation set, and the test's metrics with it."""
    temperature = float(metrics.fit_temperature(logits["validation"], labels["validation"]))
    if not 0 < temperature < np.inf:  # All of them are right, or the logits say nothing.
        return {"temperature": temperature}
    test = logits["test"] / np.float32(temperature)
    found = metrics.compute(metrics.classification_sums(test, labels["test"]))
    return {"temperature": temperature} | {key: found[key] for key in _CALIBRATED}
