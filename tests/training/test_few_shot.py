"""Few-shot methods against what theory says of them, and their gradients against definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import few_shot as study
from xent_jax.data import Dataset
from xent_jax.errors import UserError
from xent_jax.models import layers
from xent_jax.training import default_config, expand, few_shot, few_shot_methods, load_sets
from xent_jax.training.few_shot_methods import METHODS

SMALL = {"ways": 3, "shots": 2, "queries": 2, "test_ways": 3, "test_shots": (1, 3)}
SMALL |= {"test_queries": 2, "test_episodes": 50, "episodes_per_epoch": 4}


def config(name, model=None, **changes):
    made = default_config()
    made.model = ConfigDict(model or {"name": "mlp", "hidden": (16,)})
    made.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.02})
    made.batch_size, made.eval_batch_size = 8, 8
    made.few_shot = ConfigDict({"name": name, **SMALL, **changes})
    return made


def letters(classes, seed=0, *, noise=0, side=4):
    """Eight drawings of each class: one pattern of its own, and noise."""
    random = np.random.default_rng(seed)
    patterns = random.integers(0, 256, (classes, 1, side, side, 1))
    spoilt = patterns + random.integers(-noise, noise + 1, (classes, 8, side, side, 1))
    images = np.clip(spoilt, 0, 255).astype(np.uint8).reshape(-1, side, side, 1)
    labels = np.repeat(np.arange(classes, dtype=np.int32), 8)
    names = tuple(f"{seed}.{label}" for label in range(classes))
    return Dataset(images, labels, labels, names, "letters")


@functools.cache
def sets(noise=20):
    return {"train": letters(6, 0, noise=noise), "test": letters(5, 1, noise=noise)}


def prepared(made, given):
    """What `prepare_few_shot` returns, with the shared arrays on the device."""
    trainable, facts, shared = few_shot.prepare_few_shot(made, given)
    return trainable, facts, jax.tree.map(jnp.asarray, shared)


def run(made, given, steps=0):
    """The record, the losses and the state after some steps."""
    trainable, facts, shared = prepared(made, given)

    @jax.jit
    def all_of_it(facts, shared):
        state = trainable.init(facts)
        zero = jnp.zeros((), jnp.int32)
        state, metrics = trainable.train(state, facts, shared, zero, zero, steps)
        return state, metrics.loss, trainable.evaluate(state, facts, shared)

    state, loss, sums = jax.device_get(all_of_it(facts, shared))
    return trainable.describe(sums, None), loss, state


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_solves_classes_that_differ(name):
    head = {"head_learning_rate": 0.3} if "head_steps" in METHODS[name].arguments else {}
    inner = {"inner_learning_rate": 0.1} if name.startswith("maml") else {}
    record, loss, state = run(config(name, **head, **inner), sets(), steps=40)
    assert loss[-10:].mean() < loss[:10].mean()
    assert state.step == 40
    assert record["test"] == record["shots"]["1"]
    assert record["shots"]["3"]["accuracy"] > 0.97
    assert record["test"]["accuracy"] > 0.9
    assert record["test"]["episodes"] == 50


def test_without_noise_prototypes_are_right_even_before_training():
    made = config("prototypical", test_episodes=60)
    made.eval_batch_size = 7  # Neither divides what there is.
    record, *_ = run(made, sets(noise=0))
    for shots in ("1", "3"):
        assert record["shots"][shots] == {"accuracy": 1.0, "interval": 0.0, "episodes": 60}


@pytest.mark.parametrize("name", ["prototypical", "linear_baseline"])
def test_images_that_say_nothing_are_classified_by_chance(name):
    random = np.random.default_rng(3)
    blank = letters(80, 4)
    images = random.integers(0, 256, blank.images.shape, np.uint8)
    test = Dataset(images, blank.labels, blank.labels, blank.class_names, "noise")
    given = {"train": letters(5), "test": test}
    made = config(name, test_episodes=600, test_shots=(1,))
    test = run(made, given)[0]["test"]
    # An accuracy of 1/3 from 6 queries of an episode has a deviation of about 0.19.
    assert 0.01 < test["interval"] < 0.02
    assert abs(test["accuracy"] - 1 / 3) < 2 * test["interval"]


def test_the_interval_is_that_of_the_mean():
    sums = {"test": {"1": np.array([0.0, 0.5, 1.0, 0.5]), "5": np.ones(4)}}
    sums["validation"] = {"1": np.zeros(4), "5": np.ones(4)}
    protocol = few_shot_methods.Protocol(test_shots=(1, 5))
    record = few_shot._describe(protocol, sums, None)
    assert record["test"] == {
        "accuracy": 0.5,
        "interval": 1.96 * np.sqrt(0.5 / 3) / 2,
        "episodes": 4,
    }
    assert record["shots"]["5"] == {"accuracy": 1.0, "interval": 0.0, "episodes": 4}
    assert record["validation"]["accuracy"] == 0.0


def test_a_run_is_a_function_of_its_seed_and_goes_on_at_any_step():
    made = config("prototypical", {"name": "mlp", "hidden": (8,), "dropout": 0.3})
    trainable, facts, shared = prepared(made, sets())
    train, zero = jax.jit(trainable.train, static_argnums=5), jnp.zeros((), jnp.int32)
    start = jax.jit(trainable.init)(facts)
    whole, _ = train(start, facts, shared, zero, zero, 4)
    half, _ = train(start, facts, shared, zero, zero, 2)
    again, _ = train(half, facts, shared, zero, zero + 2, 2)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    other = facts | {"key": jax.random.key_data(jax.random.key(1))}
    different, _ = train(start, other, shared, zero, zero, 4)
    kernels = [s.params["network"]["hidden"][0]["kernel"] for s in (whole, different)]
    assert np.abs(np.subtract(*kernels)).max() > 1e-4


def test_numbers_of_the_facts_are_those_that_count_and_runs_stack():
    made = config("ridge", penalty=3.0, scale=2.0)
    made.weight_decay = 0.1
    trainable, facts, shared = prepared(made, sets())
    assert {key: float(value) for key, value in facts["numbers"].items()} == pytest.approx(
        {"optimizer.learning_rate": 0.02, "weight_decay": 0.1}
        | {"few_shot.penalty": 3.0, "few_shot.scale": 2.0}
    )
    other = config("ridge", penalty=5.0, scale=1.0)
    other.optimizer.learning_rate, other.seed = 0.01, 7
    alone, facts_alone, _ = prepared(other, sets())
    zero = jnp.zeros((), jnp.int32)

    def trained(trainable, facts):
        state, metrics = trainable.train(trainable.init(facts), facts, shared, zero, zero, 3)
        return state.params, metrics.loss

    stack = jax.tree.map(lambda *x: jnp.stack(x), facts, facts_alone)
    stacked = jax.jit(jax.vmap(functools.partial(trained, trainable)))(stack)
    one = jax.jit(functools.partial(trained, alone))(facts_alone)
    assert_close(jax.tree.map(lambda x: x[1], stacked), one, rtol=1e-5)
    assert float(stacked[0]["head"]["log_penalty"][1]) == pytest.approx(np.log(5.0), abs=0.1)


def test_batch_statistics_are_those_of_an_episode_and_the_test_s_are_running_ones():
    given = {"train": letters(6, 0, noise=9, side=16), "test": letters(5, 1, noise=9, side=16)}
    made = config("prototypical", {"name": "conv4", "channels": 3}, episodes_per_step=2)
    trainable, facts, shared = prepared(made, given)
    program, zero = (
        few_shot._program(made, given["train"], {"numbers": {}}),
        jnp.zeros((), jnp.int32),
    )

    @jax.jit
    def all_of_it(facts, shared, images):
        state = trainable.init(facts)
        moved, _ = trainable.train(state, facts, shared, zero, zero, 1)
        view = functools.partial(
            few_shot_methods.features, program, moved.params, moved.batch_stats
        )
        return state, moved, view(images)[0], view(images[:1])[0], view(images, train=True)[0]

    images = jnp.asarray(given["test"].images[:5])
    state, moved, together, alone, trained = all_of_it(facts, shared, images)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-5, atol=1e-5)
    assert np.abs(trained - together).max() > 0.01
    # Each of two episodes moves the statistics once: a tenth of the way, and not two.
    before, after = (s.batch_stats["stages"][0][0]["norm"]["variance"] for s in (state, moved))
    assert np.all(np.abs(after - 0.9 * before) < 0.1 * 10)
    assert np.all(after > 0.89)
    assert not np.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "model", "steps"),
    [
        ("maml", {"name": "cnn4"}, 1),
        ("maml", {"name": "mlp", "hidden": (6,)}, 2),
        ("maml_first_order", {"name": "mlp", "hidden": (6,)}, 2),
    ],
)
def test_the_gradient_of_maml_is_that_of_its_definition(name, model, steps, monkeypatch):
    """On CPU, too, where convolutions have a derivative by hand; the definition takes JAX's."""
    made = config(name, model, inner_steps=steps, inner_learning_rate=0.1)
    trainable, facts, shared = prepared(made, sets())
    program = few_shot._program(made, sets()["train"], {"numbers": {}})
    monkeypatch.setattr(layers, "convolution", jax.lax.conv_general_dilated)
    plain = few_shot._program(made, sets()["train"], {"numbers": {}})
    state, key = jax.jit(trainable.init)(facts), jax.random.key(5)
    support, label_S, query, label_Q = few_shot_methods._draw(program, shared["train"], key)

    def mean_loss(params, images, labels):
        x, model, _ = few_shot_methods.features(
            plain, params, state.batch_stats, images, train=True
        )
        log_p = jax.nn.log_softmax(model.logits(x).astype(jnp.float32))
        return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

    def defined(params):
        for _ in range(steps):
            slopes = jax.grad(mean_loss)(params, support, label_S)
            if name == "maml_first_order":
                slopes = jax.lax.stop_gradient(slopes)
            params = jax.tree.map(lambda p, s: p - jnp.float32(0.1) * s, params, slopes)
        return mean_loss(params, query, label_Q)

    def ours(params):
        return program.method.loss(program, params, state.batch_stats, shared["train"], key)[0]

    def both(params):
        return [jax.value_and_grad(function)(params) for function in (ours, defined)]

    (a, slope_a), (b, slope_b) = jax.jit(both)(state.params)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert_close(slope_a, slope_b, rtol=1e-3)


