"""Losses and weights for classes of which some have far fewer examples than others.

Each takes what is known of the classes: `class_counts`, their numbers of training examples, or
`class_prior`, the same divided by their sum. Those are data, known before training. With equal
counts every loss of logits here is the plain cross-entropy of its softmax or sigmoids, up to what
its docstring names; and each says what becomes of a class that has no example at all.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import sigmoid

from xent_jax.losses.binary import (
    Labels,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
)
from xent_jax.losses.contract import (
    Examples,
    classes_last,
    floating,
    masked,
    prepare,
    prepare_elements,
    scalar,
)
from xent_jax.losses.logarithms import relative_expm1, times
from xent_jax.losses.softmax import (
    complement,
    is_label,
    label_entry,
    label_log_probability,
    log_normalizer,
    smoothed_cross_entropy,
)
from xent_jax.typing import Array, Bool, Float, Int, Key, Num, Scalar


def class_balanced_weights(
    class_counts: Num[Array, " classes"], *, beta: Scalar = 0.9999
) -> Float[Array, " classes"]:
    r"""Returns weights that fall with the effective number of a class's examples.

    .. math::
      w_j \propto \frac{1 - \beta}{1 - \beta^{n_j}}, \qquad \sum_j w_j = K

    The effective number :math:`(1 - \beta^n) / (1 - \beta)` counts examples that overlap the more,
    the more of them there are. At beta = 0 all classes weigh the same, at beta = 1 as in
    `inverse_frequency_weights`. Use them as `class_weights` of
    `softmax_cross_entropy_with_integer_labels`; `class_balanced_focal_loss` has them built in.

    Args:
      class_counts: n, of shape (K,): training examples per class, at least 0.
      beta: in [0, 1]; 0.9, 0.99, 0.999 and 0.9999 in the paper, 0.9999 for long-tailed CIFAR-10.

    Returns:
      One weight per class, of mean 1, in float32 (float64 for float64 counts). A class without
      examples weighs 0, and the others' mean is 1.

    Raises:
      ValueError: counts below 0 or none above it, or beta outside [0, 1].

    The gradient goes to the counts and to beta.

    Numerics: :math:`1 - \beta^n` is :math:`-\mathrm{expm1}(n \log \beta)`, and the logarithm of a
    beta that is a Python number is taken in double precision: in float32 0.9999 has lost four
    digits of its distance from 1.

    References:
      Cui et al., `Class-Balanced Loss Based on Effective Number of Samples
      <https://arxiv.org/abs/1901.05555>`_, 2019, proposition 1 and section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.class_balanced_weights(jnp.array([5000, 500, 50]), beta=0.999))
      [0.1256 0.317  2.5574]
    """
    counts = _counts(class_counts)
    log_beta = _log_of_known(beta, counts)
    present = counts > 0
    n = jnp.where(present, counts, 1.0)
    return _mean_one(1.0 / (n * relative_expm1(n * log_beta)), present)


def _log_of_known(beta: Scalar, like: Array) -> Array:
    """Returns log beta, at least -80, which stands for beta = 0."""
    beta_here = scalar("beta", beta, like=like, at_least=0.0, at_most=1.0)
    if not isinstance(beta, Tracer):
        return jnp.asarray(np.log(max(float(beta), 1e-35)), like.dtype)
    return jnp.log(jnp.where(beta_here < 1e-35, 1e-35, beta_here))


def inverse_frequency_weights(
    class_counts: Num[Array, " classes"], *, power: Scalar = 1.0
) -> Float[Array, " classes"]:
    r"""Returns weights inversely proportional to the counts: every class weighs the same in sum.

    .. math::
      w_j \propto n_j^{-\rho}, \qquad \sum_j w_j = K

    With few examples in a class such weights are large and training noisy: a smaller power, or
    `class_balanced_weights`, tempers them.

    Args:
      class_counts: n, of shape (K,): training examples per class, at least 0.
      power: rho, at least 0, where all weights are 1; 1 for inverse frequencies, 0.5 for their
        square root.

    Returns:
      One weight per class, of mean 1, in float32 (float64 for float64 counts). A class without
      examples weighs 0, and the others' mean is 1.

    Raises:
      ValueError: counts below 0 or none above it, or power below 0.

    The gradient goes to the counts and to the power.

    References:
      Huang et al., `Learning Deep Representation for Imbalanced Classification
      <https://openaccess.thecvf.com/content_cvpr_2016/html/Huang_Learning_Deep_Representation_CVPR_2016_paper.html>`_,
      2016; Cui et al., `Class-Balanced Loss <https://arxiv.org/abs/1901.05555>`_, 2019, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.inverse_frequency_weights(jnp.array([5000, 500, 50])))
      [0.027  0.2703 2.7027]
    """
    counts = _counts(class_counts)
    power = scalar("power", power, like=counts, at_least=0.0)
    present = counts > 0
    return _mean_one(jnp.exp(-power * jnp.log(jnp.where(present, counts, 1.0))), present)


def _mean_one(weights: Array, present: Array) -> Array:
    """Returns the weights divided by their mean over the classes that have examples, else 0."""
    weights = jnp.where(present, weights, 0.0)
    return weights * (jnp.sum(present, dtype=weights.dtype) / jnp.sum(weights))


def deferred_reweighting_weights(
    class_counts: Num[Array, " classes"],
    epoch: Scalar,
    *,
    start_epoch: Scalar = 160,
    beta: Scalar = 0.9999,
) -> Float[Array, " classes"]:
    r"""Returns equal weights at first and class-balanced ones later: deferred re-weighting.

    .. math::
      w_j = \begin{cases} 1 & \text{before the start epoch} \\
      K (1 - \beta^{n_j})^{-1} / \sum_i (1 - \beta^{n_i})^{-1} & \text{from then on} \end{cases}

    Features are learnt best without weights; the classifier is then balanced at a small learning
    rate. Best with `ldam` (the paper's LDAM-DRW).

    Args:
      class_counts: n, of shape (K,): training examples per class, at least 0.
      epoch: counted from 0; a number, or a traced scalar inside `jax.jit`.
      start_epoch: the first epoch with weights; 160 of 200, at the first learning-rate decay.
      beta: in [0, 1]; see `class_balanced_weights`. 0.9999, as in the authors' code; the paper's
        algorithm has inverse frequencies, which is beta = 1.

    Returns:
      One weight per class, of mean 1, in float32 (float64 for float64 counts); 0 for a class
      without examples, as in `class_balanced_weights`.

    Raises:
      ValueError: counts below 0 or none above it, or beta outside [0, 1].

    The gradient is that of `class_balanced_weights` from the start epoch on, and 0 before.

    References:
      Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss
      <https://arxiv.org/abs/1906.07413>`_, 2019, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> counts = jnp.array([5000, 500, 50])
      >>> print(xent.deferred_reweighting_weights(counts, 159))
      [1. 1. 1.]
      >>> print(xent.deferred_reweighting_weights(counts, 160))
      [0.0341 0.2752 2.6907]
    """
    balanced = class_balanced_weights(class_counts, beta=beta)
    equal = (jnp.asarray(class_counts) > 0).astype(balanced.dtype)
    return jnp.where(jnp.asarray(epoch) >= jnp.asarray(start_epoch), balanced, equal)


def class_balanced_focal_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    beta: Scalar = 0.9999,
    gamma: Scalar = 2.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the class-balanced focal loss: one sigmoid per class, rare classes weighing more.

    .. math::
      L = -w_y \sum_k (1 - p_k^t)^\gamma \log p_k^t, \qquad
      p_k^t = \begin{cases} \sigma(z_k) & k = y \\ 1 - \sigma(z_k) & k \ne y \end{cases}, \quad
      w = \text{class-balanced weights}

    With gamma = 0 it is the class-balanced sigmoid cross-entropy, and with beta = 0 the focal loss
    summed over the classes. The class-balanced softmax cross-entropy is
    `softmax_cross_entropy_with_integer_labels` with `class_weights=class_balanced_weights(counts)`.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_counts: n, of shape (K,): training examples per class. The weight of a class without any
        is 0, and so is the loss of a label that says it.
      beta: in [0, 1]; see `class_balanced_weights`.
      gamma: at least 0; see `sigmoid_focal_loss`. 0.5, 1 and 2 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is the weight of the label's class times that of `sigmoid_focal_loss`.

    Numerics: start the biases of the last layer at :math:`-\log(K - 1)`, as the authors do: at 0
    the K - 1 negatives drown the label.

    References:
      Cui et al., `Class-Balanced Loss Based on Effective Number of Samples
      <https://arxiv.org/abs/1901.05555>`_, 2019, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss = xent.class_balanced_focal_loss(
      ...     jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), jnp.array([0, 1]),
      ...     class_counts=jnp.array([5000, 500, 50]),
      ... )
      >>> print(loss)
      [0.0119 0.5494]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    weights = class_balanced_weights(_per_class("class_counts", class_counts, z), beta=beta)
    toward_truth = jnp.where(is_label(z, y), z, -z)
    terms = sigmoid_focal_loss(toward_truth, jnp.ones_like(z), alpha=None, gamma=gamma)
    return examples.finish(times(weights[y], jnp.sum(terms, axis=-1)))


def ldam(
    cosines: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    max_margin: Scalar = 0.5,
    scale: Scalar = 30.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the label-distribution-aware margin loss: rare classes get the larger margins.

    .. math::
      L = -\log \frac{e^{s (z_y - m_y)}}{e^{s (z_y - m_y)} + \sum_{k \ne y} e^{s z_k}}, \qquad
      m_j = m \left( \frac{\min_i n_i}{n_j} \right)^{1/4}

    The margins minimise a bound of the error on balanced test data. Weight it late in training
    with `deferred_reweighting_weights`, as the paper does for its best results.

    Args:
      cosines: z, the cosine between the features and each class's weights, of shape (..., K) for
        the default axis, and not yet multiplied by the scale.
      labels: y, integers in [0, K), of the cosines' shape without the class axis.
      class_counts: n, of shape (K,): training examples per class. A class without any has the
        largest margin, and does not count in the minimum.
      max_margin: m, at least 0: the rarest class's margin; 0.5 in the paper.
      scale: s > 0; 30 in the authors' code.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the cosines' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 cosines).

    Raises:
      TypeError: cosines that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`s (p_j - 1[j = y])` with p the softmax of the shifted, scaled cosines.
    With margin 0 the loss is the cross-entropy of :math:`s z`.

    References:
      Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss
      <https://arxiv.org/abs/1906.07413>`_, 2019, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss = xent.ldam(
      ...     jnp.array([[0.6, 0.5, 0.0], [0.5, 0.6, 0.0]]), jnp.array([0, 1]),
      ...     class_counts=jnp.array([5000, 500, 50]),
      ... )
      >>> print(loss)
      [1.9046 5.4395]
    """
    examples = prepare(cosines, labels, where=where, axis=axis, name="cosines")
    z, y = examples.logits, examples.labels
    max_margin = scalar("max_margin", max_margin, like=z, at_least=0.0)
    scale = scalar("scale", scale, like=z, above=0.0)
    margins = max_margin * _rarity(_per_class("class_counts", class_counts, z)) ** 0.25
    shifted = jnp.where(is_label(z, y), z - margins[y][..., None], z)
    return examples.finish(-label_log_probability(_times_logits(scale, shifted), y))


def _rarity(counts: Array) -> Array:
    """Returns (least count) / count, and 1 where the count is 0."""
    present = jnp.where(counts > 0, counts, jnp.inf)
    least = counts[jnp.argmin(present)]
    return least / jnp.where(counts > 0, counts, least)


def _times_logits(factor: Array, logits: Array) -> Array:
    """Returns factor * logits; a class at -inf stays there, and does not move with the factor."""
    possible = ~jnp.isneginf(logits)
    return jnp.where(possible, factor * jnp.where(possible, logits, 0.0), -jnp.inf)


def logit_adjusted(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_prior: Float[Array, " classes"],
    tau: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the logit-adjusted cross-entropy, consistent for the balanced error.

    .. math::
      L = -\log \frac{\pi_y^\tau e^{z_y}}{\sum_k \pi_k^\tau e^{z_k}}

    The prior is put into the loss, so that the logits need not learn it: at tau = 1 their argmax
    tends to the class that minimises the error averaged over classes rather than over examples. At
    test time use the logits as they are. For a model that is already trained see
    `logit_adjustment_posthoc`.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_prior: pi, of shape (K,): the classes' shares of the training examples, of sum 1. A
        class of share 0 is one that cannot occur: as with a logit of -inf, it is left out of the
        sum, and as a label it gives +inf.
      tau: at least 0, where it is the cross-entropy; 1 in the paper, which also tunes it.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, tau below 0, or a prior that does not sum to 1.

    The gradient is :math:`q_j - 1[j = y]` with :math:`q = \mathrm{softmax}(z + \tau \log \pi)`.

    References:
      Menon et al., `Long-tail learning via logit adjustment <https://arxiv.org/abs/2007.07314>`_,
      2021, equation 10.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), jnp.array([0, 1])
      >>> print(xent.logit_adjusted(logits, labels, class_prior=jnp.array([0.9, 0.09, 0.01])))
      [0.0149 4.3175]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    tau = scalar("tau", tau, like=examples.logits, at_least=0.0)
    prior = _prior(class_prior, examples.logits)
    return examples.finish(_shifted_cross_entropy(examples, times(tau, _log(prior))))


def balanced_softmax(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of a softmax that is unbiased on balanced test data.

    .. math::
      L = -\log \frac{n_y e^{z_y}}{\sum_k n_k e^{z_k}}

    It is `logit_adjusted` at tau = 1, told the counts instead of the prior.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_counts: n, of shape (K,): training examples per class. A class without any is one that
        cannot occur: as with a logit of -inf, it is left out of the sum, and as a label it gives
        +inf.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or counts that are below 0 or all 0.

    The gradient is :math:`q_j - 1[j = y]` with :math:`q = \mathrm{softmax}(z + \log n)`.

    References:
      Ren et al., `Balanced Meta-Softmax for Long-Tailed Visual Recognition
      <https://arxiv.org/abs/2007.10740>`_, 2020, theorem 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), jnp.array([0, 1])
      >>> print(xent.balanced_softmax(logits, labels, class_counts=jnp.array([900, 90, 10])))
      [0.0149 4.3175]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    counts = _per_class("class_counts", class_counts, examples.logits)
    return examples.finish(_shifted_cross_entropy(examples, _log(counts)))


def _shifted_cross_entropy(examples: Examples, shift: Array) -> Array:
    """Returns the cross-entropy of z + shift, with one shift per class."""
    z = examples.logits
    return -label_log_probability(z + jnp.broadcast_to(shift, z.shape), examples.labels)


def logit_adjustment_posthoc(
    logits: Float[Array, "..."],
    *,
    class_prior: Float[Array, " classes"],
    tau: Scalar = 1.0,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Returns a trained model's logits without the prior of the classes it was trained on.

    .. math::
      z_j - \tau \log \pi_j

    The argmax of the result, in place of that of the logits, minimises the error averaged over
    classes where the model's softmax is right and tau = 1. Not for models that were trained with
    `logit_adjusted` or `balanced_softmax`: their logits have no prior in them.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      class_prior: pi, of shape (K,): the classes' shares of the training examples, of sum 1. The
        result for a class of share 0 is -inf: the model has never seen it, and dividing by its
        share would predict it always.
      tau: at least 0, where nothing changes; 1 in theory, better tuned on balanced held-out data.
      axis: the logits' axis of classes.

    Returns:
      The adjusted logits, of the logits' shape, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, tau below 0, or a prior that does not sum to 1.

    The gradient goes through to the logits unchanged.

    References:
      Menon et al., `Long-tail learning via logit adjustment <https://arxiv.org/abs/2007.07314>`_,
      2021, equation 9.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> prior = jnp.array([0.9, 0.09, 0.01])
      >>> print(xent.logit_adjustment_posthoc(jnp.array([[2.0, 0.0, -1.0]]), class_prior=prior))
      [[2.1054 2.4079 3.6052]]
    """
    z = classes_last("logits", logits, axis)
    tau = scalar("tau", tau, like=z, at_least=0.0)
    shift = jnp.broadcast_to(times(tau, _log(_prior(class_prior, z))), z.shape)
    unseen = jnp.isneginf(shift)
    adjusted = jnp.where(unseen, -jnp.inf, z - jnp.where(unseen, 0.0, shift))
    return jnp.moveaxis(adjusted, -1, axis)


def vector_scaling(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    gamma: Scalar = 0.3,
    tau: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the vector-scaling loss: logit adjustment that also scales each class's logit.

    .. math::
      L = -\log \frac{e^{\Delta_y z_y + \iota_y}}{\sum_k e^{\Delta_k z_k + \iota_k}}, \qquad
      \Delta_j = \left( \frac{n_j}{\max_i n_i} \right)^\gamma, \quad
      \iota_j = \tau \log \frac{n_j}{\sum_i n_i}

    Once the training error is 0 added terms no longer move the decision boundary, and factors do;
    at the start of training it is the other way round. At test time use the logits as they are.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_counts: n, of shape (K,): training examples per class. With tau > 0 a class without any
        is one that cannot occur, and as a label gives +inf.
      gamma: at least 0, where it is `logit_adjusted`; 0.3 in the authors' code, tuned per data set.
      tau: at least 0, where it is `class_dependent_temperature`; 1 in the authors' code, tuned.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter below 0, or counts that are below 0 or
        all 0.

    The gradient is :math:`\Delta_j (q_j - 1[j = y])` with :math:`q = \mathrm{softmax}(\Delta z +
    \iota)`.

    References:
      Kini et al., `Label-Imbalanced and Group-Sensitive Classification under Overparameterization
      <https://arxiv.org/abs/2103.01550>`_, 2021, the definition of the VS-loss.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), jnp.array([0, 1])
      >>> print(xent.vector_scaling(logits, labels, class_counts=jnp.array([900, 90, 10])))
      [0.0149 4.3175]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z = examples.logits
    gamma = scalar("gamma", gamma, like=z, at_least=0.0)
    tau = scalar("tau", tau, like=z, at_least=0.0)
    counts = _per_class("class_counts", class_counts, z)
    scaled = examples._replace(logits=_tempered(z, counts, gamma))
    return examples.finish(_shifted_cross_entropy(scaled, times(tau, _log(counts / counts.sum()))))


def class_dependent_temperature(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    gamma: Scalar = 0.3,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of logits that are divided by a temperature per class.

    .. math::
      L = -\log \frac{e^{z_y / a_y}}{\sum_k e^{z_k / a_k}}, \qquad
      a_j = \left( \frac{\max_i n_i}{n_j} \right)^\gamma

    A rare class must reach a larger logit in training, which makes up for its test examples
    falling short of its training examples. At test time use the logits as they are.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_counts: n, of shape (K,): training examples per class. A class without any has an
        infinite temperature: its logit counts as 0, and gets no gradient.
      gamma: at least 0, where it is the cross-entropy; chosen in [0, 0.4] for CIFAR-10 and [0, 0.2]
        for CIFAR-100.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, gamma below 0, or counts that are below 0 or all 0.

    The gradient is :math:`(q_j - 1[j = y]) / a_j` with :math:`q = \mathrm{softmax}(z / a)`.

    References:
      Ye et al., `Identifying and Compensating for Feature Deviation in Imbalanced Deep Learning
      <https://arxiv.org/abs/2001.01385>`_, 2020, the definition of CDT.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), jnp.array([0, 2])
      >>> counts = jnp.array([900, 90, 10])
      >>> print(xent.class_dependent_temperature(logits, labels, class_counts=counts))
      [0.2395 0.7843]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z = examples.logits
    gamma = scalar("gamma", gamma, like=z, at_least=0.0)
    counts = _per_class("class_counts", class_counts, z)
    return examples.finish(-label_log_probability(_tempered(z, counts, gamma), examples.labels))


def _tempered(logits: Array, counts: Array, gamma: Array) -> Array:
    """Returns z_j (n_j / max n)^gamma."""
    factors = jnp.exp(times(gamma, _log(counts / counts[jnp.argmax(counts)])))
    return _times_logits(jnp.broadcast_to(factors, logits.shape), logits)


def label_aware_smoothing(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    head_smoothing: Scalar = 0.3,
    tail_smoothing: Scalar = 0.0,
    shape: Literal["concave", "linear", "convex"] = "concave",
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes cross-entropy with labels that are smoothed the more, the commoner their class.

    .. math::
      L = -(1 - \varepsilon_y) \log p_y - \frac{\varepsilon_y}{K - 1} \sum_{k \ne y} \log p_k,
      \qquad \varepsilon_y = \varepsilon_t + (\varepsilon_h - \varepsilon_t)
      \sin \left( \frac{\pi}{2} r_y \right), \quad
      r_y = \frac{n_y - \min n}{\max n - \min n}

    Classifiers of long-tailed data are over-confident in the common classes. In the paper it trains
    the classifier alone, on features that are already learnt.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_counts: n, of shape (K,): training examples per class, 0 allowed. Where all are equal,
        r = 0.
      head_smoothing: the commonest class's epsilon, in [0, 1]; 0.3 for CIFAR-10, imbalance 100.
      tail_smoothing: the rarest class's epsilon, in [0, 1]; 0 for CIFAR-10, imbalance 100.
      shape: how epsilon grows with r: "concave" as above, "linear" as r itself, or "convex" as
        :math:`1 - \cos(\pi r / 2)`.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits). Classes with a logit of -inf are left out of the sum and of K.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a smoothing outside [0, 1], or an unknown shape.

    The gradient is :math:`p_j - (1 - \varepsilon_y)` at the label and :math:`p_j - \varepsilon_y /
    (K - 1)` elsewhere.

    References:
      Zhong et al., `Improving Calibration for Long-Tailed Recognition
      <https://arxiv.org/abs/2104.00466>`_, 2021, section 3, its concave, linear and convex forms.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), jnp.array([0, 2])
      >>> print(xent.label_aware_smoothing(logits, labels, class_counts=jnp.array([900, 90, 10])))
      [0.8395 0.2395]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    head = scalar("head_smoothing", head_smoothing, like=z, at_least=0.0, at_most=1.0)
    tail = scalar("tail_smoothing", tail_smoothing, like=z, at_least=0.0, at_most=1.0)
    growth = _growth(_per_class("class_counts", class_counts, z), shape)
    smoothing = tail + (head - tail) * growth
    # Over the label too, e K / (K - 1) spreads e over the others.
    possible = jnp.sum(~jnp.isneginf(z), axis=-1, dtype=z.dtype)
    several = possible > 1
    spread = jnp.where(several, possible / jnp.where(several, possible - 1.0, 1.0), 0.0)
    cross_entropy = jnp.vectorize(smoothed_cross_entropy, signature="(k),(),()->()")
    return examples.finish(cross_entropy(z, y, smoothing[y] * spread))


def _growth(counts: Array, shape: str) -> Array:
    """Returns numbers from 0 for the rarest to 1 for the commonest class."""
    shapes = {
        "concave": lambda r: jnp.sin(0.5 * np.pi * r),
        "linear": lambda r: r,
        "convex": lambda r: 1.0 - jnp.cos(0.5 * np.pi * r),
    }
    if shape not in shapes:
        raise ValueError(f"shape must be one of {', '.join(map(repr, shapes))}, got {shape!r}")
    least, most = counts[jnp.argmin(counts)], counts[jnp.argmax(counts)]
    return shapes[shape]((counts - least) / jnp.where(most == least, 1.0, most - least))


def influence_balanced(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    features: Float[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    alpha: Scalar = 1000.0,
    epsilon: Scalar = 0.001,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes cross-entropy over each example's influence on the decision boundary.

    .. math::
      L = -\frac{\alpha w_y \log p_y}{\|p - e_y\|_1 \|h\|_1 + \epsilon}, \qquad
      \|p - e_y\|_1 = 2 (1 - p_y), \quad w_j \propto 1 / n_j, \quad \sum_j w_j = K

    The denominator is the size of the last layer's gradient, by which an example bends the
    boundary: common examples on the wrong side of it have the most. For fine-tuning: the paper
    trains with plain cross-entropy for the first half of the epochs.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      features: h, the last layer's inputs, of the logits' shape with any size on that axis.
      class_counts: n, of shape (K,): training examples per class. The weight of a class without any
        is 0, and so is the loss of a label that says it.
      alpha: at least 0; 1000 in the authors' code, where weights have mean 1 as here.
      epsilon: above 0, keeps the denominator from 0; 0.001 in the authors' code.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes, and the features' of units.

    Returns:
      One value per example, at least 0, of the labels' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits or features that are not floating point, labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient goes through the denominator too, into logits and features, as in the authors'
    code: with :math:`d = 2 (1 - p_y) \|h\|_1 + \epsilon` the logits' is :math:`\frac{\alpha w_y}{d}
    \left( 1 + \frac{2 p_y \|h\|_1}{d} \log p_y \right) (p_j - 1[j = y])`.

    References:
      Park et al., `Influence-Balanced Loss for Imbalanced Visual Classification
      <https://arxiv.org/abs/2110.02444>`_, 2021, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss = xent.influence_balanced(
      ...     jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1]), jnp.full((2, 4), 0.5),
      ...     class_counts=jnp.array([900, 100]),
      ... )
      >>> print(loss)
      [  53.1289 1086.3412]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    alpha = scalar("alpha", alpha, like=z, at_least=0.0)
    epsilon = scalar("epsilon", epsilon, like=z, above=0.0)
    weights = inverse_frequency_weights(_per_class("class_counts", class_counts, z))
    norm = jnp.sum(jnp.abs(_features(features, examples, axis)), axis=-1)
    log_p = label_log_probability(z, y)
    influence = 2.0 * complement(log_p) * norm + epsilon
    return examples.finish(times(alpha * weights[y] / influence, -log_p))


def _features(features: Array, examples: Examples, axis: int) -> Array:
    """Returns features (..., D), 0 where the example is masked."""
    features = classes_last("features", features, axis).astype(examples.logits.dtype)
    if features.shape[:-1] != examples.labels.shape:
        raise ValueError(
            f"features must hold one vector for each of the labels, shape "
            f"{(*examples.labels.shape, 'D')}, got {features.shape} with the units last"
        )
    return masked(features, examples.where)


def tau_normalise(
    classifier_weights: Float[Array, "..."], *, tau: Scalar = 1.0, axis: int = -1
) -> Float[Array, "..."]:
    r"""Returns a trained classifier's weights with the classes' norms evened out.

    .. math::
      \tilde w_j = \frac{w_j}{\|w_j\|_2^\tau}

    Common classes end up with the longer weights, and win by it. The logits are then
    :math:`\tilde w_j \cdot h`, without a bias. Nothing is trained.

    Args:
      classifier_weights: w, of shape (K, D) for the default axis, one row per class.
      tau: at least 0, where nothing changes; at 1 all norms are 1. Chosen in [0, 1] on balanced
        held-out data.
      axis: the axis of the D features; 0 for the (D, K) kernel of a Flax `Linear`.

    Returns:
      The new weights, of the same shape, in float32 (float64 for float64 weights). A class whose
      weights are all 0 keeps them.

    Raises:
      TypeError: weights that are not floating point.
      ValueError: tau below 0, or no such axis.

    The gradient goes to the weights and to tau; it is :math:`1` at weights that are all 0.

    References:
      Kang et al., `Decoupling Representation and Classifier for Long-Tailed Recognition
      <https://arxiv.org/abs/1910.09217>`_, 2020, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.tau_normalise(jnp.array([[3.0, 4.0], [0.3, 0.4]]), tau=0.5))
      [[1.3416 1.7889]
      [0.4243 0.5657]]
    """
    weights = classes_last("classifier_weights", classifier_weights, axis)
    tau = scalar("tau", tau, like=weights, at_least=0.0)
    squares = jnp.sum(weights**2, axis=-1, keepdims=True)
    squares = jnp.where(squares == 0.0, 1.0, squares)  # log 0, whose gradient would be NaN
    return jnp.moveaxis(weights * jnp.exp(-0.5 * tau * jnp.log(squares)), -1, axis)


def equalization(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_prior: Float[Array, " classes"],
    threshold: Scalar = 0.005,
    gamma: Scalar = 0.9,
    key: Key[Array, ""] | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the softmax equalization loss: other classes' examples push rare classes less.

    .. math::
      L = -\log \frac{e^{z_y}}{\sum_k w_k e^{z_k}}, \qquad
      w_k = 1 - \beta_k\, 1[\pi_k < \lambda]\, 1[k \ne y], \quad \beta_k \sim
      \mathrm{Bernoulli}(\gamma)

    Each positive example is a negative one for all other classes, and a rare class gets far more
    discouragement than it can make up for. Here it is mostly spared.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      class_prior: pi, of shape (K,): the classes' shares of the training examples, of sum 1; 0
        counts as rare.
      threshold: lambda in [0, 1]: classes of a smaller share are rare; 0.005 and gamma 0.9 are the
        defaults of Zhang et al.'s comparison.
      gamma: in [0, 1]: how often a rare class is spared; at 0 it is the cross-entropy.
      key: draws beta, for every example and class. Without it beta is its mean, gamma: a loss
        without chance, with the same expected weights.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, of the labels' shape, in float32 (float64 for float64 logits);
      at least 0.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, a hyper-parameter outside [0, 1], or a prior that does not
        sum to 1.

    The gradient is :math:`q_j - 1[j = y]` with :math:`q_j = w_j e^{z_j} / \sum_k w_k e^{z_k}`; no
    gradient goes to the threshold.

    Numerics: by hand, so that a weight of exactly 0 takes a class out without a NaN, however large
    its logit.

    References:
      Tan et al., `Equalization Loss for Long-Tailed Object Recognition
      <https://arxiv.org/abs/2003.05176>`_, 2020, section 3, its softmax form. Zhang et al., `Bag of
      Tricks for Long-Tailed Visual Recognition <https://github.com/zhangyongshun/BagofTricks-LT>`_,
      2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[0.0, 0.0, 2.0], [0.0, 0.0, 2.0]]), jnp.array([0, 2])
      >>> print(xent.equalization(logits, labels, class_prior=jnp.array([0.9, 0.099, 0.001])))
      [1.0076 0.2395]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    gamma = scalar("gamma", gamma, like=z, at_least=0.0, at_most=1.0)
    rare = _rare(_prior(class_prior, z), threshold, z) & ~is_label(z, y)
    spared = gamma if key is None else jax.random.bernoulli(key, gamma, z.shape).astype(z.dtype)
    return examples.finish(_weighted_surprise(z, y, jnp.where(rare, 1.0 - spared, 1.0)))


def _rare(shares: Array, threshold: Scalar, logits: Array) -> Array:
    """Returns booleans of the logits' shape: True where the class's share is below threshold."""
    threshold = scalar("threshold", threshold, like=logits, at_least=0.0, at_most=1.0)
    return jnp.broadcast_to(shares < threshold, logits.shape)


@jax.custom_jvp
def _weighted_surprise(logits: Array, labels: Array, weights: Array) -> Array:
    """Returns log sum_k w_k exp(z_k) - z_y, for weights of which the label's is 1."""
    largest, terms = _weighted_terms(logits, weights)
    return jnp.log(jnp.sum(weights * terms, axis=-1)) + (largest - label_entry(logits, labels))


@_weighted_surprise.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # dL = sum_j (w_j e_j / E - 1[j = y]) dz_j + e_j / E dw_j,  E = sum_k w_k e_k,  e_k = exp(z_k)
    (logits, labels, weights), (logits_dot, _, weights_dot) = primals, tangents
    _, terms = _weighted_terms(logits, weights)
    shares = terms * (1.0 / jnp.sum(weights * terms, axis=-1, keepdims=True))
    slopes = jnp.where(is_label(logits, labels), weights * shares - 1.0, weights * shares)
    tangent = jnp.sum(slopes * logits_dot + shares * weights_dot, axis=-1)
    return _weighted_surprise(logits, labels, weights), tangent


def _weighted_terms(logits: Array, weights: Array) -> tuple[Array, Array]:
    """Returns the largest logit of weight above 0, and exp(z - that), finite at weight 0 too."""
    largest = jnp.max(jnp.where(weights > 0.0, logits, -jnp.inf), axis=-1)
    gaps = logits - jax.lax.stop_gradient(largest)[..., None]
    return jax.lax.stop_gradient(largest), jnp.exp(jnp.where(gaps > 80.0, 80.0, gaps))


def sigmoid_equalization(
    logits: Float[Array, "..."],
    labels: Labels,
    *,
    class_prior: Float[Array, " classes"],
    threshold: Scalar = 0.00177,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the equalization loss of detectors: rare classes are no negatives of other objects.

    .. math::
      L_k = -w_k \left( y_k \log p_k + (1 - y_k) \log (1 - p_k) \right), \qquad
      w_k = 1 - E\, 1[\pi_k < \lambda]\, (1 - y_k), \quad p = \sigma(z)

    with E = 1 where the example has a positive label, and 0 where it is background, which stays a
    negative for every class. `equalization` is its form for a softmax.

    Args:
      logits: z, floating point, of shape (..., K).
      labels: y, between 0 and 1, of the logits' shape; background has 0 everywhere.
      class_prior: pi, of shape (K,): the share of training images that show the class; 0 counts as
        rare. The shares need not sum to 1.
      threshold: lambda in [0, 1]: classes of a smaller share are rare; at 0 the loss is the binary
        cross-entropy. 0.00177 in the authors' code, which takes in LVIS's rare and common classes.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold, and their labels make no object.

    Returns:
      One value per element in nats, of the logits' shape, in float32 (float64 for float64 logits):
      at least 0, NaN where the label is outside [0, 1].

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that do not fit, or a threshold outside [0, 1].

    The gradient is :math:`w_k (p_k - y_k)`; none goes to the threshold.

    References:
      Tan et al., `Equalization Loss for Long-Tailed Object Recognition
      <https://arxiv.org/abs/2003.05176>`_, 2020, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss = xent.sigmoid_equalization(
      ...     jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([[1, 0], [0, 0]]),
      ...     class_prior=jnp.array([0.999, 0.001]),
      ... )
      >>> print(loss)
      [[0.1269 0.    ]
      [2.1269 0.6931]]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    objects = jnp.broadcast_to(jnp.any(y > 0.0, axis=-1, keepdims=True), z.shape)
    rare = _rare(_per_class("class_prior", class_prior, z), threshold, z)
    weights = jnp.where(rare & objects, y, 1.0)
    return elements.finish(times(weights, sigmoid_binary_cross_entropy(z, y)))


class EqualizationV2State(NamedTuple):
    """How much each class was pushed up and down so far, in weighted sizes of gradients."""

    positive: Float[Array, " classes"]
    negative: Float[Array, " classes"]


def init_equalization_v2_state(num_classes: int) -> EqualizationV2State:
    """Returns the state of `equalization_v2` before the first batch: no gradient of any class.

    Example:
      >>> import xent_jax as xent
      >>> print(xent.init_equalization_v2_state(3).negative)
      [0. 0. 0.]
    """
    return EqualizationV2State(jnp.zeros(num_classes), jnp.zeros(num_classes))


def equalization_v2(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    state: EqualizationV2State,
    *,
    gamma: Scalar = 12.0,
    mu: Scalar = 0.8,
    alpha: Scalar = 4.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
    axis_name: str | None = None,
) -> tuple[Float[Array, "..."], EqualizationV2State]:
    r"""Computes the equalization loss v2: sigmoids weighted until pushes up and down balance.

    .. math::
      L = q_y \log (1 + e^{-z_y}) + \sum_{k \ne y} r_k \log (1 + e^{z_k}), \qquad
      r_k = \sigma(\gamma (g_k - \mu)), \quad q_k = 1 + \alpha (1 - r_k), \quad
      g_k = \frac{\sum q_k |\nabla^+_k|}{\sum r_k |\nabla^-_k|}

    with the sums over all batches before this one. Rare classes are drowned by negatives, g near 0:
    their positives then count up to 1 + alpha times, their negatives hardly. It needs no counts.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      state: from `init_equalization_v2_state(K)`, then from the call before.
      gamma: how sharply the weights follow g, at least 0; 12 in the paper.
      mu: the ratio at which negatives weigh 1/2; 0.8 in the paper.
      alpha: at least 0; 4 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold, and do not reach the state.
      axis: the logits' axis of classes.
      axis_name: the mapped axis over which the state sums too, inside `jax.shard_map`, `jax.pmap`
        or `jax.vmap`, so that all devices keep the same one. Under plain `jax.jit` over a mesh it
        is not needed.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits); and the new state. A class whose negatives sum to 0, as all do at first,
      has r = q = 1.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`q_y (p_y - 1)` at the label and :math:`r_k p_k` elsewhere, with
    :math:`p = \sigma(z)`. None goes to the state. At test time use the logits as they are.

    References:
      Tan et al., `Equalization Loss v2: A New Gradient Balance Approach for Long-tailed Object
      Detection <https://arxiv.org/abs/2012.08548>`_, 2021, section 3; without its separate
      branch for background.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 0])
      >>> state = xent.init_equalization_v2_state(2)
      >>> loss, state = xent.equalization_v2(logits, labels, state)
      >>> print(loss)
      [0.8201 0.8201]
      >>> loss, state = xent.equalization_v2(logits, labels, state)
      >>> print(loss)
      [0.127 0.127]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, truth = examples.logits, is_label(examples.logits, examples.labels)
    gamma = scalar("gamma", gamma, like=z, at_least=0.0)
    mu, alpha = scalar("mu", mu, like=z), scalar("alpha", alpha, like=z, at_least=0.0)
    down = jnp.broadcast_to(_weights_of_negatives(state, gamma, mu, z), z.shape)
    weights = jnp.where(truth, 1.0 + alpha * (1.0 - down), down)
    toward_truth = jnp.where(truth, z, -z)
    terms = sigmoid_binary_cross_entropy(toward_truth, jnp.ones_like(z))
    sizes = masked(weights * sigmoid(-toward_truth), _counted(examples))
    new_state = EqualizationV2State(
        _accumulate(state.positive, jnp.where(truth, sizes, 0.0), axis_name),
        _accumulate(state.negative, jnp.where(truth, 0.0, sizes), axis_name),
    )
    return examples.finish(jnp.sum(times(weights, terms), axis=-1)), new_state


def _weights_of_negatives(
    state: EqualizationV2State, gamma: Array, mu: Array, logits: Array
) -> Array:
    """Returns r, which is 1 for the classes that were not pushed down yet."""
    positive = _per_class("state.positive", state.positive, logits, known=False)
    negative = _per_class("state.negative", state.negative, logits, known=False)
    begun = negative > 0.0
    ratio = jax.lax.stop_gradient(positive / jnp.where(begun, negative, 1.0))
    return jnp.where(begun, sigmoid(gamma * (ratio - mu)), 1.0)


def _accumulate(total: Array, added: Array, axis_name: str | None) -> Array:
    """Returns the total per class with what all examples, on all devices, add to it."""
    added = jnp.sum(added.reshape(-1, added.shape[-1]), axis=0)
    if axis_name is not None:
        added = jax.lax.psum(added, axis_name)
    return jax.lax.stop_gradient(total + added.astype(total.dtype))


def _counted(examples: Examples) -> Array:
    """Returns which examples count for statistics: neither masked nor with an invalid label."""
    valid = jnp.asarray(True) if examples.valid is None else examples.valid
    return valid if examples.where is None else valid & examples.where


def init_seesaw_state(num_classes: int) -> Int[Array, " classes"]:
    """Returns the state of `seesaw` before the first batch: no example of any class.

    Example:
      >>> import xent_jax as xent
      >>> print(xent.init_seesaw_state(3))
      [0 0 0]
    """
    return jnp.zeros(num_classes, jnp.int32)


def seesaw(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    state: Int[Array, " classes"],
    *,
    p: Scalar = 0.8,
    q: Scalar = 2.0,
    epsilon: Scalar = 0.01,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
    axis_name: str | None = None,
) -> tuple[Float[Array, "..."], Int[Array, " classes"]]:
    r"""Computes the seesaw loss: rare classes are pushed down less, unless they are mistaken.

    .. math::
      L = -\log \frac{e^{z_y}}{e^{z_y} + \sum_{k \ne y} M_{yk} C_{yk} e^{z_k}}, \qquad
      M_{yk} = \min \left( 1, \frac{n_k}{n_y} \right)^p, \quad
      C_{yk} = \max \left( 1, \frac{\sigma_k}{\max(\sigma_y, \epsilon)} \right)^q

    with :math:`\sigma = \mathrm{softmax}(z)` and n the counts of the examples seen so far, these
    included. The first factor spares classes rarer than the label's; the second takes that back
    where the model prefers them to the label.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      state: integers of shape (K,), how many examples of each class were seen: from
        `init_seesaw_state(K)` or, if they are known before training, the class counts; then from
        the call before. A class not seen yet counts as seen once.
      p: at least 0; 0.8 in the paper. At p = q = 0 it is the cross-entropy.
      q: at least 0; 2 in the paper.
      epsilon: in (0, 1]: the least probability to divide by; 0.01 in the authors' code, not in the
        paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold, and are not counted.
      axis: the logits' axis of classes.
      axis_name: the mapped axis over which examples are counted too, inside `jax.shard_map`,
        `jax.pmap` or `jax.vmap`, so that all devices keep the same counts. Under plain `jax.jit`
        over a mesh it is not needed.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits); and the new state.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is :math:`s_j - 1[j = y]` with s the softmax whose terms are weighted by M and C;
    as in the paper, the two factors are taken as constants, so that none goes through C.

    Numerics: the factors are added to the logits as logarithms; no power is formed.

    References:
      Wang et al., `Seesaw Loss for Long-Tailed Instance Segmentation
      <https://arxiv.org/abs/2008.10032>`_, 2021, section 3; without its separate branch for
      background.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1])
      >>> loss, state = xent.seesaw(logits, labels, jnp.array([899, 99]))
      >>> print(loss, state)
      [0.0231 6.0025] [900 100]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    new_state = _count_classes(state, examples, axis_name)
    mitigation = scalar("p", p, like=z, at_least=0.0) * _log_rarity(new_state, z, y)
    epsilon = scalar("epsilon", epsilon, like=z, above=0.0, at_most=1.0)
    compensation = scalar("q", q, like=z, at_least=0.0) * _log_excess(z, y, epsilon)
    shifts = jnp.where(is_label(z, y), 0.0, mitigation + compensation)
    return examples.finish(-label_log_probability(z + shifts, y)), new_state


