"""Rows of the sparse maps and their losses.

The references solve for the threshold by bisection, one row at a time, and form the loss as its
definition reads: the maximum, plus Omega of the target, less their product.
"""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    LossCase,
    Parameter,
    cross_entropy,
    logits_and_labels,
    one_hot,
    softmax,
)


def by_row(function):
    def mapped(logits, *rest, **keywords):
        rows = [function(*row, **keywords) for row in zip(logits, *rest, strict=True)]
        return np.array(rows).reshape(np.shape(rows) if rows else _empty(function, logits))

    return mapped


def _empty(function, logits):
    return logits.shape if function is one_entmax else logits.shape[:1]


def one_entmax(z, alpha):
    """Returns max((alpha - 1) z - tau, 0)^(1 / (alpha - 1)), with tau by bisection."""
    if not np.any(np.isfinite(z)):
        return np.full_like(z, np.nan)
    z = (alpha - 1.0) * z
    z = z - z.max()
    low, high = -1.0, 0.0
    for _ in range(80):
        tau = 0.5 * (low + high)
        mass = (np.maximum(z - tau, 0.0) ** (1.0 / (alpha - 1.0))).sum()
        low, high = (tau, high) if mass > 1.0 else (low, tau)
    p = np.maximum(z - low, 0.0) ** (1.0 / (alpha - 1.0))
    return p / p.sum()


def negative_entropy(p, alpha):
    return (p**alpha - p).sum() / (alpha * (alpha - 1.0))


def one_loss(z, target, alpha):
    p = one_entmax(z, alpha)
    if np.ndim(target) == 0:
        target = one_hot(target, len(z))
    with np.errstate(invalid="ignore"):
        conjugate = np.where(p == 0, 0.0, p * z).sum() - negative_entropy(p, alpha)
        product = np.where(target == 0, 0.0, target * z).sum()
    return conjugate + negative_entropy(target, alpha) - product


entmax = by_row(one_entmax)
entmax_loss = by_row(one_loss)


def sparsemax(logits):
    return entmax(logits, alpha=2.0)


def entmax15(logits):
    return entmax(logits, alpha=1.5)


def sparsemax_loss(logits, labels):
    """Returns the multi-class loss of the logits (z, 0) and the labels (y, 1 - y)."""
    pairs = np.stack([logits, np.zeros_like(logits)], -1).reshape(-1, 2)
    targets = np.stack([labels, 1.0 - labels], -1).reshape(-1, 2)
    return entmax_loss(pairs, targets, alpha=2.0).reshape(logits.shape)


def logits_alone(rng, examples, classes):
    return (rng.normal(size=(examples, classes)),)


def logits_and_distributions(rng, examples, classes):
    """Targets inside the simplex, whose Omega has a slope."""
    logits = rng.normal(size=(2, examples, classes))
    return logits[0], softmax(logits[1])


def logits_and_soft_labels(rng, examples, classes):
    return rng.normal(size=(examples, classes)), rng.uniform(size=(examples, classes))


def outputs_and_sides(rng, examples, classes):
    outputs = 2.0 * rng.normal(size=(examples, classes))
    return outputs, 2 * rng.integers(0, 2, size=outputs.shape) - 1


def hinge_loss(outputs, targets):
    return np.maximum(0.0, 1.0 - targets * outputs)


def perceptron_loss(outputs, targets):
    return np.maximum(0.0, -targets * outputs)


def multiclass_perceptron_loss(logits, labels):
    return logits.max(-1) - np.take_along_axis(logits, labels[:, None], -1)[:, 0]


ALPHA = {"alpha": Parameter(1.25, 1.0)}

