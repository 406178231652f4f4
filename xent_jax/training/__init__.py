"""Training: configs, the compiled step, the loop, and checkpoints.

`run.py` makes a config and its data ready (`prepare`), `loop.py` trains it (`train`): `feed.py`
brings the examples to the functions of `step.py`, which `mesh.py` or `pmap.py` compiled. Of a
language model `language_run.py` and `language_step.py` take the places of `run.py` and `step.py`.
"""

from xent_jax.training.config import Config, check_config, default_config
from xent_jax.training.few_shot import FEW_SHOT_METHODS
from xent_jax.training.language_run import LanguageRun, load_corpus, prepare_language_model
from xent_jax.training.loop import Result, train
from xent_jax.training.objective import trainable_losses
from xent_jax.training.optimizer import OPTIMIZERS, SCHEDULES
from xent_jax.training.run import Run, claim_workdir, load_sets, prepare
from xent_jax.training.stages import SECOND_STAGES
from xent_jax.training.study import Member, default_study, expand, matching
from xent_jax.training.wrappers import MIXINGS, REWEIGHTINGS

__all__ = [
    "FEW_SHOT_METHODS",
    "MIXINGS",
    "OPTIMIZERS",
    "REWEIGHTINGS",
    "SCHEDULES",
    "SECOND_STAGES",
    "Config",
    "LanguageRun",
    "Member",
    "Result",
    "Run",
    "check_config",
    "claim_workdir",
    "default_config",
    "default_study",
    "expand",
    "load_corpus",
    "load_sets",
    "matching",
    "prepare",
    "prepare_language_model",
    "train",
    "trainable_losses",
]
