"""Weights, selections and schedules, over what they are made of."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from experiments.curves.picture import (
    CLASSES,
    COUNTS,
    LABEL_AXIS,
    MARGINS,
    ONCE,
    PRIOR,
    Picture,
    along,
    frequent_and_rare,
    raised,
    sweep,
)
from xent_jax.typing import Array


def pictures() -> dict[str, Picture]:
    """Returns the pictures of these functions, by name."""

    def weight(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        counts = jnp.asarray([1000.0] * CLASSES)
        return function(jnp.where(jnp.arange(CLASSES) == 0, 10.0**x, counts), **keywords)[0]

    def deferred(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(jnp.asarray(COUNTS), x)[index]

    def rate(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(x, **keywords)

    def adjusted(function: Callable[..., Any], x: Array, label: int, **keywords: Any) -> Array:
        return function(raised(x, label), class_prior=jnp.asarray(PRIOR), **keywords)[label]

    def norm(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(jnp.stack([x, jnp.zeros_like(x)])[None], **keywords)[0, 0]

    def chosen(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        others = jnp.linspace(0.0, 4.0, 9)
        mask = function(jnp.concatenate([x[None], others]), **keywords)
        return mask[0].astype(x.dtype)

    def kept(function: Callable[..., Any], x: Array) -> Array:
        """The number is cast, because a selection is of booleans."""
        return function(raised(x), jnp.asarray(0)).astype(x.dtype)

    def smoothed(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(jnp.concatenate([x[None], (1.0 - x)[None], jnp.zeros(8)]), **keywords)[0]

    count_axis = "log10 of its examples (others have 1000)"
    counts = {"low": 0.0, "high": 4.0, "value": "weight", "slope": False}
    rates: Any = {"low": 0.0, "high": 20.0, "value": "part left out", "slope": False}
    classes = frequent_and_rare()
    return {
        **along(
            {
                "class_balanced_weights": sweep(beta=(0.99, 0.999, 0.9999)),
                "inverse_frequency_weights": sweep(power=(0.5, 1.0)),
            },
            weight,
            count_axis,
            **counts,
        ),
        **along(
            {
                "deferred_reweighting_weights": {
                    name: {"index": keywords["label"]} for name, keywords in classes.items()
                }
            },
            deferred,
            "epoch",
            low=140.0,
            high=200.0,
            value="weight",
            slope=False,
        ),
        **along({"co_teaching_forget_rate": sweep(noise_rate=(0.2, 0.4))}, rate, "epoch", **rates),
        **along(
            {"smooth_labels": sweep(alpha=(0.0, 0.1, 0.3))},
            smoothed,
            "target of one of ten classes",
            low=0.0,
            high=1.0,
            value="smoothed target",
            slope=False,
        ),
        **along(
            {"confidence_regularized_sieve": ONCE},
            kept,
            LABEL_AXIS,
            **MARGINS,
            value="selected",
            slope=False,
        ),
        **along(
            {"small_loss_selection": sweep(forget_rate=(0.2, 0.5))},
            chosen,
            "loss of one example (others 0, 0.5, ... 4)",
            low=-0.2,
            high=4.2,
            value="selected",
            slope=False,
        ),
        **along(
            {"logit_adjustment_posthoc": classes},
            adjusted,
            "logit of one class",
            **MARGINS,
            value="adjusted logit",
            slope=False,
        ),
        **along(
            {"tau_normalise": sweep(tau=(0.0, 0.5, 1.0))},
            norm,
            "length of a class's weights",
            low=0.1,
            high=3.0,
            value="length after",
            slope=False,
        ),
    }
