"""How much memory stacks may take."""

from pathlib import Path

import jax
import pytest

from xent_jax.training import stack

TOLD = "MemTotal: 4000 kB\nMemFree: 10 kB\nMemAvailable: 3000 kB\nHugePages_Total: 0\n"


def test_files_that_are_cached_leave_their_memory_to_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "meminfo").write_text(TOLD)
    monkeypatch.setattr(stack, "_MEMORY", tmp_path / "meminfo")
    assert stack._memory(jax.devices("cpu")[:2]) == 0.5 * 3000 * 1024 / 2
    monkeypatch.setattr(stack, "_MEMORY", tmp_path / "not Linux")
    assert stack._memory(jax.devices("cpu")[:2]) > 2**20
