"""Records survive crashes, hold any number, and are JSON for every reader."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from xent_jax.errors import UserError
from xent_jax.reporting import records

RECORD = {"run": "a", "step": 3, "test": {"accuracy": 0.1 + 0.2, "names": ["ä", None, True]}}


def no_constants(name: str):
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


def test_what_is_appended_is_read(path):
    assert records.read(path) == []
    records.append(path, RECORD)
    records.append(str(path), RECORD | {"step": 4})
    assert records.read(path) == [RECORD, RECORD | {"step": 4}]
    assert path.read_bytes().count(b"\n") == 2


def test_arrays_and_scalars_become_lists_and_numbers(path):
    matrix = [[1, 2], [3, 4]]
    record = {
        "numpy": np.asarray(matrix, np.int64),
        "jax": jnp.asarray(matrix, jnp.int32),
        "scalars": (np.float64(0.1), np.int32(7), np.bool_(True), jnp.float32(0.5)),
        "bfloat16": jnp.asarray([1.5, jnp.inf], jnp.bfloat16),
        7: "a key that is no string",
    }
    records.append(path, record)
    assert records.read(path) == [
        {
            "numpy": matrix,
            "jax": matrix,
            "scalars": [0.1, 7, True, 0.5],
            "bfloat16": [1.5, float("inf")],
            "7": "a key that is no string",
        }
    ]


def test_numbers_that_are_not_finite_stay_json(path):
    values = [float("nan"), float("inf"), -float("inf"), np.float32("nan")]
    records.append(path, {"step": 1, "values": values})
    told = json.loads(path.read_text(), parse_constant=no_constants)
    assert told["values"] == ["NaN", "Infinity", "-Infinity", "NaN"]
    np.testing.assert_array_equal(records.read(path)[0]["values"], values)


def test_what_no_record_can_hold_is_named_and_nothing_is_written(path):
    with pytest.raises(TypeError, match=r"record\['config'\]\['f'\]\[1\] is a set"):
        records.append(path, {"config": {"f": [1, {2}]}})
    assert not path.exists()


@pytest.mark.parametrize("length", [1, 10, 70_000])
def test_half_a_line_is_left_out_and_then_removed(path, length):
    records.append(path, RECORD)
    whole = path.read_bytes()
    half = json.dumps(RECORD | {"long": "x" * length}).encode()
    for end in (half[:1], half[: length // 2 + 1], half, b"\0" * length):
        path.write_bytes(whole + end)
        assert records.read(path) == [RECORD]
        records.append(path, RECORD)
        assert path.read_bytes() == whole * 2
    path.write_bytes(half)
    records.append(path, RECORD)
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(path):
    path.write_text(json.dumps(RECORD) + "\n{oops}\n" + json.dumps(RECORD) + "\n")
    with pytest.raises(UserError, match=r"records.jsonl, line 2 is damaged .*; delete that line"):
        records.read(path)
    path.write_text("3\n")
    with pytest.raises(UserError, match="line 1 is no record but 3"):
        records.read(path)


def test_truncate_drops_later_records_and_half_lines(path):
    records.truncate(path, 5)
    assert not path.exists()
    for step in (1, 2, 3, 2):
        records.append(path, {"step": step, "x": 1 / 3})
    lines = path.read_bytes().splitlines(keepends=True)
    records.truncate(path, 3)
    assert path.read_bytes() == b"".join(lines)
    path.write_bytes(b"".join(lines) + b'{"step": 1')
    records.truncate(path, 2)
    assert path.read_bytes() == lines[0] + lines[1] + lines[3]
    records.truncate(path, 0)
    assert path.read_bytes() == b""
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("room", [0, 10])
def test_a_full_disk_leaves_the_file_as_it_was(path, monkeypatch, room):
    records.append(path, RECORD)
    whole, write, calls = path.read_bytes(), os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1 and room:
            return write(descriptor, data[:room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left") as caught:
            records.append(path, RECORD)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_bytes() == whole


APPENDS_FOREVER = """
import sys
from xent_jax.reporting import records
for step in range(10**9):
    records.append(sys.argv[1], {"step": step, "long": "x" * 100_000})
    print(step, flush=True)
"""


def test_a_kill_leaves_whole_records(path):
    command = [sys.executable, "-c", APPENDS_FOREVER, str(path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        for _ in range(20):
            child.stdout.readline()
        child.kill()
        told = [*range(20), *map(int, child.stdout.read().split())]
    steps = [record["step"] for record in records.read(path)]
    assert steps[: len(told)] == told
    assert steps == list(range(len(steps)))


def test_the_environment_is_described(path):
    environment = records.describe_environment()
    assert set(environment["versions"]) >= {"python", "xent_jax", "jax", "flax", "optax"}
    assert environment["device"]["count"] == 8
    records.append(path, environment)
    assert records.read(path) == [environment]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose tracked package poses as this one."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("needs git")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    # As within a git hook, which must not lead elsewhere.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    for command in ("init -q", "add package", "commit -q -m x"):
        who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        subprocess.run([git, *who, *command.split()], cwd=tmp_path, env=clean, check=True)
    monkeypatch.setattr(records, "_ROOT", package)
    return package


def test_the_commit_is_told_and_whether_it_was_changed(checkout):
    told = records._git()
    assert (len(told["commit"]), told["dirty"]) == (40, False)
    (checkout / "__init__.py").write_text("changed = True")
    assert records._git() == told | {"dirty": True}


def test_no_commit_where_the_package_is_not_tracked(checkout, monkeypatch):
    installed = checkout / "site-packages"
    installed.mkdir()
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(records, "_ROOT", installed)
    assert records._git() is None
    monkeypatch.setattr(records, "_ROOT", checkout)
    monkeypatch.setenv("PATH", "")
    assert records._git() is None
