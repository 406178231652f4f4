"""Runs every public loss through its family's contract, row by row of `tests/loss_cases.py`.

All families: value, jvp, vjp and both mixed second derivatives against the reference, with respect
to every float argument and hyper-parameter; float16, bfloat16, float32 and float64; masks; another
axis; vmap over examples and over each hyper-parameter; one, two and many classes; an empty batch.
Losses of logits and integer labels also: extreme and -inf logits, labels outside the classes, and
errors that say what was wrong.
"""

import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xent_jax as xent
from tests.loss_cases import CASES
from tests.losses.cases.row import LossCase, logits_and_labels

EXAMPLES, CLASSES = 5, 4


def cases(*families: str):
    rows = [case for case in CASES if not families or case.family in families]
    return pytest.mark.parametrize("case", rows, ids=lambda case: case.name)


def draw(case: LossCase, examples=EXAMPLES, classes=CLASSES, dtype=np.float64, seed=0):
    """Returns positional arguments in `dtype`, integer ones as they are."""
    inputs = case.inputs(np.random.default_rng(seed), examples, classes)
    return tuple(x.astype(dtype) if is_float(x) else x.astype(np.int32) for x in inputs)


def call(case: LossCase, inputs, values=None, **keywords):
    classes = inputs[0].shape[keywords.get("axis", -1)]
    values = case.values if values is None else values
    return case.pick(case.function(*inputs, **values, **case.context(classes), **keywords))


def reference(case: LossCase, inputs, values=None):
    values = case.values if values is None else values
    with np.errstate(all="ignore"):
        inputs = [np.asarray(x, np.float64) if is_float(x) else np.asarray(x) for x in inputs]
        return case.reference(*inputs, **values, **case.context(inputs[0].shape[-1]))


