"""Losses and weights for classes of which some have far fewer examples than others.

Each takes what is known of the classes before training: `class_counts`, their numbers of training
examples, or `class_prior`, the same divided by their sum. With equal counts each loss is what it is
without them, and each says what becomes of a class that has no example at all. Losses that find
out for themselves which classes are pushed aside stand in `gradient_balancing.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from xent_jax.losses.binary import sigmoid_focal_loss
from xent_jax.losses.class_statistics import (
    below_largest,
    floating_counts,
    log_or_minus_infinity,
    per_class,
    prior_of,
)
from xent_jax.losses.contract import Examples, classes_last, masked, prepare, scalar
from xent_jax.losses.fusion import written
from xent_jax.losses.logarithms import relative_expm1, times
from xent_jax.losses.metric import prepare_cosines
from xent_jax.losses.softmax import (
    complement,
    is_label,
    label_log_probability,
    scaled,
    smoothed_cross_entropy,
)
from xent_jax.typing import Array, Bool, Float, Int, Num, Scalar


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
    beta that is a Python number is taken in double precision: float32 keeps only four digits of
    the distance of 0.9999 from 1, and so the weights for a traced beta.

    References:
      Cui et al., `Class-Balanced Loss Based on Effective Number of Samples
      <https://arxiv.org/abs/1901.05555>`_, 2019, proposition 1 and section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.class_balanced_weights(jnp.array([5000, 500, 50]), beta=0.999))
      [0.1256 0.317  2.5574]
    """
    counts = floating_counts(class_counts)
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
    counts = floating_counts(class_counts)
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
    weights = class_balanced_weights(per_class("class_counts", class_counts, z), beta=beta)
    toward_truth = jnp.where(is_label(z, y), z, -z)
    terms = sigmoid_focal_loss(toward_truth, jnp.ones_like(z), alpha=None, gamma=gamma)
    return examples.finish(times(weights[y], jnp.sum(written(terms), axis=-1)))


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
      cosines: z, in [-1, 1], of shape (..., K) for the default axis, not yet multiplied by the
        scale; see `cosine_similarities`.
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
      ValueError: shapes that do not fit, a hyper-parameter outside its range, cosines known to
        leave [-1, 1].

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
    examples, scale = prepare_cosines(cosines, labels, scale, where, axis)
    z, y = examples.logits, examples.labels
    max_margin = scalar("max_margin", max_margin, like=z, at_least=0.0)
    margins = max_margin * _rarity(per_class("class_counts", class_counts, z)) ** 0.25
    below = below_largest(z)
    shifted = jnp.where(is_label(z, y), below - margins[y][..., None], below)
    return examples.finish(-label_log_probability(scaled(scale, shifted), y))


def _rarity(counts: Array) -> Array:
    """Returns (least count) / count, and 1 where the count is 0."""
    present = jnp.where(counts > 0, counts, jnp.inf)
    least = counts[jnp.argmin(present)]
    return least / jnp.where(counts > 0, counts, least)


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
    prior = prior_of(class_prior, examples.logits)
    return examples.finish(
        _shifted_cross_entropy(examples, times(tau, log_or_minus_infinity(prior)))
    )


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
    counts = per_class("class_counts", class_counts, examples.logits)
    return examples.finish(_shifted_cross_entropy(examples, log_or_minus_infinity(counts)))


def _shifted_cross_entropy(examples: Examples, shift: Array) -> Array:
    """Returns the cross-entropy of z + shift, with one shift per class."""
    z = below_largest(examples.logits)
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
    shift = jnp.broadcast_to(times(tau, log_or_minus_infinity(prior_of(class_prior, z))), z.shape)
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
    counts = per_class("class_counts", class_counts, z)
    tempered = examples._replace(logits=_tempered(z, counts, gamma))
    return examples.finish(
        _shifted_cross_entropy(tempered, times(tau, log_or_minus_infinity(counts / counts.sum())))
    )


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
    counts = per_class("class_counts", class_counts, z)
    return examples.finish(-label_log_probability(_tempered(z, counts, gamma), examples.labels))


def _tempered(logits: Array, counts: Array, gamma: Array) -> Array:
    """Returns z_j (n_j / max n)^gamma."""
    factors = jnp.exp(times(gamma, log_or_minus_infinity(counts / counts[jnp.argmax(counts)])))
    return scaled(jnp.broadcast_to(factors, logits.shape), logits)


def label_aware_smoothing(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    class_counts: Num[Array, " classes"],
    head_smoothing: Scalar = 0.3,
    tail_smoothing: Scalar = 0.0,
    shape: str = "concave",
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
    growth = _growth(per_class("class_counts", class_counts, z), shape)
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
    weights = inverse_frequency_weights(per_class("class_counts", class_counts, z))
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
    # The largest entry is taken out of the norm, so that no square leaves the range.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(weights), axis=-1, keepdims=True, initial=0.0))
    unit = jnp.where(largest == 0.0, 1.0, largest)  # log 0 has a gradient of NaN
    squares = jnp.sum((weights / unit) ** 2, axis=-1, keepdims=True)
    log_norm = jnp.log(unit) + 0.5 * jnp.log(jnp.where(squares == 0.0, 1.0, squares))
    return jnp.moveaxis(weights * jnp.exp(-tau * log_norm), -1, axis)
