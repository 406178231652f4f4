"""The published tables hold the rows that studies name, and each number is found for its run."""

import pytest

from xent_jax.reporting.published import PUBLISHED, find

IMBALANCED = {"ERM", "Focal", "LDAM", "CB-reweight", "CB-focal", "M-DRW", "LDAM-DRW"}
LABELS = {
    "mnist_n1": {"CE", "CE + clipping", "Linear", "GCE", "PHuber-CE", "PHuber-GCE"},
    "mnist_n2": {"CE", "GCE", "SCE", "NCE", "NCE+RCE", "AUL", "AGCE"},
    "cifar10_n3": {"CE", "GCE", "SCE", "NCE+MAE", "NCE+RCE", "NCE+AGCE", "NCE+AUL", "LDR-KL"}
    | {"CE + LogitClip", "CE-eps+MAE"},
    "fashion_mnist_n4": {"CE", "Forward", "Co-teaching"},
    "mnist_n5": {"Standard", "F-correction", "Co-teaching"},
    "cifar10_lt100": IMBALANCED
    | {"Logit-adjusted", "Post-hoc", "CDT", "VS", "Balanced softmax", "Label smoothing"},
    "cifar10_lt10": IMBALANCED,
    "cifar10_step100": IMBALANCED | {"Logit-adjusted", "CDT", "VS"},
    "cifar10_step10": IMBALANCED,
    "omniglot": {"ProtoNet", "Matching", "MAML"},
}


def percent(table: str, method: str, metric: str = "test.accuracy", **config) -> float | None:
    result = find(PUBLISHED[table], method, {}, config, metric)
    return None if result is None else result.percent


def noise(name: str, rate: float) -> dict:
    return {"corruption": {"name": name, "rate": rate}}


def test_every_table_has_its_methods():
    assert {name: {r.method for r in table.results} for name, table in PUBLISHED.items()} == LABELS
    assert all(table.others.keys() <= LABELS[name] for name, table in PUBLISHED.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_number_is_a_percentage_of_one_place(name):
    table = PUBLISHED[name]
    places = [(r.method, r.metric, tuple(sorted(r.conditions.items()))) for r in table.results]
    assert len(set(places)) == len(places)
    assert all(0 < r.percent <= 100 for r in table.results)
    assert all(round(r.percent, table.decimals) == r.percent for r in table.results)
    assert table.url.startswith("https://")


def test_a_run_finds_its_number():
    assert percent("mnist_n1", "GCE", **noise("symmetric", 0.4)) == 98.5
    assert percent("mnist_n2", "AUL", **noise("symmetric", 0.8)) == 96.73
    assert percent("cifar10_n3", "CE", **noise("symmetric", 0.4)) == 58.46
    assert percent("cifar10_n3", "CE", **noise("asymmetric", 0.4)) == 75.28
    assert percent("fashion_mnist_n4", "Forward", **noise("instance_dependent", 0.45)) == 73.35
    assert percent("mnist_n5", "F-correction", **noise("pair_flip", 0.45)) == 0.24
    tail = {"imbalance": {"name": "long_tail", "ratio": 100}}
    assert percent("cifar10_lt100", "LDAM-DRW", **tail) == 77.03  # an error of 22.97
    assert percent("cifar10_lt100", "CDT", **tail) == 79.55
    assert percent("cifar10_step10", "ERM", imbalance={"name": "step", "ratio": 10}) == 82.5
    ways = {"few_shot": {"test_ways": 20}}
    assert percent("omniglot", "ProtoNet", "shots.5.accuracy", **ways) == 98.9


def test_other_noise_rates_metrics_and_methods_have_none():
    assert percent("mnist_n1", "GCE", **noise("symmetric_all", 0.4)) is None
    assert percent("mnist_n1", "GCE", **noise("symmetric", 0.3)) is None
    assert percent("mnist_n1", "gce", **noise("symmetric", 0.4)) is None
    assert percent("mnist_n1", "GCE", "test.nll", **noise("symmetric", 0.4)) is None
    assert percent("cifar10_lt100", "ERM", imbalance={"name": "step", "ratio": 100}) is None


def test_without_noise_it_does_not_matter_which():
    for config in ({}, {"corruption": {"name": "none"}}, noise("asymmetric", 0.0)):
        assert percent("cifar10_n3", "SCE", **config) == 91.30


def test_conditions_go_before_the_config():
    where = {"corruption.name": "symmetric", "corruption.rate": 0.2}
    found = find(PUBLISHED["mnist_n1"], "CE", where, noise("asymmetric", 0.4), "test.accuracy")
    assert found is not None
    assert found.percent == 98.8


def test_what_is_quoted_from_memory_is_marked():
    assert {name for name, table in PUBLISHED.items() if table.recalled} == {"mnist_n2"}
