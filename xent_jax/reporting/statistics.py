"""What seeds and conditions say of methods: means with their intervals, tests and ranks.

Of n seeds, the runs of two methods with the same seed pair up. The test is Student's paired
t-test, two-sided. Wilcoxon's signed-rank test, which assumes less, cannot find anything here: of
five pairs its least two-sided p-value is 2 / 2^5 = 0.0625, of three 0.25.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from xent_jax.typing import Float

LEVEL = 0.05
"""The chance of an error that every test here admits, and what intervals leave out."""

Seeds = Mapping[int, float]
"""A method's value by the seed of the run it comes from."""


class Summary(NamedTuple):
    """The mean over seeds, and how well it is known; None where one seed cannot tell."""

    mean: float
    sd: float | None  # with n - 1
    n: int
    low: float | None  # of the interval that holds the mean of all seeds in 95 % of studies
    high: float | None


class Comparison(NamedTuple):
    """The methods of one column against the best of them."""

    best: frozenset[str]  # of the best mean: one method, or several that are equal
    p_values: dict[str, float]  # Holm-corrected; of the others that could be tested
    not_worse: frozenset[str]  # the best, and those that are not significantly worse


class Friedman(NamedTuple):
    """Whether any method ranks better than another."""

    statistic: float
    p_value: float


def summarise(values: Collection[float]) -> Summary:
    """Returns mean, standard deviation s and the interval mean +- t(0.975, n - 1) s / sqrt(n)."""
    array, n = np.asarray(list(values), float), len(values)
    mean = float(array.mean())
    if n < 2:
        return Summary(mean, None, n, None, None)
    # The mean of equal values may differ from them in its last bit, and would seem to deviate.
    sd = float(array.std(ddof=1)) if np.ptp(array) > 0 else 0.0
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(mean, sd, n, mean - half, mean + half)


def paired_p_value(a: Seeds, b: Seeds) -> float | None:
    """Returns the two-sided p-value of the paired t-test over the seeds that both have.

    With the differences d of n pairs, t = mean(d) / (sd(d) / sqrt(n)) on n - 1 degrees of freedom.
    Where all differences are equal, as of accuracies that are whole counts, t says nothing: it is
    then 1 if they are 0, else the sign test's 2 ** (1 - n). None of fewer than two pairs.
    """
    difference = np.asarray([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
    n = len(difference)
    if n < 2:
        return None
    if np.ptp(difference) == 0:
        return 1.0 if difference[0] == 0 else 2.0 ** (1 - n)
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(n))
    return float(2 * stats.t.sf(abs(t), n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values corrected for how many they are, in their order.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j over j <= i, at most 1. Taking as
    significant those below a level, one errs anywhere with at most that chance.

    Reference: Holm, 1979, "A simple sequentially rejective multiple test procedure".
    """
    p, m = np.asarray(p_values, float), len(p_values)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(m)
    corrected[order] = np.minimum(np.maximum.accumulate((m - np.arange(m)) * p[order]), 1.0)
    return corrected.tolist()


def compare(column: Mapping[str, Seeds], *, lower_is_better: bool = False) -> Comparison:
    """Compares each method with the one of the best mean, Holm-corrected over the methods.

    What fewer than two common seeds can tell is not tested, and not counted as equal either: with
    one seed only the best is `not_worse`.

    Args:
      column: the values of each method by seed; a method without any is left out.
      lower_is_better: whether the least mean is the best, as of a loss.
    """
    means = {name: float(np.mean(list(seeds.values()))) for name, seeds in column.items() if seeds}
    if not means:
        return Comparison(frozenset(), {}, frozenset())
    top = (min if lower_is_better else max)(means.values())
    best = [name for name, mean in means.items() if mean == top]
    raw = {name: paired_p_value(column[name], column[best[0]]) for name in means.keys() - best}
    tested = {name: p for name in means if (p := raw.get(name)) is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    alike = {name for name, p in corrected.items() if p > LEVEL}
    return Comparison(frozenset(best), corrected, frozenset(alike.union(best)))


def ranks(
    values: Float[np.ndarray, "conditions methods"],
) -> Float[np.ndarray, "conditions methods"]:
    """Returns each method's rank in each condition: 1 is the greatest; equals share their mean."""
    return stats.rankdata(-values, axis=1)


def friedman(ranked: Float[np.ndarray, "conditions methods"]) -> Friedman | None:
    """Tests whether k methods rank alike over N conditions; None unless there are two of both.

    With the mean ranks R_j, chi^2 = (k - 1) N^2 sum_j (R_j - (k + 1) / 2)^2 / sum_ij (r_ij - (k +
    1) / 2)^2 on k - 1 degrees of freedom, which without ties is 12 N / (k (k + 1)) (sum_j R_j^2 -
    k (k + 1)^2 / 4). It is an approximation, rough for fewer than ten conditions, and it takes
    conditions for independent, which several noise rates of one data set are not quite.

    Reference: Friedman, 1937, "The use of ranks to avoid the assumption of normality implicit in
    the analysis of variance"; Demsar, 2006, "Statistical comparisons of classifiers over multiple
    data sets".
    """
    n, k = ranked.shape
    if n < 2 or k < 2:
        return None
    centred = ranked - (k + 1) / 2
    spread = float(np.sum(centred**2))
    if spread == 0:  # all are equal everywhere
        return Friedman(0.0, 1.0)
    statistic = (k - 1) * float(np.sum(centred.sum(axis=0) ** 2)) / spread
    return Friedman(statistic, float(stats.chi2.sf(statistic, k - 1)))


def critical_difference(methods: int, conditions: int) -> float:
    """Returns by how much two mean ranks must differ to differ significantly (Nemenyi).

    CD = q sqrt(k (k + 1) / (6 N)) with q the studentized range of k groups and infinitely many
    degrees of freedom, divided by sqrt(2).

    Reference: Demsar, 2006, "Statistical comparisons of classifiers over multiple data sets".
    """
    q = float(stats.studentized_range.ppf(1 - LEVEL, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * conditions))
