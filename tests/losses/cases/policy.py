"""Rows of the cross-entropies weighted by a return, a preference or a rank."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import xent_jax as xent
from tests.losses.cases.row import (
    Arrays,
    LossCase,
    Parameter,
    cross_entropy,
    label_probability,
    logits_and_labels,
    sigmoid,
    softmax,
)
from tests.losses.cases.transfer import entropy_minimisation, only_logits

KEY = jax.random.key(11)


def steps(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return *logits_and_labels(rng, examples, classes), rng.normal(size=examples)


def steps_of_an_old_policy(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    logits, actions, advantages = steps(rng, examples, classes)
    old = softmax(logits + 0.5 * rng.normal(size=logits.shape))
    return logits, actions, advantages, np.log(old[np.arange(examples), actions])


def pairs_of_answers(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return tuple(rng.normal(-9.0, 3.0, size=(4, examples, classes)))


def policy_gradient(logits, actions, advantages):
    return advantages * cross_entropy(logits, actions)


def ppo_clip(logits, actions, advantages, old_log_probabilities, epsilon):
    ratio = label_probability(logits, actions) / np.exp(old_log_probabilities)
    clipped = np.clip(ratio, 1.0 - epsilon, 1.0 + epsilon)
    return -np.minimum(ratio * advantages, clipped * advantages)


def direct_preference(chosen, rejected, reference_chosen, reference_rejected, beta):
    better = np.exp(chosen - reference_chosen) ** beta
    worse = np.exp(rejected - reference_rejected) ** beta
    return -np.log(better / (better + worse))


def distance(x):
    """A valley with ripples, whose minimum is at 1."""
    return jnp.sum((x - 1.0) ** 2 - 0.3 * jnp.cos(5.0 * (x - 1.0)))


SEARCH = {"samples": 12, "elites": 4, "steps": 2}


@functools.wraps(xent.cross_entropy_method)
def cross_entropy_method(mean, scale, smoothing=0.7):
    return xent.cross_entropy_method(distance, mean, scale, KEY, smoothing=smoothing, **SEARCH)


def refitted(mean, scale, smoothing):
    for key in jax.random.split(KEY, SEARCH["steps"]):
        noise = jax.random.normal(key, (SEARCH["samples"], *mean.shape), jnp.float32)
        points = mean + scale * np.asarray(noise, np.float64)
        values = [((x - 1.0) ** 2 - 0.3 * np.cos(5.0 * (x - 1.0))).sum() for x in points]
        best = points[np.argsort(values)[: SEARCH["elites"]]]
        mean = smoothing * best.mean(0) + (1.0 - smoothing) * mean
        scale = smoothing * best.std(0) + (1.0 - smoothing) * scale
    return np.concatenate([mean, scale])


def mean_and_scale(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return rng.normal(size=(examples, classes)), rng.uniform(0.5, 2.0, size=(examples, classes))


CASES = [
    LossCase(
        function=xent.policy_gradient,
        family="classification",
        reference=policy_gradient,
        inputs=steps,
        defaults={"axis": -1},
        limit=lambda logits, actions, advantages: (
            xent.policy_gradient(logits, actions, np.ones_like(advantages)),
            cross_entropy(logits, actions),
        ),
    ),
    LossCase(
        function=xent.ppo_clip,
        family="classification",
        reference=ppo_clip,
        inputs=steps_of_an_old_policy,
        parameters={"epsilon": Parameter(0.3, 0.0, 1.0)},
        defaults={"epsilon": 0.2},
        limit=lambda logits, actions, advantages, old: (  # of a policy that has not moved
            xent.ppo_clip(logits, actions, advantages, -cross_entropy(logits, actions)),
            -advantages,
        ),
    ),
    LossCase(
        function=xent.entropy_bonus,
        family="classification",
        reference=lambda logits: -entropy_minimisation(logits),
        inputs=only_logits,
        limit=lambda logits: (xent.entropy_bonus(logits), -xent.entropy_minimisation(logits)),
    ),
    LossCase(
        function=xent.direct_preference,
        family="binary",
        reference=direct_preference,
        inputs=pairs_of_answers,
        parameters={"beta": Parameter(0.4, 0.0)},
        defaults={"beta": 0.1},
        limit=lambda chosen, rejected, *reference: (  # Bradley and Terry, of an even reference
            xent.direct_preference(
                chosen, rejected, np.zeros_like(chosen), np.zeros_like(chosen), beta=1.0
            ),
            -np.log(sigmoid(chosen - rejected)),
        ),
    ),
    LossCase(
        function=cross_entropy_method,
        family="transform",
        reference=refitted,
        inputs=mean_and_scale,
        pick=jnp.concatenate,
        parameters={"smoothing": Parameter(0.6, 0.0, 1.0)},
        defaults={"samples": 100, "elites": 10, "steps": 50, "smoothing": 0.7},
        limit=lambda mean, scale: (cross_entropy_method(mean, scale, smoothing=0.0).mean, mean),
    ),
]
