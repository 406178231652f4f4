"""A stack of runs as one compiled program: mapped over what the runs differ in, sharded over them.

The runs are spread over the devices. Each device trains its share in blocks of `width` runs that
`vmap` puts side by side, one block after another: wide blocks fill an accelerator, while the cores
of a CPU are busy with a run each.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax.training.step import StepMetrics
from xent_jax.training.trainable import Trainable
from xent_jax.typing import Array


class Stack(NamedTuple):
    """A Trainable's functions for `size` runs. States are donated to `train`."""

    place: Callable[[Any], Any]  # what has a leading axis of runs
    place_shared: Callable[[Any], Any]
    init: Callable[[Any], Any]
    train: Callable[..., Any]  # one epoch: the state, StepMetrics, and which runs stayed finite
    evaluate: Callable[[Any, Any, Any], Any]
    finish: Callable[[Any, Any, Any], Any]


def make_stack(trainable: Trainable, devices: Sequence[Any], width: int) -> Stack:
    """Returns the functions, each of which is compiled when it is first called.

    Args:
      trainable: of one run.
      devices: over which the runs are spread; their number must divide by that of the devices.
      width: how many runs a device trains side by side.
    """
    mesh = Mesh(np.asarray(devices), ("runs",))
    by_run, everywhere = (NamedSharding(mesh, spec) for spec in (P("runs"), P()))

    def mapped(function: Callable[..., Any], shared: int, **options: Any) -> Callable[..., Any]:
        """Maps all but the last `shared` arguments of a function over the runs."""

        def of_device(runs: Any, common: Any) -> Any:
            return _map(lambda run: function(*run, *common), runs, width)

        def of_all(*arguments: Any) -> Any:
            split = len(arguments) - shared
            specs = {"in_specs": (P("runs"), P()), "out_specs": P("runs")}
            # No device needs what another one has, so that there is nothing to check.
            spread = jax.shard_map(of_device, mesh=mesh, check_vma=False, **specs)
            return spread(arguments[:split], arguments[split:])

        return jax.jit(of_all, **options)

    def train(state: Any, facts: Any, shared: Any, epoch: Array) -> tuple[Any, StepMetrics, Array]:
        start, length = jnp.zeros((), jnp.int32), trainable.steps_per_epoch
        state, metrics = trainable.train(state, facts, shared, epoch, start, length)
        return state, metrics, _all_finite((state, metrics))

    return Stack(
        place=lambda tree: jax.device_put(tree, by_run),
        place_shared=lambda tree: jax.device_put(tree, everywhere),
        init=mapped(trainable.init, shared=0),
        train=mapped(train, shared=2, donate_argnums=0),
        evaluate=mapped(trainable.evaluate, shared=1),
        finish=mapped(trainable.finish, shared=1),
    )


def stacked(runs: Sequence[Any], size: int) -> Any:
    """Returns the runs' arrays on a leading axis of `size`; the last run fills up what is over."""
    filled = [*runs, *[runs[-1]] * (size - len(runs))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *filled)


def _map(function: Callable[[Any], Any], runs: Any, width: int) -> Any:
    count = jax.tree.leaves(runs)[0].shape[0]
    if count <= width:
        return jax.vmap(function)(runs)
    return jax.lax.map(function, runs, batch_size=width if width > 1 else None)


def _all_finite(tree: Any) -> Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
