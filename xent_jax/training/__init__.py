"""Training: configs, the compiled step, the loop, and checkpoints."""

from xent_jax.training.config import check_config, default_config
from xent_jax.training.loop import Result, train
from xent_jax.training.optimizer import OPTIMIZERS, SCHEDULES

__all__ = ["OPTIMIZERS", "SCHEDULES", "Result", "check_config", "default_config", "train"]
