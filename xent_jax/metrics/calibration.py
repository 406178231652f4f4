"""Does a confidence of 0.8 come true in 80 % of cases? Calibration errors and temperature scaling.

The binned errors are taken from `CalibrationBins`, which merge over batches with `+`. The adaptive
error and the temperature need all scores at once. Confidence and correctness may be any probability
and its 0/1 outcome: those of the predicted class (top-label calibration, as in most papers), or
those of one class, or of a binary event.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.errors import UserError
from xent_jax.metrics.inputs import at_least_float32, entry_of, flatten, is_positive, mask_of
from xent_jax.metrics.summation import CompensatedSum, merge
from xent_jax.metrics.ties import mean_over_ties
from xent_jax.typing import Array, Bool, Float, Int, Shaped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CalibrationBins:
    """Sums over examples, per confidence bin; a pytree that merges with `+`.

    Bin m of M holds the confidences in ((m-1)/M, m/M]: closed on the right as in Guo et al. (2017),
    and the first bin holds 0 too.

    Attributes:
      count: examples, int32, shape `(bins,)`.
      correct: examples whose prediction came true, int32, shape `(bins,)`.
      confidence: sum of confidences, float32 with compensation, shape `(bins,)`.
    """

    count: Any
    correct: Any
    confidence: CompensatedSum

    @classmethod
    def empty(cls, bins: int = 15) -> "CalibrationBins":
        """The sums over no examples."""
        zeros = jnp.zeros(bins, jnp.int32)
        return cls(zeros, zeros, CompensatedSum.of(jnp.zeros(bins)))

    def __add__(self, other: "CalibrationBins") -> "CalibrationBins":
        return merge(self, other)


def calibration_bins(
    confidence: Float[Array, "*batch"],
    correct: Shaped[Array, "*batch"],
    *,
    where: Bool[Array, "*batch"] | None = None,
    bins: int = 15,
) -> CalibrationBins:
    """Sorts examples into equal-width bins of confidence.

    Args:
      confidence: probabilities in [0, 1]. A NaN makes the errors NaN.
      correct: whether each came true (bool, or 0 and 1).
      where: which examples count; others may hold anything.
      bins: number of bins M.

    Returns:
      The sums to merge with `+` and hand to `expected_calibration_error` and the others.
    """
    p, came_true, keep = _flat(confidence, correct, where)
    edges = np.asarray(np.arange(1, bins) / bins, p.dtype)[None]
    # A confidence on an edge is not above it, so it stays in the lower bin; neither is a NaN.
    bin_of = jnp.sum(p[:, None] > edges, axis=-1, dtype=jnp.int32)
    member = keep[:, None] & (bin_of[:, None] == np.arange(bins, dtype=np.int32)[None])
    return CalibrationBins(
        count=jnp.sum(member, axis=0, dtype=jnp.int32),
        correct=jnp.sum(member & came_true[:, None], axis=0, dtype=jnp.int32),
        confidence=CompensatedSum.of(jnp.sum(jnp.where(member, p[:, None], 0.0), axis=0)),
    )


def _flat(confidence: Array, correct: Array, where: Array | None) -> tuple[jax.Array, ...]:
    """One confidence, outcome and mask per example."""
    if correct.shape != confidence.shape:
        raise UserError(
            f"correct must have the confidences' shape {confidence.shape}, got {correct.shape}"
        )
    keep = mask_of(confidence, where)
    return at_least_float32(confidence).reshape(-1), keep & is_positive(correct), keep


def reliability(bins: CalibrationBins) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reliability diagram: count, accuracy, mean confidence per bin, each of shape `(bins,)`.

    Accuracy and confidence of an empty bin are NaN.
    """
    count = np.asarray(bins.count, np.int64)
    total = np.where(count > 0, count, np.nan)
    return count, np.asarray(bins.correct) / total, bins.confidence.value() / total


def expected_calibration_error(bins: CalibrationBins) -> float:
    """sum_m (n_m / n) |accuracy_m - confidence_m| over equal-width bins, in [0, 1].

    NaN without examples. Source: Naeini et al. (2015); Guo et al. (2017), equation 3, 15 bins.
    """
    count, accuracy, confidence = reliability(bins)
    if not count.any():
        return float("nan")
    filled = count > 0
    gaps = np.abs(accuracy - confidence)[filled]
    return float(np.average(gaps, weights=count[filled]))


def maximum_calibration_error(bins: CalibrationBins) -> float:
    """max_m |accuracy_m - confidence_m| over the bins that hold examples, in [0, 1].

    NaN without examples. Source: Naeini et al. (2015); Guo et al. (2017), equation 5.
    """
    count, accuracy, confidence = reliability(bins)
    if not count.any():
        return float("nan")
    return float(np.max(np.abs(accuracy - confidence)[count > 0]))


