"""Rows of the losses for wrong labels."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    LossCase,
    Parameter,
    cross_entropy,
    label_probability,
    one_hot,
    softmax,
)


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


CASES = [
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
