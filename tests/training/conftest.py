"""Tests of training compile many whole programs, each of which runs for milliseconds."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """Leaves out most of LLVM's passes, which halves the time of compilation, the most of it all.

    `test_resume.py` runs what users run, in processes of its own.
    """
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
