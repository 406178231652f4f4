"""Rows of the tempered losses."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import LossCase, Parameter, cross_entropy, one_hot


def log_tempered(x, t):
    return (x ** (1.0 - t) - 1.0) / (1.0 - t)


def exp_tempered(x, t):
    base = 1.0 + (1.0 - t) * x
    return np.where(base <= 0.0, 0.0, base) ** (1.0 / (1.0 - t))


def tempered_softmax(logits, t):
    """Returns exp_t(z - lambda), with lambda found by bisection."""
    logits = logits - logits.max(-1, keepdims=True)
    low = np.zeros((len(logits), 1))
    high = low - log_tempered(1.0 / logits.shape[-1], t) + 1e-12
    for _ in range(200):
        middle = (low + high) / 2.0
        above = exp_tempered(logits - middle, t).sum(-1, keepdims=True) > 1.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return exp_tempered(logits - low, t)


def bi_tempered_logistic(logits, labels, t1, t2, label_smoothing=0.0):
    label, possible = one_hot(labels, logits.shape[-1]), ~np.isneginf(logits)
    others = possible * (1.0 - label)
    count = others.sum(-1, keepdims=True)
    smoothing = label_smoothing * (count > 0)
    targets = (1.0 - smoothing) * label + smoothing / np.where(count > 0, count, 1.0) * others
    p = tempered_softmax(logits, t2)
    divergence = targets * (log_tempered(targets, t1) - log_tempered(p, t1))
    return (divergence - (targets ** (2.0 - t1) - p ** (2.0 - t1)) / (2.0 - t1)).sum(-1)


CASES = [
    LossCase(
        function=xent.bi_tempered_logistic,
        family="classification",
        reference=bi_tempered_logistic,
        parameters={
            "t1": Parameter(0.8, 0.0, 1.0),
            "t2": Parameter(1.4, 0.0),
            "label_smoothing": Parameter(0.1, 0.0, 1.0),
        },
        defaults={"t1": 0.8, "t2": 1.4, "label_smoothing": 0.0},
        limit=lambda logits, labels: (
            xent.bi_tempered_logistic(logits, labels, t1=1.0, t2=1.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.bi_tempered_logistic,
        family="classification",
        reference=bi_tempered_logistic,
        parameters={"t1": Parameter(0.3, 0.0, 1.0), "t2": Parameter(0.6, 0.0)},
        variant=" with finite support",
    ),
    LossCase(
        function=xent.bi_tempered_logistic,
        family="classification",
        reference=bi_tempered_logistic,
        parameters={"t1": Parameter(0.8, 0.0, 1.0), "t2": Parameter(1.4, 0.0)},
        variant=" without smoothing",
    ),
]
