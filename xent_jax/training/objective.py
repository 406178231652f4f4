"""Where models meet losses: a loss by its name, its context bound by the names it asks for."""

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax import losses, presets
from xent_jax.errors import UserError
from xent_jax.training.config import Section, call_arguments, known_name
from xent_jax.typing import Array

Feed = Mapping[str, Any]
"""What one step can give a loss, by the name of the argument that asks for it."""

FEEDS = {
    "logits": "(B, K)",
    "cosines": "(B, K), of features and class weights: set config.model.cosine_scale",
    "labels": "(B,)",
    "where": "(B,), False where the batch is padded",
    "features": "(B, D), the last layer's input",
    "classifier_weights": "(K, D), of the last layer",
    "teacher_logits": "(B, K), of a trained network: set config.teacher to its run's folder",
    "indices": "(B,), the examples' places in the training set",
    "epoch": "whole epochs trained so far",
    "state": "what a stateful loss keeps from step to step",
}
"""What changes from step to step."""

CONSTANTS = {
    "class_counts": "(K,), training examples of each class",
    "class_prior": "(K,), their share",
    "transition_matrix": "(K, K), P(given label j | clean label i): set config.corruption "
    "or config.second_stage",
    "noise_rate": "the share of labels that was chosen to be changed: set config.corruption",
    "num_examples": "of the training set",
    "num_classes": "K",
    "axis_name": "the mapped axis that the batch is split over, under pmap",
}
"""What is known before the first step."""


class Objective(NamedTuple):
    """A loss and all that does not change, bound.

    Attributes:
      loss: (feed) -> one loss per example, masked ones being 0, and the new state.
      state: what a stateful loss starts from; None for the others.
    """

    loss: Callable[[Feed], tuple[Array, Any]]
    state: Any


def trainable_losses() -> tuple[str, ...]:
    """Returns the catalogue's losses of a network's output and class labels, for a config."""
    return tuple(name for name in losses.__all__ if _obstacle(name) is None)


def make_objective(
    section: str, spec: Section, feed: Feed, constants: Mapping[str, Any]
) -> Objective:
    """Returns the loss that a config's section names, with what it asks for.

    An argument is taken from the section, else from `constants`, else from the step's feed,
    wherever its name occurs first. Losses of independent labels (sigmoid cross-entropy and its
    kin) are given one-hot labels, and summed over the classes.

    Args:
      section: the config's key, for messages.
      spec: `dict(name='generalized_cross_entropy', q=0.7)`, perhaps with `preset='cifar10'`.
      feed: the shapes of what steps will give; keys of `FEEDS`.
      constants: keys of `CONSTANTS`.

    Raises:
      UserError: an unknown loss, hyper-parameter or preset, a hyper-parameter out of its range,
        or something the loss asks for that is not there.
    """
    name = spec["name"]
    if name in losses.__all__ and (obstacle := _obstacle(name)):
        raise UserError(f"config.{section}: {name!r} {obstacle}")
    known_name(section, name, trainable_losses())
    parameters, stateful = _parameters(name), "state" in _parameters(name)
    arguments = call_arguments(section, with_preset(section, spec), _hyper_parameters(name))
    for key, parameter in parameters.items():
        if key in constants:
            arguments.setdefault(key, constants[key])
        elif _is_required(parameter) and key not in {*arguments, *feed, "state"}:
            raise UserError(f"config.{section}: {name!r} needs {key!r}{_advice(key)}")
    of_state = {key: arguments.pop(key) for key in arguments.keys() - parameters.keys()}
    asked = [key for key in parameters if key in feed and key not in arguments]
    elementwise = "axis" not in parameters and "cosines" not in parameters

    def loss(feed: Feed, **arguments: Any) -> tuple[Array, Any]:
        arguments |= {key: feed[key] for key in asked}
        if elementwise:
            arguments |= _one_hot(feed)
        if stateful:
            loss, state = getattr(losses, name)(**arguments, state=feed["state"])
        else:
            loss, state = getattr(losses, name)(**arguments), None
        return (loss.sum(-1) if elementwise and loss.ndim == 2 else loss), state

    try:
        state = _initial_state(name, constants, of_state) if stateful else None
        # Outside a mapped axis, which is bound in training only.
        here = arguments | ({"axis_name": None} if "axis_name" in arguments else {})
        result, _ = jax.eval_shape(partial(loss, **here), {**feed, "state": state})
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.{section}: {name!r} cannot be trained so: {reason}") from None
    if result.shape != feed["labels"].shape or not jnp.issubdtype(result.dtype, jnp.floating):
        raise UserError(f"config.{section}: {name!r} does not give one value per example")
    return Objective(partial(loss, **arguments), state)


def choose(choice: Array, objectives: Sequence[Objective]) -> Objective:
    """Returns the objective that `choice` numbers, which may differ from run to run of a stack.

    Where runs are mapped over by `vmap`, every one of the losses is computed for every run.
    """
    if len(objectives) == 1:
        return objectives[0]
    assert all(objective.state is None for objective in objectives)
    branches = [objective.loss for objective in objectives]
    return Objective(lambda feed: jax.lax.switch(choice, branches, feed), None)


