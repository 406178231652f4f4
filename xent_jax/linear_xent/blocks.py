"""How many tokens' logits exist at a time, and how the weights' gradient is added up.

Where a kind of device was measured, by `python -m experiments.bench linear_xent --rows=...`, its
row of the table counts; elsewhere the fallback.
"""

from typing import NamedTuple

import jax


class Blocks(NamedTuple):
    largest: int  # bytes of a chunk's logits, at most
    columns: int | None  # classes of the weights' gradient added up at a time; None: all


FALLBACK = Blocks(largest=2**28, columns=None)
MEASURED = {
    "cpu": Blocks(largest=2**28, columns=4096),
}
SHARE = 8  # a chunk holds at most this part of all logits,
FEWEST = 128  # but never so few tokens that a product waits for the weights rather than computes


def rows_per_chunk(tokens: int, classes: int, itemsize: int = 4) -> int:
    """Returns the tokens of a chunk, of which as few as possible are padding.

    The number before balancing is a power of two, so that the usual numbers of tokens divide.
    """
    affordable = min(tokens // SHARE, _blocks().largest // (classes * itemsize))
    most = max(FEWEST, 1 << max(affordable, 1).bit_length() - 1)
    chunks = max(1, -(-tokens // most))
    return max(1, -(-tokens // chunks))


def classes_per_product() -> int | None:
    """Returns how many classes of the weights' gradient are added up at a time; None for all."""
    return _blocks().columns


def _blocks() -> Blocks:
    """Returns the row of the default device, though the program be lowered for another platform."""
    return MEASURED.get(jax.devices()[0].device_kind, FALLBACK)
