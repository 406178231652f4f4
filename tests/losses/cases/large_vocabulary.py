"""Rows of the losses that take the last layer: features and classifier weights for logits."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import LossCase, cross_entropy, sigmoid, softmax

VOCABULARY = 6


def layer_and_samples(rng, examples, width):
    features, weights = rng.normal(size=(examples, width)), rng.normal(size=(VOCABULARY, width))
    labels = rng.integers(0, VOCABULARY, examples)
    sampled = rng.integers(0, VOCABULARY, (examples, 4))
    sampled[0, 1] = labels[0]
    return features, labels, weights, sampled, rng.normal(size=VOCABULARY)


def biases(width):
    return {"biases": np.linspace(-1.0, 1.0, VOCABULARY, dtype=np.float32)}


def sampled_softmax(features, labels, weights, sampled, log_counts, biases):
    scores = np.exp(features @ weights.T + biases - log_counts)
    losses = []
    for row, y, others in zip(scores, labels, sampled, strict=True):
        losses.append(-np.log(row[y] / (row[y] + sum(row[s] for s in others if s != y))))
    return np.array(losses)


def noise_contrastive_estimation(features, labels, weights, sampled, log_counts, biases):
    is_data = sigmoid(features @ weights.T + biases - log_counts)
    losses = []
    for p, y, noise in zip(is_data, labels, sampled, strict=True):
        losses.append(-np.log(p[y]) - sum(np.log(1 - p[s]) for s in noise))
    return np.array(losses)


def each_class_once(features, labels, weights, sampled, log_counts):
    loss = xent.sampled_softmax(
        features, labels, weights, np.arange(VOCABULARY), np.zeros_like(log_counts)
    )
    return loss, cross_entropy(features @ weights.T, labels)


def noise_of_the_other_classes(features, labels, weights, sampled, log_counts):
    others = np.array([np.delete(np.arange(VOCABULARY), y) for y in labels])
    one_hot = np.eye(VOCABULARY, dtype=np.float32)[labels]
    loss = xent.noise_contrastive_estimation(features, labels, weights, others, log_counts)
    binary = xent.sigmoid_binary_cross_entropy(features @ weights.T - log_counts[None], one_hot)
    return loss, binary.sum(-1)


def tails(width):
    """Two clusters, of 3 and 4 classes behind projections to 2 and 1 numbers."""
    shapes = [(2, width), (3, 2), (1, width), (4, 1)]
    rng = np.random.default_rng(7)
    a, b, c, d = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return {"tails": [(a, b), (c, d)], "head_bias": np.float32([0.5, -0.5, 0.0, 0.3])}


def features_and_head(rng, examples, width):
    return rng.normal(size=(examples, width)), rng.normal(size=(4, width))


def features_labels_and_head(rng, examples, width):
    features, head = features_and_head(rng, examples, width)
    return features, np.arange(examples) * 2 % 9, head


def all_log_probabilities(features, head, tails, head_bias):
    of_head = softmax(features @ head.T + head_bias)
    parts = [of_head[:, : -len(tails)]]
    for cluster, (narrow, wide) in enumerate(tails):
        inside = softmax((features @ narrow.T) @ wide.T)
        parts.append(of_head[:, [cluster - len(tails)]] * inside)
    return np.log(np.concatenate(parts, axis=-1))


def adaptive_softmax(features, labels, head, tails, head_bias):
    log_p = all_log_probabilities(features, head, tails, head_bias)
    return -log_p[np.arange(len(labels)), labels]


CASES = [
    LossCase(
        function=xent.sampled_softmax,
        family="sequence",
        reference=sampled_softmax,
        inputs=layer_and_samples,
        context=biases,
        limit=each_class_once,
    ),
    LossCase(
        function=xent.noise_contrastive_estimation,
        family="sequence",
        reference=noise_contrastive_estimation,
        inputs=layer_and_samples,
        context=biases,
        limit=noise_of_the_other_classes,
    ),
    LossCase(
        function=xent.adaptive_softmax,
        family="sequence",
        reference=adaptive_softmax,
        inputs=features_labels_and_head,
        context=tails,
        limit=lambda features, labels, head: (
            xent.adaptive_softmax(features, labels % 4, head, []),
            cross_entropy(features @ head.T, labels % 4),
        ),
    ),
    LossCase(
        function=xent.adaptive_softmax_log_probabilities,
        family="sequence",
        reference=all_log_probabilities,
        inputs=features_and_head,
        context=tails,
        limit=lambda features, head: (
            np.exp(
                xent.adaptive_softmax_log_probabilities(features, head, **tails(features.shape[1]))
            ).sum(-1),
            np.ones(len(features)),
        ),
    ),
]
