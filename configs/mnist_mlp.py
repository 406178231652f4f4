"""MNIST with a 784-256-10 perceptron.

    python -m experiments.train --config=configs/mnist_mlp.py

Expected: 98.0 % or more on the test set after the last epoch. Measured: not measured.
"""

from ml_collections import ConfigDict

from xent_jax.training import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.dataset.name = "mnist"
    config.model = ConfigDict({"name": "mlp", "hidden": (256,)})
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-3})
    config.schedule = ConfigDict({"name": "cosine"})
    config.batch_size = 128
    config.epochs = 20
    return config
