"""Distillation of one linear layer's distribution into another's, without either's logits.

With t and s the softmax of the teacher's and the student's logits and r = log t - log s, the
divergence sum_k t_k r_k is computed as sum_k t_k (r_k + exp(-r_k) - 1), whose terms are never
negative, so that it keeps its digits where teacher and student nearly agree.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xent_jax.linear_xent.reference import (
    Layer,
    Normalizer,
    Settings,
    adjusted,
    masked,
    products,
)
from xent_jax.typing import Array


class Side(NamedTuple):
    """A model's last layer and what goes into it."""

    layer: Layer
    hidden: Array  # (N, D)


def token_divergences(
    settings: tuple[Settings, Settings], student: Side, teacher: Side, where: Array | None
) -> Array:
    """Returns D(t || s) of each token, from all logits at once."""
    z = side_logits(settings[0], student, where)
    return divergence_of(z, side_logits(settings[1], teacher, where))[0]


def side_logits(settings: Settings, side: Side, where: Array | None) -> Array:
    hidden = masked(side.hidden, where)
    return adjusted(products(settings, side.layer, hidden), side.layer.adjustment)


def divergence_of(z: Array, a: Array) -> tuple[Array, tuple[Normalizer, Normalizer]]:
    """Returns D(t || s) for student's logits z and teacher's a, (N, V), and their normalisers."""
    of_student, of_teacher = normalizer(z), normalizer(a)
    s, t = probabilities(z, of_student), probabilities(a, of_teacher)
    r = log_ratio(z, a, of_student, of_teacher)
    near = (r > -1.0) & (t > 0.0)  # r may be inf where t underflows to 0
    close = jnp.where(near, r, 0.0)
    far = jnp.where(near | (t == 0.0), 0.0, r)
    terms = jnp.where(near, t * (close + jnp.expm1(-close)), s + t * (far - 1.0))
    return jnp.sum(terms, axis=-1), (of_student, of_teacher)


def normalizer(z: Array) -> Normalizer:
    largest = jax.lax.stop_gradient(jnp.max(z, axis=-1))
    return Normalizer(largest, 1.0 / jnp.sum(jnp.exp(z - largest[:, None]), axis=-1))


def probabilities(z: Array, of: Normalizer) -> Array:
    return jnp.exp(z - of.largest[:, None]) * of.inverse_total[:, None]


def log_ratio(z: Array, a: Array, of_student: Normalizer, of_teacher: Normalizer) -> Array:
    """Returns log t - log s, 0 where a class cannot occur for either."""
    neither = jnp.isneginf(z) & jnp.isneginf(a)
    gap = (a - of_teacher.largest[:, None]) - (z - of_student.largest[:, None])
    totals = jnp.log(of_teacher.inverse_total) - jnp.log(of_student.inverse_total)
    return jnp.where(neither, 0.0, gap + totals[:, None])
