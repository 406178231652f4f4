"""Rows of the losses of cosines: margins and proxies."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import Arrays, LossCase, Parameter, cross_entropy, one_hot, softmax


def features_and_weights(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return rng.normal(size=(examples, 3)), rng.normal(size=(classes, 3))


def features_and_sub_centres(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return rng.normal(size=(examples, 3)), rng.normal(size=(classes, 2, 3))


def cosines_and_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return rng.uniform(-0.9, 0.9, (examples, classes)), rng.integers(0, classes, examples)


def cosines_of_centres_and_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return rng.uniform(-0.9, 0.9, (examples, classes, 3)), rng.integers(0, classes, examples)


def cosine_similarities(features, classifier_weights):
    weights = classifier_weights.reshape(len(classifier_weights), -1, features.shape[-1])
    cosines = [
        [max(x @ w / np.sqrt(x @ x) / np.sqrt(w @ w) for w in centres) for centres in weights]
        for x in features
    ]
    return np.array(cosines)


def margin_loss(cosines, labels, scale, label_cosine):
    """The softmax loss of cosines, those of the labels replaced by a function of their angle."""
    losses = []
    for row, y in zip(cosines, labels, strict=True):
        right = np.exp(scale * label_cosine(np.arccos(row[y])))
        wrong = sum(np.exp(scale * c) for k, c in enumerate(row) if k != y)
        losses.append(-np.log(right / (right + wrong)))
    return np.array(losses)


def cosine_softmax(cosines, labels, scale):
    return cross_entropy(scale * cosines, labels)


def cosface(cosines, labels, margin, scale):
    return margin_loss(cosines, labels, scale, lambda angle: np.cos(angle) - margin)


def arcface(cosines, labels, margin, scale):
    def label_cosine(angle):
        if angle + margin <= np.pi:
            return np.cos(angle + margin)
        return np.cos(angle) - margin * np.sin(np.pi - margin)

    return margin_loss(cosines, labels, scale, label_cosine)


def sphereface(cosines, labels, margin, scale):
    def label_cosine(angle):
        n = 0
        while margin * angle > (n + 1) * np.pi:
            n += 1
        return (-1) ** n * np.cos(margin * angle) - 2 * n

    return margin_loss(cosines, labels, scale, label_cosine)


def proxy_nca(cosines, labels, scale):
    losses = []
    for row, y in zip(cosines, labels, strict=True):
        distances = scale * (2.0 - 2.0 * row)
        others = [np.exp(-d) for k, d in enumerate(distances) if k != y]
        losses.append(-np.log(np.exp(-distances[y]) / sum(others)) if others else 0.0)
    return np.array(losses)


def proxy_anchor(cosines, labels, margin, scale):
    classes = cosines.shape[1]
    present = set(labels.tolist())
    losses = np.zeros(classes)
    for k in range(classes):
        near = [np.exp(-scale * (c - margin)) for c in cosines[labels == k, k]]
        far = [np.exp(scale * (c + margin)) for c in cosines[labels != k, k]]
        losses[k] = np.log(1.0 + sum(far))
        if near:
            losses[k] += classes / len(present) * np.log(1.0 + sum(near))
    return losses


def soft_triple(cosines, labels, scale, margin, gamma):
    relaxed = (softmax(cosines / gamma) * cosines).sum(-1)
    return cross_entropy(scale * (relaxed - margin * one_hot(labels, cosines.shape[1])), labels)


SCALE = Parameter(5.0, 0.0)

CASES = [
    LossCase(
        function=xent.cosine_similarities,
        family="transform",
        reference=cosine_similarities,
        inputs=features_and_weights,
        limit=lambda features, weights: (  # lengths do not count
            xent.cosine_similarities(features, weights),
            xent.cosine_similarities(3.0 * features, 0.5 * weights),
        ),
    ),
    LossCase(
        function=xent.cosine_similarities,
        variant=" of sub-centres",
        family="transform",
        reference=cosine_similarities,
        inputs=features_and_sub_centres,
        limit=lambda features, centres: (  # equal sub-centres are one
            xent.cosine_similarities(features, np.repeat(centres[:, :1], 2, axis=1)),
            xent.cosine_similarities(features, centres[:, 0]),
        ),
    ),
    LossCase(
        function=xent.cosine_softmax,
        family="classification",
        reference=cosine_softmax,
        inputs=cosines_and_labels,
        parameters={"scale": SCALE},
        defaults={"scale": 10.0},
        limit=lambda cosines, labels: (
            xent.cosine_softmax(cosines, labels, scale=1.0),
            cross_entropy(cosines, labels),
        ),
    ),
    LossCase(
        function=xent.normface,
        family="classification",
        reference=cosine_softmax,
        inputs=cosines_and_labels,
        parameters={"scale": SCALE},
        limit=lambda cosines, labels: (  # the scale for which log(1 + 3 exp(-4 s / 3)) = 0.01
            xent.normface(cosines, labels),
            cross_entropy(0.75 * np.log(3.0 / np.expm1(0.01)) * cosines, labels),
        ),
    ),
    LossCase(
        function=xent.cosface,
        family="classification",
        reference=cosface,
        inputs=cosines_and_labels,
        parameters={"margin": Parameter(0.35, 0.0), "scale": SCALE},
        defaults={"margin": 0.35, "scale": 64.0},
        limit=lambda cosines, labels: (
            xent.cosface(cosines, labels, margin=0.0),
            cross_entropy(64.0 * cosines.astype(np.float64), labels),
        ),
    ),
    LossCase(
        function=xent.negative_margin,
        family="classification",
        reference=cosface,
        inputs=cosines_and_labels,
        parameters={"margin": Parameter(-0.3, high=0.0), "scale": SCALE},
        defaults={"margin": -0.3, "scale": 30.0},
        limit=lambda cosines, labels: (
            xent.negative_margin(cosines, labels, margin=0.0),
            xent.cosface(cosines, labels, margin=0.0, scale=30.0),
        ),
    ),
    LossCase(
        function=xent.arcface,
        family="classification",
        reference=arcface,
        inputs=cosines_and_labels,
        parameters={"margin": Parameter(0.5, 0.0, np.pi / 2), "scale": SCALE},
        defaults={"margin": 0.5, "scale": 64.0},
        limit=lambda cosines, labels: (
            xent.arcface(cosines, labels, margin=0.0),
            xent.normface(cosines, labels, scale=64.0),
        ),
    ),
    LossCase(
        function=xent.sphereface,
        family="classification",
        reference=sphereface,
        inputs=cosines_and_labels,
        parameters={"margin": Parameter(3.7, 1.0), "scale": SCALE},
        defaults={"margin": 4.0, "scale": 30.0},
        limit=lambda cosines, labels: (
            xent.sphereface(cosines, labels, margin=1.0),
            xent.normface(cosines, labels, scale=30.0),
        ),
    ),
    LossCase(
        function=xent.proxy_nca,
        family="classification",
        reference=proxy_nca,
        inputs=cosines_and_labels,
        parameters={"scale": SCALE},
        defaults={"scale": 1.0},
        limit=lambda cosines, labels: (  # of two proxies, a difference of distances
            xent.proxy_nca(cosines[:, :2], labels % 2),
            2.0 * (cosines[range(5), 1 - labels % 2] - cosines[range(5), labels % 2]),
        ),
    ),
    LossCase(
        function=xent.proxy_anchor,
        family="embeddings",
        reference=proxy_anchor,
        inputs=cosines_and_labels,
        parameters={"margin": Parameter(0.1, 0.0), "scale": SCALE},
        defaults={"margin": 0.1, "scale": 32.0},
        limit=lambda cosines, labels: (  # nothing pulls or pushes far beyond the margin
            xent.proxy_anchor(2.0 * one_hot(labels, 4).astype(np.float32) - 1.0, labels),
            np.zeros(4),
        ),
    ),
    LossCase(
        function=xent.soft_triple,
        family="classification",
        reference=soft_triple,
        inputs=cosines_of_centres_and_labels,
        parameters={
            "scale": SCALE,
            "margin": Parameter(0.1, 0.0),
            "gamma": Parameter(0.5, 0.0),
        },
        defaults={"scale": 20.0, "margin": 0.01, "gamma": 0.1},
        limit=lambda cosines, labels: (  # equal centres are one
            xent.soft_triple(np.repeat(cosines[..., :1], 3, axis=-1), labels),
            xent.cosface(cosines[..., 0], labels, margin=0.01, scale=20.0),
        ),
    ),
]
