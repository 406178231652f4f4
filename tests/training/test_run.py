"""A run is made ready as its config says, or the config's mistake is told before it starts."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax import data
from xent_jax.errors import UserError
from xent_jax.training import Run, claim_workdir, load_sets, prepare, program
from xent_jax.training import run as runs

SETS = {"train": tiny_run.dataset(30), "test": tiny_run.dataset(10)}


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serves 300 random images for `digits`, and 40 for its test."""

    def load(name: str, split: str, data_dir: str | None, raw_dir: str | None) -> data.Dataset:
        assert (name, data_dir, raw_dir) == ("digits", "there", None)
        return tiny_run.dataset({"train": 300, "test": 40}[split])

    monkeypatch.setattr(data, "load", load)


def sets_of(**changes: Any) -> dict[str, data.Dataset]:
    return load_sets(tiny_run.config(**changes), data_dir="there")


@pytest.mark.usefixtures("digits")
def test_training_labels_are_corrupted_and_test_labels_stay_clean() -> None:
    assert sets_of().keys() == {"train", "test"}
    noise = {"corruption.name": "symmetric", "corruption.rate": 0.4}
    sets = sets_of(**noise, **{"dataset.train_examples": 250})
    train, test, wrong = sets["train"], sets["test"], sets["wrong"]
    clean = tiny_run.dataset(300)
    np.testing.assert_array_equal(train.images, clean.images[:250])
    np.testing.assert_array_equal(train.clean_labels, clean.labels[:250])
    changed = train.labels != train.clean_labels
    assert 0.3 < changed.mean() < 0.5
    np.testing.assert_array_equal(wrong.images, train.images[changed])
    np.testing.assert_array_equal(wrong.labels, train.labels[changed])
    np.testing.assert_array_equal(wrong.clean_labels, train.clean_labels[changed])
    np.testing.assert_array_equal(test.labels, tiny_run.dataset(40).labels)
    np.testing.assert_array_equal(test.labels, test.clean_labels)


@pytest.mark.usefixtures("digits")
def test_noise_has_the_run_s_seed_or_one_of_its_own() -> None:
    noise = {"corruption.name": "symmetric", "corruption.rate": 0.4}
    labels = [
        sets_of(**noise, **seeds)["train"].labels.tolist()
        for seeds in ({}, {"seed": 1}, {"seed": 1, "corruption.seed": 0}, {"corruption.seed": 1})
    ]
    assert labels[0] == labels[2] != labels[1] == labels[3]
    assert "wrong" not in sets_of(**noise | {"corruption.rate": 0.0})


def test_losses_are_told_how_often_each_given_label_occurs() -> None:
    train = tiny_run.dataset(30, wrong=9)
    facts = program.facts_of(tiny_run.config(), train)
    counts = program.constants_of(facts, program.shapes_of(train), None)["class_counts"]
    assert counts.tolist() == [np.sum(train.labels == label) for label in range(4)]
    assert counts.tolist() != [np.sum(train.clean_labels == label) for label in range(4)]


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset.name": "digit"}, r"did you mean 'digits'\?"),
        ({"corruption.name": "symetric"}, r"did you mean 'symmetric'\?\); one of: none, symm"),
        ({"corruption.name": "symmetric"}, "needs rate, a number from 0 to 1"),
        ({"corruption.rate": 0.4}, "'none' has no argument 'rate'; it takes no arguments"),
        ({"corruption.name": "symmetric", "corruption.rat": 0.4}, r"did you mean 'rate'\?"),
    ],
)
def test_each_mistake_in_data_is_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        sets_of(**changes)


MISTAKES = {
    "model": ({"model.name": "mpl"}, r"config.model.name='mpl' is unknown \(did you mean 'mlp'"),
    "size": (
        {"model.hidden": (0,)},
        r"config.model: 'mlp' cannot be made: hidden=\(0,\) must hold",
    ),
    "argument": ({"model.width": 3}, "config.model: 'mlp' cannot be made: .*'width'"),
    "loss": ({"loss.name": "gce"}, "config.loss.name='gce' is unknown"),
    "baseline": ({"baseline.name": "gce"}, "config.baseline.name='gce' is unknown"),
    "devices": ({"devices": 99}, "config.devices=99, but JAX sees 8"),
    "batch": ({"devices": 3}, "config.batch_size=8 does not divide over 3 devices"),
    "test batch": ({"devices": 8}, "config.eval_batch_size=4 does not divide over 8 devices"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named(mistake: str) -> None:
    changes, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=expected) as told:
        prepare(tiny_run.config(**changes), SETS)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"parallel": "pmap"}, "serves one process; use 'mesh'"),
        ({"devices": 4}, r"must be 0 \(all\) when several processes"),
    ],
)
def test_several_processes_use_a_mesh_of_all_devices(
    changes: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=expected):
        prepare(tiny_run.config(**changes), SETS)


