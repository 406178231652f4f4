"""Calibration errors and temperatures against independent float64 references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from xent_jax.errors import UserError
from xent_jax.metrics import (
    CalibrationBins,
    adaptive_calibration_error,
    calibration_bins,
    classification_sums,
    compute,
    expected_calibration_error,
    fit_temperature,
    maximum_calibration_error,
    reliability,
)

bins_of = jax.jit(calibration_bins, static_argnames="bins")
adaptive_error = jax.jit(adaptive_calibration_error, static_argnames="bins")
temperature_of = jax.jit(fit_temperature)


def reference_gaps(confidence, correct, bins):
    """Share of examples and |accuracy - confidence| of each filled bin, example by example."""
    members = [[] for _ in range(bins)]
    for p, right in zip(confidence, correct, strict=True):
        m = next(m for m in range(bins) if p <= np.float32((m + 1) / bins))
        members[m].append((right, p))
    means = [np.mean(np.float64(member), axis=0) for member in members if member]
    shares = [len(member) / len(confidence) for member in members if member]
    return np.array(shares), np.abs([accuracy - p for accuracy, p in means])


@pytest.fixture(scope="module")
def confidences():
    """500 confidences, every bin's edge among them, with padding at the end."""
    rng = np.random.default_rng(0)
    edges = np.float32(np.arange(16) / 15)
    p = np.concatenate([edges.repeat(8), rng.beta(4, 1.5, size=372).astype(np.float32)])
    correct = rng.random(500) < p**2
    where = np.arange(540) < 500
    return np.append(p, np.full(40, np.nan, np.float32)), np.append(correct, [True] * 40), where


def test_binned_errors_agree_with_the_definition(confidences):
    p, correct, where = confidences
    bins = bins_of(p, correct, where=where)
    share, gap = reference_gaps(p[where], correct[where], 15)
    np.testing.assert_allclose(expected_calibration_error(bins), share @ gap, rtol=1e-6)
    np.testing.assert_allclose(maximum_calibration_error(bins), gap.max(), rtol=1e-6)
    halves = [bins_of(p[i::2], correct[i::2], where=where[i::2]) for i in range(2)]
    merged = sum(halves, start=CalibrationBins.empty())
    np.testing.assert_array_equal(merged.count, bins.count)
    np.testing.assert_allclose(expected_calibration_error(merged), share @ gap, rtol=1e-6)


def test_bins_are_closed_on_the_right():
    p = np.array([0, 0.25, np.nextafter(np.float32(0.25), np.float32(1)), 0.5, 1], np.float32)
    count, accuracy, confidence = reliability(bins_of(p, np.array([1, 0, 0, 1, 1]), bins=4))
    np.testing.assert_array_equal(count, [2, 2, 0, 1])
    np.testing.assert_array_equal(accuracy, [0.5, 0.5, np.nan, 1])
    np.testing.assert_allclose(confidence, [0.125, 0.375, np.nan, 1], rtol=1e-6)


def test_worked_example():
    # One bin holds 0.9 (right) and 0.95 (wrong): |0.5 - 0.925|; the other 0.6 (right): |1 - 0.6|.
    p, correct = np.array([0.9, 0.95, 0.6], np.float32), np.array([1, 0, 1])
    bins = bins_of(p, correct, bins=5)
    np.testing.assert_allclose(expected_calibration_error(bins), (2 * 0.425 + 0.4) / 3, rtol=1e-6)
    np.testing.assert_allclose(maximum_calibration_error(bins), 0.425, rtol=1e-6)


def test_classification_sums_bin_the_predictions():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(300, 4)).astype(np.float32) * 2
    labels = rng.integers(4, size=300).astype(np.int32)
    metrics = compute(jax.jit(classification_sums)(logits, labels))
    p = scipy.special.softmax(np.float64(logits), axis=-1)
    share, gap = reference_gaps(p.max(-1), p.argmax(-1) == labels, 15)
    np.testing.assert_allclose(metrics["expected_calibration_error"], share @ gap, rtol=1e-6)
    np.testing.assert_allclose(metrics["maximum_calibration_error"], gap.max(), rtol=1e-6)


def test_adaptive_error_without_ties_is_that_of_equal_shares():
    rng = np.random.default_rng(2)
    p = rng.permutation(np.linspace(0.1, 1, 300, dtype=np.float32))
    correct = rng.random(300) < p**2
    order = np.argsort(p)
    gaps = [abs(correct[share].sum() - np.float64(p[share]).sum()) for share in np.split(order, 15)]
    np.testing.assert_allclose(adaptive_error(p, correct), sum(gaps) / 300, rtol=1e-5)
    padded = np.append(p, [np.nan] * 7), np.append(correct, [True] * 7)
    masked = adaptive_error(np.float32(padded[0]), padded[1], where=np.arange(307) < 300)
    np.testing.assert_allclose(masked, sum(gaps) / 300, rtol=1e-5)


def test_adaptive_error_shares_out_ties_whatever_the_order(confidences):
    p, correct, where = (x.copy() for x in confidences)
    p = np.round(p, 1)
    expected = adaptive_error(p, correct, where=where)
    shuffled = np.random.default_rng(3).permutation(p.size)
    actual = adaptive_error(p[shuffled], correct[shuffled], where=where[shuffled])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    # All confidences equal and half of them right, first: every bin has the overall accuracy.
    alike, right = np.full(20, 0.5, np.float32), np.arange(20) < 10
    np.testing.assert_allclose(adaptive_error(alike, right, bins=4), 0, atol=1e-6)


