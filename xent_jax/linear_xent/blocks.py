"""How many tokens' logits exist at a time."""

SHARE = 8  # a chunk holds at most this part of all logits ...
LARGEST = 2**28  # ... and at most so many bytes of them,
FEWEST = 128  # but never so few tokens that a product waits for the weights rather than computes


def rows_per_chunk(tokens: int, classes: int, itemsize: int = 4) -> int:
    """Returns the tokens of a chunk, of which as few as possible are padding.

    The number before balancing is a power of two, so that the usual numbers of tokens divide.
    """
    affordable = min(tokens // SHARE, LARGEST // (classes * itemsize))
    most = max(FEWEST, 1 << max(affordable, 1).bit_length() - 1)
    chunks = max(1, -(-tokens // most))
    return max(1, -(-tokens // chunks))
