"""Rows of the losses that correct, distrust or select labels."""

import functools

import jax.numpy as jnp
import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    Arrays,
    LossCase,
    Parameter,
    cross_entropy,
    logits_and_labels,
    one_hot,
    softmax,
)


def transition_matrix(classes: int) -> dict[str, np.ndarray]:
    """Rows of sum 1 that are not symmetric, with zeros off the diagonal."""
    matrix = np.eye(classes, dtype=np.float32)
    for i in range(classes - 1):
        matrix[i, [i, i + 1]] = 0.75 - 0.25 * i / classes, 0.25 + 0.25 * i / classes
    return {"transition_matrix": matrix}


def class_prior(classes: int) -> dict[str, np.ndarray]:
    counts = np.arange(1, classes + 1, dtype=np.float32)
    return {"class_prior": counts / counts.sum()}


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def possible_log_softmax(logits):
    """Classes that cannot occur are left out of sums over the classes."""
    return np.where(np.isneginf(logits), 0.0, log_softmax(logits))


def soft_bootstrap(logits, labels, beta):
    p = softmax(logits)
    targets = beta * one_hot(labels, logits.shape[-1]) + (1.0 - beta) * p
    return -np.where(targets == 0, 0.0, targets * np.log(p)).sum(-1)


def hard_bootstrap(logits, labels, beta):
    p, classes = softmax(logits), logits.shape[-1]
    targets = beta * one_hot(labels, classes) + (1.0 - beta) * one_hot(p.argmax(-1), classes)
    return -np.where(targets == 0, 0.0, targets * np.log(p)).sum(-1)


def forward_correction(logits, labels, transition_matrix):
    p = softmax(logits)
    noisy = np.zeros(p.shape)
    for true in range(p.shape[-1]):
        for given in range(p.shape[-1]):
            noisy[:, given] += transition_matrix[true, given] * p[:, true]
    return -np.log((noisy * one_hot(labels, p.shape[-1])).sum(-1))


def backward_correction(logits, labels, transition_matrix):
    inverse = np.linalg.solve(np.float64(transition_matrix), np.eye(len(transition_matrix)))
    losses = -possible_log_softmax(logits)  # one per label that might have been given
    corrected = np.array([inverse @ of_example for of_example in losses]).reshape(logits.shape)
    corrected = (corrected * one_hot(labels, logits.shape[-1])).sum(-1)
    impossible = np.isneginf(np.take_along_axis(logits, labels[:, None], -1)[:, 0])
    return np.where(impossible, np.inf, corrected)


def negative_learning(logits, labels):
    others = softmax(logits) * (1.0 - one_hot(labels, logits.shape[-1]))
    return -np.log(others.sum(-1))


def peer_loss(logits, labels, alpha, class_prior):
    of_peers = sum(
        prior * -possible_log_softmax(logits)[:, label] for label, prior in enumerate(class_prior)
    )
    return cross_entropy(logits, labels) - alpha * of_peers


def past_targets(classes: int) -> np.ndarray:
    return np.linspace(0.125, 0.875, classes) / classes


@functools.wraps(xent.early_learning_regularization)
def early_learning_regularization(logits, labels, axis=-1, **keywords):
    """Every example has a row of its own in a table whose rows are alike."""
    classes = logits.shape[axis] if axis < logits.ndim else 1
    state = np.tile(past_targets(classes), (max(labels.size, 1), 1))
    indices = np.arange(labels.size).reshape(labels.shape)
    return xent.early_learning_regularization(
        logits, labels, state, indices=indices, axis=axis, **keywords
    )


def regularised_towards_past(logits, labels, beta, strength):
    p, classes = softmax(logits), logits.shape[-1]
    targets = beta * past_targets(classes) + (1.0 - beta) * p
    return cross_entropy(logits, labels) + strength * np.log(1.0 - (targets * p).sum(-1))


