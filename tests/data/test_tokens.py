"""Tokens stand for the bytes that they were made of, and windows for every token once."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xent_jax.data.tokens import TOKENIZERS, byte_pair_encoding, byte_tokens, windows
from xent_jax.errors import UserError

SAMPLE = b"the cat and the hat: 12 cats, 12 hats.\n    the \xc3\xa9t\xc3\xa9  then\n\n" * 3
BPE = byte_pair_encoding(SAMPLE, size=300)


@given(st.binary() | st.text().map(str.encode) | st.lists(st.sampled_from(SAMPLE)).map(bytes))
def test_decoding_gives_back_any_bytes(text):
    for tokenizer in (byte_tokens(SAMPLE), BPE):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokens.dtype == np.int32
        assert ((tokens >= 0) & (tokens < tokenizer.vocabulary)).all()


def test_bytes_are_their_own_tokens():
    tokenizer = TOKENIZERS["bytes"](b"")
    assert tokenizer.encode(b"\x00a\xff").tolist() == [0, 97, 255]
    assert tokenizer.vocabulary == 256
    assert tokenizer.pieces == tuple(bytes([i]) for i in range(256))


def naive_merges(text, most):
    """Counts every pair anew before every merge, of words that hold no punctuation."""
    words = [list(b" " * (i > 0) + word) for i, word in enumerate(text.split(b" "))]
    merges = []
    while len(merges) < most:
        counts = Counter(pair for word in words for pair in pairwise(word))
        pair, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        if count < 2:
            break
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == pair:
                    word[i : i + 2] = [256 + len(merges)]
                i += 1
        merges.append(pair)
    return tuple(merges), [token for word in words for token in word]


@pytest.mark.parametrize("seed", range(4))
def test_merges_are_those_of_the_plain_algorithm(seed):
    rng = np.random.default_rng(seed)
    letters = rng.choice(list(b"aaaabbc  "), 400).astype(np.uint8).tobytes()
    text = b" ".join(letters.split())
    for size in (256, 257, 270, 2000):
        merges, tokens = naive_merges(text, size - 256)
        tokenizer = byte_pair_encoding(text, size=size)
        assert tokenizer.merges == merges
        assert tokenizer.encode(text).tolist() == tokens


def test_tokens_do_not_go_beyond_a_word():
    assert {b"the", b" the", b" 12"} <= set(byte_pair_encoding(SAMPLE, size=2000).pieces)
    for piece in BPE.pieces[256:]:
        assert b" " not in piece[1:] or not piece.strip()
        assert not (piece.strip(b" .:,").isalpha() and piece[-1:] in b".:,")
    accent = "é".encode()
    assert byte_pair_encoding((b"-" + accent) * 9, size=300).pieces[256:] == (accent,)


def test_a_vocabulary_ends_where_no_pair_is_there_twice():
    assert byte_pair_encoding(b"abcdef", size=300).vocabulary == 256
    assert byte_pair_encoding(b"", size=300).vocabulary == 256
    assert byte_pair_encoding(b"abab", size=300).pieces[256:] == (b"ab",)


def test_a_run_without_a_space_is_not_one_long_word():
    tokenizer = byte_pair_encoding(b"a" * 100_000, size=300)
    assert max(map(len, tokenizer.pieces)) == 64
    assert len(tokenizer.encode(b"a" * 6_400)) == 100


def test_too_small_a_vocabulary_is_told():
    with pytest.raises(UserError, match="size=255 must be at least 256"):
        byte_pair_encoding(SAMPLE, size=255)


@given(st.integers(1, 40), st.integers(1, 12))
def test_windows_predict_every_token_once_from_the_one_before(count, length):
    tokens = np.random.default_rng(count).integers(1, 999, count, np.int32)
    cut = windows(tokens, length)
    np.testing.assert_array_equal(cut.labels[cut.where], tokens)
    np.testing.assert_array_equal(cut.inputs[cut.where], [0, *tokens[:-1]])
    assert cut.where.shape == cut.inputs.shape == cut.labels.shape == (-(-count // length), length)
    assert not cut.inputs[~cut.where].any()
    assert not cut.labels[~cut.where].any()
    assert (np.diff(cut.where.astype(int).ravel()) <= 0).all()  # What is masked is at the end,
    assert cut.where[:, 0].all()  # and no window is masked as a whole.
    assert (cut.inputs.dtype, cut.labels.dtype, cut.where.dtype) == (np.int32, np.int32, bool)


@pytest.mark.parametrize(("tokens", "length"), [([1, 2], 0), ([], 4), ([1], -1)])
def test_windows_of_nothing_are_told(tokens, length):
    with pytest.raises(UserError, match=rf"cut {len(tokens)} tokens .* length={length}; both must"):
        windows(np.array(tokens, np.int32), length)
