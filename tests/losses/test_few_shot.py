"""What the matrix does not see: support sets with holes, and derivatives through an adaptation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import xent_jax as xent
from tests.losses.cases.few_shot import episode
from tests.losses.cases.row import softmax

compiled = functools.partial(jax.jit, static_argnames="num_classes")
HEADS = {
    xent.prototypical: compiled(xent.prototypical_logits),
    xent.matching_network: compiled(xent.matching_network_logits),
    xent.ridge_regression: compiled(xent.ridge_regression_logits),
}
over_losses = pytest.mark.parametrize("loss", HEADS, ids=lambda f: f.__name__)


def draw(examples=6, classes=3, seed=0):
    """Returns queries, labels, support and its labels; seven of the support, in three features."""
    drawn = episode(np.random.default_rng(seed), examples, classes)
    return tuple(x.astype(np.float32 if x.dtype.kind == "f" else np.int32) for x in drawn)


@functools.partial(jax.jit, static_argnums=0)
def derivatives(loss, queries, labels, support, support_labels, **keywords):
    def total(queries, support):
        value = loss(queries, labels, support, support_labels, num_classes=3, **keywords)
        return value.sum(), value

    gradients, value = jax.grad(total, (0, 1), has_aux=True)(queries, support)
    return value, *gradients


def loss_and_gradients(*arguments, **keywords):
    """Returns the loss, and its sum's gradients by the queries and the support."""
    return [np.asarray(x) for x in derivatives(*arguments, **keywords)]


# ------------------------------------------------------------------ every head


@over_losses
def test_what_is_masked_has_no_influence(loss):
    queries, labels, support, support_labels = draw()
    where = np.array([True, False, True, True, False, True])
    support_where = np.array([True, True, True, True, False, True, False])
    clean = loss_and_gradients(
        loss, queries[where], labels[where], support[support_where], support_labels[support_where]
    )
    queries[~where], labels[~where] = np.nan, -1
    support[~support_where], support_labels[~support_where] = np.inf, 99
    value, by_queries, by_support = loss_and_gradients(
        loss, queries, labels, support, support_labels, where=where, support_where=support_where
    )
    assert np.all(value[~where] == 0.0)
    assert np.all(by_queries[~where] == 0.0)
    assert np.all(by_support[~support_where] == 0.0)
    for ours, exact in zip(
        (value[where], by_queries[where], by_support[support_where]), clean, strict=True
    ):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-6)


@over_losses
def test_a_class_without_support_cannot_occur(loss):
    queries, labels, support, support_labels = draw()
    support_labels = np.where(support_labels == 1, 2, support_labels)
    labels = np.array([0, 1, 2, 0, 2, 0])
    logits = np.asarray(HEADS[loss](queries, support, support_labels, num_classes=3))
    assert np.all(np.isneginf(logits[:, 1]))
    assert np.all(np.isfinite(logits[:, [0, 2]]))
    value, *gradients = loss_and_gradients(loss, queries, labels, support, support_labels)
    np.testing.assert_array_equal(np.isposinf(value), labels == 1)
    assert np.all(np.isfinite(value[labels != 1]))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    two = HEADS[loss](queries, support, support_labels // 2, num_classes=2)
    np.testing.assert_allclose(two, logits[:, [0, 2]], rtol=1e-5, atol=1e-6)


@over_losses
def test_labels_outside_the_classes_give_nan(loss):
    queries, labels, support, support_labels = draw()
    outside = np.array([0, 3, 1, -1, 2, 0])
    value, by_queries, _ = loss_and_gradients(loss, queries, outside, support, support_labels)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False, True, False, False])
    np.testing.assert_array_equal(np.isnan(by_queries).any(-1), np.isnan(value))
    support_labels[2] = 3
    value, *gradients = loss_and_gradients(loss, queries, labels, support, support_labels)
    assert np.all(np.isnan(value))
    assert all(np.isnan(gradient).any() for gradient in gradients)


@over_losses
def test_episodes_map_and_queries_take_any_shape(loss):
    episodes = [np.stack(arrays) for arrays in zip(draw(), draw(seed=1), strict=True)]
    of_episode = jax.jit(functools.partial(loss, num_classes=3))
    together = np.asarray(jax.jit(jax.vmap(of_episode))(*episodes))
    for i in range(2):
        alone = of_episode(*(x[i] for x in episodes))
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)
    queries, labels, support, support_labels = draw()
    shaped = of_episode(queries.reshape(2, 3, 3), labels.reshape(2, 3), support, support_labels)
    np.testing.assert_allclose(np.ravel(shaped), together[0], rtol=1e-4, atol=1e-5)
    single = of_episode(queries[0], jnp.asarray(labels[0]), support, support_labels)
    np.testing.assert_allclose(single, together[0][0], rtol=1e-4, atol=1e-5)


