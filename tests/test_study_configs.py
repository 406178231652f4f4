"""Every variant of the study configs expands, and every run's losses, model and noise exist."""

import functools
import importlib
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from xent_jax import data, losses, models
from xent_jax.errors import UserError
from xent_jax.reporting.published import PUBLISHED, find
from xent_jax.training import check_config, expand
from xent_jax.training.config import as_plain
from xent_jax.training.objective import CONSTANTS, FEEDS, make_objective
from xent_jax.training.optimizer import make_optimizer, make_schedule
from xent_jax.training.stages import check_second_stage
from xent_jax.training.wrappers import make_mixing, make_reweighting

STUDIES = {
    name: importlib.import_module(f"configs.{name}") for name in ("noisy_labels", "imbalance")
}
EVERY = [(name, variant) for name, module in STUDIES.items() for variant in module.VARIANTS]
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1)}
COUNTS = np.array([90, 60, 40, 30, 20, 15, 10, 8, 5, 3], np.float32)


@functools.cache
def members(name, variant):
    """One run of each method and condition."""
    config = STUDIES[name].get_config(variant)
    assert config.seeds >= 3
    config.seeds = 1
    return expand(config)


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_a_study_has_every_combination_once(name, variant):
    config = STUDIES[name].get_config(variant)
    conditions = config.grid.corruption if name == "noisy_labels" else config.grid.imbalance
    runs = members(name, variant)
    assert len({run.id for run in runs}) == len(config.methods) * len(conditions)
    for run in runs:
        assert as_plain(check_config(run.config)) == as_plain(run.config)
        assert run.config.sampler.name in data.SAMPLERS
        check_second_stage(run.config)
        assert 0 < run.config.eval_every_epochs <= run.config.epochs


def distinct(of_run):
    """What runs of all studies consist of, each once, with a run that has it."""
    every = (run for study in EVERY for run in members(*study))
    return {json.dumps(as_plain(of_run(run.config))): run.config for run in every}.values()


def test_every_model_can_be_made():
    for config in distinct(lambda config: ConfigDict({"m": config.model, "d": config.dataset})):
        shape = SHAPES.get(config.dataset.name, (32, 32, 3))
        arguments = config.model.to_dict() | {"num_classes": 10, "image_shape": shape}

        def make(arguments=arguments):
            return models.create(**arguments, rngs=nnx.Rngs(0))

        assert callable(nnx.eval_shape(make).logits)


def test_every_optimiser_and_mixing_can_be_made():
    # Adam's own bias correction does not keep the rule on implicit casts.
    with jax.numpy_dtype_promotion("standard"):
        for config in distinct(
            lambda config: ConfigDict({k: config[k] for k in ("optimizer", "schedule", "mixing")})
        ):
            make_optimizer(config, steps_per_epoch=10)
            make_mixing(config.mixing)


def test_every_loss_is_given_what_it_asks_for():
    for config in distinct(
        lambda config: ConfigDict({k: config[k] for k in ("loss", "model", "reweighting")})
    ):
        objective = make_objective("loss", config.loss, feed(config), constants())
        assert callable(objective.loss)
        make_reweighting(config.reweighting, constants())
        scales = {config.loss.get("scale"), config.model.get("cosine_scale")}
        assert scales in ({None}, {30.0})  # the network's cosines are multiplied as the loss's


def feed(config):
    shape = jax.ShapeDtypeStruct
    several = {key: shape((2,), jnp.int32) for key in ("labels", "indices")}
    several["logits"] = shape((2, 10), jnp.float32)
    if "cosine_scale" in config.model:
        several["cosines"] = shape((2, 10), jnp.float32)
    several["where"], several["epoch"] = shape((2,), jnp.bool), shape((), jnp.int32)
    assert several.keys() <= FEEDS.keys()
    return several


def constants():
    known = {"class_counts": COUNTS, "class_prior": COUNTS / COUNTS.sum(), "num_examples": 281}
    known |= {"num_classes": 10, "axis_name": None, "noise_rate": 0.4}
    known["transition_matrix"] = np.full((10, 10), 0.1, np.float32)
    assert known.keys() == CONSTANTS.keys()
    return known


