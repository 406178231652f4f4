"""Softmax cross-entropy over logits that exist: loss and slopes in one pass, for Hopper and later.

The operation is bound by memory, so what counts is that each logit is read once and each slope
written once. A thread block takes rows one by one, and cuts a row into blocks that its warpgroups
share out among them; each warpgroup has a ring of blocks in shared memory, which the copy engine
fills ahead. Over a row there are two walks:

1. the maximum and the sum of exponentials, brought to a common maximum as it grows. Each warp
   keeps its own, so that warps meet once per row;
2. the slopes, from the blocks in shared memory if the row fits there, otherwise read again, the
   last block first, mostly from the cache.

With a, b and c the factors of a row, y its label, l its logsumexp and p = softmax(z),

    dz_j = (b + c l) p_j - a 1[j = y]

Lowered for the GPU and interpreted on the CPU by the tests; not yet timed on a device, so that the
sizes in `planned` are computed, not measured.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from xent_jax.kernels.mosaic_gpu import clips_copies, laid_out, parameters
from xent_jax.typing import Array

WARPS = 4  # in a warpgroup, the unit that Mosaic GPU calls a thread
LANES = 32  # in a warp
VECTOR = 16  # bytes that a lane loads at once
GROUPS = 4  # warpgroups of a thread block at most
BARRIERS = 32  # at most, of one kind
RING = 2**14  # bytes of a warpgroup's ring at least, so that enough of them are under way


class Factors(NamedTuple):
    """What the slopes of each row are multiplied by, each (N,) in float32."""

    label: Array
    every: Array
    logsumexp: Array


class Sums(NamedTuple):
    """What there is to know of each row, each (N,) in float32."""

    largest: Array
    total: Array  # sum_k exp(z_k - largest)
    at_label: Array


@dataclasses.dataclass(frozen=True)
class Plan:
    """How rows are cut up. A line is what a warp holds in one load; a slab is a line per warp."""

    line: int  # logits
    slabs: int  # of a block
    groups: int  # warpgroups of a thread block
    steps: int  # blocks of a row per warpgroup
    slots: int  # of a warpgroup's ring
    rows: int  # per thread block
    classes: int
    masked: bool  # whether a block may hold anything but classes

    @property
    def lines(self) -> int:
        return WARPS * self.slabs

    @property
    def resident(self) -> bool:
        """Whether a row fits into the rings."""
        return self.steps <= self.slots

    @property
    def loads(self) -> int:
        """Returns how often a warpgroup loads a block for a row."""
        return self.steps if self.resident else 2 * self.steps


def line(dtype: Any) -> int:
    """Returns the number that the row length must be a multiple of."""
    return LANES * VECTOR // jnp.dtype(dtype).itemsize


def planned(rows: int, width: int, classes: int, dtype: Any) -> Plan:
    """Returns how to cut up logits (rows, width), of which so many columns are classes."""
    per_line = line(dtype)
    lines = width // per_line
    slabs = 1 if lines <= WARPS else 2
    blocks = -(-lines // (WARPS * slabs))
    groups = max(g for g in (1, 2, 4) if g == 1 or (g <= GROUPS and blocks > 2 * g))
    steps = -(-blocks // groups)
    fewest = RING // (WARPS * slabs * LANES * VECTOR)
    slots = max(steps, fewest) if groups * steps <= BARRIERS else BARRIERS // groups
    masked = groups * steps * WARPS * slabs * per_line != classes
    return Plan(per_line, slabs, groups, steps, slots, max(1, rows // 2048), classes, masked)


def softmax_cross_entropy_slopes(
    logits: Array,
    labels: Array,
    factors: Factors,
    *,
    classes: int | None = None,
    dtype: Any = None,
    in_place: bool = False,
) -> tuple[Array, Sums]:
    r"""Computes what the cross-entropies of rows of logits need, and the logits' gradient.

    .. math::
      d_j = (b + c \log \textstyle\sum_k e^{z_k})\, p_j - a\, 1[j = y], \qquad
      p = \mathrm{softmax}(z)

    Args:
      logits: z, (N, W) in float32, bfloat16 or float16.
      labels: y, int32 in [0, V), of shape (N,); -1 for a row that does not count, whose slopes are
        0 whatever it holds.
      factors: a, b and c of each row.
      classes: V <= W, the columns that are classes; all by default. The slopes of others are 0.
      dtype: of the slopes; the logits' by default.
      in_place: whether the slopes may take the logits' memory, where their dtypes agree: neither
        under `jax.vmap` nor inside a rule of derivatives, where JAX does not know how.

    Returns:
      The slopes d, (N, W), and the rows' sums, of which the cross-entropy is log(total) + (largest
      - at_label). Where no class of a row can occur, NaN.

    Everything is computed in float32. A width that is no multiple of 512 bytes costs a copy of
    logits and slopes: have the logits made wider instead.
    """
    count, width = logits.shape
    dtype = jnp.dtype(dtype or logits.dtype)
    padding = -width % line(logits.dtype)
    if count == 0:
        empty = jnp.zeros(0, jnp.float32)
        return jnp.zeros(logits.shape, dtype), Sums(empty, empty, empty)
    in_place = in_place and dtype == logits.dtype and jax.__version_info__ >= (0, 11)
    run = functools.partial(_run, classes or width, dtype, in_place)
    run = run if in_place else _over_rows(run)
    padded = jnp.pad(logits, ((0, 0), (0, padding))) if padding else logits
    slopes, sums = run(padded, labels.astype(jnp.int32), Factors(*factors))
    return slopes[:, :width] if padding else slopes, sums


def _over_rows(run: Any) -> Any:
    """Returns the function of rows, which under `jax.vmap` takes those of all at once."""
    flat = jax.custom_batching.custom_vmap(run)

    @flat.def_vmap
    def _(size: int, batched: Any, *arguments: Any) -> Any:
        def joined(array: Array, is_batched: bool) -> Array:
            array = array if is_batched else jnp.broadcast_to(array[None], (size, *array.shape))
            return array.reshape(-1, *array.shape[2:])

        results = flat(*jax.tree.map(joined, arguments, tuple(batched)))
        split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return split, jax.tree.map(lambda _: True, results)

    return flat


def _run(
    classes: int, dtype: np.dtype, in_place: bool, logits: Array, labels: Array, factors: Factors
) -> tuple[Array, Sums]:
    count, width = logits.shape
    plan = planned(count, width, classes, logits.dtype)
    extra = 0 if clips_copies() else -width % (plan.groups * plan.steps * plan.lines * plan.line)
    padded = jnp.pad(logits, ((0, 0), (0, extra))) if extra else logits
    lines = padded.reshape(count, -1, plan.line)
    kernel = _kernel(plan, lines, dtype, in_place)
    if in_place:
        here = jax.new_ref(lines, memory_space=plgpu.GMEM)
        sums = kernel(here, labels, *factors)
        slopes = jax.freeze(here)
    else:
        slopes, *sums = kernel(lines, labels, *factors)
    return slopes.reshape(count, -1)[:, :width], Sums(*sums)


def _kernel(plan: Plan, lines: Array, dtype: np.dtype, in_place: bool) -> Any:
    """Returns the function of logits as lines, labels and factors."""
    count = len(lines)
    varying = jax.typeof(lines).manual_axis_type  # over a mesh, inside `jax.shard_map`
    row = jax.ShapeDtypeStruct((count,), jnp.float32, manual_axis_type=varying)
    slopes = jax.ShapeDtypeStruct(lines.shape, dtype, manual_axis_type=varying)
    block = (plan.groups, plan.slots, plan.lines, plan.line)
    scratch = {
        "ring": plgpu.SMEM(block, lines.dtype),
        "results": plgpu.SMEM((plan.groups, 2, plan.lines, plan.line), dtype),
        "maxima": plgpu.SMEM((2, plan.groups, WARPS), jnp.float32),
        "totals": plgpu.SMEM((2, plan.groups, WARPS), jnp.float32),
        "filled": plgpu.Barrier(num_barriers=plan.groups * plan.slots),
        "met": plgpu.Barrier(num_arrivals=plan.groups),
    }

    def body(logits: Any, labels: Any, a: Any, b: Any, c: Any, *out: Any) -> None:
        slopes, *sums = (logits, *out) if in_place else out
        arrays = _Memory(logits, labels, Factors(a, b, c), slopes, Sums(*sums))
        pl.run_scoped(
            lambda **scratch: _rows(plan, count, arrays, _Scratch(**scratch)),
            collective_axes="group",
            **scratch,
        )

    return pl.kernel(
        body,
        out_type=[row] * 3 if in_place else [slopes, row, row, row],
        mesh=plgpu.Mesh(
            grid=(-(-count // plan.rows),),
            grid_names=("block",),
            num_threads=plan.groups,
            thread_name="group",
        ),
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=parameters(),
        name="softmax_cross_entropy_slopes",
    )


class _Memory(NamedTuple):
    """What lies in the device's memory."""

    logits: Any  # (N, lines, line)
    labels: Any
    factors: Factors
    slopes: Any
    sums: Sums


