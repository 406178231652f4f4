"""Exceptions whose text is written for the user, each with the exit status it ends a command in."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one line: what was wrong, what is allowed, how to fix it."""

    exit_status = 2


class Diverged(ArithmeticError):
    """The loss or the state stopped being finite; the last sound checkpoint is kept."""

    exit_status = 3


class Interrupted(Exception):
    """A signal asked the run to stop; it was saved and the same command continues it."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: try again later


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the closest of `allowed`, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
