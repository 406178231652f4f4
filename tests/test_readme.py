"""What the README shows runs, and what it lists is there."""

import re
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments import catalogue

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    # A user's program promotes as JAX does by default.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    assert not names["gradient"][2].any()  # the padded row's, as the first block says
    assert names["params"]["params"]["kernel"].shape == (4, 3)


def test_catalogue_is_current() -> None:
    assert catalogue.with_catalogue(README) == README, "run `make docs`"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"configs/\w+\.py", README))))
def test_configs_exist(path: str) -> None:
    assert (ROOT / path).exists()
