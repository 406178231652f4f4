"""What a loss asks for reaches it, and what surrounds it does what its paper says."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax import losses, metrics
from xent_jax.data import pipeline, select
from xent_jax.errors import UserError
from xent_jax.training import Run, prepare, train, trainable_losses
from xent_jax.training.feed import make_feed
from xent_jax.training.objective import CONSTANTS, FEEDS, make_objective

TRAIN, TEST = tiny_run.dataset(30, wrong=6), tiny_run.dataset(20)
SETS = {"train": TRAIN, "test": TEST}
PLAIN = {"model.dropout": 0.0, "dataset.shift": 0, "ema_decay": 0.0}
CROSS_ENTROPY = "softmax_cross_entropy_with_integer_labels"


def ready(**changes: Any) -> Run:
    """A run of nothing random; a dict is a section."""
    changes = {k: ConfigDict(v) if isinstance(v, dict) else v for k, v in changes.items()}
    return prepare(tiny_run.config(**PLAIN | changes), SETS)


def trained(run: Run, epochs: int = 1) -> tuple[Any, np.ndarray]:
    """Returns the state on the host and every step's loss."""
    feed, state, found = make_feed(run, 0), run.runner.place_state(run.initial_state), []
    for epoch in range(epochs):
        state, steps = feed.train(state, epoch, 0, run.steps_per_epoch)
        found.extend(np.asarray(steps.loss))
    return jax.device_get(run.runner.single(state)), np.array(found)


@functools.cache
def plain() -> np.ndarray:
    """The losses of three epochs of nothing but cross-entropy."""
    return trained(ready(), epochs=3)[1]


