"""Markdown that computes: its Python blocks run in order, and its {{expressions}} are filled in."""

import contextlib
import io
import re
from typing import Any

_COMPUTED = re.compile(
    r"```python\n(?P<block>.*?)```|\{\{(?P<expression>.+?)\}\}", re.DOTALL | re.MULTILINE
)


def render(template: str, names: dict[str, Any]) -> str:
    """Returns the text with what its blocks print below them and its expressions' values.

    Args:
      template: Markdown. A block's names are there for later blocks and expressions; an expression
        may end in a format, as in `{{loss:.4f}}`.
      names: what the first block knows; the blocks' own names are added to it.
    """

    def computed(found: re.Match[str]) -> str:
        if found["expression"]:
            return eval("f'''{" + found["expression"] + "}'''", names)
        printed = _run(found["block"], names)
        return f"{found[0]}\n\n```text\n{printed}```" if printed else found[0]

    return _COMPUTED.sub(computed, template)


def _run(block: str, names: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "a block of the guide", "exec"), names)
    return printed.getvalue()