@pytest.fixture(scope="module")
def prepared() -> dict[str, Run]:
    robust = {"loss": ConfigDict({"name": "generalized_cross_entropy", "q": 0.5}), "epochs": 5}
    configs = {"robust": robust, "plain": {"dataset.standardise": False}, "seed 1": {"seed": 1}}
    return {name: prepare(tiny_run.config(**changes), SETS) for name, changes in configs.items()}


def test_what_a_run_is_told_of_its_config_and_data(prepared: dict[str, Run]) -> None:
    robust, plain = prepared["robust"], prepared["plain"]
    assert (robust.steps_per_epoch, robust.steps) == (4, 20)
    assert robust.name == "generalized_cross_entropy(q=0.5)"
    assert plain.name == "softmax_cross_entropy_with_integer_labels"
    pixels = SETS["train"].images / 255
    assert robust.program.mean == pytest.approx([pixels.mean()])
    assert robust.program.deviation == pytest.approx([pixels.std()])
    assert (plain.program.mean.tolist(), plain.program.deviation.tolist()) == ([0.0], [1.0])


def test_large_data_are_streamed(prepared: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(examples.images.nbytes for examples in SETS.values())
    auto, yes, no = (
        prepared["plain"]._replace(config=tiny_run.config(**{"dataset.resident": resident}))
        for resident in ("auto", "yes", "no")
    )
    monkeypatch.setattr(runs, "RESIDENT_BYTES", size)
    assert (auto.resident, yes.resident, no.resident) == (True, True, False)
    monkeypatch.setattr(runs, "RESIDENT_BYTES", size - 1)
    assert (auto.resident, yes.resident, no.resident) == (False, True, False)


def test_seeds_differ_and_what_they_draw_is_apart(prepared: dict[str, Run]) -> None:
    first, same, other = prepared.values()
    leaves = [jax.tree.leaves(run.initial_state.params) for run in (first, same, other)]
    assert all(np.array_equal(a, b) for a, b in zip(leaves[0], leaves[1], strict=True))
    kernels = [leaf for leaf in leaves[2] if leaf.ndim == 2]
    assert not any(np.array_equal(a, b) for a in kernels for b in leaves[0])
    keys = [key for run in (first, other) for key in (run.program.order_key, run.program.step_key)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 4


def test_a_folder_belongs_to_the_config_that_saved_in_it(tmp_path: Path) -> None:
    workdir, config = tmp_path / "deep" / "work", tiny_run.config()
    claim_workdir(workdir, tiny_run.config(seed=3))
    claim_workdir(workdir, config)  # Nothing was saved, so that the folder is free.
    assert json.loads((workdir / "config.json").read_text())["seed"] == 0
    for trace in ("records.jsonl", "checkpoints/step_00000004", "loss/checkpoints/step_00000004"):
        path = workdir / trace
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        claim_workdir(workdir, config)
        with pytest.raises(UserError, match=r"another config's run \(seed: 0 -> 3\); choose"):
            claim_workdir(workdir, tiny_run.config(seed=3))
        path.unlink()
    (workdir / "records.jsonl").write_text("")
    many = tiny_run.config(seed=3, epochs=3, batch_size=3, ema_decay=0.3)
    with pytest.raises(UserError, match=r"\(batch_size: 8 -> 3; .*; epochs: 10 -> 3 and 1 more\)"):
        claim_workdir(workdir, many)
    (workdir / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be used: .*; choose another"):
        claim_workdir(workdir, config)


def test_a_config_is_known_again_after_json(tmp_path: Path) -> None:
    config = tiny_run.config(**{"model.hidden": (3, 4), "optimizer.learning_rate": 0.1 + 0.2})
    claim_workdir(tmp_path, config)
    (tmp_path / "records.jsonl").write_text("")
    claim_workdir(tmp_path, config)