class _Scratch(NamedTuple):
    """What a thread block has to itself."""

    ring: Any
    results: Any
    maxima: Any
    totals: Any
    filled: Any
    met: Any


class _Group(NamedTuple):
    """A warpgroup's part of the work."""

    plan: Plan
    memory: _Memory
    scratch: _Scratch
    index: Any
    first: Any  # row
    loads: Any  # in all

    def block(self, load: Any) -> Any:
        """Returns which of a row's blocks is loaded: on the second walk the last one first."""
        step = lax.rem(load, self.plan.loads)
        back = 2 * self.plan.steps - 1 - step
        step = step if self.plan.resident else jnp.where(step < self.plan.steps, step, back)
        return step * self.plan.groups + self.index

    def fetch(self, load: Any) -> None:
        """Starts to copy a block into the slot of the block that so many loads ago was there."""

        @pl.when(load < self.loads)
        def _() -> None:
            row = self.first + lax.div(load, self.plan.loads)
            lines = pl.ds(self.block(load) * self.plan.lines, self.plan.lines)
            slot = lax.rem(load, self.plan.slots)
            plgpu.copy_gmem_to_smem(
                self.memory.logits.at[row, lines],
                self.scratch.ring.at[self.index, slot],
                self.scratch.filled.at[self.index * self.plan.slots + slot],
            )

    def await_slot(self, load: Any) -> Any:
        slot = lax.rem(load, self.plan.slots)
        plgpu.barrier_wait(self.scratch.filled.at[self.index * self.plan.slots + slot])
        return slot


