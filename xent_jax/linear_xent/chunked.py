"""The logits of a few tokens at a time, in plain XLA, with a hand-derived way back.

A scan goes over chunks of tokens. Its forward pass keeps two numbers per token, the largest logit
and the inverse of the sum of exponentials; the way back computes a chunk's logits once more (four
matrix products in all). Where the tokens' weights in the sum are known beforehand, the gradients
are computed while the logits are there, and the way back only scales them (three products).

With g the cotangents of a token's terms and p = softmax(z),

    dz_j = g_total p_j - g_label 1[j = y] - g_mean / K

for each of the K classes that can occur, from where JAX's own derivative of `adjusted` leads to the
products x = h W^T and to the bias, temperature, soft-cap and prior; and dh = dx W, dW = dx^T h.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from xent_jax.kernels.conversion import convert
from xent_jax.linear_xent.reference import (
    Adjustment,
    Layer,
    Normalizer,
    Settings,
    Strengths,
    Terms,
    Tokens,
    adjusted,
    masked,
    product,
    products,
    share,
    terms_of,
    total_loss,
)
from xent_jax.linear_xent.varying import vary_like
from xent_jax.typing import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def token_terms(
    settings: Settings, layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> Terms:
    """Returns the terms of each token."""
    return _forward(settings, layer, hidden, labels, where)[0]


def _token_terms_forward(settings: Settings, *arguments: Any) -> tuple[Terms, Any]:
    return saving_forward(functools.partial(_forward, settings), arguments)


def token_terms_backward(settings: Settings, saved: Any, cotangents: Terms) -> tuple[Any, ...]:
    asked, layer, hidden, labels, where, normalizer = saved
    cotangents = cotangents._replace(largest=None, argmax=None)
    cotangents = jax.tree.map(instantiated, cotangents)
    rows = labels, where, normalizer, cotangents
    return *_backward(settings, asked, layer, hidden, rows), None, None


token_terms.defvjp(_token_terms_forward, token_terms_backward, symbolic_zeros=True)


def _forward(
    settings: Settings, layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> tuple[Terms, Normalizer]:
    def chunk(_: None, rows: Any) -> tuple[None, tuple[Terms, Normalizer]]:
        hidden, labels, where = rows
        z = adjusted(products(settings, layer, masked(hidden, where)), layer.adjustment)
        return None, terms_of(settings, layer, z, labels)

    _, (terms, normalizer) = scan_chunks(settings.rows, chunk, None, (hidden, labels, where))
    return unpadded(terms, hidden), normalizer


def _backward(
    settings: Settings,
    asked: "Asked",
    layer: Layer,
    hidden: Array,
    rows: tuple[Array, Array | None, Normalizer, Terms],
) -> tuple[Layer, Array | None]:
    """Returns the gradients with respect to layer and hidden, None where not asked for."""
    asked_layer, asked_hidden, *_ = asked.tree

    def chunk(sums: Layer, rows: Any) -> tuple[Layer, Array | None]:
        hidden, labels, where, normalizer, cotangents = rows
        hidden = masked(hidden, where)
        z, pull = logits_and_pullback(settings, layer, hidden)
        pulled = pull(slopes(layer, z, labels, normalizer, cotangents))
        sums, d_hidden = add_gradients(
            settings, asked_layer, asked_hidden, sums, layer, hidden, pulled
        )
        return sums, rounded(settings, d_hidden)

    start = zeros(settings, only(asked_layer, layer), like=hidden)
    d_layer, d_hidden = scan_chunks(settings.rows, chunk, start, (hidden, *rows))
    d_layer = d_layer._replace(weights=rounded(settings, d_layer.weights))
    return d_layer, unpadded(d_hidden, hidden)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_sum(
    settings: Settings,
    layer: Layer,
    strengths: Strengths,
    hidden: Array,
    weights: Array | None,
    tokens: Tokens,
) -> Array:
    """Returns the sum of the tokens' losses times their weights."""
    terms, _ = _forward(settings, layer, hidden, tokens.labels, tokens.where)
    return total_loss(terms, strengths, weights, tokens)