def assert_close(tree, other, *, rtol):
    """Each array within `rtol` of the other's largest number."""
    for x, y in zip(*map(jax.tree.leaves, (tree, other)), strict=True):
        np.testing.assert_allclose(x, y, atol=rtol * np.abs(y).max(initial=1e-6))


def test_an_ordinary_set_is_divided_by_its_classes(tmp_path):
    made = config("prototypical", train_classes=5, validation_classes=2, test_ways=3)
    given = few_shot.load_few_shot_sets(made, data_dir=str(tmp_path))
    names = {split: "".join(dataset.class_names) for split, dataset in given.items()}
    assert names == {"train": "01234", "validation": "56", "test": "789"}
    assert sum(len(dataset.labels) for dataset in given.values()) == 1797
    turned = few_shot.load_few_shot_sets(
        config("prototypical", train_classes=6, rotations=True), data_dir=str(tmp_path)
    )
    assert [dataset.num_classes for dataset in turned.values()] == [24, 16]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("protypical", {}, r"few_shot.name='protypical' is unknown \(did you mean 'prototypical'"),
        ("prototypical", {"scale": 2.0}, "'prototypical' has no argument 'scale'"),
        ("matching", {"scale": 0.0}, "config.few_shot.scale=0.0 must be a number above 0"),
        ("ridge", {"ways": 0}, "config.few_shot.ways=0 must be whole, at least 1"),
        ("ridge", {"test_shots": (1, 0.5)}, "test_shots=.*whole, at least 1"),
        ("ridge", {"rotations": 1}, "rotations=1 must be True or False"),
        ("ridge", {"episodes_per_step": 3}, "episodes_per_epoch=4 must be a multiple"),
        ("ridge", {"ways": 7}, "letters: an episode of 7 ways .* there are 6"),
        ("ridge", {"test_shots": (7,)}, "7 shots and 2 queries need 9 examples"),
        ("maml", {"test_ways": 4}, "MAML's last layer tells ways=3 .* test_ways=4"),
    ],
)
def test_bad_sections_are_told(name, changes, message):
    with pytest.raises(UserError, match=message) as error:
        few_shot.prepare_few_shot(config(name, **changes), sets())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mixing", {"name": "mixup"}, "config.mixing has no meaning in few-shot"),
        ("loss", {"name": "generalized_cross_entropy"}, "config.loss has no meaning"),
        ("dataset.flip", True, "config.dataset.flip has no meaning"),
        ("model", {"name": "mlp", "cosine_scale": 2.0}, "name cosine_classifier"),
        ("model", {"name": "conv4"}, "at least 16x16"),
        ("optimizer", {"name": "sgd", "learning_rate": -1.0}, "must be a positive number"),
    ],
)
def test_what_few_shot_runs_do_not_read_is_told(key, value, message):
    made = config("prototypical")
    section, _, last = key.rpartition(".")
    value = ConfigDict(value) if isinstance(value, dict) else value
    (made[section] if section else made)[last] = value
    with pytest.raises(UserError, match=message):
        prepared(made, sets())


