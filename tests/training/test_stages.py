"""What a second stage starts from, how its steps go, and that every way of training takes it."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax import data, losses, metrics
from xent_jax.data import pipeline
from xent_jax.errors import UserError
from xent_jax.models.layers import BatchNorm
from xent_jax.training import Run, default_study, expand, load_sets, networks, prepare, step
from xent_jax.training.checkpoint import Checkpointer
from xent_jax.training.classifier import classifier, run_facts, shared_arrays
from xent_jax.training.config import check_config
from xent_jax.training.feed import make_feed
from xent_jax.training.objective import Objective
from xent_jax.training.program import facts_of, shapes_of

TRAIN, TEST = tiny_run.dataset(30, wrong=6), tiny_run.dataset(10, wrong=2)
SETS = {"train": TRAIN, "test": TEST}
STEPS = 4  # an epoch
RETRAINING = {"name": "classifier_retraining", "epochs": 2}
ESTIMATED = {"name": "estimated_transition", "epochs": 2}
FORWARD = {"name": "forward_correction"}


def config(stage: dict[str, Any], **changes: Any) -> Any:
    changes = {"epochs": 3, "second_stage": stage} | changes
    return tiny_run.config(
        **{k: ConfigDict(v) if isinstance(v, dict) else v for k, v in changes.items()}
    )


def ready(stage: dict[str, Any], **changes: Any) -> Run:
    return prepare(config(stage, **changes), SETS)


def trained(run: Run, state: Any, first: int, last: int, length: int = STEPS) -> Any:
    """Returns the state, on the host, after the steps from `first` up to `last`."""
    feed, state = make_feed(run, first), run.runner.place_state(state)
    for at in range(first, last, length):
        state, _ = feed.train(state, at // STEPS, at % STEPS, length)
    return jax.device_get(run.runner.single(state))


def columns_of(dataset: data.Dataset) -> dict[str, Any]:
    return {"image": jnp.asarray(dataset.images), "label": jnp.asarray(dataset.labels)}


def equal(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def close(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def all_of(batches: Any) -> Any:
    return batches


def test_without_a_second_stage_there_is_none() -> None:
    run = ready({"name": "none"})
    columns = columns_of(TRAIN)
    chunk = partial(step.train_chunk, run.program, all_of, length=STEPS)
    assert "cond[" not in str(jax.make_jaxpr(chunk)(run.initial_state, columns, epoch=0, start=0))
    assert run.initial_state.transition_matrix is None


# ------------------------------------------------------------------------ classifier re-training


@pytest.fixture(scope="module")
def retraining() -> tuple[Run, Any, Any]:
    """A run of all that may move what shall stay, after its first stage and at its end."""
    changes = {"schedule": {"name": "cosine"}, "weight_decay": 0.1, "clip_norm": 0.5}
    changes |= {"reweighting": {"name": "inverse_frequency_weights"}}
    run, short = ready(RETRAINING, **changes), ready({"name": "none"}, epochs=1, **changes)
    between = trained(run, run.initial_state, 0, STEPS)
    close(between, trained(short, short.initial_state, 0, STEPS))  # The first stage is a run's.
    return run, between, trained(run, between, STEPS, 3 * STEPS)


def test_retraining_keeps_the_features_that_were_evaluated(retraining: Any) -> None:
    run, between, after = retraining
    initial = run.initial_state
    assert np.any(between.params["hidden"][0]["kernel"] != initial.params["hidden"][0]["kernel"])
    equal(after.params["hidden"], between.ema_params["hidden"])
    equal(after.ema_params["hidden"], between.ema_params["hidden"])
    assert np.any(after.params["logits"]["kernel"] != after.ema_params["logits"]["kernel"])
    assert int(after.step) == 3 * STEPS


def test_retraining_is_a_linear_model_of_balanced_draws_under_a_schedule_of_its_own(
    retraining: Any,
) -> None:
    run, between, after = retraining
    second = run.program.second_stage
    assert second is not None
    assert second.program.order_key != run.program.order_key
    started = jax.device_get(jax.jit(partial(second.start, all_of))(between, {}))
    weights = np.float64(started.params["logits"]["kernel"])
    for other in (between, run.initial_state):  # Its weights are drawn anew, of the same spread.
        assert np.all(weights != other.params["logits"]["kernel"])
    bias, velocity = np.zeros(4), np.zeros((6, 4))
    equal(started.params["logits"]["bias"], np.zeros(4, np.float32))
    for number, (images, labels, mask) in enumerate(_balanced_batches(run, between.step)):
        features = _hidden(started.params, images)
        logits = features @ weights + bias
        error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(4)[labels]
        error = error * mask[:, None] / mask.sum()
        gradient = np.concatenate([features.T @ error, error.sum(0)[None]])
        gradient *= min(1.0, 0.5 / np.sqrt((gradient**2).sum()))
        velocity = 0.9 * velocity + gradient + 0.1 * np.concatenate([weights, bias[None]])
        rate = 0.05 * 0.5 * (1 + np.cos(np.pi * number / (2 * STEPS)))
        weights, bias = weights - rate * velocity[:-1], bias - rate * velocity[-1]
    close(after.params["logits"], {"bias": bias, "kernel": weights})


def _balanced_batches(run: Run, first: int) -> Any:
    """Yields the second stage's images, as augmented, labels and mask."""
    second = run.program.second_stage
    assert second is not None
    sampler = pipeline.class_sampler("class_balanced", TRAIN.labels)
    indices_of = jax.jit(pipeline.epoch_indices, static_argnums=(2, 3))
    draws = [
        indices_of(second.program.order_key, epoch, 30, 8, sampler=sampler) for epoch in range(2)
    ]
    index, mask = (np.concatenate(parts) for parts in zip(*draws, strict=True))

    @jax.jit
    def augmented(number: Any, images: Any) -> Any:
        key = jax.random.fold_in(run.program.step_key, number)
        keys, _ = step._example_keys(key, jnp.arange(8))
        return pipeline.augment(keys, images, shift=1, flip=False)

    for number in range(2 * STEPS):
        images = augmented(first + number, TRAIN.images[index[number]])
        yield np.asarray(images), TRAIN.labels[index[number]], mask[number]


