"""Rows of the losses divided by their sum over all labels."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.noisy_labels import reverse_cross_entropy
from tests.losses.cases.row import LossCase, Parameter, one_hot, softmax


def share(losses, logits, labels):
    """Returns the label's loss over that of all labels that can occur, and 1 for 0 / 0."""
    possible = ~np.isneginf(logits)
    label = (np.where(possible, losses, 0.0) * one_hot(labels, logits.shape[-1])).sum(-1)
    total = np.where(possible, losses, 0.0).sum(-1)
    cannot_occur = np.isneginf(logits) & (one_hot(labels, logits.shape[-1]) == 1)
    one = (total == 0.0) | cannot_occur.any(-1)
    return np.where(one, 1.0, label / np.where(one, 1.0, total)) + 0.0 * softmax(logits).sum(-1)


def surprises(logits):
    gaps = logits - logits.max(-1, keepdims=True)  # log(softmax) underflows where p does
    return np.log(np.exp(gaps).sum(-1, keepdims=True)) - gaps


def normalized_cross_entropy(logits, labels):
    return share(surprises(logits), logits, labels)


def normalized_focal(logits, labels, gamma):
    losses = (1.0 - softmax(logits)) ** gamma * surprises(logits)
    return share(losses, logits, labels)


def normalized_generalized_cross_entropy(logits, labels, q):
    return share(1.0 - softmax(logits) ** q, logits, labels)


def active_negative(logits, labels, alpha, beta, min_probability, gamma=0.0):
    p = np.maximum(softmax(logits), min_probability)
    most = -((1.0 - min_probability) ** gamma) * np.log(min_probability)
    negatives = most + (1.0 - p) ** gamma * np.log(p)
    label = (negatives * one_hot(labels, logits.shape[-1])).sum(-1)
    active = normalized_focal(logits, labels, gamma)
    return alpha * active + beta * (1.0 - label / negatives.sum(-1))


def active_passive(logits, labels, alpha, beta):
    passive = reverse_cross_entropy(logits, labels, log_zero=-4.0)
    return alpha * normalized_cross_entropy(logits, labels) + beta * passive


CASES = [
    LossCase(
        function=xent.normalized_cross_entropy,
        family="classification",
        reference=normalized_cross_entropy,
        limit=lambda logits, labels: (
            xent.normalized_cross_entropy(np.zeros_like(logits), labels),
            np.full(len(logits), 1.0 / logits.shape[-1]),
        ),
    ),
    LossCase(
        function=xent.normalized_focal,
        family="classification",
        reference=normalized_focal,
        parameters={"gamma": Parameter(0.5, 0.0)},
        defaults={"gamma": 0.5},
        limit=lambda logits, labels: (
            xent.normalized_focal(logits, labels, gamma=0.0),
            xent.normalized_cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.normalized_generalized_cross_entropy,
        family="classification",
        reference=normalized_generalized_cross_entropy,
        parameters={"q": Parameter(0.7, 0.0, 1.0)},
        defaults={"q": 0.7},
        limit=lambda logits, labels: (
            xent.normalized_generalized_cross_entropy(logits, labels, q=1.0),
            xent.mean_absolute_error(logits, labels) / (2.0 * (logits.shape[-1] - 1)),
        ),
    ),
    LossCase(
        function=xent.active_negative,
        family="classification",
        reference=active_negative,
        parameters={
            "alpha": Parameter(5.0, 0.0),
            "beta": Parameter(2.0, 0.0),
            "gamma": Parameter(0.5, 0.0),
            "min_probability": Parameter(0.02, 0.0, 1.0),
        },
        defaults={"alpha": 5.0, "beta": 5.0, "gamma": 0.0, "min_probability": 1e-7},
        limit=lambda logits, labels: (
            xent.active_negative(logits, labels, alpha=1.0, beta=0.0, gamma=2.0),
            xent.normalized_focal(logits, labels, gamma=2.0),
        ),
    ),
    LossCase(
        function=xent.active_passive,
        family="classification",
        reference=active_passive,
        parameters={"alpha": Parameter(1.0, 0.0), "beta": Parameter(0.5, 0.0)},
        defaults={"alpha": 1.0, "beta": 1.0},
        limit=lambda logits, labels: (
            xent.active_passive(
                logits, labels, active="cross_entropy", passive="mean_absolute_error", alpha=0.0
            ),
            xent.mean_absolute_error(logits, labels),
        ),
    ),
]
