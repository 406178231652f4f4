"""Rows of the losses of softmax(logits) and one class per example."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    Arrays,
    LossCase,
    Parameter,
    class_weights,
    cross_entropy,
    label_probability,
    logits_and_labels,
    one_hot,
    softmax,
    with_integer_labels,
)


def logits_and_targets(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    """Targets that do not sum to one, some of them 0."""
    targets = rng.uniform(size=(examples, classes)) * (rng.uniform(size=(examples, classes)) < 0.8)
    return 2.0 * rng.normal(size=(examples, classes)), targets


def probabilities_and_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits, labels = logits_and_labels(rng, examples, classes)
    return softmax(logits), labels


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


def targets_alone(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return logits_and_targets(rng, examples, classes)[1:]


def smooth_labels(targets, alpha):
    return (1.0 - alpha) * targets + alpha * np.full_like(targets, 1.0 / targets.shape[-1])


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


REGULARISERS = {
    "label_smoothing": Parameter(0.1, 0.0, 1.0),
    "z_loss": Parameter(0.01, 0.0),
    "logit_softcap": Parameter(5.0, 0.0),
}

CASES = [
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
    LossCase(
        function=xent.smooth_labels,
        family="transform",
        reference=smooth_labels,
        inputs=targets_alone,
        parameters={"alpha": Parameter(0.1, 0.0, 1.0)},
        limit=lambda targets: (xent.smooth_labels(targets, 1.0), np.full((5, 4), 0.25)),
    ),
]
