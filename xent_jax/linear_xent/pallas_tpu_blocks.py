"""How the TPU's kernels go over tokens and classes: blocks, their sizes, and the call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from xent_jax.linear_xent.reference import Adjustment, Layer
from xent_jax.linear_xent.varying import vary_like
from xent_jax.typing import Array

INTERPRET: Any = False  # as in `pl.pallas_call`: tests set it where there is no TPU
MEMORY = 16 * 2**20  # bytes of vector memory that every TPU has
SIZES = ((1024, 256), (512, 256), (256, 256), (256, 128), (128, 128))  # best first
LANES, SUBLANES = 128, 16  # the tile of bfloat16, of which blocks are multiples
FIRST = np.int32(0)  # of one block; Mosaic compiles no index of 64 bits, as 0 is with `enable_x64`


class Tiling(NamedTuple):
    """A loop over blocks of tokens or classes, and inside of it one over blocks of the other."""

    token_axis: int  # 0 if the outer loop is over tokens, 1 if the inner is
    tokens: int  # of a block
    classes: int  # of a block
    all_tokens: int  # as many as fill the blocks
    all_classes: int  # which the last block may exceed
    memory: int  # bytes of vector memory


def tiling_of(hidden: Array, weights: Array, token_axis: int) -> Tiling:
    (count, width), classes = hidden.shape, len(weights)
    sizes = block_sizes(width, hidden.dtype.itemsize)
    tokens = _balanced(count, sizes[token_axis])
    return Tiling(
        token_axis=token_axis,
        tokens=tokens,
        classes=min(sizes[1 - token_axis], LANES * _ceil(classes, LANES)),
        all_tokens=tokens * max(1, _ceil(count, tokens)),
        all_classes=classes,
        memory=max(MEMORY, vector_memory(*sizes, width, hidden.dtype.itemsize)),
    )


def block_sizes(width: int, itemsize: int) -> tuple[int, int]:
    """Returns the rows of an outer block and of an inner one, tokens or classes.

    The larger the outer block, the fewer times the array of the inner loop is read. Of vectors so
    long that nothing fits, the smallest blocks ask for more memory than every TPU has.
    """
    fit = (sizes for sizes in SIZES if vector_memory(*sizes, width, itemsize) <= MEMORY)
    return next(fit, SIZES[-1])


def vector_memory(outer: int, inner: int, width: int, itemsize: int) -> int:
    """Returns the bytes a kernel takes, as compilers for TPU v4, v5 and v6 counted them, or fewer.

    There are two buffers for an inner block and, besides the gradient, its sum and what is added to
    it, in float32; and columns of one number per token, each as wide as a tile.
    """
    operands = (outer + 2 * inner) * width * itemsize
    gradient = outer * width * (itemsize + 2 * 4)
    logits = 4 * outer * inner * 4
    columns = 6 * (outer + 2 * inner) * LANES * 4
    return operands + gradient + logits + columns


def by_class(layer: Layer) -> Layer:
    """Returns the layer with its adjustment in rows (1, V), as long as any blocks are.

    What fills them up are classes that cannot occur, so that kernels need not leave these out.
    """
    classes, (bias, scale, cap, offset) = len(layer.weights), layer.adjustment
    missing = -classes % SIZES[0][0]
    if missing and offset is None:
        offset = vary_like(jnp.zeros(classes, jnp.float32), like=layer.weights)

    def filled(values: Array | None, by: float) -> Array | None:
        return None if values is None else jnp.pad(values, (0, missing), constant_values=by)[None]

    def spread(value: Array | None) -> Array | None:
        return None if value is None else jnp.broadcast_to(value, (1, classes + missing))

    rows = Adjustment(filled(bias, 0.0), spread(scale), spread(cap), filled(offset, -jnp.inf))
    return layer._replace(adjustment=rows)


def call(
    kernel: Callable[..., None],
    tiling: Tiling,
    of_tokens: tuple[Any, ...],
    layer: Layer,
    out: Any,
    out_specs: Any,
    scratch: tuple[Any, ...] = (),
) -> Any:
    """Runs a kernel over arrays of the tokens, each (N, ...), and the layer."""
    filled = jax.tree.map(lambda array: _filled(tiling, array), of_tokens)
    of_tokens_specs = jax.tree.map(lambda array: token_spec(tiling, array.shape[1]), of_tokens)
    blocks = tiling.all_tokens // tiling.tokens, _ceil(tiling.all_classes, tiling.classes)
    return pl.pallas_call(
        kernel,
        grid=blocks[::-1] if tiling.token_axis else blocks,
        in_specs=(*of_tokens_specs, layer_specs(tiling, layer)),
        out_specs=[out_specs],
        out_shape=[out],
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=tiling.memory
        ),
        interpret=INTERPRET,
    )(*filled, layer)[0]


def token_spec(tiling: Tiling, width: int) -> pl.BlockSpec:
    return _rows(tiling.token_axis, tiling.tokens, width)


def layer_specs(tiling: Tiling, layer: Layer) -> Any:
    axis = 1 - tiling.token_axis
    weights: Any = _rows(axis, tiling.classes, layer.weights.shape[1])
    row = pl.BlockSpec((1, tiling.classes), lambda *step: (FIRST, step[axis]))
    return Layer(weights, jax.tree.map(lambda _: row, layer.adjustment))


def sums_of(specs: Any) -> Any:
    """Returns float32 memory to add up blocks in."""
    return jax.tree.map(lambda spec: pltpu.VMEM(spec.block_shape, jnp.float32), specs)


def like(array: Array, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape of a result, which varies over devices as the array does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(array).manual_axis_type)


def _rows(axis: int, size: int, width: int) -> pl.BlockSpec:
    # What stays for the whole inner loop needs no second buffer, to read the next block into.
    mode = pl.Buffered(1) if axis == 0 else None
    return pl.BlockSpec((size, width), lambda *step: (step[axis], FIRST), pipeline_mode=mode)


def _filled(tiling: Tiling, array: Array) -> Array:
    return jnp.pad(array, [(0, tiling.all_tokens - len(array)), (0, 0)])


def _balanced(count: int, most: int) -> int:
    """Returns how many rows a block has, of which as few as possible fill up the last."""
    blocks = max(1, _ceil(count, most))
    return SUBLANES * max(1, _ceil(count, blocks * SUBLANES))


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