@over_losses
def test_arguments_that_do_not_fit_are_told(loss):
    queries, labels, support, support_labels = draw()
    with pytest.raises(ValueError, match=r"support_embeddings must have shape \(support, D\)"):
        loss(queries, labels, support[:, :2], support_labels, num_classes=3)
    with pytest.raises(TypeError):
        loss(queries, labels, support, support_labels.astype(np.float32), num_classes=3)
    with pytest.raises(ValueError, match="support_labels must hold one class for each"):
        loss(queries, labels, support, support_labels[:2], num_classes=3)
    with pytest.raises(TypeError):
        loss(queries.astype(np.int32), labels, support, support_labels, num_classes=3)
    with pytest.raises(ValueError, match="one boolean per example"):
        loss(queries, labels, support, support_labels, num_classes=3, where=labels[:2] > 0)


# ------------------------------------------------------------------ what the papers prove


def test_prototypical_networks_are_linear_classifiers():
    queries, _, support, support_labels = draw()
    logits = HEADS[xent.prototypical](queries, support, support_labels, num_classes=3)
    means = np.stack([support[support_labels == k].mean(0) for k in range(3)])
    linear = 2.0 * queries @ means.T - (means**2).sum(-1)
    np.testing.assert_allclose(softmax(np.asarray(logits)), softmax(linear), rtol=1e-5)
    constants = np.asarray(logits) - linear
    np.testing.assert_allclose(constants, -(queries**2).sum(-1)[:, None].repeat(3, 1), rtol=1e-5)


def test_one_example_per_class_is_a_softmax_over_distances():
    queries, labels, support, _ = draw()
    loss = compiled(xent.prototypical)(queries, labels, support[:3], np.arange(3), num_classes=3)
    distances = ((queries[:, None] - support[None, :3]) ** 2).sum(-1)
    np.testing.assert_allclose(loss, -np.log(softmax(-distances)[range(6), labels]), rtol=1e-5)


def test_distances_far_from_the_origin_keep_their_digits():
    queries, _, support, support_labels = draw()
    near = HEADS[xent.prototypical](queries, support, support_labels, num_classes=3)
    offset = np.float32(1024.0)  # rounds the embeddings by 1e-4, their squares by 0.1
    far = HEADS[xent.prototypical](
        queries + offset, support + offset, support_labels, num_classes=3
    )
    np.testing.assert_allclose(far, near, rtol=2e-3, atol=2e-3)


def test_attention_of_matching_networks_sums_to_1_and_finds_the_nearest():
    queries, _, support, support_labels = draw()

    @jax.jit
    def log_probabilities(scale):
        return xent.matching_network_logits(
            queries, support, support_labels, num_classes=3, scale=scale
        )

    for scale in (1.0, 100.0, 1e4):
        np.testing.assert_allclose(np.exp(log_probabilities(scale)).sum(-1), 1.0, rtol=1e-5)
    nearest = np.argmax(xent.cosine_similarities(queries, support), axis=-1)
    np.testing.assert_array_equal(np.argmax(log_probabilities(1e4), -1), support_labels[nearest])


@pytest.mark.parametrize("examples", [2, 3, 7], ids=lambda n: f"{n} examples of 3 features")
def test_ridge_regression_is_the_least_squares_solution(examples):
    queries, _, support, support_labels = draw()
    support, support_labels = support[:examples], support_labels[:examples]
    classes = min(examples, 3)
    targets = np.eye(classes)[support_labels]
    for penalty in (1e-2, 1.0, 50.0):
        ours = HEADS[xent.ridge_regression](
            queries, support, support_labels, num_classes=classes, penalty=penalty
        )
        rows = np.concatenate([support, np.sqrt(penalty) * np.eye(3)])
        filled = np.concatenate([targets, np.zeros((3, classes))])
        weights = np.linalg.lstsq(rows.astype(np.float64), filled, rcond=None)[0]
        np.testing.assert_allclose(ours, queries @ weights, rtol=2e-3, atol=1e-4)


# ------------------------------------------------------------------ MAML


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "hidden": jnp.asarray(rng.normal(size=(1, 5))),
        "output": [jnp.asarray(rng.normal(size=(5, 1))), jnp.zeros(1)],
    }


def squared_error(params, x, y):
    weights, bias = params["output"]
    prediction = jnp.tanh(x @ params["hidden"]) @ weights + bias[None]
    return jnp.mean((prediction - y) ** 2)


def task(phase):
    x = np.linspace(-2.0, 2.0, 8)[:, None]
    return x, np.sin(x + phase)


