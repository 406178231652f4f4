"""A checkpoint is restored as it was saved, bit for bit, or not at all."""

import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax.errors import UserError
from xent_jax.training import checkpoint
from xent_jax.training.checkpoint import Checkpointer

ROOT = Path(__file__).parents[2]


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    ema_params: Any


def state_of(step: int) -> State:
    """A small state, all of whose leaves depend on the step."""
    params = {"kernel": jnp.full((3, 4), step, jnp.float32), "bias": jnp.arange(4.0) - step}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), optimizer.init(params))
    return State(jnp.asarray(step, jnp.int32), params, opt_state, None)


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape, a.sharding) == (b.dtype, b.shape, b.sharding)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1 and 2."""
    checkpoints = Checkpointer(tmp_path / "run")
    for step in (1, 2):
        checkpoints.save(step, state_of(step), {"tally": {"loss": step / 3}})
    return checkpoints


def test_every_bit_type_and_sharding_comes_back(tmp_path):
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    bits = np.random.default_rng(0).integers(2**32, size=(16, 8), dtype=np.uint32)
    state = {
        "float32": jax.device_put(bits.view(np.float32), split),  # NaNs of many kinds among them
        "bfloat16": jax.device_put(bits.view(jnp.bfloat16), whole),
        "float16": jnp.asarray(bits.view(np.float16)),
        "minus zero": jax.device_put(np.full(8, -0.0, np.float32), whole),
        "scalars": (jnp.uint32(2**32 - 1), jnp.int8(-128), jnp.asarray(True)),
        "nothing": [None, {}, ()],
        "state": state_of(7),
    }
    metadata = {"tally": {"loss": 0.1 + 0.2}, "names": ["ä", None, True]}
    Checkpointer(tmp_path / "run").save(7, state, metadata)
    restored = Checkpointer(tmp_path / "run").restore_newest(state)
    assert restored is not None
    step, actual, told = restored
    assert (step, told) == (7, metadata)
    assert_same(actual, state)


def test_restores_onto_other_devices(tmp_path):
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    values = np.arange(16.0, dtype=np.float32)
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, {"x": jax.device_put(values, NamedSharding(mesh, P("data")))}, {})
    half = NamedSharding(Mesh(np.asarray(jax.devices()[:4]), ("data",)), P("data"))
    abstract = {"x": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=half)}
    restored = checkpoints.restore_newest(abstract)
    assert restored is not None
    assert_same(restored[1], {"x": jax.device_put(values, half)})


def test_keeps_the_newest(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    assert checkpoints.steps() == []
    assert checkpoints.restore_newest(state_of(0)) is None
    for step in (9, 10, 100):
        checkpoints.save(step, state_of(step), {})
    assert checkpoints.steps() == [10, 100]
    assert names(tmp_path) == ["step_00000010", "step_00000100"]
    with pytest.raises(ValueError, match="step 100 is not after step 100"):
        checkpoints.save(100, state_of(100), {})
    with pytest.raises(UserError, match="keep=0"):
        Checkpointer(tmp_path, keep=0)


def damages(file: Path):
    """Yields after each way of damaging the file."""
    data = file.read_bytes()
    for place in {0, len(data) // 2, len(data) - 1}:
        # The least flip turns an ASCII digit or letter into another.
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        yield f"flipped byte {place}"
    file.write_bytes(data[:-1])
    yield "truncated"
    file.write_bytes(b"")
    yield "emptied"
    file.unlink()
    yield "missing"


def test_a_damaged_file_is_found_wherever_it_is(saved, tmp_path, caplog):
    template, newest = tmp_path / "run", "step_00000002"
    files = [p.relative_to(template) for p in (template / newest).rglob("*") if p.is_file()]
    assert {"SHA256SUMS", "checkpoint.json", "_METADATA"} < {file.name for file in files}
    for number, file in enumerate(files):
        copy = Checkpointer(shutil.copytree(template, tmp_path / str(number)))
        for how in damages(copy.directory / file):
            # The step that a run falls back to must itself be sound, so this asks no more.
            told = checkpoint._damage(copy.directory / newest)
            assert told is not None, (file, how)
            assert told.startswith("SHA256SUMS was changed") or file.name in told, (file, how)
        assert copy._newest_sound() == 1
        assert names(copy.directory) == ["step_00000001", "step_00000002.damaged"]
        warning = caplog.messages.pop()
        assert "step 2" in warning
        assert "using that of step 1" in warning
        assert "\n" not in warning
        caplog.clear()


def test_falls_back_and_goes_on(saved, caplog):
    directory = saved.directory
    array = next((directory / "step_00000002/arrays").rglob("d/*"))
    array.write_bytes(array.read_bytes()[:-1] + b"?")
    step, state, metadata = saved.restore_newest(state_of(0))
    assert (step, metadata) == (1, {"tally": {"loss": 1 / 3}})
    assert_same(state, state_of(1))
    assert len(caplog.messages) == 1
    saved.save(2, state_of(2), {})  # the run reaches that step again
    assert saved.steps() == [1, 2]
    assert_same(saved.restore_newest(state_of(0))[1], state_of(2))


def test_without_a_sound_one_there_is_none(saved, caplog):
    for step in saved.steps():
        (saved.directory / f"step_{step:08d}/SHA256SUMS").unlink()
    assert saved.restore_newest(state_of(0)) is None
    assert len(caplog.messages) == 2
    assert "there is no older one" in caplog.messages[-1]


def test_foreign_files_do_no_harm(saved, caplog):
    (saved.directory / "step_00000002/.DS_Store").write_text("left by a file browser")
    (saved.directory / "notes.txt").write_text("mine")
    assert saved.restore_newest(state_of(0))[0] == 2
    assert not caplog.messages


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_sha256sum_verifies_a_checkpoint(saved):
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    done = subprocess.run(command, cwd=saved.directory / "step_00000002", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_unfinished_ones_are_deleted_at_the_start(saved):
    shutil.copytree(saved.directory / "step_00000002", saved.directory / "step_00000003.unfinished")
    assert saved.steps() == [1, 2]
    assert Checkpointer(saved.directory).steps() == [1, 2]
    assert names(saved.directory) == ["step_00000001", "step_00000002"]


def test_another_state_is_refused(saved):
    other = state_of(0)._replace(ema_params={"bias": jnp.zeros(4)})
    with pytest.raises(UserError, match=r"nothing instead of float32\[4\] at .ema_params\['bias'"):
        saved.restore_newest(other)
    wider = state_of(0)._replace(step=jnp.zeros((), jnp.uint32))
    with pytest.raises(UserError, match=r"int32\[\] instead of uint32\[\] at .step"):
        saved.restore_newest(wider)
    assert saved.steps() == [1, 2]


def fails(number: int):
    def function(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    return function


def fails_in_tensorstore(*args: Any, **kwargs: Any) -> None:
    raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes [os_error_code='28']")


@pytest.mark.parametrize(
    ("place", "name", "failure", "told"),
    [
        (Path, "mkdir", fails(errno.EROFS), "Read-only file system"),
        (ocp.Checkpointer, "save", fails_in_tensorstore, "No space left on device"),
        (Path, "write_bytes", fails(errno.ENOSPC), "No space left on device"),
        (os, "fsync", fails(errno.EIO), "Input/output error"),
        (Path, "rename", fails(errno.EACCES), "Permission denied"),
    ],
)
def test_a_failing_disk_leaves_the_last_checkpoint(saved, monkeypatch, place, name, failure, told):
    with monkeypatch.context() as patch:
        patch.setattr(place, name, failure)
        with pytest.raises(UserError) as caught:
            saved.save(3, state_of(3), {})
    assert f"step 3 cannot be saved in {saved.directory}: {told}" in str(caught.value)
    assert "the checkpoint of step 2 is kept" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(saved.directory) == ["step_00000001", "step_00000002"]
    assert_same(saved.restore_newest(state_of(0))[1], state_of(2))
    saved.save(3, state_of(3), {})
    assert saved.steps() == [2, 3]


def test_other_errors_are_not_disguised(saved, monkeypatch):
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved.save(3, state_of(3), {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        saved.save(3, state_of(3), {"tally": object()})
    assert names(saved.directory) == ["step_00000001", "step_00000002"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"no checkpoints can be kept in .*file: File exists"):
        Checkpointer(tmp_path / "file")


def test_a_disk_that_is_really_full(tmp_path, capfd, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        checkpoints = Checkpointer(disk / "run")
        checkpoints.save(1, state_of(1), {})
        noise = {"x": jnp.asarray(np.random.default_rng(0).normal(size=2**16), jnp.float32)}
        capfd.readouterr()
        with pytest.raises(
            UserError, match=r"No space left on device .the checkpoint of step 1 is"
        ):
            checkpoints.save(2, noise, {})
        assert capfd.readouterr() == ("", "")
        assert not caplog.messages  # orbax's threads log their traces by default
        assert names(checkpoints.directory) == ["step_00000001"]
        assert_same(checkpoints.restore_newest(state_of(0))[1], state_of(1))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# The state of a step, for the processes below: large enough for a kill to hit its writing.
STATE = """
import sys
import jax, jax.numpy as jnp, numpy as np
from xent_jax.training.checkpoint import Checkpointer

