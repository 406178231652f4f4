"""What is proven of policies, preferences and searches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.row import sigmoid, softmax

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=4).astype(np.float32)
RETURNS = RNG.normal(size=4).astype(np.float32)
ACTIONS = np.arange(4, dtype=np.int32)


def test_reinforce_averages_to_the_gradient_of_the_expected_return():
    """Every action of a one-step game, weighted by its probability; with a baseline too."""
    p = softmax(LOGITS)

    @jax.jit
    def estimates(baseline):
        slope = jax.grad(lambda z, a, r: xent.policy_gradient(z, a, r - baseline))
        return jax.vmap(slope, (None, 0, 0))(LOGITS, ACTIONS, RETURNS)

    exact = jax.grad(lambda z: jnp.sum(jax.nn.softmax(z) * RETURNS))(LOGITS)
    for baseline in (0.0, 0.7):
        mean = np.sum(p[:, None] * np.asarray(estimates(jnp.float32(baseline))), axis=0)
        np.testing.assert_allclose(mean, -exact, atol=1e-6)


def test_an_advantage_of_zero_asks_for_nothing_even_of_an_action_that_cannot_occur():
    z = np.array([[-np.inf, 0.0, 1.0]], np.float32)

    def loss(z):
        return xent.policy_gradient(z, np.array([0]), np.zeros(1, np.float32))[0]

    value, slope = jax.jit(jax.value_and_grad(loss))(z)
    assert value == 0
    assert np.all(slope == 0)


def test_ppo_is_a_pessimistic_bound_that_clips_what_would_be_gained():
    ratios = np.array([0.5, 0.79, 1.0, 1.21, 2.0], np.float32)
    z = np.stack([np.log(ratios / 4.0), np.log(1.0 - ratios / 4.0)], axis=-1)
    old, actions = np.full(5, np.log(0.25), np.float32), np.zeros(5, np.int32)

    @jax.jit
    def derivatives(z, advantages):
        def loss(z):
            values = xent.ppo_clip(z, actions, advantages, old)
            return values.sum(), values

        return jax.grad(loss, has_aux=True)(z)

    slope_of_reinforce = jax.jit(
        jax.grad(lambda z, weights: xent.policy_gradient(z, actions, weights).sum())
    )
    for sign, kept in ((1.0, [1, 1, 1, 0, 0]), (-1.0, [0, 0, 1, 1, 1])):
        advantages = np.full(5, sign, np.float32)
        slope, value = derivatives(z, advantages)
        assert np.all(value >= -ratios * advantages - 1e-6)
        np.testing.assert_allclose(value[np.bool_(kept)], (-ratios * sign)[np.bool_(kept)], 1e-5)
        plain = slope_of_reinforce(z, ratios * advantages)
        np.testing.assert_allclose(slope, np.where(np.array(kept)[:, None], plain, 0.0), atol=1e-6)


def test_ppo_of_a_policy_that_has_not_moved_is_reinforce():
    log_p = np.log(softmax(LOGITS))
    z = np.tile(LOGITS, (4, 1))
    slopes = [
        jax.jit(jax.grad(lambda z, f=f, extra=extra: f(z, ACTIONS, RETURNS, *extra).sum()))(z)
        for f, extra in ((xent.policy_gradient, ()), (xent.ppo_clip, (log_p,)))
    ]
    np.testing.assert_allclose(*slopes, atol=1e-6)


def test_arguments_that_do_not_fit_are_told():
    z = np.tile(LOGITS, (4, 1))
    with pytest.raises(ValueError, match=r"advantages must hold one number per action"):
        xent.policy_gradient(z, ACTIONS, RETURNS[:2])
    with pytest.raises(ValueError, match="old_log_probabilities must hold one number"):
        xent.ppo_clip(z, ACTIONS, RETURNS, RETURNS[:2])
    with pytest.raises(ValueError, match="must have one shape, one number per pair"):
        xent.direct_preference(RETURNS, RETURNS, RETURNS, RETURNS[:2])
    with pytest.raises(ValueError, match="1 <= elites <= samples"):
        xent.cross_entropy_method(jnp.sum, LOGITS, LOGITS, jax.random.key(0), elites=200)
    with pytest.raises(ValueError, match="scale must have the mean's shape"):
        xent.cross_entropy_method(jnp.sum, LOGITS, LOGITS[:2], jax.random.key(0))


def test_actions_outside_the_choices_give_nan_and_a_nan_gradient():
    z, actions = np.tile(LOGITS, (4, 1)), np.array([-1, 0, 4, 3])
    outside = np.array([True, False, True, False])
    for loss in (
        lambda z: xent.policy_gradient(z, actions, RETURNS),
        lambda z: xent.ppo_clip(z, actions, RETURNS, RETURNS),
    ):
        value, slope = jax.jit(lambda z, f=loss: (f(z), jax.grad(lambda z: f(z).sum())(z)))(z)
        assert np.array_equal(np.isnan(value), outside)
        assert np.array_equal(np.isnan(slope).any(-1), outside)


def test_entropy_bonus_leads_to_even_probabilities():
    slope = jax.jit(jax.grad(lambda z: xent.entropy_bonus(z)))
    z = LOGITS
    for _ in range(200):
        z = z - np.asarray(slope(z))
    np.testing.assert_allclose(softmax(z), 0.25, atol=1e-3)


# ------------------------------------------------------------------ preferences


def test_direct_preference_raises_the_chosen_and_lowers_the_rejected_answer():
    """Section 4 of Rafailov et al.: weighted by how wrong the implicit reward is."""
    chosen, rejected, *reference = RNG.normal(-9.0, 4.0, size=(4, 6)).astype(np.float32)

    def loss(chosen, rejected):
        return xent.direct_preference(chosen, rejected, *reference).sum()

    up, down = jax.jit(jax.grad(loss, (0, 1)))(chosen, rejected)
    margin = 0.1 * ((chosen - reference[0]) - (rejected - reference[1]))
    np.testing.assert_allclose(up, -0.1 * sigmoid(-margin), rtol=1e-5)
    np.testing.assert_allclose(down, 0.1 * sigmoid(-margin), rtol=1e-5)
    same = jax.jit(xent.direct_preference)(chosen, rejected, chosen, rejected)
    np.testing.assert_allclose(same, np.log(2.0), rtol=1e-6)


def test_direct_preference_is_best_at_the_policy_that_its_rewards_imply():
    """pi ~ pi_0 exp(reward / beta), for answers preferred as Bradley and Terry say."""
    reward, reference, beta = np.array([0.3, -0.2, 0.5]), np.log([0.5, 0.3, 0.2]), 0.4
    preferred = sigmoid(reward[:, None] - reward[None])  # [winner, loser]
    pairs = [(w, l) for w in range(3) for l in range(3) if w != l]  # noqa: E741
    winners, losers = (np.array(side) for side in zip(*pairs, strict=True))

    @jax.jit
    def expected(z):
        log_p = jax.nn.log_softmax(z)
        losses = xent.direct_preference(
            log_p[winners], log_p[losers], reference[winners], reference[losers], beta=beta
        )
        return jnp.sum(preferred[winners, losers] * losses)

    with jax.enable_x64(True):
        best = reference + reward / beta
        np.testing.assert_allclose(jax.grad(expected)(best), 0.0, atol=1e-12)
        assert expected(best) < expected(best + np.array([0.2, 0.0, 0.0]))


# ------------------------------------------------------------------ the search


def test_the_cross_entropy_method_finds_the_minimum_of_a_quadratic():
    target, curvature = np.array([1.5, -2.0, 0.5], np.float32), np.array([1.0, 4.0, 0.3])

    def objective(x):
        return jnp.sum(curvature.astype(np.float32) * (x - target) ** 2)

    found = jax.jit(
        lambda key: xent.cross_entropy_method(objective, np.zeros(3), 2.0 * np.ones(3), key)
    )(jax.random.key(0))
    np.testing.assert_allclose(found.mean, target, atol=1e-3)
    assert np.all(found.scale < 1e-2)


def test_the_cross_entropy_method_needs_no_gradient_and_passes_over_nan():
    def steps(x):  # flat between its jumps, undefined for negative numbers
        height = jnp.sum(jnp.floor(jnp.abs(x - 3.0) * 4.0))
        return jnp.where(jnp.any(x < 0.0), jnp.nan, height)

    start = np.ones(2, np.float32), np.full(2, 2.0, np.float32)
    search = jax.jit(lambda key: xent.cross_entropy_method(steps, *start, key))
    found = search(jax.random.key(1))
    assert np.all(np.abs(found.mean - 3.0) < 0.25)
    assert np.all(np.isfinite(found.scale))


def test_searches_are_mapped_over_keys():
    keys = jax.random.split(jax.random.key(2), 3)
    search = jax.vmap(
        lambda key: xent.cross_entropy_method(
            lambda x: (x - 2.0) ** 2, jnp.float32(0.0), jnp.float32(1.0), key, steps=5
        )
    )
    found = jax.jit(search)(keys)
    assert len(set(np.asarray(found.mean).tolist())) == 3
    np.testing.assert_allclose(found.mean, 2.0, atol=0.05)