def first_batch(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of the first step."""
    order = jax.random.permutation(jax.random.fold_in(run.program.order_key, 0), 30)[:8]
    return TRAIN.images[np.asarray(order)], TRAIN.labels[np.asarray(order)]


def network(params: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and logits, written down."""
    x = ((images / 255 - (TRAIN.images / 255).mean()) / (TRAIN.images / 255).std()).reshape(-1, 16)
    (hidden,) = params["hidden"].values()
    features = np.maximum(x @ hidden["kernel"] + hidden["bias"], 0)
    return features, features @ params["logits"]["kernel"] + params["logits"].get("bias", 0)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (
        np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    )


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


# ---------------------------------------------------------------------------- what a loss is fed


def test_every_loss_that_may_be_named_can_be_made() -> None:
    shape, number = jax.ShapeDtypeStruct, jnp.float32
    scores = shape((2, 5), number)
    feed = dict.fromkeys(("logits", "cosines", "teacher_logits"), scores)
    feed |= dict.fromkeys(("labels", "indices"), shape((2,), jnp.int32))
    feed |= {"where": shape((2,), jnp.bool), "epoch": shape((), jnp.int32)}
    feed |= {"features": shape((2, 3), number), "classifier_weights": shape((5, 3), number)}
    constants = {
        "class_counts": np.arange(1, 6, dtype=np.float32),
        "class_prior": np.full(5, 0.2, np.float32),
        "transition_matrix": np.eye(5, dtype=np.float32),
        "noise_rate": 0.2,
        "num_examples": 10,
        "num_classes": 5,
        "axis_name": None,
    }
    assert feed.keys() | {"state"} == FEEDS.keys()
    assert constants.keys() == CONSTANTS.keys()
    assert len(trainable_losses()) > 60
    for name in trainable_losses():
        make_objective("loss", {"name": name}, feed, constants)
    for name in set(losses.__all__) - set(trainable_losses()):
        with pytest.raises(UserError, match=f"config.loss: '{name}' ") as told:
            make_objective("loss", {"name": name}, feed, constants)
        assert "\n" not in str(told.value)


def told(monkeypatch: pytest.MonkeyPatch, loss: Any) -> None:
    monkeypatch.setattr(losses, loss.__name__, loss, raising=False)
    monkeypatch.setattr(losses, "__all__", [*losses.__all__, loss.__name__])


def test_features_weights_places_and_epoch_are_those_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def curious(logits, labels, features, classifier_weights, indices, *, epoch, where, axis=-1):
        gap = jax.lax.stop_gradient(jnp.abs(features @ classifier_weights.T - logits).sum(-1))
        wrong_place = (jnp.asarray(TRAIN.labels)[indices] != labels).astype(jnp.float32)
        return gap + wrong_place + 10.0 * epoch.astype(jnp.float32)

    told(monkeypatch, curious)
    _, found = trained(ready(loss={"name": "curious"}), epochs=2)
    # Nothing is learnt, and so the bias, which the features do not know of, stays 0.
    np.testing.assert_allclose(found, np.repeat([0.0, 10.0], 4), atol=1e-3)


def test_margins_are_trained_on_the_cosines_that_evaluation_classifies_by() -> None:
    spec = {"name": "mlp", "hidden": (5,), "cosine_scale": 8.0}
    run = ready(model=spec, loss={"name": "cosface", "scale": 8.0, "margin": 0.2})
    params, (images, labels) = run.initial_state.params, first_batch(run)
    cosines = cosines_of(params, images)
    expected = cross_entropy(8.0 * (cosines - 0.2 * np.eye(4)[labels]), labels)
    state, found = trained(run)
    close(found[0], expected.mean())
    assert "bias" not in state.params["logits"]
    feed, placed = make_feed(run, 0), run.runner.place_state(run.initial_state)
    close(feed.logits(placed, "test"), 8.0 * cosines_of(params, TEST.images))


def cosines_of(params: Any, images: np.ndarray) -> np.ndarray:
    features, _ = network(params, images)
    weights, lengths = params["logits"]["kernel"], np.linalg.norm(features, axis=1)
    cosines = features @ weights / np.linalg.norm(weights, axis=0)
    return cosines / np.where(lengths > 0, lengths, 1.0)[:, None]


ELR = {"name": "early_learning_regularization"}
SHARED = {
    "mesh": {"devices": 4},
    "pmap": {"devices": 4, "parallel": "pmap"},
    "stream": {"dataset.resident": "no"},
}


@pytest.mark.parametrize("name", ["early_learning_regularization", "equalization_v2", "seesaw"])
def test_a_stateful_loss_keeps_the_state_of_the_global_batch(name: str) -> None:
    run = ready(loss={"name": name})
    alone, found = trained(run, epochs=2)
    start, moved = (jax.tree.leaves(x.loss_state) for x in (run.initial_state, alone))
    assert any(np.any(np.asarray(a) != b) for a, b in zip(start, moved, strict=True))
    layouts = SHARED if name == "early_learning_regularization" else {"pmap": SHARED["pmap"]}
    for layout in layouts.values():
        state, other = trained(ready(loss={"name": name}, **layout), epochs=2)
        close(other, found)
        jax.tree.map(close, state.loss_state, alone.loss_state)


def test_a_stateful_loss_s_state_is_saved_and_goes_on(tmp_path: Path) -> None:
    run = ready(loss=ELR, steps_per_call=2, keep_checkpoints=9, epochs=2)
    whole = train(run, tmp_path / "whole", progress=False)
    for folder in (tmp_path / "whole" / "checkpoints").iterdir():
        if "8" in folder.name:  # the last of 2 epochs of 4 steps
            for file in sorted(folder.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            folder.rmdir()
    again = train(run, tmp_path / "whole", progress=False)
    assert np.any(np.asarray(whole.state.loss_state) != 0)
    jax.tree.map(np.testing.assert_array_equal, whole.state, again.state)


# ---------------------------------------------------------------------------- what surrounds it


def test_class_weights_make_a_weighted_mean() -> None:
    run = ready(reweighting={"name": "inverse_frequency_weights"})
    images, labels = first_batch(run)
    weights = (1 / np.bincount(TRAIN.labels))[labels]
    _, logits = network(run.initial_state.params, images)
    expected = (weights * cross_entropy(logits, labels)).sum() / weights.sum()
    close(trained(run)[1][0], expected)


def test_deferred_weights_begin_with_their_epoch() -> None:
    spec = {"name": "deferred_reweighting_weights", "start_epoch": 2, "beta": 0.9}
    _, found = trained(ready(reweighting=spec), epochs=3)
    close(found[:8], plain()[:8])
    assert abs(found[8] - plain()[8]) > 1e-4


def test_the_balanced_sampler_shows_every_class_as_often() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10]).astype(np.int32)
    counts, indices_of = {}, jax.jit(pipeline.epoch_indices, static_argnums=(2, 3))
    for name in ("shuffle", "square_root", "class_balanced"):
        sampler = pipeline.class_sampler(name, labels)
        drawn, mask = indices_of(jax.random.key(0), 1, 1000, 64, sampler=sampler)
        counts[name] = np.bincount(labels[np.asarray(drawn)[np.asarray(mask)]], minlength=3)
        assert counts[name].sum() == 1000
    np.testing.assert_array_equal(counts["shuffle"], [900, 90, 10])
    roots = np.sqrt([900, 90, 10])
    np.testing.assert_allclose(counts["square_root"] / 1000, roots / roots.sum(), atol=0.05)
    np.testing.assert_allclose(counts["class_balanced"] / 1000, 1 / 3, atol=0.05)


