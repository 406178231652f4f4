"""The formulas, and the plain implementation: all logits at once, derivatives by JAX.

With z the logits after bias, temperature, soft-cap and prior, and m the largest of them,

    cross-entropy       log sum_k exp(z_k - m) + (m - z_y)
    from uniform        log sum_k exp(z_k - m) + mean_k (m - z_k)    over the classes that can occur
    logsumexp           log sum_k exp(z_k - m) + m

are all that label smoothing and the z-loss need of a token. The first two are not differences from
the third, which has lost their digits where logits are large; so an implementation returns the
summands, and derivatives are taken of each with m held constant, for the sums do not depend on it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.typing import Array


class Settings(NamedTuple):
    """What a program is compiled for."""

    dtype: np.dtype  # of logits, sums and accumulated gradients
    operands: np.dtype  # of hidden and weights
    slopes: np.dtype  # of the logits' gradient where it enters a product
    rows: int  # tokens per chunk
    columns: int | None  # classes of the weights' gradient added up at a time; None: all
    uniform: bool  # is the mean over the classes wanted, for label smoothing
    argmax: bool
    precision: Any  # of the products, as in `jax.lax.dot_general`


class Adjustment(NamedTuple):
    """What becomes of the products: z = cap tanh(scale (x + bias) / cap) + offset."""

    bias: Array | None = None  # (V,), finite
    scale: Array | None = None  # the inverse temperature
    cap: Array | None = None  # of the scaled logits
    offset: Array | None = None  # (V,): the prior's logarithm, -inf for a class that cannot occur


class Layer(NamedTuple):
    weights: Array  # (V, D)
    adjustment: Adjustment


class Normalizer(NamedTuple):
    """What gives softmax(z) back from z, without a logarithm that would be taken back by an exp."""

    largest: Array  # (N,)
    inverse_total: Array  # (N,)


class Terms(NamedTuple):
    """What is wanted of each token, each (N,)."""

    log_total: Array  # log sum_k exp(z_k - m)
    label_gap: Array  # m - z_y
    mean_gap: Array | None  # mean_k (m - z_k)
    largest: Array  # m, without derivative
    argmax: Array | None


class Strengths(NamedTuple):
    smoothing: Array | None
    z_loss: Array | None


class Tokens(NamedTuple):
    """What is known of each token besides its hidden vector, each (N,)."""

    labels: Array  # inside [0, V)
    invalid: Array  # True where an unmasked label was not
    where: Array | None


def token_terms(
    settings: Settings, layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> Terms:
    """Returns the terms of each token."""
    z = adjusted(products(settings, layer, masked(hidden, where)), layer.adjustment)
    return terms_of(settings, layer, masked(z, where), labels)[0]


def sum_of_terms(
    terms_of: Callable[..., Terms],
    settings: Settings,
    layer: Layer,
    strengths: Strengths,
    hidden: Array,
    weights: Array | None,
    tokens: Tokens,
) -> Array:
    """Returns the sum of the tokens' losses times their weights, from an implementation's terms."""
    terms = terms_of(settings, layer, hidden, tokens.labels, tokens.where)
    return total_loss(terms, strengths, weights, tokens)


weighted_sum = functools.partial(sum_of_terms, token_terms)


def products(settings: Settings, layer: Layer, hidden: Array) -> Array:
    """Returns hidden times weights, (N, V)."""
    return product(settings, hidden, layer.weights, 1, 1)


def product(settings: Settings, left: Array, right: Array, i: int, j: int) -> Array:
    """Returns the matrix product that sums over axis i of the left and axis j of the right."""
    return jax.lax.dot_general(
        left,
        right,
        (((i,), (j,)), ((), ())),
        precision=settings.precision,
        preferred_element_type=settings.dtype,
    )


def adjusted(x: Array, adjustment: Adjustment) -> Array:
    """Returns the logits of which the softmax is taken."""
    bias, scale, cap, offset = adjustment
    x = x if bias is None else x + bias[None]
    x = x if scale is None else x * scale
    x = x if cap is None else cap * jnp.tanh(x / cap)
    return x if offset is None else x + offset[None]


def terms_of(settings: Settings, layer: Layer, z: Array, labels: Array) -> tuple[Terms, Normalizer]:
    """Returns what is wanted of logits (N, V), and their normaliser."""
    largest = jax.lax.stop_gradient(jnp.max(z, axis=-1))
    total = jnp.sum(jnp.exp(z - largest[:, None]), axis=-1)
    terms = Terms(
        log_total=jnp.log(total),
        label_gap=largest - _at(z, labels),
        mean_gap=mean_gap(layer, z, largest) if settings.uniform else None,
        largest=largest,
        argmax=_first_of_largest(z, largest) if settings.argmax else None,
    )
    return terms, Normalizer(largest, 1.0 / total)


def mean_gap(layer: Layer, z: Array, largest: Array) -> Array:
    """Returns the mean of m - z_k over the classes that can occur."""
    gaps = largest[:, None] - z
    occurring = possible(layer)
    if occurring is None:
        return jnp.mean(gaps, axis=-1)
    gaps = jnp.where(jnp.broadcast_to(occurring, gaps.shape), gaps, 0.0)
    return jnp.sum(gaps, axis=-1) / jnp.sum(occurring, dtype=z.dtype)


def possible(layer: Layer) -> Array | None:
    """Returns True for the classes that can occur, (1, V), or None where all can."""
    offset = layer.adjustment.offset
    return None if offset is None else ~jnp.isneginf(offset)[None]


def share(layer: Layer, z: Array) -> Array:
    """Returns 1/K for each of the K classes that can occur and 0 for the others, (1, V)."""
    occurring = possible(layer)
    if occurring is None:
        return jnp.full((1, z.shape[1]), 1.0 / z.shape[1], z.dtype)
    return occurring.astype(z.dtype) / jnp.maximum(jnp.sum(occurring, dtype=z.dtype), 1.0)


def _at(z: Array, labels: Array) -> Array:
    return jnp.take_along_axis(z, labels[:, None], axis=-1, mode="promise_in_bounds")[:, 0]


def _first_of_largest(z: Array, largest: Array) -> Array:
    """Returns `jnp.argmax`, the first NaN included, by a plain reduction."""
    z, last = jax.lax.stop_gradient(z), z.shape[-1] - 1
    classes = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1)
    return jnp.min(jnp.where((z >= largest[:, None]) | jnp.isnan(z), classes, last), axis=-1)


def token_losses(terms: Terms, strengths: Strengths, tokens: Tokens) -> Array:
    """Returns each token's loss: 0 where it is masked, NaN where its label is invalid."""
    terms = jax.tree.map(lambda term: masked(term, tokens.where), terms)
    loss = terms.log_total + terms.label_gap
    if terms.mean_gap is not None and strengths.smoothing is not None:
        loss = _smoothed(loss, terms.log_total + terms.mean_gap, strengths.smoothing)
    if strengths.z_loss is not None:
        loss = loss + strengths.z_loss * logsumexp(terms) ** 2
    return _nan_where(tokens.invalid, loss)