def test_adaptive_error_over_classes_as_documented():
    rng = np.random.default_rng(4)
    p = scipy.special.softmax(rng.normal(size=(45, 3)), axis=-1).astype(np.float32)
    labels = rng.integers(3, size=45)
    one_hot = labels[:, None] == np.arange(3)
    actual = jax.jit(jax.vmap(adaptive_calibration_error, in_axes=1))(p, one_hot).mean()
    gaps = []
    for k in range(3):
        for share in np.split(np.argsort(p[:, k]), 15):
            gaps.append(abs(one_hot[share, k].mean() - p[share, k].mean(dtype=np.float64)))
    np.testing.assert_allclose(actual, np.mean(gaps), rtol=1e-5)


def test_errors_of_nothing_and_of_nan_are_nan():
    for bins in CalibrationBins.empty(), bins_of(np.float32([np.nan, 1]), np.array([True, True])):
        assert np.isnan(expected_calibration_error(bins))
        assert np.isnan(maximum_calibration_error(bins))
    p, correct = np.float32([0.5, np.nan]), np.array([True, True])
    assert np.isnan(adaptive_error(p, correct))
    assert np.isnan(adaptive_error(p, correct, where=np.zeros(2, bool)))
    assert adaptive_error(p, correct, where=np.array([True, False])) == 0.5


def test_low_precision_confidences_are_summed_in_float32():
    p = jnp.full(3000, 0.75, jnp.bfloat16)
    assert reliability(bins_of(p, np.ones(3000), bins=4))[2][2] == 0.75
    assert adaptive_error(p, np.ones(3000)) == 0.25


def test_shapes_must_agree():
    with pytest.raises((UserError, TypeError)):
        calibration_bins(np.ones(4, np.float32), np.ones(3, bool))


def reference_temperature(logits, labels):
    """The best temperature, found by SciPy in float64 over log b."""
    logits = np.float64(logits)
    index = np.arange(len(labels))

    def nll(u):
        z = logits * np.exp(u)
        return np.mean(scipy.special.logsumexp(z, axis=-1) - z[index, labels])

    best = scipy.optimize.minimize_scalar(nll, bracket=(-2, 1), tol=1e-9)
    return np.exp(-best.x)


@pytest.fixture(scope="module")
def overconfident():
    """Logits three times too large, with 20 rows of padding and an impossible class."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(420, 5)) * 1.5
    logits[::3, 4] = -np.inf
    labels = np.array([rng.choice(5, p=p) for p in scipy.special.softmax(logits, axis=-1)])
    logits = np.float32(3 * logits)
    logits[400:], labels[400:] = np.nan, -1
    return logits, labels.astype(np.int32), np.arange(420) < 400


def test_temperature_is_that_of_scipy(overconfident):
    logits, labels, where = overconfident
    temperature = temperature_of(logits, labels, where=where)
    possible = np.where(np.isneginf(logits), -1e30, logits)[where]
    expected = reference_temperature(possible, labels[where])
    np.testing.assert_allclose(temperature, expected, rtol=1e-5)
    assert 2.5 < temperature < 3.5


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 50, 1e6])
def test_temperature_scales_with_the_logits(overconfident, scale):
    logits, labels, where = overconfident
    expected = scale * temperature_of(logits, labels, where=where)
    actual = temperature_of(logits * np.float32(scale), labels, where=where)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_temperature_under_vmap_and_with_token_shapes(overconfident):
    logits, labels, where = overconfident
    tokens = [x.reshape(20, 21, *x.shape[1:]) for x in overconfident]
    expected = temperature_of(logits, labels, where=where)
    np.testing.assert_allclose(
        temperature_of(tokens[0], tokens[1], where=tokens[2]), expected, rtol=1e-5
    )
    stacked = jnp.stack([logits, logits * 0.2])
    fit = jax.jit(jax.vmap(functools.partial(fit_temperature, labels=labels, where=where)))
    np.testing.assert_allclose(fit(stacked), expected * np.array([1, 0.2]), rtol=1e-5)


def test_temperature_brings_the_calibration_error_down(overconfident):
    logits, labels, where = (x[:400] for x in overconfident)
    before, after = (
        compute(jax.jit(classification_sums)(z, labels, where=where))
        for z in (logits, logits / temperature_of(*overconfident[:2], where=overconfident[2]))
    )
    assert after["accuracy"] == before["accuracy"]
    assert after["nll"] < before["nll"]
    assert after["expected_calibration_error"] < 0.5 * before["expected_calibration_error"]


def test_temperature_at_the_ends():
    eye = 2 * np.eye(3, dtype=np.float32)
    labels = np.arange(3, dtype=np.int32)
    assert temperature_of(eye, labels) == 0, "always right"
    assert temperature_of(eye, np.roll(labels, 1)) == np.inf, "worse than guessing"
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    impossible_label = np.where(eye > 0, -inf, eye)
    for bad in np.where(eye > 0, nan, eye), np.where(eye > 0, inf, eye), impossible_label:
        assert np.isnan(temperature_of(bad, labels))
    for label in -1, 3:
        assert np.isnan(temperature_of(eye, np.array([0, 1, label], np.int32)))
    assert np.isnan(temperature_of(eye, labels, where=np.zeros(3, bool)))


def test_temperature_keeps_float64():
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    logits[np.arange(60), labels] += 1
    with jax.enable_x64(True):
        temperature = temperature_of(logits, labels)
        slope = jax.grad(lambda b: -jax.nn.log_softmax(b * logits)[np.arange(60), labels].mean())(
            1 / temperature
        )
    assert temperature.dtype == np.float64
    assert abs(float(slope)) < 1e-10