def state_of(step):
    noise = np.random.default_rng(step).normal(size=(256, 256))
    return {"step": jnp.int32(step), "noise": jnp.asarray(noise, jnp.float32)}
"""

SAVES_FOREVER = """
checkpoints = Checkpointer(sys.argv[1])
for step in range(1, 10**6):
    checkpoints.save(step, state_of(step), {"step": step})
    print(step, flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-c", STATE + code, *arguments]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)


def test_a_kill_at_any_moment_leaves_a_sound_checkpoint(tmp_path):
    directories = [tmp_path / str(number) for number in range(4)]
    children = [start(SAVES_FOREVER, str(directory)) for directory in directories]
    moment = random.Random(time.time_ns())
    last, leftovers = [], 0
    for directory, child in zip(directories, children, strict=True):
        told = child.stdout.readline()
        time.sleep(moment.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        with child:
            told, errors = told + child.stdout.read(), child.stderr.read()
        assert (child.returncode, errors) == (-signal.SIGKILL, "")
        last.append(int(told.split()[-1]))
        leftovers += any(name.endswith(".unfinished") for name in names(directory))
    scope: dict[str, Any] = {}
    exec(STATE, scope)
    for directory, told_step in zip(directories, last, strict=True):
        checkpoints = Checkpointer(directory)
        step, state, metadata = checkpoints.restore_newest(scope["state_of"](0))
        assert step - told_step in (0, 1)  # killed between the renaming and the telling, perhaps
        assert metadata == {"step": step}
        assert_same(state, scope["state_of"](step))
        assert names(directory) == [f"step_{s:08d}" for s in checkpoints.steps()]
    assert leftovers, "no kill hit a save: the test shows nothing"


TWO_PROCESSES = """
import os, pathlib
import xent_jax.training.checkpoint as checkpoint
from xent_jax.errors import UserError
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
first = jax.process_index() == 0
mesh = Mesh(np.asarray(jax.devices()), ("data",))

def sharded(step):
    def place(x, *spec):
        x, sharding = np.asarray(x), NamedSharding(mesh, P(*spec))
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
    state = state_of(step)
    return {"step": place(state["step"]), "noise": place(state["noise"], "data")}

def restored_step():
    step, state, metadata = checkpoints.restore_newest(sharded(0))
    assert metadata == {"step": step}
    for name, x in sharded(step).items():
        assert state[name].sharding == x.sharding
        for ours, theirs in zip(state[name].addressable_shards, x.addressable_shards):
            assert np.array_equal(ours.data, theirs.data)
    return step

checkpoints = Checkpointer(sys.argv[1])
for step in (1, 2, 3):
    checkpoints.save(step, sharded(step), {"step": step})
print(checkpoints.steps(), restored_step())

if first:  # as on a disk that is full for the process that names the checkpoints
    rename = pathlib.Path.rename
    pathlib.Path.rename = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
try:
    checkpoints.save(4, sharded(4), {})
except UserError as error:
    print("first" if first else "second", str(error).partition(": ")[2][:23])
if first:
    pathlib.Path.rename = rename
    file = next((checkpoints.directory / "step_00000003").rglob("d/*"))
    file.write_bytes(file.read_bytes()[::-1])
print(restored_step())
"""


def test_two_processes_save_and_fail_together(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    children = [start(TWO_PROCESSES, str(tmp_path), address, str(i)) for i in (0, 1)]
    try:
        (first, errors), (second, more) = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
    told = [[line for line in out.splitlines() if "Gloo" not in line] for out in (first, second)]
    assert told[0] == ["[2, 3] 3", "first No space left on device", "2"], errors
    assert told[1] == ["[2, 3] 3", "second ", "2"], more
    assert [child.returncode for child in children] == [0, 0]
    assert names(tmp_path) == ["step_00000002", "step_00000003.damaged"]
