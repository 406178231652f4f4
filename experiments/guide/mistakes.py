"""What is in circulation about cross-entropy and wrong, beside what is computed."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import xent_jax as xent
from xent_jax.typing import Array

_FAR = (-30.0, 0.0)  # the label's logit, and another far above it


class Mistake(NamedTuple):
    """A row of the guide's table.

    Attributes:
      question: what is computed.
      claim: what is in circulation, as it is written there.
      wrong: the number that it is, or that it leads to.
      right: computes the true one.
      why: what is wrong with it.
    """

    question: str
    claim: str
    wrong: float
    right: Callable[[], Array]
    why: str

    @property
    def row(self) -> str:
        right = f"{self.right():.4f}".replace("-", "−")
        return f"| {self.question} | {self.claim} | **{right}** | {self.why} |"


def table() -> str:
    """Returns the rows as a Markdown table."""
    head = "| to compute | in circulation | computed | what is wrong |\n|---|---|---|---|"
    return "\n".join([head, *(mistake.row for mistake in mistakes().values())])


def _of_label(q: tuple[float, ...], label: int) -> Array:
    return xent.cross_entropy_from_probabilities(jnp.array(q), jnp.array(label))


def _slope_in_q() -> Array:
    slope = jax.grad(lambda q: xent.cross_entropy(jnp.array([1.0, 0.0]), q))
    return slope(jnp.array([0.8, 0.2]))[0]


def _loss(logits: Array) -> Array:
    return xent.softmax_cross_entropy_with_integer_labels(logits, jnp.array(0))


def mistakes() -> dict[str, Mistake]:
    """Returns the rows, in the guide's order."""
    return {
        "another base": Mistake(
            "loss of $`q = (0.8, 0.2)`$, class 1 is true",
            "0.316",
            0.316,
            lambda: _of_label((0.8, 0.2), 0),
            "It is $`-\\ln 0.8`$: only the true class's term is left. Units do not explain it: in "
            f"bits it is {_of_label((0.8, 0.2), 0) / jnp.log(2.0):.4f}.",
        ),
        "negative": Mistake(
            "loss of $`q = (0.9, 0.1)`$, class 2 is true",
            "−0.306",
            -0.306,
            lambda: _of_label((0.9, 0.1), 1),
            "It is $`-\\ln 0.1`$. A probability is at most 1, so its logarithm is at most 0 and "
            "the loss of a class is never negative.",
        ),
        "rounded": Mistake(
            "softmax of $`z = (2, 1, 0.1)`$, first class",
            "0.7",
            0.7,
            lambda: jax.nn.softmax(jnp.array([2.0, 1.0, 0.1]))[0],
            f"Rounded to a digit, and then computed with: the loss is "
            f"{_of_label((0.7, 0.2, 0.1), 0):.4f} by the rounded number and "
            f"{_loss(jnp.array([2.0, 1.0, 0.1])):.4f} in truth.",
        ),
        "plus one": Mistake(
            "derivative of $`-y \\ln q`$ in $`q`$ at $`y = 1`$, $`q = 0.8`$",
            "$`-y/q + 1`$, so −0.25",
            -0.25,
            _slope_in_q,
            "It is $`-y/q`$. The $`+ 1`$ belongs to the generalized divergence "
            "$`\\sum y \\ln (y/q) - y + q`$. (A softmax behind it hides the error: it takes no "
            "notice of a constant added to all of its gradient.)",
        ),
        "mean over classes": Mistake(
            "loss of $`q = (0.8, 0.2)`$, class 1 is true",
            "`-mean(y * log(q))`, so 0.1116",
            0.1116,
            lambda: _of_label((0.8, 0.2), 0),
            "The sum over the classes is the loss; the mean divides it, and its gradient, by their "
            "number. Means are for examples.",
        ),
        "added": Mistake(
            "loss where the label's logit is 30 below the other",
            "`-log(p + 1e-10)`, so 23.02",
            23.02,
            lambda: _loss(jnp.array(_FAR)),
            "What keeps the logarithm finite also sets its value, as soon as $`p`$ is that small.",
        ),
        "clipped": Mistake(
            "derivative there in the label's logit",
            "`-log(clip(p, 1e-7, 1))`, so 0",
            0.0,
            lambda: jax.grad(_loss)(jnp.array(_FAR))[0],
            "A clipped number is a constant. The worst mistake that the model makes teaches it "
            "nothing.",
        ),
    }