def _hidden(params: Any, images: np.ndarray) -> np.ndarray:
    """The features, without dropout."""
    pixels = TRAIN.images / 255
    x = ((images / 255 - pixels.mean()) / pixels.std()).reshape(len(images), -1)
    return np.maximum(x @ params["hidden"][0]["kernel"] + params["hidden"][0]["bias"], 0)


class Normalised(nnx.Module):
    """The least network with running statistics."""

    def __init__(self) -> None:
        self.norm = BatchNorm(16)
        self.logits = nnx.Linear(16, 4, rngs=nnx.Rngs(0))

    def features(self, images: Any, train: bool = False, mask: Any = None, keys: Any = None) -> Any:
        return self.norm(images.reshape(len(images), -1), train, mask)


def test_batch_normalisation_stays_as_it_is_and_normalises_as_in_evaluation() -> None:
    model, images, mask = Normalised(), jnp.asarray(TRAIN.images[:8] / 255, jnp.float32), None
    expected = model.features(images)
    statistics = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))

    def total(model: Normalised) -> Any:
        fed = networks.feed(model, images, jnp.ones(8, bool), mask, frozen=True)
        equal(fed["features"], expected)
        return (fed["logits"] ** 2).sum()

    gradient = nnx.grad(total)(model)
    equal(nnx.state(model, nnx.BatchStat), statistics)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["norm"]))
    assert np.any(gradient["logits"]["kernel"])


def test_the_sampler_may_be_named_and_counts_its_own_epochs() -> None:
    stage = RETRAINING | {"sampler": "progressively_balanced"}
    first, second = (
        getattr(facts_of(config(stage, sampler={"name": "progressively_balanced"}), TRAIN), name)
        for name in ("sampler", "second_sampler")
    )
    assert (first.epochs, second.epochs) == (1, 2)
    plain = facts_of(config(RETRAINING | {"sampler": "shuffle"}), TRAIN)
    assert plain.sampler is plain.second_sampler is None
    again = facts_of(config(ESTIMATED, sampler={"name": "square_root"}), TRAIN)
    equal(again.second_sampler, again.sampler)


# ------------------------------------------------------------------------- estimated transitions

MATRIX = 0.05 * np.array([[14, 2, 2, 2], [2, 12, 2, 4], [1, 6, 12, 1], [4, 2, 2, 12]])