def _count_classes(counts: Array, examples: Examples, axis_name: str | None) -> Array:
    """Returns the counts per class with those of all examples, on all devices, added."""
    if counts.shape != examples.logits.shape[-1:]:
        raise ValueError(
            f"state must have shape {examples.logits.shape[-1:]}, got {counts.shape}: "
            "see init_seesaw_state"
        )
    counts = jnp.asarray(counts)
    seen = _counted(examples).astype(counts.dtype).reshape(-1)
    added = jnp.zeros_like(counts).at[examples.labels.reshape(-1)].add(seen)
    return counts + (added if axis_name is None else jax.lax.psum(added, axis_name))


def _log_rarity(counts: Array, logits: Array, labels: Array) -> Array:
    """Returns log min(1, n_k / n_y), of the logits' shape."""
    log_counts = jnp.log(jnp.maximum(counts, 1).astype(logits.dtype))
    ratio = jnp.broadcast_to(log_counts, logits.shape) - log_counts[labels][..., None]
    return jnp.where(ratio < 0.0, ratio, 0.0)


def _log_excess(logits: Array, labels: Array, epsilon: Array) -> Array:
    """Returns log max(1, p_k / max(p_y, epsilon)), a constant of the logits."""
    log_p = jax.lax.stop_gradient(logits - log_normalizer(logits)[..., None])
    own, least = label_entry(log_p, labels), jnp.log(epsilon)
    ratio = log_p - jnp.where(own < least, least, own)[..., None]
    return jnp.where(ratio > 0.0, ratio, 0.0)