def _weighted_sum_forward(settings: Settings, *arguments: Any) -> tuple[Array, Any]:
    asked, arrays = split_asked(arguments)
    run = functools.partial(sum_and_gradients, _loss_and_slopes, settings, asked)
    return first_derivative_only(run)(*arrays)


def weighted_sum_backward(settings: Settings, saved: Any, cotangent: Any) -> tuple[Any, ...]:
    cotangent = instantiated(cotangent)
    d_layer, d_strengths, d_hidden, d_weights = jax.tree.map(lambda x: x * cotangent, saved)
    d_layer = d_layer._replace(weights=rounded(settings, d_layer.weights))
    return d_layer, d_strengths, rounded(settings, d_hidden), d_weights, None


weighted_sum.defvjp(_weighted_sum_forward, weighted_sum_backward, symbolic_zeros=True)


def sum_and_gradients(
    loss_and_slopes: Callable[..., Any],
    settings: Settings,
    asked: "Asked",
    layer: Layer,
    strengths: Strengths,
    hidden: Array,
    weights: Array | None,
    tokens: Tokens,
) -> tuple[Array, Any]:
    """Returns the sum, and its gradients in full precision, for the cotangent is yet to come."""
    asked_layer, asked_strengths, asked_hidden, asked_weights, _ = asked.tree

    def chunk(sums: Any, rows: Any) -> tuple[Any, Any]:
        total, layer_sums, strengths_sums = sums
        hidden, weights, tokens = rows
        hidden = masked(hidden, tokens.where)
        z, pull = logits_and_pullback(settings, layer, hidden)
        value, (dz, d_strengths, d_weights) = loss_and_slopes(
            settings, layer, z, strengths, weights, tokens
        )
        layer_sums, d_hidden = add_gradients(
            settings, asked_layer, asked_hidden, layer_sums, layer, hidden, pull(dz)
        )
        d_strengths = only(asked_strengths, d_strengths)
        strengths_sums = jax.tree.map(jnp.add, strengths_sums, d_strengths)
        sums = total + value, layer_sums, strengths_sums
        return sums, (d_hidden, only(asked_weights, d_weights))

    summed = (jnp.zeros(()), only(asked_layer, layer), only(asked_strengths, strengths))
    start = zeros(settings, summed, like=hidden)
    rows = (hidden, weights, _counted(settings, tokens))
    (value, *sums), each = scan_chunks(settings.rows, chunk, start, rows)
    return value, (*sums, *unpadded(each, hidden))


def _loss_and_slopes(
    settings: Settings,
    layer: Layer,
    z: Array,
    strengths: Strengths,
    weights: Array | None,
    tokens: Tokens,
) -> tuple[Array, tuple[Array, Strengths, Array | None]]:
    """Returns the loss of a chunk, and its gradient with respect to logits, strengths, weights."""
    terms, normalizer = terms_of(settings, layer, z, tokens.labels)
    value, gradients = loss_and_gradients(terms, strengths, weights, tokens)
    d_terms, d_strengths, d_weights = gradients
    dz = slopes(layer, z, tokens.labels, normalizer, d_terms)
    return value, (dz, d_strengths, d_weights)


def loss_and_gradients(
    terms: Terms, strengths: Strengths, weights: Array | None, tokens: Tokens
) -> tuple[Array, tuple[Terms, Strengths, Array | None]]:
    """Returns the loss of a chunk, and its gradient with respect to what it is made of."""
    loss = functools.partial(total_loss, tokens=tokens)
    value, pull = jax.vjp(loss, terms, strengths, weights)
    return value, pull(vary_like(jnp.ones_like(value), like=value))


def _counted(settings: Settings, tokens: Tokens) -> Tokens:
    """Returns the tokens with a mask where there will be padding."""
    if tokens.where is not None or len(tokens.labels) % settings.rows == 0:
        return tokens
    return tokens._replace(where=jnp.ones(tokens.labels.shape, bool))