def anchored() -> data.Dataset:
    """Images of pixel i for class i, and mixtures of two of them, of which class nobody is sure."""
    pure = 255 * np.eye(4, 16)
    mixed = [0.5 * pure[i] + 0.5 * pure[j] for i in range(4) for j in range(4)]
    images = np.concatenate([mixed, pure, mixed, mixed]).astype(np.uint8)[:, None, :, None]
    labels = np.arange(len(images), dtype=np.int32) % 5 % 4  # Not each as often.
    images = images.reshape(-1, 4, 4, 1)
    return data.Dataset(images, labels, labels, tuple("abcd"), "anchored")


@pytest.mark.parametrize(("parallel", "devices"), [("mesh", 2), ("pmap", 2)])
def test_where_the_posterior_is_known_the_matrix_is_found(parallel: str, devices: int) -> None:
    sets = {"train": anchored(), "test": TEST}
    stage = {"name": "estimated_transition", "epochs": 1}
    changes = {"loss": FORWARD, "model": {"name": "mlp", "hidden": ()}, "epochs": 2}
    changes |= {"dataset.standardise": False, "evaluation.logit_adjustment": 1.0}
    changes |= {"parallel": parallel, "devices": devices}
    run = prepare(config(stage, **changes), sets)
    known = np.zeros((16, 4), np.float32)
    known[:4] = np.log(MATRIX)  # of the averaged network, which is the one that counts
    average = run.initial_state.params | {"logits": {"kernel": known, "bias": np.zeros(4)}}
    average = jax.tree.map(np.float32, average)
    state = run.runner.place_state(run.initial_state._replace(ema_params=average))
    columns = run.runner.place_data({"image": sets["train"].images, "label": sets["train"].labels})
    state, _ = run.runner.train_chunk(state, columns, 1, 0, 1)
    found = jax.device_get(run.runner.single(state))
    np.testing.assert_allclose(found.transition_matrix, MATRIX, rtol=1e-5)


def test_the_new_network_is_another_one_and_its_loss_is_told_the_matrix() -> None:
    run = ready(ESTIMATED, loss=FORWARD)
    second, columns = run.program.second_stage, columns_of(TRAIN)
    assert second is not None
    state = trained(run, run.initial_state, 0, STEPS)
    equal(state.transition_matrix, np.eye(4, dtype=np.float32))
    started = jax.device_get(jax.jit(partial(second.start, all_of))(state, columns))
    initial = run.initial_state
    for other in (state, initial):
        kernels = jax.tree.map(lambda x, y: np.any(x != y), started.params, other.params)
        assert kernels["hidden"][0]["kernel"]
        assert kernels["logits"]["kernel"]
    equal(started.opt_state, initial.opt_state)
    equal(started.ema_params, started.params)
    batch = {"label": TRAIN.labels[:8], "image": TRAIN.images[:8], "mask": np.ones(8, bool)}
    batch |= {"index": np.arange(8), "position": np.arange(8)}

    @jax.jit
    def found_and_expected(state: Any, batch: Any) -> Any:
        batch = step._prepared(second.program, state, batch)
        found, _ = step._losses(
            second.program, batch, jnp.int32(0), state.params, state.batch_stats, None
        )
        logits, matrix = _logits_of(second.program, batch, state), state.transition_matrix
        labels = TRAIN.labels[:8]
        return found, losses.forward_correction(logits, labels, transition_matrix=matrix)

    close(*found_and_expected(started, batch))
    assert np.abs(started.transition_matrix - np.eye(4)).max() > 0.1


def _logits_of(program: step.Program, batch: Any, state: Any) -> Any:
    seen = {}
    looks = Objective(lambda feed: (seen.update(feed) or feed["logits"].sum(-1), None), None)
    step._losses(
        program._replace(objective=looks),
        batch,
        jnp.int32(0),
        state.params,
        state.batch_stats,
        None,
    )
    return seen["logits"]


