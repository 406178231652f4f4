"""Classes that training never saw, told apart by one or five examples of each.

    python -m experiments.sweep --config=configs/few_shot.py           # printed glyphs
    python -m experiments.sweep --config=configs/few_shot.py:omniglot  # or another of these

Each method is tested by 1,000 episodes of 5 classes at each of 1 and 5 shots, with 95 % intervals.

  font_glyphs  Printed glyphs: letters drawn from matplotlib's fonts, so that nothing is downloaded.
               Trained on Greek and Cyrillic, tested on Armenian and Georgian, with modifier letters
               for validation. A perceptron of 128 and 64 hidden units, 1,000 steps. They are
               easier than Omniglot's handwriting, and no paper's numbers belong to them.
  digits       The 8x8 digits that scikit-learn ships: trained on 0 to 5, tested on 6 to 9, of which
               each episode has 3. The smallest case there is: six classes to learn from.
  omniglot     The protocol of Snell et al. 2017 (arXiv:1703.05175), table 1: Omniglot's characters
               and their three rotations, conv4, Adam at 1e-3 halved every 2,000 episodes, trained
               on 60 ways with 5 queries. ProtoNet 98.8 (1 shot) and 99.7 (5 shots); Matching 98.1
               and 98.9; MAML 98.7 and 99.9.
  omniglot_20  The same tests with 20 ways. ProtoNet 96.0 and 98.9; Matching 93.8 and 98.5; MAML
               95.8 and 98.9.
  cifar10      CIFAR-10 by classes: trained on the first 6, tested on 3 of the last 4, conv4.

What differs from the paper in `omniglot`: one network serves 1 and 5 shots, and is trained with 1;
20,000 episodes; the 1,028 characters of the split without its 172 for validation. MAML is trained
on as many ways as it is tested by, as its last layer must have a class for each.

Measured: not measured.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from xent_jax.errors import UserError, nearest
from xent_jax.training import Config, default_study

Section = dict[str, Any]

# Of each method what it needs beside the episodes: scales and rates are not the papers' where
# features are not batch-normalised.
_METHODS: dict[str, Section] = {
    "ProtoNet": {"name": "prototypical"},
    "Matching": {"name": "matching", "scale": 10.0},
    "MAML": {"name": "maml"},
    "MAML (first order)": {"name": "maml_first_order"},
    "Baseline": {"name": "linear_baseline"},
    "Baseline++": {"name": "cosine_classifier", "head_learning_rate": 1.0},
    "R2D2": {"name": "ridge", "penalty": 1.0, "scale": 10.0},
}


def get_config(variant: str = "font_glyphs") -> Config:
    if variant not in _VARIANTS:
        raise UserError(
            f"configs/few_shot.py has no variant {variant!r}{nearest(variant, _VARIANTS)}; "
            f"one of: {', '.join(_VARIANTS)}"
        )
    return _VARIANTS[variant]()


def _study(title: str, episodes: Section, maml: Section) -> Config:
    """Returns the study of all methods; MAML's two also take `maml`."""
    config = default_study()
    sections = {
        label: {**episodes, **own, **(maml if label.startswith("MAML") else {})}
        for label, own in _METHODS.items()
    }
    config.methods = tuple({"label": k, "few_shot": v} for k, v in sections.items())
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-3})
    shots = tuple(f"shots.{number}.accuracy" for number in episodes["test_shots"])
    config.report = ConfigDict({"title": title, "metrics": shots, "epoch": "last", "published": ""})
    return config


def _font_glyphs() -> Config:
    episodes = {"ways": 5, "shots": 1, "queries": 5, "test_shots": (1, 5), "test_queries": 3}
    episodes |= {"episodes_per_epoch": 1000, "episodes_per_step": 4}
    maml = {"inner_steps": 3, "test_inner_steps": 5, "inner_learning_rate": 0.1}
    config = _study("Printed glyphs of unseen scripts", episodes, maml)
    config.dataset.name = "font_glyphs"
    config.model = ConfigDict({"name": "mlp", "hidden": (128, 64)})
    config.epochs, config.eval_every_epochs = 4, 4
    return config


def _digits() -> Config:
    episodes = {"ways": 3, "shots": 1, "queries": 5, "test_ways": 3, "test_shots": (1, 5)}
    episodes |= {"train_classes": 6, "episodes_per_epoch": 500, "episodes_per_step": 4}
    maml = {"inner_steps": 3, "test_inner_steps": 5, "inner_learning_rate": 0.1}
    config = _study("Digits that training never saw", episodes, maml)
    config.model = ConfigDict({"name": "mlp", "hidden": (64, 32)})
    config.epochs, config.eval_every_epochs = 4, 4
    return config


def _omniglot(test_ways: int = 5) -> Config:
    episodes = {"ways": 60, "shots": 1, "queries": 5, "rotations": True, "test_ways": test_ways}
    episodes |= {"test_shots": (1, 5), "test_queries": 15, "episodes_per_epoch": 1000}
    maml = {"ways": test_ways, "inner_steps": 1, "test_inner_steps": 3, "inner_learning_rate": 0.4}
    config = _study(f"Omniglot, {test_ways} ways", episodes, maml | {"episodes_per_step": 1})
    config.dataset.name, config.report.published = "omniglot", "omniglot"
    config.model = ConfigDict({"name": "conv4"})
    config.schedule = ConfigDict(
        {"name": "step", "at": tuple(i / 10 for i in range(1, 10)), "factor": 0.5}
    )
    config.epochs, config.eval_every_epochs = 20, 5
    return config


def _cifar10() -> Config:
    episodes = {"ways": 3, "shots": 5, "queries": 5, "test_ways": 3, "test_shots": (1, 5)}
    episodes |= {"train_classes": 6, "episodes_per_epoch": 1000, "episodes_per_step": 4}
    maml = {"inner_steps": 5, "test_inner_steps": 10, "inner_learning_rate": 0.01}
    config = _study("Classes of CIFAR-10 that training never saw", episodes, maml)
    config.dataset.name = "cifar10"
    config.model = ConfigDict({"name": "conv4"})
    config.epochs, config.eval_every_epochs = 20, 5
    return config


_VARIANTS: dict[str, Callable[[], Config]] = {
    "font_glyphs": _font_glyphs,
    "digits": _digits,
    "omniglot": _omniglot,
    "omniglot_20": lambda: _omniglot(20),
    "cifar10": _cifar10,
}
VARIANTS = tuple(_VARIANTS)
