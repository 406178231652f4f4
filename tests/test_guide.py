"""The guide's text and pictures are current, and its numbers are NumPy's own."""

import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from experiments.guide import __main__ as guide
from experiments.guide import pictures
from experiments.guide.mistakes import Mistake, mistakes
from experiments.guide.template import render
from xent_jax import losses

TEXT = guide.GUIDE.read_text()
STORED = json.loads(guide.CURVES.read_text())

P, Q, Z = np.array([0.5, 0.25, 0.25]), np.array([0.8, 0.1, 0.1]), np.array([2.0, 1.0, 0.1])
SOFTMAX = np.exp(Z) / np.exp(Z).sum()
SMOOTHED = np.array([0.91] + 9 * [0.01])

# The right numbers of the table of wrong ones, by the definitions.
RIGHT = {
    "another base": -np.log(0.8),
    "negative": -np.log(0.1),
    "rounded": SOFTMAX[0],
    "plus one": -1 / 0.8,
    "mean over classes": -np.sum([1 * np.log(0.8), 0 * np.log(0.2)]),
    "added": np.log1p(np.exp(30.0)),
    "clipped": 1 / (1 + np.exp(30.0)) - 1,
}


def sigmoid(z: float) -> float:
    return float(1 / (1 + np.exp(-z)))


def two_layers(product: float) -> float:
    return float(np.log1p(np.exp(-product)))