def test_the_quantile_is_the_estimators() -> None:
    run = ready(ESTIMATED | {"quantile": 0.5}, loss=FORWARD, ema_decay=0.0)
    second, columns = run.program.second_stage, columns_of(TRAIN)
    assert second is not None
    started = jax.jit(partial(second.start, all_of))(run.initial_state, columns)

    @jax.jit
    def expected(state: Any, images: Any) -> Any:
        p = jax.nn.softmax(step.predict_batch(run.program, state, {"image": images}))
        return [losses.anchor_point_transition_matrix(p, quantile=q) for q in (0.5, 1.0)]

    median, largest = expected(run.initial_state, TRAIN.images)
    close(started.transition_matrix, median)
    assert np.abs(started.transition_matrix - largest).max() > 0.01


def test_flipped_pairs_are_found_and_undone() -> None:
    changes: dict[str, Any] = {"batch_size": 64, "eval_batch_size": 256}
    changes |= {"model": {"name": "mlp", "hidden": 128}, "ema_decay": 0.0, "dataset.shift": 0}
    changes |= {"corruption": {"name": "pair_flip", "rate": 0.4}}
    changes |= {"optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}}
    stage = {"name": "estimated_transition", "epochs": 20, "quantile": 0.97}
    accuracy, matrices = [], []
    for made in (
        config({"name": "none"}, epochs=20, **changes),
        config(stage, epochs=25, loss=FORWARD, **changes),
    ):
        run = prepare(made, load_sets(made))
        feed, state = make_feed(run, 0), run.runner.place_state(run.initial_state)
        for epoch in range(made.epochs):
            state, _ = feed.train(state, epoch, 0, run.steps_per_epoch)
        accuracy.append(metrics.compute(feed.evaluate(state, "test"))["accuracy"])
        matrices.append(state.transition_matrix)
    truth = 0.6 * np.eye(10) + 0.4 * np.roll(np.eye(10), 1, axis=1)
    error = np.abs(matrices[1] - truth).sum(1).mean()
    assert error < 0.45  # That of the identity is 0.8.
    assert accuracy[1] > accuracy[0] + 0.15


# ------------------------------------------------------------------------- every way of training


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        pytest.param(RETRAINING, {}, marks=pytest.mark.slow, id="cRT"),
        pytest.param(ESTIMATED, {"loss": FORWARD}, id="T-hat"),
    ],
)
def test_a_run_goes_on_in_either_stage_as_if_it_had_not_stopped(
    stage: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    run = ready(stage, **changes, steps_per_call=2)
    states = {at: trained(run, run.initial_state, 0, at, 2) for at in (2, STEPS, 6, 3 * STEPS)}
    counts = [x for x in jax.tree.leaves(states[3 * STEPS].opt_state) if x.dtype == np.int32]
    assert counts == [2 * STEPS]
    again = ready(stage, **changes, steps_per_call=2)
    for at in (2, STEPS, 6):
        saved = Checkpointer(tmp_path / str(at))
        saved.save(at, run.runner.place_state(states[at]), {})
        restored = saved.restore_newest(run.runner.place_state(run.initial_state))
        assert restored is not None
        equal(trained(again, restored[1], at, 3 * STEPS, 2), states[3 * STEPS])


@pytest.mark.parametrize(
    ("stage", "changes", "parallel"),
    [
        pytest.param(RETRAINING, {}, "mesh", id="cRT"),
        pytest.param(ESTIMATED, {"loss": FORWARD}, "pmap", marks=pytest.mark.slow, id="T-hat"),
    ],
)
def test_devices_share_both_stages(stage: Any, changes: Any, parallel: str) -> None:
    alone, shared = (
        ready(stage, **changes, devices=devices, parallel=parallel) for devices in (1, 2)
    )
    ours, theirs = (trained(run, run.initial_state, 0, 3 * STEPS) for run in (shared, alone))
    close(ours, theirs)


def test_a_stack_takes_both_stages_as_its_runs_do_and_pays_for_one_at_a_time() -> None:
    configs = [config(RETRAINING, seed=seed) for seed in (0, 1)]
    facts = [run_facts(each, SETS) for each in configs]
    trainable = classifier(configs[0], shapes_of(TRAIN), [configs[0].loss])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *facts)
    mapped = jax.vmap(partial(trainable.train, length=STEPS), in_axes=(0, 0, None, None, None))
    train, start = jax.jit(mapped), jnp.zeros((), jnp.int32)
    shared, state = shared_arrays(TRAIN, TEST), jax.jit(jax.vmap(trainable.init))(stacked)
    program = str(jax.make_jaxpr(mapped)(state, stacked, shared, jnp.int32(0), start))
    assert len(re.findall(r"\bcond\[", program)) == 2
    for epoch in range(3):
        state, _ = train(state, stacked, shared, jnp.int32(epoch), start)
    for number, each in enumerate(configs):
        run = prepare(each, SETS)
        alone = trained(run, run.initial_state, 0, 3 * STEPS)
        close(jax.tree.map(lambda x, n=number: np.asarray(x[n]), state), alone)


