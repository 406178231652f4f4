"""What the papers on rare classes prove, what a class without examples does, and states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import xent_jax as xent
from tests.losses.cases import imbalance as references
from tests.losses.cases.row import cross_entropy, logits_and_labels, one_hot, sigmoid, softmax
from xent_jax.losses.gradient_balancing import EqualizationV2State, GradientHarmonisingState

COUNTS = np.array([500, 60, 20, 5])
PRIOR = (COUNTS / COUNTS.sum()).astype(np.float32)


def batch(examples=6, classes=4, seed=0):
    logits, labels = logits_and_labels(np.random.default_rng(seed), examples, classes)
    return logits.astype(np.float32), labels.astype(np.int32)


# ------------------------------------------------------------------------------------- theory


def test_logit_adjustment_minimises_the_balanced_error():
    # p(x | y) of five points and three classes, of which the last is rare.
    likelihood = np.array([[6, 3, 2], [5, 6, 1], [3, 2, 3], [2, 5, 7], [1, 1, 4.0]])
    likelihood = likelihood / likelihood.sum(0)
    prior = np.array([0.9, 0.09, 0.01])
    joint = likelihood * prior
    labels, class_prior = np.tile(np.arange(3), 5), prior.astype(np.float64)

    def minimiser(loss):
        @jax.jit
        @jax.value_and_grad
        def risk(logits):
            every = jnp.repeat(logits.reshape(5, 3), 3, axis=0)
            return jnp.vdot(joint.reshape(-1), loss(every, labels))

        # Steps in units that make the rare class as steep as the others.
        units = np.tile(prior, 5) ** -0.5

        def scaled(x):
            value, slope = risk(x * units)
            return float(value), np.asarray(slope) * units

        found = scipy.optimize.minimize(
            scaled, np.zeros(15), jac=True, method="BFGS", options={"gtol": 1e-10}
        )
        return (found.x * units).reshape(5, 3)

    def centred(logits):
        return logits - logits.mean(-1, keepdims=True)

    with jax.enable_x64(True):
        plain = minimiser(xent.softmax_cross_entropy_with_integer_labels)
        adjusted = minimiser(functools.partial(xent.logit_adjusted, class_prior=class_prior))
        posthoc = np.asarray(xent.logit_adjustment_posthoc(plain, class_prior=class_prior))
    np.testing.assert_array_equal(plain.argmax(-1), joint.argmax(-1))
    assert np.all(joint.argmax(-1) == 0)  # the error over examples is least without other classes
    for logits in (adjusted, posthoc):
        np.testing.assert_array_equal(logits.argmax(-1), likelihood.argmax(-1))
        np.testing.assert_allclose(centred(logits), centred(np.log(likelihood)), atol=1e-4)


def test_ldam_margins_minimise_the_bound_on_the_balanced_error():
    counts = np.array([800, 50])

    def bound(margin):  # of the first class, the two margins summing to 1
        return 1 / (margin * np.sqrt(counts[0])) + 1 / ((1 - margin) * np.sqrt(counts[1]))

    best = scipy.optimize.minimize_scalar(bound, bounds=(0.01, 0.99), method="bounded").x
    ldam = jax.jit(functools.partial(xent.ldam, class_counts=counts, scale=1.0))
    loss = np.asarray(ldam(np.zeros((2, 2), np.float32), np.arange(2)))
    margins = np.log(np.expm1(loss))  # as the loss is log(1 + e^m)
    np.testing.assert_allclose(margins[1], 0.5, rtol=1e-5)
    np.testing.assert_allclose(margins / margins.sum(), [best, 1 - best], rtol=1e-4)


def test_ldam_scales_cosines_once():
    cosines, labels = np.tanh(batch()[0]), batch()[1]
    ours = jax.jit(xent.ldam)(cosines, labels, class_counts=COUNTS)
    np.testing.assert_allclose(
        ours, references.ldam(np.float64(cosines), labels, COUNTS, 0.5, 30.0), rtol=1e-5, atol=1e-5
    )


def test_harmonised_gradients_have_the_same_weight_in_every_bin_that_holds_any():
    rng = np.random.default_rng(0)
    logits = np.float32(np.concatenate([rng.normal(-4, 1, 500), rng.normal(0, 2, 40)]))
    labels = np.zeros(540, np.int32)
    state = xent.init_gradient_harmonising_state(num_bins=10)
    loss, _ = jax.jit(xent.gradient_harmonising)(logits, labels, state, momentum=0.0)
    weights = np.asarray(loss) / jax.jit(xent.sigmoid_binary_cross_entropy)(logits, labels)
    bins = (10 * sigmoid(logits)).astype(int)
    totals = np.bincount(bins, weights, minlength=10)
    np.testing.assert_allclose(totals[totals > 0], 540 / 10, rtol=1e-4)


def test_equal_counts_leave_the_cross_entropy():
    logits, labels = batch()
    counts, prior = np.full(4, 70), np.full(4, 0.25, np.float32)

    @jax.jit
    def losses(z):
        return {
            "logit_adjusted": xent.logit_adjusted(z, labels, class_prior=prior, tau=1.7),
            "balanced_softmax": xent.balanced_softmax(z, labels, class_counts=counts),
            "vector_scaling": xent.vector_scaling(z, labels, class_counts=counts),
            "temperature": xent.class_dependent_temperature(z, labels, class_counts=counts),
            "smoothing": xent.label_aware_smoothing(z, labels, class_counts=counts),
            "equalization": xent.equalization(z, labels, class_prior=prior),
            "seesaw": xent.seesaw(z, np.arange(6) % 4, counts - [2, 2, 1, 1], q=0.0)[0],
        }

    for name, loss in losses(logits).items():
        truth = np.arange(6) % 4 if name == "seesaw" else labels
        np.testing.assert_allclose(loss, cross_entropy(logits, truth), rtol=1e-5, err_msg=name)
    for weights in (xent.class_balanced_weights, xent.inverse_frequency_weights):
        np.testing.assert_allclose(jax.jit(weights)(counts), np.ones(4), rtol=1e-6)


# ------------------------------------------------------------------------------------ weights


def test_class_balanced_weights_keep_the_digits_of_beta():
    counts, beta = np.array([5000, 2997, 77, 50]), 0.9999
    expected = 1 / (1 - np.longdouble(beta) ** counts)
    expected = (expected / expected.sum() * 4).astype(float)
    np.testing.assert_allclose(xent.class_balanced_weights(counts, beta=beta), expected, rtol=1e-6)


def test_weights_at_the_ends_of_beta_and_their_slopes():
    counts = np.array([9.0, 3.0, 1.0, 0.0], np.float32)
    ends = jax.jit(jax.vmap(lambda b: xent.class_balanced_weights(counts, beta=b)))
    none, all_ = ends(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(none, [1, 1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(all_, xent.inverse_frequency_weights(counts), rtol=1e-6)
    slopes = jax.jit(jax.vmap(jax.jacfwd(lambda b: xent.class_balanced_weights(counts, beta=b))))
    assert np.all(np.isfinite(slopes(jnp.array([0.0, 0.5, 1.0]))))


def test_deferred_reweighting_starts_at_its_epoch_inside_jit():
    weights = jax.jit(lambda epoch: xent.deferred_reweighting_weights(COUNTS, epoch))
    np.testing.assert_array_equal(weights(159), np.ones(4))
    balanced = xent.class_balanced_weights(COUNTS)
    np.testing.assert_allclose(weights(160), balanced, rtol=1e-6)
    np.testing.assert_allclose(weights(199), balanced, rtol=1e-6)


def test_tau_normalised_weights_have_the_norms_to_the_power_of_what_is_left():
    weights = np.float32(np.random.default_rng(0).normal(size=(3, 5)))
    weights[1] = 0.0
    normalise = jax.jit(xent.tau_normalise, static_argnames="axis")
    for tau in (0.0, 0.4, 1.0):
        ours = np.asarray(normalise(weights, tau=tau))
        norms = np.linalg.norm(weights, axis=-1)
        np.testing.assert_allclose(np.linalg.norm(ours[0]), norms[0] ** (1 - tau), rtol=1e-5)
        assert np.all(ours[1] == 0)
        np.testing.assert_allclose(normalise(weights.T, tau=tau, axis=0), ours.T)
    for factor in (1e-30, 1e30):  # whose squares are beyond float32
        ours = normalise(np.float32(factor) * weights)
        np.testing.assert_allclose(ours, normalise(weights), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda w: xent.tau_normalise(w).sum()))(weights)
    assert np.all(np.isfinite(gradient))


# ------------------------------------------------------------------- a class without examples


def test_a_class_without_examples():
    logits, labels = batch()
    labels = labels % 3
    counts, prior = np.array([80, 15, 5, 0]), np.float32([0.8, 0.15, 0.05, 0.0])
    rest = {"class_counts": counts[:3]}

    def losses(z):
        return {
            "adjusted": xent.logit_adjusted(z, labels, class_prior=prior),
            "softmax": xent.balanced_softmax(z, labels, class_counts=counts),
            "scaling": xent.vector_scaling(z, labels, class_counts=counts),
            "temperature": xent.class_dependent_temperature(z, labels, class_counts=counts),
            "ldam": xent.ldam(jnp.tanh(z), labels, class_counts=counts),
        }

    def without_it(z):
        seen = z[:, :3], labels
        return {
            "adjusted": xent.logit_adjusted(*seen, class_prior=prior[:3]),
            "softmax": xent.balanced_softmax(*seen, **rest),
            "scaling": xent.vector_scaling(*seen, **rest),
            "ldam": xent.ldam(jnp.tanh(z), labels, class_counts=np.array([80, 15, 5, 5])),
        }

    @jax.jit
    def everything(z):
        totals = jax.jacrev(lambda z: {k: v.sum() for k, v in losses(z).items()})
        return losses(z), without_it(z), totals(z)

    ours, expected, gradients = everything(logits)
    temperatures = [1, *(counts[1:3] / 80) ** 0.3, 0]
    expected["temperature"] = cross_entropy(logits * temperatures, labels)
    for name, loss in ours.items():
        np.testing.assert_allclose(loss, expected[name], rtol=1e-5, err_msg=name)
        assert np.all(np.isfinite(gradients[name]))
        if name != "ldam":
            assert np.all(gradients[name][:, 3] == 0)

    @jax.jit
    def of_the_fourth(z):
        losses = xent.balanced_softmax, xent.vector_scaling, xent.class_balanced_focal_loss
        return [loss(z, np.full(6, 3), class_counts=counts) for loss in losses]

    *infinite, focal = of_the_fourth(logits)
    assert np.all(np.isposinf(infinite))
    assert np.all(focal == 0)
    unseen = np.asarray(xent.logit_adjustment_posthoc(logits, class_prior=prior))[:, 3]
    assert np.all(np.isneginf(unseen))
    np.testing.assert_array_equal(
        xent.logit_adjustment_posthoc(logits, class_prior=prior, tau=0.0), logits
    )
    np.testing.assert_allclose(xent.inverse_frequency_weights(counts)[:3].mean(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "bad", [np.zeros(4), np.array([1, -1, 2, 3]), np.array([1.0, np.nan, 1, 1])]
)
def test_counts_that_cannot_be_are_told(bad):
    logits, labels = batch()
    with pytest.raises(ValueError, match="class_counts must be at least 0 and not all 0"):
        xent.class_balanced_weights(bad)
    with pytest.raises(ValueError, match="class_counts must be at least 0 and not all 0"):
        xent.balanced_softmax(logits, labels, class_counts=bad)


def test_what_does_not_fit_is_told():
    logits, labels = batch()
    with pytest.raises(ValueError, match=r"class_counts must have shape \(4,\), got \(3,\)"):
        xent.balanced_softmax(logits, labels, class_counts=COUNTS[:3])
    with pytest.raises(ValueError, match="class_prior must sum to 1, got a sum of 585; divide"):
        xent.logit_adjusted(logits, labels, class_prior=COUNTS.astype(np.float32))
    with pytest.raises(ValueError, match="shape must be one of 'concave', 'linear', 'convex'"):
        xent.label_aware_smoothing(logits, labels, class_counts=COUNTS, shape="flat")
    with pytest.raises(ValueError, match=r"state must have shape \(4,\), got \(3,\)"):
        xent.seesaw(logits, labels, xent.init_seesaw_state(3))
    with pytest.raises(ValueError, match=r"state.positive must have shape \(4,\), got \(3,\)"):
        xent.equalization_v2(logits, labels, xent.init_equalization_v2_state(3))
    with pytest.raises(ValueError, match="features must hold one vector for each of the labels"):
        xent.influence_balanced(logits, labels, np.ones((5, 2), np.float32), class_counts=COUNTS)


# ---------------------------------------------------------------------------- extreme examples


def test_gradients_are_those_of_the_docstrings():
    logits, labels = batch()
    truth, rows = one_hot(labels, 4), np.arange(6)
    features = np.float32(np.random.default_rng(1).normal(size=(6, 3)))
    temperatures = (COUNTS.max() / COUNTS) ** 0.3
    shares = COUNTS / COUNTS.sum()
    p = softmax(logits)
    norm = np.abs(features).sum(-1)
    d = 2 * (1 - p[rows, labels]) * norm + 0.001
    w = references.inverse_frequency_weights(COUNTS, 1)[labels]
    influence = 1000 * w / d * (1 + 2 * p[rows, labels] * norm / d * np.log(p[rows, labels]))
    counts = {"class_counts": COUNTS}
    expected = {
        xent.logit_adjusted: ({"class_prior": PRIOR}, softmax(logits + np.log(shares)) - truth),
        xent.vector_scaling: (
            counts,
            (softmax(logits / temperatures + np.log(shares)) - truth) / temperatures,
        ),
        xent.class_dependent_temperature: (
            counts,
            (softmax(logits / temperatures) - truth) / temperatures,
        ),
        xent.influence_balanced: (
            counts | {"features": features},
            influence[:, None] * (p - truth),
        ),
    }

    @jax.jit
    def gradients(logits):
        return [
            jax.grad(lambda z, f=f, k=k: f(z, labels, **k).sum())(logits)
            for f, (k, _) in expected.items()
        ]

    for ours, (_, exact) in zip(gradients(logits), expected.values(), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=2e-5, atol=1e-5 * np.abs(exact).max())


def test_extreme_logits_of_the_losses_that_the_matrix_does_not_try():
    inf = np.inf
    logits = np.float32([[1e4, -1e4, 0], [1e4, -1e4, 0], [-inf, 0, 1], [-inf, 0, 1], [90, 0, 0]])
    labels = np.array([0, 1, 2, 0, 0])
    features = np.ones((5, 2), np.float32)
    counts = {"class_counts": COUNTS[:3]}
    state = EqualizationV2State(np.float32([1, 2, 3]), np.float32([3, 2, 1]))
    losses = [
        lambda z: xent.class_balanced_focal_loss(z, labels, gamma=0.5, **counts),
        lambda z: xent.influence_balanced(z, labels, features, **counts),
        lambda z: xent.equalization_v2(z, labels, state)[0],
        lambda z: xent.seesaw(z, labels, COUNTS[:3])[0],
        lambda z: xent.equalization(z, labels, class_prior=PRIOR[:3] / PRIOR[:3].sum(), gamma=1.0),
    ]

    @jax.jit
    def derivatives(z):
        return [(f(z), jax.grad(lambda z, f=f: f(z).sum())(z)) for f in losses]

    for loss, gradient in jax.tree.map(np.asarray, derivatives(logits)):
        assert np.isposinf(loss[3])
        assert np.all(np.isfinite(loss[[0, 1, 2, 4]]))
        assert np.all(loss >= 0)
        assert not np.any(np.isnan(gradient))
        assert gradient[2, 0] == 0


# ------------------------------------------------------------------------------- equalization


def test_equalization_by_chance_spares_rare_classes_as_often_as_gamma():
    logits, labels = np.zeros((4000, 3), np.float32), np.zeros(4000, np.int32)
    prior = np.float32([0.99, 0.007, 0.003])  # the last is rare
    key = jax.random.key(0)
    of_gamma = jax.jit(
        lambda gamma: xent.equalization(logits, labels, class_prior=prior, gamma=gamma, key=key)
    )
    loss = np.asarray(of_gamma(0.8))
    spared = np.isclose(loss, np.log(2))
    np.testing.assert_allclose(loss[~spared], np.log(3), rtol=1e-6)
    assert abs(spared.mean() - 0.8) < 0.02
    np.testing.assert_allclose(of_gamma(1.0), np.log(2), rtol=1e-6)


def test_equalization_without_chance_takes_a_class_out_however_large_its_logit():
    logits = np.float32([[1.0, 2.0, 1e4], [1.0, 2.0, 200.0]])
    prior = np.float32([0.6, 0.399, 0.001])
    loss = jax.jit(functools.partial(xent.equalization, class_prior=prior, gamma=1.0))
    labels = np.array([0, 1])
    value, gradient = jax.jit(jax.value_and_grad(lambda z: loss(z, labels).sum()))(logits)
    gradient = np.asarray(gradient)
    np.testing.assert_allclose(value, cross_entropy(logits[:, :2], labels).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient[:, :2], softmax(logits[:, :2]) - np.eye(2), rtol=1e-5)
    assert np.all(gradient[:, 2] == 0)
    np.testing.assert_allclose(loss(logits, np.array([2, 2])), 0.0, atol=1e-6)


# -------------------------------------------------------------------------------------- states


def seesaw(logits, labels, state, **keywords):
    return xent.seesaw(logits, labels, state, **keywords)


def harmonising(logits, labels, state, **keywords):
    truth = jax.nn.one_hot(labels, 4, dtype=jnp.int32)
    where = keywords.pop("where", None)
    if where is not None:
        where = jnp.broadcast_to(where[:, None], logits.shape)
    loss, state = xent.gradient_harmonising(logits, truth, state, where=where, **keywords)
    return loss.sum(-1), state


STATEFUL = {
    "equalization_v2": (xent.equalization_v2, xent.init_equalization_v2_state(4)),
    "seesaw": (seesaw, xent.init_seesaw_state(4)),
    "gradient_harmonising": (harmonising, xent.init_gradient_harmonising_state(num_bins=5)),
}
stateful = pytest.mark.parametrize(("loss", "start"), STATEFUL.values(), ids=STATEFUL.keys())


def two_steps(loss, start, logits, labels, where):
    """Returns losses, gradients and states of two batches in turn."""
    results = []
    for z, y, mask in zip(logits, labels, where, strict=True):
        (_, (values, start)), gradient = jax.value_and_grad(
            lambda z, y=y, s=start, m=mask: (lambda r: (r[0].sum(), r))(loss(z, y, s, where=m)),
            has_aux=True,
        )(z)
        results.append((values, gradient, start))
    return results


@stateful
def test_states_come_from_the_global_batch_on_eight_devices(loss, start):
    mesh = Mesh(np.array(jax.devices("cpu")[:8]), ("data",))
    logits, labels = batch(examples=32)
    inputs = logits.reshape(2, 16, 4), labels.reshape(2, 16), np.arange(32).reshape(2, 16) % 5 != 0
    expected = jax.jit(functools.partial(two_steps, loss))(start, *inputs)

    data, everywhere = PartitionSpec(None, "data"), PartitionSpec()
    per_device = jax.shard_map(
        functools.partial(two_steps, functools.partial(loss, axis_name="data")),
        mesh=mesh,
        in_specs=(everywhere, data, data, data),
        out_specs=[(PartitionSpec("data"), PartitionSpec("data"), everywhere)] * 2,
    )
    placed = [jax.device_put(x, NamedSharding(mesh, data)) for x in inputs]
    for step in (jax.jit(per_device), jax.jit(functools.partial(two_steps, loss))):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            step(start, *placed),
            expected,
        )


@stateful
def test_masked_and_unlabelled_examples_do_not_reach_the_state_nor_the_others(loss, start):
    logits, labels = batch(examples=8)
    where = np.arange(8) % 3 != 0
    dirty, wrong = logits.copy(), labels.copy()
    dirty[~where], wrong[~where] = np.nan, -1

    step = jax.jit(lambda z, y, m: two_steps(loss, start, [z, z], [y, y], [m, m]))
    kept = step(logits[where], labels[where], np.ones(where.sum(), bool))
    for (ours, slope, state), (values, gradient, expected) in zip(
        step(dirty, wrong, where), kept, strict=True
    ):
        assert np.all(ours[~where] == 0)
        assert np.all(slope[~where] == 0)
        np.testing.assert_allclose(ours[where], values, rtol=1e-6)
        np.testing.assert_allclose(slope[where], gradient, rtol=1e-5, atol=1e-7)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), state, expected)
    if loss is not harmonising:
        wrong = np.where(where, labels, 7)
        values, state = jax.jit(loss)(logits, wrong, start)
        np.testing.assert_array_equal(np.isnan(values), ~where)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), state, kept[0][2])


@stateful
def test_empty_and_wholly_masked_batches_leave_finite_states(loss, start):
    logits, labels = batch(examples=2)
    loss = jax.jit(loss)
    _, state = loss(logits, labels, start)
    for size in (0, 2):
        values, after = loss(logits[:size], labels[:size], state, where=np.zeros(size, bool))
        assert np.all(values == 0)
        assert jax.tree.all(jax.tree.map(lambda x: bool(np.all(np.isfinite(x))), after))
        values, _ = loss(logits, labels, after)
        assert np.all(np.isfinite(values))


@stateful
def test_states_keep_their_types_and_get_no_gradient(loss, start):
    logits, labels = batch(examples=2)
    for dtype in (jnp.bfloat16, jnp.float32):
        _, state = jax.eval_shape(loss, jnp.asarray(logits, dtype), labels, start)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
            lambda x: (x.shape, x.dtype), start
        )
    slopes = jax.jit(
        jax.grad(
            lambda z: sum(
                jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(loss(z, labels, start)[1])
            )
        )
    )
    assert np.all(slopes(logits) == 0)


def test_equalization_v2_follows_its_accumulated_gradients():
    state = xent.init_equalization_v2_state(4)
    sums, step = np.zeros((2, 4)), jax.jit(xent.equalization_v2)
    for seed in range(3):
        logits, labels = batch(seed=seed)
        begun = sums[1] > 0
        ratio = np.where(begun, sums[0] / np.where(begun, sums[1], 1), np.inf)
        down = 1 / (1 + np.exp(-12 * (ratio - 0.8)))
        up = 1 + 4 * (1 - down)
        truth, p = one_hot(labels, 4), sigmoid(np.float64(logits))
        loss, state = step(logits, labels, state)
        terms = up * truth * -np.log(p) + down * (1 - truth) * -np.log(1 - p)
        np.testing.assert_allclose(loss, terms.sum(-1), rtol=1e-5)
        sums += [(up * truth * (1 - p)).sum(0), (down * (1 - truth) * p).sum(0)]
        np.testing.assert_allclose(np.stack(state), sums, rtol=1e-5)
    assert state.positive.argmin() == (state.positive / state.negative).argmin()


def test_seesaw_counts_then_weights_with_factors_held_constant():
    logits, labels = batch(examples=12)
    start = COUNTS.astype(np.int32)
    loss, state = jax.jit(xent.seesaw)(logits, labels, start)
    np.testing.assert_array_equal(state, COUNTS + np.bincount(labels, minlength=4))
    expected = references.seesaw(np.float64(logits), labels, COUNTS, 0.8, 2.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    mitigated = references.seesaw(np.float64(logits), labels, COUNTS, 0.8, 0.0)
    assert np.any(expected > mitigated + 0.1)

    p, counts = softmax(np.float64(logits)), np.asarray(state, float)
    own = np.maximum(p[np.arange(12), labels], 0.01)[:, None]
    factors = np.minimum(1, counts / counts[labels][:, None]) ** 0.8 * np.maximum(1, p / own) ** 2
    truth = one_hot(labels, 4)
    weighted = np.where(truth == 1, p, factors * p)
    slope = weighted / weighted.sum(-1, keepdims=True) - truth
    gradient = jax.jit(jax.grad(lambda z: xent.seesaw(z, labels, start)[0].sum()))(logits)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


def test_seesaw_slopes_in_its_hyper_parameters():
    logits, labels = batch(examples=12)
    logits[0] += 6.0 - 12.0 * (np.arange(4) == labels[0])  # so that epsilon matters
    at = np.float64([0.8, 2.0, 0.01])
    total = jax.grad(
        lambda v: xent.seesaw(logits, labels, COUNTS, p=v[0], q=v[1], epsilon=v[2])[0].sum()
    )
    slopes = jax.jit(total)(jnp.float32(at))
    for i, step in enumerate(np.diag([1e-4, 1e-4, 1e-6])):
        sides = [
            references.seesaw(np.float64(logits), labels, COUNTS, *(at + s * step)).sum()
            for s in (1, -1)
        ]
        np.testing.assert_allclose(slopes[i], (sides[0] - sides[1]) / (2 * step[i]), rtol=1e-3)
    assert slopes[2] != 0


def test_seesaw_along_another_axis_and_in_batches_of_maps():
    logits, labels = batch(examples=6)
    maps = logits.reshape(2, 3, 4), labels.reshape(2, 3)
    along_axis = jax.jit(xent.seesaw, static_argnames="axis")
    expected, counts = along_axis(logits, labels, COUNTS)
    loss, state = along_axis(np.moveaxis(maps[0], -1, 1), maps[1], COUNTS, axis=1)
    np.testing.assert_allclose(loss.reshape(-1), expected, rtol=1e-6)
    np.testing.assert_array_equal(state, counts)
    over_maps = functools.partial(xent.seesaw, axis_name="maps")
    mapped, states = jax.jit(jax.vmap(over_maps, (0, 0, None), axis_name="maps"))(*maps, COUNTS)
    np.testing.assert_allclose(mapped.reshape(-1), expected, rtol=1e-6)
    np.testing.assert_array_equal(states, [counts, counts])


def test_gradient_harmonising_averages_the_batches_seen():
    state = xent.init_gradient_harmonising_state(num_bins=4)
    histograms, step = [], jax.jit(xent.gradient_harmonising)
    for seed in range(3):
        logits, _ = batch(seed=seed)
        truth = np.zeros((6, 4), np.int32)
        loss, state = step(logits, truth, state, momentum=0.6)
        bins = (4 * sigmoid(np.float64(logits))).astype(int)
        histograms.append(np.bincount(bins.ravel(), minlength=4))
        recent = 0.6 ** np.arange(seed, -1, -1)
        average = (recent[:, None] * histograms).sum(0) / recent.sum()
        expected = 24 / (4 * average[bins]) * np.log1p(np.exp(np.float64(logits)))
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_gradient_harmonising_of_certain_mistakes_and_soft_labels():
    state = GradientHarmonisingState(np.zeros(3, np.float32), np.float32(0))
    logits, labels = np.float32([1e4, -1e4, 0.0]), np.float32([0.0, 0.0, 0.5])
    loss, state = jax.jit(xent.gradient_harmonising)(logits, labels, state, momentum=0.5)
    np.testing.assert_allclose(loss, [1e4, 0.0, 0.5 * np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(state.counts, [1.0, 0.0, 0.5])


# ---------------------------------------------------------------------------------- transforms


def test_transforms_map_over_their_hyper_parameters_and_batches():
    counts = np.float32([[500, 60, 20], [9, 9, 1]])
    betas = jnp.array([0.5, 0.999])
    mapped = jax.jit(jax.vmap(lambda n, b: xent.class_balanced_weights(n, beta=b)))(counts, betas)
    for ours, n, beta in zip(mapped, counts, [0.5, 0.999], strict=True):
        np.testing.assert_allclose(ours, xent.class_balanced_weights(n, beta=beta), rtol=1e-4)
    logits = batch()[0].reshape(2, 3, 4)
    for axis in (-1, 1):
        moved = np.moveaxis(logits, -1, axis)
        ours = xent.logit_adjustment_posthoc(moved, class_prior=PRIOR, axis=axis)
        expected = np.moveaxis(logits - np.log(PRIOR), -1, axis)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert xent.logit_adjustment_posthoc(logits[:0], class_prior=PRIOR).shape == (0, 3, 4)
