"""Distillation of layers against NumPy, the loss of given logits, and itself at the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import xent_jax as xent
from tests.linear_xent.plain import problem
from tests.linear_xent.test_api import close, each
from xent_jax.linear_xent import blocks

distil = xent.linear_distillation
KEPT = np.array([0, 2, 4])


@pytest.fixture(autouse=True)
def chunks_of_eight_tokens(monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 8)


def models(tokens, classes):
    """Returns hidden and weights of a student of width 4 and a teacher of width 6."""
    return (*problem(tokens, 4, classes)[:2], *problem(tokens, 6, classes, seed=1)[:2])


def plain(student, weights, teacher, teacher_weights, temperature=2.0):
    """Returns the loss, and the gradients of its sum with respect to the student."""
    z, a = np.float64(student) @ weights.T, np.float64(teacher) @ teacher_weights.T
    s, t = (
        np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (z / temperature, a / temperature)
    )
    dz = temperature * (s - t)
    loss = temperature**2 * np.sum(t * np.log(t / s), -1)
    return loss, dz @ weights, dz.T @ np.float64(student)


@each
@pytest.mark.parametrize("size", [(1, 1), (17, 13), (33, 129)])
def test_values_and_gradients_are_numpys(implementation, size):
    student, weights, teacher, teacher_weights = models(*size)
    where = np.arange(size[0]) % 5 != 1
    dirty = np.where(where[:, None], student, np.nan), np.where(where[:, None], teacher, np.inf)

    def run(student, weights):
        keywords = {"where": where, "implementation": implementation}
        losses = distil(student, weights, dirty[1], teacher_weights, **keywords)
        return losses.sum(), losses

    gradients, losses = jax.jit(jax.grad(run, (0, 1), has_aux=True))(dirty[0], weights)
    expected = plain(student[where], weights, teacher[where], teacher_weights)
    close(losses[where], expected[0])
    close(gradients[0][where], expected[1])
    close(gradients[1], expected[2])
    assert np.all(np.asarray(losses)[~where] == 0.0)
    assert np.all(np.asarray(gradients[0])[~where] == 0.0)


def test_every_gradient_is_that_of_given_logits():
    student, weights, teacher, teacher_weights = models(17, 13)
    bias = np.random.default_rng(3).normal(size=(2, 13)).astype(np.float32)
    cotangent = np.random.default_rng(4).normal(size=17).astype(np.float32)
    arguments = student, weights, teacher, teacher_weights, *bias, 3.0, 1.7

    def run(student, weights, teacher, teacher_weights, ours, theirs, cap, temperature):
        keywords = {"student_bias": ours, "teacher_bias": theirs, "temperature": temperature}
        caps = {"student_logit_softcap": cap, "teacher_logit_softcap": 2.0 * cap}
        losses = distil(student, weights, teacher, teacher_weights, **keywords, **caps)
        return jnp.vdot(cotangent, losses)

    def of_logits(student, weights, teacher, teacher_weights, ours, theirs, cap, temperature):
        z = cap * jnp.tanh((student @ weights.T + ours[None]) / cap)
        a = 2.0 * cap * jnp.tanh((teacher @ teacher_weights.T + theirs[None]) / (2.0 * cap))
        labels, options = jnp.zeros(17, int), {"label_weight": 0.0, "temperature": temperature}
        return jnp.vdot(cotangent, xent.distillation(z, labels, a, **options))

    actual = jax.jit(jax.value_and_grad(run, range(8)))(*arguments)
    expected = jax.jit(jax.value_and_grad(of_logits, range(8)))(*arguments)
    for ours, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        close(ours, right, 5e-5)


@each
def test_classes_that_cannot_occur(implementation):
    student, weights, teacher, teacher_weights = models(9, 5)
    bias = np.zeros((2, 5), np.float32)
    bias[:, 1], bias[1, 3] = -np.inf, -np.inf  # for both, and for the teacher alone

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
    def run(student, weights, teacher, teacher_weights, bias):
        keywords = {"student_bias": bias[0], "teacher_bias": bias[1]}
        return distil(
            *(student, weights, teacher, teacher_weights),
            **keywords,
            implementation=implementation,
        ).sum()

    value, gradients = run(student, weights, teacher, teacher_weights, bias)
    z, a = (
        (student @ weights.T)[:, [0, 2, 3, 4]] / 2.0,
        (teacher @ teacher_weights.T)[:, [0, 2, 4]] / 2.0,
    )
    s, t = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (z, a))
    close(value, 4.0 * np.sum(t * np.log(t / s[:, [0, 1, 3]])))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    value, _ = run(student, weights, teacher, teacher_weights, bias[::-1])
    assert value == np.inf
    underflow = np.where(np.isinf(bias[::-1]) & [[False], [True]], np.float32(-1e9), bias[::-1])
    underflow[1, 3] = -1e9  # for the student it cannot occur, and for the teacher all but so
    value, gradients = run(student, weights, teacher, teacher_weights, underflow)
    s, t = (
        np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        for x in (student @ weights[KEPT].T / 2.0, teacher @ teacher_weights[KEPT].T / 2.0)
    )
    close(value, 4.0 * np.sum(t * np.log(t / s)))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_near_agreement_keeps_its_digits():
    student, weights, _, _ = models(3, 11)
    teacher = student + np.float32(1e-3)
    exact = plain(student, weights, teacher, weights)[0]
    np.testing.assert_allclose(distil(student, weights, teacher, weights), exact, rtol=5e-3)
    assert np.all(distil(student, weights, student, weights) == 0.0)


def test_far_disagreement_is_finite():
    student, weights, teacher, teacher_weights = models(9, 7)
    arguments = 1e3 * student, weights, 1e3 * teacher, teacher_weights
    value, gradient = jax.jit(jax.value_and_grad(lambda *a: distil(*a).sum()))(*arguments)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    z, a = arguments[0] @ weights.T / 2.0, arguments[2] @ teacher_weights.T / 2.0
    expected = 4.0 * np.sum(np.max(z, -1) - np.take_along_axis(z, a.argmax(-1)[:, None], 1)[:, 0])
    close(value, expected, 1e-3)


def test_a_teacher_that_stands_still_costs_one_product_each_way():
    arguments = [jnp.asarray(array) for array in models(9, 7)]

    def products(argnums):
        gradient = jax.grad(lambda *layers: distil(*layers).sum(), argnums)
        return str(jax.make_jaxpr(gradient)(*arguments)).count("dot_general")

    assert products((0, 1)) == 6
    assert products((1,)) == 5
    assert products((0, 1, 2, 3)) == 8


@pytest.mark.parametrize("inside", [True, False])
def test_tokens_over_devices(inside):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    arrays = [jnp.asarray(array) for array in models(16, 7)]
    specs = P("data"), P(), P("data"), P()

    def run(*arrays):
        return jax.lax.psum(distil(*arrays).sum(), "data")

    if inside:
        f = jax.shard_map(jax.grad(run, (0, 1)), mesh=mesh, in_specs=specs, out_specs=specs[:2])
    else:
        f = jax.grad(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P()), (0, 1))
    for actual, right in zip(jax.jit(f)(*arrays), plain(*arrays)[1:], strict=True):
        close(actual, right)


def test_bfloat16():
    arrays = [jnp.asarray(array, jnp.bfloat16) for array in models(17, 37)]
    value, gradients = jax.jit(jax.value_and_grad(lambda *a: distil(*a).sum(), (0, 1)))(*arrays)
    expected = plain(*(np.float64(array) for array in arrays))
    assert value.dtype == np.float32
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16, jnp.bfloat16]
    close(value, expected[0].sum(), 1e-5)
    close(gradients[0], expected[1], 2e-2)
    close(gradients[1], expected[2], 2e-2)


def test_models_that_do_not_fit():
    student, weights, teacher, teacher_weights = models(9, 7)
    with pytest.raises(ValueError, match=r"teacher's tokens, got \(9,\) and \(8,\)"):
        distil(student, weights, teacher[:8], teacher_weights)
    with pytest.raises(ValueError, match=r"vocabularies, got \(7,\) and \(6,\)"):
        distil(student, weights, teacher, teacher_weights[:6])
    with pytest.raises(ValueError, match=r"student_weights must have .* pass student_weights.T"):
        distil(student, weights.T, teacher, teacher_weights)
