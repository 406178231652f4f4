"""The one exception whose text is written for the user."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one line: what was wrong, what is allowed, how to fix it.

    The command lines print its message without a traceback and exit with status 2.
    """


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the closest of `allowed`, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
