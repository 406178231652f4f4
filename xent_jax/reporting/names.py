"""What metrics and conditions are called where people read of them."""

from collections.abc import Mapping
from typing import Any

_METRICS = {
    "test.nll": "test negative log-likelihood",
    "test.brier": "test Brier score",
    "test.macro_f1": "test macro F1",
    "test.top_5_accuracy": "test top-5 accuracy",
    "test.many_accuracy": "test accuracy on classes of more than 100 training examples",
    "test.medium_accuracy": "test accuracy on classes of 20 to 100",
    "test.few_accuracy": "test accuracy on classes of fewer than 20",
    "wrong_labels.memorised": "wrong labels memorised",
    "wrong_labels.recovered": "wrong labels recovered",
}
_KEYS = {"corruption.rate": "noise rate", "corruption.name": "noise"}
# A kind and its number, which are told together: symmetric noise 0.4.
_KINDS = (
    ("corruption.name", "corruption.rate", " noise"),
    ("imbalance.name", "imbalance.ratio", ""),
)
_SHARES = ("accuracy", "recall", "f1", "calibration_error", "memorised", "recovered")


def metric_name(path: str) -> str:
    """Returns what people call a dotted path into a record: 'test accuracy' of 'test.accuracy'."""
    match path.split("."):
        case ["shots", count, name]:
            return f"{count}-shot {name}"
    return _METRICS.get(path, path.replace(".", " ").replace("_", " "))


def is_share(path: str) -> bool:
    """Returns whether a metric is a share between 0 and 1, which is shown in percent."""
    return path.endswith(_SHARES)


def lower_is_better(path: str) -> bool:
    """Returns whether the least value of a metric is the best."""
    worse = (
        "nll",
        "brier",
        "calibration_error",
        "loss",
        "memorised",
        "perplexity",
        "bits_per_byte",
    )
    return path.endswith(worse)


def key_name(key: str) -> str:
    """Returns what people call a dotted key of a config: 'noise rate' of 'corruption.rate'."""
    short = key.removesuffix(".name")
    for section in ("few_shot.", "loss.", "optimizer."):  # whose arguments speak for themselves
        short = short.removeprefix(section)
    return _KEYS.get(key, short.replace(".", " ").replace("_", " "))


def condition_name(condition: Mapping[str, Any]) -> str:
    """Returns what people call a condition: 'symmetric noise 0.4'; '' if it is empty."""
    left = dict(condition)
    parts = []
    for kind, number, noun in _KINDS:
        if kind in left:
            told = f" {shown(left.pop(number))}" if number in left else ""
            parts.append(f"{shown(left.pop(kind))}{noun}{told}")
    return ", ".join(parts + [f"{key_name(key)} {shown(value)}" for key, value in left.items()])


def shown(value: Any) -> str:
    """Returns a value of a config as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