def test_a_streamed_run_draws_what_a_resident_one_draws() -> None:
    spec = {"name": "class_balanced"}
    resident, streamed = (
        trained(ready(sampler=spec, **{"dataset.resident": kept}), epochs=2)[1]
        for kept in ("yes", "no")
    )
    close(streamed, resident)
    assert abs(resident - plain()[:8]).max() > 1e-3


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_examples_are_trained_on_both_labels(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mix(key, images, labels, *, where=None):
        del key
        assert where is None or where.shape == labels.shape
        share = jnp.float32(0.25)
        mixed = losses.transfer.MixedLabels(labels, labels[::-1], share)
        return share * images + (1 - share) * images[::-1], mixed

    monkeypatch.setattr(losses, name, mix)
    run = ready(mixing={"name": name})
    images, labels = first_batch(run)
    _, logits = network(run.initial_state.params, 0.25 * images + 0.75 * images[::-1])
    both = [cross_entropy(logits, y).mean() for y in (labels, labels[::-1])]
    close(trained(run)[1][0], 0.25 * both[0] + 0.75 * both[1])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_draws_anew_at_every_step_and_learns(name: str) -> None:
    _, found = trained(ready(mixing={"name": name, "alpha": 0.5}), epochs=2)
    assert np.isfinite(found).all()
    assert abs(found - plain()[:8]).max() > 1e-3


def test_each_of_two_networks_learns_from_the_small_losses_of_the_other() -> None:
    run = ready(
        **{"co_teaching.forget_rate": 0.5, "co_teaching.ramp_epochs": 1},
        optimizer={"name": "sgd", "learning_rate": 0.1},
    )
    state, _ = trained(run, epochs=1)  # whose epoch 0 forgets nothing yet
    program = run.program
    order = jax.random.permutation(jax.random.fold_in(program.order_key, 1), 30)[:8]
    images, labels = TRAIN.images[np.asarray(order)], TRAIN.labels[np.asarray(order)]
    batch = {"image": images, "label": labels, "index": np.asarray(order), "mask": np.ones(8, bool)}
    batch["position"] = np.arange(8, dtype=np.int32)
    placed = run.runner.place_state(state)
    after = jax.device_get(run.runner.train_batch(placed, run.runner.place_batch(batch))[0])

    def of(number: int, tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x[number], np.float64), tree)

    small = [
        np.argsort(cross_entropy(network(of(n, state.params), images)[1], labels))[:4]
        for n in range(2)
    ]
    assert set(small[0]) != set(small[1])
    for ours, other in ((0, 1), (1, 0)):
        before, chosen = of(ours, state.params), small[other]
        features, logits = network(before, images[chosen])
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        gradient = features.T @ (p - np.eye(4)[labels[chosen]]) / 4
        expected = before["logits"]["kernel"] - 0.1 * gradient
        close(of(ours, after.params)["logits"]["kernel"], expected)


