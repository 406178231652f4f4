"""The chunked loss with its passes over the logits in a kernel, for NVIDIA GPUs from Hopper on.

The matrix products are the vendor's. Between them the kernel of `xent_jax.kernels.softmax_xent_gpu`
reads a chunk's logits once, or once more from the cache, and writes their slopes, where XLA reads
them for the maximum, for the sum and for the slopes.

Bias, temperature, soft-cap and prior are passes of XLA before and after the kernel. Label smoothing
is left to `chunked`, and so is the loss per token: its way back keeps the normalisers, so that XLA
reads logits once and writes slopes once as well.

The kernel lowers for the GPU and is interpreted by the tests; it has not been timed on a device.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.kernels.mosaic_gpu import require_hopper
from xent_jax.kernels.softmax_xent_gpu import Factors, line, softmax_cross_entropy_slopes
from xent_jax.linear_xent import chunked
from xent_jax.linear_xent.chunked import (
    first_derivative_only,
    loss_and_gradients,
    split_asked,
    sum_and_gradients,
    weighted_sum_backward,
)
from xent_jax.linear_xent.reference import (
    Adjustment,
    Layer,
    Settings,
    Strengths,
    Terms,
    Tokens,
)
from xent_jax.typing import Array


def token_terms(
    settings: Settings, layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> Terms:
    """Returns the terms of each token.

    Raises:
      ValueError: where there is no such GPU, or for arguments of float64.
    """
    _check(settings)
    return chunked.token_terms(settings, layer, hidden, labels, where)


def weighted_sum(
    settings: Settings,
    layer: Layer,
    strengths: Strengths,
    hidden: Array,
    weights: Array | None,
    tokens: Tokens,
) -> Array:
    """Returns the sum of the tokens' losses times their weights.

    Raises:
      ValueError: where there is no such GPU, or for arguments of float64.
    """
    _check(settings)
    if settings.uniform:
        return chunked.weighted_sum(settings, layer, strengths, hidden, weights, tokens)
    classes = len(layer.weights)
    layer = _widened(layer, -classes % line(settings.dtype))
    return _weighted_sum(settings, classes, layer, strengths, hidden, weights, tokens)


def _check(settings: Settings) -> None:
    require_hopper()
    if settings.dtype == np.float64:
        raise ValueError(
            "implementation 'pallas_gpu' takes hidden and weights of bfloat16, float16 or float32, "
            "got float64: pass implementation='chunked'"
        )


def _widened(layer: Layer, classes: int) -> Layer:
    """Returns the layer with so many more classes, which the kernel leaves out.

    So the logits are made as wide as it wants them, rather than copied.
    """
    return _per_class(lambda x: jnp.pad(x, [(0, classes)] + [(0, 0)] * (x.ndim - 1)), layer)


def _per_class(change: Callable[[Array], Array], layer: Layer) -> Layer:
    """Returns the layer with each array changed that has a row per class."""
    bias, scale, cap, offset = layer.adjustment
    bias, offset = (x if x is None else change(x) for x in (bias, offset))
    return Layer(change(layer.weights), Adjustment(bias, scale, cap, offset))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_sum(settings: Settings, classes: int, *arguments: Any) -> Array:
    layer, *others = arguments
    return chunked.weighted_sum(settings, _per_class(lambda x: x[:classes], layer), *others)


def _weighted_sum_forward(settings: Settings, classes: int, *arguments: Any) -> tuple[Array, Any]:
    asked, arrays = split_asked(arguments)
    over_logits = functools.partial(_loss_and_slopes, classes)
    run = functools.partial(sum_and_gradients, over_logits, settings, asked)
    return first_derivative_only(run)(*arrays)


def _weighted_sum_backward(
    settings: Settings, _classes: int, saved: Any, cotangent: Any
) -> tuple[Any, ...]:
    return weighted_sum_backward(settings, saved, cotangent)


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward, symbolic_zeros=True)


def _loss_and_slopes(
    classes: int,
    settings: Settings,
    layer: Layer,
    z: Array,
    strengths: Strengths,
    weights: Array | None,
    tokens: Tokens,
) -> tuple[Array, tuple[Array, Strengths, Array | None]]:
    """Returns the loss of a chunk, and its gradient with respect to logits, strengths, weights."""
    factors = _factors(strengths, weights, tokens)
    # Nothing comes between these slopes and the products where the logits are not adjusted.
    plain = all(part is None for part in layer.adjustment)
    dz, sums = softmax_cross_entropy_slopes(
        z,
        tokens.labels,
        factors,
        classes=classes,
        dtype=settings.slopes if plain else settings.dtype,
    )
    gap = sums.largest - sums.at_label
    terms = Terms(jnp.log(sums.total), gap, None, sums.largest, None)
    value, (_, *others) = loss_and_gradients(terms, strengths, weights, tokens)
    return value, (dz.astype(settings.dtype), *others)


def _factors(strengths: Strengths, weights: Array | None, tokens: Tokens) -> Factors:
    """Returns the derivative of a chunk's loss, which is linear in the logsumexp."""
    zeros = jnp.zeros(tokens.labels.shape, jnp.float32)
    nothing = Terms(zeros, zeros, None, zeros, None)
    _, (at_zero, *_) = loss_and_gradients(nothing, strengths, weights, tokens)
    of_square = zeros if strengths.z_loss is None else 2.0 * strengths.z_loss * at_zero.label_gap
    return Factors(at_zero.label_gap, at_zero.log_total, of_square)
