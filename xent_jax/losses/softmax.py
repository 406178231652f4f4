"""The softmax's log-probabilities with hand-derived tangents, which most losses are made of.

Arguments are positional and already prepared (`contract.py`): logits (..., K) with the classes
last, labels (...) inside [0, K). A logit of -inf is a class of probability 0.
"""

import jax
import jax.numpy as jnp

from xent_jax.typing import Array


@jax.custom_jvp
def label_log_probability(logits: Array, labels: Array) -> Array:
    """Returns log p_y: -inf where the label's logit is, NaN where all logits are."""
    shifted, total = _shifted_and_total(logits)
    picked = jnp.take_along_axis(shifted, labels[..., None], -1, mode="promise_in_bounds")
    return picked[..., 0] - jnp.log(total[..., 0])


@label_log_probability.defjvp
def _label_log_probability_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # d log p_y = sum_j (1[j = y] - p_j) dz_j. By hand, because autodiff scatters into an array of
    # the logits' size, keeps the exponentials for the way back, and is NaN for a label at -inf.
    (logits, labels), (logits_dot, _) = primals, tangents
    shifted, total = _shifted_and_total(logits)
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    one_hot = (classes == labels[..., None]).astype(logits.dtype)
    tangent = jnp.sum((one_hot - jnp.exp(shifted) / total) * logits_dot, axis=-1)
    return label_log_probability(logits, labels), tangent


def _shifted_and_total(logits: Array) -> tuple[Array, Array]:
    """Returns z - max z and sum exp(z - max z): a difference of the two loses no digits."""
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return shifted, jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True)
