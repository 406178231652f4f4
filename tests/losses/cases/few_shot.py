"""Rows of the few-shot heads and of MAML."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import xent_jax as xent
from tests.losses.cases.row import Arrays, LossCase, Parameter, cross_entropy, one_hot, softmax


def episode(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    """Queries and their labels, then a support set in which every class occurs."""
    support_labels = np.arange(2 * classes + 1) % classes
    support = rng.normal(size=(len(support_labels), classes))
    return (
        rng.normal(size=(examples, classes)),
        rng.integers(0, classes, examples),
        support,
        support_labels,
    )


def queries_and_support(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    queries, _, support, support_labels = episode(rng, examples, classes)
    return queries, support, support_labels


def one_shot_episode(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    """One support example per class, as many as features at most: the system of the examples."""
    queries, _, support, _ = episode(rng, examples, classes)
    return queries, support[:classes], np.arange(classes)


def number_of_classes(classes: int) -> dict[str, Any]:
    return {"num_classes": classes}


def prototypical_logits(queries, support, support_labels, num_classes):
    prototypes = [support[support_labels == k].mean(0) for k in range(num_classes)]
    return np.array([[-((x - c) @ (x - c)) for c in prototypes] for x in queries])


def matching_network_logits(queries, support, support_labels, num_classes, scale):
    def cosine(x, s):
        return x @ s / np.sqrt(x @ x) / np.sqrt(s @ s)

    attention = softmax(np.array([[scale * cosine(x, s) for s in support] for x in queries]))
    return np.log(attention @ one_hot(support_labels, num_classes))


def ridge_regression_logits(queries, support, support_labels, num_classes, penalty, scale, bias):
    """Least squares of the support, and of as many equations sqrt(penalty) W = 0 as features."""
    features = support.shape[1]
    equations = np.concatenate([support, np.sqrt(penalty) * np.eye(features)])
    targets = np.concatenate([one_hot(support_labels, num_classes), np.zeros((features,) * 2)])
    weights = np.linalg.lstsq(equations, targets[:, :num_classes], rcond=None)[0]
    return scale * queries @ weights + bias


def loss_of(logits):
    """The cross-entropy of a head's logits, of the arguments that the head's loss takes."""

    def loss(queries, labels, support, support_labels, **keywords):
        return cross_entropy(logits(queries, support, support_labels, **keywords), labels)

    return loss


def maml_adapt(params, inner_loss, steps, learning_rate):
    for _ in range(steps):
        slope = -2.0 * np.sin(2.0 * params) + params.sum()
        params = params - learning_rate * slope
    return params


def inner_problem(_: int) -> dict[str, Any]:
    def inner_loss(params):
        return jnp.sum(jnp.cos(2.0 * params)) + 0.5 * jnp.sum(params) ** 2

    return {"inner_loss": inner_loss, "steps": 3}


SCALE = Parameter(3.0, 0.0)
RIDGE = {
    "penalty": Parameter(2.0, 0.0),
    "scale": Parameter(1.5),
    "bias": Parameter(0.5),
}

CASES = [
    LossCase(
        function=xent.prototypical_logits,
        family="transform",
        reference=prototypical_logits,
        inputs=queries_and_support,
        context=number_of_classes,
        limit=lambda queries, support, labels: (  # a prototype is at distance 0 from itself
            xent.prototypical_logits(support[:4], support[:4], labels[:4], num_classes=4).max(-1),
            np.zeros(4),
        ),
    ),
    LossCase(
        function=xent.prototypical,
        family="embeddings",
        reference=loss_of(prototypical_logits),
        inputs=episode,
        context=number_of_classes,
        limit=lambda queries, labels, support, support_labels: (  # equally far from everything
            xent.prototypical(
                queries, labels, np.zeros_like(support), support_labels, num_classes=4
            ),
            np.full(len(labels), np.log(4.0)),
        ),
    ),
    LossCase(
        function=xent.matching_network_logits,
        family="transform",
        reference=matching_network_logits,
        inputs=queries_and_support,
        context=number_of_classes,
        parameters={"scale": SCALE},
        defaults={"scale": 1.0},
        limit=lambda queries, support, labels: (
            np.exp(xent.matching_network_logits(queries, support, labels, num_classes=4)).sum(-1),
            np.ones(len(queries)),
        ),
    ),
    LossCase(
        function=xent.matching_network,
        family="embeddings",
        reference=loss_of(matching_network_logits),
        inputs=episode,
        context=number_of_classes,
        parameters={"scale": SCALE},
        defaults={"scale": 1.0},
        limit=lambda queries, labels, support, support_labels: (  # of one example per class
            xent.matching_network(
                queries, labels, support[:4], support_labels[:4], num_classes=4, scale=10.0
            ),
            xent.cosine_softmax(xent.cosine_similarities(queries, support[:4]), labels),
        ),
    ),
    LossCase(
        function=xent.ridge_regression_logits,
        family="transform",
        reference=ridge_regression_logits,
        inputs=queries_and_support,
        context=number_of_classes,
        parameters=RIDGE,
        defaults={"penalty": 50.0, "scale": 1.0, "bias": 0.0},
        limit=lambda queries, support, labels: (  # nothing is learned
            xent.ridge_regression_logits(queries, support, labels, num_classes=4, penalty=1e9),
            np.zeros((len(queries), 4)),
        ),
    ),
    LossCase(
        function=xent.ridge_regression_logits,
        variant=" of one example per class",
        family="transform",
        reference=ridge_regression_logits,
        inputs=one_shot_episode,
        context=number_of_classes,
        parameters=RIDGE,
        limit=lambda queries, support, labels: (  # unit vectors stay as they are, but shrink
            xent.ridge_regression_logits(
                queries, np.eye(4, dtype=np.float32), labels, num_classes=4, penalty=3.0
            ),
            queries / 4.0,
        ),
    ),
    LossCase(
        function=xent.ridge_regression,
        family="embeddings",
        reference=loss_of(ridge_regression_logits),
        inputs=episode,
        context=number_of_classes,
        parameters=RIDGE,
        defaults={"penalty": 50.0, "scale": 1.0, "bias": 0.0},
        limit=lambda queries, labels, support, support_labels: (  # no evidence is passed on
            xent.ridge_regression(
                queries, labels, support, support_labels, num_classes=4, scale=0.0
            ),
            np.full(len(labels), np.log(4.0)),
        ),
    ),
    LossCase(
        function=xent.maml_adapt,
        family="transform",
        reference=maml_adapt,
        inputs=lambda rng, examples, classes: (rng.normal(size=classes),),
        context=inner_problem,
        parameters={"learning_rate": Parameter(0.1, 0.0)},
        defaults={"steps": 5, "learning_rate": 0.01, "first_order": False},
        limit=lambda params: (
            xent.maml_adapt(params, jnp.sum, steps=4, learning_rate=0.25),
            params - 1.0,
        ),
    ),
]
