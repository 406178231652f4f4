"""Data parallelism by `jax.pmap`: one program per device of this process, sums made global by hand.

Kept for code bases and comparisons that need it; `mesh.py` is the default.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from xent_jax.training import step
from xent_jax.training.mesh import Runner
from xent_jax.training.step import Program
from xent_jax.typing import Array


def pmap_runner(program: Program, devices: Sequence[Any]) -> Runner:
    """Returns the program under pmap over `devices`; `program.axis_name` names their axis."""
    count, devices = len(devices), list(devices)
    mapped = partial(jax.pmap, axis_name=program.axis_name, devices=devices)
    identity = mapped(lambda tree: tree)

    def share(whole_LxB: Array) -> Array:
        size = whole_LxB.shape[1] // count
        start = jax.lax.axis_index(program.axis_name) * size
        return jax.lax.dynamic_slice_in_dim(whole_LxB, start, size, axis=1)

    def copies(tree: Any) -> Any:
        return identity(jax.tree.map(lambda x: np.stack([np.asarray(x)] * count), tree))

    def place_batch(batch: dict[str, np.ndarray]) -> step.Batch:
        return {k: np.reshape(v, (count, -1, *v.shape[1:])) for k, v in batch.items()}

    def single(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[0], tree)

    predict = mapped(partial(step.predict_batch, program))

    def predict_batch(state: step.TrainState, batch: step.Batch) -> Array:
        logits = predict(state, batch)
        return logits.reshape(-1, logits.shape[-1])

    train_chunk = mapped(
        partial(step.train_chunk, program, share),
        in_axes=(0, 0, None, None),
        static_broadcasted_argnums=4,
        donate_argnums=0,
    )
    return Runner(
        place_state=copies,
        place_data=copies,
        place_batch=place_batch,
        train_chunk=train_chunk,
        train_batch=mapped(partial(step.train_step, program), donate_argnums=0),
        evaluate=mapped(partial(step.evaluate, program, share)),
        evaluate_batch=mapped(partial(step.evaluate_batch, program)),
        predict_batch=predict_batch,
        single=single,
    )