CASES = [
    LossCase(
        function=xent.sparsemax,
        family="transform",
        reference=sparsemax,
        inputs=logits_alone,
        limit=lambda logits: (xent.sparsemax(logits), xent.entmax(logits, alpha=2.0)),
    ),
    LossCase(
        function=xent.entmax15,
        family="transform",
        reference=entmax15,
        inputs=logits_alone,
        limit=lambda logits: (xent.entmax15(logits), xent.entmax(logits, alpha=1.5)),
    ),
    LossCase(
        function=xent.entmax,
        family="transform",
        reference=entmax,
        inputs=logits_alone,
        parameters=ALPHA,
        defaults={"alpha": 1.5},
        limit=lambda logits: (xent.entmax(logits, alpha=1.0), softmax(logits)),
    ),
    LossCase(
        function=xent.multiclass_sparsemax_loss,
        family="classification",
        reference=lambda logits, labels: entmax_loss(logits, labels, alpha=2.0),
        limit=lambda logits, labels: (
            xent.multiclass_sparsemax_loss(logits, labels),
            xent.entmax_loss(logits, labels, alpha=2.0),
        ),
    ),
    LossCase(
        function=xent.multiclass_sparsemax_loss,
        variant=" of targets",
        family="classification",
        reference=lambda logits, targets: entmax_loss(logits, targets, alpha=2.0),
        inputs=logits_and_distributions,
    ),
    LossCase(
        function=xent.entmax15_loss,
        family="classification",
        reference=lambda logits, labels: entmax_loss(logits, labels, alpha=1.5),
        limit=lambda logits, labels: (
            xent.entmax15_loss(logits, labels),
            xent.entmax_loss(logits, labels, alpha=1.5),
        ),
    ),
    LossCase(
        function=xent.entmax15_loss,
        variant=" of targets",
        family="classification",
        reference=lambda logits, targets: entmax_loss(logits, targets, alpha=1.5),
        inputs=logits_and_distributions,
    ),
    LossCase(
        function=xent.entmax_loss,
        family="classification",
        reference=entmax_loss,
        parameters=ALPHA,
        defaults={"alpha": 1.5},
        limit=lambda logits, labels: (
            xent.entmax_loss(logits, labels, alpha=1.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.entmax_loss,
        variant=" of targets",
        family="classification",
        reference=entmax_loss,
        inputs=logits_and_distributions,
        parameters={"alpha": Parameter(1.7, 1.0)},
        limit=lambda logits, targets: (
            xent.entmax_loss(logits, targets, alpha=1.0),
            (targets * np.log(targets / softmax(logits))).sum(-1),
        ),
    ),
    LossCase(
        function=xent.sparsemax_loss,
        family="binary",
        reference=sparsemax_loss,
        inputs=logits_and_soft_labels,
        limit=lambda logits, labels: (
            xent.sparsemax_loss(logits, labels > 0.5),
            xent.sparsemax_loss(-logits, labels <= 0.5),
        ),
    ),
    LossCase(
        function=xent.hinge_loss,
        family="binary",
        reference=hinge_loss,
        inputs=outputs_and_sides,
        limit=lambda outputs, targets: (  # never below the misclassification
            np.minimum(xent.hinge_loss(outputs, targets), 1.0 * (outputs * targets <= 0)),
            1.0 * (outputs * targets <= 0),
        ),
    ),
    LossCase(
        function=xent.perceptron_loss,
        family="binary",
        reference=perceptron_loss,
        inputs=outputs_and_sides,
        limit=lambda outputs, targets: (  # the cross-entropy's at temperature 0
            xent.perceptron_loss(outputs, targets),
            1e-3 * np.logaddexp(0.0, -1e3 * np.float64(outputs) * targets),
        ),
    ),
    LossCase(
        function=xent.multiclass_perceptron_loss,
        family="classification",
        reference=multiclass_perceptron_loss,
        inputs=logits_and_labels,
        limit=lambda logits, labels: (
            xent.multiclass_perceptron_loss(logits[:, :2], labels % 2),
            xent.perceptron_loss(logits[:, 0] - logits[:, 1], 1 - 2 * (labels % 2)),
        ),
    ),
]
