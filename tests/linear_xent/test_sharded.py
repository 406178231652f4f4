"""The vocabulary divided over devices, the tokens, and both: the same numbers as of one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import xent_jax as xent
from tests.linear_xent.plain import linear_cross_entropy, problem
from tests.linear_xent.test_api import close, total
from xent_jax.linear_xent import blocks

both = pytest.mark.parametrize("form", ["per token", "sum"])
DATA, ROWS = P("data"), P("vocabulary")
TOKENS, CLASSES, PADDED = 40, 13, 16  # of 8 devices, the last holds nothing but padding
HIDDEN, WEIGHTS, LABELS, OPTIONS = problem(TOKENS, 4, CLASSES)
OF_LOSS, OF_LOGSUMEXP = np.random.default_rng(1).normal(size=(2, TOKENS)).astype(np.float32)
WHERE = np.arange(TOKENS) % 5 != 1
SCALARS = {"label_smoothing", "z_loss", "logit_softcap", "temperature"}
SHAPES = [(8, 1), (1, 8), (2, 4), (4, 2)]


@pytest.fixture(autouse=True)
def chunks_that_do_not_divide(monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 3)


def padded(rows, value=0.0):
    """Returns rows for every device, as many of them with what is to be left out as it takes."""
    return np.concatenate([rows, np.full((PADDED - CLASSES, *rows.shape[1:]), value, rows.dtype)])


def over(shape, function, in_specs, out_specs, names=("data", "vocabulary"), **options):
    kinds = (jax.sharding.AxisType.Auto,) * len(shape)
    mesh = jax.make_mesh(shape, names, axis_types=kinds)
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **options)


def arguments(bias=padded(OPTIONS["bias"], -np.inf)):  # noqa: B008  one array for all
    return {
        "hidden": HIDDEN,
        "weights": padded(WEIGHTS),
        "bias": bias,
        "class_prior": padded(OPTIONS["class_prior"]),
        **{name: jnp.float32(OPTIONS[name]) for name in SCALARS},
    }


@functools.cache
def program(shape):
    """Returns a program for losses with every option, and their gradients with respect to all."""

    def run(arguments, labels, where):
        return xent.linear_softmax_cross_entropy(
            **arguments,
            labels=labels,
            where=where,
            vocabulary_axis="vocabulary" if shape else None,
            return_logsumexp=True,
            return_argmax=True,
        )

    specs = dict.fromkeys(arguments(), ROWS) | dict.fromkeys(SCALARS, P()) | {"hidden": DATA}
    run = over(shape, run, (specs, DATA, DATA), DATA) if shape else run

    def scalar(*arguments):
        results = run(*arguments)
        return jnp.vdot(OF_LOSS, results[0]) + jnp.vdot(OF_LOGSUMEXP, results[1]), results

    return jax.jit(jax.grad(scalar, has_aux=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_one_device_and_numpys(shape):
    dirty, wrong = HIDDEN.copy(), LABELS.copy()
    dirty[~WHERE], wrong[~WHERE] = np.nan, -7
    inputs = {**arguments(), "hidden": dirty}, wrong, WHERE
    gradients, results = program(shape)(*inputs)
    alone, _ = program(None)(*inputs)
    for name in alone:
        close(gradients[name], alone[name])
    cotangents = {"of_loss": OF_LOSS, "of_logsumexp": OF_LOGSUMEXP}
    plain = linear_cross_entropy(HIDDEN, WEIGHTS, LABELS, where=WHERE, **OPTIONS, **cotangents)
    actual = (gradients[name] for name in ("hidden", "weights", "bias"))
    for ours, right in zip((*results, *actual), plain, strict=True):
        close(ours[:CLASSES] if len(ours) == PADDED else ours, right)
    for name in ("weights", "bias", "class_prior"):
        assert np.all(gradients[name][CLASSES:] == 0.0)


def test_a_label_outside_the_classes_is_loud_and_one_that_cannot_occur_infinite():
    where, labels = np.ones(TOKENS, bool), LABELS.copy()
    labels[:4] = -1, PADDED, CLASSES, PADDED - 1
    gradients, (losses, *_) = program((1, 8))(arguments(), labels, where)
    assert np.all(np.isnan(losses[:2]))
    assert np.all(np.isposinf(losses[2:4]))
    assert np.all(np.isfinite(losses[4:]))
    assert np.all(np.isnan(gradients["hidden"][:2]))
    assert np.all(np.isnan(gradients["weights"]))
    where[:2] = False
    gradients, _ = program((1, 8))(arguments(), labels, where)
    alone, _ = program(None)(arguments(), labels, where)
    close(gradients["hidden"], alone["hidden"])
    assert np.all(np.isfinite(gradients["weights"]))
    nothing = arguments(bias=np.full(PADDED, -np.inf, np.float32))
    assert np.all(np.isnan(program((1, 8))(nothing, LABELS, where)[1][0][where]))


@functools.cache
def plain_program():
    """Returns a program for losses without any option."""
    run = functools.partial(
        xent.linear_softmax_cross_entropy, vocabulary_axis="vocabulary", return_argmax=True
    )
    return jax.jit(over((1, 8), run, (P(), ROWS, P()), P()))


def test_the_first_of_several_largest_on_any_device():
    ones, labels = np.ones((1, 1), np.float32), np.zeros(1, np.int32)
    weights = np.zeros((PADDED, 1), np.float32)
    weights[[5, 9, 10]] = 1.0  # on three devices
    assert plain_program()(ones, weights, labels)[1] == 5
    weights[[13, 15]] = np.nan
    losses, argmax = plain_program()(ones, weights, labels)
    assert argmax == 13
    assert np.isnan(losses)


def test_a_small_loss_of_large_logits_keeps_its_digits():
    hidden, weights = np.full((1, 1), 1e4, np.float32), np.full((PADDED, 1), -1.0, np.float32)
    weights[3], weights[12] = 1.0, 1.0 - 1e-3
    gap = 1e4 - 1e4 * float(weights[12, 0])
    losses, _ = plain_program()(hidden, weights, np.array([3]))
    np.testing.assert_allclose(losses, np.log1p(np.exp(-gap)), rtol=2e-2)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_the_sum_over_two_axes_with_gradients_taken_inside(dtype):
    omega, axes = np.abs(OF_LOSS), ("a", "b")
    bias = padded(np.zeros(CLASSES, np.float32), -np.inf)

    def run(hidden, weights, omega, labels):
        rows = jax.lax.axis_index(axes) * len(weights) + jnp.arange(len(weights))
        pair = xent.linear_softmax_cross_entropy_sum(
            hidden,
            weights,
            labels,
            weights_per_token=omega,
            bias=jnp.asarray(bias)[rows],
            vocabulary_axis=axes,
        )
        value, normaliser = jax.lax.psum(pair, "data")
        return value / normaliser

    specs, names = (DATA, P(axes), DATA, DATA), ("data", *axes)
    gradients = jax.value_and_grad(run, (0, 1, 2))
    run = jax.jit(over((2, 2, 2), gradients, specs, (P(), specs[:3]), names))
    hidden, weights = jnp.asarray(HIDDEN, dtype), jnp.asarray(padded(WEIGHTS), dtype)
    value, (d_hidden, d_weights, d_omega) = run(hidden, weights, omega, LABELS)
    each = omega / omega.sum()
    plain = linear_cross_entropy(hidden, weights[:CLASSES], LABELS, of_loss=each)
    mean = np.sum(each * plain.loss)
    tolerance = 2e-5 if dtype == np.float32 else 2e-2
    close(value, mean)
    close(d_hidden, plain.hidden, tolerance)
    close(d_weights[:CLASSES], plain.weights, tolerance)
    close(d_omega, (plain.loss - mean) / omega.sum())


def summed(form, *arguments, **options):
    return jax.lax.psum(total(form, *arguments, vocabulary_axis="vocabulary", **options), "data")


def check(value, gradients):
    plain = linear_cross_entropy(HIDDEN, padded(WEIGHTS), LABELS)
    for actual, right in zip(
        (value, *gradients), (plain.loss.sum(), plain.hidden, plain.weights), strict=True
    ):
        close(actual, right)


@both
def test_under_remat_vmap_and_a_scan_over_micro_batches(form):
    @jax.checkpoint
    def run(hidden, weights, labels):
        def step(carry, batch):
            each = jax.vmap(functools.partial(summed, form), (0, None, 0))
            return carry + each(batch[0], weights, batch[1]).sum(), None

        batches = hidden.reshape(2, 2, -1, 4), labels.reshape(2, 2, -1)
        return jax.lax.scan(step, jnp.zeros(()), batches)[0]

    run = jax.value_and_grad(over((2, 4), run, (DATA, ROWS, DATA), P()), (0, 1))
    check(*jax.jit(run)(HIDDEN, padded(WEIGHTS), LABELS))


def test_tokens_that_were_divided_along_the_same_axis_and_gathered():
    def run(hidden, weights, labels):
        hidden = jax.lax.all_gather(hidden, "vocabulary", tiled=True)
        labels = jax.lax.all_gather(labels, "vocabulary", tiled=True, to="invarying")
        return summed("sum", hidden, weights, labels)

    tokens = P(("data", "vocabulary"))
    run = jax.jit(jax.value_and_grad(over((2, 4), run, (tokens, ROWS, tokens), P()), (0, 1)))
    check(*run(HIDDEN, padded(WEIGHTS), LABELS))


def test_derivatives_of_every_order_through_the_reference():
    def gradient(hidden, axis):
        def run(hidden, weights):
            options = {"implementation": "reference", "vocabulary_axis": axis, "z_loss": 0.1}
            return total("sum", hidden, weights, LABELS[:2], **options)

        run = over((1, 8), run, (P(), ROWS), P()) if axis else run
        return jax.grad(run)(hidden, padded(WEIGHTS))

    def hessian_times(axis):
        of = functools.partial(gradient, axis=axis)
        return jax.jit(lambda hidden: jax.jvp(of, (hidden,), (hidden,))[1])(HIDDEN[:2])

    close(hessian_times("vocabulary"), hessian_times(None))


def collectives(lowered):
    return re.findall(r"stablehlo\.(all_\w+|reduce_scatter|collective_\w+)", lowered.as_text())


@both
def test_two_collectives_forward_one_backward_and_no_temporary_near_the_logits(form, monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 128)
    tokens, width, classes = 1024, 4, 8 * 2048
    shapes = jnp.zeros((tokens, width)), jnp.zeros((classes, width)), jnp.zeros(tokens, int)

    def run(*arguments):
        return total(form, *arguments, label_smoothing=0.1, vocabulary_axis="vocabulary")

    run = over((1, 8), run, (P(), ROWS, P()), P())
    assert collectives(jax.jit(run).lower(*shapes)) == ["all_reduce"] * 2
    lowered = jax.jit(jax.value_and_grad(run, (0, 1))).lower(*shapes)
    assert collectives(lowered) == ["all_reduce"] * 3
    compiled = lowered.compile()
    left = re.findall(r" (all-\w+|reduce-scatter|collective-\w+)\(", compiled.as_text())
    assert left == ["all-reduce"] * 3
    sizes = re.findall(r"= \w+\[([\d,]*)\]\S* all-reduce\(", compiled.as_text())
    assert sorted(sizes) == sorted([f"{tokens}", f"{3 * tokens + 1}", f"{tokens},{width}"])
    logits = 4 * tokens * classes // 8
    assert compiled.memory_analysis().temp_size_in_bytes < logits / 3


def test_weights_that_are_not_divided_and_labels_that_are_say_so():
    def run(specs, **options):
        function = functools.partial(total, "sum", vocabulary_axis="vocabulary")
        function = over((1, 8), function, specs, P(), **options)
        jax.eval_shape(function, HIDDEN, padded(WEIGHTS), LABELS)

    for specs, options in (((P(), P(), P()), {}), ((P(), ROWS, P()), {"check_vma": False})):
        with pytest.raises(ValueError, match="needs weights that are each device's own rows"):
            run(specs, **options)
    with pytest.raises(ValueError, match="needs weights that are each device's own rows"):
        total("per token", HIDDEN, WEIGHTS, LABELS, vocabulary_axis="vocabulary")
    with pytest.raises(ValueError, match="labels must be the same on all devices"):
        run((ROWS, ROWS, ROWS))


@pytest.mark.parametrize("name", ["where", "weights_per_token"])
def test_what_is_given_per_token_and_divided_along_the_classes_says_so(name):
    values = WHERE if name == "where" else np.float32(WHERE)

    def run(hidden, weights, labels, values):
        options = {"vocabulary_axis": "vocabulary", name: values}
        return xent.linear_softmax_cross_entropy_sum(hidden, weights, labels, **options)[0]

    run = over((1, 8), run, (P(), ROWS, P(), ROWS), P())
    with pytest.raises(ValueError, match=f"^{name} must be the same on all devices .*{name}, or"):
        jax.eval_shape(run, HIDDEN, padded(WEIGHTS), LABELS, values)
