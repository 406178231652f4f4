"""Training labels that are wrong: robust losses, corrections and selections compared.

    python -m experiments.sweep --config=configs/noisy_labels.py           # digits: 220 small runs
    python -m experiments.sweep --config=configs/noisy_labels.py:mnist     # or another of these

Studies of our own, each of the same eleven methods under symmetric and asymmetric noise:

  digits          1,437 images of 8x8 pixels, a 64-256-10 perceptron, 60 epochs
  mnist           a 784-256-10 perceptron, 20 epochs
  fashion_mnist   the same
  cifar10         the 8-layer network of cifar10_n3, 60 epochs, 3 conditions

Protocols of papers, whose numbers the report sets beside ours:

  mnist_n1         Menon et al. 2020, "Can gradient clipping mitigate label noise?", as replicated
                   by Mizrahi (github.com/dmizr/phuber): LeNet-5, Adam at 1e-3 falling by a tenth
                   per 10,000 steps, L2 decay 1e-3, batches of 32, 20 epochs. At a rate of 0.4: CE
                   98.6, clipped at norm 0.1 95.7, GCE 98.5, PHuber-CE 98.5.
  mnist_n2         Zhou et al. 2021, "Asymmetric loss functions" (github.com/hitcszx/ALFs): 4-layer
                   CNN, SGD with momentum 0.9 at 0.01 falling to 0 by a cosine, L2 decay 1e-3,
                   gradients clipped at norm 5, batches of 128, 50 epochs. At 0.8 (quoted from
                   memory, not confirmed): CE 22.66, GCE 33.95, NCE+RCE 74.00, AGCE 96.59.
  cifar10_n3       Wang et al. 2024, "Epsilon-softmax" (github.com/cswjl/eps-softmax), table 2:
                   8-layer CNN, the same optimiser with decay 1e-4, 120 epochs, shifts and flips. At
                   0.8: CE 18.95, NCE+RCE 55.28, CE-eps+MAE 58.96.
  cifar10_n3_asymmetric  its column of asymmetric noise, with the hyper-parameters for that.
  fashion_mnist_n4 Yao et al. 2021, "Instance-dependent label-noise learning under a structural
                   causal model": ResNet-18, 150 epochs, batches of 128. At 0.4: CE 84.22,
                   Co-teaching 89.10. The paper takes the mean of the last 10 epochs.
  mnist_n5         Han et al. 2018, "Co-teaching", table 4: Adam at 1e-3, batches of 128, 200
                   epochs. Pair flips of 0.45: standard 56.52, F-correction 0.24, Co-teaching 87.63.
                   The paper takes the mean of the last 10 epochs.

What differs from the papers. N3: LDR-KL is left out, as its authors normalise the logits by their
mean in a way that no loss here does; LogitClip keeps its norm of 1 at rates above 0.5, where theirs
is 1.5. N4: Adam at 1e-3 falls to 0 throughout, in the authors' code from epoch 80 on. N5: the
8-layer CNN of N3 for their 9-layer one; the learning rate as in N4. Both: the matrix of Forward and
F-correction is estimated by a first network, trained for as long in N5 and for 50 epochs in N4; and
co-teaching forgets at one rate under all conditions, where the papers' is that of the noise.

Measured: mnist_n1 at 0.4, 5 seeds: CE 98.57, clipped 95.71, GCE 98.44, PHuber-CE 98.55, PHuber-GCE
98.41, Linear 97.87 (docs/results/mnist_n1.md); mnist_n2 at 0.6 and 0.8 on a sixth and a twelfth of
its steps (docs/results/mnist_n2.md). The others: not measured.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from xent_jax.errors import UserError, nearest
from xent_jax.training import Config, default_study

Method = dict[str, Any]


def get_config(variant: str = "digits") -> Config:
    if variant not in _VARIANTS:
        raise UserError(
            f"configs/noisy_labels.py has no variant {variant!r}{nearest(variant, _VARIANTS)}; "
            f"one of: {', '.join(_VARIANTS)}"
        )
    return _VARIANTS[variant]()


def _method(label: str, loss: str = "", **arguments: Any) -> Method:
    """Returns a method that differs from cross-entropy by its loss alone."""
    return {"label": label, "loss": {"name": loss, **arguments}} if loss else {"label": label}


def _noise(name: str, *rates: float) -> tuple[dict[str, Any], ...]:
    return tuple({"name": name, "rate": rate} for rate in rates)


def _study(dataset: str, title: str, conditions: tuple[dict[str, Any], ...]) -> Config:
    config = default_study()
    config.dataset.name = dataset
    config.grid = ConfigDict({"corruption": conditions})
    config.report.title = title
    return config


# ---------------------------------------------------------------------------- studies of our own


def _methods(losses_of: str, forget_rate: float) -> tuple[Method, ...]:
    """Returns the compared methods, with the losses' presets for a data set."""
    return (
        _method("CE"),
        _method("MAE", "mean_absolute_error"),
        _method("GCE", "generalized_cross_entropy", preset=losses_of),
        _method("SCE", "symmetric_cross_entropy", preset=losses_of),
        _method("NCE+RCE", "active_passive", preset=losses_of),
        _method("AGCE", "asymmetric_generalized_cross_entropy", preset=losses_of),
        _method("Bi-tempered", "bi_tempered_logistic"),
        _method("ELR", "early_learning_regularization"),
        _method("Forward", "forward_correction"),
        {"label": "Mixup", "mixing": {"name": "mixup"}},
        # Of all conditions alike: in practice nobody knows how many labels are wrong.
        {"label": "Co-teaching", "co_teaching": {"forget_rate": forget_rate}},
    )


