"""Measures side by side in one run: python -m experiments.bench train|losses|...

The benches are train, sweep, convolution, losses, rules, linear_xent and softmax_xent.
"""

import datetime
import importlib.metadata
import json
import os
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import entry
from experiments.bench import (
    convolution,
    eager,
    linear_xent,
    losses,
    rules,
    softmax_xent,
    sweep,
    train,
)
from xent_jax.errors import UserError, nearest
from xent_jax.reporting import records

_OUTPUT = flags.DEFINE_string("output", None, "Append the figures to this file as a JSON line.")
_BENCHES = {
    "train": train.measure,
    "sweep": sweep.measure,
    "convolution": convolution.measure,
    "losses": losses.measure,
    "rules": rules.measure,
    "linear_xent": linear_xent.measure,
    "softmax_xent": softmax_xent.measure,
}


def main(argv: Sequence[str]) -> None:
    name = argv[1] if len(argv) > 1 else ""
    if name not in _BENCHES:
        known = ", ".join(_BENCHES)
        raise UserError(
            f"which bench? {name!r} is not one{nearest(name, _BENCHES)}; one of: {known}"
        )
    figures = _BENCHES[name]()
    if _OUTPUT.value:
        line = {"bench": name, "date": datetime.date.today().isoformat(), "figures": figures}
        line |= {"environment": _environment()}
        with open(_OUTPUT.value, "a") as file:
            file.write(json.dumps(line) + "\n")
    if name == "losses":
        losses.judge(figures)


def _environment() -> dict[str, Any]:
    """Returns what the figures may depend on, a peer's version included."""
    found = records.describe_environment()
    peer = {"torch": importlib.metadata.version("torch")} if eager.INSTALLED else {}
    tunables = {"glibc_tunables": os.environ.get("GLIBC_TUNABLES", "")}
    return found | tunables | {"versions": found["versions"] | peer}


if __name__ == "__main__":
    entry.run(main, arguments=True)
