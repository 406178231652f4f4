"""Writes docs/cross_entropy.md and its pictures: python -m experiments.guide."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import entry
from experiments.guide import mistakes, pictures, studies
from experiments.guide.studies import Data
from experiments.guide.template import render

DOCS = Path(__file__).parents[2] / "docs"
GUIDE, PICTURES = DOCS / "cross_entropy.md", DOCS / "cross_entropy"
CURVES = PICTURES / "curves.json"
_TEMPLATE = Path(__file__).with_name("cross_entropy.md")


def compute() -> dict[str, Data]:
    """Returns the numbers of every picture by its name."""
    return {name: studies.compute(study) for name, study in studies.STUDIES.items()}


def text(data: Mapping[str, Data]) -> str:
    """Returns the guide; its blocks run as in a program of the reader's, but print four digits."""
    cpu = jax.default_device(jax.devices("cpu")[0])
    promotion = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with np.printoptions(precision=4, suppress=True), cpu, promotion[0], promotion[1]:
        return render(_TEMPLATE.read_text(), {"data": data, "mistakes": mistakes})


def stored(data: Mapping[str, Data]) -> str:
    """Returns the numbers as JSON, to five digits."""
    rounded = jax.tree.map(_rounded, dict(data))
    lines = (f"{json.dumps(name)}: {json.dumps(study)}" for name, study in rounded.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def loaded(study: Any) -> Any:
    """Returns the numbers of one picture, read from JSON, as arrays."""
    if isinstance(study, dict):
        return {name: loaded(values) for name, values in study.items()}
    return np.asarray(study)


def _rounded(values: Any) -> Any:
    values = np.asarray(values)
    if values.dtype.kind in "iub":
        return values.tolist()
    digits = np.char.mod("%.5g", values.astype(float))
    return digits.astype(float).tolist()


def main(argv: Sequence[str]) -> None:
    del argv
    data = compute()
    PICTURES.mkdir(exist_ok=True)
    GUIDE.write_text(text(data))
    CURVES.write_text(stored(data))
    for name, study in json.loads(CURVES.read_text()).items():
        pictures.draw(name, loaded(study), PICTURES / f"{name}.svg")


if __name__ == "__main__":
    entry.run(main)
