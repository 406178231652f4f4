"""The networks that the studies train, in Flax NNX, one family per file.

Every model of images is called as `logits = model(images, train=False, mask=None, keys=None)`:

  images: (B, H, W, C) float32.
  train: whether to use the batch's own statistics, and dropout.
  mask: (B,) bool, which examples count; padding stays out of the batch statistics. None: all.
  keys: (B,) random keys, one per example, for dropout; models and rates without it need none.
  logits: (B, K) float32.

They are `model.logits` of `model.features(images, train, mask, keys)`, a linear layer of (B, D)
features or, with `cosine_scale`, a layer of cosines.

A model's state is its `nnx.Param` and its `nnx.BatchStat` and nothing else, so that
`nnx.split(model, nnx.Param, nnx.BatchStat)` is complete and the rest is a pure function.
"""

import inspect
import math
from typing import Any

from flax import nnx

from xent_jax.errors import UserError, nearest
from xent_jax.models.cnn import cnn4, cnn8, conv4
from xent_jax.models.layers import CosineLinear
from xent_jax.models.lenet import lenet
from xent_jax.models.lstm import LSTM
from xent_jax.models.mlp import mlp
from xent_jax.models.resnet import resnet18, resnet20, resnet32
from xent_jax.models.transformer import Transformer

_MODELS = {
    "mlp": mlp,
    "lenet": lenet,
    "cnn4": cnn4,
    "cnn8": cnn8,
    "conv4": conv4,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet18": resnet18,
}

NAMES = tuple(_MODELS)
"""What `create` can make."""

LANGUAGE_MODELS = {"transformer": Transformer, "lstm": LSTM}
"""Those of `hidden = model(tokens)`, (B, L) integers to (B, L, D), whose last layer is the loss's.

`model.embedding`, of (V, D), is that layer; their state is `nnx.Param` alone.
"""

__all__ = ["LANGUAGE_MODELS", "NAMES", "create"]


def create(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
    axis_name: str | None = None,
    cosine_scale: float = 0.0,
    **hyperparameters: Any,
) -> Any:
    """Returns the model of this name, an `nnx.Module` with fresh parameters.

    Args:
      name: one of `NAMES`.
      num_classes: K.
      image_shape: (H, W, C).
      rngs: where the initial parameters come from.
      axis_name: the mapped axis over which the batch is split, under `jax.pmap` or
        `jax.shard_map`; None under `jax.jit`, sharded or not.
      cosine_scale: above 0, the logits are this many times the cosines of features and class
        weights, as margin losses want them; 0: an ordinary linear layer.
      **hyperparameters: the model's own, as its docstring says.

    Raises:
      UserError: an unknown name or hyper-parameter, one out of its range, or images too small.

    >>> import jax
    >>> model = create("mlp", num_classes=10, image_shape=(28, 28, 1), rngs=nnx.Rngs(0), hidden=64)
    >>> model(jax.numpy.zeros((2, 28, 28, 1))).shape
    (2, 10)
    """
    if name not in NAMES:
        raise UserError(f"unknown model {name!r}{nearest(name, NAMES)}; one of: {', '.join(NAMES)}")
    given = {"num_classes": num_classes, "image_shape": tuple(image_shape), "rngs": rngs}
    given["axis_name"] = axis_name
    parameters = inspect.signature(_MODELS[name]).parameters
    own = [key for key in parameters if key not in given]
    _check_known(name, hyperparameters, [*own, "cosine_scale"])
    context = {key: value for key, value in given.items() if key in parameters}
    model: Any = _MODELS[name](**context, **hyperparameters)
    if cosine_scale:
        width = model.logits.in_features
        model.logits = CosineLinear(width, num_classes, scale=_positive(cosine_scale), rngs=rngs)
    return model


def _positive(scale: Any) -> float:
    if not (isinstance(scale, int | float) and 0 < scale < math.inf):
        raise UserError(f"cosine_scale={scale!r} must be a number above 0, such as 30.0")
    return float(scale)


def _check_known(name: str, hyperparameters: dict[str, Any], known: list[str]) -> None:
    for key in hyperparameters:
        if key not in known:
            raise UserError(
                f"model {name!r} has no hyper-parameter {key!r}{nearest(key, known)}; "
                f"it takes: {', '.join(known)}"
            )
