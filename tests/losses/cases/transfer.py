"""Rows of the losses whose target is another prediction."""

import functools

import jax
import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    Arrays,
    LossCase,
    Parameter,
    cross_entropy,
    label_probability,
    logits_and_labels,
    softmax,
)


def two_logits(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return 2.0 * rng.normal(size=(examples, classes)), 2.0 * rng.normal(size=(examples, classes))


def logits_labels_and_teacher(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits, labels = logits_and_labels(rng, examples, classes)
    return logits, labels, 2.0 * rng.normal(size=(examples, classes))


def logits_labels_and_views(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits, labels = logits_and_labels(rng, examples, classes)
    return logits, labels, *two_logits(rng, examples, classes)


def three_logits(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return logits_and_labels(rng, examples, classes)[:1] + two_logits(rng, examples, classes)


def only_logits(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return logits_and_labels(rng, examples, classes)[:1]


def relative_entropy(p, q):
    ratio = np.where(p > 0, p, 1.0) / np.where(p > 0, q, 1.0)
    return (p * np.log(ratio)).sum(-1)


def distillation(logits, labels, teacher_logits, temperature, label_weight):
    teacher, student = softmax(teacher_logits / temperature), softmax(logits / temperature)
    soft = temperature**2 * relative_entropy(teacher, student)
    return soft + label_weight * cross_entropy(logits, labels)


def jensen_shannon_distillation(
    logits, labels, teacher_logits, beta, temperature, label_weight
):  # fmt: skip
    teacher, student = softmax(teacher_logits / temperature), softmax(logits / temperature)
    mixture = beta * teacher + (1.0 - beta) * student
    soft = beta * relative_entropy(teacher, mixture)
    soft = soft + (1.0 - beta) * relative_entropy(student, mixture)
    return temperature**2 * soft + label_weight * cross_entropy(logits, labels)


def decoupled_distillation(
    logits, labels, teacher_logits, alpha, beta, temperature, label_weight
):  # fmt: skip
    losses = []
    for z, y, a in zip(logits, labels, teacher_logits, strict=True):
        t, s = softmax(a / temperature), softmax(z / temperature)
        others = np.arange(len(z)) != y
        label = relative_entropy(*(np.array([p[y], p[others].sum()]) for p in (t, s)))
        rest = relative_entropy(*(p[others] / p[others].sum() for p in (t, s)))
        soft = temperature**2 * (alpha * label + beta * rest)
        losses.append(soft - label_weight * np.log(softmax(z)[y]))
    return np.array(losses)


def entropy_minimisation(logits):
    p = softmax(logits)
    return -(p * np.log(p)).sum(-1)


def fixmatch(logits, weak_logits, threshold):
    q = softmax(weak_logits)
    surprise = cross_entropy(logits, q.argmax(-1))
    return np.where(q.max(-1) >= threshold, surprise, 0.0)


def pseudo_label(logits, threshold):
    return fixmatch(logits, logits, threshold)


def consistency(logits, target_logits, target_temperature):
    return relative_entropy(softmax(target_logits / target_temperature), softmax(logits))


def jensen_shannon_consistency(*logits):
    p = softmax(np.stack(logits))
    mixture = p.mean(0)
    return np.mean([relative_entropy(view, mixture) for view in p], axis=0)


def augmix(logits, labels, *augmented_logits, consistency_weight):
    views = jensen_shannon_consistency(logits, *augmented_logits)
    return cross_entropy(logits, labels) + consistency_weight * views


KEY = jax.random.key(7)


def images_and_labels(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return rng.normal(size=(examples, 5, classes, 2)), rng.integers(0, classes, examples)


@functools.wraps(xent.mixup)
def mixup(images, labels, **keywords):
    return xent.mixup(KEY, images, labels, **keywords)


def mixed_images(images, labels):
    """The definition, given the pairs and the share that the labels tell of."""
    _, target = xent.mixup(KEY, np.float32(images), np.arange(len(images)))
    share, partners = float(target.share), np.asarray(target.other_labels)
    return share * images + (1.0 - share) * images[partners]


@functools.wraps(xent.cutmix)
def cutmix(images, labels, **keywords):
    return xent.cutmix(KEY, images, labels, **keywords)


def cut_images(images, labels):
    """Pixel by pixel, from where marked images show; `test_transfer.py` tests the rectangle."""
    marks = np.arange(len(images), dtype=np.float32)[:, None, None]
    shown, _ = xent.cutmix(KEY, marks + np.zeros_like(images[..., 0], np.float32), marks)
    result = np.empty_like(images)
    for i, picture in enumerate(np.asarray(shown)):
        for row, line in enumerate(picture):
            for column, source in enumerate(line):
                result[i, row, column] = images[int(source), row, column]
    return result


@functools.wraps(xent.mixed_loss)
def mixed_loss(logits, labels, share=0.3):
    other = (labels + 1) % logits.shape[-1]
    mixed = xent.losses.transfer.MixedLabels(labels, other, share)
    return xent.mixed_loss(xent.generalized_cross_entropy, logits, mixed, q=0.5)


def mixture_of_losses(logits, labels):
    other = (labels + 1) % logits.shape[-1]
    first, second = ((1.0 - label_probability(logits, y) ** 0.5) / 0.5 for y in (labels, other))
    return 0.3 * first + 0.7 * second


def losses_of_a_task(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return (rng.uniform(0.1, 3.0, size=(examples, classes)),)


def multi_task_uncertainty(loss, log_variance):
    deviation = np.sqrt(np.exp(log_variance))
    return loss / deviation**2 + np.log(deviation)


def regression_uncertainty(loss, log_variance):
    deviation = np.sqrt(np.exp(log_variance))
    return loss / (2.0 * deviation**2) + np.log(deviation)


@functools.wraps(xent.multi_task_uncertainty)
def task_of_regression(loss, log_variance):
    return xent.multi_task_uncertainty(loss, log_variance, regression=True)


TEMPERATURE = Parameter(1.5, 0.0)
LABEL_WEIGHT = Parameter(0.5, 0.0)

CASES = [
    LossCase(
        function=xent.distillation,
        family="classification",
        reference=distillation,
        inputs=logits_labels_and_teacher,
        parameters={"temperature": TEMPERATURE, "label_weight": LABEL_WEIGHT},
        defaults={"temperature": 2.0, "label_weight": 0.5, "axis": -1},
        limit=lambda logits, labels, teacher: (  # what the teacher adds is its entropy
            xent.distillation(logits, labels, teacher, temperature=1.0, label_weight=0.0),
            xent.softmax_cross_entropy(logits, softmax(teacher)) - entropy_minimisation(teacher),
        ),
    ),
    LossCase(
        function=xent.jensen_shannon_distillation,
        family="classification",
        reference=jensen_shannon_distillation,
        inputs=logits_labels_and_teacher,
        parameters={
            "beta": Parameter(0.3, 0.0, 1.0),
            "temperature": TEMPERATURE,
            "label_weight": LABEL_WEIGHT,
        },
        defaults={"beta": 0.5, "temperature": 1.0, "label_weight": 0.0},
        limit=lambda logits, labels, teacher: (
            xent.jensen_shannon_distillation(logits, labels, teacher),
            xent.jensen_shannon_divergence(softmax(logits), softmax(teacher)),
        ),
    ),
    LossCase(
        function=xent.decoupled_distillation,
        family="classification",
        reference=decoupled_distillation,
        inputs=logits_labels_and_teacher,
        parameters={
            "alpha": Parameter(0.7, 0.0),
            "beta": Parameter(2.0, 0.0),
            "temperature": TEMPERATURE,
            "label_weight": LABEL_WEIGHT,
        },
        defaults={"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "label_weight": 1.0},
        limit=lambda logits, labels, teacher: (  # of two classes nothing is left to decouple
            xent.decoupled_distillation(logits[:, :2], labels % 2, teacher[:, :2]),
            xent.distillation(
                logits[:, :2], labels % 2, teacher[:, :2], temperature=4.0, label_weight=1.0
            ),
        ),
    ),
    LossCase(
        function=xent.entropy_minimisation,
        family="classification",
        reference=entropy_minimisation,
        inputs=only_logits,
        defaults={"axis": -1},
        limit=lambda logits: (
            xent.entropy_minimisation(logits),
            xent.entropy(softmax(logits).astype(np.float32)),
        ),
    ),
    LossCase(
        function=xent.pseudo_label,
        family="classification",
        reference=pseudo_label,
        inputs=only_logits,
        parameters={"threshold": Parameter(0.2, 0.0, 1.0)},
        defaults={"threshold": 0.0},
        limit=lambda logits: (
            xent.pseudo_label(logits),
            -np.log(softmax(logits).max(-1)),
        ),
    ),
    LossCase(
        function=xent.fixmatch,
        family="transform",  # the weak logits choose, and so have no gradient
        reference=fixmatch,
        inputs=two_logits,
        parameters={"threshold": Parameter(0.6, 0.0, 1.0)},
        defaults={"threshold": 0.95, "axis": -1},
        limit=lambda logits, weak: (
            xent.fixmatch(logits, weak, threshold=0.0),
            cross_entropy(logits, weak.argmax(-1)),
        ),
    ),
    LossCase(
        function=xent.consistency,
        family="classification",
        reference=consistency,
        inputs=two_logits,
        parameters={"target_temperature": Parameter(0.8, 0.0)},
        defaults={"target_temperature": 1.0},
        limit=lambda logits, targets: (
            xent.consistency(logits, targets),
            xent.kl_divergence(jax.nn.log_softmax(logits), softmax(targets).astype(np.float32)),
        ),
    ),
    LossCase(
        function=xent.jensen_shannon_consistency,
        family="classification",
        reference=jensen_shannon_consistency,
        inputs=three_logits,
        defaults={"axis": -1},
        limit=lambda *logits: (
            xent.jensen_shannon_consistency(*logits),
            xent.jensen_shannon_divergence(*softmax(np.stack(logits)).astype(np.float32)),
        ),
    ),
    LossCase(
        function=xent.augmix,
        family="classification",
        reference=augmix,
        inputs=logits_labels_and_views,
        parameters={"consistency_weight": Parameter(2.0, 0.0)},
        defaults={"consistency_weight": 12.0},
        limit=lambda logits, labels, *views: (
            xent.augmix(logits, labels, logits, logits),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=mixup,
        family="transform",
        reference=mixed_images,
        inputs=images_and_labels,
        pick=lambda result: result[0],
        defaults={"alpha": 1.0},
        limit=lambda images, labels: (  # the mean image stays
            mixup(images, labels)[0].mean(0),
            images.mean(0),
        ),
    ),
    LossCase(
        function=cutmix,
        family="transform",
        reference=cut_images,
        inputs=images_and_labels,
        pick=lambda result: result[0],
        defaults={"alpha": 1.0},
        limit=lambda images, labels: (cutmix(images, labels)[0].mean(0), images.mean(0)),
    ),
    LossCase(
        function=mixed_loss,
        family="transform",
        reference=mixture_of_losses,
        inputs=lambda rng, examples, classes: logits_and_labels(rng, examples, classes),
        limit=lambda logits, labels: (
            mixed_loss(logits, labels, share=1.0),
            xent.generalized_cross_entropy(logits, labels, q=0.5),
        ),
    ),
    LossCase(
        function=xent.multi_task_uncertainty,
        family="transform",
        reference=multi_task_uncertainty,
        inputs=losses_of_a_task,
        parameters={"log_variance": Parameter(0.7)},
        defaults={"regression": False},
        limit=lambda loss: (xent.multi_task_uncertainty(loss, 0.0), loss),
    ),
    LossCase(
        function=task_of_regression,
        variant=" of regression",
        family="transform",
        reference=regression_uncertainty,
        inputs=losses_of_a_task,
        parameters={"log_variance": Parameter(0.7)},
        limit=lambda loss: (task_of_regression(loss, 0.0), 0.5 * loss),
    ),
]
