"""The logits of a few tokens and classes at a time, which never leave a TPU's vector memory.

Three kernels. The forward pass goes over the classes for a block of tokens and keeps the largest
logit so far, the sum of exponentials relative to it and the label's logit. On the way back one
kernel goes over them again for the gradient of the hidden vectors, another over the tokens for a
block of classes, for the gradient of the layer: five matrix products in all, two of them logits
computed once more. Gradients in the forward pass would gain nothing, for the logits of a token are
gone before the last of them is known.

Blocks hold whole hidden vectors, of any D that vector memory has room for. Tokens are filled up to
whole blocks with zeros. The weights are not copied for that: what a block reads behind their end
is set to zero, and no class.

Over several devices a kernel runs where `jax.shard_map` puts it; XLA divides none by itself. All of
them compile for TPU v4, v5 and v6 (libtpu 0.0.48) and agree with the reference in interpret mode,
but they never ran on a TPU: their speed is unknown, and they are chosen by name only.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from xent_jax.linear_xent import pallas_tpu_blocks as blocks
from xent_jax.linear_xent.chunked import (
    hidden_gradient,
    instantiated,
    layer_gradient,
    only,
    saving_forward,
)
from xent_jax.linear_xent.pallas_tpu_blocks import Tiling
from xent_jax.linear_xent.reference import (
    Adjustment,
    Layer,
    Normalizer,
    Settings,
    Terms,
    adjusted,
    masked,
    products,
    sum_of_terms,
)
from xent_jax.typing import Array

LOWEST = -3e38  # a largest logit to begin with: unlike -inf, it can be taken from itself


class Running(NamedTuple):
    """What the forward pass keeps of each token over the classes so far, each (N, 1)."""

    largest: Any
    total: Any  # of exp(z - largest)
    label: Any  # the label's logit
    gaps: Any  # the sum of largest - z over the classes that can occur,
    occurring: Any  # and the number of these
    argmax: Any


class Slopes(NamedTuple):
    """What the derivatives with respect to a token's logits are made of, each (N, 1)."""

    labels: Any
    largest: Any
    of_exponential: Any  # of exp(z - largest)
    of_label: Any
    of_occurring: Any  # of each class that can occur


def token_terms(
    settings: Settings, layer: Layer, hidden: Array, labels: Array, where: Array | None
) -> Terms:
    """Returns the terms of each token.

    Raises:
      ValueError: where there is no TPU, or for arguments of float16 or float64.
    """
    _check(settings)
    return _token_terms(settings, blocks.by_class(layer), masked(hidden, where), labels)


weighted_sum = functools.partial(sum_of_terms, token_terms)


