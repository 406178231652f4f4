"""How the command lines start and fail: what is wrong is told in one line, without a traceback."""

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from xent_jax.errors import Diverged, Interrupted, UserError, nearest
from xent_jax.training import default_config

_EXPECTED = (UserError, Diverged, Interrupted)
# Errors of the machine, not of the program: the disk is full or the place cannot be written.
_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def define_config() -> flags.FlagHolder:
    """Defines --config=FILE and --config.KEY=VALUE; `check_config` judges keys and types."""
    return config_flags.DEFINE_config_file(
        "config", None, "The config's file.", lock_config=False, accept_new_attributes=True
    )


def config_file() -> str | None:
    """Returns the path given as --config, without what follows a colon; None if there is none."""
    if "config" not in flags.FLAGS or not flags.FLAGS["config"].present:
        return None
    flag: Any = flags.FLAGS["config"]
    return flag.config_filename.partition(":")[0]


def run(main: Callable[[Sequence[str]], None], *, arguments: bool = False) -> None:
    """Runs `main` as absl does, but ends expected errors in one line and a status of their own."""

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        logging.use_python_logging(quiet=True)
        try:
            if len(argv) > 1 and not arguments:
                raise UserError(f"unexpected argument {argv[1]!r}; flags look like --name=value")
            main(argv)
        except _EXPECTED as error:
            _fail(str(error), error.exit_status)
        except OSError as error:
            if error.errno not in _PLACE:
                raise
            place = f" ({error.filename})" if error.filename else ""
            _fail(
                f"{os.strerror(error.errno)}{place}; what was saved is sound: free space or choose "
                "another --workdir or --data_dir, and run the same command again",
                UserError.exit_status,
            )

    app.run(guarded, flags_parser=_parse)


def keep_compiled(workdir: Path, directory: str | None) -> None:
    """Keeps compiled programs in `directory` (default: beside the workdir) for the next run."""
    path = Path(directory) if directory is not None else workdir.parent / ".jax_cache"
    jax.config.update(
        "jax_compilation_cache_dir", str(path.absolute()) if directory != "" else None
    )


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # ml_collections raises whatever an override or a file ran into.
        _fail(_explained(argv, error), UserError.exit_status)
    path = Path(config_file() or __file__)
    if not path.is_file():
        _fail(f"--config={path}: there is no such file", UserError.exit_status)
    return rest


def _explained(argv: Sequence[str], error: Exception) -> str:
    """Returns what is wrong with the flags, in one line."""
    for flag in argv:
        override = re.match(r"--config\.(\w+)([^=]*)", flag)
        if override and override[1] not in default_config():
            near = nearest(override[1], default_config())
            return f"config.{override[1]} is not a key of a config{near}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if section := re.match(
        r"flag --(config\.\w+)=(.*): Failed to parse .* as a ConfigDict", lines[0]
    ):
        return f"{section[1]} is a section; did you mean --{section[1]}.name={section[2]}?"
    if "Error whilst parsing config file" in lines[0]:
        return f"the config's file: {lines[-1].removeprefix('xent_jax.errors.UserError: ')}"
    return lines[0].strip("\"'")


def _fail(message: str, status: int) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