def slopes(
    layer: Layer, z: Array, labels: Array, normalizer: Normalizer, cotangents: Terms
) -> Array:
    """Returns the derivatives with respect to the logits, by the formula above."""
    of_total, of_label, of_mean, *_ = cotangents
    # A masked token has a cotangent of 0, and, where no class can occur, a normaliser of NaN.
    factor = jnp.where(of_total == 0.0, 0.0, of_total * normalizer.inverse_total)
    largest = jnp.maximum(normalizer.largest, jnp.finfo(z.dtype).min)
    # A comparison takes part in the pass over the logits; a scatter would be a pass of its own.
    is_label = jax.lax.broadcasted_iota(labels.dtype, z.shape, 1) == labels[:, None]
    dz = factor[:, None] * jnp.exp(z - largest[:, None])
    dz = dz - jnp.where(is_label, of_label[:, None], jnp.zeros((), z.dtype))
    return dz if of_mean is None else dz - of_mean[:, None] * share(layer, z)


def logits_and_pullback(settings: Settings, layer: Layer, hidden: Array) -> tuple[Array, Any]:
    """Returns the logits, and what takes their slopes to the products and the adjustment."""
    return jax.vjp(adjusted, products(settings, layer, hidden), layer.adjustment)


def entering(settings: Settings, slopes: Array, other: Array) -> tuple[Array, Array]:
    """Returns slopes and what they are multiplied with, as they enter the product."""
    return slopes.astype(settings.slopes), other.astype(settings.slopes)


def layer_gradient(
    settings: Settings, asked: Layer, hidden: Array, d_x: Array, d_adjustment: Adjustment
) -> Layer:
    """Returns the gradient of the layer from so many tokens."""
    d_weights: Any = None
    if asked.weights:
        d_weights = product(settings, *entering(settings, d_x, hidden), 0, 0)
    return Layer(d_weights, only(asked.adjustment, d_adjustment))


def add_gradients(
    settings: Settings,
    asked_layer: Layer,
    asked_hidden: bool,
    sums: Layer,
    layer: Layer,
    hidden: Array,
    pulled: tuple[Array, Adjustment],
) -> tuple[Layer, Array | None]:
    """Returns the sums with a chunk's gradient of the layer, and that of its hidden vectors."""
    d_x, d_adjustment = pulled
    d_x = convert(d_x, dtype=settings.slopes)  # XLA's own rounding is slow on CPUs.
    weights, d_adjustment = sums.weights, only(asked_layer.adjustment, d_adjustment)
    if asked_layer.weights:
        weights = _add_product(settings, weights, *entering(settings, d_x, hidden))
    adjustment = jax.tree.map(jnp.add, sums.adjustment, d_adjustment)
    return Layer(weights, adjustment), hidden_gradient(settings, asked_hidden, layer, d_x)