def outer_loss(params, first_order=False, steps=3, learning_rate=0.1):
    """The loss on the odd points after an adaptation to the even ones."""
    x, y = task(0.3)
    adapted = xent.maml_adapt(
        params,
        lambda params: squared_error(params, x[::2], y[::2]),
        steps=steps,
        learning_rate=learning_rate,
        first_order=first_order,
    )
    return squared_error(adapted, x[1::2], y[1::2])


def test_the_gradient_through_the_adaptation_is_that_of_finite_differences():
    with jax.enable_x64(True):
        params = network()
        flat, restore = ravel_pytree(params)
        gradient = ravel_pytree(jax.jit(jax.grad(outer_loss))(params))[0]
        steps = 1e-5 * np.eye(len(flat))
        many = jax.jit(jax.vmap(lambda flat: outer_loss(restore(flat))))
        numeric = (many(flat[None] + steps) - many(flat[None] - steps)) / 2e-5
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-9)
        first = jax.jit(jax.grad(lambda params: outer_loss(params, first_order=True)))(params)
        difference = ravel_pytree(first)[0] - gradient
        assert np.abs(difference).max() > 1e-2 * np.abs(gradient).max()


def test_first_order_is_the_gradient_at_the_adapted_parameters():
    with jax.enable_x64(True):
        params, (x, y) = network(), task(0.3)
        adapted, gradient = params, jax.jit(jax.grad(squared_error))
        for _ in range(3):  # by hand
            slopes = gradient(adapted, x[::2], y[::2])
            adapted = jax.tree.map(lambda value, slope: value - 0.1 * slope, adapted, slopes)
        expected = gradient(adapted, x[1::2], y[1::2])
        ours = jax.jit(jax.grad(lambda params: outer_loss(params, first_order=True)))(params)
        for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-10)


def test_the_optimum_of_quadratic_tasks():
    # Of losses (x - c)^T A (x - c) / 2, MAML's minimum is at sum M A M x = sum M A M c with
    # M = (I - a A)^T steps; the average loss's is at sum A x = sum A c.
    rng = np.random.default_rng(0)
    roots, centres = rng.normal(size=(4, 3, 3)), rng.normal(size=(4, 3))
    curvatures = roots @ roots.transpose(0, 2, 1)
    shrink = np.stack([np.linalg.matrix_power(np.eye(3) - 0.05 * a, 2) for a in curvatures])
    metric = shrink @ curvatures @ shrink
    optimum = np.linalg.solve(metric.sum(0), np.einsum("tij,tj->i", metric, centres))

    def loss(x, curvature, centre):
        return 0.5 * (x - centre) @ curvature @ (x - centre)

    def meta_loss(x, first_order):
        def of_task(curvature, centre):
            def inner(x):
                return loss(x, curvature, centre)

            return inner(
                xent.maml_adapt(x, inner, steps=2, learning_rate=0.05, first_order=first_order)
            )

        return jax.vmap(of_task)(curvatures, centres).sum()

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(meta_loss), static_argnums=1)
        np.testing.assert_allclose(gradient(optimum, False), np.zeros(3), atol=1e-12)
        assert np.abs(gradient(optimum, True)).max() > 1e-3


def test_adaptation_descends_and_its_edges():
    params, (x, y) = jax.tree.map(np.float32, network()), task(0.3)

    def loss(params):
        return squared_error(params, np.float32(x), np.float32(y))

    def of_rate(rate):
        return loss(xent.maml_adapt(params, loss, steps=1, learning_rate=rate))

    @jax.jit
    def everything(params, rate):
        losses = [loss(xent.maml_adapt(params, loss, steps=n)) for n in (0, 1, 5, 50)]
        return losses, jax.value_and_grad(loss)(params), jax.grad(of_rate)(rate)

    losses, (unadapted, slopes), slope_of_rate = everything(params, 0.0)
    assert losses[0] == unadapted
    assert np.all(np.diff(losses) < 0.0)
    norm = sum(np.sum(np.square(slope)) for slope in jax.tree.leaves(slopes))
    np.testing.assert_allclose(slope_of_rate, -norm, rtol=1e-4)
    half = xent.maml_adapt(jnp.ones(2, jnp.bfloat16), jnp.sum, steps=1, learning_rate=1e-4)
    np.testing.assert_allclose(half, np.float32([1.0 - 1e-4] * 2), rtol=1e-6)
    with pytest.raises(ValueError, match="steps must be at least 0"):
        xent.maml_adapt(params, loss, steps=-1)
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        xent.maml_adapt(params, loss, learning_rate=-0.1)
    with pytest.raises(TypeError, match="params must be floating point"):
        xent.maml_adapt(np.arange(3), jnp.sum)
