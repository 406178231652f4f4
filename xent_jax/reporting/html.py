"""HTML whose texts are escaped unless they were made here."""

import html
from collections.abc import Iterable
from typing import Any

_VOID = {"img", "input", "link", "meta"}


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *parts: str, **attributes: Any) -> Html:
    """Returns an element; parts that are not `Html` are escaped.

    An attribute's name loses the underscore at its end (`class_`) and has hyphens for others; one
    that is None or False is left out, one that is True has no value.
    """
    told = "".join(_attribute(key, value) for key, value in attributes.items())
    end = "" if name in _VOID else f"</{name}>"
    return Html(f"<{name}{told}>{join(parts)}{end}")


def join(parts: Iterable[str]) -> Html:
    """Returns the parts after each other, escaped unless they are `Html`."""
    return Html("".join(p if isinstance(p, Html) else html.escape(p) for p in parts))


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
