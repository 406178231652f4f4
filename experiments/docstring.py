"""Reads the docstrings of the losses, which are reStructuredText, as Markdown for GitHub."""

import inspect
import re
from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

_SECTIONS = ("Args", "Returns", "Raises", "References", "Example")


class Docstring(NamedTuple):
    """What a page shows of a function, in Markdown; each part may be empty.

    Attributes:
      summary: the first sentence, which says when to use it.
      formula: from the rest of the first paragraph on to the arguments.
      returns: shape, range and unit of the result.
      gradient: the paragraphs on derivatives.
      references: the papers.
    """

    summary: str
    formula: str
    returns: str
    gradient: str
    references: str


def read(function: Callable[..., Any], linked: Container[str] = ()) -> Docstring:
    """Returns a function's docstring; names in `linked` become links to their headings."""
    sections = _sections(inspect.getdoc(function) or "")
    first, *others = sections[""]
    summary = re.sub(r"^(Computes|Returns) ", "", first)
    after = [text for text in sections["after"] if _is_on_derivatives(text)]

    def shown(paragraphs: list[str]) -> str:
        return "\n\n".join(markdown(text, linked) for text in paragraphs)

    return Docstring(
        shown([summary[:1].upper() + summary[1:]]),
        shown([*others, *(text for text in sections["after"] if ".. math::" in text)]),
        shown(sections["Returns"]),
        shown([text for text in after if ".. math::" not in text]),
        shown(sections["References"]),
    )


def markdown(text: str, linked: Container[str] = ()) -> str:
    """Returns one paragraph, formula or block of code as Markdown."""
    if text.startswith(".. math::"):
        return f"```math\n{inspect.cleandoc(text.removeprefix('.. math::'))}\n```"
    if text.startswith("  "):
        return f"```python\n{inspect.cleandoc(text)}\n```"
    text = " ".join(text.split()).replace("::", ":") if text.endswith("::") else text
    pieces = re.split(r"(:math:`[^`]*`|``[^`]+``|`[^`]*`_?)", " ".join(text.split()))
    return "".join(_inline(piece, linked) for piece in pieces)


def signature(function: Callable[..., Any]) -> str:
    """Returns how to call a function, with its defaults and without types."""
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_Shown(parameter.default))
        if parameter.default is not inspect.Parameter.empty
        else parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in found.parameters.values()
    ]
    bare = found.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return f"{function.__name__}{bare}"


class _Shown:
    """A default as a reader would write it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        if isinstance(self.value, float):
            return repr(self.value) if len(repr(self.value)) < 8 else f"{self.value:.4g}"
        return getattr(self.value, "__name__", None) or repr(self.value)


def _sections(text: str) -> dict[str, list[str]]:
    """Returns the paragraphs of each section; "" comes before them and "after" in between."""
    found: dict[str, list[str]] = {name: [] for name in ("", "after", *_SECTIONS)}
    name = ""
    for block in _blocks(text):
        header = re.match(rf"({'|'.join(_SECTIONS)}):\n", block)
        if header:
            name = header[1]
            block = inspect.cleandoc(block[header.end() :])
        elif name and not block.startswith(" "):
            name = "after"
        found[name].append(block)
    return found


def _blocks(text: str) -> Iterator[str]:
    """Yields paragraphs and formulas; what is indented after a formula is one more of them."""
    formula = False
    for block in re.split(r"\n\s*\n", text):
        before, directive, inside = block.partition(".. math::")
        if formula and block.startswith("  "):
            before, directive, inside = "", ".. math::", f"\n{block}"
        if before.strip():
            yield before.rstrip()
        if formula := bool(directive):
            yield directive + inside


def _is_on_derivatives(text: str) -> bool:
    return not text.startswith("Numerics:") and bool(
        re.search(r"\b(gradients?|Jacobian|derivatives?|slope)\b", text)
    )


def _inline(piece: str, linked: Container[str]) -> str:
    if piece.startswith(":math:"):
        return f"${piece.removeprefix(':math:')}$"
    if link := re.fullmatch(r"`(.*?)\s*<(.*)>`_", piece):
        return f"[{link[1]}]({link[2]})"
    if piece.startswith("`"):
        name = piece.strip("`")
        return f"[`{name}`](#{name})" if name in linked else f"`{name}`"
    return piece.replace("*", "\\*").replace("<", "&lt;")
