"""Rows of the losses of independent labels, and of sets of them."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    Arrays,
    LossCase,
    Parameter,
    class_counts,
    one_hot,
    sigmoid,
    softmax,
    with_integer_labels,
)


def logits_and_binary_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits = 2.0 * rng.normal(size=(examples, classes))
    return logits, rng.integers(0, 2, (examples, classes))


def logits_and_soft_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits = 2.0 * rng.normal(size=(examples, classes))
    return logits, rng.uniform(size=(examples, classes))


def probabilities_and_soft_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits, labels = logits_and_soft_labels(rng, examples, classes)
    return sigmoid(0.5 * logits), labels


def pixels_and_masks(rng: np.random.Generator, sets: int, pixels: int) -> Arrays:
    return 2.0 * rng.normal(size=(sets, pixels, 2)), rng.integers(0, 2, (sets, pixels, 2))


def pixels_and_soft_masks(rng: np.random.Generator, sets: int, pixels: int) -> Arrays:
    return 2.0 * rng.normal(size=(sets, pixels, 2)), rng.uniform(size=(sets, pixels, 2))


def pixels_and_labels(rng: np.random.Generator, sets: int, classes: int) -> Arrays:
    logits = 2.0 * rng.normal(size=(sets, 2, 3, classes))
    return logits, rng.integers(0, classes, (sets, 2, 3))


def binary_cross_entropy_from_probabilities(p, y):
    return -y * np.log(p) - (1.0 - y) * np.log(1.0 - p)


def sigmoid_binary_cross_entropy(logits, labels, pos_weight=1.0, label_smoothing=0.0):
    t, p = (1.0 - label_smoothing) * labels + label_smoothing / 2.0, sigmoid(logits)
    return -pos_weight * t * np.log(p) - (1.0 - t) * np.log(1.0 - p)


def sigmoid_focal_loss(logits, labels, alpha, gamma):
    p = sigmoid(logits)
    error, weight = (x * labels + (1.0 - x) * (1.0 - labels) for x in (1.0 - p, alpha))
    return weight * error**gamma * binary_cross_entropy_from_probabilities(p, labels)


def asymmetric_loss(logits, labels, gamma_negative, gamma_positive, clip):
    p = sigmoid(logits)
    shifted = np.maximum(p - clip, 0.0)
    positive = (1.0 - p) ** gamma_positive * np.log(p)
    negative = shifted**gamma_negative * np.log(1.0 - shifted)
    return -labels * positive - (1.0 - labels) * negative


def distribution_balanced(
    logits, labels, class_counts, num_examples, alpha, beta, mu, negative_scale, kappa, gamma
):
    prior = class_counts / num_examples
    z = logits + kappa * -np.log(1.0 / prior - 1.0)
    rate = (1.0 / class_counts) / (labels / class_counts).sum(-1, keepdims=True)
    weight = alpha + sigmoid(beta * (rate - mu))
    positive = sigmoid(-z) ** gamma * np.log(1.0 + np.exp(-z))
    z = negative_scale * z
    negative = sigmoid(z) ** gamma * np.log(1.0 + np.exp(z)) / negative_scale
    return weight * (labels * positive + (1.0 - labels) * negative)


def zlpr_multilabel(logits, labels):
    positive = np.log(1.0 + (labels * np.exp(-logits)).sum(-1))
    return positive + np.log(1.0 + ((1.0 - labels) * np.exp(logits)).sum(-1))


def binary_dice_loss(logits, labels, smooth):
    p, elements = sigmoid(logits), (1, 2)
    overlap = 2.0 * (p * labels).sum(elements) + 2.0 * smooth
    return 1.0 - overlap / (p.sum(elements) + labels.sum(elements) + 2.0 * smooth)


def tversky(logits, labels, alpha, beta, smooth):
    p, elements = sigmoid(logits), (1, 2)
    hits = (p * labels).sum(elements)
    false_alarms, misses = p.sum(elements) - hits, labels.sum(elements) - hits
    return 1.0 - (hits + smooth) / (hits + alpha * false_alarms + beta * misses + smooth)


def jaccard_loss_of_errors(wrong: np.ndarray, truth: np.ndarray) -> float:
    """Returns 1 - Jaccard index of the prediction that is wrong where it says."""
    predicted = truth ^ wrong
    union = (truth | predicted).sum()
    return 1.0 - (truth & predicted).sum() / union if union else 0.0


def lovasz_extension(errors: np.ndarray, truth: np.ndarray) -> float:
    """Returns sum_i m_i (Delta(first i) - Delta(first i - 1)) in falling order of the errors."""
    total, wrong, before = 0.0, np.zeros(len(errors), bool), 0.0
    for i in np.argsort(-errors):
        wrong[i] = True
        after = jaccard_loss_of_errors(wrong, truth)
        total, before = total + errors[i] * (after - before), after
    return total


def lovasz_hinge(logits, labels):
    logits, labels = (x.reshape(len(x), -1) for x in (logits, labels))
    violations = np.maximum(1.0 - logits * (2.0 * labels - 1.0), 0.0)
    return np.array([lovasz_extension(*s) for s in zip(violations, labels == 1, strict=True)])


def lovasz_softmax(logits, labels):
    classes = logits.shape[-1]
    p, labels = softmax(logits).reshape(len(logits), -1, classes), labels.reshape(len(logits), -1)
    return np.array([
        np.mean([
            lovasz_extension(np.abs((y == c) - q[:, c]), y == c) for c in np.unique(y)
        ])
        for q, y in zip(p, labels, strict=True)
    ])  # fmt: skip


BALANCE = {
    "num_examples": Parameter(1000.0, 0.0),
    "alpha": Parameter(0.1, 0.0),
    "beta": Parameter(10.0, 0.0),
    "mu": Parameter(0.2),
    "negative_scale": Parameter(2.0, 0.0),
    "kappa": Parameter(0.05),
    "gamma": Parameter(0.5, 0.0),
}

CASES = [
    LossCase(
        function=xent.sigmoid_binary_cross_entropy,
        family="binary",
        reference=sigmoid_binary_cross_entropy,
        inputs=logits_and_binary_labels,
        defaults={"pos_weight": 1.0, "label_smoothing": 0.0},
        limit=lambda logits, labels: (
            xent.sigmoid_binary_cross_entropy(logits, labels),
            with_integer_labels(np.stack([0.0 * logits, logits], -1), labels),
        ),
    ),
    LossCase(
        function=xent.sigmoid_binary_cross_entropy,
        variant=" of soft labels",
        family="binary",
        reference=sigmoid_binary_cross_entropy,
        inputs=logits_and_soft_labels,
        parameters={
            "pos_weight": Parameter(3.0, 0.0),
            "label_smoothing": Parameter(0.1, 0.0, 1.0),
        },
        limit=lambda logits, labels: (  # the cross-entropy of p with itself is its entropy
            xent.sigmoid_binary_cross_entropy(logits, sigmoid(logits)),
            xent.entropy(np.stack([sigmoid(logits), sigmoid(-logits)], -1)),
        ),
    ),
    LossCase(
        function=xent.binary_cross_entropy_from_probabilities,
        family="binary",
        reference=binary_cross_entropy_from_probabilities,
        inputs=probabilities_and_soft_labels,
        limit=lambda p, labels: (
            xent.binary_cross_entropy_from_probabilities(p, labels),
            xent.sigmoid_binary_cross_entropy(np.log(p / (1.0 - p)), labels),
        ),
    ),
    LossCase(
        function=xent.sigmoid_focal_loss,
        family="binary",
        reference=sigmoid_focal_loss,
        inputs=logits_and_soft_labels,
        parameters={"alpha": Parameter(0.25, 0.0, 1.0), "gamma": Parameter(0.5, 0.0)},
        defaults={"alpha": 0.25, "gamma": 2.0},
        limit=lambda logits, labels: (
            xent.sigmoid_focal_loss(logits, labels, alpha=None, gamma=0.0),
            xent.sigmoid_binary_cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.asymmetric_loss,
        family="binary",
        reference=asymmetric_loss,
        inputs=logits_and_soft_labels,
        parameters={
            "gamma_negative": Parameter(1.5, 0.0),
            "gamma_positive": Parameter(0.5, 0.0),
            "clip": Parameter(0.2, 0.0, 1.0),
        },
        defaults={"gamma_negative": 4.0, "gamma_positive": 1.0, "clip": 0.05},
        limit=lambda logits, labels: (
            xent.asymmetric_loss(
                logits, labels.round(), gamma_negative=2.0, gamma_positive=2.0, clip=0.0
            ),
            xent.sigmoid_focal_loss(logits, labels.round(), alpha=None, gamma=2.0),
        ),
    ),
    LossCase(
        function=xent.distribution_balanced,
        family="binary",
        reference=distribution_balanced,
        inputs=logits_and_soft_labels,
        parameters=BALANCE,
        context=class_counts,
        defaults={"alpha": 0.1, "beta": 10.0, "mu": 0.2, "negative_scale": 2.0, "kappa": 0.05},
        limit=lambda logits, labels: (  # all weights alpha + 1/2, nothing shifted or scaled
            xent.distribution_balanced(
                logits,
                labels,
                **class_counts(logits.shape[-1]),
                num_examples=1000,
                alpha=0.5,
                beta=0.0,
                negative_scale=1.0,
                kappa=0.0,
            ),
            xent.sigmoid_binary_cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.zlpr_multilabel,
        family="classification",
        reference=zlpr_multilabel,
        inputs=logits_and_soft_labels,
        defaults={"axis": -1},
        limit=lambda logits, labels: (  # of one class
            xent.zlpr_multilabel(logits[:, :1], np.ones_like(logits[:, :1])),
            xent.sigmoid_binary_cross_entropy(logits[:, 0], np.ones(len(logits), np.int32)),
        ),
    ),
    LossCase(
        function=xent.binary_dice_loss,
        family="sets",
        reference=binary_dice_loss,
        inputs=pixels_and_soft_masks,
        parameters={"smooth": Parameter(1.0, 0.0)},
        defaults={"smooth": 1.0},
        limit=lambda logits, labels: (  # all right
            xent.binary_dice_loss(200.0 * labels.round() - 100.0, labels.round()),
            np.zeros(len(labels)),
        ),
    ),
    LossCase(
        function=xent.tversky,
        family="sets",
        reference=tversky,
        inputs=pixels_and_masks,
        parameters={
            "alpha": Parameter(0.3, 0.0),
            "beta": Parameter(0.7, 0.0),
            "smooth": Parameter(1.0, 0.0),
        },
        defaults={"alpha": 0.5, "beta": 0.5, "smooth": 1.0},
        limit=lambda logits, labels: (
            xent.tversky(logits, labels),
            xent.binary_dice_loss(logits, labels),
        ),
    ),
    LossCase(
        function=xent.lovasz_hinge,
        family="sets",
        reference=lovasz_hinge,
        inputs=pixels_and_masks,
        limit=lambda logits, labels: (  # at errors of 0 and 1 it is 1 - Jaccard index
            xent.lovasz_hinge(np.where(logits > 0, 1.0, 0.0), np.ones_like(labels)),
            1.0 - (logits > 0).mean((1, 2)),
        ),
    ),
    LossCase(
        function=xent.lovasz_softmax,
        family="sets",
        reference=lovasz_softmax,
        inputs=pixels_and_labels,
        defaults={"only_present": True, "axis": -1},
        limit=lambda logits, labels: (  # all right
            xent.lovasz_softmax(100.0 * one_hot(labels, logits.shape[-1]), labels),
            np.zeros(len(labels)),
        ),
    ),
]
