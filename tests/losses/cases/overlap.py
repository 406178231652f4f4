"""Rows of the losses of the overlap of segments."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import Arrays, LossCase, Parameter, class_weights, softmax

SMOOTH = Parameter(0.5, 0.0)


def pixels_and_soft_segments(rng: np.random.Generator, sets: int, classes: int) -> Arrays:
    logits = 2.0 * rng.normal(size=(sets, 2, 3, classes))
    return logits, softmax(2.0 * rng.normal(size=logits.shape))


def pixels_and_segments(rng: np.random.Generator, sets: int, classes: int) -> Arrays:
    logits, soft = pixels_and_soft_segments(rng, sets, classes)
    return logits, np.eye(classes, dtype=np.int32)[soft.argmax(-1)]


def index(p, y, alpha, beta, smooth):
    """Returns Tversky's index of one set and class."""
    hits = (p * y).sum()
    false_alarms, misses = p.sum() - hits, y.sum() - hits
    return (hits + smooth) / (hits + alpha * false_alarms + beta * misses + smooth)


def dice_loss(logits, labels, class_weights, alpha, beta, smooth):
    p, losses = softmax(logits), np.zeros(len(logits))
    for i in range(len(logits)):
        for k, weight in enumerate(class_weights):
            overlap = index(p[i, ..., k], labels[i, ..., k], alpha, beta, smooth)
            losses[i] += weight * (1.0 - overlap)
    return losses / len(class_weights)


def multiclass_generalized_dice_loss(logits, labels, smooth):
    frequencies = labels.sum((0, 1, 2))
    weights = frequencies**-2.0
    weights = len(weights) * weights / weights.sum()
    return dice_loss(logits, labels, weights, 0.5, 0.5, smooth)


CASES = [
    LossCase(
        function=xent.dice_loss,
        family="sets",
        reference=dice_loss,
        inputs=pixels_and_segments,
        context=class_weights,
        parameters={
            "alpha": Parameter(0.3, 0.0),
            "beta": Parameter(0.7, 0.0),
            "smooth": SMOOTH,
        },
        defaults={"alpha": 0.5, "beta": 0.5, "smooth": 1.0, "class_weights": None},
        limit=lambda logits, labels: (  # all right
            xent.dice_loss(100.0 * labels, labels),
            np.zeros(len(labels)),
        ),
    ),
    LossCase(
        function=xent.multiclass_generalized_dice_loss,
        family="sets",
        reference=multiclass_generalized_dice_loss,
        inputs=pixels_and_soft_segments,
        parameters={"smooth": SMOOTH},
        defaults={"smooth": 1.0, "ignore_background": False},
        limit=lambda logits, labels: (  # all classes equally frequent
            xent.multiclass_generalized_dice_loss(logits, np.full_like(labels, 0.25)),
            xent.dice_loss(logits, np.full_like(labels, 0.25)),
        ),
    ),
]
