"""Losses of yes or no, one by one and of sets."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.curves.picture import (
    CLASSES,
    COUNTS,
    MARGINS,
    ONCE,
    Curve,
    Picture,
    Variants,
    along,
    loss_alone,
    placed,
    raised,
    sweep,
)
from xent_jax import losses
from xent_jax.typing import Array


def pictures() -> dict[str, Picture]:
    """Returns the pictures of these losses, by name."""
    return _of_answers() | _of_sets() | _of_others()


def _answers(**context: Any) -> dict[str, Mapping[str, Any]]:
    return {"label 1": {"label": 1.0, **context}, "label 0": {"label": 0.0, **context}}


def _binary_loss(loss: Callable[..., Any], x: Array, label: float, **keywords: Any) -> Array:
    return loss_alone(loss(x, jnp.asarray(label, x.dtype), **keywords))


def sigmoid_cross_entropy(label: float) -> Curve:
    return lambda x: _binary_loss(losses.sigmoid_binary_cross_entropy, x, label)


def _of_answers() -> dict[str, Picture]:
    """Of losses of yes or no."""

    def one_of_ten(loss: Callable[..., Any], x: Array, index: int, label: float, **keywords: Any):
        """The label in question is not the only one of its example."""
        labels = placed(1.0, 5) + placed(label, index)
        return loss(raised(x, index), jnp.asarray(labels), **keywords)[index]

    def set_of_ten(loss: Callable[..., Any], x: Array, label: float) -> Array:
        return loss(raised(x), jnp.asarray(placed(label)))

    def logit(p: Array) -> Array:
        return jnp.log(p) - jnp.log1p(-p)

    # After batches whose errors were mostly small, as a detector's are.
    sizes = 0.5 ** np.arange(30.0)
    state = losses.init_gradient_harmonising_state()._replace(
        counts=sizes / sizes.sum(), weight=np.asarray(1.0)
    )
    signs = {"target 1": {"label": 1.0}, "target -1": {"label": -1.0}}
    rows: dict[str, Variants] = {
        "asymmetric_loss": _answers(),
        "gradient_harmonising": _answers(state=state),
        "hinge_loss": signs,
        "perceptron_loss": signs,
        "sigmoid_focal_loss": _answers(),
        "sparsemax_loss": _answers(),
    }
    detectors = {
        f"label {label:g}, {kind}": {"label": label, "index": index}
        for label in (1.0, 0.0)
        for kind, index in (("frequent", 0), ("rare", CLASSES - 1))
    }
    among = {
        "distribution_balanced": {
            label: {**keywords, "class_counts": COUNTS, "num_examples": 20000}
            for label, keywords in detectors.items()
        },
        "sigmoid_equalization": {
            label: {**keywords, "class_prior": COUNTS / 100_000}
            for label, keywords in detectors.items()
        },
    }
    axis, probability = "logit", {"low": 0.02, "high": 0.98}
    smoothed = {
        label: {**keywords, "label_smoothing": 0.1} for label, keywords in _answers().items()
    }
    return {
        **along(rows, _binary_loss, axis, **MARGINS, grey="binary cross-entropy"),
        **along(among, one_of_ten, axis, **MARGINS, grey="binary cross-entropy"),
        **along(
            {
                "sigmoid_binary_cross_entropy": {
                    **_answers(),
                    **{f"{label}, smoothed": value for label, value in smoothed.items()},
                }
            },
            _binary_loss,
            axis,
            **MARGINS,
        ),
        **along(
            {"binary_cross_entropy_from_probabilities": _answers()},
            _binary_loss,
            "probability",
            **probability,
        ),
        **along(
            {"zlpr_multilabel": _answers()},
            set_of_ten,
            "logit of one class (the nine others are 0, and no labels)",
            **MARGINS,
        ),
    }


def _of_sets() -> dict[str, Picture]:
    """Of losses of a set, here of ten elements, all of which are taken to be right alike."""

    def binary(loss: Callable[..., Any], x: Array, positives: int = 4, **keywords: Any) -> Array:
        labels = jnp.asarray((np.arange(CLASSES) < positives).astype(float))
        return loss((x * (2.0 * labels - 1.0))[None], labels[None], **keywords)[0]

    def misses(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        labels = jnp.asarray((np.arange(CLASSES) < 4).astype(float))
        return loss(jnp.where(labels == 1.0, x, -2.0)[None], labels[None], **keywords)[0]

    def classes(loss: Callable[..., Any], x: Array) -> Array:
        labels = jnp.arange(CLASSES) % 3
        return loss((x * jax.nn.one_hot(labels, 3, dtype=x.dtype))[None], labels[None])[0]

    def shares_of(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        """Of three classes, which have six, three and one of the elements."""
        labels = jax.nn.one_hot(jnp.asarray([0] * 6 + [1] * 3 + [2]), 3, dtype=x.dtype)
        return loss((x * labels)[None], labels[None], **keywords)[0]

    axis = "logit of every element, counted towards its label"
    shares = {f"{n} of 10 are positive": {"positives": n} for n in (1, 4)}
    rows: dict[str, Variants] = {
        "binary_dice_loss": shares,
        "lovasz_hinge": ONCE,
    }
    indices: dict[str, Variants] = {
        "tversky": {
            f"alpha = {a:g}, beta = {b:g}": {"alpha": a, "beta": b}
            for a, b in ((0.5, 0.5), (0.1, 0.9))
        }
    }
    return {
        **along(rows, binary, axis, **MARGINS),
        **along(
            {
                "dice_loss": sweep(smooth=(0.0, 1.0)),
                "multiclass_generalized_dice_loss": sweep(smooth=(0.0, 1.0)),
            },
            shares_of,
            "logit of every element's label",
            **MARGINS,
        ),
        **along({"lovasz_softmax": ONCE}, classes, "logit of every element's label", **MARGINS),
        **along(
            indices, misses, "logit of the 4 positives of 10 (the negatives are at -2)", **MARGINS
        ),
    }


def _of_others() -> dict[str, Picture]:
    def of_real(loss: Callable[..., Any], x: Array, real: bool) -> Array:
        """The part of the other example is left out, which is a constant."""
        sure = jnp.full_like(x, 30.0)
        return loss(x, -sure) if real else loss(sure, x)

    def of_fake(loss: Callable[..., Any], x: Array) -> Array:
        return loss(x)

    def ranked(loss: Callable[..., Any], x: Array) -> Array:
        return loss(x, jnp.zeros_like(x))

    def weighed(loss: Callable[..., Any], x: Array, value: float, **keywords: Any) -> Array:
        return loss(jnp.full_like(x, value), x, **keywords)

    both = {"of a real example": {"real": True}, "of a generated example": {"real": False}}
    tasks = {
        f"loss {value:g}{', regression' * regression}": {"value": value, "regression": regression}
        for value, regression in ((0.5, False), (2.0, False), (2.0, True))
    }
    generators: dict[str, Variants] = {
        "gan_hinge_generator": ONCE,
        "gan_minimax_generator": ONCE,
        "gan_non_saturating_generator": ONCE,
    }
    return {
        **along(
            {"gan_discriminator": both, "gan_hinge_discriminator": both},
            of_real,
            "logit of one example",
            **MARGINS,
        ),
        **along(generators, of_fake, "the discriminator's logit of a generated example", **MARGINS),
        **along(
            {"bayesian_personalised_ranking": ONCE},
            ranked,
            "score of the chosen item, less the other's",
            **MARGINS,
        ),
        **along(
            {"multi_task_uncertainty": tasks},
            weighed,
            "log-variance",
            low=-3.0,
            high=3.0,
        ),
    }
