"""Rows of the losses of embeddings that are compared with one another."""

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import Arrays, LossCase, Parameter


def embeddings_and_labels(rng: np.random.Generator, examples: int, dimensions: int) -> Arrays:
    return rng.normal(size=(examples, dimensions)), np.arange(examples) % 2


def two_embeddings(rng: np.random.Generator, examples: int, dimensions: int) -> Arrays:
    first = rng.normal(size=(examples, dimensions))
    return first, first + rng.normal(size=first.shape)


def pairs_and_labels(rng: np.random.Generator, examples: int, dimensions: int) -> Arrays:
    return *two_embeddings(rng, examples, dimensions), np.arange(examples) % 2


def triplets(rng: np.random.Generator, examples: int, dimensions: int) -> Arrays:
    anchors, positives = two_embeddings(rng, examples, dimensions)
    return anchors, positives, anchors + rng.normal(size=anchors.shape)


def cosine(x, y):
    return x @ y / np.sqrt((x @ x) * (y @ y))


def distance(x, y):
    return np.sqrt(((x - y) ** 2).sum())


def per_anchor(formula):
    """Returns a loss from `formula(positives, negatives, ...)`, two lists per anchor."""

    def loss(embeddings, labels, compare, **keywords):
        losses = np.zeros(len(embeddings))
        for i, x in enumerate(embeddings):
            others = [j for j in range(len(embeddings)) if j != i]
            positives = [compare(x, embeddings[j]) for j in others if labels[j] == labels[i]]
            negatives = [compare(x, embeddings[j]) for j in others if labels[j] != labels[i]]
            if positives and negatives:
                losses[i] = formula(np.array(positives), np.array(negatives), **keywords)
        return losses

    return lambda compare: (
        lambda embeddings, labels, **keywords: loss(embeddings, labels, compare, **keywords)
    )


@per_anchor
def ntxent(positives, negatives, temperature):
    positives, negatives = np.exp(positives / temperature), np.exp(negatives / temperature)
    return np.mean([-np.log(p / (p + negatives.sum())) for p in positives])


@per_anchor
def decoupled_contrastive(positives, negatives, temperature):
    return np.log(np.exp(negatives / temperature).sum()) - positives.mean() / temperature


@per_anchor
def supervised_contrastive(positives, negatives, temperature):
    positives, negatives = np.exp(positives / temperature), np.exp(negatives / temperature)
    everything = positives.sum() + negatives.sum()
    return np.mean([-np.log(p / everything) for p in positives])


@per_anchor
def tuplet_margin(positives, negatives, margin, scale):
    eased = np.cos(np.arccos(positives) - margin)
    return np.mean([np.log(1.0 + np.exp(scale * (negatives - c)).sum()) for c in eased])


@per_anchor
def neighbourhood_component_analysis(positives, negatives, temperature):
    positives = np.exp(-(positives**2) / temperature).sum()
    negatives = np.exp(-(negatives**2) / temperature).sum()
    return -np.log(positives / (positives + negatives))


@per_anchor
def lifted_structure(positives, negatives, margin):
    pulled = np.log(np.exp(positives).sum())
    return max(0.0, pulled + np.log(np.exp(margin - negatives).sum()))


@per_anchor
def multi_similarity(positives, negatives, alpha, beta, threshold, mining_margin):
    hard_positives = [p for p in positives if p - mining_margin < negatives.max()]
    hard_negatives = [n for n in negatives if n + mining_margin > positives.min()]
    pulled = sum(np.exp(-alpha * (p - threshold)) for p in hard_positives)
    pushed = sum(np.exp(beta * (n - threshold)) for n in hard_negatives)
    return np.log(1.0 + pulled) / alpha + np.log(1.0 + pushed) / beta


