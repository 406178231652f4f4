"""Rows of the losses of ordered lists."""

import itertools
import math

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import LossCase, one_hot, sigmoid, softmax, with_integer_labels


def logits_and_relevance(rng, lists, items):
    """Relevances 0 to 3 with ties, as judges give them."""
    return 2.0 * rng.normal(size=(lists, items)), rng.integers(0, 4, size=(lists, items))


def logits_and_gains(rng, lists, items):
    """Relevances that are differentiated, some of them 0."""
    gains = rng.uniform(size=(lists, items)) * (rng.uniform(size=(lists, items)) < 0.8)
    return 2.0 * rng.normal(size=(lists, items)), gains


def two_scores(rng, examples, classes):
    return tuple(rng.normal(size=(2, examples, classes)))


def item_weights(items):
    return {"weights": np.broadcast_to(np.linspace(0.5, 2.0, items, dtype=np.float32), (5, items))}


def ranking_softmax_loss(logits, labels, weights=1.0):
    return -(weights * labels * np.log(softmax(logits))).sum(-1)


def list_mle(logits, labels):
    losses = []
    for scores, relevance in zip(logits, labels, strict=True):
        left = sorted(range(len(scores)), key=lambda i: -relevance[i])
        loss = 0.0
        while left:
            first, *rest = left
            loss -= np.log(np.exp(scores[first]) / sum(np.exp(scores[i]) for i in left))
            left = rest
        losses.append(loss)
    return np.array(losses)


def pairwise_logistic(logits, labels):
    losses = np.zeros(len(logits))
    for n, (scores, relevance) in enumerate(zip(logits, labels, strict=True)):
        for i, j in itertools.permutations(range(len(scores)), 2):
            if relevance[i] > relevance[j]:
                losses[n] += np.log(1.0 + np.exp(-(scores[i] - scores[j])))
    return losses


def bayesian_personalised_ranking(positive, negative):
    return -np.log(sigmoid(positive - negative))


CASES = [
    LossCase(
        function=xent.ranking_softmax_loss,
        family="sets",
        reference=ranking_softmax_loss,
        inputs=logits_and_gains,
        defaults={"axis": -1},
        limit=lambda logits, _: (  # one relevant item is a class
            xent.ranking_softmax_loss(logits, one_hot(np.ones(len(logits), int), 4)),
            with_integer_labels(logits, np.ones(len(logits), int)),
        ),
    ),
    LossCase(
        function=xent.ranking_softmax_loss,
        variant=" weighted",
        family="sets",
        reference=ranking_softmax_loss,
        inputs=logits_and_relevance,
        context=item_weights,
    ),
    LossCase(
        function=xent.list_mle,
        family="sets",
        reference=list_mle,
        inputs=logits_and_relevance,
        limit=lambda logits, labels: (
            xent.list_mle(0.0 * logits, labels),
            np.full(len(logits), math.log(math.factorial(logits.shape[-1]))),
        ),
    ),
    LossCase(
        function=xent.pairwise_logistic,
        family="sets",
        reference=pairwise_logistic,
        inputs=logits_and_relevance,
        limit=lambda logits, labels: (  # of two items
            xent.pairwise_logistic(logits[:, :2], np.arange(2) + 0 * labels[:, :2]),
            xent.bayesian_personalised_ranking(logits[:, 1], logits[:, 0]),
        ),
    ),
    LossCase(
        function=xent.bayesian_personalised_ranking,
        family="binary",
        reference=bayesian_personalised_ranking,
        inputs=two_scores,
        limit=lambda positive, negative: (
            xent.bayesian_personalised_ranking(positive, negative),
            xent.sigmoid_binary_cross_entropy(positive - negative, np.ones(positive.shape)),
        ),
    ),
]