def test_two_networks_train_alike_on_all_layouts() -> None:
    changes = {"co_teaching.forget_rate": 0.5, "co_teaching.ramp_epochs": 1}
    alone, found = trained(ready(**changes), epochs=2)
    for layout in (SHARED["mesh"], SHARED["pmap"]):
        state, other = trained(ready(**changes, **layout), epochs=2)
        close(other, found)
        jax.tree.map(close, state.params, alone.params)


# ---------------------------------------------------------------------------- evaluation


def test_logits_are_adjusted_and_class_weights_normalised() -> None:
    run = ready(**{"evaluation.logit_adjustment": 1.5, "evaluation.tau_normalisation": 0.5})
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1, run.initial_state.params)
    state = run.runner.place_state(run.initial_state._replace(params=params))
    features, _ = network(params, TEST.images)
    kernel = params["logits"]["kernel"]
    logits = features @ (kernel / np.linalg.norm(kernel, axis=0) ** 0.5)
    prior = np.bincount(TRAIN.labels) / 30
    close(make_feed(run, 0).logits(state, "test"), logits - 1.5 * np.log(prior))
    predicted = (logits - 1.5 * np.log(prior)).argmax(1)
    sums = make_feed(run, 0).evaluate(state, "test")
    assert metrics.compute(sums)["accuracy"] == np.mean(predicted == TEST.labels)


@pytest.mark.parametrize("layout", [{}, SHARED["pmap"], SHARED["stream"]])
def test_the_temperature_suits_the_held_out_examples(layout: dict, tmp_path: Path) -> None:
    changes = {"evaluation.temperature_scaling": True, "dataset.validation_examples": 20}
    config = tiny_run.config(**PLAIN, **changes, **layout)
    config.optimizer.learning_rate, config.epochs = 0.5, 10
    config.eval_every_epochs = config.checkpoint_every_epochs = 5
    held_out = select(TRAIN, slice(20))  # learnt, so that its best temperature is finite
    run = prepare(config, SETS | {"validation": held_out})
    result = train(run, tmp_path, progress=False)
    *early, last = result.records
    assert all("calibrated" not in record for record in early)
    state = jax.tree.map(np.asarray, result.state.params)
    _, logits = network(state, held_out.images)
    best = jax.jit(metrics.fit_temperature)(logits.astype(np.float32), held_out.labels)
    assert last["calibrated"]["temperature"] == pytest.approx(float(best), rel=1e-3)
    _, logits = network(state, TEST.images)
    nll = cross_entropy(logits / float(best), TEST.labels).mean()
    assert last["calibrated"]["nll"] == pytest.approx(nll, rel=1e-3)
    assert last["validation"]["accuracy"] in [n / 20 for n in range(21)]


# ---------------------------------------------------------------------------- a teacher


