"""Checkpoints that are sound or ignored: written aside, checksummed, renamed into place.

The checkpoint of step 1200 is a folder `step_00001200` that holds

    arrays/           the state, as orbax writes it
    checkpoint.json   the type and shape of every array, and the caller's metadata
    SHA256SUMS        the checksums of all these files, and in its last line its own

The folder gets its name when all of it is on the disk, so a name means a complete checkpoint.
Restoring verifies every byte first, as a damaged array file would else yield wrong numbers without
a word. By hand: `sha256sum --check SHA256SUMS` in the folder.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from xent_jax.errors import UserError

_ARRAYS, _DESCRIPTION, _MANIFEST = "arrays", "checkpoint.json", "SHA256SUMS"
_UNFINISHED, _DAMAGED = ".unfinished", ".damaged"
_NONE, _FAILED = -1, -2


class Checkpointer:
    """Saves and restores the state of one run in a folder of its own.

    Every process of a run calls the same methods with the same steps; arrays may be sharded over
    all of them, on a disk that they share. The first process alone names, verifies and deletes.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        """Opens `directory`, makes it if missing, and deletes what an earlier run left unfinished.

        Args:
          directory: where the checkpoints of this run, and of no other, lie.
          keep: how many of the newest are kept.

        Raises:
          UserError: the folder cannot be made.
        """
        if keep < 1:
            raise UserError(f"keep={keep} checkpoints: the least is 1")
        self.directory = Path(directory).absolute()
        self.keep = keep
        _on_first(self._open)

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, oldest first."""
        names = [path.name for path in self.directory.glob("step_*")]
        return sorted(int(name[5:]) for name in names if name[5:].isdecimal())

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Saves `state` as the checkpoint of `step`, then deletes those beyond the newest `keep`.

        Args:
          step: later than any that was saved.
          state: a pytree of `jax.Array`s (no typed keys, none of size 0); None is kept.
          metadata: whatever JSON can hold.

        Raises:
          UserError: the disk is full, read-only or failing. The earlier checkpoints stay.
          ValueError: that step, or a later one, is saved already.
        """
        saved = self.steps()
        if saved and step <= saved[-1]:
            raise ValueError(f"step {step} is not after step {saved[-1]}, which is saved already")
        description = json.dumps({"arrays": _layout(state), "metadata": metadata}, indent=1)
        try:
            self._write(self._folder(step), state, description)
        except Exception as error:
            if (number := _system_error(error)) is None:
                raise
            raise UserError(self._refusal(step, number)) from error
        _on_first(self._prune)

    def restore_newest(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns (step, state, metadata) of the newest sound checkpoint, or None without one.

        A damaged one is set aside under a name of its own, which a warning tells in one line.

        Args:
          abstract_state: a pytree of arrays or `jax.ShapeDtypeStruct`s: the structure to restore,
            with the sharding of each array.

        Raises:
          UserError: the checkpoint holds arrays other than those, or must not be read.
        """
        step = _on_first(self._newest_sound)
        if step == _NONE:
            return None
        folder = self._folder(step)
        description = json.loads((folder / _DESCRIPTION).read_text())
        if other := _difference(description["arrays"], _layout(abstract_state)):
            raise UserError(
                f"{folder} holds another state ({other}): it was saved by another config or "
                "version; choose another folder, or delete this one"
            )
        abstract_state = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract_state)
        with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            state = reader.restore(folder / _ARRAYS, args=ocp.args.StandardRestore(abstract_state))
        return step, state, description["metadata"]

    def _folder(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"

    def _open(self) -> int:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"no checkpoints can be kept in {self.directory}: {error.strerror}"
            ) from error
        for path in self.directory.glob(f"*{_UNFINISHED}"):
            # A folder that may only be read can still be restored from.
            shutil.rmtree(path, ignore_errors=True)
        return 0

    def _write(self, folder: Path, state: Any, description: str) -> None:
        draft = folder.with_suffix(_UNFINISHED)
        try:
            _on_first(lambda: _start(draft))
            with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
                writer.save(draft / _ARRAYS, args=ocp.args.StandardSave(state))
            _on_first(lambda: _finish(draft, folder, description))
        except BaseException:
            if jax.process_index() == 0:
                shutil.rmtree(draft, ignore_errors=True)
            raise

    def _newest_sound(self) -> int:
        steps = self.steps()
        while steps:
            step = steps.pop()
            damage = _damage(self._folder(step))
            if damage is None:
                return step
            _set_aside(self._folder(step))
            older = f"using that of step {steps[-1]}" if steps else "there is no older one"
            logging.warning(
                "the checkpoint of step %d in %s is damaged (%s); %s",
                *(step, self.directory, damage, older),
            )
        return _NONE

    def _prune(self) -> int:
        for step in self.steps()[: -self.keep]:
            # A renamed folder is no checkpoint any more, however much of it is left.
            doomed = self._folder(step).with_suffix(_UNFINISHED)
            with contextlib.suppress(OSError):
                self._folder(step).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        return 0

    def _refusal(self, step: int, number: int) -> str:
        saved = self.steps()
        kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "none was saved yet"
        return (
            f"step {step} cannot be saved in {self.directory}: {os.strerror(number)} ({kept}); "
            "make room or make it writable, and run the same command again"
        )


def _on_first(action: Callable[[], int]) -> int:
    """Returns what `action` returns on the first process; the others wait, and fail if it fails."""
    if jax.process_count() == 1:
        return action()
    result, failure = _FAILED, None
    if jax.process_index() == 0:
        try:
            result = action()
        except Exception as error:
            failure = error
    result = int(multihost_utils.broadcast_one_to_all(np.int32(result)))
    if failure is not None:
        raise failure
    if result == _FAILED:
        raise UserError("the first process cannot save or restore; its own message says why")
    return result


def _start(draft: Path) -> int:
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    return 0


def _finish(draft: Path, folder: Path, description: str) -> int:
    (draft / _DESCRIPTION).write_text(description + "\n")
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(draft).as_posix()}\n" for path in files]
    (draft / _MANIFEST).write_bytes(_sealed("".join(lines).encode()))
    for path in (*draft.rglob("*"), draft):
        _sync(path)
    draft.rename(folder)
    _sync(folder.parent)
    return 0


def _sealed(lines: bytes) -> bytes:
    """A manifest's lines, and their own checksum as a comment, which sha256sum passes over."""
    return lines + f"# {hashlib.sha256(lines).hexdigest()}\n".encode()


def _damage(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None if every byte is as it was written."""
    try:
        manifest = (folder / _MANIFEST).read_bytes()
        lines = manifest[: manifest.rfind(b"#")]
        if manifest != _sealed(lines):
            return f"{_MANIFEST} was changed"
        for line in lines.decode().splitlines():
            checksum, name = line.split("  ", 1)
            if _sha256(folder / name) != checksum:
                return f"{name} was changed"
    except PermissionError as error:
        raise UserError(f"{error.filename} must not be read; change its permissions") from error
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _set_aside(folder: Path) -> None:
    aside = folder.with_suffix(_DAMAGED)
    # Where nothing may be written, the damaged one is passed over all the same.
    with contextlib.suppress(OSError):
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _layout(state: Any) -> dict[str, str]:
    """The type and shape of every array, by its place: {".params['bias']": 'float32[10]'}."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _difference(saved: dict[str, str], wanted: dict[str, str]) -> str | None:
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(name, "nothing"), wanted.get(name, "nothing")
        if there != here:
            return f"{there} instead of {here} at {name}"
    return None


def _system_error(error: Exception) -> int | None:
    """The system's error number; tensorstore tells it in the text of a ValueError."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"os_error_code='(\d+)'", str(error))
    return int(told[1]) if told else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences orbax, which logs each step it takes, and every error with its threads' traces."""
    logger = logging.get_absl_logger()
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
