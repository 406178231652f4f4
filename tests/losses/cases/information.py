"""Rows of the functions of distributions."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    Arrays,
    LossCase,
    Parameter,
    softmax,
)


def one_distribution(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return (softmax(rng.normal(size=(examples, classes))),)


def two_distributions(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return tuple(softmax(rng.normal(size=(2, examples, classes))))


def three_distributions(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return tuple(softmax(rng.normal(size=(3, examples, classes))))


def log_prediction_and_target(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    q, t = two_distributions(rng, examples, classes)
    return np.log(q), t


def log_prediction_and_log_target(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return tuple(np.log(two_distributions(rng, examples, classes)))


def joint_tables(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    (flat,) = one_distribution(rng, examples, 3 * classes)
    return (flat.reshape(examples, 3, classes),)


def entropy(p, base=np.e):
    return -(p * np.log(p)).sum(-1) / np.log(base)


def cross_entropy_of_distributions(p, q, base=np.e):
    return -(p * np.log(q)).sum(-1) / np.log(base)


def relative_entropy(p, q, base=np.e):
    return (p * np.log(p / q)).sum(-1) / np.log(base)


def kl_divergence(log_q, t, base=np.e):
    return relative_entropy(t, np.exp(log_q), base)


def kl_divergence_with_log_targets(log_q, log_t, base=np.e):
    return relative_entropy(np.exp(log_t), np.exp(log_q), base)


def generalized_kl_divergence(log_q, t):
    q = np.exp(log_q)
    return (t * np.log(t / q) - t + q).sum(-1)


def jensen_shannon_divergence(*distributions, weights=None, base=np.e):
    weights = np.full(len(distributions), 1 / len(distributions)) if weights is None else weights
    mixture = sum(w * p for w, p in zip(weights, distributions, strict=True))
    return sum(
        w * relative_entropy(p, mixture, base) for w, p in zip(weights, distributions, strict=True)
    )


def renyi_divergence(p, q, alpha, base=np.e):
    total = (p**alpha * q ** (1.0 - alpha)).sum(-1) / p.sum(-1)
    return np.log(total) / (alpha - 1.0) / np.log(base)


def tsallis_entropy(p, q):
    return (p.sum(-1) - (p**q).sum(-1)) / (q - 1.0)


def total_variation(p, q):
    return np.abs(p - q).sum(-1) / 2.0


def mutual_information(joint, base=np.e):
    product = joint.sum(-1, keepdims=True) * joint.sum(-2, keepdims=True)
    return (joint * np.log(joint / product)).sum((-2, -1)) / np.log(base)


BITS = {"base": Parameter(2.0, 1.0)}

CASES = [
    LossCase(
        function=xent.entropy,
        family="distribution",
        reference=entropy,
        inputs=one_distribution,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p: (xent.entropy(np.full((1, 8), 0.125, np.float32), base=2), [3.0]),
    ),
    LossCase(
        function=xent.cross_entropy,
        family="distribution",
        reference=cross_entropy_of_distributions,
        inputs=two_distributions,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p, q: (
            xent.cross_entropy(p, q),
            xent.entropy(p) + xent.relative_entropy(p, q),
        ),
    ),
    LossCase(
        function=xent.relative_entropy,
        family="distribution",
        reference=relative_entropy,
        inputs=two_distributions,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p, q: (xent.relative_entropy(p, p), np.zeros(len(p))),
    ),
    LossCase(
        function=xent.kl_divergence,
        family="distribution",
        reference=kl_divergence,
        inputs=log_prediction_and_target,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda log_q, t: (
            xent.kl_divergence(log_q, t),
            xent.relative_entropy(t, np.exp(log_q)),
        ),
    ),
    LossCase(
        function=xent.kl_divergence_with_log_targets,
        family="distribution",
        reference=kl_divergence_with_log_targets,
        inputs=log_prediction_and_log_target,
        parameters=BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda log_q, log_t: (
            xent.kl_divergence_with_log_targets(log_q, log_t),
            xent.kl_divergence(log_q, np.exp(log_t)),
        ),
    ),
    LossCase(
        function=xent.generalized_kl_divergence,
        family="distribution",
        reference=generalized_kl_divergence,
        inputs=log_prediction_and_target,
        defaults={"axis": -1},
        limit=lambda log_q, t: (  # of distributions
            xent.generalized_kl_divergence(log_q, t),
            xent.kl_divergence(log_q, t),
        ),
    ),
    LossCase(
        function=xent.jensen_shannon_divergence,
        family="distribution",
        reference=jensen_shannon_divergence,
        inputs=two_distributions,
        parameters=BITS,
        defaults={"weights": None, "base": None, "axis": -1},
        limit=lambda p, q: (
            xent.jensen_shannon_divergence(p, q),
            xent.jensen_shannon_divergence(q, p),
        ),
    ),
    LossCase(
        function=xent.jensen_shannon_divergence,
        variant=" of three",
        family="distribution",
        reference=jensen_shannon_divergence,
        inputs=three_distributions,
        context=lambda classes: {"weights": np.array([0.5, 0.375, 0.125], np.float32)},
        limit=lambda p, q, r: (  # the mixture's entropy less the mean entropy
            xent.jensen_shannon_divergence(p, q, r),
            xent.entropy((p + q + r) / 3)
            - (xent.entropy(p) + xent.entropy(q) + xent.entropy(r)) / 3,
        ),
    ),
    LossCase(
        function=xent.renyi_divergence,
        family="distribution",
        reference=renyi_divergence,
        inputs=two_distributions,
        parameters={"alpha": Parameter(0.7, 0.0, also=np.inf)} | BITS,
        defaults={"base": None, "axis": -1},
        limit=lambda p, q: (
            xent.renyi_divergence(p, q, alpha=1.0),
            xent.relative_entropy(p, q),
        ),
    ),
    LossCase(
        function=xent.tsallis_entropy,
        family="distribution",
        reference=tsallis_entropy,
        inputs=one_distribution,
        parameters={"q": Parameter(1.5, 0.0)},
        limit=lambda p: (xent.tsallis_entropy(p, q=1.0), xent.entropy(p)),
    ),
    LossCase(
        function=xent.total_variation,
        family="distribution",
        reference=total_variation,
        inputs=two_distributions,
        limit=lambda p, q: (xent.total_variation(p, q), np.maximum(p - q, 0.0).sum(-1)),
    ),
    LossCase(
        function=xent.mutual_information,
        family="distribution",
        reference=mutual_information,
        inputs=joint_tables,
        parameters=BITS,
        defaults={"base": None, "axes": (-2, -1)},
        limit=lambda joint: (
            xent.mutual_information(joint),
            xent.entropy(joint.sum(-1))
            + xent.entropy(joint.sum(-2))
            - xent.entropy(joint.reshape(len(joint), -1)),
        ),
    ),
    LossCase(
        function=xent.perplexity,
        family="distribution",
        reference=lambda p: (p**-p).prod(-1),
        inputs=one_distribution,
        limit=lambda p: (xent.perplexity(np.full((1, 7), 1 / 7, np.float32)), [7.0]),
    ),
]
