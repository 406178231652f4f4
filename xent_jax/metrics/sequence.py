"""What a sequence model's totals mean: perplexity, bits per character, word and character errors.

All work on the host: they are taken once, from sums over the whole evaluation set.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from xent_jax.errors import UserError
from xent_jax.typing import Scalar


def token_perplexity(nll_sum: Scalar, tokens: int) -> float:
    """exp(nll_sum / tokens): the number of equally likely tokens that is as hard to guess from.

    Args:
      nll_sum: sum of -log p over all tokens, in nats, not a mean of the means of batches.
      tokens: how many tokens that is.

    Returns:
      At least 1; inf beyond float64; NaN without tokens.
    """
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(nll_sum) / tokens)) if tokens else float("nan")


def bits_per_character(nll_sum: Scalar, characters: int) -> float:
    """nll_sum / (characters * log 2), which compares models whatever their tokens are.

    Args:
      nll_sum: sum of -log p over all tokens, in nats.
      characters: characters (or bytes, for bits per byte) of the text that the tokens stand for.

    Returns:
      Bits; NaN without characters.
    """
    return float(nll_sum / (characters * np.log(2))) if characters else float("nan")


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and substitutions between two sequences.

    Source: Levenshtein (1966); Wagner and Fischer (1974).
    """
    positions = np.arange(len(hypothesis) + 1)
    distances = positions
    for symbol in reference:
        differs = np.array([symbol != other for other in hypothesis], dtype=int)
        without_insertion = distances + 1
        without_insertion[1:] = np.minimum(without_insertion[1:], distances[:-1] + differs)
        # min over i <= j of (d_i + j - i): all insertions of a row at once.
        distances = np.minimum.accumulate(without_insertion - positions) + positions
    return int(distances[-1])


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edit distance in words over the number of reference words, summed over all pairs.

    Words are what whitespace separates. Can exceed 1; NaN without reference words.
    """
    return _error_rate([r.split() for r in references], [h.split() for h in hypotheses])


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edit distance in characters over the number of reference characters, summed over all pairs.

    Spaces count. Can exceed 1; NaN without reference characters.
    """
    return _error_rate(references, hypotheses)


def _error_rate(references: Sequence[Sequence], hypotheses: Sequence[Sequence]) -> float:
    if len(references) != len(hypotheses):
        raise UserError(
            f"{len(references)} references but {len(hypotheses)} hypotheses; give one for each"
        )
    length = sum(map(len, references))
    edits = sum(map(edit_distance, references, hypotheses))
    return edits / length if length else float("nan")
