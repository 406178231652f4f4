"""The vocabulary over devices: each holds rows of the weights and sees no other's rows or logits.

Inside `jax.shard_map` a device takes the terms of its own classes, by any implementation. From its
largest logit m_d, its log-total t_d and its K_d classes that can occur,

    m          = max_d m_d
    log-total  = log sum_d exp(t_d + m_d - m)
    m - z_y    = (m_d - z_y) + (m - m_d)                       on the device that holds class y
    mean gap   = sum_d K_d (mean gap_d + m - m_d) / sum_d K_d

take one pmax and one psum, of all summands in one vector; the argmax, if asked for, a pmin more.
Nothing else is written by hand: JAX's derivative of the last lines scales the cotangents of the
first by what a device's classes contribute, and sums the gradients of what the devices share: that
of the hidden vectors, and those of temperature and soft-cap where they are asked for.

Gradients in the forward pass would need every chunk's normaliser before the next chunk: a pmax and
a psum per chunk, for which the products wait. So a sum is taken from the terms here, with four
matrix products on each device instead of three, and two collectives in all.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from xent_jax.linear_xent.reference import (
    Layer,
    Settings,
    Terms,
    possible,
    sum_of_terms,
)
from xent_jax.linear_xent.varying import vary_alike
from xent_jax.typing import Array

Axes = tuple[str, ...]  # of the mesh, over which the classes are divided


class Sharded(NamedTuple):
    """An implementation over devices, called as a module of one device is."""

    token_terms: Callable[..., Any]
    weighted_sum: Callable[..., Any]


def over(axes: Axes, implementation: ModuleType) -> ModuleType | Sharded:
    """Returns the implementation for classes divided over these axes of a mesh, if any."""
    if not axes:
        return implementation
    terms = functools.partial(token_terms, axes, implementation)
    return Sharded(terms, functools.partial(sum_of_terms, terms))


def token_terms(
    axes: Axes,
    implementation: ModuleType,
    settings: Settings,
    layer: Layer,
    hidden: Array,
    labels: Array,
    where: Array | None,
) -> Terms:
    """Returns the terms of each token, the same on all devices of the axes."""
    layer, hidden, labels, where = vary_alike((layer, hidden, labels, where))
    first = jax.lax.axis_index(axes) * len(layer.weights)
    inside = (labels >= first) & (labels < first + len(layer.weights))
    labels = jnp.where(inside, labels - first, 0)
    layer, count = _occurring(settings, layer)
    terms = implementation.token_terms(settings, layer, hidden, labels, where)
    return _combined(axes, terms, inside, count, first)


def _occurring(settings: Settings, layer: Layer) -> tuple[Layer, Array]:
    """Returns how many of the device's classes can occur, and a layer of which some can.

    Where none can, as on a device that holds nothing but padding, they are let in, so that their
    terms are finite, for `_combined` to leave out.
    """
    occurring, offset = possible(layer), layer.adjustment.offset
    if occurring is None or offset is None:
        return layer, jnp.full((), len(layer.weights), settings.dtype)
    offset = jnp.where(jnp.any(occurring), offset, jnp.zeros_like(offset))
    layer = layer._replace(adjustment=layer.adjustment._replace(offset=offset))
    return layer, jnp.sum(occurring, dtype=settings.dtype)


def _combined(axes: Axes, terms: Terms, inside: Array, count: Array, first: Array) -> Terms:
    """Returns the terms of all classes, from those of each device's and where these begin."""
    own = jax.lax.stop_gradient(jnp.where(count > 0.0, terms.largest, -jnp.inf))
    own = jnp.where(jnp.isnan(own), jnp.inf, own)  # on some backends pmax passes over NaN
    largest = jax.lax.pmax(own, axes)
    below = largest - own
    total = jnp.exp(terms.log_total - below)
    label_gap = jnp.where(inside, terms.label_gap + below, 0.0)
    gaps = None
    if terms.mean_gap is not None:
        gaps = jnp.where(count > 0.0, count * (terms.mean_gap + below), 0.0), count
    total, label_gap, gaps = _packed_psum((total, label_gap, gaps), axes)
    return Terms(
        log_total=jnp.log(total),
        label_gap=label_gap,
        mean_gap=None if gaps is None else gaps[0] / gaps[1],
        largest=largest,
        argmax=_first_of_largest(axes, terms, own, largest, first),
    )


def _packed_psum(tree: Any, axes: Axes) -> Any:
    """Returns the sums over the axes, of all arrays by one collective."""
    packed, unpacked = ravel_pytree(tree)
    return unpacked(jax.lax.psum(packed, axes))


def _first_of_largest(
    axes: Axes, terms: Terms, own: Array, largest: Array, first: Array
) -> Array | None:
    """Returns the first class of the largest logit, or of NaN, on any device."""
    if terms.argmax is None:
        return None
    later = jnp.iinfo(jnp.int32).max
    return jax.lax.pmin(jnp.where(own == largest, terms.argmax + first, later), axes)
