"""A run inside a stack is the same run as alone."""

import functools
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from tests.training import tiny_run
from xent_jax.data import Dataset, pipeline
from xent_jax.errors import UserError
from xent_jax.training import default_study, expand, prepare
from xent_jax.training import stack as stacks
from xent_jax.training.feed import make_feed
from xent_jax.training.grouping import assemble, groups_of
from xent_jax.training.run import make_sets
from xent_jax.training.stack import compile_stack, make_stack, stacked, use_cores
from xent_jax.training.study import Member

TRAIN, TEST = tiny_run.dataset(40), tiny_run.dataset(10)
SPLITS = {"train": TRAIN, "test": TEST}
METHODS = (
    {"label": "CE"},
    {"label": "GCE", "loss": {"name": "generalized_cross_entropy", "q": 0.3}},
    {"label": "GCE .9", "loss": {"name": "generalized_cross_entropy", "q": 0.9}},
    {"label": "MAE", "loss": {"name": "mean_absolute_error"}},
)


def study(**changes: Any) -> ConfigDict:
    config = default_study()
    config.update(tiny_run.config(devices=0, **{"dataset.validation_examples": 6}))
    config.seeds, config.epochs, config.methods = 2, 5, METHODS
    config.corruption = ConfigDict({"name": "symmetric"})
    config.grid = ConfigDict({"corruption": {"rate": (0.0, 0.5)}})
    config.tune = ConfigDict({"optimizer": {"learning_rate": (0.05, 0.1)}})
    for key, value in changes.items():
        config[key] = value
    return config


def alone(member: Member, train: Dataset = TRAIN, test: Dataset = TEST) -> tuple[Any, Any, Any]:
    """Returns a run's first and last state, trained by itself, and what evaluates it."""
    run = prepare(tiny_run.on_one_device(member.config), make_sets(member.config, train, test))
    feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)
    for epoch in range(member.config.epochs):
        state, _ = feed.train(state, epoch, 0, run.steps_per_epoch)
    return run.initial_state, jax.device_get(state), feed


@functools.cache
def some_alone() -> dict[int, tuple[Any, Any]]:
    """First and last states of some of the study's runs, by their places in its group."""
    (group,) = groups_of(expand(study()))
    return {index: alone(group[index])[:2] for index in (0, 9, 22, 31)}


def trained(stack: Any, facts: Any, shared: Any, epochs: int) -> tuple[Any, Any, np.ndarray]:
    """Returns the runs' first and last states, and which of them stayed finite."""
    placed = jax.device_put(facts, stack.by_run)
    state = stack.init(placed)
    first, finite = jax.device_get(state), None
    for epoch in range(epochs):
        state, _, finite = stack.train(state, placed, shared, np.int32(epoch))
    return first, jax.device_get(state), np.asarray(finite)


def row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


@pytest.mark.parametrize(("devices", "width"), [(2, 1), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_a_run_in_a_stack_is_the_run_alone(devices: int, width: int):
    members = expand(study())
    (group,) = groups_of(members)
    assert len(group) == 4 * 2 * 2 * 2
    assembled = assemble(group, group, SPLITS)
    stack = make_stack(assembled.trainable, jax.devices()[:devices], width)
    first, last, finite = trained(stack, stacked(assembled.facts, 32), assembled.shared, 5)
    assert finite.all()
    for index, (begun, ended) in some_alone().items():
        jax.tree.map(np.testing.assert_array_equal, row(first, index), begun)
        assert int(row(last, index).step) == 5 * assembled.trainable.steps_per_epoch == 25
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5),
            row(last, index),
            ended,
        )


@pytest.mark.slow  # 32 trainings
def test_final_accuracies_are_those_of_the_runs_alone_up_to_the_seeds_deviation():
    digits = load_digits()
    images, labels = (16 * digits.images[..., None]).astype(np.uint8), np.int32(digits.target)
    names = tuple(map(str, range(10)))
    train, test = (
        Dataset(images[part], labels[part], labels[part], names, "digits")
        for part in (slice(1_437), slice(1_437, None))
    )
    config = default_study()
    config.seeds, config.epochs = 16, 15
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.05, "momentum": 0.9})
    config.corruption = ConfigDict({"name": "symmetric", "rate": 0.4})
    members = expand(config)
    group = assemble(members, members, {"train": train, "test": test})
    stack = make_stack(group.trainable, jax.devices()[:2], 4)
    placed = jax.device_put(stacked(group.facts, 16), stack.by_run)
    state = stack.init(placed)
    for epoch in range(15):
        state, *_ = stack.train(state, placed, group.shared, np.int32(epoch))
    sums = jax.device_get(stack.evaluate(state, placed, group.shared))
    stacked_up = [group.trainable.describe(row(sums, i), None) for i in range(16)]
    ours = np.array([found["test"]["accuracy"] for found in stacked_up])
    ends = [alone(member, train, test)[1:] for member in members]
    hits = [jax.device_get(feed.evaluate(state, "test")).hits.sum() for state, feed in ends]
    theirs = np.array(hits) / len(test.labels)
    assert 0.5 < theirs.mean() < 1.0
    assert np.abs(ours - theirs).max() <= theirs.std(ddof=1)


