"""Optimisers are what PyTorch's users expect, and schedules hit their marks."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from xent_jax.errors import UserError
from xent_jax.training import OPTIMIZERS, SCHEDULES, check_config, default_config
from xent_jax.training.optimizer import make_optimizer, make_schedule


@pytest.fixture(autouse=True)
def strict_promotion():
    """Replaces the rule of all other tests: optax itself adds integers to floats."""


START = np.array([0.5, -1.5, 2.0, 0.0])
GRADIENTS = np.random.default_rng(0).normal(size=(3, 4)) * [[1.0], [5.0], [0.1]]
RATE, DECAY, CLIP = 0.1, 0.3, 2.0


def config_of(optimizer: dict, schedule: dict | None = None, **changes: float) -> ConfigDict:
    config = default_config()
    config.optimizer = ConfigDict({"learning_rate": RATE} | optimizer)
    config.schedule = ConfigDict(schedule or {"name": "constant"})
    config.update(changes)
    return check_config(config)


def trained(config: ConfigDict) -> np.ndarray:
    """The parameters after each of the three gradients."""
    optimizer = make_optimizer(config, steps_per_epoch=10)

    @jax.jit
    def run(params: jax.Array) -> list[jax.Array]:
        state, after = optimizer.init(params), []
        for gradient in GRADIENTS:
            updates, state = optimizer.update(jnp.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
            after.append(params)
        return after

    with jax.enable_x64(True):
        return np.stack(run(jnp.asarray(START)))


def sgd(x: np.ndarray, g: np.ndarray, memory: dict) -> np.ndarray:
    """torch.optim.SGD(momentum=0.9)."""
    memory["m"] = 0.9 * memory.get("m", 0.0) + g
    return x - RATE * memory["m"]


def adam(x: np.ndarray, g: np.ndarray, memory: dict) -> np.ndarray:
    """torch.optim.Adam(betas=(0.9, 0.999), eps=1e-8)."""
    memory["t"] = t = memory.get("t", 0) + 1
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * g
    memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * g**2
    m, v = memory["m"] / (1 - 0.9**t), memory["v"] / (1 - 0.999**t)
    return x - RATE * m / (np.sqrt(v) + 1e-8)


def expected(rule: Callable, l2: float = 0.0, decoupled: float = 0.0, clip: float = math.inf):
    x, memory, after = START, {}, []
    for g in GRADIENTS:
        g = g * min(1.0, clip / np.linalg.norm(g)) + l2 * x
        x = rule(x, g, memory) - RATE * decoupled * x
        after.append(x)
    return np.stack(after)


CASES = {
    "sgd": ({"name": "sgd", "momentum": 0.9}, {}, expected(sgd)),
    "sgd with L2": (
        {"name": "sgd", "momentum": 0.9},
        {"weight_decay": DECAY},
        expected(sgd, l2=DECAY),
    ),
    "sgd clipped, then L2": (
        {"name": "sgd", "momentum": 0.9},
        {"weight_decay": DECAY, "clip_norm": CLIP},
        expected(sgd, l2=DECAY, clip=CLIP),
    ),
    "adam with L2": ({"name": "adam"}, {"weight_decay": DECAY}, expected(adam, l2=DECAY)),
    "adamw without decay": ({"name": "adamw"}, {}, expected(adam)),
    "adamw clipped, decoupled": (
        {"name": "adamw"},
        {"weight_decay": DECAY, "clip_norm": CLIP},
        expected(adam, decoupled=DECAY, clip=CLIP),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_updates_equal_the_formulas(case: str) -> None:
    optimizer, changes, after = CASES[case]
    np.testing.assert_allclose(trained(config_of(optimizer, **changes)), after, rtol=1e-12)


def test_the_cases_differ_and_all_gradients_but_one_are_clipped() -> None:
    results = [after for _, _, after in CASES.values()]
    for i, a in enumerate(results):
        for j, b in enumerate(results[:i]):
            same = (i, j) == (4, 3)
            assert same or np.abs(a - b).max() > 1e-3
    assert (np.linalg.norm(GRADIENTS, axis=1) > CLIP).tolist() == [False, True, False]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_takes_a_step_downhill(name: str) -> None:
    optimizer = make_optimizer(config_of({"name": name}, weight_decay=1e-3), steps_per_epoch=10)
    updates = jax.jit(lambda x: optimizer.update(x, optimizer.init(x), x)[0])(np.float32([2, -1]))
    assert np.isfinite(updates).all()
    assert np.sign(updates).tolist() == [-1, 1]


# Ten epochs of ten steps, a peak of 0.1: the rate at some steps.
MARKS = {
    "constant": ({"name": "constant"}, {0: 0.1, 50: 0.1, 99: 0.1}),
    "cosine": (
        {"name": "cosine"},
        {0: 0.1, 25: 0.05 * (1 + math.cos(math.pi / 4)), 50: 0.05, 100: 0.0},
    ),
    "cosine to a tenth": (
        {"name": "cosine", "final_fraction": 0.1},
        {0: 0.1, 50: 0.055, 100: 0.01, 200: 0.01},
    ),
    "linear": ({"name": "linear", "final_fraction": 0.5}, {0: 0.1, 50: 0.075, 100: 0.05}),
    "step": (
        {"name": "step"},
        {0: 0.1, 49: 0.1, 50: 0.01, 74: 0.01, 75: 0.001, 99: 0.001},
    ),
    "step at one place": ({"name": "step", "at": 0.3, "factor": 0.5}, {29: 0.1, 30: 0.05}),
    "two at once": ({"name": "step", "at": (0.5, 0.501)}, {49: 0.1, 50: 0.001}),
    "exponential": (
        {"name": "exponential", "factor": 0.25, "every_steps": 50},
        {0: 0.1, 25: 0.05, 50: 0.025, 100: 0.00625},
    ),
    "warm-up": ({"name": "constant", "warmup_epochs": 1}, {0: 0.0, 5: 0.05, 10: 0.1, 99: 0.1}),
    "half an epoch": ({"name": "constant", "warmup_epochs": 0.5}, {0: 0.0, 4: 0.08, 5: 0.1}),
    "warm-up, cosine": (
        {"name": "cosine", "warmup_epochs": 2},
        {0: 0.0, 10: 0.05, 20: 0.1, 60: 0.05, 100: 0.0},
    ),
    "warm-up, step": (
        {"name": "step", "warmup_epochs": 2},
        {10: 0.05, 20: 0.1, 59: 0.1, 60: 0.01, 80: 0.001},
    ),
}


@pytest.mark.parametrize("case", MARKS)
def test_schedule_hits_its_marks(case: str) -> None:
    spec, marks = MARKS[case]
    schedule = make_schedule(config_of({"name": "sgd"}, spec), steps_per_epoch=10)
    rates = jax.jit(jax.vmap(schedule))(jnp.asarray(list(marks)))
    np.testing.assert_allclose(rates, list(marks.values()), rtol=1e-6, atol=1e-9)
    assert {spec["name"] for spec, _ in MARKS.values()} == set(SCHEDULES)


MISTAKES = {
    "unknown optimiser": ({"name": "adan"}, {}, r"unknown \(did you mean 'adam'\?\); one of: adab"),
    "no rate": (
        {"name": "sgd", "learning_rate": None},
        {},
        "learning_rate=None must be a positive",
    ),
    "zero rate": (
        {"name": "sgd", "learning_rate": 0.0},
        {},
        "learning_rate=0.0 must be a positive",
    ),
    "text": ({"name": "sgd", "learning_rate": "big"}, {}, "learning_rate='big' must be a positive"),
    "unknown argument": ({"name": "sgd", "b1": 0.9}, {}, "'sgd' has no argument 'b1'"),
    "own weight decay": ({"name": "adamw", "weight_decay": 0.1}, {}, "no argument 'weight_decay'"),
    "decay of 1": ({"name": "adam", "b1": 1}, {}, "b1=1 must be at least 0 and below 1"),
    "decay below 0": ({"name": "sgd", "momentum": -0.1}, {}, "momentum=-0.1 must be at least 0"),
    "decay in words": ({"name": "sgd", "momentum": "much"}, {}, "momentum='much' must be"),
    "another type": ({"name": "adam", "eps": "tiny"}, {}, "'adam' refuses its arguments: "),
    "unknown schedule": ({"name": "sgd"}, {"name": "cosin"}, r"did you mean 'cosine'\?"),
    "its argument": ({"name": "sgd"}, {"name": "cosine", "factor": 2}, "no argument 'factor'"),
    "below 0": ({"name": "sgd"}, {"name": "step", "at": (0.5, -1)}, "schedule.at=.* at least 0"),
    "in words": ({"name": "sgd"}, {"name": "step", "at": "end"}, "schedule.at='end' must be"),
    "each 0 steps": ({"name": "sgd"}, {"name": "exponential", "every_steps": 0}, "at least 1"),
    "long warm-up": ({"name": "sgd"}, {"name": "cosine", "warmup_epochs": 10}, "less than .*=10"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named(mistake: str) -> None:
    optimizer, schedule, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=expected) as told:
        make_optimizer(config_of(optimizer, schedule), steps_per_epoch=10)
    assert "\n" not in str(told.value)