def _digits() -> Config:
    conditions = (*_noise("symmetric", 0.0, 0.3, 0.6), *_noise("asymmetric", 0.4))
    config = _study("digits", "Noisy labels: digits", conditions)
    config.methods = _methods("mnist", forget_rate=0.4)
    config.model = ConfigDict({"name": "mlp", "hidden": (256,)})
    config.epochs, config.seeds = 60, 5
    config.eval_every_epochs = 5
    return config


def _mnist(dataset: str = "mnist", title: str = "Noisy labels: MNIST") -> Config:
    conditions = (*_noise("symmetric", 0.0, 0.2, 0.4, 0.6), *_noise("asymmetric", 0.4))
    config = _study(dataset, title, conditions)
    config.methods = _methods("mnist", forget_rate=0.4)
    config.model = ConfigDict({"name": "mlp", "hidden": (256,)})
    config.batch_size = 128
    config.epochs = 20
    return config


def _fashion_mnist() -> Config:
    return _mnist("fashion_mnist", "Noisy labels: Fashion-MNIST")


def _cifar10() -> Config:
    conditions = (*_noise("symmetric", 0.0, 0.4), *_noise("asymmetric", 0.4))
    config = _study("cifar10", "Noisy labels: CIFAR-10", conditions)
    _train_as_robust_losses_do(config, "cnn8", epochs=60, weight_decay=1e-4)
    config.methods = _methods("cifar10", forget_rate=0.4)
    return config


# ---------------------------------------------------------------------------- protocols of papers


def _train_as_robust_losses_do(
    config: Config, model: str, *, epochs: int, weight_decay: float
) -> None:
    """Sets what the papers on normalised and asymmetric losses and epsilon-softmax share."""
    config.model = ConfigDict({"name": model})
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.01, "momentum": 0.9})
    config.schedule = ConfigDict({"name": "cosine"})
    config.batch_size, config.epochs = 128, epochs
    config.weight_decay, config.clip_norm = weight_decay, 5.0
    if config.dataset.name == "cifar10":
        config.dataset.shift, config.dataset.flip = 4, True


def _forward_estimated(label: str, *, epochs: int, first: int) -> Method:
    """Returns forward correction with what a first network says of which labels are mistaken."""
    stage = {"name": "estimated_transition", "epochs": epochs, "quantile": 0.97}
    own = {"epochs": first + epochs, "for_epochs": epochs, "second_stage": stage}
    return {**_method(label, "forward_correction"), **own}


def _mnist_n1() -> Config:
    config = _study("mnist", "MNIST with LeNet-5 (N1)", _noise("symmetric", 0.0, 0.2, 0.4, 0.6))
    config.model = ConfigDict({"name": "lenet"})
    config.schedule = ConfigDict({"name": "exponential", "factor": 0.1, "every_steps": 10_000})
    config.weight_decay = 1e-3
    config.batch_size, config.epochs = 32, 20
    config.report.published = "mnist_n1"
    config.methods = (
        _method("CE"),
        {"label": "CE + clipping", "clip_norm": 0.1},
        _method("Linear", "generalized_cross_entropy", q=1.0),  # 1 - p_y
        _method("GCE", "generalized_cross_entropy", q=0.7),
        _method("PHuber-CE", "partially_huberised_cross_entropy", preset="mnist"),
        _method("PHuber-GCE", "partially_huberised_generalized_cross_entropy", preset="mnist"),
    )
    return config


