"""How the command lines start and fail: what is wrong is told in one line, without a traceback."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from xent_jax.errors import Diverged, Interrupted, UserError

_EXPECTED = (UserError, Diverged, Interrupted)
# Errors of the machine, not of the program: the disk is full or the place cannot be written.
_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def define_config() -> flags.FlagHolder:
    """Defines --config=FILE and --config.KEY=VALUE; `check_config` judges keys and types."""
    return config_flags.DEFINE_config_file(
        "config", None, "The config's file.", lock_config=False, accept_new_attributes=True
    )


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
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(str(error).splitlines()[0], UserError.exit_status)
    except Exception as error:  # ml_collections raises what the config's file raised.
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        _fail(f"the config cannot be used: {lines[-1].strip()}", UserError.exit_status)
    return []


def _fail(message: str, status: int) -> None:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
