"""Rows of the losses of tokens and of chains of tags."""

import itertools

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


def tokens(rng, examples, classes):
    return 2.0 * rng.normal(size=(examples, 3, classes)), rng.integers(0, classes, (examples, 3))


def token_cross_entropy(logits, labels, label_smoothing, z_loss):
    classes = logits.shape[-1]
    targets = (1 - label_smoothing) * one_hot(labels, classes) + label_smoothing / classes
    losses = -(targets * np.log(softmax(logits))).sum(-1)
    return (losses + z_loss * np.log(np.exp(logits).sum(-1)) ** 2).sum(-1)


def tokens_and_candidates(rng, examples, classes):
    logits = 2.0 * rng.normal(size=(examples, classes))
    labels = rng.integers(0, classes, examples)
    return logits, labels, rng.integers(0, 2, logits.shape)


def unlikelihood(logits, labels, candidates, alpha):
    penalty = (candidates * np.log(1 - softmax(logits))).sum(-1)
    return -np.log(label_probability(logits, labels)) - alpha * penalty


def scores_and_transitions(rng, examples, classes):
    return rng.normal(size=(examples, 3, classes)), rng.normal(size=(classes, classes))


def scores_and_tags(rng, examples, classes):
    emissions, transitions = scores_and_transitions(rng, examples, classes)
    return emissions, rng.integers(0, classes, (examples, 3)), transitions


def score(emissions, tags, transitions):
    """Returns s(y) of one tag sequence for emissions (B, T, K)."""
    total = sum(emissions[:, t, tag] for t, tag in enumerate(tags))
    return total + sum(transitions[i, j] for i, j in itertools.pairwise(tags))


def all_scores(emissions, transitions):
    """Returns every tag sequence of length T, and the scores of each, of shape (K^T, B)."""
    _, length, classes = emissions.shape
    sequences = list(itertools.product(range(classes), repeat=length))
    return np.array(sequences), np.array([score(emissions, y, transitions) for y in sequences])


def linear_chain_crf(emissions, tags, transitions):
    _, scores = all_scores(emissions, transitions)
    given = [score(e[None], y, transitions)[0] for e, y in zip(emissions, tags, strict=True)]
    return np.log(np.exp(scores).sum(0)) - given


def linear_chain_marginals(emissions, transitions):
    sequences, scores = all_scores(emissions, transitions)
    p = np.exp(scores) / np.exp(scores).sum(0)
    return np.einsum("yb,ytk->btk", p, one_hot(sequences, emissions.shape[-1]))


CASES = [
    LossCase(
        function=xent.token_cross_entropy,
        family="sequence",
        reference=token_cross_entropy,
        inputs=tokens,
        pick=lambda result: result[0],
        parameters={
            "label_smoothing": Parameter(0.1, 0.0, 1.0),
            "z_loss": Parameter(0.01, 0.0),
        },
        defaults={"label_smoothing": 0.0, "z_loss": 0.0},
        limit=lambda logits, labels: (
            xent.token_cross_entropy(logits, labels)[0],
            cross_entropy(logits, labels).sum(-1),
        ),
    ),
    LossCase(
        function=xent.unlikelihood,
        family="sequence",
        reference=unlikelihood,
        inputs=tokens_and_candidates,
        parameters={"alpha": Parameter(0.7, 0.0)},
        defaults={"alpha": 1.0},
        limit=lambda logits, labels, candidates: (
            xent.unlikelihood(logits, labels, candidates, alpha=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.linear_chain_crf,
        family="sequence",
        reference=linear_chain_crf,
        inputs=scores_and_tags,
        limit=lambda emissions, tags, transitions: (
            xent.linear_chain_crf(emissions, tags, np.zeros_like(transitions)),
            cross_entropy(emissions, tags).sum(-1),
        ),
    ),
    LossCase(
        function=xent.linear_chain_marginals,
        family="sequence",
        reference=linear_chain_marginals,
        inputs=scores_and_transitions,
        limit=lambda emissions, transitions: (
            xent.linear_chain_marginals(emissions, np.zeros_like(transitions)),
            softmax(emissions),
        ),
    ),
    LossCase(
        function=xent.viterbi_decode,
        family="sequence",
        reference=lambda emissions, transitions: all_scores(emissions, transitions)[1].max(0),
        inputs=scores_and_transitions,
        pick=lambda result: result[1],
        limit=lambda emissions, transitions: (
            xent.viterbi_decode(emissions, np.zeros_like(transitions))[0],
            emissions.argmax(-1),
        ),
    ),
]
