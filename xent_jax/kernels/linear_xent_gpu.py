"""What a cross-entropy needs of hidden times weights, without the product, for Hopper and later.

A thread block goes over a share of the classes for a tile of tokens. One warpgroup has the copy
engine fill a ring of tiles; the others, each with tokens of its own, multiply them, and add every
tile of logits to their running maximum and sum of exponentials while it is in their registers.
What the shares of the classes amount to is put together by XLA, from three numbers per token and
share.

Lowered for the GPU and interpreted on the CPU by the tests; not yet timed on a device, so that the
sizes below are computed, not measured.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from xent_jax.kernels.mosaic_gpu import laid_out, parameters
from xent_jax.kernels.softmax_xent_gpu import Sums, finite
from xent_jax.typing import Array

GROUPS = 2  # warpgroups that multiply
TOKENS = 128  # of each
CLASSES = 128  # of a tile
DEPTH = 64  # of a tile: 128 bytes, what the matrix unit reads at once
SLOTS = 4  # of the ring: 192 KB
PROCESSORS = 132  # of an H100 or H200, each of which is to have a thread block
ALIGNED = 8  # what dimensions have to be multiples of, for the copy engine


class _Work(NamedTuple):
    """A thread block's part of the work."""

    tile: Any  # of tokens
    first: Any  # tile of classes
    tiles: Any  # of classes
    depth: int  # tiles along the hidden vectors
    classes: int


class _Scratch(NamedTuple):
    """What a thread block has to itself."""

    hidden: Any
    weights: Any
    labels: Any
    sums: Any
    filled: Any
    emptied: Any
    labelled: Any


def linear_sums(hidden: Array, weights: Array, labels: Array) -> Sums:
    r"""Computes the sums of z = hidden weights^T that a cross-entropy is made of.

    Args:
      hidden: (N, D) in bfloat16 or float16.
      weights: (V, D), likewise.
      labels: int32 in [0, V), of shape (N,).

    Returns:
      max_k z_k, sum_k exp(z_k - max), and z_y of each token, (N,) in float32.

    A dimension that is no multiple of 8 costs a copy of what has it.
    """
    run = jax.custom_batching.sequential_vmap(_run)
    return Sums(*run(hidden, weights, labels.astype(jnp.int32)))