def test_a_teacher_s_logits_are_those_it_is_evaluated_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gap(logits, labels, teacher_logits, *, where=None, axis=-1):
        return ((logits - teacher_logits) ** 2).sum(-1)

    told(monkeypatch, gap)
    taught = prepare(tiny_run.config(epochs=1, **{"dataset.standardise": False}), named("digits"))
    teacher = jax.device_get(train(taught, tmp_path / "teacher", progress=False).state)
    run = prepare(
        tiny_run.config(
            **PLAIN, loss=ConfigDict({"name": "gap"}), teacher=str(tmp_path / "teacher")
        ),
        named("digits"),
    )
    images, _ = first_batch(run)
    _, ours = network(run.initial_state.params, images)
    (hidden,) = teacher.ema_params["hidden"].values()
    x = np.maximum((images / 255).reshape(-1, 16) @ hidden["kernel"] + hidden["bias"], 0)
    theirs = x @ teacher.ema_params["logits"]["kernel"] + teacher.ema_params["logits"]["bias"]
    state, found = trained(run)
    close(found[0], ((ours - theirs) ** 2).sum(-1).mean())
    jax.tree.map(np.testing.assert_array_equal, state.teacher[0], teacher.ema_params)


def named(name: str) -> dict[str, Any]:
    return {key: dataclasses.replace(value, name=name) for key, value in SETS.items()}


# ---------------------------------------------------------------------------- mistakes

MISTAKES = {
    "no cosines": ({"loss": {"name": "ldam"}}, "needs 'cosines', .*config.model.cosine_scale"),
    "no teacher": ({"loss": {"name": "distillation"}}, "needs 'teacher_logits', .*config.teacher"),
    "no matrix": (
        {"loss": {"name": "forward_correction"}},
        "needs 'transition_matrix', .*config.corruption",
    ),
    "another scale": (
        {"loss": {"name": "arcface"}, "model": {"name": "mlp", "cosine_scale": 30.0}},
        "scale=64.*cosine_scale=30.*make them equal",
    ),
    "another scale, of a preset": (
        {
            "loss": {"name": "ldam", "preset": "cifar10_lt100"},
            "model": {"name": "mlp", "cosine_scale": 16.0},
        },
        "scale=30.*cosine_scale=16.*make them equal",
    ),
    "bad scale": ({"model": {"name": "mlp", "cosine_scale": -1.0}}, "must be a number above 0"),
    "sampler": ({"sampler": {"name": "balanced"}}, "unknown .*class_balanced"),
    "sampler's argument": ({"sampler": {"name": "shuffle", "q": 1}}, "no argument 'q'"),
    "reweighting": ({"reweighting": {"name": "class_balanced"}}, "'class_balanced_weights'"),
    "weights' argument": (
        {"reweighting": {"name": "class_balanced_weights", "beta": 2.0}},
        "cannot be used so: beta",
    ),
    "mixing": ({"mixing": {"name": "mix-up"}}, "did you mean 'mixup'"),
    "mixing's argument": ({"mixing": {"name": "mixup", "alpha": -1.0}}, "cannot be used so: alpha"),
    "mixing under pmap": ({"mixing": {"name": "mixup"}, "parallel": "pmap"}, "parallel='mesh'"),
    "mixing with a state": (
        {"mixing": {"name": "mixup"}, "loss": ELR},
        "'early_learning_regularization' keeps a state",
    ),
    "forgetting all": ({"co_teaching.forget_rate": 1.0}, "must be below 1"),
    "nothing to fit": ({"evaluation.temperature_scaling": True}, "dataset.validation_examples"),
    "unit norms": (
        {"model": {"name": "mlp", "cosine_scale": 3.0}, "evaluation.tau_normalisation": 1.0},
        "tau_normalisation changes nothing",
    ),
    "no run": ({"teacher": "/nowhere"}, "config.teacher='/nowhere' is no run's folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named_before_anything_starts(mistake: str) -> None:
    changes, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=expected) as told:
        ready(**changes)
    assert "\n" not in str(told.value)


def test_a_teacher_of_other_data_or_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    run = prepare(tiny_run.config(epochs=1), named("digits"))
    train(run, tmp_path, progress=False)
    config = tiny_run.config(teacher=str(tmp_path))
    with pytest.raises(UserError, match="was trained on 'digits', not 'mnist'"):
        prepare(config, named("mnist"))
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="holds no sound checkpoint"):
        prepare(config, named("digits"))