def test_an_ordinary_run_does_not_take_a_set_that_is_split_by_classes():
    made = default_config()
    made.dataset.name = "font_glyphs"
    with pytest.raises(UserError, match="classes that it does not train on: name a method in"):
        load_sets(made)


@pytest.mark.parametrize("variant", study.VARIANTS)
def test_every_variant_of_the_study_is_understood(variant):
    made = study.get_config(variant)
    labels = (
        "ProtoNet",
        "Matching",
        "MAML",
        "MAML (first order)",
        "Baseline",
        "Baseline++",
        "R2D2",
    )
    assert tuple(method["label"] for method in made.methods) == labels
    assert made.report.metrics == ("shots.1.accuracy", "shots.5.accuracy")
    for member in expand(made):
        _, protocol, _ = few_shot._settings(member.config)
        few_shot._check_unread(member.config)
        assert (protocol.test_episodes, protocol.test_shots) == (1000, (1, 5))
    assert f"\n  {variant}  " in (study.__doc__ or "")


def test_class_splits_that_a_set_does_not_have_or_need_are_told(tmp_path):
    with pytest.raises(UserError, match="'digits' is not split by classes: set train_classes"):
        few_shot.load_few_shot_sets(config("ridge"), data_dir=str(tmp_path))
    made = config("ridge", train_classes=3)
    made.dataset.name = "font_glyphs"
    with pytest.raises(UserError, match="'font_glyphs' is split by classes already; leave out"):
        few_shot.load_few_shot_sets(made, data_dir=str(tmp_path))
