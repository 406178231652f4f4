"""Trains one config, and its baseline beside it: python -m experiments.train --config=FILE."""

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments import entry
from xent_jax import training
from xent_jax.errors import UserError
from xent_jax.reporting import summary

_CONFIG = entry.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder (default: runs/CONFIG'S NAME).")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data sets (default: TFDS's folder).")
_RAW_DIR = flags.DEFINE_string("raw_dir", None, "The data set's canonical files, if at hand.")
_CACHE = flags.DEFINE_string(
    "compilation_cache", None, "Compiled programs (default: .jax_cache beside it; '': none)."
)
_PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of one epoch to WORKDIR/profile.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of many processes.")
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes train together.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")


def runs_of(config: ConfigDict, workdir: Path) -> dict[Path, ConfigDict]:
    """Returns the folder and config of each run: one, or the loss's and the baseline's."""
    config = training.check_config(config)
    if config.baseline.name == "none":
        return {workdir: config}
    baseline = ConfigDict(config).unlock()
    baseline.loss = baseline.baseline
    if baseline.loss.to_dict() == config.loss.to_dict():
        raise UserError("config.baseline is the same as config.loss; remove it or name another")
    folders = ["baseline", "loss"]
    return {workdir / name: c for name, c in zip(folders, (baseline, config), strict=True)}


def main(argv: Sequence[str]) -> None:
    del argv
    if _CONFIG.value is None:
        raise UserError("no config is named; try --config=configs/quickstart.py")
    if _COORDINATOR.value is not None:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    name = Path(flags.FLAGS["config"].config_filename.partition(":")[0]).stem
    workdir = Path(_WORKDIR.value or f"runs/{name}")
    entry.keep_compiled(workdir, _CACHE.value)
    for folder, config in runs_of(_CONFIG.value, workdir).items():
        training.train(
            config,
            folder,
            data_dir=_DATA_DIR.value,
            raw_dir=_RAW_DIR.value,
            profile=_PROFILE.value,
        )
    if jax.process_index() == 0:
        print(summary.summarise(workdir))


if __name__ == "__main__":
    entry.run(main)
