"""Published results, to stand beside ours where a study follows a paper's protocol."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Result(NamedTuple):
    """One printed number."""

    method: str  # the label in the study's config
    conditions: Mapping[str, Any]  # by dotted key of the config
    metric: str  # where a record holds ours
    percent: float  # as printed; of an error rate 100 minus it


class Published(NamedTuple):
    """A table of a paper."""

    source: str
    url: str
    protocol: str  # what decides the numbers besides the loss
    decimals: int  # of the numbers as printed
    results: tuple[Result, ...]
    others: Mapping[str, str] = {}  # methods whose numbers another source printed: which
    recalled: bool = False  # from memory: nobody has compared them with the paper yet


def find(
    published: Published,
    method: str,
    conditions: Mapping[str, Any],
    config: Mapping[str, Any],
    metric: str,
) -> Result | None:
    """Returns the result that a run should be compared with, or None if none was published.

    Args:
      published: where to look.
      method: the run's label.
      conditions: the run's, by dotted key.
      config: the run's, which says what `conditions` leave open.
      metric: dotted, into a record.
    """
    for result in published.results:
        if (result.method, result.metric) == (method, metric) and all(
            _same(wanted, conditions.get(key, _at(config, key)))
            for key, wanted in result.conditions.items()
        ):
            return result
    return None


def _same(wanted: Any, found: Any) -> bool:
    # What a config does not mention does not happen: no rate of noise is a rate of 0.
    return found == wanted or (found is None and wanted == 0)


def _at(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _noise(name: str, rate: float) -> dict[str, Any]:
    return {"corruption.name": name, "corruption.rate": rate} if rate else {"corruption.rate": 0.0}


def _symmetric(*rates: float) -> list[tuple[dict[str, Any], str]]:
    return [(_noise("symmetric", rate), "test.accuracy") for rate in rates]


def _results(
    columns: Sequence[tuple[Mapping[str, Any], str]], rows: Mapping[str, Sequence[float]]
) -> tuple[Result, ...]:
    """Makes results of a printed table: columns of (conditions, metric), rows by method."""
    return tuple(
        Result(method, conditions, metric, percent)
        for method, numbers in rows.items()
        for (conditions, metric), percent in zip(columns, numbers, strict=True)
    )


_CAO = "Cao et al. 2019, Learning imbalanced datasets with LDAM loss, table 2"
_MENON = "Menon et al. 2021, Long-tail learning via logit adjustment, table 3 (mean of 5)"
_KINI = "Kini et al. 2021, Label-imbalanced and group-sensitive classification"
_TRICKS = "github.com/zhangyongshun/BagofTricks-LT, trick_gallery.md (one run)"
_HAN = "Han et al. 2018, Co-teaching, table 4"


def _imbalanced(
    name: str, ratio: int, errors: Mapping[str, float], others: Mapping[str, tuple[float, str]]
) -> Published:
    """Makes a column of the tables of long-tailed CIFAR-10, whose numbers are error rates."""
    every = {**errors, **{method: error for method, (error, _) in others.items()}}
    columns = [({"imbalance.name": name, "imbalance.ratio": ratio}, "test.accuracy")]
    return Published(
        source=_CAO,
        url="https://arxiv.org/abs/1906.07413",
        protocol="ResNet-32, 200 epochs of SGD with warm-up and two steps, batches of 128, crops "
        "and flips; balanced test set",
        decimals=2,
        results=_results(columns, {m: (round(100 - error, 2),) for m, error in every.items()}),
        others={method: source for method, (_, source) in others.items()},
    )


PUBLISHED: dict[str, Published] = {
    "mnist_n1": Published(
        source="Mizrahi et al. 2021, [Re] Can gradient clipping mitigate label noise?",
        url="https://github.com/dmizr/phuber",
        protocol="LeNet-5, 20 epochs of Adam, batches of 32; a wrong label is one of the other "
        "nine, drawn for each example with the rate as probability",
        decimals=1,
        results=_results(
            _symmetric(0.0, 0.2, 0.4, 0.6),
            {
                "CE": (99.1, 98.8, 98.6, 98.0),
                "CE + clipping": (97.0, 96.5, 95.7, 94.7),
                "Linear": (95.0, 98.5, 98.2, 97.6),
                "GCE": (98.8, 98.7, 98.5, 98.1),
                "PHuber-CE": (99.0, 98.8, 98.5, 97.6),
                "PHuber-GCE": (98.9, 98.7, 98.4, 98.0),
            },
        ),
    ),
    "mnist_n2": Published(
        source="Zhou et al. 2021, Asymmetric loss functions for learning with noisy labels",
        url="https://arxiv.org/abs/2106.03110",
        protocol="4-layer CNN, 50 epochs of SGD with a cosine schedule, batches of 128, gradients "
        "clipped to norm 5, no augmentation; last epoch",
        decimals=2,
        results=_results(
            _symmetric(0.0, 0.2, 0.4, 0.6, 0.8),
            {
                "CE": (99.15, 91.62, 73.98, 49.36, 22.66),
                "GCE": (99.27, 98.86, 97.16, 81.53, 33.95),
                "SCE": (99.23, 98.92, 97.38, 88.83, 48.75),
                "NCE": (98.60, 98.57, 98.29, 97.65, 93.78),
                "NCE+RCE": (99.36, 99.14, 98.51, 95.60, 74.00),
                "AUL": (99.14, 99.05, 98.90, 98.67, 96.73),
                "AGCE": (99.05, 98.96, 98.83, 98.57, 96.59),
            },
        ),
        recalled=True,
    ),
    "cifar10_n3": Published(
        source="Wang et al. 2024, epsilon-softmax, table 2",
        url="https://arxiv.org/abs/2508.02387",
        protocol="8-layer CNN, 120 epochs of SGD with a cosine schedule, batches of 128, gradients "
        "clipped to norm 5, shifts and flips; last epoch, mean of 3",
        decimals=2,
        results=_results(
            [
                *_symmetric(0.0, 0.2, 0.4, 0.6, 0.8),
                (_noise("asymmetric", 0.4), "test.accuracy"),
            ],
            {
                "CE": (90.50, 75.47, 58.46, 39.16, 18.95, 75.28),
                "GCE": (89.42, 86.87, 82.24, 68.43, 25.82, 74.01),
                "SCE": (91.30, 87.58, 79.47, 59.14, 25.88, 74.99),
                "NCE+MAE": (89.02, 86.79, 83.60, 75.93, 46.96, 74.98),
                "NCE+RCE": (91.03, 88.41, 85.13, 79.20, 55.28, 79.43),
                "NCE+AGCE": (91.13, 89.00, 85.91, 80.36, 49.98, 79.28),
                "NCE+AUL": (91.06, 89.11, 85.79, 79.57, 57.59, 79.14),
                "LDR-KL": (91.38, 89.01, 85.46, 74.93, 34.78, 77.68),
                "CE + LogitClip": (90.06, 85.66, 79.18, 53.87, 21.04, 74.34),
                "CE-eps+MAE": (91.40, 89.29, 85.93, 79.52, 58.96, 78.91),
            },
        ),
    ),
    "fashion_mnist_n4": Published(
        source="Yao et al. 2021, Instance-dependent label-noise learning under a structural causal "
        "model",
        url="https://arxiv.org/abs/2109.02986",
        protocol="ResNet-18, 150 epochs; mean of the last 10 epochs",
        decimals=2,
        results=_results(
            [
                (_noise("instance_dependent", rate), "test.accuracy")
                for rate in (0.2, 0.3, 0.4, 0.45, 0.5)
            ],
            {
                "CE": (88.54, 88.38, 84.22, 69.72, 52.32),
                "Forward": (90.05, 88.65, 86.27, 73.35, 58.23),
                "Co-teaching": (91.21, 90.30, 89.10, 86.78, 63.22),
            },
        ),
    ),
    "mnist_n5": Published(
        source=_HAN,
        url="https://arxiv.org/abs/1804.06872",
        protocol="9-layer CNN, 200 epochs of Adam, batches of 128; mean of the last 10 epochs",
        decimals=2,
        results=_results(
            [(_noise("pair_flip", 0.45), "test.accuracy"), *_symmetric(0.5, 0.2)],
            {
                "Standard": (56.52, 66.05, 94.05),
                "F-correction": (0.24, 79.61, 98.80),
                "Co-teaching": (87.63, 91.32, 97.25),
            },
        ),
    ),
    "cifar10_lt100": _imbalanced(
        "long_tail",
        100,
        {
            "ERM": 29.64,
            "Focal": 29.62,
            "LDAM": 26.65,
            "CB-reweight": 27.63,
            "CB-focal": 25.43,
            "M-DRW": 24.94,
            "LDAM-DRW": 22.97,
        },
        {
            "Logit-adjusted": (22.33, _MENON),
            "Post-hoc": (22.60, _MENON),
            "CDT": (100 - 79.55, _KINI),
            "VS": (100 - 80.82, _KINI),
            "Balanced softmax": (22.46, _TRICKS),
            "Label smoothing": (27.19, _TRICKS),
        },
    ),
    "cifar10_lt10": _imbalanced(
        "long_tail",
        10,
        {
            "ERM": 13.61,
            "Focal": 13.34,
            "LDAM": 13.04,
            "CB-reweight": 13.46,
            "CB-focal": 12.90,
            "M-DRW": 13.57,
            "LDAM-DRW": 11.84,
        },
        {},
    ),
    "cifar10_step100": _imbalanced(
        "step",
        100,
        {
            "ERM": 36.70,
            "Focal": 36.09,
            "LDAM": 33.42,
            "CB-reweight": 38.06,
            "CB-focal": 39.73,
            "M-DRW": 27.67,
            "LDAM-DRW": 23.08,
        },
        {
            "Logit-adjusted": (100 - 78.23, _KINI),
            "CDT": (100 - 73.26, _KINI),
            "VS": (100 - 79.10, _KINI),
        },
    ),
    "cifar10_step10": _imbalanced(
        "step",
        10,
        {
            "ERM": 17.50,
            "Focal": 16.36,
            "LDAM": 15.00,
            "CB-reweight": 16.20,
            "CB-focal": 16.54,
            "M-DRW": 13.17,
            "LDAM-DRW": 12.19,
        },
        {},
    ),
    "omniglot": Published(
        source="Snell et al. 2017, Prototypical networks for few-shot learning, table 1",
        url="https://arxiv.org/abs/1703.05175",
        protocol="four convolutions of 64 channels, 28x28 pixels, Adam halved every 2000 "
        "episodes, 60 ways in training; 1000 test episodes",
        decimals=1,
        results=_results(
            [
                ({"few_shot.test_ways": ways}, f"shots.{shots}.accuracy")
                for ways in (5, 20)
                for shots in (1, 5)
            ],
            {
                "ProtoNet": (98.8, 99.7, 96.0, 98.9),
                "Matching": (98.1, 98.9, 93.8, 98.5),
                "MAML": (98.7, 99.9, 95.8, 98.9),
            },
        ),
        others={"MAML": "Finn et al. 2017, Model-agnostic meta-learning, table 1"},
    ),
}
"""Tables of papers, by the name that a config's `report.published` may hold."""
