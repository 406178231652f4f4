"""Both losses, by every implementation, against NumPy in float64 and against one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.linear_xent.plain import linear_cross_entropy, problem
from xent_jax.linear_xent import blocks

loss, loss_sum = xent.linear_softmax_cross_entropy, xent.linear_softmax_cross_entropy_sum
IMPLEMENTATIONS = ["chunked", "reference"]
each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
CASES = [("per token", "chunked"), ("sum", "chunked"), ("sum", "reference")]
cases = pytest.mark.parametrize(("form", "implementation"), CASES)
both = pytest.mark.parametrize("form", ["per token", "sum"])


@pytest.fixture(autouse=True)
def chunks_of_eight_tokens(monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 8)


def total(form, *arguments, weights_per_token=None, **options):
    """Returns the weighted sum of the losses, by one function or the other."""
    if form == "sum":
        return loss_sum(*arguments, weights_per_token=weights_per_token, **options)[0]
    losses = loss(*arguments, **options)
    return jnp.sum(losses if weights_per_token is None else losses * weights_per_token)


def close(actual, expected, rtol=2e-5):
    """Asserts that no entry is off by more than so much of the largest."""
    expected = np.asarray(expected, np.float64)
    atol = rtol * np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=rtol, atol=atol)


@each
@pytest.mark.parametrize("size", [(1, 1, 1), (17, 5, 13), (33, 4, 129)])
def test_values_and_gradients_are_numpys(implementation, size):
    hidden, weights, labels, options = problem(*size)
    of_loss, of_logsumexp = np.random.default_rng(1).normal(size=(2, size[0])).astype(np.float32)
    where = np.arange(size[0]) % 5 != 1
    dirty, wrong = hidden.copy(), labels.copy()
    dirty[~where], wrong[~where] = np.nan, -7

    def run(hidden, weights, bias):
        results = loss(
            hidden,
            weights,
            wrong,
            **{**options, "bias": bias},
            where=where,
            return_logsumexp=True,
            return_argmax=True,
            implementation=implementation,
        )
        return jnp.vdot(of_loss, results[0]) + jnp.vdot(of_logsumexp, results[1]), results

    gradients, results = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(
        dirty, weights, options["bias"]
    )
    cotangents = {"of_loss": of_loss, "of_logsumexp": of_logsumexp}
    expected = linear_cross_entropy(hidden, weights, labels, where=where, **options, **cotangents)
    for actual, right in zip((*results, *gradients), expected, strict=True):
        close(actual, right)
    assert np.all(np.asarray(results[0])[~where] == 0.0)
    assert np.all(np.asarray(gradients[0])[~where] == 0.0)


@cases
def test_without_options_it_is_the_cross_entropy(implementation, form):
    hidden, weights, labels, _ = problem(19, 4, 11)
    value, gradients = jax.jit(
        jax.value_and_grad(
            lambda *layer: total(form, *layer, labels, implementation=implementation), (0, 1)
        )
    )(hidden, weights)
    expected = linear_cross_entropy(hidden, weights, labels)
    close(value, expected.loss.sum())
    close(gradients[0], expected.hidden)
    close(gradients[1], expected.weights)


def test_the_sum_has_every_gradient_of_the_losses():
    tokens = 21
    hidden, weights, labels, options = problem(tokens, 4, 11)
    omega = np.random.default_rng(1).uniform(size=tokens).astype(np.float32)
    where = np.arange(tokens) % 4 != 2
    options = {name: jnp.asarray(value) for name, value in options.items()}

    def run(form, implementation, hidden, weights, omega, options):
        keywords = {**options, "weights_per_token": omega, "implementation": implementation}
        return 3.0 * total(form, hidden, weights, labels, where=where, **keywords)

    def gradients(*how):
        f = jax.value_and_grad(functools.partial(run, *how), (0, 1, 2, 3))
        return jax.tree.leaves(jax.jit(f)(hidden, weights, omega, options))

    expected = gradients("per token", "reference")
    assert len(expected) == 1 + 3 + 6
    for how in (("sum", "chunked"), ("per token", "chunked"), ("sum", "reference")):
        for actual, right in zip(gradients(*how), expected, strict=True):
            close(actual, right)


def test_the_normaliser_is_the_weight_that_counts():
    hidden, weights, labels, _ = problem(5, 2, 3)
    where, omega = np.array([1, 1, 0, 1, 0], bool), np.arange(5, dtype=np.float32)
    assert loss_sum(hidden, weights, labels)[1] == 5.0
    assert loss_sum(hidden, weights, labels, where=where)[1] == 3.0
    dirty = np.where(where, omega, np.nan)
    total, normaliser = loss_sum(hidden, weights, labels, where=where, weights_per_token=dirty)
    assert normaliser == 4.0
    close(total, (linear_cross_entropy(hidden, weights, labels).loss * omega)[where].sum())


@pytest.mark.parametrize(
    ("form", "dtype", "tolerance"),
    [
        ("sum", jnp.float16, 2e-3),
        ("sum", jnp.bfloat16, 2e-2),
        ("sum", np.float64, 1e-12),
        ("per token", jnp.bfloat16, 2e-2),
        ("per token", np.float64, 1e-12),
    ],
)
def test_dtypes(form, dtype, tolerance):
    hidden, weights, labels, options = problem(19, 16, 37)
    with jax.enable_x64(dtype == np.float64):
        hidden, weights = jnp.asarray(hidden, dtype), jnp.asarray(weights, dtype)
        run = functools.partial(total, form, **options)
        value, gradients = jax.jit(jax.value_and_grad(run, (0, 1)))(hidden, weights, labels)
        expected = linear_cross_entropy(hidden, weights, labels, **options)
        assert value.dtype == (np.float64 if dtype == np.float64 else np.float32)
        assert [gradient.dtype for gradient in gradients] == [dtype, dtype]
        close(value, expected.loss.sum(), min(tolerance, 2e-6))
        close(gradients[0], expected.hidden, tolerance)
        close(gradients[1], expected.weights, tolerance)


def test_gradients_of_the_weights_are_added_in_float32():
    # 1 + 2^-9 is 1 in bfloat16: added up chunk by chunk in it, small gradients would vanish.
    tokens, hidden = 256, jnp.full((256, 1), 2.0**-4, jnp.bfloat16)
    weights, labels = jnp.zeros((2, 1), jnp.bfloat16), jnp.zeros(tokens, jnp.int32)
    hidden = hidden.at[:8].set(64.0)
    gradient = jax.jit(jax.grad(functools.partial(total, "sum"), 1))(hidden, weights, labels)
    exact = -0.5 * (8 * 64.0 + 248 * 2.0**-4)
    assert abs(float(gradient[0, 0]) - exact) <= 2.0**-9 * abs(exact)
    each = jax.jit(jax.grad(functools.partial(total, "per token"), 1))(hidden, weights, labels)
    assert abs(float(each[0, 0]) - exact) <= 2.0**-9 * abs(exact)


def test_float16_keeps_the_tail_of_a_small_cotangent():
    hidden, weights, labels, _ = problem(16, 4, 1000)
    hidden, weights = hidden.astype(np.float16), weights.astype(np.float16)

    def scaled(hidden):  # p times 1e-4 would be 0 in float16 for most of the classes
        return 1e-4 * jnp.sum(loss(hidden, weights, labels))

    expected = 1e-4 * linear_cross_entropy(hidden, weights, labels).hidden
    close(jax.jit(jax.grad(scaled))(hidden), expected, 2e-3)


@both
def test_large_logits(form):
    hidden, weights, labels, _ = problem(9, 4, 7, scale=3e3)
    run = functools.partial(total, form)
    value, gradients = jax.jit(jax.value_and_grad(run, (0, 1)))(hidden, weights, labels)
    expected = linear_cross_entropy(hidden, weights, labels)
    assert np.abs(hidden @ weights.T).max() > 1e4
    close(value, expected.loss.sum(), 1e-6)
    close(gradients[0], expected.hidden, 1e-3)
    close(gradients[1], expected.weights, 1e-3)


@both
def test_padding_overflows_nowhere(form):
    hidden, weights, labels, _ = problem(9, 4, 7)
    bias = np.full(7, 200.0, np.float32)  # exp of it is infinite
    run = functools.partial(total, form, bias=bias)
    gradients = jax.jit(jax.grad(run, (0, 1)))(hidden, weights, labels)
    close(gradients[1], linear_cross_entropy(hidden, weights, labels).weights, 1e-3)


def test_a_small_loss_of_large_logits_keeps_its_digits():
    hidden, weights = np.full((1, 1), 1e4, np.float32), np.array([[1.0], [1.0 - 1e-3]], np.float32)
    gap = 1e4 - 1e4 * float(weights[1, 0])
    value = loss(hidden, weights, np.array([0]))
    np.testing.assert_allclose(value, np.log1p(np.exp(-gap)), rtol=2e-2)


@cases
def test_classes_that_cannot_occur(implementation, form):
    hidden, weights, _, options = problem(9, 4, 7)
    bias, prior = options["bias"].copy(), options["class_prior"].copy()
    bias[2], prior[5] = -np.inf, 0.0
    prior /= prior.sum()
    labels = np.array([0, 1, 3, 4, 6] * 2, np.int32)[:9]
    options = {"label_smoothing": 0.2, "logit_softcap": 3.0, "temperature": 1.5}

    def run(hidden, weights, bias, prior, temperature):
        keywords = {**options, "temperature": temperature, "implementation": implementation}
        return total(form, hidden, weights, labels, bias=bias, class_prior=prior, **keywords)

    arguments = hidden, weights, bias, prior, 1.5
    value, gradients = jax.jit(jax.value_and_grad(run, range(5)))(*arguments)
    kept = [0, 1, 3, 4, 6]
    expected = linear_cross_entropy(
        hidden,
        weights[kept],
        np.searchsorted(kept, labels),
        bias=bias[kept],
        class_prior=prior[kept],
        **options,
    )
    close(value, expected.loss.sum())
    close(gradients[0], expected.hidden)
    close(gradients[1][np.array(kept)], expected.weights)
    assert np.all(gradients[1][np.array([2, 5])] == 0.0)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@each
def test_a_label_that_cannot_occur_costs_infinitely_much(implementation):
    hidden, weights, labels, _ = problem(3, 4, 5)
    bias = np.zeros(5, np.float32)
    bias[labels[1]] = -np.inf

    def run(hidden, bias):
        return loss(hidden, weights, labels, bias=bias, implementation=implementation)

    run = jax.jit(run)
    losses, pull = jax.vjp(lambda hidden: run(hidden, bias), hidden)
    assert losses[1] == np.inf
    z = hidden[1] @ weights.T + bias
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    close(pull(jnp.ones(3))[0][1], (p - np.eye(5)[labels[1]]) @ weights)
    assert np.all(np.isnan(run(hidden, np.full(5, -np.inf, np.float32))))


@cases
def test_infinite_losses_leave_the_other_tokens_alone(implementation, form):
    hidden, weights, labels, _ = problem(9, 4, 5)
    labels = labels % 4
    impossible = np.where(np.arange(9) == 1, 4, labels)
    bias, ones = np.float32([0, 0, 0, 0, -np.inf]), np.ones(9, np.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
    def run(hidden, weights, smoothing, omega):
        options = {"label_smoothing": smoothing, "implementation": implementation}
        options |= {"bias": bias, "weights_per_token": omega}
        return total(form, hidden, weights, impossible, **options)

    value, gradients = run(hidden, weights, 0.1, ones)
    assert value == np.inf
    assert not any(np.any(np.isnan(gradient)) for gradient in gradients)
    value, gradients = run(hidden, weights, 1.0, ones)  # the labels have no weight
    right = linear_cross_entropy(hidden, weights[:4], labels, label_smoothing=1.0)
    close(value, right.loss.sum())
    close(gradients[0], right.hidden)
    if form == "sum":
        value, gradients = run(hidden, weights, 0.1, np.float32(np.arange(9) != 1))
        rows = np.arange(9) != 1
        right = linear_cross_entropy(hidden, weights[:4], labels, label_smoothing=0.1)
        close(value, right.loss[rows].sum())
        close(gradients[0], np.where(rows[:, None], right.hidden, 0.0))
        close(gradients[3], np.where(rows, right.loss, 0.0))
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_smoothing_away_an_impossible_label_is_as_with_given_logits():
    hidden, weights, _, _ = problem(2, 4, 5)
    labels, bias = np.array([4, 0]), np.float32([0, 0, 0, 0, -np.inf])
    of_loss = np.float32([0, 1])

    def of_logits(hidden, smoothing):
        logits, options = hidden @ weights.T + bias[None], {"label_smoothing": smoothing}
        return xent.softmax_cross_entropy_with_integer_labels(logits, labels, **options)

    def of_layer(hidden, smoothing):
        return loss(hidden, weights, labels, bias=bias, label_smoothing=smoothing)

    def results(function, smoothing):
        losses, pull = jax.vjp(function, hidden, smoothing)
        return losses, *pull(of_loss)

    for smoothing in (np.float32(0.1), np.float32(1.0)):
        ours, theirs = (
            jax.jit(results, static_argnums=0)(f, smoothing) for f in (of_layer, of_logits)
        )
        assert np.isposinf(ours[0][0]) == (smoothing < 1.0)
        for actual, right in zip(ours, theirs, strict=True):
            assert not np.any(np.isnan(right))
            np.testing.assert_allclose(actual, right, rtol=1e-5, atol=1e-6)


@cases
def test_masked_tokens_have_no_gradient_where_no_class_can_occur(implementation, form):
    hidden, weights, labels, _ = problem(9, 4, 5)
    nothing = np.full(5, -np.inf, np.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def run(hidden, weights, where):
        options = {"label_smoothing": 0.1, "implementation": implementation}
        return total(form, hidden, weights, labels, bias=nothing, where=where, **options)

    value, gradients = run(hidden, weights, np.zeros(9, bool))
    assert value == 0.0
    assert not any(np.any(gradient) for gradient in gradients)
    value, gradients = run(hidden, weights, np.ones(9, bool))
    assert np.isnan(value)
    assert np.all(np.isnan(gradients[0]))


@cases
def test_a_label_outside_the_classes_is_loud(form, implementation):
    hidden, weights, good, _ = problem(9, 4, 5)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def run(hidden, weights, labels, where):
        return total(form, hidden, weights, labels, where=where, implementation=implementation)

    for label in (-1, 5):
        labels = np.where(np.arange(9) == 3, label, good)
        value, gradients = run(hidden, weights, labels, np.ones(9, bool))
        assert np.isnan(value)
        assert np.array_equal(np.isnan(gradients[0]).all(-1), np.arange(9) == 3)
        assert np.all(np.isnan(gradients[1]))
        where = np.arange(9) != 3
        value, gradients = run(hidden, weights, labels, where)
        expected = linear_cross_entropy(hidden, weights, good, where=where)
        close(value, expected.loss.sum())
        assert np.all(gradients[0][3] == 0.0)
        close(gradients[1], expected.weights)


def test_the_first_of_several_largest():
    weights = np.array([[0.0], [1.0], [1.0], [np.nan]], np.float32)
    keywords = {"return_argmax": True}
    ones, labels = np.ones((1, 1), np.float32), np.zeros(1, np.int32)
    assert loss(ones, weights[:3], labels, **keywords)[1] == 1
    assert loss(ones, weights, labels, **keywords)[1] == 3


@both
def test_any_leading_shape_and_none(form):
    hidden, weights, labels, _ = problem(12, 4, 5)
    run = jax.jit(functools.partial(total, form))
    value = run(hidden.reshape(2, 3, 2, 4), weights, labels.reshape(2, 3, 2))
    expected = linear_cross_entropy(hidden, weights, labels).loss
    close(value, expected.sum())
    one = loss if form == "per token" else functools.partial(total, form)
    one = jax.jit(one)(hidden[0], weights, jnp.asarray(labels[0]))
    assert one.shape == ()
    close(one, expected[0])
    assert jax.eval_shape(loss, hidden.reshape(2, 6, 4), weights, labels.reshape(2, 6)).shape == (
        2,
        6,
    )
    gradient = jax.jit(jax.grad(functools.partial(total, form), 1))
    assert np.all(gradient(hidden[:0], weights, labels[:0]) == 0.0)


def test_mixed_dtypes_are_computed_in_the_wider():
    hidden, weights, labels, _ = problem(9, 4, 5)
    half = hidden.astype(jnp.bfloat16)
    gradients = jax.jit(jax.grad(functools.partial(total, "sum"), (0, 1)))(half, weights, labels)
    expected = linear_cross_entropy(half, weights, labels)
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16, np.float32]
    close(gradients[1], expected.weights)
