"""Losses divided by their sum over all labels, and what is combined with them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from xent_jax.losses.categorical import (
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
)
from xent_jax.losses.contract import prepare, scalar
from xent_jax.losses.fusion import apart, at_least, finite, possible
from xent_jax.losses.noisy_labels import (
    asymmetric_exponential,
    asymmetric_generalized_cross_entropy,
    asymmetric_unhinged,
    generalized_cross_entropy,
    mean_absolute_error,
    reverse_cross_entropy,
)
from xent_jax.losses.softmax import (
    complement,
    is_label,
    label_entry,
    label_log_probability,
    largest_and_total,
)
from xent_jax.typing import Array, Bool, Float, Int, Scalar


def normalized_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the label's share of the cross-entropies of all labels: robust, and slow to learn.

    .. math::
      L = \frac{\log p_y}{\sum_k \log p_k}, \qquad p = \mathrm{softmax}(z)

    Its sum over all labels is 1, so that labels flipped evenly do not move its minimum. Alone it
    underfits; `active_passive` and `active_negative` help it.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A logit of -inf is a class
        that cannot occur, and is left out of the sum.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and 1, of the labels' shape, in float32 (float64 for float64
      logits): 1 where the label cannot occur or is the only one that can.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`(p_j - 1[j = y] - L (K p_j - 1)) / S` with :math:`S = -\sum_k \log p_k`:
    the more sure the prediction, whatever it says, the smaller.

    References:
      Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
      <https://arxiv.org/abs/2006.13554>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.normalized_cross_entropy(logits, jnp.array([0, 1])))
      [0.0044 0.4978]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    return examples.finish(_share(_plain, examples.logits, examples.labels, ()))


# A loss of the surprise s = -log p and hyper-parameters, its slope in s and those in them.
_Slopes = tuple[Array, Array, tuple[Array, ...]]
_Family = Callable[..., _Slopes]


def _plain(s: Array) -> _Slopes:
    return s, jnp.ones_like(s), ()


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _share(family: _Family, logits: Array, labels: Array, parameters: tuple[Array, ...]) -> Array:
    """Returns the label's part of all labels' losses: 1 where it cannot occur or is alone."""
    total = _over_classes(0, family, logits, *largest_and_total(logits), parameters)
    of_label = family(_label_surprise(logits, labels), *parameters)[0]
    one = (total == 0.0) | _impossible(logits, labels)
    return jnp.where(one, 1.0, of_label / jnp.where(one, 1.0, total))


@_share.defjvp
def _(family: _Family, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    # With l_k = l(s_k), ds_k = sum_j p_j dz_j - dz_k and the share L = l_y / sum_k l_k:
    # dL sum_k l_k = sum_j ((l'_y - L sum_k l'_k) p_j - 1[j = y] l'_y + L l'_j) dz_j + (...) dq
    # By hand, so that the way back is one pass and keeps nothing of the logits' size.
    (logits, labels, parameters), (logits_dot, _, parameter_dots) = primals, tangents
    share, softmax = _share(family, logits, labels, parameters), largest_and_total(logits)
    total = _over_classes(0, family, logits, *softmax, parameters)
    slopes = _over_classes(1, family, logits, *softmax, parameters)
    _, of_label, by_label = family(_label_surprise(logits, labels), *parameters)
    one = (total == 0.0) | _impossible(logits, labels)
    scale = jnp.where(one, 0.0, 1.0 / jnp.where(one, 1.0, total))
    factors = scale * (of_label - share * slopes), scale * of_label, scale * share
    changes = _changes(family, logits, labels, parameters, *softmax, *factors)
    tangent = jnp.sum(changes * logits_dot, axis=-1)
    by_all = _over_classes(2, family, logits, *softmax, parameters)
    for of_label, of_all, dot in zip(by_label, by_all, parameter_dots, strict=True):
        tangent = tangent + scale * (of_label - share * of_all) * dot
    return share, tangent


def _over_classes(part: int, family: _Family, logits: Array, *rest: Any) -> Any:
    """Returns the sum over the possible classes of a part of what the family returns."""
    number = _pass(family, part)
    largest, total, parameters = jax.tree.map(lambda array: apart(array, number), rest)
    parameters = jax.lax.optimization_barrier(parameters)  # XLA knows a clamped constant
    terms = family(_surprises(logits, largest, total, number), *parameters)[part]
    return jax.tree.map(lambda term: jnp.sum(possible(logits, number) * term, axis=-1), terms)


def _pass(family: _Family, part: int) -> int:
    """Returns a number for each pass over the logits that a loss takes: see `apart`."""
    return part + 4 * (family in (_spared, _spared_plain))


def _changes(
    family: _Family, logits: Array, labels: Array, parameters: tuple[Array, ...], *rest: Array
) -> Array:
    """Returns a p_j - b 1[j = y] + c l'_j for factors a, b, c of each example."""
    part = _pass(family, 3)
    logits, largest, total, *factors = (apart(array, part) for array in (logits, *rest))
    of_p, of_label, of_slope = factors
    p = jnp.exp(logits - largest[..., None]) * (of_p / total)[..., None]
    slopes = family(_surprises(logits, largest, total, part), *parameters)[1]
    others = p + possible(logits, part) * of_slope[..., None] * slopes
    return others - jnp.where(is_label(logits, labels), of_label[..., None], 0.0)


