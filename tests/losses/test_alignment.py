"""CTC and the transducer against every alignment there is, at their edges, beside their peers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent
from tests.losses.cases import alignment as naive
from tests.losses.cases.row import softmax

LOSSES = [xent.ctc_loss, xent.rnn_transducer]
both = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def draw(loss, seed=0, examples=4, dtype=np.float32):
    inputs = {
        xent.ctc_loss: naive.frames_and_labels,
        xent.rnn_transducer: naive.lattice_and_labels,
    }[loss]
    logits, paddings, labels, label_paddings = inputs(np.random.default_rng(seed), examples, 4)
    return logits.astype(dtype), paddings, labels.astype(np.int32), label_paddings


@functools.cache
def compiled(loss, **keywords):
    def total(logits, *rest):
        losses = loss(logits, *rest, **keywords)
        return losses.sum(), losses

    return jax.jit(jax.grad(total, has_aux=True))


def value_and_gradient(loss, logits, *rest, **keywords):
    gradient, losses = compiled(loss, **keywords)(logits, *rest)
    return np.asarray(losses), np.asarray(gradient)


def test_the_probabilities_of_all_label_sequences_sum_to_one():
    logits = np.random.default_rng(0).normal(size=(1, 3, 3)).astype(np.float32)
    sequences = [y for n in range(4) for y in itertools.product([1, 2], repeat=n)]
    labels = np.array([[*y, *[0] * (3 - len(y))] for y in sequences], np.int32)
    losses = jax.jit(xent.ctc_loss)(
        np.repeat(logits, len(labels), 0), np.zeros((len(labels), 3)), labels, labels == 0
    )
    assert np.isposinf(losses).sum() == 6  # as (1, 1, 2): repetitions need a blank's frame each
    np.testing.assert_allclose(np.exp(-losses).sum(), 1.0, rtol=1e-6)


def test_the_gradient_is_the_probability_less_the_share_of_the_alignments():
    logits, paddings, labels, label_paddings = draw(xent.ctc_loss)
    _, gradient = value_and_gradient(xent.ctc_loss, logits, paddings, labels, label_paddings)
    for z, no_frame, y, no_label, ours in zip(
        logits, paddings, labels, label_paddings, gradient, strict=True
    ):
        p = softmax(z[no_frame == 0].astype(np.float64))
        frames = np.arange(len(p))
        paths = naive.alignments(tuple(y[no_label == 0].tolist()), *p.shape)
        share = np.prod(p[frames, paths], axis=-1)
        emits = np.einsum("a,atk->tk", share / share.sum(), np.eye(4)[paths])
        np.testing.assert_allclose(ours[: len(p)], p - emits, atol=1e-6)
        assert np.all(ours[len(p) :] == 0)


def test_edges_of_length():
    """No frames, no labels, one frame, as many frames as labels need, and one too few."""
    z = np.random.default_rng(0).normal(size=(7, 3, 3)).astype(np.float32)
    log_p = np.log(softmax(z.astype(np.float64)))
    frames, labels = np.array([0, 0, 1, 1, 3, 2, 1]), [[], [1], [], [2], [1, 1], [1, 1], [1, 2]]
    padding = np.arange(3) >= frames[:, None]
    counts = np.array([len(y) for y in labels])
    y = np.array([[*y, *[0] * (2 - len(y))] for y in labels], np.int32)
    loss, gradient = value_and_gradient(
        xent.ctc_loss, z, padding, y, np.arange(2) >= counts[:, None]
    )
    expected = [
        0.0,
        np.inf,
        -log_p[2, 0, 0],
        -log_p[3, 0, 2],
        -log_p[4, [0, 1, 2], [1, 0, 1]].sum(),
        np.inf,
        np.inf,
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.all(gradient[np.isinf(loss)] == 0)
    assert np.all(gradient[0] == 0)
    zeroed, again = value_and_gradient(
        xent.ctc_loss, z, padding, y, np.arange(2) >= counts[:, None], zero_infinity=True
    )
    np.testing.assert_array_equal(zeroed, np.where(np.isinf(loss), 0.0, loss))
    np.testing.assert_array_equal(again, gradient)


def test_ctc_of_a_batch_without_labels():
    z = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    nothing = np.zeros((2, 0), np.int32)
    loss = jax.jit(xent.ctc_loss)(z, np.zeros((2, 3)), nothing, nothing)
    np.testing.assert_allclose(loss, -np.log(softmax(z)[..., 0]).sum(-1), rtol=1e-5)


def test_a_transducer_without_labels_or_frames():
    z = np.random.default_rng(0).normal(size=(3, 2, 2, 3)).astype(np.float32)
    log_p = np.log(softmax(z.astype(np.float64)))
    padding, labels = np.array([[0, 0], [1, 1], [1, 1]]), np.array([[1], [1], [1]], np.int32)
    loss, gradient = value_and_gradient(
        xent.rnn_transducer, z, padding, labels, np.array([[1], [1], [0]])
    )
    np.testing.assert_allclose(loss, [-log_p[0, :, 0, 0].sum(), 0.0, np.inf], rtol=1e-6)
    assert np.all(gradient[1:] == 0)
    assert np.all(gradient[0, :, 1] == 0)
    none = jax.jit(xent.rnn_transducer)(z[:, :, :1], padding, labels[:, :0], np.ones((3, 0)))
    np.testing.assert_allclose(none, [-log_p[0, :, 0, 0].sum(), 0.0, 0.0], rtol=1e-6, atol=1e-6)


@both
def test_no_frames_and_no_batch(loss):
    logits, paddings, labels, label_paddings = draw(loss)
    loss = jax.jit(loss)
    empty = loss(logits[:, :0], paddings[:, :0], labels, np.ones_like(labels))
    np.testing.assert_array_equal(empty, np.zeros(4))
    assert loss(logits[:0], paddings[:0], labels[:0], label_paddings[:0]).shape == (0,)


@both
def test_padding_has_no_influence_and_no_gradient_whatever_it_holds(loss):
    logits, paddings, labels, label_paddings = draw(loss)
    expected, clean = value_and_gradient(loss, logits, paddings, labels, label_paddings)
    hidden = np.broadcast_to(
        paddings.reshape(paddings.shape + (1,) * (logits.ndim - 2)) == 1, logits.shape
    )
    if loss is xent.rnn_transducer:
        late = np.pad(label_paddings, ((0, 0), (1, 0))) == 1
        hidden = hidden | late[:, None, :, None]
    assert hidden.any()
    for garbage in (np.nan, np.inf, -np.inf, 1e30):
        dirty = np.where(hidden, np.float32(garbage), logits)
        wrong = np.where(label_paddings == 1, np.int32(-7), labels)
        losses, gradient = value_and_gradient(loss, dirty, paddings, wrong, label_paddings)
        np.testing.assert_array_equal(losses, expected)
        np.testing.assert_array_equal(gradient, clean)
        assert np.all(gradient[hidden] == 0)


def test_ctc_leaves_out_padded_frames_wherever_they_are():
    logits, _, labels, label_paddings = draw(xent.ctc_loss)
    spread = np.insert(logits, [0, 2, 4], np.nan, axis=1)
    padding = np.isnan(spread[..., 0])
    loss = jax.jit(xent.ctc_loss)
    np.testing.assert_allclose(
        loss(spread, padding, labels, label_paddings),
        loss(logits, np.zeros(logits.shape[:2], np.int32), labels, label_paddings),
        rtol=1e-6,
    )


@both
def test_labels_that_cannot_be_give_nan_and_a_nan_gradient_in_their_row_alone(loss):
    logits, paddings, _, _ = draw(loss, examples=6)
    labels = np.array([[1, 2], [4, 1], [1, -1], [0, 1], [1, 2], [1, 1]], np.int32)
    label_paddings = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [0, 1]])
    bad = np.array([False, True, True, True, True, False])
    for keywords in [{}, {"zero_infinity": True}][: 1 + (loss is xent.ctc_loss)]:
        losses, gradient = value_and_gradient(
            loss, logits, paddings, labels, label_paddings, **keywords
        )
        np.testing.assert_array_equal(np.isnan(losses), bad)
        np.testing.assert_array_equal(np.isnan(gradient).reshape(6, -1).any(-1), bad)


def test_frames_after_padding_are_an_error_in_the_transducer():
    logits, paddings, labels, label_paddings = draw(xent.rnn_transducer)
    paddings[1] = [0, 1, 0]
    losses = jax.jit(xent.rnn_transducer)(logits, paddings, labels, label_paddings)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False, False])


@both
def test_classes_that_cannot_occur(loss):
    logits, paddings, labels, _ = draw(loss)
    no_padding = np.zeros_like(labels)
    other = 1 + labels[:, 0] % 3  # not the first label
    never = logits.copy()
    never[np.arange(4), ..., other] = -np.inf
    losses, gradient = value_and_gradient(loss, never, paddings, labels, no_padding)
    needed = labels[:, 1] == other
    np.testing.assert_array_equal(np.isposinf(losses), needed)
    assert not np.any(np.isnan(gradient))
    assert np.all(gradient[np.isneginf(never)] == 0)
    nothing = np.full_like(logits, -np.inf)
    assert np.all(np.isnan(jax.jit(loss)(nothing, paddings, labels, no_padding)))


@both
def test_is_never_negative_though_the_alignments_share_all_probability(loss):
    rng = np.random.default_rng(0)
    shape = (64, 30, 2) if loss is xent.ctc_loss else (64, 30, 1, 2)
    logits = (rng.normal(size=shape) + np.array([20.0, -20.0])).astype(np.float32)
    size = 1 if loss is xent.ctc_loss else 0
    labels = np.ones((64, size), np.int32)
    losses, gradient = value_and_gradient(
        loss, logits, np.zeros((64, 30)), labels, np.ones((64, size))
    )
    assert np.all(losses >= 0.0)
    assert np.all(np.isfinite(gradient))


def test_is_never_negative_where_rounding_would_make_it():
    rng = np.random.default_rng(0)
    logits = 4.0 * rng.normal(size=(400, 8, 2))
    logits[:, 2:6, 1] += 16.0
    logits[:, [0, 1, 6, 7], 0] += 24.0
    no_padding, labels = np.zeros((400, 8)), np.ones((400, 1), np.int32)
    no_label_padding = np.zeros((400, 1))
    losses = jax.jit(xent.ctc_loss)(logits.astype(np.float32), no_padding, labels, no_label_padding)
    assert np.all(losses >= 0.0)
    assert np.any(losses == 0.0)  # of which a sixth were about -1e-6


@both
@pytest.mark.parametrize("order", ["reverse over forward", "forward over reverse"])
def test_second_derivatives_stay_finite_where_no_alignment_is_possible(loss, order):
    logits, _, labels, _ = draw(loss)
    paddings = np.ones(logits.shape[:2])
    paddings[:2, 0] = 0

    def total(z):
        losses = loss(z, paddings, labels, np.zeros_like(labels))
        return jnp.where(jnp.isinf(losses), 0.0, losses).sum()

    def slope(z):
        return jax.jvp(total, (z,), (jnp.ones_like(z),))[1]

    second = jax.grad(slope) if order == "reverse over forward" else None
    second = second or (lambda z: jax.jvp(jax.grad(total), (z,), (jnp.ones_like(z),))[1])
    assert np.all(np.isfinite(jax.jit(second)(logits)))


@both
def test_maps_and_takes_another_blank(loss):
    @jax.jit
    def results(logits, paddings, labels, label_paddings):
        inputs = logits, paddings, labels, label_paddings
        mapped = jax.vmap(loss)(*(jnp.stack([x, x]) for x in inputs))
        # The blank moves from the first to the last class.
        rolled = jnp.roll(logits, -1, -1)
        moved = loss(rolled, paddings, labels - 1, label_paddings, blank_id=3)
        return loss(*inputs), mapped, moved

    expected, mapped, moved = results(*draw(loss))
    np.testing.assert_allclose(mapped, np.stack([expected] * 2), rtol=1e-6)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


@both
def test_large_logits_lose_no_digits(loss):
    logits, *rest = draw(loss)
    logits = np.round(logits * 1024) / 1024  # so that the sum below is exact
    loss = jax.jit(loss)
    np.testing.assert_allclose(loss(logits + 4096, *rest), loss(logits, *rest), rtol=1e-6)


def test_a_long_sequence_loses_few_digits():
    rng = np.random.default_rng(0)
    logits = 3.0 * rng.normal(size=(1, 2000, 8))
    labels = rng.integers(1, 8, (1, 40)).astype(np.int32)
    rest = np.zeros((1, 2000)), labels, np.zeros((1, 40))
    loss, gradient = value_and_gradient(xent.ctc_loss, logits.astype(np.float32), *rest)
    with jax.enable_x64(True):
        exact = value_and_gradient(
            xent.ctc_loss, logits.astype(np.float32).astype(np.float64), *rest
        )
    assert exact[1].dtype == np.float64
    np.testing.assert_allclose(loss, exact[0], rtol=5e-7)
    np.testing.assert_allclose(gradient, exact[1], atol=4e-4)  # 8e-3 in Optax
    np.testing.assert_allclose(gradient.sum(-1), np.zeros((1, 2000)), atol=1e-5)


def test_holds_no_array_of_frames_times_labels_times_classes():
    frames, labels, classes = 64, 32, 512
    shapes = [(1, frames, classes), (1, frames), (1, labels), (1, labels)]
    arrays = [
        jnp.zeros(shape, jnp.int32 if i == 2 else jnp.float32) for i, shape in enumerate(shapes)
    ]
    gradient = jax.jit(jax.grad(lambda *inputs: xent.ctc_loss(*inputs).sum()))
    temporary = gradient.lower(*arrays).compile().memory_analysis().temp_size_in_bytes
    assert temporary < frames * labels * classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((2, 4), np.float32)}, r"logits must have shape \(B, T, "),
        ({"paddings": np.zeros((3, 4))}, "logit_paddings must have shape"),
        ({"labels": np.zeros((3, 2), np.int32)}, "labels must hold one row for each of 4"),
        ({"label_paddings": np.zeros((4, 3))}, "label_paddings must have shape"),
        ({"blank_id": 4}, "blank_id must be one of 4 classes, got 4"),
    ],
)
@both
def test_arguments_that_do_not_fit_are_told(loss, change, message):
    names = ("logits", "paddings", "labels", "label_paddings")
    arguments = dict(zip(names, draw(loss), strict=True)) | change
    blank_id = arguments.pop("blank_id", 0)
    with pytest.raises(ValueError, match=message):
        loss(*arguments.values(), blank_id=blank_id)


@both
def test_types_that_do_not_fit_are_told(loss):
    logits, paddings, labels, label_paddings = draw(loss)
    with pytest.raises(TypeError):
        loss(logits.astype(np.int32), paddings, labels, label_paddings)
    with pytest.raises(TypeError):
        loss(logits, paddings, labels.astype(np.float32), label_paddings)


def test_a_transducer_needs_logits_after_each_number_of_labels():
    logits, paddings, labels, label_paddings = draw(xent.rnn_transducer)
    with pytest.raises(ValueError, match="one entry more than labels"):
        xent.rnn_transducer(logits[:, :, :2], paddings, labels, label_paddings)


def test_agrees_with_optax_where_an_alignment_is_possible_and_is_infinite_where_not():
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 12, 5)).astype(np.float32)
    labels = np.array([[1, 1, 2], [4, 3, 4], [2, 2, 2]], np.int32)
    frames = np.array([[12], [7], [5]])
    rest = (
        (np.arange(12) >= frames).astype(np.float32),
        labels,
        (np.arange(3) >= np.array([[3], [2], [3]])).astype(np.float32),
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = value_and_gradient(optax.ctc_loss, logits, *rest)
        short = rest[0].copy()
        short[2, 4:] = 1  # 2 2 2 takes five frames
        impossible, _ = value_and_gradient(optax.ctc_loss, logits, short, *rest[1:])
    ours = value_and_gradient(xent.ctc_loss, logits, *rest)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
    assert 9e4 < impossible[2] < np.inf
    assert np.isposinf(value_and_gradient(xent.ctc_loss, logits, short, *rest[1:])[0][2])


def test_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 9, 5)).astype(np.float32)
    labels = rng.integers(1, 5, (4, 3))
    frames, counts = np.array([9, 7, 2, 5]), np.array([3, 2, 3, 0])
    z = torch.from_numpy(logits.copy()).requires_grad_()
    # Their gradient is the one for logits already, so it is taken through the log-softmax.
    theirs = torch.nn.functional.ctc_loss(
        torch.log_softmax(z, -1).transpose(0, 1),
        torch.from_numpy(labels),
        torch.from_numpy(frames),
        torch.from_numpy(counts),
        reduction="none",
        zero_infinity=True,
    )
    theirs.sum().backward()
    ours = value_and_gradient(
        xent.ctc_loss,
        logits,
        np.arange(9) >= frames[:, None],
        labels.astype(np.int32),
        np.arange(3) >= counts[:, None],
        zero_infinity=True,
    )
    np.testing.assert_allclose(ours[0], theirs.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours[1], z.grad.numpy(), atol=1e-5)
