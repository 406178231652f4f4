"""Trains a study: every method under every condition with every seed, and reports on it.

python -m experiments.sweep --config=FILE.py:VARIANT [--config.KEY=VALUE ...] [flags below]

`--config.seeds=10` trains more seeds, `--only=loss=generalized_cross_entropy` a part of the grid,
`--dry_run` nothing. Started again, the same command goes on where it was stopped.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import entry
from xent_jax import models
from xent_jax.errors import UserError
from xent_jax.reporting.report import write_report
from xent_jax.training import sweep
from xent_jax.training.cluster_sweep import sweep_on_cluster
from xent_jax.training.grouping import groups_of
from xent_jax.training.stack import use_cores
from xent_jax.training.study import expand, is_few_shot, matching

_CONFIG = entry.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "The study's folder (default: runs/FILE_VARIANT).")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data sets (default: TFDS's folder).")
_RAW_DIR = flags.DEFINE_string("raw_dir", None, "The data set's canonical files, if at hand.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Compiled programs (default: .jax_cache beside the workdir; '': none).",
)
_ONLY = flags.DEFINE_multi_string(
    "only",
    [],
    "KEY=VALUE: train these runs only. KEY is method, seed, id, or any key of the config (loss is "
    "its name). Given often, all must hold.",
)
_CLUSTER = flags.DEFINE_string(
    "cluster", None, "ray, HOST:6379 or ray://HOST:10001: train on a Ray cluster's machines."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the grid and what it takes; train nothing.")
_MEMORY = flags.DEFINE_float("memory_gb", None, "Gigabytes of each device's memory to use at most.")


def main(argv: Sequence[str]) -> None:
    del argv
    if entry.config_file() is None:
        raise UserError("no config is named; try --config=configs/noisy_labels.py")
    if _CONFIG.value.get("model", {}).get("name") in models.LANGUAGE_MODELS:
        raise UserError(
            f"config.model.name={_CONFIG.value.model.name!r}: language models are not swept; train "
            "them by python -m experiments.train"
        )
    members = matching(expand(_CONFIG.value), _ONLY.value)
    use_cores(max(map(len, groups_of(members))), factorise=any(map(is_few_shot, members)))
    workdir = Path(_WORKDIR.value or entry.default_workdir())
    entry.keep_compiled(workdir, _CACHE.value)
    if _MEMORY.value is not None and not _MEMORY.value > 0:
        raise UserError(
            f"--memory_gb={_MEMORY.value} must be above 0; leave it out for what is sensible"
        )
    memory = _MEMORY.value and _MEMORY.value * 1e9
    place = sweep.Place(workdir, _DATA_DIR.value, _RAW_DIR.value, memory)
    if _DRY_RUN.value:
        print(sweep.forecast(_CONFIG.value, place, only=_ONLY.value))
        return
    given = {"only": _ONLY.value, "command": _command()}
    if _CLUSTER.value:
        sweep_on_cluster(_CONFIG.value, place, address=_CLUSTER.value, **given)
    else:
        sweep.sweep(_CONFIG.value, place, **given)
    print(write_report([workdir], workdir / "report"))


_OF_HERE = ("only", "workdir", "data_dir", "raw_dir", "compilation_cache", "cluster", "memory_gb")


def _command() -> str:
    """Returns what was typed, without the flags that say where and how much of it."""
    kept, given = ["python", "-m", "experiments.sweep"], iter(sys.argv[1:])
    for flag in given:
        name, equals, _ = flag.lstrip("-").partition("=")
        if name not in _OF_HERE:
            kept.append(flag)
        elif not equals:
            next(given, None)  # its value, which stands apart
    return shlex.join(kept)


if __name__ == "__main__":
    entry.run(main)