def _surprises(logits: Array, largest: Array, total: Array, part: int) -> Array:
    """Returns -log p_k of every class (..., K); for those that cannot occur a large number."""
    return jnp.log(total)[..., None] + (largest[..., None] - finite(logits, part))


def _label_surprise(logits: Array, labels: Array) -> Array:
    """Returns -log p_y, and 0 where the label cannot occur."""
    return jnp.where(_impossible(logits, labels), 0.0, -label_log_probability(logits, labels))


def _impossible(logits: Array, labels: Array) -> Array:
    """Whether the label cannot occur, but another can."""
    label = label_entry(logits, labels)
    return jnp.isneginf(label) & (label < jnp.max(logits, axis=-1))


def normalized_focal(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    gamma: Scalar = 0.5,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the label's share of the focal losses of all labels.

    .. math::
      L = \frac{(1 - p_y)^\gamma \log p_y}{\sum_k (1 - p_k)^\gamma \log p_k}, \qquad
      p = \mathrm{softmax}(z)

    Its sum over all labels is 1, so that labels flipped evenly do not move its minimum. At gamma
    = 0 it is the normalized cross-entropy.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A logit of -inf is a class
        that cannot occur, and is left out of the sum.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      gamma: at least 0; 0.5 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and 1, of the labels' shape, in float32 (float64 for float64
      logits): 1 where the label cannot occur or is the only one that can.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or gamma below 0.

    The gradient is that of the formula. The authors' code holds the factors
    :math:`(1 - p_k)^\gamma` fixed while it differentiates, which is another gradient.

    References:
      Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
      <https://arxiv.org/abs/2006.13554>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.normalized_focal(logits, jnp.array([0, 1])))
      [0.0008 0.4996]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    gamma = scalar("gamma", gamma, like=examples.logits, at_least=0.0)
    return examples.finish(_share(_focal, examples.logits, examples.labels, (gamma,)))


def _focal(s: Array, gamma: Array) -> _Slopes:
    """Returns l = r^gamma s with r = 1 - p = 1 - e^-s, and its slopes in s and gamma."""
    # dl/ds = r^gamma (1 + gamma s p / r), dl/dgamma = l log r. At s = 0 the ratio s p / r is 1.
    s = at_least(
        s, jnp.asarray(_TINY, s.dtype)
    )  # with which r = s and no logarithm or quotient is infinite
    tiny = jnp.asarray(_TINY, s.dtype)  # keeps quotients and logarithms at s = 0 finite
    log_r = jnp.log(at_least(-jnp.expm1(-s), tiny))
    power = jnp.exp(gamma * log_r)
    odds = at_least(s, tiny) / jnp.expm1(at_least(s, tiny))
    return power * s, power * (1.0 + gamma * odds), (power * s * log_r,)


_TINY = 1e-30


