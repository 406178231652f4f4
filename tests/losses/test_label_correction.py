"""What the papers prove of correcting and selecting labels, and what the matrix does not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import xent_jax as xent
from tests.losses.cases.label_correction import class_prior, log_softmax, transition_matrix
from tests.losses.cases.row import logits_and_labels, one_hot, softmax

EXAMPLES, CLASSES = 6, 4
FLIPS = np.array([[0.7, 0.3, 0.0], [0.1, 0.6, 0.3], [0.0, 0.25, 0.75]], np.float32)
DEVICES = 8


def draw(examples=EXAMPLES, classes=CLASSES, seed=0):
    logits, labels = logits_and_labels(np.random.default_rng(seed), examples, classes)
    return logits.astype(np.float32), labels.astype(np.int32)


def test_gradients_are_those_of_the_docstrings():
    logits, labels = draw()
    p, y = softmax(np.float64(logits)), one_hot(labels, CLASSES)
    matrix, prior = transition_matrix(CLASSES), class_prior(CLASSES)
    rows = matrix["transition_matrix"].T[labels] * p
    p_y = (p * y).sum(-1, keepdims=True)
    surprise = np.log(p) - (p * np.log(p)).sum(-1, keepdims=True)
    predicted = one_hot(p.argmax(-1), CLASSES)
    expected = {
        xent.soft_bootstrap: (0.95 * (p - y) - 0.05 * p * surprise, {}),
        xent.hard_bootstrap: (p - 0.8 * y - 0.2 * predicted, {}),
        xent.forward_correction: (p - rows / rows.sum(-1, keepdims=True), matrix),
        xent.backward_correction: (
            p - np.linalg.inv(np.float64(matrix["transition_matrix"]))[labels],
            matrix,
        ),
        xent.negative_learning: (p_y * (y - (1.0 - y) * p / (1.0 - p_y)), {}),
        xent.peer_loss: (prior["class_prior"] - y, prior),
    }
    gradients = jax.jit(
        lambda z: [
            jax.grad(lambda z, f=f, k=keywords: f(z, labels, **k).sum())(z)
            for f, (_, keywords) in expected.items()
        ]
    )(logits)
    for ours, (gradient, _) in zip(gradients, expected.values(), strict=True):
        np.testing.assert_allclose(ours, gradient, rtol=1e-5, atol=2e-6)


# ------------------------------------------------------------------------- transition matrices


def test_forward_correction_of_noisy_labels_is_least_at_the_clean_probabilities():
    clean = np.array([0.6, 0.1, 0.3], np.float32)
    noisy = clean @ FLIPS

    @jax.jit
    def minimise(correct):
        matrix = jnp.where(correct, FLIPS, jnp.eye(3))

        def risk(logits):
            losses = xent.forward_correction(
                jnp.broadcast_to(logits, (3, 3)), jnp.arange(3), transition_matrix=matrix
            )
            return jnp.vdot(noisy, losses)

        start = jnp.zeros(3)
        return jax.lax.fori_loop(0, 1000, lambda _, z: z - 2.0 * jax.grad(risk)(z), start)

    np.testing.assert_allclose(softmax(np.asarray(minimise(True))), clean, atol=2e-5)
    np.testing.assert_allclose(softmax(np.asarray(minimise(False))), noisy, atol=2e-5)


def test_backward_correction_is_the_clean_loss_in_the_mean_over_the_noise():
    logits, _ = draw(examples=5, classes=3)

    def losses(logits):
        of_labels = [
            xent.backward_correction(logits, np.full(5, y, np.int32), transition_matrix=FLIPS)
            for y in range(3)
        ]
        return jnp.stack(of_labels, axis=-1)

    values, slopes = jax.jit(lambda z: (losses(z), jax.jacrev(losses)(z)))(logits)
    values, p = np.float64(values), softmax(np.float64(logits))
    np.testing.assert_allclose(values @ FLIPS.T, -np.log(p), rtol=1e-5, atol=1e-5)
    assert values.min() < 0
    mean_slopes = np.einsum("nyik,cy->ncik", np.float64(slopes), FLIPS)
    for n in range(5):
        np.testing.assert_allclose(mean_slopes[n, :, n], p[n] - np.eye(3), atol=1e-5)


def test_backward_correction_takes_a_traced_matrix():
    logits, labels = draw(classes=3)
    traced = jax.jit(lambda t: xent.backward_correction(logits, labels, transition_matrix=t))
    known = xent.backward_correction(logits, labels, transition_matrix=FLIPS)
    np.testing.assert_allclose(traced(FLIPS), known, rtol=1e-5, atol=1e-6)


def test_forward_correction_can_learn_its_matrix_zeros_included():
    logits, labels = draw(examples=3, classes=3)
    labels = np.array([0, 1, 2], np.int32)
    with jax.enable_x64(True):
        z, t = jnp.float64(logits), jnp.float64(FLIPS)

        def ours(z, t):
            return xent.forward_correction(z, labels, transition_matrix=t).sum()

        def plain(z, t):
            noisy = jax.nn.softmax(z) @ t
            return -jnp.log(jnp.diagonal(noisy)).sum()

        def derivatives(f):
            return jax.grad(f, (0, 1))(z, t), jax.hessian(f, (0, 1))(z, t)

        found, expected = jax.jit(lambda: (derivatives(ours), derivatives(plain)))()
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)


def test_forward_correction_is_finite_where_the_model_is_sure_of_a_class_that_is_excluded():
    logits = np.array([[500.0, 0.0, 1.0], [500.0, 0.0, -np.inf]], np.float32)

    def loss(logits):
        return xent.forward_correction(logits, np.full(2, 2, np.int32), transition_matrix=FLIPS)

    value, gradient = jax.jit(lambda z: (loss(z), jax.grad(lambda z: loss(z).sum())(z)))(logits)
    exact = 500.0 - np.log([0.3 + 0.75 * np.e, 0.3])
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    r = 0.3 / (0.3 + 0.75 * np.e)
    np.testing.assert_allclose(gradient, [[1, -r, r - 1], [1, -1, 0]], rtol=1e-5, atol=1e-6)


def test_a_label_that_no_class_can_be_given_costs_infinitely_much_and_pulls_nowhere():
    matrix = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)

    def loss(logits):
        return xent.forward_correction(logits, np.array([1]), transition_matrix=matrix)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(np.array([[2.0, 0.0]], np.float32))
    assert np.isposinf(value)
    np.testing.assert_allclose(gradient, softmax(np.array([[2.0, 0.0]])), rtol=1e-6)


def test_anchor_points_tell_the_matrix():
    rng = np.random.default_rng(0)
    clean = np.concatenate([softmax(rng.normal(size=(20, 3))), np.eye(3)])
    noisy = (clean @ FLIPS).astype(np.float32)
    # FLIPS' columns are largest on the diagonal, so that the most probable is of that class.
    anchors = jax.jit(xent.anchor_point_transition_matrix)
    np.testing.assert_allclose(anchors(noisy), FLIPS, rtol=1e-6)
    outlier = np.concatenate([noisy, [[0.0, 0.0, 1.0], [np.nan] * 3]]).astype(np.float32)
    where = np.arange(25) < 23
    masked = anchors(outlier, where=where)
    np.testing.assert_allclose(masked, FLIPS, rtol=1e-6)
    of_quantile = jax.jit(lambda q: xent.anchor_point_transition_matrix(outlier[:24], quantile=q))
    np.testing.assert_allclose(of_quantile(22 / 23)[2], FLIPS[2], rtol=1e-6)
    np.testing.assert_array_equal(of_quantile(1.0)[2], outlier[23])
    nothing = anchors(outlier, where=np.zeros(25, bool))
    assert np.all(np.isnan(nothing))


def test_matrices_and_priors_that_do_not_fit_are_told():
    logits, labels = draw(classes=3)
    for loss in (xent.forward_correction, xent.backward_correction):
        with pytest.raises(ValueError, match="transpose"):
            loss(logits, labels, transition_matrix=FLIPS.T)
        with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
            loss(logits, labels, transition_matrix=np.eye(4, dtype=np.float32))
        with pytest.raises(ValueError, match="at least 0"):
            loss(logits, labels, transition_matrix=2 * np.eye(3, dtype=np.float32) - FLIPS)
    for singular in (np.full((3, 3), 1 / 3, np.float32), FLIPS[[0, 1, 1]]):
        with pytest.raises(ValueError, match="no inverse"):
            xent.backward_correction(logits, labels, transition_matrix=singular)
    with pytest.raises(ValueError, match="divide counts"):
        xent.peer_loss(logits, labels, class_prior=np.array([5.0, 3.0, 2.0], np.float32))
    with pytest.raises(ValueError, match=r"class_prior must have shape \(3,\), got \(2,\)"):
        xent.peer_loss(logits, labels, class_prior=np.array([0.5, 0.5], np.float32))
    with pytest.raises(ValueError, match="class_prior must be at least 0"):
        xent.peer_loss(logits, labels, class_prior=np.array([1.5, 0.0, -0.5], np.float32))
    with pytest.raises(ValueError, match="shape"):
        xent.anchor_point_transition_matrix(np.zeros((0, 3), np.float32))


# --------------------------------------------------------------------- what the label is not


def test_negative_learning_keeps_its_digits_for_small_and_large_probabilities():
    gap = np.float32([-80.0, -20.0, -12.0, -3.0, 0.0, 3.0, 12.0, 20.0, 80.0, 1e4])
    logits = np.stack([gap, np.zeros_like(gap), np.full_like(gap, -1.0)], axis=-1)
    labels = np.zeros(gap.size, np.int32)
    value, gradient = jax.jit(
        lambda z: (
            xent.negative_learning(z, labels),
            jax.grad(lambda z: xent.negative_learning(z, labels).sum())(z),
        )
    )(logits)
    odds = np.log1p(np.exp(-1.0)) - np.float64(gap)  # log((1 - p) / p)
    exact = np.where(odds > 0, np.log1p(np.exp(-np.abs(odds))), np.logaddexp(0.0, -odds))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    p = 1.0 / (1.0 + np.exp(np.where(odds > 300, np.inf, odds)))
    share = np.array([1.0, np.exp(-1.0)]) / (1.0 + np.exp(-1.0))
    np.testing.assert_allclose(gradient[:, 0], p, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, 1:], -p[:, None] * share, rtol=1e-5)


# ------------------------------------------------------------------------------- peer losses


def test_peer_loss_is_the_mean_over_all_draws_of_two_peers():
    logits, labels = draw()
    counts = np.bincount(labels, minlength=CLASSES).astype(np.float32)
    prior = counts / counts.sum()
    losses = jax.jit(lambda z: xent.peer_loss(z, labels, class_prior=prior, alpha=0.7))(logits)
    cross_entropies = -log_softmax(np.float64(logits))
    drawn = [
        cross_entropies[n, labels[n]] - 0.7 * cross_entropies[first, labels[second]]
        for n in range(EXAMPLES)
        for first in range(EXAMPLES)
        for second in range(EXAMPLES)
    ]
    np.testing.assert_allclose(np.mean(losses), np.mean(drawn), rtol=1e-5)


def test_peer_loss_of_noisy_labels_is_the_clean_one_up_to_a_factor():
    # Of two classes with noise rates e_0 and e_1, the factor is 1 - e_0 - e_1.
    flips = np.array([[0.9, 0.1], [0.3, 0.7]], np.float32)
    posterior = np.array([[0.8, 0.2], [0.3, 0.7], [0.1, 0.9]], np.float32)
    logits = draw(examples=3, classes=2)[0]

    @jax.jit
    def risk(posterior):
        prior = posterior.mean(0)
        losses = [
            xent.peer_loss(logits, np.full(3, y, np.int32), class_prior=prior) for y in range(2)
        ]
        return (posterior * jnp.stack(losses, axis=-1)).sum(-1).mean()

    np.testing.assert_allclose(risk(posterior @ flips), 0.6 * risk(posterior), rtol=1e-5)


def test_the_sieve_passes_what_peers_do_not_explain():
    logits, labels = draw(examples=20)
    prior = np.full(CLASSES, 0.25, np.float32)

    @jax.jit
    def regularised_losses(logits):
        return [
            xent.peer_loss(logits, np.full(20, y, np.int32), class_prior=prior, alpha=2.0)
            for y in range(CLASSES)
        ]

    regularised = regularised_losses(logits)
    own = np.stack(regularised, axis=-1)[np.arange(20), labels]
    sieve = jax.jit(xent.confidence_regularized_sieve)
    passed = sieve(logits, labels)
    np.testing.assert_array_equal(passed, own < np.mean(regularised, axis=0))
    assert 0 < passed.sum() < 20
    where = np.arange(20) % 2 == 0
    labels = np.where(np.arange(20) < 2, -1, labels).astype(np.int32)
    masked = sieve(logits, labels, where=where)
    np.testing.assert_array_equal(masked, passed & where & (labels >= 0))


# ------------------------------------------------------------------------------ the model's past


def elr_inputs():
    logits, labels = draw(examples=16)
    indices = np.arange(16)[::-1].copy()
    indices[[3, 9, 14]] = 5  # thrice in the batch, on several devices
    state = np.zeros((20, CLASSES), np.float32)
    state[:] = 0.6 * softmax(np.random.default_rng(1).normal(size=(20, CLASSES)))
    return logits, labels, state, indices.astype(np.int32)


def moved(state, logits, indices, where, beta):
    """The table after one batch, example by example."""
    new, p = np.float64(state), softmax(np.float64(logits))
    for row in set(indices[where]):
        mean = p[where & (indices == row)].mean(0)
        new[row] = beta * state[row] + (1.0 - beta) * mean
    return new


def test_early_learning_gradient_is_the_papers_and_the_table_is_a_running_mean():
    logits, labels, state, indices = elr_inputs()
    where = np.arange(16) != 7
    logits[7], indices[7], labels[7] = np.nan, -3, -1

    def mean_loss(z):
        loss, new = xent.early_learning_regularization(
            z, labels, state, indices=indices, beta=0.8, strength=2.0, where=where
        )
        return loss.sum(), (loss, new)

    gradient, (loss, new) = jax.jit(jax.grad(mean_loss, has_aux=True))(logits)
    expected = moved(state, np.where(where[:, None], logits, 0.0), indices, where, 0.8)
    np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(new[16:], state[16:])

    p, t = softmax(np.float64(logits[where])), expected[indices[where]]
    y = one_hot(labels[where], CLASSES)
    agreement = (p * t).sum(-1, keepdims=True)
    pull = p / (1.0 - agreement) * (agreement - t)  # sum_k (t_k - t_j) p_k, as p sums to 1
    np.testing.assert_allclose(gradient[where], p - y + 2.0 * pull, rtol=1e-4, atol=1e-5)
    exact = -np.log((p * y).sum(-1)) + 2.0 * np.log(1.0 - agreement[:, 0])
    np.testing.assert_allclose(loss[where], exact, rtol=1e-5, atol=1e-5)
    assert loss[7] == 0
    assert np.all(gradient[7] == 0)


def test_early_learning_indices_outside_the_table_are_loud_and_move_nothing():
    logits, labels, state, _ = elr_inputs()
    indices = np.array([-1, 20, 2**31 - 1, *range(13)], np.int32)

    def total(z):
        loss, new = xent.early_learning_regularization(z, labels, state, indices=indices)
        return loss.sum(), (loss, new)

    gradient, (loss, new) = jax.jit(jax.grad(total, has_aux=True))(logits)
    np.testing.assert_array_equal(np.isnan(loss), np.arange(16) < 3)
    np.testing.assert_array_equal(np.isnan(gradient).any(-1), np.arange(16) < 3)
    np.testing.assert_allclose(new, moved(state, logits, indices, np.arange(16) >= 3, 0.7), 1e-5)


def test_early_learning_is_finite_where_model_and_targets_are_sure():
    logits = np.array([[300.0, 0.0, 0.0], [0.0, 300.0, 0.0]], np.float32)
    state = np.array([[1.0, 0.0, 0.0], [1.0 + 1e-6, 0.0, 0.0]], np.float32)
    indices = np.arange(2, dtype=np.int32)

    def total(z):
        labels = np.zeros(2, np.int32)
        loss, _ = xent.early_learning_regularization(z, labels, state, indices=indices, beta=1.0)
        return loss.sum(), loss

    gradient, loss = jax.jit(jax.grad(total, has_aux=True))(logits)
    np.testing.assert_allclose(loss, [3.0 * (np.log(2.0) - 300.0), 300.0], rtol=1e-6)
    # The model agrees with the past of the first: it is held there. The second forgets its label.
    np.testing.assert_allclose(gradient, [[-3.0, 1.5, 1.5], [-1.0, 1.0, 0.0]], atol=1e-5)


def test_early_learning_memory_is_differentiable_and_checked():
    logits, labels, state, indices = elr_inputs()

    def total(beta):
        loss, _ = xent.early_learning_regularization(
            logits, labels, state, indices=indices, beta=beta
        )
        return loss.sum()

    slope, ends = jax.jit(lambda: (jax.grad(total)(0.6), [total(0.5), total(0.7)]))()
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 0.2, rtol=2e-2)
    for beta in (-0.1, 1.1):
        with pytest.raises(ValueError, match="beta must lie in"):
            total(beta)
    with pytest.raises(ValueError, match="state must have shape"):
        xent.early_learning_regularization(logits, labels, state[:, :3], indices=indices)
    with pytest.raises(ValueError, match="indices must have"):
        xent.early_learning_regularization(logits, labels, state, indices=indices[:4])
    for bad in ({"indices": np.float32(indices)}, {"state": np.int32(state)}):
        with pytest.raises(TypeError):
            xent.early_learning_regularization(
                logits, labels, **({"indices": indices, "state": state} | bad)
            )
    assert xent.init_early_learning_regularization_state(3, 2, jnp.bfloat16).dtype == jnp.bfloat16


def test_a_half_precision_table_stays_one():
    logits, labels, state, indices = elr_inputs()
    half = jnp.asarray(state, jnp.bfloat16)
    regularised = jax.jit(
        lambda table: xent.early_learning_regularization(logits, labels, table, indices=indices)
    )
    (loss, new), (expected, _) = regularised(half), regularised(state)
    assert new.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, expected, rtol=2e-2, atol=2e-2)


# ------------------------------------------------------------------------------- many devices


def sharded(function, replicated: tuple[int, ...], outputs):
    """Returns the function under `jax.shard_map`; arguments not `replicated` are split."""
    mesh = Mesh(np.array(jax.devices("cpu")[:DEVICES]), ("batch",))
    split, whole = PartitionSpec("batch"), PartitionSpec()

    def run(*arguments):
        specs = tuple(whole if i in replicated else split for i in range(len(arguments)))
        out = jax.tree.map(lambda name: split if name == "split" else whole, outputs)
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out))(
            *arguments
        )

    return run


needs_devices = pytest.mark.skipif(
    len(jax.devices("cpu")) < DEVICES, reason="JAX was started with fewer CPU devices"
)


@needs_devices
def test_the_table_is_the_same_on_one_device_and_on_eight():
    logits, labels, state, indices = elr_inputs()
    where = np.arange(16) % 5 != 0

    def step(logits, labels, state, indices, where, axis_name=None):
        def total(z):
            loss, new = xent.early_learning_regularization(
                z, labels, state, indices=indices, where=where, axis_name=axis_name
            )
            return loss.sum(), (loss, new)

        gradient, (loss, new) = jax.grad(total, has_aux=True)(logits)
        return loss, gradient, new

    batch = (logits, labels, state, indices, where)
    expected = jax.jit(step)(*batch)
    on_eight = sharded(
        lambda *arguments: step(*arguments, axis_name="batch"), (2,), ("split", "split", "whole")
    )(*batch)
    mapped = jax.pmap(
        lambda *arguments: step(*arguments, axis_name="batch"),
        axis_name="batch",
        in_axes=(0, 0, None, 0, 0),
        devices=jax.devices("cpu")[:DEVICES],
    )(*(x if x is state else x.reshape(DEVICES, -1, *x.shape[1:]) for x in batch))
    for ours, exact in zip(on_eight, expected, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-6)
    for ours, exact in zip(mapped[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours.reshape(exact.shape), exact, rtol=1e-5, atol=1e-6)
    for table in mapped[2]:
        np.testing.assert_allclose(table, expected[2], rtol=1e-5, atol=1e-6)
    assert np.any(expected[2] != state)


@needs_devices
def test_selection_and_mean_prediction_are_those_of_the_whole_batch():
    logits, labels = draw(examples=16)
    where = np.arange(16) % 5 != 0
    losses = np.repeat(np.float32([3.0, 1.0, 2.0, 1.0]), 4)  # with ties between devices

    def select(losses, where, axis_name=None):
        return xent.small_loss_selection(losses, forget_rate=0.5, where=where, axis_name=axis_name)

    def gradient(logits, labels, where, axis_name=None):
        def total(z):
            return xent.joint_optimization(z, labels, where=where, axis_name=axis_name).sum()

        return jax.grad(total)(logits)

    selected = sharded(lambda *x: select(*x, axis_name="batch"), (), "split")(losses, where)
    np.testing.assert_array_equal(selected, jax.jit(select)(losses, where))
    ours = sharded(lambda *x: gradient(*x, axis_name="batch"), (), "split")(logits, labels, where)
    expected = jax.jit(gradient)(logits, labels, where)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------ which to learn from


def test_selection_takes_exactly_the_smallest():
    rng = np.random.default_rng(0)

    @jax.jit
    def select(losses, rate, where):
        return xent.small_loss_selection(losses, forget_rate=rate, where=where)

    for rate in np.float32([0.0, 0.1, 0.3, 0.5, 0.77, 0.9, 1.0]):
        losses = rng.integers(0, 5, 10).astype(np.float32)  # many ties
        where = rng.uniform(size=10) < 0.8
        losses[~where] = np.resize([np.nan, -np.inf, np.inf, -1.0], (~where).sum())
        selected = np.asarray(select(losses, rate, where))
        kept = int(np.floor((1.0 - np.float64(rate)) * where.sum() + 1e-6))
        order = sorted(np.flatnonzero(where), key=lambda i: (losses[i], i))
        np.testing.assert_array_equal(np.flatnonzero(selected), sorted(order[:kept]))


def test_selection_counts_as_the_rate_says_despite_rounding():
    losses = np.arange(1000, dtype=np.float32)
    for percent in range(101):
        number = xent.small_loss_selection(losses, forget_rate=percent / 100).sum()
        assert number == 1000 - 10 * percent


def test_selection_leaves_out_nan_and_takes_any_shape():
    losses = np.array([[np.nan, 2.0], [np.inf, 1.0]], np.float32)
    selected = xent.small_loss_selection(losses, forget_rate=0.0)
    np.testing.assert_array_equal(selected, [[False, True], [True, True]])
    selected = xent.small_loss_selection(losses, forget_rate=0.75)
    np.testing.assert_array_equal(selected, [[False, False], [False, True]])
    with pytest.raises(ValueError, match="where must hold"):
        xent.small_loss_selection(losses, forget_rate=0.5, where=np.ones(2, bool))
    assert xent.small_loss_selection(np.zeros(0, np.float32), forget_rate=0.5).shape == (0,)


def test_forget_rate_grows_to_the_noise_rate():
    epochs = np.array([0, 1, 5, 10, 11, 200])
    rates = xent.co_teaching_forget_rate(epochs, noise_rate=0.5)
    np.testing.assert_allclose(rates, [0.0, 0.05, 0.25, 0.5, 0.5, 0.5], rtol=1e-6)
    traced = jax.jit(lambda t: xent.co_teaching_forget_rate(t, noise_rate=0.45, ramp_epochs=5))
    np.testing.assert_allclose(traced(jnp.int32(2)), 0.18, rtol=1e-6)
    np.testing.assert_allclose(xent.co_teaching_forget_rate(3, noise_rate=0.1), 0.03, rtol=1e-6)


# --------------------------------------------------------------------------- joint optimisation


def joint(logits, labels, **keywords):
    def total(z):
        loss = xent.joint_optimization(z, labels, **keywords)
        return loss.sum(), loss

    gradient, loss = jax.jit(jax.grad(total, has_aux=True))(logits)
    return np.asarray(loss), np.asarray(gradient)


@pytest.mark.parametrize("soft", [False, True])
def test_joint_optimization_does_not_see_masked_examples(soft):
    logits, labels = draw(examples=8)
    where = np.array([True, False, True, True, False, True, False, True])
    labels = softmax(draw(examples=8, seed=1)[0]) if soft else labels
    kept_loss, kept_gradient = joint(logits[where], labels[where])
    logits[~where] = [[np.nan], [np.inf], [-np.inf]]
    labels[~where] = -1
    loss, gradient = joint(logits, labels, where=where)
    np.testing.assert_allclose(loss[where], kept_loss, rtol=1e-6)
    np.testing.assert_allclose(gradient[where], kept_gradient, rtol=1e-5, atol=1e-6)
    assert np.all(loss[~where] == 0)
    assert np.all(gradient[~where] == 0)
    nothing = joint(logits, labels, where=np.zeros(8, bool))
    assert all(np.all(x == 0) for x in nothing)


def test_joint_optimization_gradient_is_the_docstrings():
    logits, _ = draw()
    targets = softmax(draw(seed=1)[0]).astype(np.float32)
    prior = class_prior(CLASSES)
    gradient = joint(logits, targets, **prior)[1]
    p = softmax(np.float64(logits))
    ratio = prior["class_prior"] / p.mean(0)
    surprise = np.log(p) - (p * np.log(p)).sum(-1, keepdims=True)
    expected = (
        p - targets - 1.2 * p * (ratio - (p * ratio).sum(-1, keepdims=True)) - 0.8 * p * surprise
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_joint_optimization_along_another_axis_and_without_a_class():
    logits, labels = draw(examples=6)
    logits[:, 2] = -np.inf
    labels = np.where(labels == 2, 0, labels).astype(np.int32)
    loss, gradient = joint(logits, labels)
    assert np.all(np.isfinite(loss))
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[:, 2] == 0)
    moved = joint(logits.reshape(2, 3, CLASSES).transpose(0, 2, 1), labels.reshape(2, 3), axis=1)
    np.testing.assert_allclose(moved[0].ravel(), loss, rtol=1e-6)