def is_float(array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def split(inputs):
    """Returns the float arguments, and a function that puts the others back in their places."""
    floats = tuple(x for x in inputs if is_float(x))

    def join(floats):
        rest = iter(floats)
        return tuple(next(rest) if is_float(x) else x for x in inputs)

    return floats, join


# Fourth-order central differences: the error is about 1e-12 of the function's size.
STENCIL = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
STEP = 1e-3


def scale(x):
    """Returns how far a number may be moved, so that a small probability stays positive."""
    return np.clip(np.abs(x), 0.02, 1.0)


def numeric_gradient(function, point):
    """Returns the gradient of a scalar NumPy function of a list of arrays."""
    gradients = []
    for position, array in enumerate(point):
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            step = STEP * scale(array[index])
            for offset, weight in STENCIL.items():
                moved = [x.copy() for x in point]
                moved[position][index] += offset * step
                gradient[index] += weight / step * function(moved)
        gradients.append(gradient)
    return gradients


class Problem(NamedTuple):
    """What is differentiated in double precision: a weighted sum of a loss's values."""

    case: LossCase
    inputs: tuple[np.ndarray, ...]
    point: list[np.ndarray]  # the float arguments, then the hyper-parameters
    direction: list[np.ndarray]
    expected: np.ndarray  # values
    cotangent: np.ndarray

    def arguments(self, point):
        floats, join = split(self.inputs)
        names = self.case.parameters
        return join(point[: len(floats)]), dict(zip(names, point[len(floats) :], strict=True))

    def value(self, point):
        return call(self.case, *self.arguments(point))

    def objective(self, point):
        return jnp.vdot(self.value(point), self.cotangent)

    def exact(self, point):
        return np.vdot(reference(self.case, *self.arguments(point)), self.cotangent)

    def slope(self, point):
        return jax.jvp(self.objective, (point,), (self.direction,))[1]

    def slope_of_gradient(self, point):
        return jax.jvp(jax.grad(self.objective), (point,), (self.direction,))[1]


def problem(case: LossCase) -> Problem:
    inputs = draw(case)
    point = [*split(inputs)[0], *(np.float64(value) for value in case.values.values())]
    rng = np.random.default_rng(1)
    direction = [np.asarray(scale(x) * rng.normal(size=np.shape(x))) for x in point]
    expected = reference(case, inputs)
    return Problem(case, inputs, point, direction, expected, rng.normal(size=expected.shape))


@cases()
def test_value_and_derivatives_match_the_reference(case):
    ask = problem(case)

    @jax.jit
    def derivatives(point):
        line = [
            jnp.stack([x + offset * STEP * d for offset in (0, *STENCIL)])
            for x, d in zip(point, ask.direction, strict=True)
        ]
        return {
            "value": ask.value(point),
            "slope": ask.slope(point),
            "gradients": jax.vmap(jax.grad(ask.objective))(line),
            "slope of the gradient": ask.slope_of_gradient(point),
        }

    with jax.enable_x64(True):
        ours = derivatives([jnp.asarray(x) for x in ask.point])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    close(ours["value"], ask.expected)

    gradient = numeric_gradient(ask.exact, [np.asarray(x) for x in ask.point])
    weights = np.array(list(STENCIL.values())) / STEP
    close(ours["slope"], sum(np.vdot(g, d) for g, d in zip(gradient, ask.direction, strict=True)))
    for i, numeric in enumerate(gradient):
        here, around = ours["gradients"][i][0], ours["gradients"][i][1:]
        close(here, numeric)
        second = np.tensordot(weights, around, axes=1)
        np.testing.assert_allclose(ours["slope of the gradient"][i], second, rtol=1e-7, atol=1e-8)


@pytest.mark.slow  # The other order nearly implies it.
@cases()
def test_the_gradient_of_a_slope_is_the_slope_of_the_gradient(case):
    ask = problem(case)

    @jax.jit
    def both(point):
        return jax.grad(ask.slope)(point), ask.slope_of_gradient(point)

    with jax.enable_x64(True):
        ours = both([jnp.asarray(x) for x in ask.point])
    for one, other in zip(*ours, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "half", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)], ids=jnp.dtype
)
@cases()
def test_computes_half_precision_in_float32_and_returns_gradients_in_the_inputs_dtype(case, half):
    # Numbers that every dtype holds exactly, so that only the computation can differ.
    floats, join = split(draw(case, dtype=jnp.bfloat16))
    dtypes = [half, jnp.float32]

    @jax.jit
    def values_and_gradients(floats):
        def total(floats):
            loss = call(case, join(floats))
            return loss.sum(), loss

        return [
            jax.value_and_grad(total, has_aux=True)(tuple(x.astype(dtype) for x in floats))
            for dtype in dtypes
        ]

    results = values_and_gradients(floats)
    (_, single), single_gradient = results[-1]
    assert single.dtype == jnp.float32
    expected = reference(case, join(floats))
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)
    for dtype, ((_, loss), gradient) in zip(dtypes, results, strict=True):
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, single, rtol=1e-6, atol=1e-6)
        for ours, exact in zip(gradient, single_gradient, strict=True):
            assert ours.dtype == dtype
            np.testing.assert_allclose(
                ours.astype(jnp.float32), exact, rtol=2 * jnp.finfo(dtype).eps, atol=1e-6
            )


@cases("classification", "distribution", "binary")
def test_masked_examples_give_exactly_zero_whatever_they_hold(case):
    clean = draw(case, examples=6, dtype=np.float32)
    where = np.array([True, False, True, False, False, True])
    mask = np.broadcast_to(where[:, None], clean[0].shape) if case.family == "binary" else where
    garbage = [np.nan, np.inf, -np.inf]
    dirty = tuple(x.copy() for x in clean)
    for x in dirty:
        for row, value in zip(np.flatnonzero(~where), garbage, strict=True):
            x[row] = value if is_float(x) else -1
    values = {name: jnp.float32(value) for name, value in case.values.items()}

    @jax.jit
    def masked(inputs, where):
        floats, join = split(inputs)

        def total(floats, values):
            loss = call(case, join(floats), values, where=where)
            return loss.sum(), loss

        gradients, loss = jax.grad(total, (0, 1), has_aux=True)(floats, values)
        return loss, gradients

    loss, (gradients, slopes) = masked(dirty, mask)
    expected_loss, (expected_gradients, expected_slopes) = masked(clean, mask)
    assert np.all(loss[~where] == 0)
    np.testing.assert_array_equal(loss, expected_loss)
    np.testing.assert_allclose(expected_loss[where], reference(case, clean)[where], 1e-5, 1e-6)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert np.all(gradient[~where] == 0)
        assert np.any(expected[where] != 0)
        np.testing.assert_array_equal(gradient, expected)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, slopes, expected_slopes))

    loss, gradients = masked(dirty, np.zeros_like(mask))
    assert all(np.all(x == 0) for x in jax.tree.leaves((loss, gradients)))