def _rows(plan: Plan, count: int, memory: _Memory, scratch: _Scratch) -> None:
    first = lax.axis_index("block") * plan.rows
    rows = jnp.minimum(plan.rows, count - first)
    index = lax.axis_index("group")
    group = _Group(plan, memory, scratch, index, first, rows * plan.loads)
    for load in range(min(plan.slots, plan.rows * plan.loads)):
        group.fetch(load)

    def one(row: Any, _: None) -> None:
        _row(group, row)

    lax.fori_loop(0, rows, one, None)
    plgpu.wait_smem_to_gmem(0)


def _row(group: _Group, row: Any) -> None:
    plan, memory = group.plan, group.memory
    at = group.first + row
    label = memory.labels[at]
    position = jnp.maximum(label, 0)
    place = lax.div(position, plan.line), lax.rem(position, plan.line)
    # Before any warpgroup writes slopes, perhaps in place: all of them meet in between.
    at_label = memory.logits[at, place[0], place[1]].astype(jnp.float32)
    largest, total = _met(group, row, *_first_walk(group, row))

    @pl.when(group.index == 0)
    def _() -> None:
        for sums, value in zip(memory.sums, (largest, total, at_label), strict=True):
            sums[at] = value

    a, b, c = (factor[at] for factor in memory.factors)
    scale = (b + c * (jnp.log(total) + largest)) / total
    _second_walk(group, row, label, largest, scale, a)