class GradientHarmonisingState(NamedTuple):
    """The moving average of how many gradients had each size."""

    counts: Float[Array, " bins"]  # not yet divided by `weight`
    weight: Float[Array, ""]  # 0 before the first batch, 1 in the long run


def init_gradient_harmonising_state(num_bins: int = 30) -> GradientHarmonisingState:
    """Returns the state of `gradient_harmonising` before the first batch, of so many bins.

    Example:
      >>> import xent_jax as xent
      >>> print(xent.init_gradient_harmonising_state(num_bins=3).counts)
      [0. 0. 0.]
    """
    return GradientHarmonisingState(jnp.zeros(num_bins), jnp.zeros(()))


def gradient_harmonising(
    logits: Float[Array, "..."],
    labels: Labels,
    state: GradientHarmonisingState,
    *,
    momentum: Scalar = 0.75,
    where: Bool[Array, "..."] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, "..."], GradientHarmonisingState]:
    r"""Computes the gradient harmonising loss (GHM-C): common sizes of gradients weigh less.

    .. math::
      L = \beta \left( -y \log p - (1 - y) \log (1 - p) \right), \qquad p = \sigma(z), \quad
      \beta = \frac{N}{M S_{b(g)}}, \quad g = |p - y|, \quad
      S_j \leftarrow \alpha S_j + (1 - \alpha) R_j

    with R the numbers of this batch's N elements whose gradient size g falls into each of M equal
    bins b of [0, 1]. The very easy, which are most, and the very hard, which are often wrong
    labels, are both held down; were all sizes equally common, every weight would be 1.

    Args:
      logits: z, floating point, of any shape.
      labels: y, between 0 and 1, of the logits' shape.
      state: from `init_gradient_harmonising_state()`, then from the call before.
      momentum: alpha in [0, 1), how long the average remembers; at 0 it is this batch alone. 0.75
        in the authors' code.
      where: True for the elements that count, of the logits' shape; the others give loss 0 and
        gradient 0 whatever they hold, and are not counted.
      axis_name: the mapped axis over which elements are counted too, inside `jax.shard_map`,
        `jax.pmap` or `jax.vmap`. Under plain `jax.jit` over a mesh it is not needed.

    Returns:
      One value per element, of the logits' shape, in float32 (float64 for float64 logits): at least
      0, NaN where the label is outside [0, 1]; and the new state.

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ, or a momentum outside its range.

    The gradient is :math:`\beta (p - y)`: the weight, which is constant within a bin, has none.

    Numerics: the average is over the batches seen. The authors' code starts it at 0, which makes
    the first weights up to :math:`1 / (1 - \alpha)` times as large; and it divides by the number
    of bins that are not empty, where this is the paper's equation.

    References:
      Li, Liu and Wang, `Gradient Harmonized Single-stage Detector
      <https://arxiv.org/abs/1811.05181>`_, 2019, the sections on GHM-C and unit regions.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> loss, state = xent.gradient_harmonising(
      ...     jnp.array([-4.0, -4.1, -4.2, 1.0]), jnp.array([0, 0, 0, 0]),
      ...     xent.init_gradient_harmonising_state(num_bins=4),
      ... )
      >>> print(loss)
      [0.006  0.0055 0.005  1.3133]
    """
    elements = prepare_elements(logits, labels, where=where)
    z, y = elements.logits, elements.labels
    counted = _counted(elements)
    num_bins = state.counts.shape[0]
    sizes = jnp.abs(sigmoid(jax.lax.stop_gradient(z)) - jax.lax.stop_gradient(y))
    bins = jnp.where(counted, jnp.floor(num_bins * sizes), 0.0).astype(jnp.int32)
    bins = jnp.minimum(bins, num_bins - 1)  # a size of exactly 1 belongs to the last
    now = jnp.zeros(num_bins, z.dtype).at[bins.reshape(-1)].add(counted.astype(z.dtype).reshape(-1))
    now = now if axis_name is None else jax.lax.psum(now, axis_name)
    momentum = scalar("momentum", momentum, like=z, at_least=0.0, at_most=0.9999)
    counts = momentum * state.counts.astype(z.dtype) + (1.0 - momentum) * now
    weight = momentum * state.weight.astype(z.dtype) + (1.0 - momentum)
    density = num_bins * counts / weight
    factor = jnp.sum(now) / jnp.where(counted, density[bins], 1.0)
    loss = times(factor, sigmoid_binary_cross_entropy(z, y))
    new_state = GradientHarmonisingState(
        counts.astype(state.counts.dtype), weight.astype(state.weight.dtype)
    )
    return elements.finish(loss), jax.lax.stop_gradient(new_state)