def _check(settings: Settings) -> None:
    if not blocks.INTERPRET and jax.default_backend() != "tpu":
        raise ValueError(
            f"implementation 'pallas_tpu' needs a TPU, got the backend {jax.default_backend()!r}: "
            "leave implementation out, and one that runs here is chosen"
        )
    if settings.operands not in (jnp.bfloat16, jnp.float32):
        raise ValueError(
            "implementation 'pallas_tpu' takes hidden and weights of bfloat16 or float32, got "
            f"{settings.operands}: pass implementation='chunked' for others"
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_terms(settings: Settings, layer: Layer, hidden: Array, labels: Array) -> Terms:
    return _forward(settings, layer, hidden, labels)[0]


def _token_terms_forward(settings: Settings, *arguments: Any) -> tuple[Terms, Any]:
    return saving_forward(functools.partial(_forward, settings), arguments)


def _token_terms_backward(settings: Settings, saved: Any, cotangents: Terms) -> tuple[Any, ...]:
    asked, layer, hidden, labels, normalizer = saved
    asked_layer, asked_hidden, _ = asked.tree
    cotangents = cotangents._replace(largest=None, argmax=None)
    slopes = _slopes(layer, labels, normalizer, jax.tree.map(instantiated, cotangents))
    d_layer = _layer_gradient(settings, asked_layer, layer, hidden, slopes)
    d_hidden = _hidden_gradient(settings, layer, hidden, slopes) if asked_hidden else None
    return d_layer, d_hidden, None


_token_terms.defvjp(_token_terms_forward, _token_terms_backward, symbolic_zeros=True)


def _forward(
    settings: Settings, layer: Layer, hidden: Array, labels: Array
) -> tuple[Terms, Normalizer]:
    tiling = blocks.tiling_of(hidden, layer.weights, token_axis=0)
    number = settings.dtype if settings.uniform else None
    index = jnp.int32 if settings.argmax else None
    kept = Running(*[settings.dtype] * 3, gaps=number, occurring=number, argmax=index)
    running = blocks.call(
        functools.partial(_forward_kernel, settings, tiling),
        tiling,
        (hidden, labels[:, None]),
        layer,
        jax.tree.map(lambda dtype: blocks.like(hidden, (tiling.all_tokens, 1), dtype), kept),
        jax.tree.map(lambda _: blocks.token_spec(tiling, 1), kept),
    )
    return _terms(jax.tree.map(lambda column: column[: len(hidden), 0], running))


def _terms(running: Running) -> tuple[Terms, Normalizer]:
    # The total is at least exp(0), but 0 where no class can occur: as elsewhere, all is NaN then.
    total = jnp.where(running.total > 0.0, running.total, jnp.nan)
    terms = Terms(
        log_total=jnp.log(total),
        label_gap=running.largest - running.label,
        mean_gap=None if running.gaps is None else running.gaps / running.occurring,
        largest=running.largest,
        argmax=running.argmax,
    )
    return terms, Normalizer(running.largest, 1.0 / total)


def _forward_kernel(
    settings: Settings, tiling: Tiling, hidden: Any, labels: Any, layer: Any, running: Running
) -> None:
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _() -> None:
        _clear(running)
        running.largest[...] = jnp.full(running.largest.shape, LOWEST, settings.dtype)

    layer = _read(tiling, block, layer)
    z = adjusted(products(settings, layer, hidden[...]), layer.adjustment)
    before = jax.tree.map(lambda ref: ref[...], running)
    after = _joined(before, z, _classes(tiling, block, z), labels[...])
    jax.tree.map(_set, running, after)


def _joined(before: Running, z: Array, classes: Array, labels: Array) -> Running:
    """Returns what is kept of the classes before and these, whose logits are (tokens, classes)."""
    highest = jnp.max(z, axis=1, keepdims=True)
    largest = jnp.maximum(before.largest, highest)
    total = before.total * jnp.exp(before.largest - largest) + _sums(jnp.exp(z - largest))
    label = before.label + _sums(jnp.where(classes == labels, z, 0.0))
    after = before._replace(largest=largest, total=total, label=label)
    if before.gaps is not None:
        occurs = z > -jnp.inf
        rise = before.occurring * (largest - before.largest)
        gaps = before.gaps + rise + _sums(jnp.where(occurs, largest - z, 0.0))
        occurring = before.occurring + _sums(jnp.where(occurs, jnp.ones_like(z), 0.0))
        after = after._replace(gaps=gaps, occurring=occurring)
    if before.argmax is not None:
        after = after._replace(argmax=_argmax(before, z, highest, classes))
    return after


def _argmax(before: Running, z: Array, highest: Array, classes: Array) -> Array:
    """Returns `jnp.argmax`: the first of the largest, or the first NaN."""
    leads = (z >= highest) | jnp.isnan(z)
    first = jnp.min(jnp.where(leads, classes, jnp.iinfo(jnp.int32).max), axis=1, keepdims=True)
    better = (highest > before.largest) | (jnp.isnan(highest) & ~jnp.isnan(before.largest))
    return jnp.where(better, first, before.argmax)


def _slopes(layer: Layer, labels: Array, normalizer: Normalizer, cotangents: Terms) -> Slopes:
    """Returns the formula of `chunked`, as numbers per token."""
    of_total, of_label, of_mean, *_ = cotangents
    offset, number = layer.adjustment.offset, len(layer.weights)
    number = number if offset is None else jnp.sum(~jnp.isneginf(offset), dtype=of_label.dtype)
    slopes = Slopes(
        labels=labels,
        largest=normalizer.largest,
        of_exponential=of_total * normalizer.inverse_total,
        of_label=of_label,
        of_occurring=None if of_mean is None else of_mean / number,
    )
    return jax.tree.map(lambda vector: vector[:, None], slopes)


def _hidden_gradient(settings: Settings, layer: Layer, hidden: Array, slopes: Slopes) -> Array:
    tiling = blocks.tiling_of(hidden, layer.weights, token_axis=0)
    width = hidden.shape[1]
    specs = blocks.token_spec(tiling, width)
    gradient = blocks.call(
        functools.partial(_hidden_kernel, settings, tiling),
        tiling,
        (hidden, slopes),
        layer,
        blocks.like(hidden, (tiling.all_tokens, width), hidden.dtype),
        specs,
        (blocks.sums_of(specs),),
    )
    return gradient[: len(hidden)]


def _hidden_kernel(
    settings: Settings,
    tiling: Tiling,
    hidden: Any,
    slopes: Slopes,
    layer: Any,
    gradient: Any,
    sums: Any,
) -> None:
    block = pl.program_id(1)
    layer = _read(tiling, block, layer)
    d_x, _ = _pulled(settings, tiling, block, hidden[...], slopes, layer)
    _add_up(gradient, sums, hidden_gradient(settings, True, layer, d_x))


def _layer_gradient(
    settings: Settings, asked: Layer, layer: Layer, hidden: Array, slopes: Slopes
) -> Layer:
    if not any(jax.tree.leaves(asked)):
        return only(asked, layer)
    tiling = blocks.tiling_of(hidden, layer.weights, token_axis=1)
    specs = only(asked, blocks.layer_specs(tiling, layer))
    return blocks.call(
        functools.partial(_layer_kernel, settings, tiling, asked),
        tiling,
        (hidden, slopes),
        layer,
        jax.tree.map(lambda x: blocks.like(hidden, x.shape, x.dtype), only(asked, layer)),
        specs,
        (blocks.sums_of(specs),),
    )


def _layer_kernel(
    settings: Settings,
    tiling: Tiling,
    asked: Layer,
    hidden: Any,
    slopes: Slopes,
    layer: Any,
    gradient: Any,
    sums: Any,
) -> None:
    block = pl.program_id(0)
    layer, hidden = _read(tiling, block, layer), hidden[...]
    d_x, d_adjustment = _pulled(settings, tiling, block, hidden, slopes, layer)
    _add_up(gradient, sums, layer_gradient(settings, asked, hidden, d_x, d_adjustment))


def _add_up(totals: Any, sums: Any, values: Any) -> None:
    """Adds up over the inner loop, and rounds the sums once, when they are the totals."""
    step = pl.program_id(1)
    pl.when(step == 0)(lambda: _clear(sums))
    jax.tree.map(lambda ref, value: _set(ref, ref[...] + value.reshape(ref.shape)), sums, values)

    @pl.when(step == pl.num_programs(1) - 1)
    def _() -> None:
        jax.tree.map(lambda ref, total: _set(ref, total[...].astype(ref.dtype)), totals, sums)


def _pulled(
    settings: Settings, tiling: Tiling, block: Any, hidden: Array, slopes: Slopes, layer: Layer
) -> tuple[Array, Adjustment]:
    """Returns the derivatives with respect to a block's products, and to the adjustment."""
    z, pull = jax.vjp(adjusted, products(settings, layer, hidden), layer.adjustment)
    labels, largest, of_exponential, of_label, of_occurring = jax.tree.map(_value, slopes)
    # The bound is for the zeros that fill up the tokens, whose logits may be of any size.
    dz = of_exponential * jnp.exp(jnp.minimum(z - largest, 0.0))
    dz = dz - jnp.where(_classes(tiling, block, z) == labels, of_label, 0.0)
    if of_occurring is not None:
        dz = dz - jnp.where(z > -jnp.inf, of_occurring, 0.0)
    return pull(dz)


def _read(tiling: Tiling, block: Any, layer: Any) -> Layer:
    """Returns a block of the layer, in the shapes of a layer, zeros where no weights are."""
    bias, scale, cap, offset = jax.tree.map(_value, layer.adjustment)
    bias, offset = jax.tree.map(lambda row: row[0], (bias, offset))
    weights = layer.weights[...]
    if tiling.all_classes % tiling.classes:
        rows = jax.lax.broadcasted_iota(jnp.int32, weights.shape, 0) + block * tiling.classes
        zero = jnp.zeros((), weights.dtype)
        weights = jnp.where(rows < tiling.all_classes, weights, zero)
    return Layer(weights, Adjustment(bias, scale, cap, offset))


def _classes(tiling: Tiling, block: Any, z: Array) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) + block * tiling.classes


def _sums(x: Array) -> Array:
    return jnp.sum(x, axis=1, keepdims=True)


def _value(ref: Any) -> Array:
    return ref[...]


def _set(ref: Any, value: Array) -> None:
    ref[...] = value


def _clear(refs: Any) -> None:
    for ref in jax.tree.leaves(refs):
        ref[...] = jnp.zeros(ref.shape, ref.dtype)
