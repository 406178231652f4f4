"""Perplexity, bits per character and error rates of sequences."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xent_jax.errors import UserError
from xent_jax.metrics import (
    bits_per_character,
    character_error_rate,
    edit_distance,
    token_perplexity,
    word_error_rate,
)


def recursive_distance(a, b):
    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
        )

    return distance(len(a), len(b))


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_edit_distance_is_that_of_the_recursion(a, b):
    assert edit_distance(a, b) == recursive_distance(a, b)
    assert edit_distance(list(a), list(b)) == edit_distance(b, a)


def test_known_distances():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance([], []) == 0


def test_error_rates_are_over_the_whole_corpus():
    references = ["the cat sat on the mat", "hello"]
    hypotheses = ["the cat sit on mat", "hello there"]
    assert word_error_rate(references, hypotheses) == (2 + 1) / 7
    assert character_error_rate(["abcd", "ef"], ["abxd", "efgh"]) == 3 / 6
    assert word_error_rate(references, references) == 0
    assert math.isnan(word_error_rate([" "], ["a"]))
    with pytest.raises(UserError, match="2 references but 1 hypotheses"):
        word_error_rate(references, ["a"])


def test_perplexity_and_bits():
    nll = 1000 * np.log(50)
    assert token_perplexity(np.float32(nll), 1000) == pytest.approx(50)
    assert token_perplexity(1e6, 2) == math.inf
    assert math.isnan(token_perplexity(0.0, 0))
    # 1000 tokens of 4 bits each that stand for 2000 characters: 2 bits per character.
    assert bits_per_character(1000 * np.log(16), 2000) == pytest.approx(2)
    assert math.isnan(bits_per_character(0.0, 0))