def _per_class(name: str, values: Array, logits: Array, known: bool = True) -> Array:
    """Returns one number per class in the logits' dtype, checked where it is known."""
    if jnp.shape(values) != logits.shape[-1:]:
        raise ValueError(f"{name} must have shape {logits.shape[-1:]}, got {jnp.shape(values)}")
    if known:
        _check_counts(name, values)
    return jnp.asarray(values).astype(logits.dtype)


def _counts(class_counts: Array) -> Array:
    """Returns the counts in floating point, of shape (K,)."""
    if jnp.ndim(class_counts) != 1:
        raise ValueError(f"class_counts must have shape (K,), got {jnp.shape(class_counts)}")
    _check_counts("class_counts", class_counts)
    class_counts = jnp.asarray(class_counts)
    if jnp.issubdtype(class_counts.dtype, jnp.integer):
        return class_counts.astype(jnp.float32)
    return floating("class_counts", class_counts)


def _check_counts(name: str, values: Array) -> None:
    if isinstance(values, Tracer):
        return
    numbers = np.asarray(values, np.float64)
    if not (np.all(numbers >= 0) and np.all(np.isfinite(numbers)) and np.any(numbers > 0)):
        raise ValueError(f"{name} must be at least 0 and not all 0, got {values}")


def _prior(class_prior: Array, logits: Array) -> Array:
    """Returns the classes' shares in the logits' dtype."""
    prior = _per_class("class_prior", class_prior, logits)
    if not isinstance(class_prior, Tracer):
        total = float(np.sum(np.asarray(class_prior, np.float64)))
        if abs(total - 1.0) > 1e-2:
            raise ValueError(
                f"class_prior must sum to 1, got a sum of {total:g}; divide counts by their sum"
            )
    return prior


def _log(values: Array) -> Array:
    """Returns log x, and -inf at x = 0, with slope 0 there."""
    positive = values > 0.0
    return jnp.where(positive, jnp.log(jnp.where(positive, values, 1.0)), -jnp.inf)
