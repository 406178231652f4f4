"""Rows of the perturbations, of the losses against them, and of the generative games."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import xent_jax as xent
from tests.losses.cases.row import Arrays, LossCase, Parameter, cross_entropy, sigmoid, softmax
from tests.losses.cases.transfer import logits_labels_and_teacher, relative_entropy

KEY = jax.random.key(5)


def inputs_of_a_model(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return (rng.normal(size=(examples, classes)),)


def real_and_fake(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    shape = (examples, classes)
    return rng.normal(1.0, 2.0, size=shape), rng.normal(-1.0, 2.0, size=shape)


def only_fake(rng: np.random.Generator, examples: int, classes: int) -> Arrays:
    return real_and_fake(rng, examples, classes)[1:]


# A loss whose slope, sin(3 x), changes its sign within the ball.


def wave(x):
    return jnp.sum(-jnp.cos(3.0 * x) / 3.0, axis=-1)


@functools.wraps(xent.fgsm)
def fgsm(inputs, **keywords):
    return xent.fgsm(wave, inputs, **keywords)


def one_step(inputs, epsilon, bounds=None):
    moved = inputs + epsilon * np.sign(np.sin(3.0 * inputs))
    return moved if bounds is None else np.clip(moved, *bounds)


@functools.wraps(xent.pgd)
def pgd(inputs, **keywords):
    return xent.pgd(wave, inputs, KEY, bounds=(-1.5, 1.5), **keywords)


def projected_steps(inputs, epsilon, step_size):
    noise = jax.random.uniform(KEY, inputs.shape, jnp.float32, minval=-1.0, maxval=1.0)
    moved = np.clip(inputs + epsilon * np.asarray(noise, np.float64), -1.5, 1.5)
    for _ in range(7):
        moved = moved + step_size * np.sign(np.sin(3.0 * moved))
        moved = np.clip(np.clip(moved, inputs - epsilon, inputs + epsilon), -1.5, 1.5)
    return moved


def weights(classes: int) -> np.ndarray:
    return np.cos(np.arange(3.0 * classes)).reshape(classes, 3)


@functools.wraps(xent.virtual_adversarial_perturbation)
def virtual_adversarial_perturbation(inputs, **keywords):
    def model(x):
        return jnp.sin(x) @ jnp.asarray(weights(x.shape[-1]), x.dtype)

    return xent.virtual_adversarial_perturbation(model, inputs, KEY, **keywords)


def power_iteration(inputs, epsilon):
    start = np.asarray(jax.random.normal(KEY, inputs.shape, jnp.float32), np.float64)
    result = []
    for x, d in zip(inputs, start, strict=True):
        w = weights(len(x))
        p = softmax(np.sin(x) @ w)
        jacobian = w.T * np.cos(x)
        hessian = jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
        d = hessian @ d
        result.append(epsilon * d / np.linalg.norm(d))
    return np.array(result)


def trades(logits, labels, adversarial_logits, beta):
    robust = relative_entropy(softmax(logits), softmax(adversarial_logits))
    return cross_entropy(logits, labels) + beta * robust


def gan_discriminator(real_logits, fake_logits):
    return -np.log(sigmoid(real_logits)) - np.log(1.0 - sigmoid(fake_logits))


def gan_hinge_discriminator(real_logits, fake_logits):
    return np.maximum(0.0, 1.0 - real_logits) + np.maximum(0.0, 1.0 + fake_logits)


CASES = [
    LossCase(
        function=fgsm,
        family="transform",
        reference=one_step,
        inputs=inputs_of_a_model,
        parameters={"epsilon": Parameter(0.1, 0.0)},
        defaults={"epsilon": 8 / 255, "bounds": None},
        limit=lambda inputs: (fgsm(inputs, bounds=(0, 1)), one_step(inputs, 8 / 255, (0, 1))),
    ),
    LossCase(
        function=pgd,
        family="transform",
        reference=projected_steps,
        inputs=inputs_of_a_model,
        parameters={"epsilon": Parameter(0.5, 0.0), "step_size": Parameter(0.15, 0.0)},
        defaults={"epsilon": 8 / 255, "step_size": 2 / 255, "steps": 7, "bounds": None},
        limit=lambda inputs: (
            xent.pgd(wave, inputs, epsilon=0.1, step_size=0.1, steps=1),
            xent.fgsm(wave, inputs, epsilon=0.1),
        ),
    ),
    LossCase(
        function=virtual_adversarial_perturbation,
        family="transform",
        reference=power_iteration,
        inputs=inputs_of_a_model,
        parameters={"epsilon": Parameter(0.5, 0.0)},
        defaults={"epsilon": 8.0, "steps": 1},
        limit=lambda inputs: (
            jnp.linalg.norm(virtual_adversarial_perturbation(inputs), axis=-1),
            np.full(len(inputs), 8.0),
        ),
    ),
    LossCase(
        function=xent.trades,
        family="classification",
        reference=trades,
        inputs=logits_labels_and_teacher,
        parameters={"beta": Parameter(2.0, 0.0)},
        defaults={"beta": 6.0, "axis": -1},
        limit=lambda logits, labels, attacked: (
            xent.trades(logits, labels, attacked, beta=0.0),
            cross_entropy(logits, labels),
        ),
    ),
    LossCase(
        function=xent.gan_discriminator,
        family="binary",
        reference=gan_discriminator,
        inputs=real_and_fake,
        limit=lambda real, fake: (
            xent.gan_discriminator(real, fake),
            xent.sigmoid_binary_cross_entropy(real, np.ones(real.shape, bool))
            + xent.sigmoid_binary_cross_entropy(fake, np.zeros(fake.shape, bool)),
        ),
    ),
    LossCase(
        function=xent.gan_minimax_generator,
        family="binary",
        reference=lambda fake_logits: np.log(1.0 - sigmoid(fake_logits)),
        inputs=only_fake,
        limit=lambda fake: (  # the two generators' losses differ by the logit
            xent.gan_minimax_generator(fake) + xent.gan_non_saturating_generator(fake),
            np.log(1.0 - sigmoid(fake)) - np.log(sigmoid(fake)),
        ),
    ),
    LossCase(
        function=xent.gan_non_saturating_generator,
        family="binary",
        reference=lambda fake_logits: -np.log(sigmoid(fake_logits)),
        inputs=only_fake,
        limit=lambda fake: (
            xent.gan_non_saturating_generator(fake),
            xent.sigmoid_binary_cross_entropy(fake, np.ones(fake.shape, bool)),
        ),
    ),
    LossCase(
        function=xent.gan_hinge_discriminator,
        family="binary",
        reference=gan_hinge_discriminator,
        inputs=real_and_fake,
        limit=lambda real, fake: (  # inside the margins
            xent.gan_hinge_discriminator(np.tanh(real), np.tanh(fake)),
            2.0 - np.tanh(real) + np.tanh(fake),
        ),
    ),
    LossCase(
        function=xent.gan_hinge_generator,
        family="binary",
        reference=lambda fake_logits: -fake_logits,
        inputs=only_fake,
        limit=lambda fake: (xent.gan_hinge_generator(fake), -fake),
    ),
]
