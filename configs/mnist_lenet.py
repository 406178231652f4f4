"""MNIST with LeNet-5.

    python -m experiments.train --config=configs/mnist_lenet.py

Measured: 99.22 % after the last epoch (seed 0, calibration error 0.17 %), 115 s of training on two
busy CPU cores.
"""

from ml_collections import ConfigDict

from xent_jax.training import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.dataset.name = "mnist"
    config.model = ConfigDict({"name": "lenet"})
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-3})
    config.schedule = ConfigDict({"name": "cosine"})
    config.batch_size = 128
    config.epochs = 12
    config.steps_per_call = 67  # seven calls an epoch: a stop or a glance need not wait for its end
    return config
