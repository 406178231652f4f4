"""Rows of the losses of ordered classes; the logits are those of K - 1 thresholds, or of K."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    LossCase,
    Parameter,
    cross_entropy,
    logits_and_labels,
    one_hot,
    sigmoid,
    softmax,
)


def thresholds_and_labels(rng, examples, thresholds):
    return rng.normal(size=(examples, thresholds)), rng.integers(0, thresholds + 1, examples)


def falling_thresholds_and_labels(rng, examples, thresholds):
    falls = np.cumsum(rng.uniform(0.3, 0.7, size=(examples, thresholds)), axis=-1)
    logits = rng.normal(size=(examples, 1)) - falls + falls.mean(-1, keepdims=True)
    return logits, rng.integers(0, thresholds + 1, examples)


def thresholds_alone(rng, examples, thresholds):
    return thresholds_and_labels(rng, examples, thresholds)[:1]


def falling_thresholds_alone(rng, examples, thresholds):
    return falling_thresholds_and_labels(rng, examples, thresholds)[:1]


def importance_weights(thresholds):
    return {"importance_weights": np.linspace(0.5, 2.0, thresholds, dtype=np.float32)}


def coral(logits, labels, importance_weights=None):
    losses = np.zeros(len(logits))
    weights = np.ones(logits.shape[-1]) if importance_weights is None else importance_weights
    for n, (z, y) in enumerate(zip(logits, labels, strict=True)):
        for k, weight in enumerate(weights):
            losses[n] -= weight * np.log(sigmoid(z[k]) if y > k else 1.0 - sigmoid(z[k]))
    return losses


def corn(logits, labels):
    """Sums over the subsets S_k of examples whose label is above k - 1, as the paper does."""
    losses = np.zeros(len(logits))
    for k in range(logits.shape[-1]):
        for n in np.flatnonzero(labels > k - 1):
            p = sigmoid(logits[n, k])
            losses[n] -= np.log(p) if labels[n] > k else np.log(1.0 - p)
    return losses


def cumulative_link(logits, labels):
    p = coral_probabilities(logits)
    return -np.log(np.take_along_axis(p, labels[:, None], -1)[:, 0])


def coral_probabilities(logits):
    ones, zeros = np.ones((len(logits), 1)), np.zeros((len(logits), 1))
    return -np.diff(np.concatenate([ones, sigmoid(logits), zeros], -1), axis=-1)


def corn_probabilities(logits):
    ones, zeros = np.ones((len(logits), 1)), np.zeros((len(logits), 1))
    above = np.cumprod(sigmoid(logits), -1)
    return -np.diff(np.concatenate([ones, above, zeros], -1), axis=-1)


def soft_ordinal(logits, labels, scale, power, ranks=None):
    ranks = np.arange(logits.shape[-1]) if ranks is None else np.float64(ranks)
    penalties = scale * np.abs(ranks[None, :] - ranks[labels][:, None]) ** power
    possible = np.isfinite(logits) | (one_hot(labels, logits.shape[-1]) == 1)
    targets = softmax(np.where(possible, -penalties, -np.inf))
    log_p = logits - logits.max(-1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    return -np.where(targets > 0, targets * log_p, 0.0).sum(-1)


def class_ranks(classes):
    return {"ranks": 0.25 * np.arange(classes, dtype=np.float32) ** 2}


SOFTNESS = {"scale": Parameter(1.5, 0.0), "power": Parameter(1.3)}

CASES = [
    LossCase(
        function=xent.coral,
        family="classification",
        reference=coral,
        inputs=thresholds_and_labels,
        limit=lambda logits, labels: (  # two classes
            xent.coral(logits[:, :1], labels % 2),
            xent.sigmoid_binary_cross_entropy(logits[:, 0], labels % 2),
        ),
    ),
    LossCase(
        function=xent.coral,
        variant=" weighted",
        family="classification",
        reference=coral,
        inputs=thresholds_and_labels,
        context=importance_weights,
    ),
    LossCase(
        function=xent.corn,
        family="classification",
        reference=corn,
        inputs=thresholds_and_labels,
        limit=lambda logits, labels: (  # two classes
            xent.corn(logits[:, :1], labels % 2),
            xent.sigmoid_binary_cross_entropy(logits[:, 0], labels % 2),
        ),
    ),
    LossCase(
        function=xent.cumulative_link,
        family="classification",
        reference=cumulative_link,
        inputs=falling_thresholds_and_labels,
        limit=lambda logits, labels: (
            np.exp(-xent.cumulative_link(logits, labels)),
            np.take_along_axis(
                np.asarray(xent.coral_probabilities(logits)), labels[:, None], axis=-1
            )[:, 0],
        ),
    ),
    LossCase(
        function=xent.soft_ordinal,
        family="classification",
        reference=soft_ordinal,
        inputs=logits_and_labels,
        parameters=SOFTNESS,
        defaults={"scale": 1.0, "power": 1.0},
        limit=lambda logits, labels: (
            xent.soft_ordinal(logits, labels, scale=1e3),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.soft_ordinal,
        variant=" of ranks",
        family="classification",
        reference=soft_ordinal,
        inputs=logits_and_labels,
        parameters=SOFTNESS,
        context=class_ranks,
        limit=lambda logits, labels: (
            xent.soft_ordinal(logits, labels, scale=0.0),
            -np.log(softmax(logits)).mean(-1),
        ),
    ),
    LossCase(
        function=xent.coral_probabilities,
        family="transform",
        reference=coral_probabilities,
        inputs=falling_thresholds_alone,
        limit=lambda logits: (xent.coral_probabilities(logits).sum(-1), np.ones(len(logits))),
    ),
    LossCase(
        function=xent.corn_probabilities,
        family="transform",
        reference=corn_probabilities,
        inputs=thresholds_alone,
        limit=lambda logits: (
            -np.log(xent.corn_probabilities(logits)[:, 2]),
            xent.corn(logits, np.full(len(logits), 2)),
        ),
    ),
]