@per_anchor
def circle_loss(positives, negatives, margin, gamma, detach_weights):
    assert not detach_weights  # differences of values know of no detaching
    pulled = pushed = 0.0
    for s in positives:
        pulled += np.exp(-gamma * max(0.0, 1.0 + margin - s) * (s - (1.0 - margin)))
    for s in negatives:
        pushed += np.exp(gamma * max(0.0, s + margin) * (s - margin))
    return np.log(1.0 + pulled * pushed)


@per_anchor
def batch_hard_triplet(positives, negatives, margin):
    return max(0.0, margin + positives.max() - negatives.min())


@per_anchor
def batch_hard_soft_triplet(positives, negatives):
    return np.log(1.0 + np.exp(positives.max() - negatives.min()))


@per_anchor
def batch_semi_hard_triplet(positives, negatives, margin):
    losses = []
    for p in positives:
        beyond = [n for n in negatives if n > p]
        n = min(beyond) if beyond else max(negatives)
        losses.append(max(0.0, margin + p**2 - n**2))
    return np.mean(losses)


def first_direction(first, second, compare, scale):
    losses = []
    for i, x in enumerate(first):
        terms = np.array([np.exp(scale * compare(x, y)) for y in second])
        losses.append(-np.log(terms[i] / terms.sum()))
    return np.array(losses)


def info_nce(embeddings, other_embeddings, temperature):
    return first_direction(embeddings, other_embeddings, cosine, 1.0 / temperature)


def clip_loss(embeddings, other_embeddings, log_scale):
    forth = first_direction(embeddings, other_embeddings, cosine, np.exp(log_scale))
    back = first_direction(other_embeddings, embeddings, cosine, np.exp(log_scale))
    return (forth + back) / 2.0


def n_pairs(embeddings, other_embeddings):
    return first_direction(embeddings, other_embeddings, np.dot, 1.0)


def siglip_loss(embeddings, other_embeddings, log_scale, bias):
    losses = np.zeros(len(embeddings))
    for i, x in enumerate(embeddings):
        for j, y in enumerate(other_embeddings):
            logit = np.exp(log_scale) * cosine(x, y) + bias
            losses[i] -= np.log(1.0 / (1.0 + np.exp(-logit if i == j else logit)))
    return losses


def contrastive_loss(embeddings, other_embeddings, labels, margin):
    losses = []
    for x, y, together in zip(embeddings, other_embeddings, labels, strict=True):
        d = distance(x, y)
        losses.append(0.5 * d**2 if together else 0.5 * max(0.0, margin - d) ** 2)
    return np.array(losses)


def triplet_margin_loss(anchors, positives, negatives, norm_degree, margin, eps):
    def norm(x):
        return ((np.abs(x) ** norm_degree).sum(-1) + eps) ** (1.0 / norm_degree)

    return np.maximum(0.0, margin + norm(anchors - positives) - norm(anchors - negatives))


TEMPERATURE = Parameter(0.5, 0.0)