def _first_walk(group: _Group, row: Any) -> tuple[Array, Array]:
    """Returns each warp's maximum and sum of exponentials, (4,)."""
    plan = group.plan
    wide, narrow = _layouts(plan)

    def step(step: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        largest, totals = sums
        load = row * plan.loads + step
        slot = group.await_slot(load)
        z = [_slab(group, slot, group.block(load), slab) for slab in range(plan.slabs)]
        here = jnp.max(functools.reduce(jnp.maximum, z), axis=1)
        larger = jnp.maximum(largest, here)
        shift = finite(larger)
        totals = totals * _across(jnp.exp(largest - shift), plan)
        for part in z:
            totals = totals + jnp.exp(part - _across(shift, plan))
        if not plan.resident:
            plgpu.commit_smem()  # all warps have read what the copy is to overwrite
            group.fetch(load + plan.slots)
        return larger, totals

    largest = laid_out(jnp.full((WARPS,), -jnp.inf, jnp.float32), narrow)
    totals = laid_out(jnp.zeros((WARPS, plan.line), jnp.float32), wide)
    largest, totals = lax.fori_loop(0, plan.steps, step, (largest, totals))
    return largest, jnp.sum(totals, axis=1)


def _met(group: _Group, row: Any, largest: Array, total: Array) -> tuple[Array, Array]:
    """Returns the row's maximum and sum, of those of all warps."""
    scratch, turn = group.scratch, lax.rem(row, 2)
    scratch.maxima[turn, group.index] = largest
    scratch.totals[turn, group.index] = total
    plgpu.barrier_arrive(scratch.met)
    plgpu.barrier_wait(scratch.met)
    warps = [(i, j) for i in range(group.plan.groups) for j in range(WARPS)]
    maxima = [scratch.maxima[turn, i, j] for i, j in warps]
    all_largest = functools.reduce(jnp.maximum, maxima)
    shift = finite(all_largest)
    totals = [
        scratch.totals[turn, i, j] * jnp.exp(maximum - shift)
        for (i, j), maximum in zip(warps, maxima, strict=True)
    ]
    return all_largest, functools.reduce(jnp.add, totals)


def _second_walk(
    group: _Group, row: Any, label: Any, largest: Any, scale: Any, of_label: Any
) -> None:
    plan, scratch = group.plan, group.scratch

    def step(step: Any, _: None) -> None:
        load = row * plan.loads + (step if plan.resident else plan.steps + step)
        slot = lax.rem(load, plan.slots) if plan.resident else group.await_slot(load)
        block = group.block(load)
        turn = lax.rem(row * plan.steps + step, 2)
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        for slab in range(plan.slabs):
            z = _slab(group, slot, block, slab)
            columns = _columns(plan, block, slab)
            slopes = scale * jnp.exp(z - largest)
            slopes = slopes - jnp.where(columns == label, of_label, 0.0)
            counts = lax.broadcast_in_dim(label, slopes.shape, ()) >= 0
            slopes = jnp.where(counts, slopes, 0.0).astype(scratch.results.dtype)
            scratch.results[group.index, turn, pl.ds(slab * WARPS, WARPS)] = slopes
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(
            scratch.results.at[group.index, turn],
            group.memory.slopes.at[group.first + row, pl.ds(block * plan.lines, plan.lines)],
        )
        group.fetch(load + plan.slots)

    lax.fori_loop(0, plan.steps, step, None)


def _slab(group: _Group, slot: Any, block: Any, slab: int) -> Array:
    """Returns a slab of a block in float32, -inf where there is no class."""
    plan = group.plan
    z = group.scratch.ring[group.index, slot, pl.ds(slab * WARPS, WARPS)]
    z = laid_out(z, _layouts(plan)[0]).astype(jnp.float32)
    return jnp.where(_columns(plan, block, slab) < plan.classes, z, -jnp.inf) if plan.masked else z


def _columns(plan: Plan, block: Any, slab: int) -> Array:
    """Returns the classes that a slab's elements stand for."""
    shape = WARPS, plan.line
    down, along = (
        laid_out(lax.broadcasted_iota(jnp.int32, shape, axis), _layouts(plan)[0]) for axis in (0, 1)
    )
    return down * plan.line + along + (block * plan.slabs + slab) * WARPS * plan.line


def finite(largest: Array) -> Array:
    """Returns what to subtract: 0 where every logit so far is -inf, for -inf - -inf is NaN."""
    return jnp.where(largest == -jnp.inf, 0.0, largest)


def _across(values: Array, plan: Plan) -> Array:
    """Returns each warp's value along its line."""
    wide = lax.broadcast_in_dim(values, (WARPS, plan.line), (0,))
    return laid_out(wide, _layouts(plan)[0])


def _layouts(plan: Plan) -> tuple[Any, Any]:
    """Returns where a slab's elements are, one line per warp, and where one value per warp is."""
    vector = plan.line // LANES
    tiling = plgpu.Tiling(((WARPS, plan.line), (vector,)))
    layout = plgpu.Layout.TILED(tiling, warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1)
    return layout, layout.reduce(1)
