"""CIFAR-10 with the eight-layer network of the noisy-label literature, or a residual network.

    python -m experiments.train --config=configs/cifar10.py          # cnn8, 120 epochs
    python -m experiments.train --config=configs/cifar10.py:resnet32 # ResNet-32, 200 epochs

cnn8: the protocol of Wang et al. 2024 (NeurIPS, epsilon-softmax), Table 2: SGD with momentum 0.9,
learning rate 0.01 decayed to 0 by a cosine, batch 128, weight decay 1e-4, gradients clipped at
norm 5, random shift and flip. The paper reports 90.50 % for cross-entropy on clean labels.
resnet32: the schedule of Cao et al. 2019 (arXiv:1906.07413) on balanced data: learning rate 0.1
after 5 epochs of warm-up, divided by 100 at epochs 160 and 180 of 200, weight decay 2e-4.

Measured: not measured.
"""

from ml_collections import ConfigDict

from xent_jax.errors import UserError
from xent_jax.training import Config, default_config


def get_config(model: str = "cnn8") -> Config:
    config = default_config()
    config.dataset.name = "cifar10"
    config.dataset.shift = 4
    config.dataset.flip = True
    config.model = ConfigDict({"name": model})
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.01, "momentum": 0.9})
    config.batch_size = 128
    config.steps_per_call = 17
    if model == "cnn8":
        config.schedule = ConfigDict({"name": "cosine"})
        config.weight_decay = 1e-4
        config.clip_norm = 5.0
        config.epochs = 120
    elif model == "resnet32":
        config.optimizer.learning_rate = 0.1
        steps = {"name": "step", "at": (0.8, 0.9), "factor": 0.01, "warmup_epochs": 5}
        config.schedule = ConfigDict(steps)
        config.weight_decay = 2e-4
        config.epochs = 200
    else:
        raise UserError(f"configs/cifar10.py knows cnn8 and resnet32, not {model!r}")
    return config