# What the text says, and the number that it should say there.
SAYS = {
    "{:.4f} bits, ": -np.sum(P * np.log2(P)),
    " bits, {:.4f} nats": -np.sum(P * np.log(P)),
    "as uncertain as {:.4f} equal outcomes": np.exp(-np.sum(P * np.log(P))),
    "cross_entropy    {:.4f} bits": -np.sum(P * np.log2(Q)),
    "relative_entropy {:.4f} bits": np.sum(P * np.log2(P / Q)),
    "0.6841 {:.4f}": -(3 * np.log(0.6) + np.log(0.3)) / 4,
    "the loss is {:.4f} and the derivative": -np.log(0.3),
    "$`{:.4f}`$: raising": -1 / 0.3,
    "```text\n{:.4f}\n```": 0.3 - 1.0,
    "{:.4f} [-0.341   0.2424  0.0986]": -np.log(SOFTMAX[0]),
    "in bits it is {:.4f}": -np.log2(0.8),
    "the loss is {:.4f} by the rounded number": -np.log(0.7),
    "caps the loss at\n{:.2f}": -np.log(1e-10),
    "clipping caps it at\n{:.2f}": -np.log(1e-7),
    "H(p, q) = {:.4f}": -np.sum(P * np.log(Q)),
    "H(q, p) = {:.4f}": -np.sum(Q * np.log(P)),
    "D(p‖q) = {:.4f}": np.sum(P * np.log(P / Q)),
    "D(q‖p) = {:.4f}": np.sum(Q * np.log(Q / P)),
    "here {:.4f} either way": sum(
        0.5 * np.sum(x * np.log(x / (0.5 * (P + Q)))) for x in (P, Q)
    ),
    "for this $`q`$\n{:.4f}.": -np.log(0.1),
    "{:.4f}\n0.6931\n": two_layers(1.0),
    "0.3133\n{:.4f}\n0.3133": two_layers(0.0),
    "accuracy 1.00, cross-entropy {:.4f}": -np.log(0.6),
    "accuracy 0.75, cross-entropy {:.4f}": -(3 * np.log(0.99) + np.log(0.4)) / 4,
    "cross-entropy pulls with {:.4f}": 1 - sigmoid(-6.0),
    "squared error with\n{:.4f}": 2 * (1 - sigmoid(-6.0)) ** 2 * sigmoid(-6.0),
    "\\ln (0.91 / 0.01) = {:.4f}": np.log(91),
    "the target's entropy, {:.4f}": -np.sum(SMOOTHED * np.log(SMOOTHED)),
    "it is {:.0f} times smaller": 1 / 0.1**2,
    "it is still {:.0f} % of it": 100 * 0.9**2,
    "\\tfrac12 \\ln 10 = {:.2f}": np.log(10) / 2,
    "0.0012] {:.4f}": -0.5 * 2 * (3 - np.log(2 * np.exp(3) + np.exp(-3))),
    "0.0474] {:.4f}": 3 * np.log1p(np.exp(-3.0)),
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Any:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return guide.compute()


@pytest.mark.slow  # The numbers of its pictures are checked below.
def test_text_is_current(data: Any) -> None:
    assert guide.text(data) == TEXT, "run `make docs`"


@pytest.mark.parametrize("name", guide.studies.STUDIES)
def test_numbers_of_pictures_are_current(data: Any, name: str) -> None:
    # Of the networks' accuracies, which move in steps, a few examples may fall otherwise.
    atol = 0.01 if name == "noise" else 2e-4
    now, then = json.loads(guide.stored({name: data[name]}))[name], STORED[name]
    assert jax.tree.structure(now) == jax.tree.structure(then), "run `make docs`"
    for x, y in zip(jax.tree.leaves(now), jax.tree.leaves(then), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=atol, err_msg="run `make docs`")


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_show_the_stored_numbers(name: str, tmp_path: Any) -> None:
    stored = guide.PICTURES / f"{name}.svg"
    assert f"](cross_entropy/{name}.svg)" in TEXT
    pictures.draw(name, guide.loaded(STORED[name]), tmp_path / "now.svg")
    now, then = (ElementTree.parse(path).getroot() for path in (tmp_path / "now.svg", stored))
    assert _version(now) != _version(then) or _shapes(now) == _shapes(then), "run `make docs`"


def test_every_picture_belongs_to_the_guide() -> None:
    files = {path.stem for path in guide.PICTURES.glob("*.svg")}
    assert files == set(pictures.PICTURES) == set(STORED) == set(guide.studies.STUDIES)


@pytest.mark.parametrize("says", SAYS)
def test_numbers_in_the_text_are_true(says: str) -> None:
    assert says.format(SAYS[says]) in TEXT


@pytest.mark.parametrize(("name", "mistake"), mistakes().items())
def test_wrong_numbers_are_wrong(name: str, mistake: Mistake) -> None:
    right = float(mistake.right())
    np.testing.assert_allclose(right, RIGHT[name], rtol=1e-5)
    assert abs(mistake.wrong - right) > 0.04
    digits = re.findall(r"[−\d.]*\d", mistake.claim.rpartition("`")[2] or mistake.claim)
    assert float(digits[-1].replace("−", "-")) == mistake.wrong
    assert mistake.row in TEXT


def test_wrong_formulas_give_the_wrong_numbers() -> None:
    y, q, p = np.array([1.0, 0.0]), np.array([0.8, 0.2]), np.exp(-30.0) / (1 + np.exp(-30.0))
    table = mistakes()
    assert table["plus one"].wrong == pytest.approx(-1 / 0.8 + 1)
    assert table["mean over classes"].wrong == pytest.approx(-np.mean(y * np.log(q)), abs=5e-5)
    assert table["added"].wrong == pytest.approx(-np.log(p + 1e-10), abs=5e-3)
    clipped = jax.grad(lambda z: -jnp.log(jnp.clip(jax.nn.softmax(z)[0], 1e-7, 1.0)))
    assert clipped(jnp.array([-30.0, 0.0]))[0] == table["clipped"].wrong
    # The +1 is the generalized divergence's, and a softmax takes no notice of it.
    divergence = jax.grad(lambda q: losses.generalized_kl_divergence(jnp.log(q), jnp.asarray(y)))
    np.testing.assert_allclose(divergence(jnp.asarray(q)), -y / q + 1, rtol=1e-5)
    _, pull = jax.vjp(jax.nn.softmax, jnp.log(q))
    np.testing.assert_allclose(*(pull(jnp.asarray(g))[0] for g in (-y / q, 1 - y / q)), atol=1e-6)


def test_boundaries_are_those_of_theory(data: Any) -> None:
    found, ratio = data["imbalance"], data["imbalance"]["ratio"]
    np.testing.assert_allclose(found["boundary"]["plain"][:7], np.log(ratio[:7]) / 2, atol=0.03)
    np.testing.assert_allclose(found["boundary"]["balanced"], 0, atol=0.06)
    line = found["boundary"]["plain"]
    np.testing.assert_allclose(found["recall"]["plain"]["rare"], scipy.stats.norm.sf(line, 1))
    np.testing.assert_allclose(found["recall"]["plain"]["frequent"], scipy.stats.norm.cdf(line, -1))


def test_fits_are_minima(data: Any) -> None:
    with jax.enable_x64(True):
        features, labels = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3

        def objective(weights: Any) -> Any:
            loss = losses.softmax_cross_entropy_with_integer_labels(features @ weights, labels)
            return loss.mean() + 0.01 * (weights**2).sum()

        @jax.jit
        def slope_at_minimum(start: Any) -> Any:
            return jax.grad(objective)(guide.studies.newton(objective, start))

        assert abs(np.asarray(slope_at_minimum(np.zeros((2, 3))))).max() < 1e-12
    regression = data["regression"]
    assert abs(regression["mean"] - regression["squared_error"]).max() < 0.1
    np.testing.assert_allclose(regression["density"].sum(axis=1), 1.0)


def test_what_the_text_says_of_experiments_is_so(data: Any) -> None:
    plain, generalized = (data["noise"][name] for name in ("cross_entropy", "generalized"))
    assert plain["memorised"][-1] > 0.8 > 0.3 > generalized["memorised"][-1]
    assert generalized["test_accuracy"][-1] > plain["test_accuracy"][-1] + 0.2
    ends, middle = plain["test_accuracy"], data["few_examples"]["accuracy"]["round"]
    assert ends.max() > ends[-1] + 0.2
    assert np.all(middle["prototypes"][1:5] > middle["linear"][1:5] + 0.003)
    assert abs(middle["prototypes"][-1] - middle["linear"][-1]) < 0.005
    few = data["few_examples"]["accuracy"]["elongated"]
    assert few["linear"][-1] > few["prototypes"][-1] + 0.02
    pull, p = data["noise"]["pull"], data["noise"]["p"][1:-1]
    np.testing.assert_allclose(pull["0.7"][1:-1], p**0.7 * (1 - p), rtol=1e-6)


def test_links_lead_somewhere() -> None:
    paths = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert all((guide.DOCS / path).exists() for path in paths)


def test_functions_named_exist() -> None:
    named = re.findall(
        r"`([a-z]+_[a-z_0-9]+)`", re.sub(r"```.*?```|\$`.*?`\$", "", TEXT, flags=re.DOTALL)
    )
    assert len(named) > 20
    assert not set(named) - set(losses.__all__) - {"xent_jax"}


def test_blocks_run_in_order_and_expressions_are_filled() -> None:
    template = (
        "```python\nx = 2\nprint(x)\n```\n{{x}} and {{x / 3:.2f}}\n```python\nx = 5\n```\n{{x}}"
    )
    filled = (
        "```python\nx = 2\nprint(x)\n```\n\n```text\n2\n```\n2 and 0.67\n```python\nx = 5\n```\n5"
    )
    assert render(template, {}) == filled


def _version(root: ElementTree.Element) -> str:
    return next(e.text or "" for e in root.iter() if (e.text or "").startswith("Matplotlib"))


def _shapes(root: ElementTree.Element) -> list[tuple[str, dict[str, str]]]:
    return [(element.tag, dict(element.attrib)) for element in root.iter()]