def _add_product(settings: Settings, sums: Array, d_x: Array, hidden: Array) -> Array:
    """Returns sums (V, D) + d_x^T hidden, on CPUs so many classes at a time.

    A GPU's library is expected to add to what is there (not measured). On CPUs XLA writes the
    product out, as large as the weights, and adds it in passes of their own, unless it fits into
    the caches. The transposed copy is for bfloat16, which XLA multiplies in float32 where columns
    are summed over; outside of a loop XLA takes it back, and then has no such product.
    """
    size, classes = settings.columns, d_x.shape[1]
    if size is None or classes < 2 * size:
        return sums + product(settings, d_x, hidden, 0, 0)
    by_class, done = d_x.T, classes // size * size

    def add(block: Any, sums: Array) -> Array:
        d_block = jax.lax.dynamic_slice_in_dim(by_class, block * size, size)
        return _add_at(block * size, sums, product(settings, d_block, hidden, 1, 0))

    sums = jax.lax.fori_loop(0, done // size, add, sums)
    return _add_at(done, sums, product(settings, d_x[:, done:], hidden, 0, 0))


def _add_at(start: Any, sums: Array, added: Array) -> Array:
    """Returns the sums with so many rows of them increased."""
    before = jax.lax.dynamic_slice_in_dim(sums, start, len(added))
    return jax.lax.dynamic_update_slice_in_dim(sums, before + added, start, 0)


def hidden_gradient(settings: Settings, asked: bool, layer: Layer, d_x: Array) -> Array | None:
    """Returns the gradient of a chunk's hidden vectors."""
    if not asked:
        return None
    return product(settings, *entering(settings, d_x, layer.weights), 1, 0)


def scan_chunks(
    rows: int, chunk: Callable[[Any, Any], tuple[Any, Any]], start: Any, arrays: Any
) -> tuple[Any, Any]:
    """Returns what a scan over so many rows at a time of arrays (N, ...) returns.

    A chunk is every n-th row, so that under `jax.jit` each of the devices that divide the rows has
    its part of every chunk. Rows are read and written where they are, for a transposed copy of the
    hidden vectors would be as large as they.

    What comes out row by row still has the rows that fill the chunks. Where it goes in again as it
    is, they are what they were: only the cotangents of such rows are zeros.
    """
    leaves = jax.tree.leaves(arrays)
    chunks = max(1, -(-len(leaves[0]) // rows))
    rows = -(-len(leaves[0]) // chunks)  # 0 where there are no tokens

    def split(array: Array) -> Array:
        if padding := chunks * rows - len(array):
            array = jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(rows, chunks, *array.shape[1:])

    def at(i: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False), parts)

    def step(carry: Any, i: Array) -> tuple[Any, None]:
        sums, filled = carry
        sums, each = chunk(sums, at(i))
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=i, axis=1)
        return (sums, jax.tree.map(put, filled, each)), None

    def empty(row: Any) -> Array:
        filled = jnp.zeros((rows, chunks, *row.shape[1:]), row.dtype)
        return vary_like(filled, like=leaves[0])

    parts = jax.tree.map(split, arrays)
    _, each = jax.eval_shape(lambda: chunk(start, at(0)))
    start = start, jax.tree.map(empty, each)
    (sums, each), _ = jax.lax.scan(step, start, jnp.arange(chunks))
    return sums, jax.tree.map(lambda x: x.reshape(chunks * rows, *x.shape[2:]), each)


def unpadded(tree: Any, like: Array) -> Any:
    """Returns the rows that stand for tokens."""
    return jax.tree.map(lambda array: array[: len(like)], tree)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Asked:
    """Booleans in the places of a function's arguments: which gradients are asked for."""

    tree: Any


def split_asked(arguments: tuple[Any, ...]) -> tuple[Asked, tuple[Any, ...]]:
    """Returns which of a forward rule's arguments are differentiated, and their values."""

    def each(function: Callable[[CustomVJPPrimal], Any]) -> Any:
        return jax.tree.map(function, arguments, is_leaf=lambda x: isinstance(x, CustomVJPPrimal))

    return Asked(each(lambda x: x.perturbed)), each(lambda x: x.value)


def saving_forward(forward: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Terms, Any]:
    """Returns a forward rule's terms, and what the way back needs besides their cotangents."""
    asked, arrays = split_asked(arguments)
    terms, normalizer = first_derivative_only(forward)(*arrays)
    return terms, (asked, *arrays, normalizer)


def only(asked: Any, tree: Any) -> Any:
    """Returns the arrays whose gradient is asked for, and None for the others."""
    return jax.tree.map(lambda flag, array: array if flag else None, asked, tree)


def zeros(settings: Settings, tree: Any, like: Array) -> Any:
    """Returns zeros to add up gradients in."""
    return jax.tree.map(lambda x: vary_like(jnp.zeros(x.shape, settings.dtype), like), tree)


def instantiated(cotangent: Any) -> Array:
    """Returns the cotangent, as zeros where JAX says that it is 0."""
    if isinstance(cotangent, SymbolicZero):
        dtype: Any = cotangent.dtype
        return jnp.zeros(cotangent.shape, dtype)
    return cotangent


def rounded(settings: Settings, gradient: Array | None) -> Array | None:
    return None if gradient is None else gradient.astype(settings.operands)


def first_derivative_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a forward pass, whose derivative is an error that says what to do.

    The way back needs none: it is linear in the cotangents, in which JAX may differentiate it.
    """
    once = jax.custom_jvp(function)

    @once.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError(
            "second derivatives of this implementation would keep all logits: pass "
            "implementation='reference', which has derivatives of every order"
        )

    return once
