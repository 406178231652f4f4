"""MNIST with a 784-256-10 perceptron.

    python -m experiments.train --config=configs/mnist_mlp.py

Measured: 98.32 % after the last epoch (seed 0, calibration error 0.83 %), 16 s of training on two
busy CPU cores.
"""

from ml_collections import ConfigDict

from xent_jax.training import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.dataset.name = "mnist"
    config.model = ConfigDict({"name": "mlp", "hidden": (256,)})
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-3})
    config.schedule = ConfigDict({"name": "cosine"})
    config.batch_size = 128
    config.epochs = 20
    return config
