"""What a program is given of each run of its group."""

import tracemalloc
from typing import Any

import pytest
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax.errors import UserError
from xent_jax.training import default_study, expand
from xent_jax.training.grouping import assemble


def study(**changes: Any) -> ConfigDict:
    config = default_study()
    config.model = ConfigDict({"name": "mlp", "hidden": (5,)})
    config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.05})
    for key, value in changes.items():
        config[key] = value
    return config


def test_of_each_run_no_images_are_kept():
    splits = {"train": tiny_run.dataset(1000, side=32), "test": tiny_run.dataset(10, side=32)}
    config = study(seeds=16, corruption=ConfigDict({"name": "symmetric", "rate": 0.9}))
    config.dataset.validation_examples = 100
    members = expand(config)
    assemble(members[:1], members, splits)
    tracemalloc.start()
    group = assemble(members, members, splits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(group.facts) == 16
    assert peak < len(members) * splits["train"].images.nbytes


def test_noise_that_a_loss_cannot_take_is_told_of_any_run():
    splits = {"train": tiny_run.dataset(40), "test": tiny_run.dataset(10)}
    config = study(loss=ConfigDict({"name": "backward_correction"}))
    # Of four classes, 3/4 leaves nothing to tell them apart.
    config.corruption = ConfigDict({"name": "symmetric"})
    config.grid = ConfigDict({"corruption": {"rate": (0.2, 0.75)}})
    members = expand(config)
    with pytest.raises(UserError, match="transition_matrix has no inverse"):
        assemble(members, members, splits)
