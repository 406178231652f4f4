"""How the command lines start and fail: what is wrong is told in one line, without a traceback."""

import errno
import inspect
import os
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from xent_jax.errors import Diverged, Interrupted, UserError, nearest
from xent_jax.training import default_study

_EXPECTED = (UserError, Diverged, Interrupted)
# Errors of the machine, not of the program: the disk is full or the place cannot be written.
_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def define_config() -> flags.FlagHolder:
    """Defines --config=FILE and --config.KEY=VALUE; `check_config` judges keys and types."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "The config's file; any key: --config.KEY=VALUE",
        lock_config=False,
        accept_new_attributes=True,
    )


def config_file() -> str | None:
    """Returns the path given as --config, without what follows a colon; None if there is none."""
    if "config" not in flags.FLAGS or not flags.FLAGS["config"].present:
        return None
    flag: Any = flags.FLAGS["config"]
    return flag.config_filename.partition(":")[0]


def config_variant() -> str:
    """Returns what follows the colon of --config=FILE:VARIANT, if anything does."""
    flag: Any = flags.FLAGS["config"]
    return flag.config_filename.partition(":")[2]


def default_workdir() -> Path:
    """Returns the folder of what --config=FILE:VARIANT names: runs/FILE_VARIANT, or runs/FILE."""
    stem, variant = Path(config_file() or "").stem, config_variant()
    return Path("runs") / (f"{stem}_{variant}" if variant else stem)


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
    # Quick ones, too: a study has many programs that differ from one another in a part only.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        if broken := _broken_config(argv):
            raise UserError(broken)
        return flags.FLAGS(argv)
    except Exception as error:  # ml_collections raises whatever an override ran into.
        _fail(_explained(argv, error), UserError.exit_status)


def _broken_config(argv: Sequence[str]) -> str | None:
    """Returns what is wrong with the config's file, if anything is."""
    given = [flag.removeprefix("--config=") for flag in argv if flag.startswith("--config=")]
    given += [value for flag, value in pairwise(argv) if flag == "--config"]
    if not given:
        return None
    name, colon, argument = given[-1].partition(":")
    path = Path(name)
    if not name:
        return "no config is named; try --config=configs/quickstart.py"
    if not path.is_file():
        near = nearest(name, map(str, path.parent.glob("*.py")))
        return f"--config={name}: there is no such file{near}"
    try:
        get_config = runpy.run_path(name).get("get_config")
        if get_config is None:
            return f"--config={name}: it has no function get_config()"
        if colon and not inspect.signature(get_config).parameters:
            return f"--config={name}: its get_config() takes nothing after a colon"
        made = get_config(argument) if colon else get_config()
    except UserError as error:
        return str(error)
    except Exception as error:  # Whatever a user's file may raise.
        return f"--config={name}: {type(error).__name__}: {' '.join(str(error).split())}"
    if not isinstance(made, ConfigDict):
        return f"--config={name}: get_config() must return a ConfigDict, not {made!r}"
    return None


def _explained(argv: Sequence[str], error: Exception) -> str:
    """Returns what is wrong with the flags, in one line."""
    if isinstance(error, UserError):
        return str(error)
    for flag in argv:
        override = re.match(r"--config\.(\w+)([^=]*)", flag)
        if override and override[1] not in default_study():
            near = nearest(override[1], default_study())
            return f"config.{override[1]} is not a key of a config{near}"
    first = next(line.strip() for line in [*str(error).splitlines(), repr(error)] if line.strip())
    refused = re.match(r"flag --([\w.]+)=(.*?): (.*)", first)
    for symptom, kind in _KINDS.items():
        if refused and symptom in refused[3]:
            return f"--{refused[1]}={refused[2]}: it must be {kind}"
    return first


# What absl and ml_collections say of a value that does not parse, and what they mean.
_KINDS = {
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean": "true or false",
    "as a ConfigDict": "a section: set its parts, as in --config.loss.name=NAME",
}


def _fail(message: str, status: int) -> NoReturn:
    sys.stdout.flush()
    kind = "stopped" if status == Interrupted.exit_status else "error"
    print(f"{kind}: {message}", file=sys.stderr)
    sys.exit(status)