CASES = [
    LossCase(
        function=xent.ntxent,
        family="embeddings",
        reference=ntxent(cosine),
        inputs=embeddings_and_labels,
        parameters={"temperature": TEMPERATURE},
        defaults={"temperature": 0.07},
        limit=lambda embeddings, labels: (  # two views of two images: one positive each
            xent.ntxent(embeddings[:4], labels[:4]),
            xent.supervised_contrastive(embeddings[:4], labels[:4], temperature=0.07),
        ),
    ),
    LossCase(
        function=xent.decoupled_contrastive,
        family="embeddings",
        reference=decoupled_contrastive(cosine),
        inputs=embeddings_and_labels,
        parameters={"temperature": TEMPERATURE},
        defaults={"temperature": 0.1},
        limit=lambda embeddings, labels: (  # two views of two images: one positive each
            np.logaddexp(0.0, xent.decoupled_contrastive(embeddings[:4], labels[:4])),
            xent.ntxent(embeddings[:4], labels[:4], 0.1),
        ),
    ),
    LossCase(
        function=xent.supervised_contrastive,
        family="embeddings",
        reference=supervised_contrastive(cosine),
        inputs=embeddings_and_labels,
        parameters={"temperature": TEMPERATURE},
        defaults={"temperature": 0.1},
        limit=lambda embeddings, labels: (  # all in one place: nothing tells the others apart
            xent.supervised_contrastive(np.ones_like(embeddings), labels),
            np.full(5, np.log(4.0)),
        ),
    ),
    LossCase(
        function=xent.info_nce,
        family="embeddings",
        reference=info_nce,
        inputs=two_embeddings,
        parameters={"temperature": TEMPERATURE},
        defaults={"temperature": 0.07},
        limit=lambda embeddings, others: (  # all in one place: a guess among five
            xent.info_nce(embeddings, np.ones_like(others)),
            np.full(5, np.log(5.0)),
        ),
    ),
    LossCase(
        function=xent.clip_loss,
        family="embeddings",
        reference=clip_loss,
        inputs=two_embeddings,
        parameters={"log_scale": Parameter(0.5)},
        defaults={"log_scale": np.log(1.0 / 0.07)},
        limit=lambda embeddings, _: (  # both directions are one
            xent.clip_loss(embeddings, embeddings),
            xent.info_nce(embeddings, embeddings),
        ),
    ),
    LossCase(
        function=xent.siglip_loss,
        family="embeddings",
        reference=siglip_loss,
        inputs=two_embeddings,
        parameters={"log_scale": Parameter(0.5), "bias": Parameter(-1.0)},
        defaults={"log_scale": np.log(10.0), "bias": -10.0},
        limit=lambda embeddings, others: (  # no scale, no bias: a coin for each pair
            xent.siglip_loss(embeddings, others, log_scale=-50.0, bias=0.0),
            np.full(5, 5.0 * np.log(2.0)),
        ),
    ),
    LossCase(
        function=xent.n_pairs,
        family="embeddings",
        reference=n_pairs,
        inputs=two_embeddings,
        limit=lambda embeddings, others: (  # of two pairs, the sigmoid's cross-entropy
            xent.n_pairs(embeddings[:2], others[:2]),
            xent.sigmoid_binary_cross_entropy(
                (embeddings[:2] * (others[:2] - others[1::-1])).sum(-1), np.ones(2)
            ),
        ),
    ),
    LossCase(
        function=xent.tuplet_margin,
        family="embeddings",
        reference=tuplet_margin(cosine),
        inputs=embeddings_and_labels,
        parameters={"margin": Parameter(0.3, 0.0), "scale": Parameter(2.0, 0.0)},
        defaults={"margin": 0.1, "scale": 64.0},
        limit=lambda embeddings, labels: (
            xent.tuplet_margin(embeddings, labels, margin=0.0, scale=10.0),
            xent.ntxent(embeddings, labels, 0.1),
        ),
    ),
    LossCase(
        function=xent.neighbourhood_component_analysis,
        family="embeddings",
        reference=neighbourhood_component_analysis(distance),
        inputs=embeddings_and_labels,
        parameters={"temperature": Parameter(2.0, 0.0)},
        defaults={"temperature": 1.0},
        limit=lambda embeddings, labels: (  # all in one place: the positives' share of the others
            xent.neighbourhood_component_analysis(np.ones_like(embeddings), labels),
            np.log(np.where(labels == 0, 2.0, 4.0)),
        ),
    ),
    LossCase(
        function=xent.lifted_structure,
        family="embeddings",
        reference=lifted_structure(distance),
        inputs=embeddings_and_labels,
        parameters={"margin": Parameter(0.8, 0.0)},
        defaults={"margin": 1.0},
        limit=lambda embeddings, labels: (  # one positive and one negative: a triplet
            xent.lifted_structure(embeddings[[0, 2, 1]], labels[[0, 2, 1]])[:2],
            xent.batch_hard_triplet(embeddings[[0, 2, 1]], labels[[0, 2, 1]], margin=1.0)[:2],
        ),
    ),
    LossCase(
        function=xent.multi_similarity,
        family="embeddings",
        reference=multi_similarity(cosine),
        inputs=embeddings_and_labels,
        parameters={
            "alpha": Parameter(1.5, 0.0),
            "beta": Parameter(3.0, 0.0),
            "threshold": Parameter(0.5),
            "mining_margin": Parameter(0.1),
        },
        defaults={"alpha": 2.0, "beta": 50.0, "threshold": 1.0, "mining_margin": 0.1},
        limit=lambda embeddings, labels: (  # nothing is hard once the classes are far apart
            xent.multi_similarity(np.eye(4, dtype=np.float32)[labels], labels),
            np.zeros(5),
        ),
    ),
    LossCase(
        function=xent.circle_loss,
        family="embeddings",
        reference=circle_loss(cosine),
        inputs=embeddings_and_labels,
        parameters={"margin": Parameter(0.4), "gamma": Parameter(2.0, 0.0)},
        defaults={"margin": 0.4, "gamma": 80.0, "detach_weights": True},
        context=lambda dimensions: {"detach_weights": False},
        limit=lambda embeddings, labels: (  # all weights at their optimum
            xent.circle_loss(np.eye(4, dtype=np.float32)[labels[:4]], labels[:4], gamma=10.0),
            np.full(4, np.log1p(2.0 * np.exp(-2.0 * 10.0 * 0.4**2))),
        ),
    ),
    LossCase(
        function=xent.contrastive_loss,
        family="embeddings",
        reference=contrastive_loss,
        inputs=pairs_and_labels,
        parameters={"margin": Parameter(4.0, 0.0)},
        defaults={"margin": 1.0},
        limit=lambda embeddings, others, labels: (  # the positives are springs to 0
            xent.contrastive_loss(embeddings, others, labels)[1::2],
            0.5 * ((embeddings - others) ** 2).sum(-1)[1::2],
        ),
    ),
    LossCase(
        function=xent.triplet_margin_loss,
        family="embeddings",
        reference=triplet_margin_loss,
        inputs=triplets,
        parameters={
            "norm_degree": Parameter(2.5, 1.0),
            "margin": Parameter(0.7, 0.0),
            "eps": Parameter(0.1, 0.0),
        },
        defaults={"axis": -1, "norm_degree": 2, "margin": 1.0, "eps": 1e-6},
        limit=lambda anchors, positives, _: (  # positive and negative are one
            xent.triplet_margin_loss(anchors, positives, positives),
            np.ones(5),
        ),
    ),
    LossCase(
        function=xent.batch_hard_triplet,
        family="embeddings",
        reference=batch_hard_triplet(distance),
        inputs=embeddings_and_labels,
        parameters={"margin": Parameter(0.5, 0.0)},
        defaults={"margin": None},
        limit=lambda embeddings, labels: (  # collapsed
            xent.batch_hard_triplet(np.ones_like(embeddings), labels, margin=0.5),
            np.full(5, 0.5),
        ),
    ),
    LossCase(
        function=xent.batch_hard_triplet,
        variant="_soft",
        family="embeddings",
        reference=batch_hard_soft_triplet(distance),
        inputs=embeddings_and_labels,
        limit=lambda embeddings, labels: (  # collapsed
            xent.batch_hard_triplet(np.ones_like(embeddings), labels),
            np.full(5, np.log(2.0)),
        ),
    ),
    LossCase(
        function=xent.batch_semi_hard_triplet,
        family="embeddings",
        reference=batch_semi_hard_triplet(distance),
        inputs=embeddings_and_labels,
        parameters={"margin": Parameter(1.5, 0.0)},
        defaults={"margin": 0.2},
        limit=lambda embeddings, labels: (  # collapsed
            xent.batch_semi_hard_triplet(np.ones_like(embeddings), labels),
            np.full(5, 0.2),
        ),
    ),
]
