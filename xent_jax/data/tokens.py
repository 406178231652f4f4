"""Text as numbers: bytes, or pieces that are frequent in it (byte-pair encoding)."""

import dataclasses
import heapq
import re
from collections import Counter, defaultdict
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from xent_jax.errors import UserError
from xent_jax.typing import Bool, Int

_BYTES = 256
# What no piece goes beyond: letters (all of UTF-8 but ASCII are taken for them), digits or signs,
# each with the space before it, and spaces. Every byte is in one of them. They are bounded, as a
# long word takes long, and in some languages no space ends it.
_WORDS = re.compile(
    rb" ?[A-Za-z\x80-\xff]{1,64}| ?[0-9]{1,64}| ?[^\sA-Za-z0-9\x80-\xff]{1,64}|\s{1,64}(?!\S)|\s"
)

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Tokens 0 to 255 are the bytes; token 256 + i is the two tokens of `merges[i]`, joined.

    Decoding gives back the bytes that were encoded, whatever they are.
    """

    merges: tuple[Pair, ...] = ()

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of every token."""
        pieces = [bytes([byte]) for byte in range(_BYTES)]
        for left, right in self.merges:
            pieces.append(pieces[left] + pieces[right])
        return tuple(pieces)

    @property
    def vocabulary(self) -> int:
        return _BYTES + len(self.merges)

    def encode(self, text: bytes) -> Int[np.ndarray, " tokens"]:
        if not self.merges:
            return np.frombuffer(text, np.uint8).astype(np.int32)
        words = _WORDS.findall(text)
        tokens = {word: self._encode_word(word) for word in set(words)}
        lengths = sum(len(tokens[word]) for word in words)
        return np.fromiter((t for word in words for t in tokens[word]), np.int32, lengths)

    def decode(self, tokens: Int[np.ndarray, " tokens"]) -> bytes:
        return b"".join(self.pieces[token] for token in tokens)

    @cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: token for token, pair in enumerate(self.merges, _BYTES)}

    def _encode_word(self, word: bytes) -> list[int]:
        """Merges in the order in which they were learnt, as in training."""
        tokens = list(word)
        while known := [self._ranks[pair] for pair in pairwise(tokens) if pair in self._ranks]:
            first = min(known)
            tokens = _merged(tokens, self.merges[first - _BYTES], first)
        return tokens


def byte_tokens(text: bytes) -> Tokenizer:
    """Returns the tokenizer of the 256 bytes; there is nothing to learn from the text."""
    del text
    return Tokenizer()


def byte_pair_encoding(text: bytes, *, size: int = 4096) -> Tokenizer:
    """Returns a tokenizer that writes the text, and others like it, in few tokens.

    It starts from the bytes and again and again makes the most frequent pair of neighbours a
    token, of several the pair of the smallest numbers, until there are `size` tokens or no pair is
    there twice. A token is within a word with the space before it, or within another such run of
    digits, signs or spaces. Half a megabyte takes a second.

    Args:
      text: what is trained on.
      size: of the vocabulary, at least 256; a short text may not have as many.

    Raises:
      UserError: a size below 256.

    References: Sennrich et al. 2016, "Neural machine translation of rare words with subword units",
    section 3.2. On bytes: Radford et al. 2019, "Language models are unsupervised multitask
    learners", section 2.2.
    """
    if size < _BYTES:
        raise UserError(
            f"size={size} must be at least 256: any byte is a token, and pairs are more"
        )
    return Tokenizer(_learn_merges(text, size - _BYTES))


TOKENIZERS = {"bytes": byte_tokens, "bpe": byte_pair_encoding}
"""Each makes a `Tokenizer` from the text to train on."""


def _learn_merges(text: bytes, most: int) -> tuple[Pair, ...]:
    pairs, merges = _Pairs(Counter(_WORDS.findall(text))), []
    while len(merges) < most and (pair := pairs.most_frequent()):
        pairs.merge(pair, _BYTES + len(merges))
        merges.append(pair)
    return tuple(merges)


class _Pairs:
    """How often each pair of neighbours is in words, kept up to date while pairs are merged."""

    def __init__(self, words: Counter[bytes]):
        self._words, self._times = [list(word) for word in words], list(words.values())
        self._counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)  # Words that have or had it.
        self._queue: list[tuple[int, Pair]] = []
        changes: Counter[Pair] = Counter()
        for i in range(len(self._words)):
            self._count(i, 1, changes)
        self._update(changes)

    def most_frequent(self) -> Pair | None:
        """Returns the pair, of several the smallest; None if none is there twice."""
        while self._queue:
            count, pair = heapq.heappop(self._queue)
            if -count == self._counts[pair]:  # Else it has changed, and is in the queue again.
                return pair if -count > 1 else None
        return None

    def merge(self, pair: Pair, token: int) -> None:
        changes: Counter[Pair] = Counter()
        for i in self._places.pop(pair):
            self._count(i, -1, changes)
            self._words[i] = _merged(self._words[i], pair, token)
            self._count(i, 1, changes)
        self._update(changes)

    def _count(self, i: int, sign: int, changes: Counter[Pair]) -> None:
        for pair in pairwise(self._words[i]):
            changes[pair] += sign * self._times[i]
            self._places[pair].add(i)

    def _update(self, changes: Counter[Pair]) -> None:
        self._counts.update(changes)
        for pair in changes:
            heapq.heappush(self._queue, (-self._counts[pair], pair))


def _merged(tokens: list[int], pair: Pair, token: int) -> list[int]:
    """Returns the tokens with the pair replaced by the token, wherever it is, from the left."""
    merged, i = [], 0
    while i < len(tokens):
        found = tuple(tokens[i : i + 2]) == pair
        merged.append(token if found else tokens[i])
        i += 2 if found else 1
    return merged


class Windows(NamedTuple):
    """Tokens in rows of one length: each label is what follows the inputs up to its place."""

    inputs: Int[np.ndarray, "windows length"]
    labels: Int[np.ndarray, "windows length"]
    where: Bool[np.ndarray, "windows length"]


def windows(tokens: Int[np.ndarray, " tokens"], length: int) -> Windows:
    """Cuts a text into windows, one after the other, in which every token is a label once.

    The first input of a window is the label before it, that of the first window token 0, the byte
    that no text begins with. What the last window is longer than the text is masked by `where`.

    Raises:
      UserError: a length below 1, or no tokens.
    """
    if length < 1 or not len(tokens):
        raise UserError(
            f"cannot cut {len(tokens)} tokens into windows of length={length}; both must be above 0"
        )
    count = -(-len(tokens) // length)
    padded = np.zeros(count * length + 1, np.int32)
    padded[1 : len(tokens) + 1] = tokens
    where = np.arange(count * length) < len(tokens)
    rows = (count, length)
    inputs = np.where(where, padded[:-1], 0)
    return Windows(inputs.reshape(rows), padded[1:].reshape(rows), where.reshape(rows))
