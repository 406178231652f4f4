"""Language model: to be written."""

from ml_collections import ConfigDict

from xent_jax.errors import UserError, nearest
from xent_jax.training import Config, default_config


def get_config(variant: str = "bytes") -> Config:
    if variant not in _VARIANTS:
        raise UserError(
            f"configs/language_model.py has no variant {variant!r}{nearest(variant, _VARIANTS)}; "
            f"one of: {', '.join(_VARIANTS)}"
        )
    return _VARIANTS[variant]()


def _bytes() -> Config:
    config = default_config()
    config.dataset.name, config.dataset.window = "python_language_reference", 256
    config.model = ConfigDict({"name": "transformer", "width": 128, "layers": 2, "heads": 4})
    config.loss = ConfigDict({"name": "linear_softmax_cross_entropy"})
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 3e-3, "b2": 0.95})
    config.schedule = ConfigDict({"name": "cosine", "warmup_epochs": 0.5, "final_fraction": 0.1})
    config.weight_decay, config.clip_norm = 0.1, 1.0
    config.batch_size, config.eval_batch_size = 16, 16
    config.epochs, config.steps_per_call = 12, 10
    return config


_VARIANTS = {"bytes": _bytes}
VARIANTS = tuple(_VARIANTS)