@pytest.mark.parametrize("variant", STUDIES["noisy_labels"].VARIANTS)
def test_the_labels_of_every_condition_can_be_corrupted(variant):
    for run in members("noisy_labels", variant):
        name, arguments = named(run.config.corruption)
        source = run.config.dataset.name
        labels = np.arange(100, dtype=np.int32) % 10
        images = np.zeros((100, 2, 2, 1), np.uint8)
        clean = data.Dataset(images, labels, labels, tuple("0123456789"), source)
        noisy = data.corrupt(clean, name, seed=run.seed, **arguments)
        assert (noisy.labels != labels).any() == (arguments["rate"] > 0)
        if run.config.loss.name == "forward_correction" and run.config.second_stage.name == "none":
            matrix = data.transition_matrix(name, 10, dataset_name=source, **arguments)
            assert matrix is not None


@pytest.mark.parametrize("variant", STUDIES["imbalance"].VARIANTS)
def test_no_condition_empties_a_class(variant):
    sizes = {"digits": 141, "mnist": 5421, "fashion_mnist": 6000, "cifar10": 5000}
    for run in members("imbalance", variant):
        name, arguments = named(run.config.imbalance)
        available = np.full(10, sizes[run.config.dataset.name])
        assert data.IMBALANCES[name](available, **arguments).min() >= 7


def named(section):
    arguments = section.to_dict()
    return arguments.pop("name"), arguments


@pytest.mark.parametrize(
    ("name", "variant", "left_out"),
    [
        ("noisy_labels", "mnist_n1", set()),
        ("noisy_labels", "mnist_n2", set()),
        ("noisy_labels", "cifar10_n3", {"LDR-KL"}),
        ("noisy_labels", "fashion_mnist_n4", set()),
        ("noisy_labels", "mnist_n5", set()),
        ("imbalance", "cifar10_lt100", set()),
        ("imbalance", "cifar10_lt10", set()),
        ("imbalance", "cifar10_step100", set()),
        ("imbalance", "cifar10_step10", set()),
    ],
)
def test_every_published_number_stands_beside_a_run(name, variant, left_out):
    published = PUBLISHED[STUDIES[name].get_config(variant).report.published]
    runs = list(members(name, variant))
    if variant == "cifar10_n3":
        runs += members(name, "cifar10_n3_asymmetric")
    beside = [
        find(published, run.method, run.conditions, as_plain(run.config), "test.accuracy")
        for run in runs
    ]
    missing = [result for result in published.results if result not in beside]
    assert {result.method for result in missing} == left_out


def test_studies_of_our_own_use_the_papers_labels():
    known = {result.method for table in PUBLISHED.values() for result in table.results}
    ours = {m["label"] for study in STUDIES.values() for m in study.get_config().methods}
    assert ours - known == {
        *("MAE", "Bi-tempered", "ELR", "Mixup"),
        *("cRT", "Tau-norm", "Square-root sampling", "Balanced sampling", "Progressive sampling"),
    }


@pytest.mark.parametrize("name", STUDIES)
def test_the_docstring_names_every_variant_and_an_unknown_one_is_told(name):
    module = STUDIES[name]
    assert all(variant in inspect.getdoc(module) for variant in module.VARIANTS)
    with pytest.raises(
        UserError, match=rf"{name}.py has no variant 'digit' \(did you mean 'digits'"
    ):
        module.get_config("digit")


def test_learning_rates_fall_where_the_protocol_says():
    config = ConfigDict(members("imbalance", "cifar10_lt100")[0].config)
    schedule = make_schedule(config, steps_per_epoch=97)
    expected = {4: 0.08, 5: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5, 199: 1e-5}
    for epoch, rate in expected.items():
        assert float(schedule(97 * epoch)) == pytest.approx(rate, rel=1e-5), epoch
    drw = next(m for m in members("imbalance", "cifar10_lt100") if m.method == "LDAM-DRW")
    assert drw.config.reweighting.start_epoch == 160
    assert losses.deferred_reweighting_weights(COUNTS, 159, start_epoch=160).tolist() == [1.0] * 10
