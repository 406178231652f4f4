"""Cross-entropy of a linear layer with kernels of its own, for NVIDIA GPUs from Hopper on.

The terms of tokens are computed without logits, by `xent_jax.kernels.linear_xent_gpu`. Where there
are gradients, the products are the vendor's and tokens go by in chunks, as in `chunked`. A sum with
its gradients has `xent_jax.kernels.softmax_xent_gpu` read a chunk's logits once, or once more from
the cache, and write their slopes, where XLA reads them for the maximum, the sum and the slopes. The
way back of the terms has the normalisers, so that XLA reads and writes once as well: it is that of
`chunked`.

What the kernels do not cover is left to `chunked`: label smoothing; and, for the terms, float32,
the argmax, and adjusted logits (bias, temperature, soft-cap, prior). In a sum the adjustments are
passes of XLA before and after the kernel.

Both kernels lower for the GPU and are interpreted by the tests; they never ran on a device, and are
chosen by name only.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.kernels.linear_xent_gpu import linear_sums
from xent_jax.kernels.mosaic_gpu import require_hopper
from xent_jax.kernels.softmax_xent_gpu import (
    Factors,
    Sums,
    line,
    softmax_cross_entropy_slopes,
)
from xent_jax.linear_xent import chunked
from xent_jax.linear_xent.chunked import (
    first_derivative_only,
    loss_and_gradients,
    saving_forward,
    split_asked,
    sum_and_gradients,
    weighted_sum_backward,
)
from xent_jax.linear_xent.reference import (
    Adjustment,
    Layer,
    Normalizer,
    Settings,
    Strengths,
    Terms,
    Tokens,
    masked,
    total_loss,
)
from xent_jax.linear_xent.varying import vary_like
from xent_jax.typing import Array


def token_terms(
    settings: Settings, layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> Terms:
    """Returns the terms of each token.

    Raises:
      ValueError: where there is no such GPU, or for arguments of float64.
    """
    _check(settings)
    covered = settings.operands.itemsize == 2 and not (settings.uniform or settings.argmax)
    if covered and _plain(layer):
        return _token_terms(settings, layer, hidden, labels, where)
    return chunked.token_terms(settings, layer, hidden, labels, where)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_terms(
    settings: Settings, layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> Terms:
    return _forward(layer, hidden, labels, where)[0]


def _token_terms_forward(_settings: Settings, *arguments: Any) -> tuple[Terms, Any]:
    return saving_forward(_forward, arguments)


_token_terms.defvjp(_token_terms_forward, chunked.token_terms_backward, symbolic_zeros=True)


def _forward(
    layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> tuple[Terms, Normalizer]:
    # The rows that fill the last chunk on the way back have normalisers of 0 here, which is safe:
    # their cotangents are zeros, and so are their logits, for there are no adjustments.
    sums = linear_sums(masked(hidden, where), layer.weights, labels)
    return _terms(sums), Normalizer(sums.largest, 1.0 / sums.total)


def _terms(sums: Sums) -> Terms:
    gap = sums.largest - sums.at_label
    return Terms(jnp.log(sums.total), gap, None, sums.largest, None)


def _plain(layer: Layer) -> bool:
    return all(part is None for part in layer.adjustment)


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

    So the logits are made as wide as it wants them, rather than copied. Where V is no multiple of
    128 (in float32) it is the layer that is copied, weights and all, once per sum.
    """
    return _per_class(lambda x: jnp.pad(x, [(0, classes)] + [(0, 0)] * (x.ndim - 1)), layer)


def _per_class(change: Callable[[Array], Array], layer: Layer) -> Layer:
    """Returns the layer with each array changed that has a row per class."""
    bias, scale, cap, offset = layer.adjustment
    bias, offset = (x if x is None else change(x) for x in (bias, offset))
    return Layer(change(layer.weights), Adjustment(bias, scale, cap, offset))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_sum(settings: Settings, classes: int, *arguments: Any) -> Array:
    layer, strengths, hidden, weights, tokens = arguments
    layer = _per_class(lambda x: x[:classes], layer)
    terms = token_terms(settings, layer, hidden, tokens.labels, tokens.where)
    return total_loss(terms, strengths, weights, tokens)


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
    nothing = vary_like(jnp.zeros(len(z), z.dtype), like=z)
    factors = _factors(nothing, strengths, weights, tokens)
    # Nothing comes between these slopes and the products where the logits are not adjusted.
    dz, sums = softmax_cross_entropy_slopes(
        z,
        tokens.labels,
        factors,
        classes=classes,
        dtype=settings.slopes if _plain(layer) else settings.dtype,
    )
    value, gradients = loss_and_gradients(_terms(sums), strengths, weights, tokens)
    _, d_strengths, d_weights = gradients
    return value, (dz.astype(settings.dtype), d_strengths, d_weights)


def _factors(zeros: Array, strengths: Strengths, weights: Array | None, tokens: Tokens) -> Factors:
    """Returns the derivative of a chunk's loss, which is linear in the logsumexp."""
    terms = Terms(zeros, zeros, None, zeros, None)
    _, (at_zero, *_) = loss_and_gradients(terms, strengths, weights, tokens)
    of_square = zeros if strengths.z_loss is None else 2.0 * strengths.z_loss * at_zero.label_gap
    return Factors(at_zero.label_gap, at_zero.log_total, of_square)
