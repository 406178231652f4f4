"""Records: one line of JSON per evaluation, appended so that a crash never spoils the file.

A line counts when it ends in a newline. It is written with one call and synced to the disk, so a
crash leaves at most half a line at the end, which `read` leaves out and the next `append` removes.

The lines are strict JSON (RFC 8259), which has no NaN: numbers that are not finite are written
as the strings "NaN", "Infinity" and "-Infinity", as ProtoJSON does, and `read` makes
floats of them again.
"""

import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xent_jax.errors import UserError

Record = dict[str, Any]

_NOT_FINITE = {text: float(text) for text in ("NaN", "Infinity", "-Infinity")}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_ROOT = Path(__file__).parents[1]  # the package, wherever it is installed


def append(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Appends one record, which is on the disk when this returns; makes the file if missing.

    As `append_all` of one.
    """
    append_all(path, [record])


def append_all(path: str | os.PathLike[str], new: Iterable[Mapping[str, Any]]) -> None:
    """Appends records, which are on the disk when this returns; makes the file if missing.

    They are written in one piece, of which a crash may leave the first few.

    Args:
      path: a file that no other process writes to.
      new: nested mappings and sequences of numbers, strings, booleans and None, and of NumPy or
        JAX arrays and scalars, which become lists and numbers.

    Raises:
      TypeError: names a value that no record can hold.
      OSError: the disk is full or must not be written. The file is as it was before.
    """
    texts = [json.dumps(_plain(record, "record"), allow_nan=False) for record in new]
    lines = "".join(f"{text}\n" for text in texts).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        end = _end_of_last_line(descriptor)
        os.ftruncate(descriptor, end)
        try:
            _write_at_once(descriptor, lines)
        except OSError as error:
            os.ftruncate(descriptor, end)
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
    if end == 0:
        _sync_folder(Path(path))  # so that the new file's name is on the disk too


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Returns all records, oldest first; none if there is no such file.

    Half a line at the end, left by a crash, is left out.

    Raises:
      UserError: names a whole line that is not a record.
    """
    return [_parsed(path, number, line) for number, line in enumerate(_lines(path), start=1)]


def truncate(path: str | os.PathLike[str], step: int) -> None:
    """Drops the records of steps after `step`, and half a line, in one atomic replacement.

    A resumed run calls this with the step it resumes from, as it will write those records again.
    """
    lines = _lines(path)
    kept = [
        line
        for number, line in enumerate(lines, start=1)
        if _parsed(path, number, line).get("step", 0) <= step
    ]
    data, path = b"".join(kept), Path(path)
    if not path.exists() or path.stat().st_size == len(data):
        return
    draft = path.with_name(path.name + ".unfinished")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path)


@functools.cache
def describe_environment() -> Record:
    """Returns what the numbers of a record may depend on besides its config.

    The versions of Python and of the packages, platform, processor, devices, XLA's flags and,
    where the sources are in a git checkout, its commit and whether tracked files were changed
    (`git` is None elsewhere).
    """
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": {"model": _processor(), "cores": os.cpu_count()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": _git(),
    }


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = np.asarray(value).tolist()
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else _named(value)
        case Mapping():
            return {str(key): _plain(item, f"{place}[{key!r}]") for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{place} is a {type(value).__name__}, which no record can hold: {value!r}")


def _named(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _with_floats(value: Any) -> Any:
    """Undoes `_named` everywhere in a record."""
    match value:
        case str():
            return _NOT_FINITE.get(value, value)
        case dict():
            return {key: _with_floats(item) for key, item in value.items()}
        case list():
            return [_with_floats(item) for item in value]
    return value


def _lines(path: str | os.PathLike[str]) -> list[bytes]:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def _parsed(path: str | os.PathLike[str], number: int, line: bytes) -> Record:
    try:
        record = _with_floats(json.loads(line))
    except ValueError as error:
        raise UserError(f"{path}, line {number} is damaged ({error}); delete that line") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}, line {number} is no record but {record!r}; delete that line")
    return record


def _end_of_last_line(descriptor: int) -> int:
    """Returns how long the file is without half a line at its end."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 2**16)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write_at_once(descriptor: int, line: bytes) -> None:
    written = os.write(descriptor, line)
    if written < len(line):  # The disk had room for a part; this tells why there is no more.
        os.write(descriptor, line[written:])
    os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str | None]:
    # The package's own is that of the sources in use, which need not be installed.
    import xent_jax

    found: dict[str, str | None] = {"xent_jax": xent_jax.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()


def _git() -> Record | None:
    # An installed copy may lie in a checkout of something else, which does not track it.
    tracked = _run_git("ls-files", "--error-unmatch", "__init__.py")
    described = _run_git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    if tracked is None or not described:
        return None
    commit, _, dirty = described.partition("-")
    return {"commit": commit, "dirty": bool(dirty)}


def _run_git(*arguments: str) -> str | None:
    # A git hook's GIT_DIR would name its own repository, and a lock could stop the user's commit.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