def _mnist_n2() -> Config:
    rates = _noise("symmetric", 0.0, 0.2, 0.4, 0.6, 0.8)
    config = _study("mnist", "MNIST with a 4-layer CNN (N2)", rates)
    _train_as_robust_losses_do(config, "cnn4", epochs=50, weight_decay=1e-3)
    config.report.published = "mnist_n2"
    config.methods = (
        _method("CE"),
        _method("GCE", "generalized_cross_entropy", q=0.7),
        _method("SCE", "symmetric_cross_entropy", preset="mnist"),
        _method("NCE", "normalized_cross_entropy"),
        _method("NCE+RCE", "active_passive", preset="mnist_beta100"),
        _method("AUL", "asymmetric_unhinged", preset="mnist"),
        _method("AGCE", "asymmetric_generalized_cross_entropy", preset="mnist"),
    )
    return config


def _cifar10_n3(
    conditions: tuple[dict[str, Any], ...] = _noise("symmetric", 0.0, 0.2, 0.4, 0.6, 0.8),
    of_noise: str = "cifar10",
) -> Config:
    config = _study("cifar10", "CIFAR-10 with an 8-layer CNN (N3)", conditions)
    _train_as_robust_losses_do(config, "cnn8", epochs=120, weight_decay=1e-4)
    config.report.published = "cifar10_n3"
    config.methods = (
        _method("CE"),
        _method("GCE", "generalized_cross_entropy", q=0.7),
        _method("SCE", "symmetric_cross_entropy", preset="cifar10"),
        _method("NCE+MAE", "active_passive", preset="cifar10_mae"),
        _method("NCE+RCE", "active_passive", preset="cifar10"),
        _method("NCE+AGCE", "active_passive", preset="cifar10_agce"),
        _method("NCE+AUL", "active_passive", preset="cifar10_aul"),
        _method("CE + LogitClip", "logit_clip", preset=of_noise),
        _method("CE-eps+MAE", "epsilon_softmax", preset=of_noise),
    )
    return config


def _cifar10_n3_asymmetric() -> Config:
    return _cifar10_n3(_noise("asymmetric", 0.4), "cifar10_asymmetric")


def _fashion_mnist_n4() -> Config:
    rates = _noise("instance_dependent", 0.2, 0.3, 0.4, 0.45, 0.5)
    config = _study("fashion_mnist", "Fashion-MNIST, instance-dependent noise (N4)", rates)
    config.model = ConfigDict({"name": "resnet18"})
    config.schedule = ConfigDict({"name": "linear"})
    config.batch_size, config.epochs = 128, 150
    config.report.published = "fashion_mnist_n4"
    config.methods = (
        _method("CE"),
        _forward_estimated("Forward", epochs=150, first=50),
        {"label": "Co-teaching", "co_teaching": {"forget_rate": 0.4}},
    )
    return config


def _mnist_n5() -> Config:
    conditions = (*_noise("pair_flip", 0.45), *_noise("symmetric", 0.5, 0.2))
    config = _study("mnist", "MNIST, pair flips (N5)", conditions)
    config.model = ConfigDict({"name": "cnn8"})
    config.schedule = ConfigDict({"name": "linear"})
    config.batch_size, config.epochs = 128, 200
    config.report.published = "mnist_n5"
    config.methods = (
        _method("Standard"),
        _forward_estimated("F-correction", epochs=200, first=200),
        {"label": "Co-teaching", "co_teaching": {"forget_rate": 0.45}},
    )
    return config


_VARIANTS: dict[str, Callable[[], Config]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "mnist_n1": _mnist_n1,
    "mnist_n2": _mnist_n2,
    "cifar10_n3": _cifar10_n3,
    "cifar10_n3_asymmetric": _cifar10_n3_asymmetric,
    "fashion_mnist_n4": _fashion_mnist_n4,
    "mnist_n5": _mnist_n5,
}
VARIANTS = tuple(_VARIANTS)