def _run(hidden: Array, weights: Array, labels: Array) -> tuple[Array, ...]:
    (tokens, depth), classes = hidden.shape, len(weights)
    if tokens == 0:
        return (jnp.zeros(0, jnp.float32),) * 3
    tiles = -(-tokens // (GROUPS * TOKENS))
    extra = tiles * GROUPS * TOKENS - tokens
    labels = jnp.pad(labels, (0, extra))
    # Beyond the ends copies read zeros, but only by whole units of the memory's layout.
    hidden, weights = (
        jnp.pad(x, ((0, -len(x) % ALIGNED), (0, -depth % ALIGNED))) for x in (hidden, weights)
    )
    shares = _kernel(tiles, classes, hidden, weights)(hidden, weights, labels)
    largest, totals, at_label = (x[:, :tokens] for x in shares)
    over_all = jnp.max(largest, axis=0)
    scales = jnp.exp(largest - finite(over_all)[None])
    return over_all, jnp.sum(totals * scales, axis=0), jnp.sum(at_label, axis=0)


def _kernel(tiles: int, classes: int, hidden: Array, weights: Array) -> Any:
    """Returns the function of hidden, weights and labels, which returns the sums of each share."""
    of_classes, depth = -(-classes // CLASSES), -(-hidden.shape[1] // DEPTH)
    shares = min(of_classes, max(1, PROCESSORS // tiles))
    per_share = -(-of_classes // shares)
    shares = -(-of_classes // per_share)
    varying = jax.typeof(hidden).manual_axis_type  # over a mesh, inside `jax.shard_map`
    shape = shares, tiles * GROUPS * TOKENS
    row = jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=varying)

    def body(hidden: Any, weights: Any, labels: Any, *sums: Any) -> None:
        share = lax.axis_index("share")
        first = share * per_share
        work = _Work(
            lax.axis_index("tile"),
            first,
            jnp.minimum(per_share, of_classes - first),
            depth,
            classes,
        )

        def scoped(**scratch: Any) -> None:
            group = lax.axis_index("group")
            at = _Scratch(**scratch)
            pl.when(group == GROUPS)(functools.partial(_copies, work, at, hidden, weights))
            pl.when(group < GROUPS)(functools.partial(_sums, work, at, labels, sums, share, group))

        pl.run_scoped(scoped, collective_axes="group", **_scratch(hidden.dtype))

    return pl.kernel(
        body,
        out_type=[row, row, row],
        mesh=plgpu.Mesh(
            grid=(tiles, shares),
            grid_names=("tile", "share"),
            num_threads=GROUPS + 1,
            thread_name="group",
        ),
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=parameters(),
        name="linear_sums",
    )


def _scratch(dtype: Any) -> dict[str, Any]:
    swizzled = plgpu.TilingTransform((8, DEPTH)), plgpu.SwizzleTransform(128)
    return {
        "hidden": plgpu.SMEM((SLOTS, GROUPS * TOKENS, DEPTH), dtype, transforms=swizzled),
        "weights": plgpu.SMEM((SLOTS, CLASSES, DEPTH), dtype, transforms=swizzled),
        "labels": plgpu.SMEM((GROUPS, TOKENS), jnp.int32),
        "sums": plgpu.SMEM((GROUPS, 3, TOKENS), jnp.float32),
        "filled": plgpu.Barrier(num_arrivals=2, num_barriers=SLOTS),
        "emptied": plgpu.Barrier(num_arrivals=GROUPS, num_barriers=SLOTS),
        "labelled": plgpu.Barrier(num_barriers=GROUPS),
    }


def _copies(work: _Work, at: _Scratch, hidden: Any, weights: Any) -> None:
    """Fills the ring ahead of the warpgroups that multiply."""
    plgpu.set_max_registers(40, action="decrease")
    rows = pl.ds(work.tile * GROUPS * TOKENS, GROUPS * TOKENS)

    loads = work.tiles * work.depth

    def one(load: Any, _: None) -> None:
        slot = lax.rem(load, SLOTS)
        pl.when(load >= SLOTS)(lambda: plgpu.barrier_wait(at.emptied.at[slot]))
        pl.when(load < loads)(functools.partial(copy, load, slot, at.filled.at[slot]))

    def copy(load: Any, slot: Any, filled: Any) -> None:
        deep = pl.ds(lax.rem(load, work.depth) * DEPTH, DEPTH)
        classes = pl.ds((work.first + lax.div(load, work.depth)) * CLASSES, CLASSES)
        plgpu.copy_gmem_to_smem(hidden.at[rows, deep], at.hidden.at[slot], filled)
        plgpu.copy_gmem_to_smem(weights.at[classes, deep], at.weights.at[slot], filled)

    lax.fori_loop(0, loads + SLOTS, one, None)  # to the end, so that no slot is left unawaited


def _sums(
    work: _Work, at: _Scratch, labels: Any, sums: tuple[Any, ...], share: Any, group: Any
) -> None:
    """Adds up the tiles of logits of a warpgroup's tokens."""
    plgpu.set_max_registers(232, action="increase")
    tokens = pl.ds((work.tile * GROUPS + group) * TOKENS, TOKENS)
    plgpu.copy_gmem_to_smem(labels.at[tokens], at.labels.at[group], at.labelled.at[group])
    plgpu.barrier_wait(at.labelled.at[group])
    narrow = plgpu.Layout.WGMMA.reduce(1)
    of_tokens = laid_out(at.labels[group], narrow)
    nothing = laid_out(jnp.zeros((TOKENS,), jnp.float32), narrow)
    start = laid_out(jnp.full((TOKENS,), -jnp.inf, jnp.float32), narrow), nothing, nothing

    def one(tile: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        accumulate = functools.partial(_logits, work, at, group, tile)
        z = pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((TOKENS, CLASSES), jnp.float32))
        return _added(carry, z, of_tokens, (work.first + tile) * CLASSES, work.classes)

    for i, values in enumerate(lax.fori_loop(0, work.tiles, one, start)):
        at.sums[group, i] = values
    plgpu.commit_smem()
    for i, out in enumerate(sums):
        plgpu.copy_smem_to_gmem(at.sums.at[group, i], out.at[share, tokens])
    plgpu.wait_smem_to_gmem(0)


def _logits(work: _Work, at: _Scratch, group: Any, tile: Any, product: Any) -> Array:
    """Returns a tile of logits. A slot is given back while the product of the next is under way."""

    def one(deep: Any, _: None) -> None:
        load = tile * work.depth + deep
        slot = lax.rem(load, SLOTS)
        plgpu.barrier_wait(at.filled.at[slot])
        left = at.hidden.at[slot, pl.ds(group * TOKENS, TOKENS)]
        plgpu.wgmma(product, left, at.weights.at[slot].transpose((1, 0)))
        plgpu.wgmma_wait(1)
        before = lax.rem(load + SLOTS - 1, SLOTS)
        pl.when(deep > 0)(lambda: plgpu.barrier_arrive(at.emptied.at[before]))

    lax.fori_loop(0, work.depth, one, None)
    plgpu.wgmma_wait(0)
    plgpu.barrier_arrive(at.emptied.at[lax.rem((tile + 1) * work.depth - 1, SLOTS)])
    return product[...]


def _added(
    sums: tuple[Array, ...], z: Array, labels: Array, first: Any, classes: int
) -> tuple[Array, ...]:
    """Returns maximum, sum and label's logit with those of a tile, from this class on."""
    largest, total, at_label = sums
    columns = laid_out(lax.broadcasted_iota(jnp.int32, z.shape, 1), plgpu.Layout.WGMMA) + first
    is_label = columns == _across(labels, z.shape)
    at_label = at_label + jnp.sum(jnp.where(is_label, z, 0.0), axis=1)
    z = jnp.where(columns < classes, z, -jnp.inf)
    larger = jnp.maximum(largest, jnp.max(z, axis=1))
    shift = finite(larger)
    exponentials = jnp.exp(z - _across(shift, z.shape))
    total = total * jnp.exp(largest - shift) + jnp.sum(exponentials, axis=1)
    return larger, total, at_label


def _across(values: Array, shape: tuple[int, ...]) -> Array:
    return laid_out(lax.broadcast_in_dim(values, shape, (0,)), plgpu.Layout.WGMMA)
