"""Data parallelism by sharded arrays: one program over a mesh of all devices of all processes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax.metrics import ClassificationSums
from xent_jax.training import step
from xent_jax.training.step import Batch, Data, Program, StepMetrics, TrainState
from xent_jax.typing import Array


class Runner(NamedTuple):
    """A program compiled for some devices. The state given to a training function is donated."""

    place_state: Callable[[TrainState], TrainState]
    place_data: Callable[[dict[str, np.ndarray]], Data]
    place_batch: Callable[[dict[str, np.ndarray]], Batch]
    train_chunk: Callable[[TrainState, Data, int, int, int], tuple[TrainState, StepMetrics]]
    train_batch: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
    evaluate: Callable[[TrainState, Data], ClassificationSums]
    evaluate_batch: Callable[[TrainState, Batch], ClassificationSums]
    predict_batch: Callable[[TrainState, Batch], Array]  # the logits of all devices' examples
    single: Callable[[Any], Any]  # drops what the devices hold in common but once


def mesh_runner(program: Program, devices: Sequence[Any]) -> Runner:
    """Returns the program under jit: state and data replicated, batches split over `devices`."""
    mesh = Mesh(np.asarray(devices), ("data",))
    replicated = NamedSharding(mesh, P())
    by_example = NamedSharding(mesh, P("data"))
    by_step = NamedSharding(mesh, P(None, "data"))

    def replicate(tree: Any) -> Any:
        return jax.tree.map(lambda x: placed(x, replicated), tree)

    def place_batch(batch: dict[str, np.ndarray]) -> Batch:
        return jax.tree.map(partial(jax.make_array_from_process_local_data, by_example), batch)

    share = partial(jax.lax.with_sharding_constraint, shardings=by_step)
    compiled = partial(jax.jit, out_shardings=replicated)
    return Runner(
        place_state=replicate,
        place_data=replicate,
        place_batch=place_batch,
        train_chunk=compiled(
            partial(step.train_chunk, program, share), static_argnums=4, donate_argnums=0
        ),
        train_batch=compiled(partial(step.train_step, program), donate_argnums=0),
        evaluate=compiled(partial(step.evaluate, program, share)),
        evaluate_batch=compiled(partial(step.evaluate_batch, program)),
        predict_batch=compiled(partial(step.predict_batch, program)),
        single=lambda tree: tree,
    )


def placed(x: Any, sharding: NamedSharding) -> jax.Array:
    """Returns an array of the host on the devices."""
    # A callback, as device_put would compare the value between processes.
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