def test_labels_places_and_order_are_those_of_the_run_alone():
    members = expand(study())
    assembled = assemble(members, members, SPLITS)
    for member, facts in list(zip(members, assembled.facts, strict=True))[::5]:
        sets = make_sets(member.config, TRAIN, TEST)
        run = prepare(tiny_run.on_one_device(member.config), sets)
        own = facts.sets["train"]
        np.testing.assert_array_equal(own["label"], sets["train"].labels)
        np.testing.assert_array_equal(TRAIN.images[own["place"]], sets["train"].images)
        held_out = TRAIN.images[facts.sets["validation"]["place"]]
        np.testing.assert_array_equal(held_out, sets["validation"].images)
        wrong = facts.sets["wrong"]
        assert wrong["mask"].sum() == (len(sets["wrong"].labels) if "wrong" in sets else 0)
        order_key = jax.random.split(jax.random.wrap_key_data(facts.program.key), 3)[1]
        ours, theirs = (
            pipeline.epoch_indices(key, 3, len(own["label"]), 8)[0]
            for key in (order_key, run.program.order_key)
        )
        np.testing.assert_array_equal(ours, theirs)


def test_what_a_stack_reports_is_what_each_run_would_report():
    config = study(epochs=1, methods=METHODS[:1], tune=ConfigDict())
    members = [m for m in expand(config) if m.config.corruption.rate]
    assert [member.seed for member in members] == [0, 1]
    group = assemble(members, members, SPLITS)
    stack = make_stack(group.trainable, jax.devices()[:1], 2)
    facts = jax.device_put(stacked(group.facts, 2), stack.by_run)
    state = stack.init(facts)
    sums = jax.device_get(stack.evaluate(state, facts, group.shared))
    sets = make_sets(members[1].config, TRAIN, TEST)
    run = prepare(tiny_run.on_one_device(members[1].config), sets)
    feed, single = make_feed(run, 0), run.runner.place_state(run.initial_state)
    found = group.trainable.describe(row(sums, 1), None)
    for name, key in (("test", "nll"), ("validation", "accuracy")):
        theirs = jax.device_get(feed.evaluate(single, name))
        expected = {"nll": theirs.nll.value() / len(sets[name].labels)}
        expected["accuracy"] = theirs.hits.sum() / len(sets[name].labels)
        assert found[name][key] == pytest.approx(expected[key], rel=1e-5)
    wrong = jax.device_get(feed.evaluate(single, "wrong"))
    assert found["wrong_labels"]["memorised"] == wrong.memorised / len(sets["wrong"].labels)


def test_a_diverging_run_is_told_and_leaves_the_others_untouched():
    sound = expand(study(tune=ConfigDict({"optimizer": {"learning_rate": (0.05, 0.06)}})))[:6]
    wild = expand(study(tune=ConfigDict({"optimizer": {"learning_rate": (1e30, 0.06)}})))[:6]
    groups = [assemble(members, members, SPLITS) for members in (sound, wild)]
    stack = make_stack(groups[0].trainable, jax.devices()[:1], 6)
    (ours, finite), (theirs, theirs_finite) = (
        trained(stack, stacked(group.facts, 6), group.shared, 5)[1:] for group in groups
    )
    diverged = np.array([m.config.optimizer.learning_rate == 1e30 for m in wild])
    assert finite.all()
    np.testing.assert_array_equal(theirs_finite, ~diverged)
    for index in np.flatnonzero(~diverged):
        jax.tree.map(np.testing.assert_array_equal, row(ours, index), row(theirs, index))


