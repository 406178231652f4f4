"""Losses whose target is another prediction: a teacher's, the model's own, or a mixture's.

Nothing here stops a gradient: the functions are differentiable in all their logits. What should
stay fixed while the model learns, such as a teacher or the prediction on a clean image, is passed
through `jax.lax.stop_gradient` by the caller.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import (
    Examples,
    classes_last,
    example_mask,
    floating,
    masked,
    prepare,
    scalar,
)
from xent_jax.losses.logarithms import times
from xent_jax.losses.softmax import (
    first_of_largest,
    is_label,
    label_entry,
    label_log_probability,
    log_normalizer,
    prediction_entropy,
    probabilities,
)
from xent_jax.typing import Array, Bool, Float, Int, Key, Num, Scalar


def distillation(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    teacher_logits: Float[Array, "..."],
    *,
    temperature: Scalar = 2.0,
    label_weight: Scalar = 0.5,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the distillation loss, to train a small model on the predictions of a large one.

    .. math::
      L = T^2 D(t \,\|\, s) - w \log p_y, \qquad t = \mathrm{softmax}(a / T), \quad
      s = \mathrm{softmax}(z / T), \quad p = \mathrm{softmax}(z)

    The paper's cross-entropy with the soft targets t is this divergence plus the entropy of t,
    which does not depend on the student. Without labels, see `consistency`.

    Args:
      logits: z, the student's, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      teacher_logits: a, of the logits' shape.
      temperature: T, above 0: the higher, the more the teacher's small probabilities count. The
        paper tries 1, 2, 5 and 10 for speech and finds all above 8 alike on MNIST.
      label_weight: w, at least 0; 0.5 for speech in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits): nats times T squared.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`T (s_j - t_j) + w (p_j - 1[j = y])`. As T grows, the first part becomes
    :math:`(z_j - a_j) / K` for logits of mean 0: half the squared distance of the logits.

    Numerics: each class adds :math:`t (r + e^{-r} - 1)` with :math:`r = \log (t / s)`, whose sum is
    the same divergence; where student and teacher nearly agree it keeps the digits that
    :math:`\sum t r` loses, and it is never negative.

    References:
      Hinton, Vinyals and Dean, `Distilling the Knowledge in a Neural Network
      <https://arxiv.org/abs/1503.02531>`_, 2015, sections 2 and 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, teacher = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[4.0, 2.0, 0.0]])
      >>> print(xent.distillation(logits, jnp.array([0]), teacher))
      [0.335]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, a = examples.logits, beside(examples, "teacher_logits", teacher_logits, axis)
    temperature = scalar("temperature", temperature, like=z, above=0.0)
    soft = temperature**2 * divergence(a, z, temperature, temperature)
    return examples.finish(soft + _hard(examples, label_weight))


def jensen_shannon_distillation(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    teacher_logits: Float[Array, "..."],
    *,
    beta: Scalar = 0.5,
    temperature: Scalar = 1.0,
    label_weight: Scalar = 0.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes a bounded distillation loss, for teachers whose predictions may be far off.

    .. math::
      L = T^2 \left( \beta D(t \,\|\, m) + (1 - \beta) D(s \,\|\, m) \right) - w \log p_y, \qquad
      m = \beta t + (1 - \beta) s

    with t and s the softmax of the teacher's and the student's logits over T. Towards beta = 0 it
    is beta times the divergence D(t || s) that `distillation` has, and covers all that the teacher
    thinks possible; towards beta = 1 it is 1 - beta times D(s || t), and seeks its mode.

    Args:
      logits: z, the student's, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      teacher_logits: a, of the logits' shape.
      beta: between 0 and 1; the paper uses 0.1, 0.5 and 0.9.
      temperature: T, above 0; 1 in the paper.
      label_weight: w, at least 0; 0 in the paper, which then does not use the labels.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, of the labels' shape, in float32 (float64 for float64 logits): for
      w = 0 from 0 to T^2 times the entropy of (beta, 1 - beta), T^2 log 2 by default.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient of the divergence is :math:`(1 - \beta) s_j (g_j - \sum_k s_k g_k) T` with
    :math:`g_k = \log (s_k / m_k)`, which is at most :math:`-\log (1 - \beta)`.

    References:
      Agarwal et al., `On-Policy Distillation of Language Models: Learning from Self-Generated
      Mistakes <https://arxiv.org/abs/2306.13649>`_, 2024, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, teacher = jnp.array([[99.0, 0.0, 0.0]]), jnp.array([[0.0, 99.0, 0.0]])
      >>> print(xent.jensen_shannon_distillation(logits, jnp.array([0]), teacher))
      [0.6931]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, a = examples.logits, beside(examples, "teacher_logits", teacher_logits, axis)
    temperature = scalar("temperature", temperature, like=z, above=0.0)
    beta = scalar("beta", beta, like=z, at_least=0.0, at_most=1.0)
    both = tempered(a, temperature), tempered(z, temperature)
    soft = temperature**2 * _mixture_divergence(both, (beta, 1.0 - beta))
    return examples.finish(soft + _hard(examples, label_weight))


def decoupled_distillation(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    teacher_logits: Float[Array, "..."],
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 8.0,
    temperature: Scalar = 4.0,
    label_weight: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes distillation in which what the teacher says of the other classes counts on its own.

    .. math::
      L = T^2 \left( \alpha\, D(b^t \,\|\, b^s) + \beta\, D(\hat t \,\|\, \hat s) \right)
      - w \log p_y, \qquad b^t = (t_y, 1 - t_y), \quad \hat t_k = \frac{t_k}{1 - t_y} \;(k \ne y)

    with t and s the softmax of the teacher's and the student's logits over T, and likewise
    :math:`b^s, \hat s`. `distillation` weighs the second divergence by :math:`1 - t_y`, so that a
    sure teacher teaches nothing about the other classes; here its weight is the same everywhere.

    Args:
      logits: z, the student's, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      teacher_logits: a, of the logits' shape.
      alpha: the weight of the label against the rest, at least 0; 1 in the paper.
      beta: the weight of the other classes among themselves, at least 0; 8 on CIFAR-100 for most
        pairs of models in the paper, which advises the larger the surer the teacher is.
      temperature: T, above 0; 4 on CIFAR-100 in the paper.
      label_weight: w, at least 0; 1 in the authors' code.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient for j = y is :math:`\alpha T (s_y - t_y) + w (p_y - 1)`; for another class it is
    :math:`\alpha T (t_y - s_y) \hat s_j + \beta T (\hat s_j - \hat t_j) + w p_j`.

    Numerics: :math:`1 - t_y` is the normalizer of the other logits, so that a sure teacher loses no
    digits. The factor T^2 is that of the authors' code; they also raise the loss over the first 20
    epochs, which a schedule does.

    References:
      Zhao et al., `Decoupled Knowledge Distillation <https://arxiv.org/abs/2203.08679>`_, 2022,
      equations 6 and 7.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, teacher = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[4.0, 2.0, 0.0]])
      >>> print(xent.decoupled_distillation(logits, jnp.array([0]), teacher))
      [4.2138]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y, a = (
        examples.logits,
        examples.labels,
        beside(examples, "teacher_logits", teacher_logits, axis),
    )
    temperature = scalar("temperature", temperature, like=z, above=0.0)
    alpha = scalar("alpha", alpha, like=z, at_least=0.0)
    beta = scalar("beta", beta, like=z, at_least=0.0)
    of_label, of_others = _decoupled(a, z, y, temperature)
    soft = temperature**2 * (alpha * of_label + beta * of_others)
    return examples.finish(soft + _hard(examples, label_weight))


def _decoupled(
    teacher: Array, student: Array, labels: Array, temperature: Array
) -> tuple[Array, Array]:
    """Returns the divergences of label against rest, and of the other classes among themselves."""
    label = is_label(teacher, labels)
    # Where no other class can occur there is nothing to say of them, and no softmax without one.
    some = ~jnp.isneginf(jnp.max(jnp.where(label, -jnp.inf, teacher), axis=-1))
    instead = jnp.where(some, -jnp.inf, 0.0).astype(teacher.dtype)[..., None]
    pairs, rest = [], []
    for z in (teacher, student):
        others = jnp.where(label, instead, z)
        total = jnp.where(some, _tempered_log_normalizer(others, temperature), -jnp.inf)
        pairs.append(jnp.stack([tempered(_at_label(z, labels), temperature), total], axis=-1))
        rest.append(others)
    one = jnp.ones_like(temperature)
    of_others = jnp.where(some, divergence(*rest, temperature, temperature), 0.0)
    return divergence(*pairs, one, one), of_others


@jax.custom_jvp
def _at_label(logits: Array, labels: Array) -> Array:
    """Returns the label's logit."""
    return label_entry(logits, labels)