def logits_and_distributions(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return 2.0 * rng.normal(size=(examples, classes)), softmax(rng.normal(size=(examples, classes)))


def logits_and_labels_of_a_set(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    """Not `logits_and_labels`, whose rows are told what one bad example does to itself alone."""
    return logits_and_labels(rng, examples, classes)


def joint_optimization(logits, targets, alpha, beta, class_prior):
    p = softmax(logits)
    mean = p.mean(0)
    divergence = (targets * np.log(targets / p)).sum(-1)
    of_prior = (class_prior * np.log(class_prior / mean)).sum(-1)
    return divergence + alpha * of_prior - beta * (p * np.log(p)).sum(-1)


def joint_optimization_of_labels(logits, labels, alpha, beta):
    p, classes = softmax(logits), logits.shape[-1]
    of_prior = -np.log(classes * p.mean(0)).mean()
    entropy = -(p * np.log(p)).sum(-1)
    return cross_entropy(logits, labels) + alpha * of_prior + beta * entropy


def noisy_probabilities(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return (softmax(2.0 * rng.normal(size=(3 * examples, classes))),)


def anchor_point_transition_matrix(probabilities, quantile):
    rows = []
    for label in range(probabilities.shape[-1]):
        level = np.quantile(probabilities[:, label], quantile, method="higher")
        (anchor,) = np.flatnonzero(probabilities[:, label] == level)
        rows.append(probabilities[anchor])
    return np.stack(rows)


def losses_alone(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return (rng.gamma(1.0, size=(examples, classes)),)


def as_numbers(mask):
    return jnp.where(mask, 1.0, 0.0)


def small_loss_selection(losses, forget_rate):
    kept = int((1.0 - forget_rate) * losses.size)
    selected = np.zeros(losses.size)
    selected[np.argsort(losses.ravel(), kind="stable")[:kept]] = 1.0
    return selected.reshape(losses.shape)


def epochs(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return (np.linspace(0.5, 14.0, 4 * examples),)


def co_teaching_forget_rate(epoch, noise_rate, ramp_epochs):
    return np.array([min(t / ramp_epochs * noise_rate, noise_rate) for t in epoch])


def confidence_regularized_sieve(logits, labels):
    of_random_label = -possible_log_softmax(logits).sum(-1) / np.isfinite(logits).sum(-1)
    return np.where(cross_entropy(logits, labels) < of_random_label, 1.0, 0.0)


def even_exclusion(classes: int) -> np.ndarray:
    return ((1.0 - np.eye(classes)) / (classes - 1)).astype(np.float32)


CASES = [
    LossCase(
        function=xent.soft_bootstrap,
        family="classification",
        reference=soft_bootstrap,
        parameters={"beta": Parameter(0.95, 0.0, 1.0)},
        defaults={"beta": 0.95},
        limit=lambda logits, labels: (
            xent.soft_bootstrap(logits, labels, beta=0.0),
            xent.entropy(softmax(logits)),
        ),
    ),
    LossCase(
        function=xent.hard_bootstrap,
        family="classification",
        reference=hard_bootstrap,
        parameters={"beta": Parameter(0.8, 0.0, 1.0)},
        defaults={"beta": 0.8},
        limit=lambda logits, labels: (
            xent.hard_bootstrap(logits, labels, beta=0.0),
            -np.log(softmax(logits).max(-1)),
        ),
    ),
    LossCase(
        function=xent.forward_correction,
        family="classification",
        reference=forward_correction,
        context=transition_matrix,
        limit=lambda logits, labels: (
            xent.forward_correction(
                logits, labels, transition_matrix=np.eye(logits.shape[-1], dtype=np.float32)
            ),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.backward_correction,
        family="classification",
        reference=backward_correction,
        context=transition_matrix,
        limit=lambda logits, labels: (
            xent.backward_correction(
                logits, labels, transition_matrix=np.eye(logits.shape[-1], dtype=np.float32)
            ),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.negative_learning,
        family="classification",
        reference=negative_learning,
        limit=lambda logits, labels: (
            xent.negative_learning(logits, labels) + np.log(np.float32(logits.shape[-1] - 1)),
            xent.forward_correction(
                logits, labels, transition_matrix=even_exclusion(logits.shape[-1])
            ),
        ),
    ),
    LossCase(
        function=xent.peer_loss,
        family="classification",
        reference=peer_loss,
        parameters={"alpha": Parameter(1.0, 0.0)},
        defaults={"alpha": 1.0},
        context=class_prior,
        limit=lambda logits, labels: (
            xent.peer_loss(
                logits, labels, alpha=0.0, class_prior=np.eye(logits.shape[-1], dtype=np.float32)[0]
            ),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=early_learning_regularization,
        family="classification",
        reference=regularised_towards_past,
        # At beta = 1 the targets do not depend on the logits, and the gradient that stops there is
        # that of the formula. Other values are in `test_label_correction.py`.
        context=lambda classes: {"beta": np.ones(())},
        parameters={"strength": Parameter(3.0, 0.0)},
        defaults={"beta": 0.7, "strength": 3.0, "axis_name": None},
        pick=lambda result: result[0],
        limit=lambda logits, labels: (
            early_learning_regularization(logits, labels, strength=0.0)[0],
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.joint_optimization,
        family="embeddings",
        reference=joint_optimization,
        inputs=logits_and_distributions,
        parameters={"alpha": Parameter(1.2, 0.0), "beta": Parameter(0.8, 0.0)},
        defaults={"alpha": 1.2, "beta": 0.8, "class_prior": None, "axis_name": None},
        context=class_prior,
        limit=lambda logits, targets: (
            xent.joint_optimization(logits, softmax(logits), alpha=0.0, beta=0.0),
            np.zeros(len(logits)),
        ),
    ),
    LossCase(
        function=xent.joint_optimization,
        variant=" of labels",
        family="embeddings",
        reference=joint_optimization_of_labels,
        inputs=logits_and_labels_of_a_set,
        parameters={"alpha": Parameter(1.2, 0.0), "beta": Parameter(0.8, 0.0)},
        limit=lambda logits, labels: (
            xent.joint_optimization(logits, labels, alpha=0.0, beta=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.anchor_point_transition_matrix,
        family="transform",
        reference=anchor_point_transition_matrix,
        inputs=noisy_probabilities,
        parameters={"quantile": Parameter(0.97, 0.0, 1.0)},
        defaults={"quantile": 1.0},
        limit=lambda probabilities: (  # every class has a sure example
            xent.anchor_point_transition_matrix(np.eye(4, dtype=np.float32)),
            np.eye(4),
        ),
    ),
    LossCase(
        function=xent.small_loss_selection,
        family="transform",
        reference=small_loss_selection,
        inputs=losses_alone,
        parameters={"forget_rate": Parameter(0.33, 0.0, 1.0)},
        pick=as_numbers,
        limit=lambda losses: (
            xent.small_loss_selection(losses, forget_rate=0.0),
            np.ones_like(losses),
        ),
    ),
    LossCase(
        function=xent.co_teaching_forget_rate,
        family="transform",
        reference=co_teaching_forget_rate,
        inputs=epochs,
        parameters={
            "noise_rate": Parameter(0.2, 0.0, 1.0),
            "ramp_epochs": Parameter(10.1, 0.0),
        },
        defaults={"ramp_epochs": 10.0},
        limit=lambda epoch: (
            xent.co_teaching_forget_rate(epoch + 10.0, noise_rate=0.2),
            np.full(epoch.shape, 0.2),
        ),
    ),
    LossCase(
        function=xent.confidence_regularized_sieve,
        family="transform",
        reference=confidence_regularized_sieve,
        inputs=logits_and_labels_of_a_set,
        pick=as_numbers,
        limit=lambda logits, labels: (
            as_numbers(xent.confidence_regularized_sieve(logits, labels)),
            np.where(logits[np.arange(len(labels)), labels] > logits.mean(-1), 1.0, 0.0),
        ),
    ),
]
