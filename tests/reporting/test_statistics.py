"""Tests and ranks are those of published examples and of independent implementations."""

import numpy as np
import pytest
from scipy import stats

from xent_jax.reporting import statistics

# Demsar, 2006, table 6: the ranks of C4.5, with pruning by m, by cf, by both, on 14 data sets.
DEMSAR = np.asarray(
    [
        [4, 3, 2, 1],
        [1, 2, 3, 4],
        [4, 1, 2, 3],
        [4, 1, 3, 2],
        [4, 2, 3, 1],
        [1, 2.5, 4, 2.5],
        [3, 2, 4, 1],
        [2.5, 2.5, 4, 1],
        [4, 3, 2, 1],
        [2.5, 2.5, 2.5, 2.5],
        [4, 2.5, 1, 2.5],
        [3, 2, 4, 1],
        [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)
# Demsar, 2006, table 5(a), of two to ten classifiers.
NEMENYI_Q = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
# Student's sleep data of 1908: hours gained by ten patients with each of two drugs.
FIRST_DRUG = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SECOND_DRUG = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def seeds(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_interval_is_students():
    summary = statistics.summarise(SECOND_DRUG)
    assert (summary.n, round(summary.mean, 2), round(summary.sd, 3)) == (10, 2.33, 2.002)
    low, high = stats.t.interval(0.95, 9, loc=summary.mean, scale=stats.sem(SECOND_DRUG))
    np.testing.assert_allclose((summary.low, summary.high), (low, high), rtol=1e-12)
    # t(0.975, 2) = 4.303 in every table
    assert statistics.summarise([1.0, 2.0, 3.0]).high == pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3)


def test_one_seed_has_no_deviation_and_equal_ones_have_none():
    assert statistics.summarise([0.9]) == (0.9, None, 1, None, None)
    # The mean of three times 0.1 is not 0.1.
    mean, sd, n, low, high = statistics.summarise([0.1] * 3)
    assert (sd, n) == (0.0, 3)
    assert low == mean == high == pytest.approx(0.1)


def test_the_paired_test_gives_students_own_result():
    p = statistics.paired_p_value(seeds(FIRST_DRUG), seeds(SECOND_DRUG))
    assert p == pytest.approx(0.002833, abs=1e-6)  # as R's documentation prints it
    assert p == pytest.approx(stats.ttest_rel(FIRST_DRUG, SECOND_DRUG).pvalue, rel=1e-10)


def test_pairs_are_made_by_seed_and_lonely_seeds_left_out():
    a = {3: 0.5, 1: 0.7, 2: 0.9, 9: 0.0}
    b = {1: 0.6, 2: 0.7, 3: 0.45, 7: 1.0}
    expected = stats.ttest_rel([0.7, 0.9, 0.5], [0.6, 0.7, 0.45]).pvalue
    assert statistics.paired_p_value(a, b) == pytest.approx(expected, rel=1e-10)
    assert statistics.paired_p_value({1: 0.5, 2: 0.5}, {2: 0.4, 3: 0.4}) is None


def test_equal_differences_tell_no_more_than_their_sign():
    a = seeds([0.5, 0.75, 0.25])
    assert statistics.paired_p_value(a, a) == 1.0
    assert statistics.paired_p_value(a, {seed: x + 0.125 for seed, x in a.items()}) == 0.25


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        # as R's p.adjust(p, "holm") gives them
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.05, 0.01, 0.02], [0.05, 0.03, 0.04]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holms_correction(p_values, corrected):
    np.testing.assert_allclose(statistics.holm(p_values), corrected, rtol=1e-12)


def test_holm_rejects_what_his_procedure_rejects_step_by_step():
    random = np.random.default_rng(0)
    for _ in range(50):
        p = random.uniform(0, 0.1, random.integers(1, 8))
        rejected = set()
        for step, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (len(p) - step):
                break
            rejected.add(int(i))
        assert {i for i, q in enumerate(statistics.holm(list(p))) if q <= 0.05} == rejected


def test_the_best_and_those_that_are_not_significantly_worse():
    column = {
        "worse": seeds([0.80, 0.81, 0.79, 0.80]),
        "best": seeds([0.90, 0.92, 0.91, 0.93]),
        "alike": seeds([0.91, 0.90, 0.92, 0.91]),
        "nothing": {},
    }
    found = statistics.compare(column)
    assert found.best == {"best"}
    assert found.not_worse == {"best", "alike"}
    raw = [
        stats.ttest_rel(list(column["best"].values()), list(column[name].values())).pvalue
        for name in ("worse", "alike")
    ]
    assert raw[0] < raw[1]
    # Holm doubles the smaller of two, and leaves the greater as it is.
    assert found.p_values == pytest.approx({"worse": 2 * raw[0], "alike": raw[1]}, rel=1e-9)
    assert statistics.compare(column, lower_is_better=True).not_worse == {"worse"}


def test_holms_correction_decides_what_is_bold():
    difference = np.asarray([0.005, 0.02, 0.02, 0.035])
    p = stats.ttest_1samp(difference, 0).pvalue
    assert 0.025 < p < 0.05  # significant alone, and not among two
    best = np.asarray([0.9, 0.8, 0.85, 0.95])
    column = {"best": seeds(best), "a": seeds(best - difference)}
    assert statistics.compare(column).not_worse == {"best"}
    column["b"] = seeds(best - 1.5 * difference)
    assert statistics.compare(column).not_worse == {"best", "a", "b"}


def test_one_seed_leaves_only_the_best():
    column = {"a": {0: 0.5}, "b": {0: 0.9}, "c": {0: 0.9}, "d": {0: 0.899}}
    assert statistics.compare(column) == ({"b", "c"}, {}, {"b", "c"})
    assert statistics.compare({"a": {}}) == (frozenset(), {}, frozenset())


def test_equals_share_the_mean_of_their_ranks():
    values = np.asarray([[0.9, 0.7, 0.9, 0.8], [0.1, 0.1, 0.1, 0.1]])
    np.testing.assert_array_equal(statistics.ranks(values), [[1.5, 4, 1.5, 3], [2.5] * 4])


def test_friedmans_test_gives_demsars_worked_example():
    ranked = statistics.ranks(-DEMSAR)
    np.testing.assert_array_equal(ranked, DEMSAR)
    np.testing.assert_allclose(ranked.mean(axis=0), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    statistic, p_value = statistics.friedman(ranked)
    # He leaves out the correction for ties: three pairs and once all four.
    ties = 1 - (3 * (2**3 - 2) + (4**3 - 4)) / (14 * 4 * (4**2 - 1))
    assert statistic * ties == pytest.approx(9.28, abs=5e-3)
    theirs = stats.friedmanchisquare(*-DEMSAR.T)
    assert (statistic, p_value) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-12)


def test_friedmans_test_where_there_is_nothing_to_tell():
    assert statistics.friedman(np.full((3, 4), 2.5)) == (0.0, 1.0)
    assert statistics.friedman(np.asarray([[1.0, 2.0]])) is None
    assert statistics.friedman(np.ones((3, 1))) is None


def test_nemenyis_difference_is_demsars():
    for k, q in enumerate(NEMENYI_Q, start=2):
        difference = statistics.critical_difference(k, 14)
        # His table of q is cut or rounded in its third digit.
        assert difference == pytest.approx(q * (k * (k + 1) / (6 * 14)) ** 0.5, abs=1e-3)
    assert statistics.critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
