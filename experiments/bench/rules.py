"""What the hand-derived rules buy: every loss with them, and with autodiff of the same formulas.

Time and memory are of value and gradient at the bench's size. Accuracy is of float32 gradients at
a small size, against float64 ones with the rules (which the tests hold to finite differences):
the largest error of an example's gradient as a share of that gradient's largest entry (or of a
thousandth of the largest in the moderate situation, where it is smaller than that), over the
`situations`, moderate and extreme.
"""

import functools
import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import numpy as np

import xent_jax
from experiments.bench.clock import median_seconds
from experiments.bench.losses import Figures, chosen, compiled, split
from experiments.bench.size import CLASSES, EXAMPLES
from experiments.workloads import LOGITS, Workload, workload
from xent_jax import losses

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "bench_rules_cpu.jsonl"
_EXAMPLES, _CLASSES = 32, 16  # of the gradients that are compared
_LOST = 1.0  # an error of 100 % and more


class _Unruled:
    """Stands in for `jax.custom_jvp`: calls the function, and forgets its rule."""

    def __init__(self, function: Callable[..., Any], nondiff_argnums: Any = ()) -> None:
        del nondiff_argnums
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self._function(*args, **keywords)

    def defjvp(self, rule: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        return rule

    def defjvps(self, *rules: Callable[..., Any] | None) -> None:
        del rules


@functools.cache
def without_rules() -> ModuleType:
    """Returns a second copy of `xent_jax.losses`, in which autodiff differentiates everything."""
    kept = {name: m for name, m in sys.modules.items() if _is_of_losses(name)}
    try:
        for name in kept:
            del sys.modules[name]
        with mock.patch.object(jax, "custom_jvp", _Unruled):
            return importlib.import_module("xent_jax.losses")
    finally:
        for name in [name for name in sys.modules if _is_of_losses(name)]:
            del sys.modules[name]
        sys.modules.update(kept)
        xent_jax.losses = losses  # which the import had bound to the copy


def _is_of_losses(module: str) -> bool:
    return module == "xent_jax.losses" or module.startswith("xent_jax.losses.")


def measure() -> Figures:
    """Prints and returns what the rules buy each loss that uses any."""
    examples, classes = EXAMPLES.value or 4096, CLASSES.value
    print(f"{examples} examples of {classes} classes, float32, on {jax.devices()[0].device_kind}")
    print(f"{'without the rules':<46}{'time':>7}{'memory':>14}{'worst error':>22}")
    figures = {}
    for name in chosen():
        if has_rule(name):
            figures[name] = _gains(name, examples, classes)
            print(_line(name, figures[name]), flush=True)
            jax.clear_caches()
    return figures


def has_rule(name: str) -> bool:
    """Returns whether derivatives of the loss go through a rule of ours."""
    ruled, plain = (
        str(jax.make_jaxpr(lambda given, f=w.function: f(**given))(w.arguments))
        for w in _both(name, _EXAMPLES, _CLASSES)
    )
    differentiable = workload(name, _EXAMPLES, _CLASSES).differentiable
    return bool(differentiable) and ruled.count("custom_jvp") > plain.count("custom_jvp")


def _both(name: str, examples: int, classes: int) -> tuple[Workload, Workload]:
    return workload(name, examples, classes), workload(
        name, examples, classes, library=without_rules()
    )


def _gains(name: str, examples: int, classes: int) -> dict[str, Any]:
    _, plain = _both(name, _EXAMPLES, _CLASSES)
    try:
        jax.eval_shape(jax.grad(plain.total), *split(plain, plain.arguments))
    except ValueError:  # a loop of unknown length
        return {"differentiable_without": False}
    return _costs(name, examples, classes) | {"accuracy": accuracy(name)}


def _costs(name: str, examples: int, classes: int) -> dict[str, Any]:
    ruled, plain = map(compiled, _both(name, examples, classes))
    programs = [program for program in (ruled.both, plain.both) if program]
    seconds, ratio = median_seconds(programs)
    logits = examples * classes * np.float32().itemsize
    return {
        "ms": round(1e3 * seconds, 3),
        "time_without": round(ratio, 3),
        "memory": round(ruled.memory / logits, 4),
        "memory_without": round(plain.memory / logits, 4),
    }


def accuracy(name: str) -> dict[str, dict[str, float]]:
    """Returns, by situation, the gradients' errors with the rules and without; NaN where they are.

    Examples whose gradient is not finite by its mathematics count in neither.
    """
    ruled, plain = _both(name, _EXAMPLES, _CLASSES)
    with_rules, without = (jax.jit(jax.grad(w.total)) for w in (ruled, plain))
    errors, floor = {}, 0.0
    for situation, arguments in situations(ruled):
        learned, others = split(ruled, arguments)
        with jax.enable_x64(True):
            exact = with_rules(*jax.tree.map(_in_double, (learned, others)))
        floor = floor or 1e-3 * max(float(np.abs(e).max()) for e in jax.tree.leaves(exact))
        errors[situation] = {
            "with": _error(with_rules(learned, others), exact, floor),
            "without": _error(without(learned, others), exact, floor),
        }
    return errors


def _in_double(array: Any) -> Any:
    return np.asarray(array, np.float64) if array.dtype == np.float32 else array


def _error(gradients: Any, exact: Any, floor: float) -> float:
    """Returns the largest relative error, at most `_LOST`."""
    worst = 0.0
    for g, e in zip(jax.tree.leaves(gradients), jax.tree.leaves(exact), strict=True):
        g, e = (np.atleast_2d(np.asarray(x, np.float64)) for x in (g, e))
        known = np.all(np.isfinite(e), -1)
        if not np.all(np.isfinite(g[known])):
            return math.nan
        scale = np.maximum(np.abs(e[known]).max(-1, initial=0.0), floor)
        off = np.abs(g[known] - e[known]).max(-1, initial=0.0) / scale
        worst = max(worst, off.max(initial=0.0))
    return float(min(worst, _LOST))


def situations(loss: Workload) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields names and arguments: as they are drawn, and as they trouble a derivative."""
    yield "moderate", loss.arguments
    places = _classes_of_labels(loss.arguments)
    if any(name in LOGITS for name in loss.differentiable):
        for size in (30.0, 1e4):
            for shift in (0, 1):
                belief = "right" if shift == 0 else "wrong"
                yield f"{belief} by {size:g}", _at(loss, LOGITS, places + shift, "add", size)
        yield "a class at -inf", _at(loss, LOGITS, places + 2, "set", -np.inf)
    if "cosines" in loss.differentiable:
        for cosine in (0.9999, -0.9999):
            yield f"a cosine of {cosine:g}", _at(loss, {"cosines"}, places, "set", cosine)
    if "embeddings" in loss.differentiable:
        equal = {"embeddings": np.ones_like(loss.arguments["embeddings"])}
        yield "equal embeddings", loss.arguments | equal


def _classes_of_labels(arguments: dict[str, Any]) -> Any:
    """Returns each example's class; class 0 of elements, whose labels are of every kind."""
    labels = arguments.get("labels", arguments.get("actions"))
    shapes = [a.shape[:-1] for n, a in arguments.items() if n in LOGITS and hasattr(a, "shape")]
    of_classes = labels is not None and labels.dtype == np.int32 and labels.shape in shapes
    return np.asarray(labels) if of_classes else np.int32(0)


def _at(loss: Workload, names: Any, places: Any, method: str, value: float) -> dict[str, Any]:
    """Returns the arguments with the arrays so named changed at each example's place."""

    def changed(array: Any) -> Any:
        array = np.asarray(array)
        index = np.broadcast_to(places % array.shape[-1], array.shape[:-1])[..., None]
        here = np.arange(array.shape[-1]) == index
        return np.where(here, value + (array if method == "add" else 0.0), array).astype("f")

    chosen_names = [name for name in loss.differentiable if name in names]
    return loss.arguments | {n: jax.tree.map(changed, loss.arguments[n]) for n in chosen_names}


def _line(name: str, figures: dict[str, Any]) -> str:
    if "accuracy" not in figures:
        return f"  {name:<44}autodiff fails"
    errors = figures["accuracy"].items()
    situation, worst = max(errors, key=lambda item: _as_number(item[1]["without"]))
    memory = f"{figures['memory']:.1f} -> {figures['memory_without']:.1f}"
    told = f"{worst['with']:.0e} -> {worst['without']:.0e} ({situation})"
    return f"  {name:<44}{figures['time_without']:>6.2f}x{memory:>14}  {told}"


def _as_number(error: float) -> float:
    return math.inf if math.isnan(error) else error


def rule_notes(path: Path = RESULTS) -> dict[str, str]:
    """Returns in a few words what the rules buy each loss, from the committed figures."""
    if not path.exists():
        return {}
    figures = json.loads(path.read_text().splitlines()[-1])["figures"]
    return {name: _note(of_loss) for name, of_loss in figures.items()}


def _note(figures: dict[str, Any]) -> str:
    if "accuracy" not in figures:
        return "differentiable at all: autodiff cannot follow its loop"
    parts = []
    if figures["time_without"] >= 1.2:
        parts.append(f"{figures['time_without']:.1f}x faster")
    if figures["time_without"] <= 0.8:
        parts.append(f"{1.0 / figures['time_without']:.1f}x slower")
    kept, held = figures["memory"], figures["memory_without"]
    if held - kept >= 0.5:
        parts.append(
            f"{held / kept:.1f}x less memory" if kept >= 0.5 else f"{held:.0f} arrays less memory"
        )
    errors = figures["accuracy"]
    rescued = [
        s for s, e in errors.items() if math.isnan(e["without"]) and not math.isnan(e["with"])
    ]
    if rescued:
        parts.append(f"finite at {', '.join(rescued)}")
    gained = {s: e for s, e in errors.items() if e["without"] > max(1e-3, 10 * e["with"])}
    if gained:
        situation, error = max(gained.items(), key=lambda item: item[1]["without"])
        parts.append(f"exact to {error['with']:.0e} ({situation}) where autodiff is "
                     f"{error['without']:.0%} off")  # fmt: skip
    return "; ".join(parts) or "level with autodiff"
