"""Trains a config, and its baseline beside it.

python -m experiments.train --config=FILE.py [--config.KEY=VALUE ...] [flags below]

xent_jax/training/config.py lists every KEY with its meaning.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments import entry
from xent_jax import models, training
from xent_jax.errors import UserError
from xent_jax.reporting import summary
from xent_jax.training.config import known_name

_CONFIG = entry.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder (default: runs/FILE_VARIANT).")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data sets, or a folder of text.")
_RAW_DIR = flags.DEFINE_string("raw_dir", None, "The data set's canonical files, if at hand.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Compiled programs (default: .jax_cache beside the workdir; '': none).",
)
_PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of one epoch to WORKDIR/profile.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of many processes.")
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes train together.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")


def configs_of(config: training.Config) -> dict[str, training.Config]:
    """Returns the config of each run by its folder: one, or the baseline's and the loss's."""
    if config.baseline.name == "none":
        return {".": config}
    baseline = ConfigDict(config).unlock()
    baseline.loss = baseline.baseline
    if baseline.loss == config.loss:
        raise UserError("config.baseline is the same as config.loss; remove it or name another")
    return {"baseline": baseline, "loss": config}


def prepare(config: training.Config) -> Mapping[str, training.Run | training.LanguageRun]:
    """Returns the run of each config of `configs_of`, by its folder."""
    configs = configs_of(config)
    place = {"data_dir": _DATA_DIR.value, "raw_dir": _RAW_DIR.value}
    # Here, as a misspelt language model would be taken for one that its text is unknown to.
    known_name("model", config.model.name, (*models.NAMES, *models.LANGUAGE_MODELS))
    if config.model.name in models.LANGUAGE_MODELS:
        corpus = training.load_corpus(config, **place)
        return {
            name: training.prepare_language_model(each, corpus) for name, each in configs.items()
        }
    sets = training.load_sets(config, **place)
    return {name: training.prepare(each, sets) for name, each in configs.items()}


def main(argv: Sequence[str]) -> None:
    del argv
    if entry.config_file() is None:
        raise UserError("no config is named; try --config=configs/quickstart.py")
    places = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if None in places and any(place is not None for place in places):
        raise UserError("--coordinator, --processes and --process go together: give all or none")
    if _COORDINATOR.value is not None:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    config = training.check_config(_CONFIG.value)
    workdir = Path(_WORKDIR.value or entry.default_workdir())
    training.claim_workdir(workdir, config)
    entry.keep_compiled(workdir, _CACHE.value)
    # All are made ready before the first is trained, so that no mistake is told late.
    for name, run in prepare(config).items():
        training.train(run, workdir / name, profile=_PROFILE.value)
    if jax.process_index() == 0:
        print(summary.summarise(workdir))


if __name__ == "__main__":
    entry.run(main)
