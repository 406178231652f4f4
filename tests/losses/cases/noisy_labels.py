"""Rows of the losses for wrong labels."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    Arrays,
    LossCase,
    Parameter,
    cross_entropy,
    label_probability,
    logits_and_labels,
    one_hot,
    softmax,
)


def generalized_cross_entropy(logits, labels, q):
    return (1.0 - label_probability(logits, labels) ** q) / q


def mean_absolute_error(logits, labels):
    return np.abs(softmax(logits) - one_hot(labels, logits.shape[-1])).sum(-1)


def reverse_cross_entropy(logits, labels, log_zero):
    log_target = np.where(one_hot(labels, logits.shape[-1]) == 1, 0.0, log_zero)
    return -(softmax(logits) * log_target).sum(-1)


def symmetric_cross_entropy(logits, labels, alpha, beta, log_zero):
    reverse = reverse_cross_entropy(logits, labels, log_zero)
    return alpha * cross_entropy(logits, labels) + beta * reverse


def truncated_generalized_cross_entropy(logits, labels, q, k):
    p = label_probability(logits, labels)
    return (1.0 - np.where(p <= k, k, p) ** q) / q


def asymmetric_generalized_cross_entropy(logits, labels, a, q):
    return ((a + 1.0) ** q - (a + label_probability(logits, labels)) ** q) / q


def asymmetric_unhinged(logits, labels, a, q):
    return ((a - label_probability(logits, labels)) ** q - (a - 1.0) ** q) / q


def asymmetric_exponential(logits, labels, a):
    return np.exp(-label_probability(logits, labels) / a)


def partially_huberised_cross_entropy(logits, labels, tau):
    p = label_probability(logits, labels)
    return np.where(p <= 1.0 / tau, -tau * p + np.log(tau) + 1.0, -np.log(p))


def partially_huberised_generalized_cross_entropy(logits, labels, q, tau):
    p, start = label_probability(logits, labels), tau ** (1.0 / (q - 1.0))
    linear = -tau * p + tau * start + (1.0 - start**q) / q
    return np.where(p <= start, linear, (1.0 - p**q) / q)


def taylor_cross_entropy(logits, labels):
    missing = 1.0 - label_probability(logits, labels)
    return missing + missing**2 / 2.0


def two_views(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return *logits_and_labels(rng, examples, classes), 2.0 * rng.normal(size=(examples, classes))


def entropy(p):
    return -(p * np.log(np.where(p == 0.0, 1.0, p))).sum(-1)


def generalized_jensen_shannon(logits, labels, *others, label_weight):
    views = [softmax(z) for z in (logits, *others)]
    rest = (1.0 - label_weight) / len(views)
    mixture = label_weight * one_hot(labels, logits.shape[-1]) + rest * sum(views)
    divergence = entropy(mixture) - rest * sum(entropy(p) for p in views)
    return divergence / -((1.0 - label_weight) * np.log(1.0 - label_weight))


def epsilon_softmax(logits, labels, m, alpha, beta):
    p, classes = softmax(logits), logits.shape[-1]
    pushed = (p + m * one_hot(logits.argmax(-1), classes)) / (1.0 + m)
    cross_entropy = -np.log((pushed * one_hot(labels, classes)).sum(-1))
    return alpha * cross_entropy + beta * mean_absolute_error(logits, labels)


def logit_clip(logits, labels, max_norm):
    possible = np.isfinite(logits)
    norm = np.sqrt((np.where(possible, logits, 0.0) ** 2).sum(-1, keepdims=True))
    clipped = logits * np.where(norm > max_norm, max_norm / np.where(norm > 0.0, norm, 1.0), 1.0)
    return cross_entropy(clipped, labels)


def ldr_kl(logits, labels, temperature, margin):
    wrong = 1.0 - one_hot(labels, logits.shape[-1])
    label = np.take_along_axis(logits, labels[:, None], -1)
    gaps = (logits - label + margin * wrong) / temperature
    largest = gaps.max(-1, keepdims=True)
    terms = np.exp(gaps - largest).sum(-1) / np.isfinite(logits).sum(-1)
    return temperature * (largest[:, 0] + np.log(terms))


def peers(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    pairs = (logits_and_labels(rng, examples, classes) for _ in range(2))
    return tuple(array for pair in pairs for array in pair)


def jeffrey_conjugate(t):
    # sup_u t u - (u - 1) log u, by bisection of its slope in log u.
    low, high = np.full_like(t, -2.0), np.full_like(t, 2.0)
    for _ in range(80):
        middle = (low + high) / 2.0
        rising = t - middle - 1.0 + np.exp(-middle) > 0.0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    u = np.exp(low)
    return t * u - (u - 1.0) * np.log(u)


# g(v), and the conjugate f*(u).
F_DIVERGENCES = {
    "total_variation": (lambda v: np.tanh(v) / 2.0, lambda u: u),
    "jensen_shannon": (
        lambda v: np.log(2.0 / (1.0 + np.exp(-v))),
        lambda u: -np.log(2.0 - np.exp(u)),
    ),
    "pearson": (lambda v: v, lambda u: u**2 / 4.0 + u),
    "kullback_leibler": (lambda v: v, lambda u: np.exp(u - 1.0)),
    "jeffrey": (lambda v: v, jeffrey_conjugate),
}


def robust_f_divergence(divergence):
    activation, conjugate = F_DIVERGENCES[divergence]

    def reference(logits, labels, peer_logits, peer_labels, **_):
        joint = activation(label_probability(logits, labels))
        return conjugate(activation(label_probability(peer_logits, peer_labels))) - joint

    return reference


# What the loss of certain predictions that are their own peers is: f*(g(1)) - g(1). Of Jeffrey's
# divergence it is 1 / W + W - 2 for the omega constant, W e^W = 1.
OF_CERTAIN_PEERS = {
    "total_variation": 0.0,
    "jensen_shannon": np.log((1.0 + np.cosh(1.0)) / 2.0),
    "pearson": 0.25,
    "kullback_leibler": 0.0,
    "jeffrey": 1.0 / 0.5671432904 + 0.5671432904 - 2.0,
}


def of_certain_peers(divergence):
    def limit(logits, labels, *_):
        sure = 200.0 * one_hot(labels, logits.shape[-1]).astype(np.float32)
        loss = xent.robust_f_divergence(sure, labels, sure, labels, divergence=divergence)
        return loss, np.full(len(labels), OF_CERTAIN_PEERS[divergence])

    return limit


CASES = [
    LossCase(
        function=xent.generalized_cross_entropy,
        family="classification",
        reference=generalized_cross_entropy,
        parameters={"q": Parameter(0.7, 0.0, 1.0)},
        defaults={"q": 0.7},
        limit=lambda logits, labels: (
            xent.generalized_cross_entropy(logits, labels, q=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.mean_absolute_error,
        family="classification",
        reference=mean_absolute_error,
        limit=lambda logits, labels: (
            xent.mean_absolute_error(logits, labels),
            2.0 * xent.generalized_cross_entropy(logits, labels, q=1.0),
        ),
    ),
    LossCase(
        function=xent.reverse_cross_entropy,
        family="classification",
        reference=reverse_cross_entropy,
        parameters={"log_zero": Parameter(-4.0, high=0.0)},
        defaults={"log_zero": -4.0},
        limit=lambda logits, labels: (
            xent.reverse_cross_entropy(logits, labels, log_zero=-2.0),
            xent.mean_absolute_error(logits, labels),
        ),
    ),
    LossCase(
        function=xent.symmetric_cross_entropy,
        family="classification",
        reference=symmetric_cross_entropy,
        parameters={
            "alpha": Parameter(0.1, 0.0),
            "beta": Parameter(1.0, 0.0),
            "log_zero": Parameter(-4.0, high=0.0),
        },
        defaults={"alpha": 0.1, "beta": 1.0, "log_zero": -4.0},
        limit=lambda logits, labels: (
            xent.symmetric_cross_entropy(logits, labels, alpha=1.0, beta=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.truncated_generalized_cross_entropy,
        family="classification",
        reference=truncated_generalized_cross_entropy,
        parameters={"q": Parameter(0.7, 0.0, 1.0), "k": Parameter(0.3, 0.0, 1.0)},
        defaults={"q": 0.7, "k": 0.5},
        limit=lambda logits, labels: (
            xent.truncated_generalized_cross_entropy(logits, labels, k=1e-20),
            xent.generalized_cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.asymmetric_generalized_cross_entropy,
        family="classification",
        reference=asymmetric_generalized_cross_entropy,
        parameters={"a": Parameter(0.6, 0.0), "q": Parameter(1.6, 0.0)},
        defaults={"a": 1.0, "q": 2.0},
        limit=lambda logits, labels: (
            xent.asymmetric_generalized_cross_entropy(logits, labels, a=1e-12, q=0.7),
            xent.generalized_cross_entropy(logits, labels, q=0.7),
        ),
    ),
    LossCase(
        function=xent.asymmetric_unhinged,
        family="classification",
        reference=asymmetric_unhinged,
        parameters={"a": Parameter(1.5, 1.0), "q": Parameter(0.9, 0.0)},
        defaults={"a": 1.5, "q": 0.9},
        limit=lambda logits, labels: (
            xent.asymmetric_unhinged(logits, labels, q=1.0),
            0.5 * xent.mean_absolute_error(logits, labels),
        ),
    ),
    LossCase(
        function=xent.asymmetric_exponential,
        family="classification",
        reference=asymmetric_exponential,
        parameters={"a": Parameter(3.0, 0.0)},
        defaults={"a": 3.0},
        limit=lambda logits, labels: (
            -0.1 * np.log(xent.asymmetric_exponential(logits, labels, a=0.1)),
            label_probability(logits, labels),
        ),
    ),
    LossCase(
        function=xent.partially_huberised_cross_entropy,
        family="classification",
        reference=partially_huberised_cross_entropy,
        parameters={"tau": Parameter(5.0, 1.0)},
        defaults={"tau": 10.0},
        limit=lambda logits, labels: (
            xent.partially_huberised_cross_entropy(logits, labels, tau=1e9),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.partially_huberised_generalized_cross_entropy,
        family="classification",
        reference=partially_huberised_generalized_cross_entropy,
        parameters={"q": Parameter(0.5, 0.0, 1.0), "tau": Parameter(2.0, 1.0)},
        defaults={"q": 0.7, "tau": 10.0},
        limit=lambda logits, labels: (
            xent.partially_huberised_generalized_cross_entropy(logits, labels, q=0.0, tau=3.0),
            xent.partially_huberised_cross_entropy(logits, labels, tau=3.0),
        ),
    ),
    LossCase(
        function=xent.taylor_cross_entropy,
        family="classification",
        reference=taylor_cross_entropy,
        defaults={"order": 2},
        limit=lambda logits, labels: (
            xent.taylor_cross_entropy(logits, labels, order=1),
            0.5 * xent.mean_absolute_error(logits, labels),
        ),
    ),
    LossCase(
        function=xent.generalized_jensen_shannon,
        family="classification",
        reference=generalized_jensen_shannon,
        parameters={"label_weight": Parameter(0.3, 0.0, 1.0)},
        defaults={"label_weight": 0.5},
        limit=lambda logits, labels: (
            xent.generalized_jensen_shannon(logits, labels, label_weight=1e-12),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.generalized_jensen_shannon,
        family="classification",
        reference=generalized_jensen_shannon,
        parameters={"label_weight": Parameter(0.3, 0.0, 1.0)},
        inputs=two_views,
        limit=lambda logits, labels, _: (
            xent.generalized_jensen_shannon(logits, labels, logits, logits),
            xent.generalized_jensen_shannon(logits, labels),
        ),
        variant=" of two views",
    ),
    LossCase(
        function=xent.epsilon_softmax,
        family="classification",
        reference=epsilon_softmax,
        parameters={
            "m": Parameter(10.0, 0.0),
            "alpha": Parameter(0.5, 0.0),
            "beta": Parameter(5.0, 0.0),
        },
        defaults={"m": 1e5, "alpha": 0.01, "beta": 5.0},
        limit=lambda logits, labels: (
            xent.epsilon_softmax(logits, labels, m=0.0, alpha=1.0, beta=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.logit_clip,
        family="classification",
        reference=logit_clip,
        parameters={"max_norm": Parameter(3.0, 0.0)},
        defaults={"max_norm": 1.0},
        limit=lambda logits, labels: (
            xent.logit_clip(logits, labels, max_norm=1e6),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.ldr_kl,
        family="classification",
        reference=ldr_kl,
        parameters={"temperature": Parameter(1.5, 0.0), "margin": Parameter(0.3, 0.0)},
        defaults={"temperature": 1.0, "margin": 0.1},
        limit=lambda logits, labels: (
            xent.ldr_kl(logits, labels, temperature=1.0, margin=0.0),
            cross_entropy(logits, labels) - np.log(logits.shape[-1]),
        ),
    ),
    *(
        LossCase(
            function=xent.robust_f_divergence,
            family="classification",
            reference=robust_f_divergence(name),
            inputs=peers,
            context=lambda classes, name=name: {"divergence": name},
            limit=of_certain_peers(name),
            variant=f" {name}",
        )
        for name in F_DIVERGENCES
    ),
]
