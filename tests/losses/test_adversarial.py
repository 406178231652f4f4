"""What perturbations do to a loss, and what the papers prove of the games."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.row import softmax
from tests.losses.cases.transfer import relative_entropy

KEY = jax.random.key(2)
RNG = np.random.default_rng(4)
WEIGHTS = RNG.normal(size=(6, 3)).astype(np.float32)
INPUTS = RNG.uniform(size=(8, 6)).astype(np.float32)
LABELS = RNG.integers(0, 3, 8).astype(np.int32)


def model(x):
    return jnp.tanh(x) @ jnp.asarray(WEIGHTS, x.dtype)


def loss(x):
    return xent.softmax_cross_entropy_with_integer_labels(model(x), LABELS)


def test_fgsm_is_the_worst_step_in_the_ball_for_a_linear_loss():
    slope = RNG.normal(size=(8, 6)).astype(np.float32)
    moved = xent.fgsm(lambda x: jnp.sum(slope * x, axis=-1), INPUTS, epsilon=0.1)
    gain = (slope * (np.asarray(moved) - INPUTS)).sum(-1)
    np.testing.assert_allclose(gain, 0.1 * np.abs(slope).sum(-1), rtol=1e-4)


def test_attacks_raise_the_loss_within_the_ball_and_the_bounds():
    @jax.jit
    def attacked(x):
        options = {"epsilon": 0.1, "bounds": (0.0, 1.0)}
        return (
            xent.fgsm(loss, x, **options),
            xent.pgd(loss, x, **options, step_size=0.03),
            xent.pgd(loss, x, KEY, **options, step_size=0.03),
        )

    attacks = np.asarray(attacked(INPUTS))
    losses, clean = np.asarray(jax.jit(jax.vmap(loss))(attacks)), loss(INPUTS)
    for moved, of_moved in zip(attacks, losses, strict=True):
        assert np.all(np.abs(moved - INPUTS) <= 0.1 + 1e-6)
        assert np.all((moved >= 0) & (moved <= 1))
        assert np.all(of_moved > clean)
    assert np.sum(losses[1]) >= np.sum(losses[0]) - 1e-5


def test_pgd_starts_anywhere_in_the_ball():
    start = xent.pgd(jnp.sum, np.zeros((2000, 1), np.float32), KEY, epsilon=0.5, steps=0)
    assert np.all(np.abs(start) <= 0.5)
    assert abs(np.mean(start)) < 0.02
    assert abs(np.var(start) - 1 / 12) < 0.005
    np.testing.assert_array_equal(xent.pgd(loss, INPUTS, steps=0), INPUTS)


def test_numbers_of_an_attack_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="bounds must be"):
        xent.fgsm(loss, INPUTS, bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="steps must be at least 0"):
        xent.pgd(loss, INPUTS, steps=-1)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        xent.virtual_adversarial_perturbation(model, INPUTS, KEY, steps=0)
    with pytest.raises(ValueError, match="generate as many"):
        xent.gan_discriminator(INPUTS, INPUTS[:3])


def test_virtual_adversarial_power_iteration_finds_the_dominant_direction():
    """For each example, the first eigenvector of J^T (diag p - p p^T) J."""
    r = jax.jit(
        lambda x: xent.virtual_adversarial_perturbation(model, x, KEY, epsilon=0.3, steps=60)
    )(INPUTS)
    for x, direction in zip(np.float64(INPUTS), np.asarray(r), strict=True):
        p = softmax(np.tanh(x) @ np.float64(WEIGHTS))
        jacobian = WEIGHTS.T * (1.0 - np.tanh(x) ** 2)
        hessian = jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
        first = np.linalg.eigh(hessian)[1][:, -1]
        np.testing.assert_allclose(np.linalg.norm(direction), 0.3, rtol=1e-5)
        assert abs(direction @ first) > 0.3 * 0.999


def test_virtual_adversarial_step_changes_a_prediction_more_than_a_random_one():
    def divergence(r):
        return xent.consistency(model(INPUTS + r), model(INPUTS))

    @jax.jit
    def divergences():
        noise = jax.random.normal(KEY, INPUTS.shape)
        random = 0.05 * noise / jnp.linalg.norm(noise, axis=-1, keepdims=True)
        ours = xent.virtual_adversarial_perturbation(model, INPUTS, KEY, epsilon=0.05)
        return divergence(ours).sum(), divergence(random).sum()

    ours, random = divergences()
    assert ours > 1.5 * random


def test_virtual_adversarial_perturbation_of_a_flat_model_and_of_images():
    images = RNG.normal(size=(2, 3, 3, 1)).astype(np.float32)
    readout = RNG.normal(size=(9, 4)).astype(np.float32)

    @jax.jit
    def perturbations(x):
        perturbation = xent.virtual_adversarial_perturbation
        flat = perturbation(lambda x: jnp.zeros((2, 3)) * jnp.sum(x), x, KEY)
        return flat, perturbation(lambda x: x.reshape(2, 9) @ readout, x, KEY, epsilon=2.0)

    flat, r = perturbations(images)
    assert np.all(flat == 0)
    assert r.shape == images.shape
    np.testing.assert_allclose(np.sqrt(np.sum(r**2, axis=(1, 2, 3))), 2.0, rtol=1e-5)


def test_trades_is_learnt_through_pgd_of_its_own_divergence():
    @jax.jit
    def results(inputs):
        clean = model(inputs)
        attacked = model(
            xent.pgd(
                lambda x: xent.consistency(model(x), clean),
                inputs,
                KEY,
                epsilon=0.1,
                step_size=0.03,
            )
        )
        return clean, attacked, xent.trades(clean, LABELS, attacked)

    clean, attacked, ours = results(INPUTS)
    robust = relative_entropy(softmax(np.asarray(clean)), softmax(np.asarray(attacked)))
    assert np.all(robust > 0)
    np.testing.assert_allclose(ours, loss(INPUTS) + 6.0 * robust, rtol=1e-4)


# ------------------------------------------------------------------ generator and discriminator

REAL = np.array([0.5, 0.3, 0.2, 0.0])
FAKE = np.array([0.1, 0.2, 0.3, 0.4])
BEST = (np.log(np.where(REAL > 0, REAL, 1e-30)) - np.log(FAKE)).astype(np.float32)


def test_at_the_best_discriminator_the_game_is_the_jensen_shannon_divergence():
    """Theorem 1 of Goodfellow et al.: -log 4 + 2 JS(real, fake)."""

    def value(logits):  # of the discriminator; x has densities REAL and FAKE
        zero = jnp.zeros_like(logits)
        total = jnp.sum(REAL.astype(np.float32) * xent.gan_discriminator(logits, zero - 1e30))
        return total + jnp.sum(FAKE.astype(np.float32) * jax.nn.softplus(logits))

    divergence = jax.jit(xent.jensen_shannon_divergence)(np.float32([REAL]), np.float32([FAKE]))[0]
    game = jax.jit(jax.value_and_grad(value))
    best, slope = game(BEST)
    np.testing.assert_allclose(-best, -np.log(4.0) + 2.0 * divergence, rtol=1e-5)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    assert best < min(game(BEST + 0.1)[0], game(BEST - 0.1)[0])


def test_the_generators_agree_where_the_game_rests_and_differ_where_it_is_lost():
    slopes = [
        np.asarray(jax.jit(jax.vmap(jax.grad(side)))(np.array([0.0, -12.0], np.float32)))
        for side in (xent.gan_minimax_generator, xent.gan_non_saturating_generator)
    ]
    np.testing.assert_allclose(slopes[0], [-0.5, -1.0 / (1.0 + np.exp(12.0))], rtol=1e-5)
    np.testing.assert_allclose(slopes[1], [-0.5, -1.0 / (1.0 + np.exp(-12.0))], rtol=1e-5)


def test_the_hinge_game_at_its_best_discriminator():
    """The sign of real - fake: the value is twice their overlap, which is 2 - 2 TV."""
    best = np.sign(REAL - FAKE).astype(np.float32)
    value = np.sum(REAL * xent.gan_hinge_discriminator(best, np.full(4, -9.0, np.float32)))
    value += np.sum(FAKE * xent.gan_hinge_discriminator(np.full(4, 9.0, np.float32), best))
    np.testing.assert_allclose(value, 2.0 * np.minimum(REAL, FAKE).sum(), rtol=1e-6)


def test_games_at_extreme_logits():
    extreme = np.array([-np.inf, -1e4, 0.0, 1e4, np.inf], np.float32)
    for side in (xent.gan_minimax_generator, xent.gan_non_saturating_generator):
        values, slopes = jax.jit(jax.vmap(jax.value_and_grad(side)))(extreme)
        assert not np.any(np.isnan(values))
        assert np.all(np.isfinite(slopes))
    assert xent.gan_discriminator(extreme[3:4], extreme[1:2]) == 0.0