def normalized_generalized_cross_entropy(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    q: Scalar = 0.7,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the label's share of the generalized cross-entropies of all labels.

    .. math::
      L = \frac{1 - p_y^q}{\sum_k (1 - p_k^q)}, \qquad p = \mathrm{softmax}(z)

    Its sum over all labels is 1, so that labels flipped evenly do not move its minimum. It runs
    from the normalized cross-entropy near q = 0 to the mean absolute error over 2 (K - 1) at q = 1.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A logit of -inf is a class
        that cannot occur, and is left out of the sum.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      q: above 0 and at most 1; 0.7 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and 1, of the labels' shape, in float32 (float64 for float64
      logits): 1 where the label cannot occur or is the only one that can.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or q outside its range.

    The gradient with respect to :math:`\log p_k` is :math:`-q\, p_k^q (1[k = y] - L) / \sum_i
    (1 - p_i^q)`.

    References:
      Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
      <https://arxiv.org/abs/2006.13554>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.normalized_generalized_cross_entropy(logits, jnp.array([0, 1])))
      [0.013  0.4935]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    q = scalar("q", q, like=examples.logits, above=0.0, at_most=1.0)
    return examples.finish(_share(_box_cox, examples.logits, examples.labels, (q,)))


def _box_cox(s: Array, q: Array) -> _Slopes:
    """Returns 1 - p^q = 1 - e^(-q s), and its slopes in s and q."""
    power = jnp.exp(-q * s)
    return complement(-q * s), q * power, (s * power,)


def active_negative(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    alpha: Scalar = 5.0,
    beta: Scalar = 5.0,
    gamma: Scalar = 0.0,
    min_probability: Scalar = 1e-7,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes a normalized loss plus its normalized negative: robust, and able to learn.

    .. math::
      L = \alpha \frac{\ell_y}{\sum_k \ell_k}
        + \beta \left(1 - \frac{A - \bar\ell_y}{\sum_k (A - \bar\ell_k)}\right), \qquad
      \ell_k = -(1 - p_k)^\gamma \log p_k

    where :math:`\bar\ell` is the loss of probabilities raised to at least :math:`p_{\min}`, and A
    the loss at :math:`p_{\min}`. The second term looks at what is said of the other labels, as does
    the mean absolute error, but most at those that the model confuses with the label.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis. A logit of -inf is a class
        that cannot occur, and is left out of the sums.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      alpha: weight of the normalized loss, at least 0: 5 for CIFAR-10, 10 for CIFAR-100.
      beta: weight of its negative, at least 0: 5 for CIFAR-10, 1 for CIFAR-100.
      gamma: at least 0: 0 is ANL-CE; ANL-FL has 0.5.
      min_probability: above 0 and below 1 / K; 1e-7 in the paper.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example between 0 and alpha + beta, of the labels' shape, in float32 (float64
      for float64 logits). The paper adds to their mean an L1 penalty of the parameters, with 5e-5
      for CIFAR-10 and 5e-7 for CIFAR-100 in place of weight decay: that is the optimizer's task.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a hyper-parameter outside its range.

    The gradient is that of the formula, 0 in the second term for probabilities below
    :math:`p_{\min}`. For gamma above 0 the authors' code holds the factors :math:`(1 -
    p_k)^\gamma` fixed while it differentiates, which is another gradient.

    References:
      Ye et al., `Active Negative Loss Functions for Learning with Noisy Labels
      <https://openreview.net/forum?id=hSkEcIFi3o>`_, 2023.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.active_negative(logits, jnp.array([0, 1])))
      [3.0242 5.9879]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    alpha = scalar("alpha", alpha, like=z, at_least=0.0)
    beta = scalar("beta", beta, like=z, at_least=0.0)
    focusing, gamma = gamma, scalar("gamma", gamma, like=z, at_least=0.0)
    largest = -jnp.log(scalar("min_probability", min_probability, z, above=0.0, at_most=1.0))
    if isinstance(focusing, float | int) and focusing == 0:  # spares two logarithms per class
        active, spared = _share(_plain, z, y, ()), _share(_spared_plain, z, y, (largest,))
    else:
        active, spared = _share(_focal, z, y, (gamma,)), _share(_spared, z, y, (gamma, largest))
    negative = jnp.where(_impossible(z, y), 1.0, 1.0 - spared)
    return examples.finish(alpha * active + beta * negative)


def _spared_plain(s: Array, largest: Array) -> _Slopes:
    """Returns `_spared` at gamma = 0."""
    inside = _below(s, largest)
    return inside * (largest - s), -inside, (inside,)


def _spared(s: Array, gamma: Array, largest: Array) -> _Slopes:
    """Returns how far the focal loss stays below that of the largest surprise, and its slopes."""
    most, most_slope, (most_by_gamma,) = _focal(largest, gamma)
    loss, slope, (by_gamma,) = _focal(s, gamma)
    values = most - loss, -slope, (most_by_gamma - by_gamma, jnp.broadcast_to(most_slope, s.shape))
    return jax.tree.map(lambda array: _below(s, largest) * array, values)


