"""Classes of which some have few training examples: losses, margins, weights, samplers compared.

    python -m experiments.sweep --config=configs/imbalance.py            # digits: 140 small runs
    python -m experiments.sweep --config=configs/imbalance.py:mnist      # or another of these

Studies of our own, tested on classes of equal size:

  digits          144 images of the commonest class and 7 of the rarest, a 64-256-10 perceptron
  mnist           at a ratio of 100, a 784-256-10 perceptron
  fashion_mnist   the same
  cifar10         at 100, a ResNet-20, 60 epochs

The protocol of Cao et al. 2019, "Learning imbalanced datasets with label-distribution-aware margin
loss" (github.com/kaidic/LDAM-DRW), table 2: a ResNet-32, SGD with momentum 0.9 at 0.1 after 5
epochs of warm-up, a hundredth of it after 160 epochs and again after 180, of 200; batches of 128,
L2 decay 2e-4, shifts and flips. Errors that the paper reports (ERM, LDAM, LDAM-DRW):

  cifar10_lt100     an exponential tail at 100: 29.64, 26.65, 22.97
  cifar10_lt10      at 10:                      13.61, 13.04, 11.84
  cifar10_step100   half of the classes rare:   36.70, 33.42, 23.08
  cifar10_step10    at 10:                      17.50, 15.00, 12.19

What differs from the paper. Images are standardised by the training images' own statistics. Which
examples stay is drawn anew by each seed, and by one seed there. The paper's CB-focal is taken as
class-balanced weights on the softmax focal loss, M-DRW as LDAM-DRW with one margin for all classes,
for which 0.5 is our choice. The other methods' numbers are from papers with protocols of their own,
which the report names. Balanced softmax is logit adjustment at tau = 1 by its formula, and trained
as such: what the two differ in is rounding.

Measured: not measured.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from xent_jax.errors import UserError, nearest
from xent_jax.training import Config, default_study

Method = dict[str, Any]

_SCALE = 30.0  # of the cosines that margins are taken from: the network's and the loss's


def get_config(variant: str = "digits") -> Config:
    if variant not in _VARIANTS:
        raise UserError(
            f"configs/imbalance.py has no variant {variant!r}{nearest(variant, _VARIANTS)}; "
            f"one of: {', '.join(_VARIANTS)}"
        )
    return _VARIANTS[variant]()


def _study(dataset: str, title: str, model: dict[str, Any], *conditions: dict[str, Any]) -> Config:
    config = default_study()
    config.dataset.name = dataset
    config.model = ConfigDict(model)
    config.grid = ConfigDict({"imbalance": conditions})
    config.report.title = title
    return config


# ---------------------------------------------------------------------------- methods


def _erm() -> Method:
    return {"label": "ERM"}


def _focal() -> Method:
    return {"label": "Focal", "loss": {"name": "softmax_focal_loss", "gamma": 1.0}}


def _class_balanced(beta: float) -> Method:
    return {
        "label": "CB-reweight",
        "reweighting": {"name": "class_balanced_weights", "beta": beta},
    }


def _class_balanced_focal(beta: float) -> Method:
    return {**_class_balanced(beta), **_focal(), "label": "CB-focal"}


def _on_cosines(config: Config, label: str, loss: str, **arguments: Any) -> Method:
    """Returns a method whose margin needs a last layer of cosines."""
    return {
        "label": label,
        "model": {**config.model.to_dict(), "cosine_scale": _SCALE},
        "loss": {"name": loss, "scale": _SCALE, **arguments},
    }


def _deferred(method: Method, epochs: int, beta: float) -> Method:
    """Returns the method with weights in the last fifth of its epochs."""
    name, start = "deferred_reweighting_weights", epochs * 4 // 5
    weights = {"name": name, "start_epoch": start, "beta": beta}
    return {**method, "reweighting": weights, "for_epochs": epochs}


def _of_prior() -> tuple[Method, ...]:
    """Returns the methods that move or scale logits by how common their class is."""
    return (
        {"label": "Logit-adjusted", "loss": {"name": "logit_adjusted", "tau": 1.0}},
        {"label": "Post-hoc", "evaluation": {"logit_adjustment": 1.0}},
        {"label": "CDT", "loss": {"name": "class_dependent_temperature", "gamma": 0.2}},
        {"label": "VS", "loss": {"name": "vector_scaling", "gamma": 0.2, "tau": 1.2}},
    )


def _methods(config: Config, beta: float) -> tuple[Method, ...]:
    """Returns the methods of our own studies.

    The retrained classifier's is a stage of its own, so that features are trained as the others'.
    """
    # As many steps as a classifier needs: of a small set that is as many epochs as its features.
    again = config.epochs if config.dataset.name == "digits" else config.epochs // 10
    return (
        _erm(),
        _focal(),
        _class_balanced(beta),
        _on_cosines(config, "LDAM", "ldam"),
        _deferred(_on_cosines(config, "LDAM-DRW", "ldam"), config.epochs, beta),
        *_of_prior(),
        {
            "label": "cRT",
            "epochs": config.epochs + again,
            "for_epochs": config.epochs,
            "second_stage": {"name": "classifier_retraining", "epochs": again},
        },
        {"label": "Tau-norm", "evaluation": {"tau_normalisation": 1.0}},
        {"label": "Square-root sampling", "sampler": {"name": "square_root"}},
        {"label": "Balanced sampling", "sampler": {"name": "class_balanced"}},
        {"label": "Progressive sampling", "sampler": {"name": "progressively_balanced"}},
    )


# ---------------------------------------------------------------------------- studies of our own

_METRICS = (
    "test.balanced_accuracy",
    "test.many_accuracy",
    "test.medium_accuracy",
    "test.few_accuracy",
    "test.macro_f1",
)


def _digits() -> Config:
    conditions = [{"name": name, "ratio": 20} for name in ("long_tail", "step")]
    model = {"name": "mlp", "hidden": (256,)}
    config = _study("digits", "Class imbalance: digits", model, *conditions)
    config.seeds = 5  # A class of 7 examples depends on which they are.
    config.schedule = ConfigDict({"name": "cosine"})
    config.batch_size, config.epochs = 32, 60
    config.eval_every_epochs = 5
    config.methods = _methods(config, beta=0.999)
    config.report.metrics = _METRICS
    return config


def _mnist(dataset: str, title: str) -> Config:
    conditions = [{"name": name, "ratio": 100} for name in ("long_tail", "step")]
    config = _study(dataset, title, {"name": "mlp", "hidden": (256,)}, *conditions)
    config.schedule = ConfigDict({"name": "cosine"})
    config.batch_size, config.epochs = 128, 40
    config.methods = _methods(config, beta=0.9999)
    config.report.metrics = _METRICS
    return config


def _cifar10() -> Config:
    conditions = [{"name": name, "ratio": 100} for name in ("long_tail", "step")]
    config = _study("cifar10", "Class imbalance: CIFAR-10", {"name": "resnet20"}, *conditions)
    _train_as_ldam(config, epochs=60)
    config.methods = _methods(config, beta=0.9999)
    config.report.metrics = _METRICS
    return config


# ---------------------------------------------------------------------------- protocols of papers


def _train_as_ldam(config: Config, epochs: int) -> None:
    """Sets the optimiser and schedule of Cao et al. 2019, in proportion to their 200 epochs."""
    after = epochs - 5  # The schedule's fractions are of what follows the warm-up.
    at = tuple((epochs * share - 5) / after for share in (0.8, 0.9))
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9})
    config.schedule = ConfigDict({"name": "step", "at": at, "factor": 0.01, "warmup_epochs": 5})
    config.dataset.shift, config.dataset.flip = 4, True
    config.weight_decay = 2e-4
    config.batch_size, config.epochs = 128, epochs


def _as_cao(name: str, ratio: int, published: str) -> Config:
    condition = {"name": name, "ratio": ratio}
    title = f"CIFAR-10, {name.replace('_', ' ')} at {ratio} (I1)"
    config = _study("cifar10", title, {"name": "resnet32"}, condition)
    _train_as_ldam(config, epochs=200)
    beta = 0.9999
    config.methods = (
        _erm(),
        _focal(),
        _on_cosines(config, "LDAM", "ldam"),
        _class_balanced(beta),
        _class_balanced_focal(beta),
        _deferred(_on_cosines(config, "M-DRW", "cosface", margin=0.5), config.epochs, beta),
        _deferred(_on_cosines(config, "LDAM-DRW", "ldam"), config.epochs, beta),
        *_of_prior(),
        {"label": "Balanced softmax", "loss": {"name": "balanced_softmax"}},
        {
            "label": "Label smoothing",
            "loss": {"name": "softmax_cross_entropy_with_integer_labels", "label_smoothing": 0.1},
        },
    )
    config.report.metrics = ("test.accuracy", *_METRICS)
    config.report.published = published
    return config


_VARIANTS: dict[str, Callable[[], Config]] = {
    "digits": _digits,
    "mnist": partial(_mnist, "mnist", "Class imbalance: MNIST"),
    "fashion_mnist": partial(_mnist, "fashion_mnist", "Class imbalance: Fashion-MNIST"),
    "cifar10": _cifar10,
    "cifar10_lt100": partial(_as_cao, "long_tail", 100, "cifar10_lt100"),
    "cifar10_lt10": partial(_as_cao, "long_tail", 10, "cifar10_lt10"),
    "cifar10_step100": partial(_as_cao, "step", 100, "cifar10_step100"),
    "cifar10_step10": partial(_as_cao, "step", 10, "cifar10_step10"),
}
VARIANTS = tuple(_VARIANTS)
