"""Draws the guide's pictures from the studies' numbers, in the style of the reports."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.guide.studies import SHOWN_SHOTS, Data
from xent_jax.reporting.plots import COLOURS, INK, STYLE

BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
# Fixed names inside the files, and shapes in place of fonts that a reader's machine may lack.
_STYLE: dict[Any, Any] = STYLE | {"svg.hashsalt": "xent_jax", "svg.fonttype": "path"}
_GREY = "#707070"


def draw(name: str, data: Data, path: Path) -> None:
    """Writes the picture of that name."""
    with matplotlib.rc_context(_STYLE):
        PICTURES[name](data).savefig(path, metadata={"Date": None})


def _panels(count: int, height: float = 3.5, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10, height))
    return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def _lines(ax: Axes, x: Any, curves: dict[str, Any], colours: tuple[str, ...] = COLOURS) -> None:
    for (label, y), colour in zip(curves.items(), colours, strict=False):
        ax.plot(x, y, color=colour, linestyle="-", label=label)


def _note(ax: Axes, text: str, at: tuple[float, float], **options: Any) -> None:
    """Writes beside a curve, in data coordinates."""
    ax.text(*at, text, **({"color": INK, "fontsize": 9.5} | options))


def _surprise(data: Data) -> Figure:
    figure, (left, right) = _panels(2)
    _lines(left, data["q"], {"": data["surprise"]})
    left.set(title="surprise of an outcome", xlabel="its probability q", ylabel="bits", ylim=(0, 8))
    for q, bits in ((0.5, 1), (0.25, 2), (0.125, 3)):
        left.plot([q], [bits], "o", color=BLUE)
        _note(left, f"q = 1/{round(1 / q)}: {bits} bit{'s' * (bits > 1)}", (q + 0.03, bits + 0.12))
    _lines(right, data["heads"], {"": data["entropy"]}, (ORANGE,))
    right.set(title="entropy of a coin", xlabel="probability of heads", ylabel="bits", ylim=(0, 1))
    return figure


def _divergence(data: Data) -> Figure:
    figure, (left, right) = _panels(2)
    q, entropy, cross_entropy = data["q"], data["entropy"], data["cross_entropy"]
    truth = float(data["truth"])
    left.fill_between(q, 0, entropy, color=BLUE, alpha=0.25, linewidth=0)
    left.fill_between(q, entropy, cross_entropy, color=ORANGE, alpha=0.35, linewidth=0)
    left.plot(q, cross_entropy, color=ORANGE)
    _note(left, "H(p)", (0.07, 0.28))
    _note(left, "D(p ‖ q)", (0.07, 0.75))
    _note(left, "H(p, q)", (0.2, 1.3), color=ORANGE, fontweight="bold")
    left.set(
        title=f"cross-entropy = entropy + divergence (p = {truth:g})",
        xlabel="predicted probability q",
        ylabel="nats",
        ylim=(0, 2),
    )
    _lines(right, q, {"H(p, q)": cross_entropy, "H(q, p)": data["reverse"]}, (ORANGE, PINK))
    right.set(title="not symmetric", xlabel="predicted probability q", ylim=(0, 2))
    for ax in (left, right):
        ax.axvline(truth, color=_GREY, linewidth=1, linestyle="--")
        ax.set_xlim(0, 1)
    right.legend(loc="upper center")
    return figure


def _safe_logarithms(data: Data) -> Figure:
    names = {"exact": "from logits", "added": "log(p + 1e-10)", "clipped": "p clipped at 1e-7"}
    return _loss_and_slope(data, names, "logit of the label, less the other's", ends=(0, 42))


def _loss_and_slope(
    data: Data, names: dict[str, str], axis: str, ends: tuple[float, float]
) -> Figure:
    figure, (left, right) = _panels(2)
    _lines(left, data["z"], {label: data[name]["loss"] for name, label in names.items()})
    _lines(right, data["z"], {label: data[name]["slope"] for name, label in names.items()})
    left.set(title="loss", xlabel=axis, ylim=ends)
    right.set(title="gradient", xlabel=axis)
    left.legend()
    return figure


def _squared_error(data: Data) -> Figure:
    figure, (left, middle, right) = _panels(3)
    names = {"cross_entropy": "cross-entropy", "of_probability": "squared error of p"}
    z, learning = data["z"], data["learning"]
    _lines(left, z, {label: data[name]["loss"] for name, label in names.items()})
    _lines(middle, z, {label: data[name]["slope"] for name, label in names.items()})
    steps = np.arange(len(learning["cross_entropy"]))
    _lines(right, steps, {label: learning[name] for name, label in names.items()})
    left.set(title="loss for label 1", xlabel="logit z", ylim=(0, 8))
    middle.set(title="gradient with respect to z", xlabel="logit z")
    _note(middle, "surely wrong", (-7.8, 0.06), fontsize=9)
    _note(middle, "surely right", (3.9, 0.06), fontsize=9)
    middle.set_ylim(-1.05, 0.2)
    right.set(title="p while descending from z = −6", xlabel="step", ylim=(0, 1.02))
    left.legend()
    return figure


def _smoothing_and_focal(data: Data) -> Figure:
    names = {
        "plain": "cross-entropy",
        "smoothed": "label smoothing 0.1",
        "focal": "focal, gamma = 2",
    }
    axis = "logit of the label (the nine others are 0)"
    figure = _loss_and_slope(data, names, axis, ends=(0, 6))
    left, right = figure.axes
    smoothed = data["smoothed"]["loss"]
    lowest = int(np.argmin(smoothed))
    left.plot([data["z"][lowest]], [smoothed[lowest]], "o", color=ORANGE)
    right.axhline(0, color=_GREY, linewidth=1)
    _note(right, "turns back the over-confident", (10, 0.12), color=ORANGE, ha="right")
    return figure


def _imbalance(data: Data) -> Figure:
    figure, (left, right) = _panels(2, width_ratios=(1.25, 1))
    x, shown = np.linspace(-4.5, 4.5, 200), int(np.argmin(np.abs(data["ratio"] - SHOWN_RATIO)))
    share = 1.0 / (1.0 + data["ratio"][shown])
    for mean, weight, colour in ((-1, 1 - share, _GREY), (1, share, ORANGE)):
        density = weight * np.exp(-0.5 * (x - mean) ** 2) / np.sqrt(2 * np.pi)
        left.fill_between(x, density, color=colour, alpha=0.35, linewidth=0)
    _note(left, "frequent", (-1, 0.15), ha="center")
    _note(left, "rare", (1.55, 0.055), color=ORANGE, ha="center")
    for name, text, colour, side in (
        ("plain", "cross-entropy\ndraws the line here", BLUE, "left"),
        ("balanced", "balanced softmax\ndraws it here", GREEN, "right"),
    ):
        line = float(data["boundary"][name][shown])
        left.axvline(line, color=colour, linewidth=2)
        gap = 0.12 if side == "left" else -0.12
        _note(left, text, (line + gap, 0.465), color=colour, va="top", ha=side)
    title = f"{data['ratio'][shown]:.0f} frequent examples to 1 rare one"
    left.set(title=title, xlabel="x", ylabel="density", ylim=(0, 0.48))
    for name, colour in (("plain", BLUE), ("balanced", GREEN)):
        for group, dash in (("rare", "-"), ("frequent", ":")):
            recall = data["recall"][name][group]
            right.plot(data["ratio"], recall, color=colour, linestyle=dash, clip_on=False)
    _note(right, "cross-entropy, rare class", (1.3, 0.23), color=BLUE)
    _note(right, "cross-entropy, frequent class", (950, 0.935), color=BLUE, ha="right")
    _note(right, "balanced softmax, both", (950, 0.74), color=GREEN, ha="right")
    right.set(title="share recognised", xlabel="frequent examples per rare one", xscale="log")
    right.set_ylim(0, 1.02)
    return figure


def _noise(data: Data) -> Figure:
    figure, (left, middle, right) = _panels(3)
    losses = {"cross_entropy": ("cross-entropy", BLUE), "generalized": ("generalized", ORANGE)}
    for name, (label, colour) in losses.items():
        run = data[name]
        left.plot(run["step"], run["test_accuracy"], color=colour, linestyle="-", label=label)
        middle.plot(run["step"], run["memorised"], color=colour, linestyle="-")
    left.set(title="test accuracy", xlabel="step", ylim=(0, 1))
    left.legend(loc="lower right", bbox_to_anchor=(1, 0.08))
    middle.set(title="wrong labels learnt by heart", xlabel="step", ylim=(0, 1))
    names = {"0": "cross-entropy", "0.7": "generalized, q = 0.7", "1": "absolute error, q = 1"}
    for (key, label), colour in zip(names.items(), (BLUE, ORANGE, GREEN), strict=True):
        right.plot(data["p"], data["pull"][key], color=colour, linestyle="-", label=label)
    right.set(title="pull of one example", xlabel="probability p of its label", ylim=(0, 1.02))
    right.legend(loc="upper right", fontsize=9, handlelength=1.2, borderaxespad=0.1)
    return figure


def _few_examples(data: Data) -> Figure:
    figure, (left, middle, right) = _panels(3, width_ratios=(1.15, 1, 1))
    colours = (BLUE, ORANGE, GREEN)
    x, y, margins = data["x"], data["y"], data["margins"]
    for k, colour in enumerate(colours):
        left.contourf(x, y, margins["prototypes"][..., k], (0, 1e9), colors=colour, alpha=0.15)
        left.contour(x, y, margins["linear"][..., k], (0,), colors=INK, linewidths=1.2)
        left.plot(*data["query"][k].T, ".", color=colour, markersize=4, alpha=0.5)
        left.plot(*data["support"][k].T, "o", color=colour, markersize=8, markeredgecolor="white")
        centre = data["support"][k].mean(axis=0)
        left.plot(*centre, "*", color=colour, markersize=16, markeredgecolor="white")
    left.set(title=f"{SHOWN_SHOTS} examples per class", xticks=(), yticks=())
    left.grid(visible=False)
    left.spines[:].set_visible(False)
    for ax, shape in ((middle, "round"), (right, "elongated")):
        accuracy = data["accuracy"][shape]
        _lines(ax, data["shots"], {"prototypes": accuracy["prototypes"]}, (PINK,))
        _lines(ax, data["shots"], {"fitted linear": accuracy["linear"]}, (INK,))
        ax.set(title=f"accuracy, {shape} classes", xlabel="examples per class", xscale="log")
        ax.set_xticks((1, 3, 10, 30, 100), ("1", "3", "10", "30", "100"), minor=False)
        ax.minorticks_off()
        ax.set_ylim(0.65, 0.9)
    middle.legend(loc="lower right")
    return figure


def _regression(data: Data) -> Figure:
    figure, (left, right) = _panels(2, width_ratios=(1, 1.2))
    centres, width = data["centres"], np.diff(data["edges"])[0]
    left.bar(centres, data["hl_gauss"], 0.92 * width, color=BLUE, alpha=0.4, label="HL-Gauss")
    held = data["two_hot"] > 0
    left.vlines(centres[held], 0, data["two_hot"][held], color=ORANGE, linewidth=2.2)
    left.plot(centres[held], data["two_hot"][held], "o", color=ORANGE, label="two-hot")
    left.axvline(data["value"], color=INK, linewidth=1.2, linestyle="--")
    left.set(title="a number as a distribution", xlabel="value", ylabel="probability")
    left.set(xlim=(data["value"] - 0.8, data["value"] + 0.8), ylim=(0, 1))
    left.legend()
    right.pcolormesh(data["x"], centres, data["density"].T, cmap="Blues", vmin=0, vmax=0.7,
                     shading="nearest", rasterized=True)  # fmt: skip
    for sign in (1, -1):
        right.plot(data["x"], sign * data["branch"], color=INK, linewidth=1, linestyle=":")
    right.plot(data["x"], data["squared_error"], color=ORANGE, linestyle="-", label="squared error")
    right.plot(data["x"], data["mean"], color=GREEN, linestyle="--", label="mean of the histogram")
    right.set(title="predicted distribution", xlabel="x", ylabel="value", ylim=(-1.6, 1.6))
    right.grid(visible=False)
    right.legend(loc="upper left")
    return figure


SHOWN_RATIO = 10.0

PICTURES: dict[str, Callable[[Data], Figure]] = {
    "surprise": _surprise,
    "divergence": _divergence,
    "safe_logarithms": _safe_logarithms,
    "squared_error": _squared_error,
    "smoothing_and_focal": _smoothing_and_focal,
    "imbalance": _imbalance,
    "noise": _noise,
    "few_examples": _few_examples,
    "regression": _regression,
}