@_at_label.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # A sum that fuses, where the derivative of picking scatters into an array of zeros.
    dots = jnp.where(is_label(*primals), tangents[0], 0.0)
    return _at_label(*primals), jnp.sum(dots, axis=-1)


def _hard(examples: Examples, weight: Scalar) -> Array:
    """Returns the weighted cross-entropy with the labels, 0 at weight 0 even if it is infinite."""
    if isinstance(weight, (int, float)) and weight == 0:  # a third of the time is not spent
        return jnp.zeros_like(examples.logits[..., 0])
    weight = scalar("label_weight", weight, like=examples.logits, at_least=0.0)
    return times(weight, _surprise(examples.logits, examples.labels))


@jax.custom_jvp
def _surprise(logits: Array, labels: Array) -> Array:
    """Returns -log p_y."""
    return -label_log_probability(logits, labels)


@_surprise.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d(-log p_y) = sum_j (p_j - 1[j = y]) dz_j. XLA on CPUs keeps the exponentials of a sum for the
    # slopes, here beside those of teacher and student; it does not recognise them behind a barrier.
    (logits, labels), (logits_dot, _) = primals, tangents
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
    p = jnp.exp(logits - jax.lax.optimization_barrier(largest)) * (1.0 / total)
    slopes = jnp.where(is_label(logits, labels), p - 1.0, p)
    return _surprise(logits, labels), jnp.sum(slopes * logits_dot, axis=-1)