def test_what_changes_code_or_shapes_makes_a_group_of_its_own():
    methods = (
        *METHODS,
        {"label": "ELR", "loss": {"name": "early_learning_regularization"}},
        {"label": "co-teaching", "co_teaching": {"forget_rate": 0.2}},
        {"label": "wide", "model": {"name": "mlp", "hidden": (9,)}},
        {"label": "no decay", "weight_decay": 0.0, "epochs": 4},
    )
    groups = groups_of(expand(study(methods=methods, weight_decay=0.01)))
    assert [{m.method for m in group} for group in groups] == [
        {"CE", "GCE", "GCE .9", "MAE"},
        {"ELR"},
        {"co-teaching"},
        {"wide"},
        {"no decay"},
    ]


def test_a_rate_may_be_a_whole_number():
    grid = ConfigDict({"corruption": {"rate": (0, 0.5)}})
    members = expand(study(grid=grid, tune=ConfigDict(), methods=METHODS[:1], seeds=1))
    group = assemble(members, members, SPLITS)
    program = compile_stack(group.trainable, group.facts[0], group.shared, 2)
    state = program.stack.init(program.place(group.facts))
    assert state.step.shape == (2,)


def test_a_bad_number_of_one_run_is_told_before_anything_is_compiled():
    methods = ({"label": "bad", "loss": {"name": "generalized_cross_entropy", "q": -0.5}},)
    members = expand(study(methods=(*METHODS, *methods), seeds=1))
    with pytest.raises(UserError, match=r"config.loss: 'generalized_cross_entropy'.*q"):
        assemble(members, members, SPLITS)
    members = expand(study(tune=ConfigDict({"optimizer": {"learning_rate": (0.1, -0.1)}})))
    with pytest.raises(UserError, match=r"learning_rate=-0.1 must be a positive number"):
        assemble(members, members, SPLITS)


def test_a_stack_is_cut_to_the_memory_there_is(monkeypatch: pytest.MonkeyPatch):
    devices = jax.devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    config = study(seeds=8, methods=METHODS[:1], grid=ConfigDict())
    config.corruption.rate, config.dataset.shift, config.ema_decay = 0.5, 0, 0.0
    members = expand(config)
    group = assemble(members, members, SPLITS)
    make = [group.trainable, group.facts[0], group.shared]
    made, compiled = {}, stacks._compiled

    def once(*given: Any) -> Any:
        """Compiles a stack of so many runs, or returns the one that was."""
        runs = given[3]
        if runs not in made:
            made[runs] = compiled(*given)
        return made[runs]

    monkeypatch.setattr(stacks, "_compiled", once)
    whole = compile_stack(*make, runs=16)
    assert (whole.runs, whole.size) == (16, 16)
    part = compile_stack(*make, runs=16, memory=0.6 * whole.bytes)
    assert part.bytes <= 0.6 * whole.bytes
    assert 2 <= part.runs <= 8
    with pytest.raises(UserError, match=r"one run of 16 needs .* may be taken \(--memory_gb\)"):
        compile_stack(*make, runs=16, memory=1e3)


_FACTORISE = """
from xent_jax.training.stack import use_cores
use_cores(1000, factorise=True)
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
def factorise(keys):
    def step(key, _):
        key, own = jax.random.split(key)
        x = jax.random.normal(own, (50, 25, 25))
        x = x @ jnp.swapaxes(x, -1, -2) + jnp.eye(25)
        return key, jnp.linalg.cholesky(x).sum()
    return jax.lax.scan(step, keys[0], None, length=20_000)[1][None]
mesh = Mesh(np.asarray(jax.devices()), ("runs",))
spec = {"in_specs": P("runs"), "out_specs": P("runs"), "check_vma": False}
keys = jax.random.split(jax.random.key(0), jax.device_count())
jax.block_until_ready(jax.jit(jax.shard_map(factorise, mesh=mesh, **spec))(keys))
"""


@pytest.mark.slow  # Without the remedy it stops for ever in some of the first 20,000 steps.
def test_factorisations_on_every_core_do_not_wait_for_one_another():
    kept = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "PJRT_NPROC")
    environment = {key: value for key, value in os.environ.items() if key not in kept}
    command = [sys.executable, "-c", _FACTORISE]
    subprocess.run(command, env=environment, check=True, timeout=240)


@pytest.mark.parametrize("runs", [1, 1000])
def test_runs_that_are_fewer_than_cores_have_as_few_devices(runs, monkeypatch):
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PJRT_NPROC", "2")  # To be put back.
    options = {}
    monkeypatch.setattr(jax.config, "update", options.__setitem__)
    use_cores(runs)
    assert options == {"jax_num_cpu_devices": min(runs, len(os.sched_getaffinity(0)))}
