"""What a number becomes as a distribution, and back: mass, mean, and values far outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xent_jax as xent

EDGES = np.linspace(-10.0, 10.0, 51, dtype=np.float32)
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])
UNEVEN = np.float32(np.sinh(np.linspace(-3.0, 3.0, 21)))
WIDTH = 0.4

hl_gauss_targets = jax.jit(lambda values: xent.hl_gauss_targets(values, EDGES))
two_hot_targets = jax.jit(lambda values: xent.two_hot_targets(values, UNEVEN))
project = jax.jit(lambda p, x: xent.categorical_projection(p, x, UNEVEN))


@given(hnp.arrays(np.float32, 8, elements=st.floats(-9, 9, width=32)))
def test_the_mean_of_hl_gauss_decodes_its_target(values):
    targets = np.asarray(hl_gauss_targets(values), np.float64)
    np.testing.assert_allclose(targets.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(targets @ CENTRES, values, atol=0.01 * WIDTH)
    # Three quarters of a bin reach about six bins.
    assert np.all((targets > 1e-3).sum(-1) <= 7)


def test_hl_gauss_of_values_far_outside():
    values = np.float32([1e4, -1e4, 11.0, 1e30, np.nan])
    targets = np.asarray(hl_gauss_targets(values))
    np.testing.assert_allclose(targets[:3].sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(targets[:3].argmax(-1), [49, 0, 49])
    assert np.all(np.isnan(targets[4]))
    logits = np.zeros((5, 50), np.float32)

    @jax.jit
    def loss_and_gradient(logits):
        loss, pullback = jax.vjp(lambda z: xent.hl_gauss(z, values, EDGES), logits)
        return loss, pullback(jnp.ones(5))[0]

    loss, gradient = (np.asarray(x) for x in loss_and_gradient(logits))
    np.testing.assert_allclose(loss[:3], np.log(50), rtol=1e-5)
    assert np.isnan(loss[4])
    assert np.isnan(gradient[4]).all()


@given(hnp.arrays(np.float32, 8, elements=st.floats(-12, 12, width=32)))
def test_two_hot_decodes_exactly(values):
    targets = np.asarray(two_hot_targets(values), np.float64)
    assert np.all((targets > 0).sum(-1) <= 2)
    assert np.all(targets >= 0)
    np.testing.assert_allclose(targets.sum(-1), 1.0, rtol=1e-6)
    inside = np.clip(values, UNEVEN[0], UNEVEN[-1])
    np.testing.assert_allclose(targets @ np.float64(UNEVEN), inside, rtol=1e-5, atol=1e-5)


def test_two_hot_of_the_atoms_themselves():
    np.testing.assert_array_equal(two_hot_targets(UNEVEN), np.eye(21))
    assert np.all(np.isnan(two_hot_targets(np.float32([np.nan]))).any(-1))


@given(
    places=hnp.arrays(np.float32, (4, 7), elements=st.floats(-12, 12, width=32)),
    masses=hnp.arrays(np.float32, (4, 7), elements=st.floats(0, 1, width=32)),
)
def test_the_projection_keeps_mass_always_and_mean_inside(places, masses):
    projected = np.asarray(project(masses, places), np.float64)
    assert np.all(projected >= 0)
    np.testing.assert_allclose(projected.sum(-1), masses.sum(-1), rtol=1e-5, atol=1e-6)
    inside = np.clip(places, UNEVEN[0], UNEVEN[-1])
    mean = (np.float64(masses) * inside).sum(-1)
    np.testing.assert_allclose(projected @ np.float64(UNEVEN), mean, rtol=1e-4, atol=1e-4)


def test_the_loss_is_least_where_the_prediction_is_the_target():
    values = np.float32([-3.0, 0.123, 7.7])
    for loss, targets, points, decoded in (
        (xent.hl_gauss, xent.hl_gauss_targets, EDGES, CENTRES),
        (xent.two_hot, xent.two_hot_targets, UNEVEN, UNEVEN),
    ):

        @jax.jit
        def at_the_target(values, loss=loss, targets=targets, points=points, decoded=decoded):
            logits = jnp.log(targets(values, points))  # -inf where there is no mass
            gradient = jax.grad(lambda z: loss(z, values, points).sum())(logits)
            return gradient, xent.expected_value(logits, decoded)

        gradient, mean = at_the_target(values)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
        np.testing.assert_allclose(mean, values, atol=0.01)


def test_what_does_not_fit_is_told():
    logits, values = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="bin_edges must hold 4 numbers"):
        xent.hl_gauss(logits, values, np.linspace(0, 1, 3))
    with pytest.raises(ValueError, match="atoms must rise"):
        xent.two_hot(logits, values, np.float32([0, 2, 1]))
    with pytest.raises(ValueError, match="values must have the logits' shape"):
        xent.two_hot(logits, np.zeros(3, np.float32), np.float32([0, 1, 2]))
    with pytest.raises(TypeError):
        xent.two_hot(logits, np.zeros(2, np.int32), np.float32([0, 1, 2]))
    with pytest.raises(ValueError, match="one place for each"):
        xent.categorical_projection(logits, logits[:1], np.float32([0, 1]))
