"""A classifier's run in a stack measures what it would alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax.training import default_study, expand, prepare, step
from xent_jax.training.feed import make_feed
from xent_jax.training.grouping import assemble
from xent_jax.training.run import make_sets
from xent_jax.training.stack import make_stack, stacked

TRAIN, TEST = tiny_run.dataset(40), tiny_run.dataset(10)


def study() -> ConfigDict:
    config = default_study()
    config.update(tiny_run.config(devices=0, **{"dataset.validation_examples": 6}))
    config.seeds = 2
    return config


def test_temperatures_are_fitted_to_the_logits_of_the_run_alone_a_batch_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
):
    config = study()
    config.evaluation.temperature_scaling = True
    members = expand(config)
    group = assemble(members, members, {"train": TRAIN, "test": TEST})
    stack = make_stack(group.trainable, jax.devices()[:1], 2)
    facts = jax.device_put(stacked(group.facts, 2), stack.by_run)
    state, sizes, predict = stack.init(facts), [], step.predict_batch
    with monkeypatch.context() as patch:
        patch.setattr(
            step, "predict_batch", lambda *x: (sizes.append(len(x[2]["image"])), predict(*x))[1]
        )
        finished = jax.device_get(stack.finish(state, facts, group.shared))
    assert set(sizes) == {config.eval_batch_size}
    for index, member in enumerate(members):
        sets = make_sets(member.config, TRAIN, TEST)
        run = prepare(tiny_run.on_one_device(member.config), sets)
        feed, single = make_feed(run, 0), run.runner.place_state(run.initial_state)
        for name in ("validation", "test"):
            ours = finished["logits"][name][index]
            np.testing.assert_allclose(ours, feed.logits(single, name), rtol=0, atol=1e-5)
            np.testing.assert_array_equal(finished["labels"][name][index], sets[name].labels)


def test_features_that_overflow_end_no_sweep():
    config = study()
    config.evaluation.temperature_scaling = True
    members = expand(config)
    group = assemble(members, members, {"train": TRAIN, "test": TEST})
    facts, trainable = group.facts[0], group.trainable
    state = jax.jit(trainable.init)(facts)
    largest = float(np.finfo(np.float32).max)  # finite, and their sum is not
    large = jax.tree.map(lambda x: jnp.full_like(x, largest), state.params)
    state = state._replace(params=large, ema_params=large)
    told = [jax.jit(f)(state, facts, group.shared) for f in (trainable.evaluate, trainable.finish)]
    record = trainable.describe(*jax.device_get(told))
    assert "embedding" not in record
    assert record["test"]["examples"] == len(TEST.labels)