def adaptive_calibration_error(
    confidence: Float[Array, "*batch"],
    correct: Shaped[Array, "*batch"],
    *,
    where: Bool[Array, "*batch"] | None = None,
    bins: int = 15,
) -> Float[Array, ""]:
    """The expected calibration error over bins that hold equally many examples.

    With n examples in order of confidence, example r (from 0) falls in bin floor(r M / n), and the
    error is sum_m |sum_{i in m} correct_i - confidence_i| / n. Where a bin ends between equal
    confidences, each of these counts with their common accuracy, so that the order of the
    examples does not matter.

    Args:
      confidence: probabilities in [0, 1]. A NaN makes the error NaN.
      correct: whether each came true (bool, or 0 and 1).
      where: which examples count; others may hold anything.
      bins: number of bins M.

    Returns:
      A scalar in [0, 1]; NaN without examples. Works under jit and vmap.

    Source: Nguyen and O'Connor (2015); top-label form as in Mukhoti et al. (2020). The error of
    Nixon et al. (2019), over all classes of `probabilities` with shape `(n, classes)`, is

        one_hot = labels[:, None] == jnp.arange(classes)
        jax.vmap(adaptive_calibration_error, in_axes=1)(probabilities, one_hot).mean()
    """
    p, came_true, keep = _flat(confidence, correct, where)
    p = jnp.where(keep, p, jnp.inf)  # padding comes last
    order = jnp.argsort(p)
    p, came_true, keep = p[order], came_true[order], keep[order]
    count = jnp.sum(keep, dtype=jnp.int32)
    gap = jnp.where(keep, mean_over_ties(p, came_true) - p, 0.0)
    rank = jnp.arange(keep.size, dtype=jnp.int32)
    bin_of = jnp.where(keep, rank * bins // jnp.maximum(count, 1), 0)
    gaps = jax.ops.segment_sum(gap, bin_of, bins)
    return jnp.sum(jnp.abs(gaps)) / count.astype(gaps.dtype)


def fit_temperature(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    *,
    where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """The temperature T that minimises the mean negative log-likelihood of softmax(logits / T).

    Fit it on held-out examples that are not those of the test, and divide all logits by it: the
    predictions stay, their confidence changes. The objective is convex in b = 1/T, with slope
    mean(E_p[z] - z_y), so its zero is unique; Newton steps in log b, guarded by bisection, find
    it to about 1e-6 (relative, float32).

    Args:
      logits: a class with logit -inf cannot occur and is left out.
      labels: integers in [0, classes).
      where: which examples count; others may hold anything.

    Returns:
      T, a scalar. 0 where every label has its example's largest logit (ever sharper is ever
      better); inf where no T beats the uniform prediction; NaN without examples, for a NaN or +inf
      logit, a label outside the classes or a label with logit -inf. Works under jit and vmap.

    Source: Guo et al. (2017), section 4.2.
    """
    scores, valid_labels, keep = flatten(logits, labels, where)
    gaps = scores - entry_of(scores, valid_labels)
    temperature = jnp.exp(-_minimise_log_inverse(gaps))
    temperature = jnp.where(jnp.all(gaps <= 0), 0.0, temperature)
    uniform_slope, _ = _slope_and_curvature(jnp.zeros((), gaps.dtype), gaps)
    temperature = jnp.where(uniform_slope >= 0, jnp.inf, temperature)
    return jnp.where(jnp.isnan(uniform_slope) | ~jnp.any(keep), jnp.nan, temperature)


def _slope_and_curvature(b: jax.Array, gaps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first two derivatives in b of mean(logsumexp(b gaps)), with gaps = z - z_y."""
    impossible = jnp.isneginf(gaps)
    gaps = jnp.where(impossible, 0.0, gaps)  # 0 * -inf is NaN
    p = jax.nn.softmax(jnp.where(impossible, -jnp.inf, b * gaps), axis=-1)
    expected = jnp.sum(p * gaps, axis=-1, keepdims=True)
    variance = jnp.sum(p * jnp.square(gaps - expected), axis=-1)
    return jnp.mean(expected), jnp.mean(variance)


def _minimise_log_inverse(gaps: jax.Array) -> jax.Array:
    """log b at the minimum, between -60 and 60 (a factor of 1e26 each way)."""

    def unsettled(state):
        _, _, _, step, iteration = state
        # Newton's error after a step of 1e-4 is about its square, below float32's resolution.
        return (jnp.abs(step) > 1e-4) & (iteration < 64)

    def improve(state):
        u, low, high, _, iteration = state
        slope, curvature = _slope_and_curvature(jnp.exp(u), gaps)
        low, high = jnp.where(slope < 0, u, low), jnp.where(slope < 0, high, u)
        newton = u - slope / (curvature * jnp.exp(u))
        inside = (low <= newton) & (newton <= high)  # at the root, rounding puts it on a bound
        proposal = jnp.where(inside, newton, (low + high) / 2)
        return proposal, low, high, proposal - u, iteration + 1

    bounds = (jnp.asarray(value, gaps.dtype) for value in (0, -60, 60, jnp.inf))
    start = (*bounds, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unsettled, improve, start)[0]
