"""Losses of embeddings: their own contract, negatives from all devices, and what papers prove.

Every row of `cases/contrastive.py` also goes through the checks that all families share.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import xent_jax as xent
from tests.losses.cases.contrastive import CASES, cosine, distance, embeddings_and_labels

EXAMPLES, DIMENSIONS = 6, 4
ALL = np.ones(EXAMPLES, bool)
BY_NAME = {case.name: case for case in CASES}
DISTANCES = ("neighbourhood", "lifted", "batch")


def takes(case, name):
    return name in inspect.signature(case.function).parameters


OVER_BATCHES = [name for name, case in BY_NAME.items() if takes(case, "axis_name")]
OF_LABELS = [name for name, case in BY_NAME.items() if case.inputs is embeddings_and_labels]
OF_COSINES = [name for name in OVER_BATCHES if not name.startswith((*DISTANCES, "n_pairs"))]


def draw(name, examples=EXAMPLES, seed=0, dtype=np.float32):
    inputs = BY_NAME[name].inputs(np.random.default_rng(seed), examples, DIMENSIONS)
    return tuple(cast(x, dtype) for x in inputs)


def cast(array, dtype):
    return array.astype(dtype if array.dtype.kind == "f" else np.int32)


def split(inputs):
    """Returns the embeddings, and the labels if there are any."""
    floats = tuple(x for x in inputs if jnp.issubdtype(x.dtype, jnp.floating))
    return floats, tuple(inputs[len(floats) :])


@functools.cache
def compiled(name):
    """Returns (inputs, where, hyper-parameters) -> loss, gradients in embeddings, slopes."""
    case = BY_NAME[name]

    @jax.jit
    def derivatives(inputs, where, values):
        floats, labels = split(inputs)

        def total(floats, values):
            context = case.context(DIMENSIONS)
            loss = case.function(*floats, *labels, **values, **context, where=where)
            return loss.sum(), loss

        (gradients, slopes), loss = jax.grad(total, (0, 1), has_aux=True)(floats, values)
        return loss, gradients, slopes

    return lambda inputs, where=None, values=None: derivatives(
        inputs,
        np.ones(len(inputs[0]), bool) if where is None else where,
        {k: jnp.float32(v) for k, v in (values or case.values).items()},
    )


def reference(name, inputs, values=None):
    """Returns the textbook formula in extended precision, where exp(1000) is a number."""
    case = BY_NAME[name]
    inputs = [x.astype(np.longdouble) if x.dtype.kind == "f" else x for x in inputs]
    values = case.values if values is None else values
    return case.reference(*inputs, **values, **case.context(DIMENSIONS)).astype(np.float64)


def close(ours, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("name", BY_NAME)
def test_masked_examples_are_as_if_they_were_not_there(name):
    where = np.array([True, True, False, True, True, False])
    clean = draw(name)
    dirty = tuple(x.copy() for x in clean)
    for x in dirty:
        x[~where] = [[np.nan], [np.inf]] if x.ndim == 2 else [-1, 2**31 - 1]
    loss, gradients, slopes = compiled(name)(dirty, where)
    close(loss[where], reference(name, [x[where] for x in clean]))
    assert np.all(loss[~where] == 0)
    alone, alone_gradients, alone_slopes = compiled(name)(tuple(x[where] for x in clean))
    close(loss[where], alone)
    for gradient, expected in zip(gradients, alone_gradients, strict=True):
        assert np.all(gradient[~where] == 0)
        assert np.any(expected != 0)
        close(gradient[where], expected)
    for key, slope in slopes.items():
        close(slope, alone_slopes[key])
    nothing = compiled(name)(dirty, np.zeros(EXAMPLES, bool))
    assert all(np.all(x == 0) for x in jax.tree.leaves(nothing))


@pytest.mark.parametrize("name", BY_NAME)
def test_a_broken_embedding_that_counts_is_told_by_nan(name):
    inputs = draw(name)
    inputs[0][2, 1] = np.nan
    loss, gradients, _ = compiled(name)(inputs)
    assert np.isnan(loss[2])
    assert np.isnan(gradients[0][2]).any()


@pytest.mark.parametrize("name", ["supervised_contrastive", "neighbourhood_component_analysis"])
def test_padding_makes_no_nan_on_the_way(name):
    embeddings, labels = draw(name)
    with jax.debug_nans(True):
        loss = BY_NAME[name].function(embeddings, labels, where=np.arange(EXAMPLES) < 4)
    assert np.all(loss[:4] > 0)


@pytest.mark.parametrize("name", BY_NAME)
def test_any_order_of_the_examples(name):
    inputs, order = draw(name), np.array([3, 0, 5, 1, 4, 2])
    loss, gradients, _ = compiled(name)(inputs)
    moved, moved_gradients, _ = compiled(name)(tuple(x[order] for x in inputs))
    close(moved, loss[order])
    for gradient, expected in zip(moved_gradients, gradients, strict=True):
        close(gradient, expected[order])


@pytest.mark.parametrize("name", OF_LABELS)
def test_any_labels(name):
    for seed in range(12):
        embeddings, _ = draw(name, seed=seed)
        labels = np.random.default_rng(seed).integers(-2, 2, EXAMPLES, np.int32)
        loss, (gradient,), slopes = compiled(name)((embeddings, labels))
        close(loss, reference(name, (embeddings, labels)), rtol=1e-4)
        assert np.all(np.isfinite(gradient))
        assert np.all(np.isfinite(list(slopes.values())))


@pytest.mark.parametrize("name", OF_LABELS)
@pytest.mark.parametrize("labels", [np.arange(EXAMPLES), np.array([0, 1, 1, 1, 1, 1])], ids=str)
def test_an_anchor_without_positives_has_loss_0_and_no_gradient(name, labels):
    embeddings, _ = draw(name)
    loss, (gradient,), _ = compiled(name)((embeddings, labels.astype(np.int32)))
    assert loss[0] == 0
    assert np.all(np.isfinite(loss))
    assert np.all(np.isfinite(gradient))
    if len(set(labels)) == EXAMPLES:
        assert np.all(gradient == 0)


@pytest.mark.parametrize("name", OF_LABELS)
def test_without_negatives(name):
    embeddings, labels = draw(name)
    loss, (gradient,), _ = compiled(name)((embeddings, np.zeros_like(labels)))
    if name == "supervised_contrastive":  # the only one that makes positives compete
        expected = [
            np.mean([np.log(np.exp(row - s).sum()) for s in row]) for row in rows(embeddings)
        ]
        close(loss, expected)
    else:
        assert np.all(loss == 0)
        assert np.all(gradient == 0)


def rows(embeddings, temperature=0.5):
    return [
        np.array([cosine(x, y) / temperature for j, y in enumerate(embeddings) if j != i])
        for i, x in enumerate(embeddings)
    ]


@pytest.mark.parametrize("name", BY_NAME)
def test_any_number_of_examples_and_maps_over_batches_and_hyper_parameters(name):
    case = BY_NAME[name]
    sizes = [draw(name, examples) for examples in (0, 1, 17)]
    floats = {key: jnp.float32(value) for key, value in case.values.items()}

    def loss(inputs, values=floats):
        return case.function(*inputs, **values, **case.context(DIMENSIONS))

    def total(floats, labels):
        value = loss((*floats, *labels))
        return value.sum(), value

    @jax.jit
    def everything(sizes, both, values):
        mapped = {}
        for key, value in values.items():
            pair = jnp.stack([value, jnp.float32(case.parameters[key].other)])
            one = jax.tree.map(lambda x: x[0], both)
            mapped[key] = jax.vmap(lambda x, k=key, i=one: loss(i, values | {k: x}))(pair)
        results = [jax.grad(total, has_aux=True)(*split(inputs)) for inputs in sizes]
        return results, jax.vmap(loss)(both), mapped

    both = jax.tree.map(lambda x, y: np.stack([x, y]), draw(name), draw(name, seed=1))
    results, batches, mapped = everything(sizes, both, floats)
    for inputs, (gradients, ours) in zip(sizes, results, strict=True):
        assert ours.shape == inputs[0].shape[:1]
        close(ours, reference(name, inputs), rtol=1e-4)
        assert all(np.all(np.isfinite(x)) for x in gradients)
    close(batches, [reference(name, draw(name, seed=seed)) for seed in (0, 1)], rtol=1e-4)
    for key, pair in mapped.items():
        other = case.values | {key: case.parameters[key].other}
        close(pair, [reference(name, draw(name), v) for v in (case.values, other)], rtol=1e-4)


@pytest.mark.parametrize("name", OVER_BATCHES)
def test_eight_devices_agree_with_one(name):
    case, examples = BY_NAME[name], 16
    inputs = draw(name, examples)
    rng = np.random.default_rng(1)
    labels = (rng.integers(0, 3, examples, np.int32),) if name in OF_LABELS else ()
    floats, where, weights = split(inputs)[0], rng.uniform(size=examples) < 0.8, rng.normal(size=16)
    weights = weights.astype(np.float32)
    values = {key: jnp.float32(value) for key, value in case.values.items()}

    def weighted(floats, labels, where, weights, values, axis_name=None):
        keywords = values | case.context(DIMENSIONS) | {"axis_name": axis_name}
        return weights * case.function(*floats, *labels, **keywords, where=where)

    def total(*arguments, **keywords):
        return weighted(*arguments, **keywords).sum()

    mesh = Mesh(np.array(jax.devices("cpu")[:8]), ("data",))
    split_over, whole = PartitionSpec("data"), PartitionSpec()
    on_devices = functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(split_over, split_over, split_over, split_over, whole),
        out_specs=split_over,
    )
    over_data = functools.partial(weighted, axis_name="data")
    inside = on_devices(jax.grad(functools.partial(total, axis_name="data")))

    @jax.jit
    def everything(*arguments):
        outside = jax.grad(lambda *a: on_devices(over_data)(*a).sum(), (0, 4))(*arguments)
        one = weighted(*arguments), jax.grad(total, (0, 4))(*arguments)
        return one, (on_devices(over_data)(*arguments), outside), inside(*arguments)

    one, eight, inside = everything(floats, labels, where, weights, values)
    assert jax.tree.leaves(one)[0].any()
    jax.tree.map(functools.partial(close, rtol=1e-4, atol=1e-5), eight, one)
    jax.tree.map(functools.partial(close, rtol=1e-4, atol=1e-5), inside, one[1][0])


@pytest.mark.parametrize("name", OVER_BATCHES)
def test_extremes_are_finite(name):
    floats, labels = split(draw(name))
    far = tuple(x * np.float32([1e18, 1e-18, 0, 1, 1e9, 1])[:, None] for x in floats)
    one_place = tuple(np.full_like(x, 0.3) for x in floats)
    none = tuple(np.zeros_like(x) for x in floats)
    opposite = tuple(x[0] * np.float32([1, 1, 1, -1, -1, -1])[:, None] for x in floats)
    sharp = {"temperature": 1e-3, "log_scale": 7.0, "scale": 1e3, "gamma": 1e3, "beta": 1e3}
    sharp = {key: sharp.get(key, value) for key, value in BY_NAME[name].values.items()}
    for values in (BY_NAME[name].values, sharp):
        for embeddings in (floats, one_place, none, opposite):
            result = compiled(name)((*embeddings, *labels), values=values)
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(result)), embeddings
        if name in OF_COSINES:
            result = compiled(name)((*far, *labels), values=values)
            assert np.all(np.isfinite(result[0]))
            assert all(np.all(np.isfinite(x)) for x in result[1])
            loss = compiled(name)((*floats, *labels), values=values)[0]
            close(loss, reference(name, (*floats, *labels), values), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", OF_COSINES)
def test_cosines_do_not_depend_on_lengths_nor_the_gradient_on_directions_alone(name):
    floats, labels = split(draw(name))
    lengths = np.float32([0.5, 2.0, 8.0, 1e4, 1e-4, 3.0])[:, None]
    loss, gradients, _ = compiled(name)((*floats, *labels))
    longer, longer_gradients, _ = compiled(name)((*(lengths * x for x in floats), *labels))
    close(longer, loss)
    for x, gradient, longer_gradient in zip(floats, gradients, longer_gradients, strict=True):
        close(np.sum(x * gradient, axis=-1), np.zeros(EXAMPLES), atol=1e-5)
        close(lengths * longer_gradient, gradient)


@pytest.mark.parametrize("name", [name for name in OVER_BATCHES if name.startswith(DISTANCES)])
def test_distances_keep_their_digits_far_from_the_origin(name):
    embeddings, labels = draw(name)
    embeddings = np.round(embeddings * 256) / 256  # so that the sum is exact
    loss, (gradient,), _ = compiled(name)((embeddings, labels))
    moved, (moved_gradient,), _ = compiled(name)((embeddings + np.float32(4096), labels))
    close(moved, loss)
    close(moved_gradient, gradient, atol=1e-5)


# How many arrays of the size of all pairs the CPU holds for value and gradient. Two directions, an
# angle beside its cosine, and ranks to bisect take more.
ARRAYS = {"clip_loss": 8, "tuplet_margin": 7, "lifted_structure": 6, "batch_semi_hard_triplet": 11}


@pytest.mark.parametrize("name", OVER_BATCHES)
def test_memory_is_a_few_arrays_of_all_pairs(name):
    case, size, dimensions = BY_NAME[name], 256, 64
    inputs = case.inputs(np.random.default_rng(0), size, dimensions)
    floats, labels = split(tuple(cast(x, np.float32) for x in inputs))

    def total(floats):
        return case.function(*floats, *labels, **case.values, **case.context(dimensions)).sum()

    memory = jax.jit(jax.value_and_grad(total)).lower(floats).compile().memory_analysis()
    embeddings = 6 * size * dimensions  # units, transposed, and their gradients
    assert memory.temp_size_in_bytes / 4 < ARRAYS.get(name, 4.7) * size**2 + embeddings


def test_arguments_that_do_not_fit_are_told():
    embeddings, labels = draw("ntxent")
    with pytest.raises(TypeError):
        xent.ntxent(embeddings.astype(np.int32), labels)
    with pytest.raises(TypeError):
        xent.ntxent(embeddings, labels.astype(np.float32))
    with pytest.raises(ValueError, match=r"labels must hold one integer .* got \(5,\)"):
        xent.ntxent(embeddings, labels[:5])
    with pytest.raises(ValueError, match="it masks examples"):
        xent.ntxent(embeddings, labels, where=ALL[:5])
    with pytest.raises(ValueError, match="embeddings, other_embeddings must have one shape"):
        xent.clip_loss(embeddings, embeddings[:, :3])
    with pytest.raises(ValueError, match="labels must hold one number per pair"):
        xent.contrastive_loss(embeddings, embeddings, labels[:5])
    with pytest.raises(ValueError, match="anchors, positives, negatives must have one shape"):
        xent.triplet_margin_loss(embeddings, embeddings, embeddings[:5])


# ----------------------------------------------------------------- what the papers say and prove


def run(loss, *inputs, **keywords):
    return np.asarray(jax.jit(lambda *inputs: loss(*inputs, **keywords))(*inputs))


def test_ntxent_of_two_views_is_the_equation_of_simclr():
    views = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    total = 0.0
    for k in range(4):
        for i, j in ((2 * k, 2 * k + 1), (2 * k + 1, 2 * k)):
            others = [np.exp(cosine(views[i], views[a]) / 0.5) for a in range(8) if a != i]
            total -= np.log(np.exp(cosine(views[i], views[j]) / 0.5) / sum(others))
    close(run(xent.ntxent, views, np.arange(8) // 2, temperature=0.5).mean(), total / 8)


def test_ntxent_reduces_to_the_scalar_of_optax():
    optax = pytest.importorskip("optax")
    embeddings, _ = draw("ntxent")
    labels = np.array([0, 0, 0, 1, 1, 2])
    positives = np.array([2, 2, 2, 1, 1, 0], np.float32)

    def ours(x):
        return jnp.sum(xent.ntxent(x, labels) * positives) / jnp.sum(positives)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        value, gradient = jax.jit(jax.value_and_grad(optax.ntxent))(embeddings, labels)
        assert np.isnan(run(optax.ntxent, embeddings, np.arange(EXAMPLES)))
    loss, slope = jax.jit(jax.value_and_grad(ours))(embeddings)
    close(loss, value)
    close(slope, gradient, atol=1e-5)


def test_triplet_margin_loss_is_that_of_optax_and_right_where_optax_is_not():
    optax = pytest.importorskip("optax")
    a, p, n = draw("triplet_margin_loss")
    with jax.numpy_rank_promotion("allow"):
        close(run(xent.triplet_margin_loss, a, p, n), optax.losses.triplet_margin_loss(a, p, n))
        theirs = optax.losses.triplet_margin_loss(a.T, p.T, n.T, 0, 4, 0.3, 1e-3)
        assert np.isnan(optax.losses.triplet_margin_loss(a, p, n, -1, 2.5)).any()
        odd = optax.losses.triplet_margin_loss(a, p, n, -1, 1)
    close(
        run(xent.triplet_margin_loss, a.T, p.T, n.T, axis=0, norm_degree=4, margin=0.3, eps=1e-3),
        theirs,
    )
    manhattan = np.maximum(0, 1 + np.abs(a - p).sum(-1) - np.abs(a - n).sum(-1))
    close(run(xent.triplet_margin_loss, a, p, n, norm_degree=1), manhattan, atol=1e-5)
    assert not np.allclose(odd, manhattan)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supervised_contrastive_and_its_other_form(temperature):
    embeddings, _ = draw("ntxent")
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    labels, count = np.array([0, 0, 0, 1, 1, 1]), 2
    outside = run(xent.supervised_contrastive, embeddings, labels, temperature=temperature)
    inside = run(
        xent.neighbourhood_component_analysis, unit, labels, temperature=2 * temperature
    ) + np.float32(np.log(count))
    expected = []
    for i, row in enumerate(rows(embeddings, temperature)):
        same = np.delete(labels, i) == labels[i]
        expected.append(-np.log(np.exp(row[same]).mean() / np.exp(row).sum()))
    close(inside, expected)
    assert np.all(outside >= inside - 1e-5)  # Jensen's inequality, section 3.2.2 of the paper
    assert np.all(outside >= np.log(count))
    collapsed = np.eye(DIMENSIONS, dtype=np.float32)[labels]
    close(
        run(xent.supervised_contrastive, collapsed, labels, temperature=0.05),
        np.full(EXAMPLES, np.log(count)),
    )


def test_small_losses_keep_their_digits():
    angles = np.array([0.0, 0.2, 3.1, 3.3])
    views = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    labels = np.array([0, 0, 1, 1])
    exact = reference("ntxent", (views, labels), {"temperature": 0.1})
    assert np.all(exact < 1e-7)
    close(run(xent.ntxent, views, labels, temperature=0.1), exact, rtol=2e-4, atol=0)
    close(run(xent.supervised_contrastive, views, labels), exact, rtol=2e-4, atol=0)


def test_info_nce_measures_information_up_to_the_logarithm_of_the_batch():
    symbols = np.array([0, 1, 2, 3, 0, 1, 2, 3])  # each twice: x = y tells log 4 nats
    codes = np.eye(4, dtype=np.float32)[symbols]
    bound = np.log(8) - run(xent.info_nce, codes, codes, temperature=0.02).mean()
    close(bound, np.log(4))
    queries, keys = draw("info_nce", examples=12)
    assert np.all(run(xent.info_nce, queries, keys) >= 0)  # so that the bound is at most log 12
    apart = np.eye(6, dtype=np.float32)
    close(run(xent.info_nce, apart, apart, temperature=0.02), np.zeros(6))


def test_clip_is_two_cross_entropies_over_the_other_side():
    images, texts = draw("clip_loss")
    logits = np.array([[cosine(x, y) for y in texts] for x in images], np.float32) / np.float32(
        0.07
    )
    right = np.arange(EXAMPLES)
    forth = xent.softmax_cross_entropy_with_integer_labels(logits, right)
    back = xent.softmax_cross_entropy_with_integer_labels(logits, right, axis=0)
    close(run(xent.clip_loss, images, texts), (forth + back) / 2, rtol=1e-4, atol=1e-4)


def test_siglip_is_a_sigmoid_cross_entropy_pair_by_pair():
    images, texts = draw("siglip_loss")
    cosines = np.array([[cosine(x, y) for y in texts] for x in images], np.float32)
    expected = xent.sigmoid_binary_cross_entropy(10 * cosines - 10, np.eye(EXAMPLES))
    close(run(xent.siglip_loss, images, texts), expected.sum(-1))


def test_the_gradient_of_n_pairs_is_the_mean_of_the_keys_less_the_own():
    anchors, positives = draw("n_pairs")
    _, (gradient, _), _ = compiled("n_pairs")((anchors, positives))
    p = np.exp(anchors @ positives.T)
    close(gradient, p / p.sum(-1, keepdims=True) @ positives - positives)


def test_the_gradient_of_the_circle_loss_is_that_of_its_paper():
    embeddings, labels = draw("circle_loss")
    margin, gamma = 0.25, 3.0

    def cosines(x):
        unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        return unit @ unit.T

    s, pullback = jax.vjp(cosines, jnp.asarray(embeddings))
    s, slopes = np.asarray(s), np.zeros((EXAMPLES, EXAMPLES), np.float32)
    for i in range(EXAMPLES):
        same = (labels == labels[i]) & (np.arange(EXAMPLES) != i)
        other = labels != labels[i]
        q_n = np.exp(gamma * (s[i] ** 2 - margin**2)) * other
        q_p = np.exp(gamma * ((s[i] - 1) ** 2 - margin**2)) * same
        # alpha_n is clipped at 0 for cosines below -m, where the paper's square is not.
        q_n = np.where(s[i] < -margin, other, q_n)
        z = 1 - 1 / (1 + q_n.sum() * q_p.sum())
        slopes[i] = z * q_n / q_n.sum() * gamma * np.maximum(s[i] + margin, 0)
        slopes[i] += z * q_p / q_p.sum() * gamma * (s[i] - 1 - margin)

    def total(x, detach_weights):
        loss = xent.circle_loss(
            x, labels, margin=margin, gamma=gamma, detach_weights=detach_weights
        )
        return loss.sum()

    detached, whole = (
        jax.jit(jax.value_and_grad(total), static_argnums=1)(embeddings, detach)
        for detach in (True, False)
    )
    assert detached[0] == whole[0]
    close(detached[1], pullback(slopes)[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(detached[1], whole[1], rtol=0.1)


def test_mining_of_multi_similarity_leaves_out_the_easy_pairs():
    embeddings, labels = draw("multi_similarity")
    everything, some = (
        run(xent.multi_similarity, embeddings, labels, beta=3.0, mining_margin=margin)
        for margin in (2.0, -0.3)
    )
    for i, row in enumerate(rows(embeddings, 1.0)):
        same = np.delete(labels, i) == labels[i]
        pulled = np.log1p(np.exp(-2 * (row[same] - 1)).sum()) / 2
        close(everything[i], pulled + np.log1p(np.exp(3 * (row[~same] - 1)).sum()) / 3)
    assert np.all(some <= everything)
    assert np.any(some < everything)


def test_batch_hard_is_the_worst_of_all_triplets_and_lifted_structure_above_it():
    embeddings, labels = draw("batch_hard_triplet")
    hard = run(xent.batch_hard_triplet, embeddings, labels, margin=0.5)
    triples = [
        (a, p, n)
        for a in range(EXAMPLES)
        for p in range(EXAMPLES)
        for n in range(EXAMPLES)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    a, p, n = np.array(triples).T
    losses = np.asarray(
        run(
            xent.triplet_margin_loss,
            embeddings[a],
            embeddings[p],
            embeddings[n],
            margin=0.5,
            eps=1e-12,
        )
    )
    close(hard, [losses[a == anchor].max() for anchor in range(EXAMPLES)])
    assert np.all(run(xent.lifted_structure, embeddings, labels, margin=0.5) >= hard)


def test_semi_hard_negatives_are_found_among_many():
    embeddings = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    labels = np.arange(40) % 4
    ours = jax.jit(lambda x: xent.batch_semi_hard_triplet(x, labels, margin=0.2))(embeddings)
    expected = []
    for a in range(40):
        gaps = []
        for p in range(40):
            if p != a and labels[p] == labels[a]:
                reach = distance(embeddings[a], embeddings[p])
                others = [distance(embeddings[a], x) for x in embeddings[labels != labels[a]]]
                gaps.append(
                    reach**2 - min([d for d in others if d > reach], default=max(others)) ** 2
                )
        expected.append(np.mean([max(0.0, 0.2 + gap) for gap in gaps]))
    close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_negative_as_far_as_the_positive_is_not_beyond_it():
    places = np.float32([[0], [1], [-1], [2], [9]])
    loss = run(xent.batch_semi_hard_triplet, places, np.array([0, 0, 1, 2, 3]), margin=4.0)
    close(loss[0], 4.0 + 1.0 - 4.0)


@pytest.mark.parametrize("name", OVER_BATCHES)
def test_accelerators_are_asked_for_all_digits_of_the_products(name):
    floats, labels = split(draw(name))
    loss = functools.partial(BY_NAME[name].function, **BY_NAME[name].values)
    products = str(jax.make_jaxpr(loss)(*floats, *labels)).split("dot_general")[1:]
    assert products
    assert all("precision=(Precision.HIGHEST" in p or "precision=Highest" in p for p in products)


def test_tuplet_margin_forgives_an_angle_and_not_more():
    angles = np.array([0.0, 0.3, 1.3, 1.5])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    turned = angles - np.array([0.0, 0.3, 0.0, 0.0])  # the positives moved onto their anchors
    moved = np.stack([np.cos(turned), np.sin(turned)], axis=-1).astype(np.float32)
    eased = run(xent.tuplet_margin, points, np.array([0, 0, 1, 1]), margin=0.3, scale=4.0)[0]
    close(eased, run(xent.tuplet_margin, moved, np.array([0, 0, 1, 1]), margin=0.0, scale=4.0)[0])


def test_labels_of_pairs_outside_0_and_1_give_nan_and_a_nan_gradient():
    first, second, _ = draw("contrastive_loss")
    labels = np.array([0, 1, -1, 2, 0, 1])
    loss, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda *x: xent.contrastive_loss(*x)[0])))(
        first[:, None], second[:, None], labels[:, None]
    )
    np.testing.assert_array_equal(np.isnan(loss), [False, False, True, True, False, False])
    np.testing.assert_array_equal(np.isnan(gradient).any((1, 2)), np.isnan(loss))
