"""Functions of distributions, over how uneven a distribution is."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.curves.picture import CLASSES, ONCE, Picture, along, sweep
from xent_jax.typing import Array


def _pair(t: Array) -> Array:
    return jnp.stack([t, 1.0 - t])


def pictures() -> dict[str, Picture]:
    """Returns the pictures of these functions, by name."""
    fair, uneven = np.asarray([0.5, 0.5]), np.asarray([0.8, 0.2])
    against = {"q = (0.5, 0.5)": {"other": fair}, "q = (0.8, 0.2)": {"other": uneven}}

    def alone(function: Callable[..., Any], t: Array, **keywords: Any) -> Array:
        return function(_pair(t), **keywords)

    def with_other(function: Callable[..., Any], t: Array, other: np.ndarray, **keywords: Any):
        return function(_pair(t), jnp.asarray(other), **keywords)

    def after_other(function: Callable[..., Any], t: Array, other: np.ndarray) -> Array:
        return function(jnp.asarray(other), _pair(t))

    def of_logarithms(function: Callable[..., Any], t: Array, other: np.ndarray) -> Array:
        return function(jnp.log(_pair(t)), jnp.asarray(other))

    def both_logarithms(function: Callable[..., Any], t: Array, other: np.ndarray) -> Array:
        return function(jnp.log(_pair(t)), jnp.log(jnp.asarray(other)))

    def joint(function: Callable[..., Any], t: Array) -> Array:
        return function(0.5 * jnp.stack([_pair(t), _pair(1.0 - t)]))

    def of_label(function: Callable[..., Any], t: Array) -> Array:
        rest = jnp.broadcast_to((1.0 - t) / (CLASSES - 1), (CLASSES,))
        return function(jnp.where(jnp.arange(CLASSES) == 0, t, rest), jnp.asarray(0))

    def unnormalised(function: Callable[..., Any], t: Array, target: float) -> Array:
        return function(jnp.log(t)[None], jnp.asarray([target]))

    ends = {"low": 0.02, "high": 0.98}
    given = {f"p{key[1:]}": value for key, value in against.items()}
    targets = {f"target{key[1:]}": value for key, value in against.items()}
    renyi = {f"alpha = {alpha:g}": {"other": uneven, "alpha": alpha} for alpha in (0.5, 1.0, 2.0)}
    p, q = "t, of p = (t, 1 - t)", "t, of q = (t, 1 - t)"
    return {
        **along(
            {"entropy": {"nats": {}, "bits": {"base": 2.0}}, "perplexity": ONCE},
            alone,
            p,
            value="value",
            **ends,
        ),
        **along({"tsallis_entropy": sweep(q=(0.5, 1.0, 2.0))}, alone, p, value="value", **ends),
        **along(
            {"cross_entropy": given, "relative_entropy": given},
            after_other,
            q,
            value="value",
            **ends,
        ),
        **along(
            {
                "jensen_shannon_divergence": against,
                "total_variation": against,
                "renyi_divergence": renyi,
            },
            with_other,
            p,
            value="value",
            **ends,
        ),
        **along(
            {"kl_divergence": targets}, of_logarithms, f"prediction {q}", value="value", **ends
        ),
        **along(
            {"kl_divergence_with_log_targets": targets},
            both_logarithms,
            f"prediction {q}",
            value="value",
            **ends,
        ),
        **along(
            {"mutual_information": ONCE},
            joint,
            "probability that Y is X, two fair coins",
            value="value",
            **ends,
        ),
        **along(
            {
                "generalized_kl_divergence": {
                    "target 1": {"target": 1.0},
                    "target 2": {"target": 2.0},
                }
            },
            unnormalised,
            "prediction of one number",
            low=0.05,
            high=4.0,
            value="value",
        ),
        **along(
            {"cross_entropy_from_probabilities": ONCE},
            of_label,
            "probability of the label",
            **ends,
        ),
    }
