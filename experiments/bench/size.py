"""How large that is what a bench measures; what is not given is the bench's own choice."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from xent_jax.errors import UserError

EXAMPLES = flags.DEFINE_integer(
    "examples",
    None,
    "Images in an epoch (train: 12,800), or examples of a loss (losses, rules: 4,096).",
    lower_bound=1,
)
CLASSES = flags.DEFINE_integer("classes", 1000, "Classes of a loss.", lower_bound=4)
ONLY = flags.DEFINE_string(
    "only", "", "Measure the losses or contestants whose names match this expression."
)
RUNS = flags.DEFINE_multi_integer(
    "runs", [1, 8, 32], "Runs of a stack (sweep, convolution); may be repeated.", lower_bound=1
)
ROUNDS = flags.DEFINE_integer(
    "rounds",
    None,
    "Rounds in which all take turns (sweep: 7; linear_xent, softmax_xent: 5).",
    lower_bound=1,
)
SHAPES = flags.DEFINE_multi_string(
    "shape",
    [],
    "Tokens x features x classes, as 2048x512x32768 (linear_xent), or examples x classes "
    "(softmax_xent); may be repeated.",
)
DTYPES = flags.DEFINE_multi_enum(
    "dtype",
    ["float32", "bfloat16"],
    ["float32", "bfloat16", "float16"],
    "What is computed with (linear_xent, softmax_xent); may be repeated.",
)


def asked(*groups: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns, of each group, what has a name that matches --only.

    Raises:
      UserError: --only is no regular expression, or no name matches.
    """
    try:
        chosen = [{k: v for k, v in group.items() if re.search(ONLY.value, k)} for group in groups]
    except re.error as error:
        raise UserError(f"--only={ONLY.value} is no regular expression: {error}") from None
    if not any(chosen):
        names = [name for group in groups for name in group]
        some = ", ".join(names[:4])
        raise UserError(f"--only={ONLY.value} matches none of {len(names)} names, as {some}")
    return chosen


def shapes(axes: int, default: Sequence[str]) -> list[tuple[int, ...]]:
    """Returns the shapes that --shape asks for, or the bench's own choice.

    Raises:
      UserError: a shape that is not so many sizes.
    """
    return [_shape(text, axes) for text in SHAPES.value or default]


def _shape(text: str, axes: int) -> tuple[int, ...]:
    sizes = text.split("x")
    if len(sizes) != axes or not all(size.isdecimal() and int(size) for size in sizes):
        raise UserError(f"--shape={text} must be {axes} sizes above 0, with an x between them")
    return tuple(map(int, sizes))