def test_each_stage_counts_its_own_epochs() -> None:
    def epoch_of(feed: Any) -> Any:
        return jnp.full(8, feed["epoch"], jnp.float32) + 0.0 * feed["logits"][:, 0], None

    seen = Objective(epoch_of, None)
    run = ready(ESTIMATED, loss=FORWARD)
    second = run.program.second_stage
    assert second is not None
    second = second._replace(program=second.program._replace(objective=seen))
    program = run.program._replace(objective=seen, second_stage=second)
    columns, state, told = columns_of(TRAIN), run.initial_state, []
    train = jax.jit(partial(step.train_chunk, program, all_of), static_argnames="length")
    for epoch in range(3):
        state, steps = train(state, columns, epoch, 0, length=STEPS)
        told.append(float(steps.loss[0]))
    assert told == [0, 0, 1]


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ({"name": "retraining"}, {}, "config.second_stage.name='retraining' is unknown"),
        ({"name": "none", "epochs": 1}, {}, "'none' has no argument 'epochs'"),
        ({"name": "classifier_retraining"}, {}, "config.second_stage.epochs=None must be a whole"),
        (RETRAINING | {"epochs": 3}, {}, "epochs=3 must be .* below config.epochs=3"),
        (RETRAINING | {"epochs": 0}, {}, "epochs=0 must be a whole number, at least 1"),
        (RETRAINING | {"quantile": 0.9}, {}, "has no argument 'quantile'"),
        (RETRAINING | {"sampler": "balanced"}, {}, "sampler.name='balanced' is unknown"),
        (RETRAINING, {"schedule.warmup_epochs": 1}, "each stage's epochs, 1 and 2"),
        (RETRAINING, {"dataset.resident": "no"}, "set config.dataset.resident='yes'"),
        (ESTIMATED, {}, "config.loss: 'softmax_cross_entropy_with_integer_labels' does not ask"),
        (ESTIMATED | {"quantile": 1.5}, {"loss": FORWARD}, "second_stage.quantile"),
        (
            ESTIMATED,
            {"loss": FORWARD | {"transition_matrix": MATRIX.tolist()}},
            "config.loss.transition_matrix is estimated",
        ),
        (
            ESTIMATED,
            {"loss": FORWARD, "baseline": {"name": "symmetric_cross_entropy"}},
            "config.baseline: 'symmetric_cross_entropy' does not ask",
        ),
    ],
)
def test_what_cannot_be_is_told(stage: Any, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ready(stage, **changes)
    assert "\n" not in str(caught.value)


def test_a_matrix_that_is_known_is_not_told_where_it_shall_be_estimated() -> None:
    noise = {"name": "symmetric", "rate": 0.4}
    assert facts_of(config({"name": "none"}, corruption=noise), TRAIN).transition_matrix is not None
    assert facts_of(config(ESTIMATED, corruption=noise), TRAIN).transition_matrix is None


def test_a_study_tunes_the_power_of_tau_normalisation() -> None:
    study = default_study()
    study.seeds, study.dataset.validation_examples = 1, 100
    study.tune = ConfigDict({"evaluation": {"tau_normalisation": (0.0, 0.5, 1.0)}})
    tried = [member.config.evaluation.tau_normalisation for member in expand(study)]
    assert tried == [0.0, 0.5, 1.0]
    tuned = [
        prepare(tiny_run.config(**{"evaluation.tau_normalisation": tau}), SETS) for tau in tried
    ]
    sums = [
        make_feed(run, 0).logits(run.runner.place_state(run.initial_state), "test")
        for run in tuned[1:]
    ]
    assert not np.allclose(*sums)
    assert check_config(tuned[1].config).evaluation.tau_normalisation == 0.5