@cases("classification", "distribution", "binary")
def test_maps_over_examples_and_hyper_parameters_and_along_any_axis(case):
    inputs = draw(case, dtype=np.float32)
    others = {name: parameter.other for name, parameter in case.parameters.items()}

    @jax.jit
    def variants(inputs, values):
        mapped = {"examples": jax.vmap(lambda *inputs: call(case, inputs, values))(*inputs)}
        for name, value in values.items():
            both = jnp.stack([value, jnp.float32(others[name])])
            mapped[name] = jax.vmap(lambda x, n=name: call(case, inputs, values | {n: x}))(both)
        if "axis" in inspect.signature(case.function).parameters:
            twice = [jnp.stack([x, x]) for x in inputs]
            middle = [jnp.moveaxis(x, -1, 1) if x.ndim == 3 else x for x in twice]
            mapped["axis"] = call(case, middle, values, axis=1)
        return mapped

    ours = variants(inputs, {name: jnp.float32(value) for name, value in case.values.items()})
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    expected = reference(case, inputs)
    close(ours.pop("examples"), expected)
    if "axis" in ours:
        close(ours.pop("axis"), np.stack([expected, expected]))
    for name, mapped in ours.items():
        changed = reference(case, inputs, case.values | {name: others[name]})
        close(mapped, np.stack([expected, changed]))


@cases("classification", "distribution", "binary")
def test_any_number_of_classes_and_of_examples(case):
    shapes = [(0, 3), (2, 1), (2, 2), (2, 1000)]
    drawn = [draw(case, *shape, dtype=np.float32) for shape in shapes]

    @jax.jit
    def all_sizes(drawn):
        def total(floats, join):
            loss = call(case, join(floats))
            return loss.sum(), loss

        return [jax.grad(total, has_aux=True)(*split(inputs)) for inputs in drawn]

    for inputs, (gradients, loss) in zip(drawn, all_sizes(drawn), strict=True):
        expected = reference(case, inputs)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
        assert loss.shape == expected.shape
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def over_logits():
    """Marks a test of the losses of logits and integer labels."""
    rows = [case for case in CASES if case.inputs is logits_and_labels]
    return pytest.mark.parametrize("case", rows, ids=lambda case: case.name)


@functools.cache
def compiled(name: str):
    """Returns (logits, labels) -> loss, gradient, jvp along ones, slopes; compiled once.

    The slopes are those in each hyper-parameter of the sum of the finite losses.
    """
    case = next(case for case in CASES if case.name == name)

    @jax.jit
    def derivatives(logits, labels):
        def loss(logits, values=None, **keywords):
            return call(case, (logits, labels), values, **keywords)

        values, pullback = jax.vjp(loss, logits)
        tangents = jax.jvp(loss, (logits,), (jnp.ones_like(logits),))[1]
        slopes = jax.grad(lambda x: loss(logits, x, where=jnp.isfinite(values)).sum())(case.values)
        return values, pullback(jnp.ones_like(values))[0], tangents, slopes

    return derivatives