def _below(s: Array, largest: Array) -> Array:
    """Returns 1 where s is below the largest, else 0."""
    return jnp.sign(jnp.maximum(jax.lax.stop_gradient(largest - s), 0.0))


_Loss = Callable[..., Array]
_ACTIVE: dict[str, _Loss] = {
    "cross_entropy": softmax_cross_entropy_with_integer_labels,
    "focal": softmax_focal_loss,
    "generalized_cross_entropy": generalized_cross_entropy,
    "normalized_cross_entropy": normalized_cross_entropy,
    "normalized_focal": normalized_focal,
    "normalized_generalized_cross_entropy": normalized_generalized_cross_entropy,
}
_PASSIVE: dict[str, _Loss] = {
    "mean_absolute_error": mean_absolute_error,
    "reverse_cross_entropy": reverse_cross_entropy,
    "asymmetric_generalized_cross_entropy": asymmetric_generalized_cross_entropy,
    "asymmetric_unhinged": asymmetric_unhinged,
    "asymmetric_exponential": asymmetric_exponential,
}


def active_passive(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    active: str = "normalized_cross_entropy",
    passive: str = "reverse_cross_entropy",
    alpha: Scalar = 1.0,
    beta: Scalar = 1.0,
    active_options: Mapping[str, Scalar] | None = None,
    passive_options: Mapping[str, Scalar] | None = None,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes a loss that raises the label's probability plus one that lowers the others'.

    .. math::
      L = \alpha L_{\mathrm{active}} + \beta L_{\mathrm{passive}}

    Each is robust and underfits; together they learn. The passive loss may also be one of the
    asymmetric ones, which the paper on those combines in the same way.

    Args:
      logits: z, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      active: "normalized_cross_entropy", "normalized_focal" or
        "normalized_generalized_cross_entropy"; or unnormalized "cross_entropy", "focal" or
        "generalized_cross_entropy".
      passive: "reverse_cross_entropy", "mean_absolute_error", "asymmetric_unhinged",
        "asymmetric_generalized_cross_entropy" or "asymmetric_exponential".
      alpha: at least 0; 1 for CIFAR-10 and 10 for CIFAR-100 with the normalized cross-entropy.
      beta: at least 0; 1 for CIFAR-10 and 0.1 for CIFAR-100 with the reverse cross-entropy, 4 for
        CIFAR-10 with asymmetric losses. Our mean absolute error is the paper's 2 (1 - p_y); the
        authors' code takes 1 - p_y, so that its beta is twice this one.
      active_options: the active loss's own hyper-parameters, such as `{"gamma": 0.5}`.
      passive_options: the passive loss's own, such as `{"a": 6.0, "q": 1.5}`.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example, of the labels' shape, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers, or an option
        that the loss does not have.
      ValueError: shapes that do not fit, another loss's name, or a hyper-parameter out of range.

    The gradient is the sum of the two. Normalized passive losses are not offered, because they are
    the same up to a factor: the mean absolute error over 2 (K - 1), the reverse cross-entropy over
    -A (K - 1). The authors' code for the latter multiplies by (K - 1) / 4 instead of dividing.

    References:
      Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
      <https://arxiv.org/abs/2006.13554>`_, 2020. Zhou et al., `Asymmetric Loss Functions for
      Learning with Noisy Labels <https://arxiv.org/abs/2106.03110>`_, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits = jnp.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> print(xent.active_passive(logits, jnp.array([0, 1])))
      [0.1458 4.4271]
    """
    active_loss = _named("active", active, _ACTIVE)
    passive_loss = _named("passive", passive, _PASSIVE)
    learning = active_loss(logits, labels, where=where, axis=axis, **(active_options or {}))
    robust = passive_loss(logits, labels, where=where, axis=axis, **(passive_options or {}))
    alpha = scalar("alpha", alpha, like=learning, at_least=0.0)
    beta = scalar("beta", beta, like=learning, at_least=0.0)
    return alpha * learning + beta * robust


def _named(argument: str, name: str, losses: dict[str, _Loss]) -> _Loss:
    if name not in losses:
        raise ValueError(f"{argument} must be one of {', '.join(losses)}, got {name!r}")
    return losses[name]
