"""How tokens are divided into chunks."""

import pytest

from xent_jax.linear_xent import blocks


@pytest.mark.parametrize("tokens", [0, 1, 2, 127, 128, 129, 1000, 4096, 4097, 65536])
@pytest.mark.parametrize("classes", [1, 1000, 262_144])
def test_chunks_hold_a_small_part_with_little_padding(tokens, classes):
    rows = blocks.rows_per_chunk(tokens, classes)
    chunks = -(-tokens // rows)
    assert chunks * rows - tokens < max(chunks, 1)
    assert rows <= max(blocks.FEWEST, tokens // blocks.SHARE)
    assert rows <= blocks.FEWEST or rows * classes * 4 <= blocks.LARGEST


def test_the_usual_numbers_of_tokens_need_no_padding():
    for tokens in (256, 1024, 2048, 4096, 3 * 4096, 16384):
        for classes in (1000, 32000, 50257, 128_256):
            assert tokens % blocks.rows_per_chunk(tokens, classes) == 0