def entropy_minimisation(
    logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the prediction's entropy, to push decisions away from unlabelled examples.

    .. math::
      L = -\sum_k p_k \log p_k, \qquad p = \mathrm{softmax}(z)

    Added with a small weight to the cross-entropy of the labelled examples.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, between 0 and log K, of the logits' shape without the class
      axis, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: a mask whose shape does not fit.

    The gradient is :math:`-p_j (\log p_j + L)`: the likelier class grows, and it vanishes both at
    sure and at even predictions.

    References:
      Grandvalet and Bengio, `Semi-supervised Learning by Entropy Minimization
      <https://proceedings.neurips.cc/paper/2004/hash/96f2b50b5d3613adf9c27049b2a888c7-Abstract.html>`_,
      2004, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.entropy_minimisation(jnp.array([[0.0, 0.0], [2.0, 0.0], [-jnp.inf, 0.0]])))
      [0.6931 0.3653 0.    ]
    """
    z, where = unlabelled(logits, where, axis)
    return masked(prediction_entropy(z), where)


def pseudo_label(
    logits: Float[Array, "..."],
    *,
    threshold: Scalar = 0.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy with the model's own best guess, for unlabelled examples.

    .. math::
      L = -1[\max_k p_k \ge \tau] \, \log \max_k p_k, \qquad p = \mathrm{softmax}(z)

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      threshold: tau in [0, 1]; examples whose guess is less sure give 0. The paper takes all.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, between 0 and log K, of the logits' shape without the class
      axis, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: a mask whose shape does not fit, or a threshold outside [0, 1].

    The gradient is :math:`p_j - 1[j = \arg\max_k p_k]` where the threshold is reached.

    References:
      Lee, `Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
      Networks <https://www.kaggle.com/blobs/download/forum-message-attachment-files/746/>`_, 2013,
      section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.pseudo_label(jnp.array([[4.0, 0.0], [0.5, 0.0]]), threshold=0.9))
      [0.0181 0.    ]
    """
    return fixmatch(logits, logits, threshold=threshold, where=where, axis=axis)


