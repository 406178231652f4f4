"""Rows of the losses and weights for rare classes."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.metric import cosines_and_labels
from tests.losses.cases.row import (
    LossCase,
    Parameter,
    class_counts,
    cross_entropy,
    one_hot,
    sigmoid,
    softmax,
    with_integer_labels,
)
from xent_jax.losses.gradient_balancing import EqualizationV2State, GradientHarmonisingState


def surprise(logits, labels):
    """-log softmax(z)_y, finite where the probability is too small for a number."""
    with np.errstate(invalid="ignore"):
        relative = logits - logits.max(-1, keepdims=True)
    return np.log(np.exp(relative).sum(-1)) - relative[np.arange(len(labels)), labels]


def counts_of_classes(rng, examples, classes):
    """Float counts of classes, drawn anew; the examples do not matter."""
    return (np.round(rng.uniform(2, 60, size=classes)),)


def class_prior(classes):
    counts = class_counts(classes)["class_counts"]
    return {"class_prior": (counts / counts.sum()).astype(np.float32)}


def uniform_prior(classes):
    return np.full(classes, 1 / classes, np.float32)


def equal_counts(classes):
    return np.full(classes, 70, np.int32)


def class_balanced_weights(counts, beta):
    effective_numbers = [sum(beta**i for i in range(int(n))) for n in counts]
    if any(n != int(n) for n in counts):  # between whole numbers, for differences
        effective_numbers = [(1 - beta**n) / (1 - beta) for n in counts]
    weights = 1 / np.array(effective_numbers)
    return weights / weights.sum() * len(counts)


def inverse_frequency_weights(counts, power):
    weights = np.array([1 / n**power for n in counts])
    return len(counts) * weights / weights.sum()


def deferred_reweighting_weights(counts, beta, epoch):
    return class_balanced_weights(counts, beta if epoch >= 160 else 0.0)


def class_balanced_focal_loss(logits, labels, class_counts, beta, gamma):
    weights = class_balanced_weights(class_counts, beta)
    losses = np.zeros(len(labels))
    for i, label in enumerate(labels):
        for k, z in enumerate(logits[i]):
            p = sigmoid(z) if k == label else sigmoid(-z)
            losses[i] -= weights[label] * (1 - p) ** gamma * np.log(p)
    return losses


def ldam(cosines, labels, class_counts, max_margin, scale):
    margins = np.asarray(class_counts, float) ** -0.25
    margins = margins * max_margin / margins.max()
    truth = one_hot(labels, cosines.shape[-1])
    return surprise(scale * (cosines - margins * truth), labels)


def logit_adjusted(logits, labels, class_prior, tau):
    prior = np.float64(class_prior)
    losses = np.zeros(len(labels))
    for i, y in enumerate(labels):
        for k in range(logits.shape[-1]):  # the equation's second form: margins between pairs
            losses[i] += (prior[k] / prior[y]) ** tau * np.exp(logits[i, k] - logits[i, y])
    return np.log(losses)


def balanced_softmax(logits, labels, class_counts):
    p = softmax(logits)
    counted = class_counts * p
    return -np.log(counted[np.arange(len(labels)), labels] / counted.sum(-1))


def logit_adjustment_posthoc(logits, class_prior, tau):
    return np.log(np.exp(logits) / class_prior**tau)


def vector_scaling(logits, labels, class_counts, gamma, tau):
    factors = (class_counts / class_counts.max()) ** gamma
    offsets = tau * np.log(class_counts / class_counts.sum())
    return surprise(factors * logits + offsets, labels)


def class_dependent_temperature(logits, labels, class_counts, gamma):
    return surprise(logits / (class_counts.max() / class_counts) ** gamma, labels)


def smoothing_of(shape):
    def label_aware_smoothing(logits, labels, class_counts, head_smoothing, tail_smoothing, **_):
        least, most = class_counts.min(), class_counts.max()
        possible = np.isfinite(logits)
        losses = []
        log_p = [-surprise(logits, np.full(len(labels), k)) for k in range(logits.shape[-1])]
        for log_p_of, y, here in zip(np.array(log_p).T, labels, possible, strict=True):
            rank = 0.0 if most == least else (class_counts[y] - least) / (most - least)
            smoothing = {
                "concave": tail_smoothing
                + (head_smoothing - tail_smoothing) * np.sin(rank * np.pi / 2),
                "linear": tail_smoothing + (head_smoothing - tail_smoothing) * rank,
                "convex": head_smoothing
                + (head_smoothing - tail_smoothing) * np.sin(1.5 * np.pi + rank * np.pi / 2),
            }[shape]
            others = [k for k in range(len(log_p_of)) if k != y and here[k]]
            smoothing = smoothing if others else 0.0
            loss = -(1 - smoothing) * log_p_of[y]
            for k in others:
                loss -= smoothing / len(others) * log_p_of[k]
            losses.append(loss)
        return np.array(losses)

    return label_aware_smoothing


def logits_labels_and_features(rng, examples, classes):
    features = rng.uniform(0.2, 2.0, size=(examples, 3)) * rng.choice([-1, 1], size=(examples, 3))
    return 2.0 * rng.normal(size=(examples, classes)), rng.integers(0, classes, examples), features


def influence_balanced(logits, labels, features, class_counts, alpha, epsilon):
    weights = inverse_frequency_weights(class_counts, 1)
    p = softmax(logits)
    error = np.abs(p - one_hot(labels, p.shape[-1])).sum(-1)
    influence = error * np.abs(features).sum(-1)
    return alpha * weights[labels] * cross_entropy(logits, labels) / (influence + epsilon)


def rows_of_weights(rng, examples, classes):
    return (rng.normal(size=(examples, classes)),)


def tau_normalise(classifier_weights, tau):
    return classifier_weights / np.linalg.norm(classifier_weights, axis=-1, keepdims=True) ** tau


def equalization(logits, labels, class_prior, threshold, gamma):
    p, losses = softmax(logits), []
    for i, y in enumerate(labels):
        total = sum(
            (1 - gamma * (class_prior[k] < threshold) * (k != y)) * p[i, k]
            for k in range(p.shape[-1])
        )
        losses.append(-np.log(p[i, y] / total))
    return np.array(losses)


def logits_and_objects(rng, examples, classes):
    """At most one positive label per example: some are background."""
    labels = one_hot(rng.integers(0, classes, examples), classes).astype(int)
    return 2.0 * rng.normal(size=(examples, classes)), labels * (rng.uniform(size=examples) < 0.7)[
        :, None
    ]


def sigmoid_equalization(logits, labels, class_prior, threshold):
    p = sigmoid(logits)
    foreground = labels.any(-1, keepdims=True)
    weights = 1 - foreground * (class_prior < threshold) * (1 - labels)
    return -weights * (labels * np.log(p) + (1 - labels) * np.log(1 - p))


def scores_and_labels(rng, examples, classes):
    """As `logits_and_labels`; but where all logits are -inf a loss of sigmoids is no NaN."""
    return 2.0 * rng.normal(size=(examples, classes)), rng.integers(0, classes, examples)


def equalization_v2_state(classes):
    positive, negative = np.linspace(8, 1, classes), np.linspace(6, 4, classes)
    return {"state": EqualizationV2State(*np.float32([positive, negative]))}


def equalization_v2(logits, labels, state, gamma, mu, alpha):
    losses = np.zeros(len(labels))
    for i, y in enumerate(labels):
        for k, z in enumerate(logits[i]):
            ratio = np.float64(state.positive[k]) / np.float64(state.negative[k])
            negative_weight = 1 / (1 + np.exp(-gamma * (ratio - mu)))
            positive_weight = 1 + alpha * (1 - negative_weight)
            p = sigmoid(z)
            losses[i] -= positive_weight * np.log(p) if k == y else negative_weight * np.log(1 - p)
    return losses


def seesaw_state(classes):
    return {"state": class_counts(classes)["class_counts"]}


def seesaw(logits, labels, state, p, q, epsilon=0.01):
    counts = np.array(state, float)
    for y in labels:
        counts[y] += 1
    counts = np.maximum(counts, 1)
    losses = []
    for s, y in zip(softmax(logits), labels, strict=True):
        total = 0.0
        for k in range(len(s)):
            mitigation = (counts[k] / counts[y]) ** p if counts[k] < counts[y] else 1.0
            divisor = max(s[y], epsilon)
            compensation = (s[k] / divisor) ** q if s[k] > divisor else 1.0
            total += s[k] * (mitigation * compensation if k != y else 1.0)
        losses.append(-np.log(s[y] / total))
    return np.array(losses)


def harmonising_state(classes):
    counts = np.linspace(1, 5, 6, dtype=np.float32)
    return {"state": GradientHarmonisingState(counts, np.float32(0.75))}


def logits_and_answers(rng, examples, classes):
    return 2.0 * rng.normal(size=(examples, classes)), rng.integers(0, 2, (examples, classes))


def gradient_harmonising(logits, labels, state, momentum):
    bins, p = len(state.counts), sigmoid(logits)
    places = np.minimum((np.abs(p - labels) * bins).astype(int), bins - 1)
    counts = np.zeros(bins)
    for place in places.flat:
        counts[place] += 1
    average = momentum * np.float64(state.counts) + (1 - momentum) * counts
    average = average / (momentum * np.float64(state.weight) + (1 - momentum))
    losses = -labels * np.log(p) - (1 - labels) * np.log(1 - p)
    return logits.size / (bins * average[places]) * losses


def loss_of(result):
    return result[0]


def of_equal_counts(loss, **keywords):
    """The identity most of these losses keep: with equal counts they are the cross-entropy."""
    return lambda logits, labels: (
        loss(logits, labels, class_counts=equal_counts(logits.shape[-1]), **keywords),
        cross_entropy(logits, labels),
    )


GROWTH = {"head_smoothing": Parameter(0.3, 0.0, 1.0), "tail_smoothing": Parameter(0.1, 0.0, 1.0)}

CASES = [
    LossCase(
        function=xent.class_balanced_weights,
        family="transform",
        reference=class_balanced_weights,
        inputs=counts_of_classes,
        parameters={"beta": Parameter(0.9, 0.0, 1.0)},
        defaults={"beta": 0.9999},
        limit=lambda counts: (
            xent.class_balanced_weights(counts, beta=1.0),
            xent.inverse_frequency_weights(counts),
        ),
    ),
    LossCase(
        function=xent.inverse_frequency_weights,
        family="transform",
        reference=inverse_frequency_weights,
        inputs=counts_of_classes,
        parameters={"power": Parameter(0.5, 0.0)},
        defaults={"power": 1.0},
        limit=lambda counts: (
            xent.inverse_frequency_weights(counts, power=0.0),
            np.ones(len(counts)),
        ),
    ),
    LossCase(
        function=xent.deferred_reweighting_weights,
        family="transform",
        reference=deferred_reweighting_weights,
        inputs=counts_of_classes,
        parameters={"beta": Parameter(0.9, 0.0, 1.0)},
        defaults={"start_epoch": 160, "beta": 0.9999},
        context=lambda classes: {"epoch": np.int32(160)},
        limit=lambda counts: (
            xent.deferred_reweighting_weights(counts, 159),
            np.ones(len(counts)),
        ),
    ),
    LossCase(
        function=xent.class_balanced_focal_loss,
        family="classification",
        reference=class_balanced_focal_loss,
        inputs=scores_and_labels,
        parameters={"beta": Parameter(0.5, 0.0, 1.0), "gamma": Parameter(2.0, 0.0)},
        defaults={"beta": 0.9999, "gamma": 2.0},
        context=class_counts,
        limit=lambda logits, labels: (  # no weights and no focus
            xent.class_balanced_focal_loss(
                logits,
                labels,
                class_counts=class_counts(logits.shape[-1])["class_counts"],
                beta=0.0,
                gamma=0.0,
            ),
            np.log1p(np.exp(-logits * (2 * one_hot(labels, logits.shape[-1]) - 1))).sum(-1),
        ),
    ),
    LossCase(
        function=xent.ldam,
        family="classification",
        reference=ldam,
        inputs=cosines_and_labels,
        parameters={"max_margin": Parameter(0.5, 0.0), "scale": Parameter(1.5, 0.0)},
        defaults={"max_margin": 0.5, "scale": 30.0},
        context=class_counts,
        limit=lambda cosines, labels: (
            xent.ldam(cosines, labels, max_margin=0.0, **class_counts(cosines.shape[-1])),
            with_integer_labels(30.0 * cosines, labels),
        ),
    ),
    LossCase(
        function=xent.logit_adjusted,
        family="classification",
        reference=logit_adjusted,
        parameters={"tau": Parameter(1.0, 0.0)},
        defaults={"tau": 1.0},
        context=class_prior,
        limit=lambda logits, labels: (
            xent.logit_adjusted(logits, labels, class_prior=uniform_prior(logits.shape[-1])),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.balanced_softmax,
        family="classification",
        reference=balanced_softmax,
        context=class_counts,
        limit=lambda logits, labels: (
            xent.balanced_softmax(logits, labels, **class_counts(logits.shape[-1])),
            xent.logit_adjusted(logits, labels, **class_prior(logits.shape[-1])),
        ),
    ),
    LossCase(
        function=xent.logit_adjustment_posthoc,
        family="transform",
        reference=logit_adjustment_posthoc,
        inputs=rows_of_weights,
        parameters={"tau": Parameter(1.0, 0.0)},
        defaults={"tau": 1.0, "axis": -1},
        context=class_prior,
        limit=lambda logits: (  # undoes what the loss did
            with_integer_labels(logits, np.zeros(len(logits), np.int32)),
            xent.logit_adjusted(
                xent.logit_adjustment_posthoc(logits, **class_prior(logits.shape[-1])),
                np.zeros(len(logits), np.int32),
                **class_prior(logits.shape[-1]),
            ),
        ),
    ),
    LossCase(
        function=xent.vector_scaling,
        family="classification",
        reference=vector_scaling,
        parameters={"gamma": Parameter(0.3, 0.0), "tau": Parameter(1.0, 0.0)},
        defaults={"gamma": 0.3, "tau": 1.0},
        context=class_counts,
        limit=lambda logits, labels: (
            xent.vector_scaling(logits, labels, gamma=0.0, **class_counts(logits.shape[-1])),
            xent.logit_adjusted(logits, labels, **class_prior(logits.shape[-1])),
        ),
    ),
    LossCase(
        function=xent.class_dependent_temperature,
        family="classification",
        reference=class_dependent_temperature,
        parameters={"gamma": Parameter(0.3, 0.0)},
        defaults={"gamma": 0.3},
        context=class_counts,
        limit=of_equal_counts(xent.class_dependent_temperature),
    ),
    *(
        LossCase(
            function=xent.label_aware_smoothing,
            variant=f" {shape}",
            family="classification",
            reference=smoothing_of(shape),
            parameters=GROWTH,
            defaults={"head_smoothing": 0.3, "tail_smoothing": 0.0, "shape": "concave"},
            context=lambda classes, shape=shape: class_counts(classes) | {"shape": shape},
            limit=of_equal_counts(xent.label_aware_smoothing, shape=shape),
        )
        for shape in ("concave", "linear", "convex")
    ),
    LossCase(
        function=xent.influence_balanced,
        family="classification",
        reference=influence_balanced,
        inputs=logits_labels_and_features,
        parameters={"alpha": Parameter(2.0, 0.0), "epsilon": Parameter(0.5, 0.0)},
        defaults={"alpha": 1000.0, "epsilon": 0.001},
        context=class_counts,
        limit=lambda logits, labels, features: (  # equal counts, and no influence of features
            xent.influence_balanced(
                logits,
                labels,
                0.0 * features,
                class_counts=equal_counts(logits.shape[-1]),
                alpha=2.0,
                epsilon=2.0,
            ),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.tau_normalise,
        family="transform",
        reference=tau_normalise,
        inputs=rows_of_weights,
        parameters={"tau": Parameter(1.0, 0.0)},
        defaults={"tau": 1.0},
        limit=lambda weights: (xent.tau_normalise(weights, tau=0.0), weights),
    ),
    LossCase(
        function=xent.equalization,
        family="classification",
        reference=equalization,
        parameters={"threshold": Parameter(0.3, 0.0, 1.0), "gamma": Parameter(0.9, 0.0, 1.0)},
        defaults={"threshold": 0.005, "gamma": 0.9, "key": None},
        context=class_prior,
        limit=lambda logits, labels: (
            xent.equalization(logits, labels, threshold=0.0, **class_prior(logits.shape[-1])),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.sigmoid_equalization,
        family="binary",
        reference=sigmoid_equalization,
        inputs=logits_and_objects,
        parameters={"threshold": Parameter(0.3, 0.0, 1.0)},
        defaults={"threshold": 0.00177},
        context=class_prior,
        limit=lambda logits, labels: (
            xent.sigmoid_equalization(logits, labels, threshold=0.0, **class_prior(4)),
            xent.sigmoid_binary_cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.equalization_v2,
        family="classification",
        reference=equalization_v2,
        inputs=scores_and_labels,
        parameters={
            "gamma": Parameter(3.0, 0.0),
            "mu": Parameter(0.8),
            "alpha": Parameter(4.0, 0.0),
        },
        defaults={"gamma": 12.0, "mu": 0.8, "alpha": 4.0},
        context=equalization_v2_state,
        pick=loss_of,
        limit=lambda logits, labels: (  # before any gradient was seen
            xent.equalization_v2(logits, labels, xent.init_equalization_v2_state(logits.shape[-1]))[
                0
            ],
            np.log1p(np.exp(-logits * (2 * one_hot(labels, logits.shape[-1]) - 1))).sum(-1),
        ),
    ),
    LossCase(  # q = 0: the factor with q is a constant of the logits, which no difference sees
        function=xent.seesaw,
        family="embeddings",
        reference=seesaw,
        parameters={"p": Parameter(0.8, 0.0)},
        defaults={"p": 0.8, "q": 2.0, "epsilon": 0.01},
        context=lambda classes: seesaw_state(classes) | {"q": 0.0},
        pick=loss_of,
        limit=lambda logits, labels: (
            xent.seesaw(logits, labels, p=0.0, q=0.0, **seesaw_state(logits.shape[-1]))[0],
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.gradient_harmonising,
        family="embeddings",
        reference=gradient_harmonising,
        inputs=logits_and_answers,
        parameters={"momentum": Parameter(0.75, 0.0, 0.9999)},
        defaults={"momentum": 0.75},
        context=harmonising_state,
        pick=loss_of,
        limit=lambda logits, labels: (  # one bin holds all
            xent.gradient_harmonising(
                logits, labels, xent.init_gradient_harmonising_state(num_bins=1)
            )[0],
            xent.sigmoid_binary_cross_entropy(logits, labels),
        ),
    ),
]
