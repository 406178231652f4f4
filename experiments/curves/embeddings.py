"""Losses of embeddings, over how close those are that belong together."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.curves.picture import ONCE, Picture, Variants, along, sweep
from xent_jax.typing import Array


def pictures() -> dict[str, Picture]:
    """Returns the pictures of these losses, by name."""
    return _of_pairs() | _of_pairs_of_arrays() | _of_distances() | _of_episodes()


_NEGATIVES = 4


_PAIR_AXIS, _COSINES = "cosine of anchor and positive", {"low": -0.95, "high": 0.95}


def _anchor() -> np.ndarray:
    return np.eye(_NEGATIVES + 2)[0]


def _positive(cosine: Array) -> Array:
    """Returns a vector of length 1 at that cosine from the anchor, orthogonal to the negatives."""
    return jnp.stack([cosine, jnp.sqrt(1.0 - cosine**2), *jnp.zeros((_NEGATIVES,), cosine.dtype)])


def _negatives() -> np.ndarray:
    return np.eye(_NEGATIVES + 2)[2:]


def _of_pairs() -> dict[str, Picture]:
    def call(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        rows = [jnp.asarray(_anchor()), _positive(x), *jnp.asarray(_negatives())]
        labels = jnp.asarray([0, 0, *range(1, _NEGATIVES + 1)])
        return loss(jnp.stack(rows), labels, **keywords)[0]

    rows: dict[str, Variants] = {
        "batch_hard_triplet": {
            "soft margin": {"margin": None},
            "margin = 0.2": {"margin": 0.2},
        },
        "batch_semi_hard_triplet": sweep(margin=(0.2, 1.0)),
        "decoupled_contrastive": sweep(temperature=(0.5, 0.1)),
        "circle_loss": sweep(gamma=(20.0, 80.0)),
        "lifted_structure": sweep(margin=(0.5, 1.0)),
        "multi_similarity": sweep(alpha=(2.0, 5.0)),
        "neighbourhood_component_analysis": sweep(temperature=(1.0, 0.3)),
        "ntxent": sweep(temperature=(0.5, 0.1, 0.07)),
        "supervised_contrastive": sweep(temperature=(0.5, 0.1)),
        "tuplet_margin": sweep(scale=(16.0, 64.0)),
    }
    return along(rows, call, f"{_PAIR_AXIS} (0 with the four negatives)", **_COSINES)


def _of_pairs_of_arrays() -> dict[str, Picture]:
    def call(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        negatives = jnp.asarray(_negatives())
        anchors = jnp.stack([jnp.asarray(_anchor()), *negatives])
        return loss(anchors, jnp.stack([_positive(x), *negatives]), **keywords)[0]

    rows: dict[str, Variants] = {
        "clip_loss": {
            "log_scale = log 5": {"log_scale": np.log(5.0)},
            "log_scale = log(1 / 0.07)": {},
        },
        "info_nce": sweep(temperature=(0.5, 0.2, 0.07)),
        "n_pairs": ONCE,
        "siglip_loss": sweep(bias=(0.0, -10.0)),
    }
    return along(rows, call, f"{_PAIR_AXIS} (0 with the four negatives)", **_COSINES)


def _of_distances() -> dict[str, Picture]:
    def pair(loss: Callable[..., Any], x: Array, label: int) -> Array:
        other = jnp.stack([x, jnp.zeros_like(x)])
        return loss(jnp.zeros((1, 2)), other[None], jnp.asarray([label]))[0]

    def triplet(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        positive = jnp.stack([x, jnp.zeros_like(x)])
        return loss(jnp.zeros(2), positive, jnp.asarray([0.0, 1.5]), **keywords)

    belong = {"a pair": {"label": 1}, "no pair": {"label": 0}}
    ends = {"low": 0.02, "high": 2.0}
    return along(
        {"contrastive_loss": belong}, pair, "distance of the two (margin 1)", **ends
    ) | along(
        {"triplet_margin_loss": sweep(margin=(0.5, 1.0))},
        triplet,
        "distance of anchor and positive (1.5 to the negative)",
        **ends,
    )


def _of_episodes() -> dict[str, Picture]:
    """Of a query on the way from its own class's support to another class's."""
    support = {
        "support_embeddings": np.asarray([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]]),
        "support_labels": np.asarray([0, 0, 1, 1]),
        "num_classes": 2,
    }

    def query(x: Array) -> Array:
        return jnp.stack([1.0 - x, x])

    def loss_of(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(query(x), jnp.asarray(0), **support, **keywords)

    def logit(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(query(x), **support)[index]

    axis, ends = "way from the own class (0) to the other one (1)", {"low": -0.5, "high": 1.5}
    both = {"own class": {"index": 0}, "other class": {"index": 1}}
    rows: dict[str, Variants] = {
        "matching_network": sweep(scale=(1.0, 10.0)),
        "prototypical": ONCE,
        "ridge_regression": sweep(penalty=(1.0, 50.0)),
    }
    names = ("matching_network_logits", "prototypical_logits", "ridge_regression_logits")
    return along(rows, loss_of, axis, **ends) | along(
        dict.fromkeys(names, both), logit, axis, **ends, value="logit", slope=False
    )