def is_stateful(name: str) -> bool:
    """Tells whether a loss keeps a state from step to step."""
    return name in losses.__all__ and "state" in _parameters(name)


def traceable(section: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the keys of a loss's section whose numbers may differ between the runs of a stack.

    They are those that the loss can be traced with, as found by trying on a batch of nothing.
    """
    return _traceable(json.dumps(section, sort_keys=True))


@functools.lru_cache(maxsize=1024)
def _traceable(section: str) -> tuple[str, ...]:
    given = json.loads(section)

    def works(key: str) -> bool:
        def trial(number: Array) -> Array:
            make_objective("loss", given | {key: number}, *_imagined())
            return number

        try:
            jax.eval_shape(trial, jax.ShapeDtypeStruct((), jnp.float32))
        except UserError:
            return False
        return True

    return tuple(key for key, value in given.items() if type(value) is float and works(key))


def _imagined() -> tuple[Feed, dict[str, Any]]:
    """Returns the shapes of a feed, and constants, of a small problem in which nothing lacks."""
    batch, classes, width, shape = 2, 3, 4, jax.ShapeDtypeStruct
    scores, labels = shape((batch, classes), jnp.float32), shape((batch,), jnp.int32)
    feed = dict.fromkeys(("logits", "cosines", "teacher_logits"), scores)
    feed |= {"features": shape((batch, width), jnp.float32), "labels": labels, "indices": labels}
    feed["classifier_weights"] = shape((classes, width), jnp.float32)
    feed |= {"where": shape((batch,), jnp.bool), "epoch": shape((), jnp.int32)}
    share = np.full(classes, 1 / classes, np.float32)
    known = {"class_counts": share * 30, "class_prior": share, "num_examples": 30}
    known |= {"num_classes": classes, "axis_name": None, "noise_rate": np.float32(0.25)}
    return feed, known | {"transition_matrix": np.eye(classes, dtype=np.float32) * 0.7 + 0.1}


def with_preset(section: str, spec: Section) -> dict[str, Any]:
    """Returns a loss's section with the arguments of its preset, which its own ones override.

    Raises:
      UserError: the loss has no such preset.
    """
    given = dict(spec.items())
    if "preset" not in given:
        return given
    try:
        return presets.preset(given["name"], str(given.pop("preset"))) | given
    except ValueError as error:
        raise UserError(f"config.{section}: {error}") from None


def _obstacle(name: str) -> str | None:
    """Returns why no config may name this function of the catalogue, or None if one may."""
    parameters = _parameters(name)
    outputs = parameters.keys() & {"logits", "cosines"}
    room = getattr(losses, name).__module__.rpartition(".")[2]
    if not outputs or not parameters.keys() >= {"labels", "where"} or room in _OF_OTHERS:
        return "is no loss of a network's output and class labels"
    if name in _OF_OTHER_LABELS:
        return _OF_OTHER_LABELS[name]
    for key, parameter in parameters.items():
        if _is_required(parameter) and key not in FEEDS | CONSTANTS:
            return f"needs {key!r}, which no step of this training gives"
    return None


_OF_OTHERS = ("alignment", "large_vocabulary", "ranking", "sequence")
_ORDERED = "takes a score for each step between classes, not one for each class"
_OF_PIXELS = "takes images whose every pixel has a label"
_OF_OTHER_LABELS = {
    "augmix": "takes several views of each example",
    "confidence_regularized_sieve": "chooses examples by True and False, which have no gradient",
    "coral": _ORDERED,
    "corn": _ORDERED,
    "cumulative_link": _ORDERED,
    "dice_loss": _OF_PIXELS,
    "lovasz_softmax": _OF_PIXELS,
    "multiclass_generalized_dice_loss": _OF_PIXELS,
    "negative_learning": "takes a class that the example is not of",
    "proxy_anchor": "gives one value for the whole batch, not one per example",
    "soft_triple": "takes several cosines for each class",
    "softmax_cross_entropy": "takes a distribution for each example: class labels go to "
    "softmax_cross_entropy_with_integer_labels",
    "zlpr_multilabel": "takes a set of labels for each example",
}


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind != parameter.VAR_POSITIONAL


def _hyper_parameters(name: str) -> set[str]:
    """Returns what a config may set: the loss's arguments that no step gives, and its state's."""
    asked = _parameters(name).keys()
    if "state" in asked:
        asked |= inspect.signature(getattr(losses, f"init_{name}_state")).parameters.keys()
    return asked - FEEDS.keys() - {"axis"}


def _initial_state(name: str, constants: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    init = getattr(losses, f"init_{name}_state")
    asked = inspect.signature(init).parameters
    return init(**{key: constants[key] for key in asked if key in constants}, **given)


def _one_hot(feed: Feed) -> dict[str, Array]:
    logits = feed["logits"]
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return {
        "labels": (classes == feed["labels"][:, None]).astype(logits.dtype),
        "where": jnp.broadcast_to(feed["where"][:, None], logits.shape),
    }


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(losses, name)).parameters)


def _advice(key: str) -> str:
    known = FEEDS | CONSTANTS
    return f", {known[key]}" if key in known else ": add it to the config"
