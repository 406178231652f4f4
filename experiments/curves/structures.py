"""Losses of sequences, of ordered classes and of values, and sparse maps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.curves.picture import (
    LABEL_AXIS,
    MARGINS,
    ONCE,
    Picture,
    Variants,
    along,
    placed,
    raised,
    sweep,
)
from xent_jax.typing import Array


def pictures() -> dict[str, Picture]:
    """Returns the pictures of these losses, by name."""
    return _of_sequences() | _of_ordered_classes() | _of_values() | _of_sparse_maps()


def _of_sequences() -> dict[str, Picture]:
    """Of short sequences, every right symbol of which has the same logit."""
    tags = np.asarray([0, 1, 1, 2, 0])

    def scores(x: Array, symbols: np.ndarray, size: int = 4) -> Array:
        return x * jax.nn.one_hot(jnp.asarray(symbols), size, dtype=x.dtype)

    def tokens(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(raised(x)[None], jnp.zeros(1, int), **keywords)[0]

    def chain(loss: Callable[..., Any], x: Array, stay: float) -> Array:
        return loss(scores(x, tags)[None], jnp.asarray(tags)[None], jnp.asarray(_stay(stay)))[0]

    def marginal(function: Callable[..., Any], x: Array, stay: float) -> Array:
        emissions = scores(x, np.asarray([0, 0, 1, 0, 0])) * jnp.asarray([1.0, 1, 0, 1, 1])[:, None]
        return function(emissions[None], jnp.asarray(_stay(stay)))[0, 2, 0]

    def unwanted(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(raised(x, 1), jnp.asarray(0), jnp.asarray(placed(1.0, 1)), **keywords)

    def frames(loss: Callable[..., Any], x: Array, count: int) -> Array:
        """The symbols 1 and 2, each in the half of the frames that is its own."""
        spoken = 1 + (np.arange(count) >= count // 2)
        none = jnp.zeros((1, count), x.dtype)
        return loss(
            scores(x, spoken)[None], none, jnp.asarray([[1, 2]]), jnp.zeros((1, 2), x.dtype)
        )[0]

    def lattice(loss: Callable[..., Any], x: Array, count: int) -> Array:
        """After u symbols the next is u + 1, and blank when both are out."""
        upcoming = jnp.broadcast_to(scores(x, np.asarray([1, 2, 0])), (1, count, 3, 4))
        none = jnp.zeros((1, count), x.dtype)
        return loss(upcoming, none, jnp.asarray([[1, 2]]), jnp.zeros((1, 2), x.dtype))[0]

    def _stay(score: float) -> np.ndarray:
        return score * np.eye(4)

    right = "logit of every right symbol (the others are 0)"
    lengths = {f"{count} frames": {"count": count} for count in (2, 4, 8)}
    staying = {f"staying scores {score:g}": {"stay": score} for score in (0.0, 2.0)}
    return {
        **along({"token_cross_entropy": sweep(z_loss=(0.0, 0.1))}, tokens, LABEL_AXIS, **MARGINS),
        **along({"linear_chain_crf": staying}, chain, right, **MARGINS),
        **along(
            {"linear_chain_marginals": staying},
            marginal,
            "score of a tag at its two neighbours on each side",
            **MARGINS,
            value="probability of the tag",
        ),
        **along(
            {"unlikelihood": sweep(alpha=(0.0, 0.5, 1.0))},
            unwanted,
            "logit of an unwanted token (the label's is 0)",
            **MARGINS,
        ),
        **along({"ctc_loss": lengths}, frames, right, **MARGINS),
        **along({"rnn_transducer": lengths}, lattice, right, **MARGINS),
    }


def _of_ordered_classes() -> dict[str, Picture]:
    """Of a score with fixed biases, and the classes 0 to 4 in between them."""
    biases = np.asarray([3.0, 1.0, -1.0, -3.0])

    def loss_of(loss: Callable[..., Any], x: Array, label: int) -> Array:
        return loss(x + jnp.asarray(biases), jnp.asarray(label))

    def probability(function: Callable[..., Any], x: Array, label: int) -> Array:
        return function(x + jnp.asarray(biases))[label]

    labels = {f"label {label}": {"label": label} for label in (0, 2, 4)}
    classes = {f"class {label}": {"label": label} for label in range(5)}
    axis = "score (thresholds at -3, -1, 1 and 3)"
    return along(
        {"coral": labels, "corn": labels, "cumulative_link": labels}, loss_of, axis, **MARGINS
    ) | along(
        {"coral_probabilities": classes, "corn_probabilities": classes},
        probability,
        axis,
        **MARGINS,
        value="probability",
        slope=False,
    )


def _of_values() -> dict[str, Picture]:
    """Of regression over ten bins or atoms from 0 to 9."""
    atoms = np.arange(10.0)
    edges = np.arange(11.0) - 0.5

    def histogram(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(raised(x, 5), jnp.asarray(5.0), jnp.asarray(edges), **keywords)

    def atoms_of(loss: Callable[..., Any], x: Array, value: float) -> Array:
        return loss(raised(x, 5), jnp.asarray(value), jnp.asarray(atoms))

    def mean(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(raised(x, index), jnp.asarray(atoms))

    def in_bin(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(x, jnp.asarray(edges))[index]

    def on_atom(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(x, jnp.asarray(atoms))[index]

    def moved(function: Callable[..., Any], x: Array, index: int) -> Array:
        source = x + jnp.asarray([0.0, 3.0])  # a third of the mass lies 3 above the rest
        return function(jnp.asarray([2 / 3, 1 / 3]), source, jnp.asarray(atoms))[index]

    places = {f"{index}": {"index": index} for index in (4, 5, 6)}
    bins = {f"bin around {name}": value for name, value in places.items()}
    at = {f"atom {name}": value for name, value in places.items()}
    maps: dict[str, Any] = {"low": 2.0, "high": 8.0, "value": "probability", "slope": False}
    return {
        **along(
            {"hl_gauss": sweep(sigma_ratio=(0.25, 0.75, 2.0))},
            histogram,
            "logit of the value's bin (the nine others are 0)",
            **MARGINS,
            grey="cross-entropy",
        ),
        **along(
            {"two_hot": {f"value {value:g}": {"value": value} for value in (5.0, 5.25, 5.5)}},
            atoms_of,
            "logit of atom 5 (the nine others are 0)",
            **MARGINS,
            grey="cross-entropy",
        ),
        **along(
            {"expected_value": {f"of atom {index}": {"index": index} for index in (0, 4, 9)}},
            mean,
            "logit of one of the atoms 0 ... 9 (the others are 0)",
            **MARGINS,
            value="expected value",
        ),
        **along({"hl_gauss_targets": bins}, in_bin, "value", **maps),
        **along({"two_hot_targets": at}, on_atom, "value", **maps),
        **along(
            {"categorical_projection": at},
            moved,
            "place of two thirds (the last third: 3 above)",
            **(maps | {"low": 0.0, "high": 6.0}),
        ),
    }


def _of_sparse_maps() -> dict[str, Picture]:
    def probability(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(raised(x), **keywords)[0]

    rows: dict[str, Variants] = {
        "entmax": sweep(alpha=(1.25, 1.5, 2.0)),
        "entmax15": ONCE,
        "sparsemax": ONCE,
    }
    axis = "logit of one class (the nine others are 0)"
    options: Any = {"grey": "softmax", "value": "its probability"}
    return along(rows, probability, axis, **MARGINS, **options)


def softmax_of_one(x: Array) -> Array:
    return jax.nn.softmax(raised(x))[0]