@over_logits()
def test_extreme_logits(case):
    inf = np.inf
    rows = [
        ([1e4, -1e4, 0, 0], 0),
        ([1e4, -1e4, 0, 0], 1),
        ([0, 0, 0, 0], 2),
        ([-1e4, -1e4, -1e4, -1e4], 0),
        ([-inf, 0, 1, 2], 2),
        ([-inf, 0, 1, 2], 0),  # the label cannot occur
        ([-inf, -inf, -inf, 0], 3),
        ([-inf, -inf, -inf, -inf], 1),
    ]
    logits = np.array([row for row, _ in rows], np.float32)
    labels = np.array([label for _, label in rows], np.int32)
    loss, gradient, tangent, slopes = compiled(case.name)(logits, labels)
    assert np.isnan(loss[-1])
    for array in (loss, gradient, tangent):
        assert not np.any(np.isnan(array[:-1]))
    assert np.all(np.isfinite(list(slopes.values())))
    cannot_occur = np.isneginf(logits) & (np.arange(CLASSES) != labels[:, None])
    assert np.all(gradient[:-1][cannot_occur[:-1]] == 0)
    expected = reference(case, (logits, labels))
    known = np.isfinite(expected)
    assert known.sum() >= 5
    np.testing.assert_allclose(loss[known], expected[known], rtol=1e-5, atol=1e-5)


@over_logits()
def test_labels_outside_the_classes_give_nan_and_a_nan_gradient(case):
    logits = draw(case, examples=8, dtype=np.float32)[0]
    labels = np.array([-1, CLASSES, -100, 2**31 - 1, -(2**31), 0, 1, 3], np.int32)
    outside = (labels < 0) | (labels >= CLASSES)
    loss, gradient, *_ = compiled(case.name)(logits, labels)
    np.testing.assert_array_equal(np.isnan(loss), outside)
    np.testing.assert_array_equal(np.isnan(gradient).any(-1), outside)


@over_logits()
@given(
    # Subnormal numbers are 0 to XLA on CPU, so that the largest logit may be another one.
    logits=hnp.arrays(
        np.float32, (8, CLASSES), elements=st.floats(-60, 60, width=32, allow_subnormal=False)
    ),
    labels=hnp.arrays(np.int32, 8, elements=st.integers(0, CLASSES - 1)),
)
def test_any_logits_agree_with_the_reference(case, logits, labels):
    loss, gradient, *_ = compiled(case.name)(logits, labels)
    expected = reference(case, (logits, labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
    assert np.all(np.isfinite(gradient))


@over_logits()
def test_arguments_that_do_not_fit_are_told(case):
    logits, labels = draw(case, dtype=np.float32)
    where = np.ones(logits.shape, bool)
    with pytest.raises(TypeError):
        call(case, (logits.astype(np.int32), labels))
    with pytest.raises(TypeError):
        call(case, (logits, labels), where=where[:, 0].astype(np.float32))
    with pytest.raises(ValueError, match="class_mask"):
        call(case, (logits, labels), where=where)
    with pytest.raises(ValueError, match=r"labels .* got \(3,\)"):
        call(case, (logits, labels[:3]))
    with pytest.raises(ValueError, match="no axis 2"):
        case.function(logits, labels, **case.values, **case.context(CLASSES), axis=2)


@cases()
def test_hyper_parameters_out_of_range_are_told(case):
    inputs = draw(case, dtype=np.float32)

    def trace(name, value):  # the check comes before anything is computed
        jax.eval_shape(lambda inputs: call(case, inputs, case.values | {name: value}), inputs)

    for name, (_, low, high, also) in case.parameters.items():
        for bad in {low - 0.5, high + 0.5, np.nan} - {also}:
            with pytest.raises(ValueError, match=rf"{name} must lie in"):
                trace(name, bad)
        with pytest.raises(ValueError, match=rf"{name} must be a scalar"):
            trace(name, np.ones(2))


@cases()
def test_hyper_parameters_default_to_the_published_values(case):
    signature = inspect.signature(case.function).parameters
    for name, value in case.defaults.items():
        assert signature[name].default == value
    assert case.parameters.keys() <= signature.keys()


@cases()
def test_limit(case):
    if case.limit is None:
        pytest.skip("no limit identity")
    left, right = case.limit(*draw(case, dtype=np.float32))
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@cases()
def test_docstring_tells_formula_arguments_source_and_example(case):
    for part in (".. math::", "Args:", "Returns:", "References:", "Example:", ">>> "):
        assert part in case.function.__doc__, f"the docstring lacks {part!r}"


def test_every_public_loss_has_a_row():
    losses = {name for name in xent.losses.__all__ if not name.startswith("init_")}
    assert {case.function.__name__ for case in CASES} == losses
