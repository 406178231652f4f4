"""Properties of the losses of segments: masks, weights, and what counts for how much."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases.overlap import dice_loss, pixels_and_segments

dice = jax.jit(xent.dice_loss)
LOSSES = (xent.dice_loss, xent.multiclass_generalized_dice_loss)
both = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def draw(sets=3, classes=4):
    logits, labels = pixels_and_segments(np.random.default_rng(1), sets, classes)
    return logits.astype(np.float32), labels


@functools.partial(jax.jit, static_argnums=0)
def gradient_and_value(loss, logits, labels, where):
    def total(logits):
        value = loss(logits, labels, where=where)
        return value.sum(), value

    return jax.grad(total, has_aux=True)(logits)


def value_and_gradient(loss, logits, labels, where=None):
    gradient, value = gradient_and_value(loss, logits, labels, where)
    return np.asarray(value), np.asarray(gradient)


@both
def test_masked_elements_have_no_influence_whatever_they_hold(loss):
    logits, labels = draw()
    where = np.ones((3, 2, 3), bool)
    where[:, 1, 2] = where[0, 0, 0] = False
    dirty = logits.copy(), labels.astype(np.float32)
    dirty[0][~where], dirty[1][~where] = np.nan, np.nan
    value, gradient = value_and_gradient(loss, *dirty, where=where)
    assert np.all(gradient[~where] == 0)
    assert np.all(np.any(gradient[where] != 0, axis=-1))
    same, _ = value_and_gradient(loss, logits, labels, where=where)
    np.testing.assert_array_equal(value, same)
    first = [np.asarray(x)[0][where[0]] for x in (logits, labels)]
    alone = dice(first[0][None], first[1][None])
    np.testing.assert_allclose(dice(*dirty, where=where)[0], alone[0], rtol=1e-5)
    value, gradient = value_and_gradient(loss, *dirty, where=np.zeros_like(where))
    assert not np.any(value)
    assert not np.any(gradient)


@both
def test_labels_outside_the_unit_interval_give_nan_in_their_set_alone(loss):
    logits, labels = draw()
    labels[1, 0, 0, 0] = -1
    value, gradient = value_and_gradient(loss, logits, labels)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradient).all((1, 2, 3)), [False, True, False])


@both
def test_the_background_is_left_out(loss):
    logits, labels = draw()
    p = jax.nn.softmax(logits)
    weights = np.ones(4)
    if loss is xent.multiclass_generalized_dice_loss:
        weights = labels.sum((0, 1, 2)) ** -2.0
        weights = 4 * weights / weights.sum()
    ours = jax.jit(functools.partial(loss, ignore_background=True))(logits, labels)
    kept = [np.asarray(x, np.float64)[..., 1:] for x in (p, labels)]
    overlap = (kept[0] * kept[1]).sum((1, 2)) + 1.0
    expected = 1.0 - overlap / (0.5 * (kept[0] + kept[1]).sum((1, 2)) + 1.0)
    np.testing.assert_allclose(ours, (weights[1:] * expected).mean(-1), rtol=1e-5)


def test_two_classes_are_two_binary_losses():
    logits, labels = draw(classes=2)
    gap = logits[..., 1] - logits[..., 0]
    binary = jax.jit(xent.binary_dice_loss)
    sides = [np.asarray(binary(s * gap, labels[..., k])) for k, s in ((1, 1), (0, -1))]
    np.testing.assert_allclose(dice(logits, labels), sum(sides) / 2, rtol=1e-5)


def test_a_class_that_cannot_occur_is_not_predicted():
    logits, labels = draw()
    logits[..., 2], labels[..., 2] = -np.inf, 0
    value, gradient = value_and_gradient(xent.dice_loss, logits, labels)
    rest = np.asarray(dice(np.delete(logits, 2, -1), np.delete(labels, 2, -1)))
    np.testing.assert_allclose(value, rest * 3 / 4, rtol=1e-5)
    assert np.all(gradient[..., 2] == 0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("absent", [0, 3])
def test_classes_weigh_by_their_inverse_square_and_not_at_all_where_there_are_none(absent):
    logits, labels = draw()
    labels[..., absent] = 0
    frequencies = labels.sum((0, 1, 2)).astype(float)
    weights = np.array([n**-2.0 if n else 0.0 for n in frequencies])
    weights *= 4 / weights.sum()
    value, gradient = value_and_gradient(xent.multiclass_generalized_dice_loss, logits, labels)
    np.testing.assert_allclose(value, dice_loss(logits, labels, weights, 0.5, 0.5, 1.0), rtol=1e-5)
    assert np.all(np.isfinite(gradient))


def test_frequencies_are_those_of_all_devices():
    logits, labels = draw(sets=4)
    split = [x.reshape(2, 2, *x.shape[1:]) for x in (logits, labels)]

    def part(logits, labels):
        return xent.multiclass_generalized_dice_loss(logits, labels, axis_name="devices")

    parts = jax.jit(jax.vmap(part, axis_name="devices"))(*split)
    whole = jax.jit(xent.multiclass_generalized_dice_loss)(logits, labels)
    np.testing.assert_allclose(parts.reshape(4), whole, rtol=1e-6)


@both
def test_arguments_that_do_not_fit_are_told(loss):
    logits, labels = draw()
    with pytest.raises(TypeError):
        loss(logits.astype(np.int32), labels)
    with pytest.raises(ValueError, match=r"see jax\.nn\.one_hot"):
        loss(logits, labels[..., :3])
    with pytest.raises(ValueError, match="goes to binary_dice_loss"):
        loss(logits[..., :1], labels[..., :1])
    with pytest.raises(ValueError, match=r"logits\[None\]"):
        loss(logits[0, 0, 0], labels[0, 0, 0])
    with pytest.raises(ValueError, match=r"where must .* \(3, 2, 3\)"):
        loss(logits, labels, where=np.ones((3, 2), bool))


def test_class_weights_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"one number per class, shape \(4,\), got \(3,\)"):
        xent.dice_loss(*draw(), class_weights=jnp.ones(3))