def logsumexp(terms: Terms) -> Array:
    return terms.log_total + terms.largest


def total_loss(terms: Terms, strengths: Strengths, weights: Array | None, tokens: Tokens) -> Array:
    """Returns the sum of the losses times their weights, where 0 times infinity is 0."""
    losses = token_losses(terms, strengths, tokens)
    if weights is None:
        return jnp.sum(losses)
    weights = masked(weights, tokens.where)
    counted = (weights != 0.0) | ~jnp.isposinf(losses)
    return jnp.sum(jnp.where(counted, losses, 0.0) * weights)


@jax.custom_jvp
def _smoothed(of_label: Array, of_uniform: Array, smoothing: Array) -> Array:
    """Returns (1 - e) times the one and e times the other; at e = 1 the first may be infinite."""
    weighed = jnp.where(smoothing == 1.0, 0.0, of_label)
    return (1.0 - smoothing) * weighed + smoothing * of_uniform


@_smoothed.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # By hand, because an infinite loss times de = 0, or times the cotangent 0, would be NaN.
    (of_label, of_uniform, smoothing), (label_dot, uniform_dot, smoothing_dot) = primals, tangents
    excess = of_uniform - jnp.minimum(of_label, jnp.finfo(of_label.dtype).max)
    tangent = (1.0 - smoothing) * label_dot + smoothing * uniform_dot + excess * smoothing_dot
    return _smoothed(of_label, of_uniform, smoothing), tangent


@jax.custom_jvp
def _nan_where(invalid: Array, loss: Array) -> Array:
    """Returns the loss, and NaN with a gradient of NaN where it is invalid."""
    return jnp.where(invalid, jnp.nan, loss)


@_nan_where.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # By hand, because the gradient of a `where` is 0 where the loss is not taken.
    (invalid, loss), (_, loss_dot) = primals, tangents
    return _nan_where(invalid, loss), loss_dot * jnp.where(invalid, jnp.nan, 1.0).astype(loss.dtype)


def masked(array: Array, where: Array | None) -> Array:
    """Returns the array with 0 where the token is masked; its gradient is exactly 0 there."""
    if where is None:
        return array
    where = where.reshape(where.shape + (1,) * (array.ndim - where.ndim))
    return jnp.where(jnp.broadcast_to(where, array.shape), array, jnp.zeros((), array.dtype))