def fixmatch(
    logits: Float[Array, "..."],
    weak_logits: Float[Array, "..."],
    *,
    threshold: Scalar = 0.95,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of a strongly changed image with the sure guess on a weak change.

    .. math::
      L = -1[\max_k q_k \ge \tau] \, \log p_{\hat y}, \qquad \hat y = \arg\max_k q_k, \quad
      p = \mathrm{softmax}(z), \quad q = \mathrm{softmax}(u)

    The paper averages it over all unlabelled examples, the unsure ones included.

    Args:
      logits: z, of the strongly augmented images, floating point, of shape (..., K) for the default
        axis.
      weak_logits: u, of the same images weakly augmented, of the logits' shape. They get no
        gradient.
      threshold: tau in [0, 1]; 0.95 in the paper.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the logits' shape without the class axis, in
      float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, or a threshold outside [0, 1].

    The gradient is :math:`p_j - 1[j = \hat y]` for the examples whose guess is sure.

    References:
      Sohn et al., `FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence
      <https://arxiv.org/abs/2001.07685>`_, 2020, equation 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, weak = jnp.zeros((2, 2)), jnp.array([[4.0, 0.0], [2.0, 0.0]])
      >>> print(xent.fixmatch(logits, weak))
      [0.6931 0.    ]
    """
    z, where = unlabelled(logits, where, axis)
    guess = jax.lax.stop_gradient(_further("weak_logits", weak_logits, z, where, axis))
    threshold = scalar("threshold", threshold, like=z, at_least=0.0, at_most=1.0)
    label, confidence = _best(guess)
    # NaN is no doubt: it must not pass for an example to be left out.
    examples = Examples(z, label, ~jnp.isnan(confidence), where)
    surprise = -label_log_probability(z, label)
    return examples.finish(jnp.where(confidence < threshold, 0.0, surprise))


def _best(logits: Array) -> tuple[Array, Array]:
    """Returns the likeliest class, the first of several, and its probability."""
    largest = jnp.max(logits, axis=-1, keepdims=True)
    return first_of_largest(logits), 1.0 / jnp.sum(jnp.exp(logits - largest), axis=-1)


def consistency(
    logits: Float[Array, "..."],
    target_logits: Float[Array, "..."],
    *,
    target_temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes how far a prediction is from another that it should agree with; needs no labels.

    .. math::
      L = D(q \,\|\, p) = \sum_k q_k \log \frac{q_k}{p_k}, \qquad p = \mathrm{softmax}(z), \quad
      q = \mathrm{softmax}(u / T)

    For the prediction on an augmented, perturbed or dropped-out input against the one on the clean
    input. The papers hold the target fixed: pass `jax.lax.stop_gradient(target_logits)`.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      target_logits: u, of the logits' shape.
      target_temperature: T, above 0: below 1 it sharpens the target, as 0.4 does in the paper's
        experiments with sharpening.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the logits' shape without the class axis, in
      float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, or a temperature that is not above 0.

    The gradient is :math:`p_j - q_j` with respect to z, and :math:`q_j (\log (q_j / p_j) - L) / T`
    with respect to u.

    Numerics: as in `distillation`, nearly equal predictions keep their digits.

    References:
      Xie et al., `Unsupervised Data Augmentation for Consistency Training
      <https://arxiv.org/abs/1904.12848>`_, 2020, section 2; Miyato et al., `Virtual Adversarial
      Training <https://arxiv.org/abs/1704.03976>`_, 2018, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.consistency(jnp.array([[0.0, 0.0]]), jnp.array([[2.0, 0.0]])))
      [0.3278]
    """
    z, where = unlabelled(logits, where, axis)
    target = _further("target_logits", target_logits, z, where, axis)
    temperature = scalar("target_temperature", target_temperature, like=z, above=0.0)
    return masked(divergence(target, z, temperature, jnp.ones_like(temperature)), where)


def jensen_shannon_consistency(
    *logits: Float[Array, "..."],
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes how far predictions on several views of an image are from one another.

    .. math::
      L = \frac{1}{n} \sum_{i=1}^n D(p_i \,\|\, m), \qquad m = \frac{1}{n} \sum_{i=1}^n p_i, \quad
      p_i = \mathrm{softmax}(z_i)

    Args:
      *logits: z_1 ... z_n, at least two arrays of one shape (..., K) for the default axis.
      where: True for the examples that count, of the logits' shape without the class axis; the
        others give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, from 0 to log n, of the logits' shape without the class axis,
      in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: fewer than two arrays, or shapes that do not fit.

    The gradient with respect to z_i is :math:`p_{ij} (g_{ij} - \sum_k p_{ik} g_{ik}) / n` with
    :math:`g_{ik} = \log (p_{ik} / m_k)`.

    References:
      Hendrycks et al., `AugMix: A Simple Data Processing Method to Improve Robustness and
      Uncertainty <https://arxiv.org/abs/1912.02781>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> views = jnp.array([[9.0, 0.0]]), jnp.array([[9.0, 0.0]]), jnp.array([[0.0, 9.0]])
      >>> print(xent.jensen_shannon_consistency(*views))
      [0.6353]
    """
    if len(logits) < 2:
        raise ValueError(f"logits must be those of at least two views, got {len(logits)}")
    first, where = unlabelled(logits[0], where, axis)
    return masked(_views_apart(first, logits[1:], where, axis), where)


def augmix(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *augmented_logits: Float[Array, "..."],
    consistency_weight: Scalar = 12.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of the clean image plus its consistency with augmented views.

    .. math::
      L = -\log p_y + \lambda\, \mathrm{JS}(p; p_1; \dots; p_n)

    Args:
      logits: z, of the clean images, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      *augmented_logits: of the augmented images, at least one array of the logits' shape; two in
        the paper.
      consistency_weight: lambda, at least 0; 12 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: no augmented logits, shapes that do not fit, or a weight below 0.

    The gradient is :math:`p_j - 1[j = y]` for the clean logits, plus lambda times that of
    `jensen_shannon_consistency` for all.

    References:
      Hendrycks et al., `AugMix: A Simple Data Processing Method to Improve Robustness and
      Uncertainty <https://arxiv.org/abs/1912.02781>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, view = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0]])
      >>> print(xent.augmix(logits, jnp.array([0]), view, logits))
      [0.3292]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    weight = scalar("consistency_weight", consistency_weight, like=examples.logits, at_least=0.0)
    surprise = -label_log_probability(examples.logits, examples.labels)
    apart = _views_apart(examples.logits, augmented_logits, examples.where, axis)
    return examples.finish(surprise + weight * apart)


def _views_apart(first: Array, others: tuple[Array, ...], where: Array | None, axis: int) -> Array:
    """Returns the Jensen-Shannon divergence of prepared logits and of others, not yet prepared."""
    if not others:
        raise ValueError("needs the logits of at least two views of each example, got one")
    name = "logits of every view"
    views = (first, *(_further(name, z, first, where, axis) for z in others))
    share = jnp.asarray(1.0 / len(views), first.dtype)
    return _mixture_divergence(views, (share,) * len(views))


class MixedLabels(NamedTuple):
    """The labels of mixed images: `share` of `labels`, and the rest of `other_labels`."""

    labels: Array  # (B, ...), integers or distributions
    other_labels: Array  # of the same shape
    share: Array  # lambda, one number for the batch


def mixup(
    key: Key[Array, ""],
    images: Num[Array, "..."],
    labels: Num[Array, "..."],
    *,
    alpha: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> tuple[Float[Array, "..."], MixedLabels]:
    r"""Returns images blended pair by pair, and the labels of both, to train on what lies between.

    .. math::
      \tilde x_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \qquad
      \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    with one lambda and one random pairing pi for the batch. `mixed_loss` applies any loss to the
    result.

    Args:
      key: of `jax.random`, used once.
      images: x, of shape (B, ...): any numbers that may be averaged, features too.
      labels: of shape (B, ...): classes or distributions.
      alpha: above 0: 1 for CIFAR, 0.2 for ImageNet in the paper; the smaller, the less is mixed.
      where: True for the examples that count, (B,): they are mixed among themselves, and padding is
        left alone.

    Returns:
      The mixed images, in float32 (float64 for float64 images), and `MixedLabels`.

    Raises:
      ValueError: labels or a mask that are not as many as the images, or alpha that is not above 0.

    The gradient with respect to the images is lambda and 1 - lambda in the places of each.

    References:
      Zhang et al., `mixup: Beyond Empirical Risk Minimization
      <https://arxiv.org/abs/1710.09412>`_, 2018, section 2.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> images, labels = jnp.array([[0.0], [10.0], [20.0]]), jnp.array([0, 1, 2])
      >>> mixed, target = xent.mixup(jax.random.key(1), images, labels)
      >>> other = images[target.other_labels]
      >>> print(jnp.allclose(mixed, target.share * images + (1 - target.share) * other))
      True
    """
    images, labels, partners, share = _paired(key, images, labels, alpha, where)
    mixed = share * images + (1.0 - share) * images[partners]
    return mixed, MixedLabels(labels, labels[partners], share)


def cutmix(
    key: Key[Array, ""],
    images: Num[Array, "..."],
    labels: Num[Array, "..."],
    *,
    alpha: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> tuple[Float[Array, "..."], MixedLabels]:
    r"""Returns images with a rectangle pasted from another, and the labels of both.

    .. math::
      \tilde x_i = M \odot x_i + (1 - M) \odot x_{\pi(i)}, \qquad
      \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    The rectangle, the same for the batch, is :math:`\sqrt{1 - \lambda}` of the height and of the
    width, around a point drawn evenly. What of it lies outside the image is cut off, and the share
    of the labels is what is left to see of each image, as in the authors' code.

    Args:
      key: of `jax.random`, used once.
      images: x, of shape (B, height, width, ...).
      labels: of shape (B, ...): classes or distributions.
      alpha: above 0; 1 in the paper.
      where: True for the examples that count, (B,): they are mixed among themselves, and padding is
        left alone.

    Returns:
      The mixed images, in float32 (float64 for float64 images), and `MixedLabels`, whose share is
      the mean of M. `mixed_loss` applies any loss to them.

    Raises:
      ValueError: images without height and width, labels or a mask that are not as many as the
        images, or alpha that is not above 0.

    The gradient with respect to an image is 1 where it is seen.

    References:
      Yun et al., `CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
      Features <https://arxiv.org/abs/1905.04899>`_, 2019, equations 1 and 2.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> images, labels = jnp.arange(2.0).reshape(2, 1, 1) * jnp.ones((1, 4, 4)), jnp.arange(2)
      >>> mixed, target = xent.cutmix(jax.random.key(1), images, labels)
      >>> print(mixed[0], target.share)
      [[1. 1. 0. 0.]
       [1. 1. 0. 0.]
       [0. 0. 0. 0.]
       [0. 0. 0. 0.]] 0.75
    """
    if jnp.ndim(images) < 3:
        raise ValueError(f"images must have shape (B, height, width, ...), got {jnp.shape(images)}")
    beta_key, box_key = jax.random.split(key)
    images, labels, partners, share = _paired(beta_key, images, labels, alpha, where)
    own = ~_box(box_key, images.shape[1:3], share)
    mask = own.reshape(1, *own.shape, *[1] * (images.ndim - 3))
    mixed = jnp.where(jnp.broadcast_to(mask, images.shape), images, images[partners])
    return mixed, MixedLabels(labels, labels[partners], jnp.mean(own, dtype=images.dtype))


def _box(key: Array, shape: tuple[int, ...], share: Array) -> Array:
    """Returns True inside a box of `1 - share` of the area around a random point."""

    def inside(key: Array, size: int) -> Array:
        center = size * jax.random.uniform(key, dtype=jnp.float32)
        half = 0.5 * size * jnp.sqrt(1.0 - share.astype(jnp.float32))
        return jnp.abs(jnp.arange(size, dtype=jnp.float32) + 0.5 - center) < half

    rows, columns = map(inside, jax.random.split(key), shape)
    return rows[:, None] & columns[None, :]


def _paired(
    key: Array, images: Array, labels: Array, alpha: Scalar, where: Array | None
) -> tuple[Array, Array, Array, Array]:
    """Returns checked images and labels, the partner of each, and lambda."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        images = images.astype(jnp.float32)
    images = floating("images", images)
    size = images.shape[:1]
    if labels.shape[:1] != size:
        raise ValueError(f"labels must be as many as the images, {size[0]}, got {labels.shape}")
    where = example_mask(where, images.reshape(*size, -1), "it masks images")
    alpha = scalar("alpha", alpha, like=jnp.zeros((), jnp.float32), above=0.0)
    share_key, pair_key = jax.random.split(key)
    # Drawn in float32 whatever the images are, so that a key means the same mixture.
    share = jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32).astype(images.dtype)
    return images, labels, _partners(pair_key, size[0], where), share


def _partners(key: Array, size: int, where: Array | None) -> Array:
    """Returns a random permutation of the examples that count; the others are left in place."""
    if where is None:
        return jax.random.permutation(key, size)
    counted = jnp.argsort(~where, stable=True)
    order = jnp.where(where, jax.random.uniform(key, (size,), jnp.float32), 2.0)
    return jnp.zeros(size, counted.dtype).at[counted].set(jnp.argsort(order, stable=True))


def mixed_loss(
    loss: Callable[..., Array],
    logits: Float[Array, "..."],
    mixed: MixedLabels,
    **keywords: Any,
) -> Float[Array, "..."]:
    r"""Computes any loss of images that were mixed: each label's part by its share.

    .. math::
      \tilde L(z) = \lambda L(z, y) + (1 - \lambda) L(z, y')

    For the cross-entropy this is the loss of the mixed label; for any other it is the definition.

    Args:
      loss: any per-example loss of (logits, labels).
      logits: z, of the mixed images.
      mixed: what `mixup` or `cutmix` returned.
      **keywords: passed to the loss, such as `where`.

    Returns:
      What the loss returns.

    The gradient is the same mixture of the loss's gradients.

    References:
      Zhang et al., `mixup: Beyond Empirical Risk Minimization
      <https://arxiv.org/abs/1710.09412>`_, 2018, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> from xent_jax.losses.transfer import MixedLabels
      >>> mixed = MixedLabels(jnp.array([0]), jnp.array([1]), jnp.float32(0.75))
      >>> print(xent.mixed_loss(xent.mean_absolute_error, jnp.array([[2.0, 0.0]]), mixed))
      [0.6192]
    """
    first, second = (
        loss(logits, mixed.labels, **keywords),
        loss(logits, mixed.other_labels, **keywords),
    )
    share = jnp.asarray(mixed.share).astype(first.dtype)
    return times(share, first) + times(1.0 - share, second)


def multi_task_uncertainty(
    loss: Float[Array, "..."],
    log_variance: Scalar,
    *,
    regression: bool = False,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes a task's loss weighed by its learnt uncertainty, to be summed over several tasks.

    .. math::
      \tilde L = e^{-s} L + \tfrac12 s \quad \text{(classification)}, \qquad
      \tilde L = \tfrac12 e^{-s} L + \tfrac12 s \quad \text{(regression)}, \qquad s = \log \sigma^2

    One s per task is trained along with the model, in place of weights tuned by hand. It is best at
    :math:`\sigma^2 = 2 L` for classification, and at :math:`\sigma^2 = L` for regression.

    Args:
      loss: L, the task's, of any shape: a cross-entropy, or for regression a squared error.
      log_variance: s, a scalar; start at 0.
      regression: whether L is a squared error, the logarithm of a Gaussian, and no cross-entropy.
      where: True for the elements that count, of the loss's shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per element, of the loss's shape, in float32 (float64 for a float64 loss); it may be
      negative.

    Raises:
      TypeError: a loss that is not floating point.
      ValueError: a mask of another shape, or a log-variance that is no finite scalar.

    The gradient is :math:`e^{-s}` (half of it for regression) with respect to L, and
    :math:`\tfrac12 - e^{-s} L` (half of the second term) with respect to s.

    References:
      Kendall, Gal and Cipolla, `Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
      Geometry and Semantics <https://arxiv.org/abs/1705.07115>`_, 2018, equations 7 and 10.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.multi_task_uncertainty(jnp.array([0.5, 2.0]), 0.0, regression=True))
      [0.25 1.  ]
    """
    loss = floating("loss", loss)
    where = example_mask(where, loss[..., None], "it masks elements")
    s = scalar("log_variance", log_variance, like=loss)
    scale = 0.5 if regression else 1.0
    return masked(scale * jnp.exp(-s) * masked(loss, where) + 0.5 * s, where)


def unlabelled(logits: Array, where: Array | None, axis: int) -> tuple[Array, Array | None]:
    """Returns checked logits with the classes last, 0 where masked, and the mask."""
    logits = classes_last("logits", logits, axis)
    where = example_mask(where, logits)
    return masked(logits, where), where


def beside(examples: Examples, name: str, logits: Array, axis: int) -> Array:
    """Returns further logits of the same examples, prepared alike."""
    return _further(name, logits, examples.logits, examples.where, axis)


def _further(name: str, logits: Array, like: Array, where: Array | None, axis: int) -> Array:
    logits = classes_last(name, logits, axis).astype(like.dtype)
    if logits.shape != like.shape:
        raise ValueError(
            f"{name} must have the logits' shape, {like.shape} with the classes last, "
            f"got {logits.shape}"
        )
    return masked(logits, where)


@jax.custom_jvp
def tempered(logits: Array, temperature: Array) -> Array:
    """Returns z / T, as a product: XLA repeats one where it is needed, but stores a quotient."""
    return logits * (1.0 / temperature)


@tempered.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d(z / T) = dz / T - z / T^2 dT, whose last part is taken as 0 for a logit of -inf, which stays
    # what it is at any temperature.
    (logits, temperature), (logits_dot, temperature_dot) = primals, tangents
    finite = jnp.where(jnp.isneginf(logits), 0.0, logits)
    tangent = logits_dot * (1.0 / temperature) - finite * (temperature_dot / temperature**2)
    return tempered(logits, temperature), tangent


@jax.custom_jvp
def divergence(
    targets: Array, logits: Array, target_temperature: Array, temperature: Array
) -> Array:
    """Returns D(t || s) for t, s the softmax of `targets` and of `logits` over temperatures."""
    t, s, ratio = _compared(targets, logits, target_temperature, temperature)
    return jnp.sum(_relative_entropy_terms(t, s, ratio), axis=-1)


@divergence.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # dD = sum_j (s_j - t_j) dz_j + sum_j t_j (log(t_j / s_j) - D) da_j, with z and a tempered.
    # By hand: autodiff keeps three arrays of the logits' size, and gives NaN at a logit of -inf.
    (a, z, target_temperature, temperature), dots = primals, tangents
    value, (t, s, ratio) = divergence(*primals), _compared(*primals)
    _, a_dot = jax.jvp(tempered, (a, target_temperature), (dots[0], dots[2]))
    _, z_dot = jax.jvp(tempered, (z, temperature), (dots[1], dots[3]))
    finite = jnp.where(jnp.isinf(value), 0.0, value)[..., None]
    excess = t * (jnp.where(jnp.isinf(ratio), 0.0, ratio) - finite)
    return value, jnp.sum((s - t) * z_dot + excess * a_dot, axis=-1)


def _compared(
    targets: Array, logits: Array, target_temperature: Array, temperature: Array
) -> tuple[Array, Array, Array]:
    """Returns t, s and log(t / s): -inf, or +inf, where only t, or only s, is impossible."""
    t, of_targets = _tempered_softmax(targets, target_temperature)
    s, of_logits = _tempered_softmax(logits, temperature)
    equal = jnp.isneginf(targets) & jnp.isneginf(logits)
    gaps = tempered(targets, target_temperature) - tempered(logits, temperature)
    return t, s, jnp.where(equal, 0.0, gaps) - (of_targets - of_logits)[..., None]


def _tempered_softmax(logits: Array, temperature: Array) -> tuple[Array, Array]:
    """Returns softmax(z / T), and log sum_k exp(z_k / T)."""
    # The largest logit is found before the division, for which XLA on CPUs stores the quotients.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    weights = jnp.exp(tempered(logits - largest[..., None], temperature))
    total = jnp.sum(weights, axis=-1)
    return weights * (1.0 / total)[..., None], tempered(largest, temperature) + jnp.log(total)


@jax.custom_jvp
def _tempered_log_normalizer(logits: Array, temperature: Array) -> Array:
    """Returns log sum_k exp(z_k / T)."""
    return _tempered_softmax(logits, temperature)[1]


@_tempered_log_normalizer.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d log sum_k exp(z_k / T) = sum_j p_j d(z_j / T), p = softmax(z / T)
    p, total = _tempered_softmax(*primals)
    return total, jnp.sum(p * jax.jvp(tempered, primals, tangents)[1], axis=-1)


def _relative_entropy_terms(p: Array, q: Array, ratio: Array) -> Array:
    """Returns p r - p + q with r = log(p / q), which sums to D(p || q).

    Where p and q are close, the terms p r cancel one another down to squares of r, and so the
    rounding of r shows; these terms are squares to begin with.
    """
    near = jnp.abs(ratio) < 0.25
    small = jnp.where(near, ratio, 0.0)
    return jnp.where(near, p * small**2 * _series(small), q - p + times(p, ratio))


def _series(x: Array) -> Array:
    """Returns (exp(-x) - 1 + x) / x^2 for |x| < 0.25, by nested multiplication."""
    result = jnp.ones_like(x)
    last = 8 if x.dtype.itemsize <= 4 else 13  # the first term left out is below 1e-18, or 1e-10
    for n in range(last, 2, -1):
        result = 1.0 - x / n * result
    return 0.5 * result


@jax.custom_jvp
def _mixture_divergence(logits: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    """Returns sum_i w_i D(p_i || m) with m = sum_i w_i p_i."""
    return _to_mixture(logits, weights)[0]


@_mixture_divergence.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # dJ = sum_i w_i sum_j p_ij (g_ij - D_i) dz_ij + sum_i (D_i - 1) dw_i, g_ij = log(p_ij / m_j)
    (logits, weights), (logits_dot, weights_dot) = primals, tangents
    value, mixed = _to_mixture(logits, weights)
    tangent = jnp.zeros_like(value)
    for (p, ratio, each), w, z_dot, w_dot in zip(
        mixed, weights, logits_dot, weights_dot, strict=True
    ):
        excess = p * (jnp.where(jnp.isinf(ratio), 0.0, ratio) - each[..., None])
        tangent += w * jnp.sum(excess * z_dot, axis=-1) + w_dot * (each - 1.0)
    return value, tangent


def _to_mixture(
    logits: tuple[Array, ...], weights: tuple[Array, ...]
) -> tuple[Array, list[tuple[Array, Array, Array]]]:
    """Returns the divergence, and of each distribution p_i, log(p_i / m) and D(p_i || m)."""
    ps = [probabilities(z) for z in logits]
    mixture = sum((w * p for w, p in zip(weights, ps, strict=True)), jnp.zeros_like(ps[0]))
    # A class without mass in the mixture has none in any p_i that counts.
    log_mixture = jnp.log(jnp.where(mixture == 0.0, 1.0, mixture))
    value, mixed = jnp.zeros_like(ps[0][..., 0]), []
    for z, p, w in zip(logits, ps, weights, strict=True):
        log_p = z - log_normalizer(z)[..., None]
        ratio = jnp.where(mixture == 0.0, 0.0, log_p - log_mixture)
        each = jnp.sum(_relative_entropy_terms(p, mixture, ratio), axis=-1)
        value += times(w * jnp.ones_like(each), each)
        mixed.append((p, ratio, each))
    return value, mixed
