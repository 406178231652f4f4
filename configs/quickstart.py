"""Forty percent of the training labels are wrong: plain cross-entropy against a robust loss.

Handwritten digits (1,797 images of 8x8 pixels that scikit-learn ships); 40 % of the training
labels are replaced by another digit. The generalized cross-entropy (Zhang & Sabuncu 2018,
arXiv:1805.07836) is compared with softmax cross-entropy, all else being equal.

    python -m experiments.train --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from xent_jax.training import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.dataset.name = "digits"
    config.corruption = ConfigDict({"name": "symmetric", "rate": 0.4})
    config.model = ConfigDict({"name": "mlp", "hidden": (256,)})
    config.loss = ConfigDict({"name": "generalized_cross_entropy"})
    config.baseline = ConfigDict({"name": "softmax_cross_entropy_with_integer_labels"})
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-3})
    config.epochs = 60
    config.checkpoint_every_epochs = 10
    return config
