"""The check of a function's name and arguments, where a table of functions knows it by name."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xent_jax.errors import UserError, nearest


def check_arguments(
    kind: str,
    known: Mapping[str, Callable[..., Any]],
    name: str,
    arguments: Iterable[str],
    given: Iterable[str],
) -> dict[str, inspect.Parameter]:
    """Returns the parameters that a function of `known` takes besides those `given` to all.

    Raises:
      UserError: an unknown name, or an argument that the function does not take.
    """
    if name not in known:
        raise UserError(
            f"unknown {kind} {name!r}{nearest(name, known)}; one of: {', '.join(known)}"
        )
    parameters = inspect.signature(known[name]).parameters
    takes = {key: value for key, value in parameters.items() if key not in given}
    for key in arguments:
        if key not in takes:
            raise UserError(
                f"the {kind} {name!r} has no argument {key!r}{nearest(key, takes)}; "
                f"it takes {', '.join(takes)}"
            )
    return takes
