"""Makes the tables, the pictures and the page of a sweep, or of several, from its records alone.

python -m experiments.report --workdir=DIR[,DIR ...] [--output=DIR]
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import entry
from xent_jax.errors import UserError
from xent_jax.reporting import report

_WORKDIR = flags.DEFINE_list("workdir", None, "A sweep's folder, or several on one page.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write (default: 'report' in the folder, or beside several)."
)


def main(argv: Sequence[str]) -> None:
    del argv
    if not _WORKDIR.value:
        raise UserError("no sweep is named; try --workdir=runs/noisy_labels")
    path = report.write_report(_WORKDIR.value, _OUTPUT.value)
    for folder in report.folders_of(_WORKDIR.value, _OUTPUT.value).values():
        print((Path(folder) / "tables" / "results.md").read_text(encoding="utf-8"))
    print(f"report       {path}")


if __name__ == "__main__":
    entry.run(main)
