"""Classification metrics against scikit-learn, and the algebra of their sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xent_jax.errors import UserError
from xent_jax.metrics import ClassificationSums, classification_sums, compute

CLASSES = 7
sums_of = jax.jit(classification_sums, static_argnames=("bins", "top_k", "confusion"))
sums_of_top2 = functools.partial(sums_of, top_k=2)
NOTHING = {"bins": 15, "top_k": 2}


@pytest.fixture(scope="module")
def examples():
    """240 examples, 200 of which count; class 5 is never a label, class 6 never predicted."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(240, CLASSES)).astype(np.float32) * 2
    logits[:, 6] -= 20
    labels = rng.choice([0, 1, 2, 3, 4, 6], size=240).astype(np.int32)
    logits[np.arange(240), labels] += 1.5
    where = np.arange(240) < 200
    logits[~where] = np.tile([np.nan, np.inf, -np.inf, 1e38], (40, 2))[:, :CLASSES]
    labels[~where] = -99
    return logits, labels, where


def softmax(logits):
    shifted = np.exp(np.float64(logits) - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def assert_same_sums(actual, expected):
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if ours.dtype == np.int32:
            np.testing.assert_array_equal(ours, theirs)
    for name, value in compute(expected).items():
        np.testing.assert_allclose(compute(actual)[name], value, rtol=1e-6, err_msg=name)


def test_agrees_with_scikit_learn(examples):
    logits, labels, where = examples
    metrics = compute(sums_of_top2(logits, labels, where=where))
    true, p = labels[where], softmax(logits[where])
    predicted = p.argmax(-1)
    names = np.arange(CLASSES)
    recall = sklearn.metrics.recall_score(
        true, predicted, labels=names, average=None, zero_division=np.nan
    )
    expected = {
        "examples": 200,
        "accuracy": sklearn.metrics.accuracy_score(true, predicted),
        "top_2_accuracy": sklearn.metrics.top_k_accuracy_score(true, p, k=2, labels=names),
        "balanced_accuracy": np.nanmean(recall),
        "macro_f1": sklearn.metrics.f1_score(true, predicted, average="macro"),
        "nll": sklearn.metrics.log_loss(true, p, labels=names),
        "brier": sklearn.metrics.brier_score_loss(true, p, labels=names),
        "per_class_recall": recall,
        "confusion_matrix": sklearn.metrics.confusion_matrix(true, predicted, labels=names),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    assert np.isnan(recall[5]), "the data must hold a class without labels"
    assert recall[6] == 0, "and one without predictions"
    assert 0.2 < metrics["accuracy"] < metrics["top_2_accuracy"] < 0.95


def test_balanced_accuracy_is_that_of_scikit_learn_without_absent_predictions():
    labels = np.array([0, 0, 0, 1, 3], np.int32)
    predicted = np.array([0, 1, 0, 1, 0], np.int32)
    metrics = compute(sums_of(5.0 * np.eye(4, dtype=np.float32)[predicted], labels))
    expected = sklearn.metrics.balanced_accuracy_score(labels, predicted)
    np.testing.assert_allclose(metrics["balanced_accuracy"], expected, rtol=1e-12)


def test_padded_batches_merge_to_the_whole(examples):
    logits, labels, where = examples

    @jax.jit
    def scanned(batches):
        def add_batch(sums, batch):
            logits, labels, where = batch
            return sums + classification_sums(logits, labels, where=where, top_k=2), None

        return jax.lax.scan(add_batch, ClassificationSums.empty(CLASSES, **NOTHING), batches)[0]

    batches = jax.tree.map(lambda x: x.reshape(-1, 24, *x.shape[1:]), examples)
    assert_same_sums(scanned(batches), sums_of_top2(logits, labels, where=where))


def test_devices_merge_by_psum_and_by_sharding(examples):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P())
    def psummed(logits, labels, where):
        return jax.lax.psum(classification_sums(logits, labels, where=where, top_k=2), "data")

    logits, labels, where = examples
    whole = sums_of_top2(logits, labels, where=where)
    sharded = jax.device_put(examples, NamedSharding(mesh, P("data")))
    assert_same_sums(psummed(*sharded), whole)
    assert_same_sums(sums_of_top2(sharded[0], sharded[1], where=sharded[2]), whole)


def test_token_shapes_and_vmap(examples):
    logits, labels, where = jax.tree.map(lambda x: x.reshape(8, 30, *x.shape[1:]), examples)
    whole = sums_of_top2(*examples[:2], where=examples[2])
    assert_same_sums(sums_of_top2(logits, labels, where=where), whole)
    per_row = jax.jit(jax.vmap(lambda z, y, m: classification_sums(z, y, where=m, top_k=2)))
    rows = per_row(logits, labels, where)
    parts = [jax.tree.map(lambda x, i=i: x[i], rows) for i in range(8)]
    assert_same_sums(sum(parts, start=ClassificationSums.empty(CLASSES, **NOTHING)), whole)


def test_many_merges_do_not_drift():
    steps = 100_000
    logits = np.random.default_rng(1).normal(size=(steps, 1, 2)).astype(np.float32)
    labels = np.zeros((steps, 1), np.int32)

    @jax.jit
    def scanned(batches):
        add = lambda sums, batch: (sums + classification_sums(*batch, top_k=1), None)  # noqa: E731
        return jax.lax.scan(add, ClassificationSums.empty(2, top_k=1), batches)[0]

    sums = scanned((logits, labels))
    p = softmax(logits[:, 0])
    nll = np.float64(sums.nll.value()) / steps
    np.testing.assert_allclose(nll, -np.log(p[:, 0]).mean(), rtol=2e-7)
    assert abs(sums.nll.total / steps - nll) > 1e-6, "a plain float32 sum would have done"
    np.testing.assert_allclose(compute(sums)["brier"], 2 * np.mean(p[:, 1] ** 2), rtol=2e-7)


def test_label_noise_counts():
    predicted = np.array([0, 1, 2, 2, 1, 0, 0])
    labels = np.array([0, 1, 2, 1, 0, 2, 1], np.int32)
    clean = np.array([0, 1, 0, 2, 1, 2, 2], np.int32)  # wrong: 2 (memorised), 3, 4, 6
    logits = np.eye(3, dtype=np.float32)[predicted]
    count = np.ones(7, bool)
    metrics = compute(sums_of(logits, labels, clean_labels=clean, where=count))
    assert metrics["memorisation"] == 1 / 4
    assert metrics["recovery"] == 2 / 4
    assert metrics["clean_accuracy"] == np.mean(predicted == clean)
    assert metrics["accuracy"] == np.mean(predicted == labels)
    assert "memorisation" not in compute(sums_of(logits, labels))
    masked = sums_of(logits, labels, clean_labels=clean, where=~count)
    assert "memorisation" not in compute(masked)


def test_group_accuracy_follows_the_training_counts():
    labels = np.arange(5, dtype=np.int32).repeat(4)
    right = np.array([4, 3, 2, 1, 0])
    predicted = np.where(np.arange(20) % 4 < right[labels], labels, (labels + 1) % 5)
    sums = sums_of(np.eye(5, dtype=np.float32)[predicted], labels)
    metrics = compute(sums, train_counts=np.array([101, 100, 20, 19, 1]))
    assert metrics["many_accuracy"] == 1
    assert metrics["medium_accuracy"] == (3 / 4 + 2 / 4) / 2
    assert metrics["few_accuracy"] == (1 / 4 + 0) / 2
    assert np.isnan(compute(sums, train_counts=np.full(5, 50))["few_accuracy"])
    with pytest.raises(UserError, match=r"train_counts must have shape \(5,\)"):
        compute(sums, train_counts=np.ones(4))


def test_of_equal_logits_the_first_comes_first():
    logits = np.array([[1, 2, 2, 2], [1, 2, 2, 2], [1, 2, 2, 2]], np.float32)
    labels = np.array([1, 2, 3], np.int32)
    metrics = compute(sums_of_top2(logits, labels))
    assert metrics["accuracy"] == 1 / 3
    assert metrics["top_2_accuracy"] == 2 / 3
    np.testing.assert_array_equal(metrics["confusion_matrix"].sum(0), [0, 3, 0, 0])


def test_impossible_classes_and_undefined_predictions():
    inf, nan = np.inf, np.nan
    impossible = np.array([[0, 0, -inf], [1, -inf, -inf], [-inf, 2, -inf]], np.float32)
    metrics = compute(sums_of(impossible, np.array([0, 0, 1], np.int32)))
    np.testing.assert_allclose(metrics["nll"], np.log(2) / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["brier"], (0.25 + 0.25) / 3, rtol=1e-6)
    unexpected = compute(sums_of(impossible, np.array([2, 0, 1], np.int32)))
    assert unexpected["nll"] == inf
    assert unexpected["top_5_accuracy"] == 2 / 3, "a class that cannot occur is no hit"
    broken = np.array([[nan, 0, 0], [0, inf, 0], [-inf, -inf, -inf]], np.float32)
    metrics = compute(sums_of(broken, np.array([0, 1, 0], np.int32)))
    assert metrics["accuracy"] == 0
    assert metrics["top_5_accuracy"] == 0
    assert metrics["confusion_matrix"].sum() == 0
    for name in "nll", "brier", "expected_calibration_error", "maximum_calibration_error":
        assert np.isnan(metrics[name]), name


def test_infinite_sums_stay_infinite_when_merged():
    certain = np.array([[0, -np.inf]], np.float32)
    wrong = sums_of(certain, np.array([1], np.int32))
    right = sums_of(certain, np.array([0], np.int32))
    assert compute(wrong + right)["nll"] == compute(right + wrong + wrong)["nll"] == np.inf


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_raises(label):
    logits, labels = np.zeros((3, 3), np.float32), np.array([0, label, 1], np.int32)
    sums = sums_of(logits, labels)
    assert np.isnan(sums.nll.value())
    with pytest.raises(UserError, match=r"1 labels lie outside \[0, 3\)"):
        compute(sums)
    with pytest.raises(UserError, match="1 labels lie outside"):
        compute(sums_of(logits, np.zeros(3, np.int32), clean_labels=labels))
    assert compute(sums_of(logits, labels, where=np.array([True, False, True])))["examples"] == 2


def test_metrics_of_nothing_are_nan():
    empty = compute(ClassificationSums.empty(3), train_counts=np.ones(3))
    masked = sums_of(np.zeros((2, 3), np.float32), np.zeros(2, np.int32), where=np.zeros(2, bool))
    assert jax.tree.structure(ClassificationSums.empty(3)) == jax.tree.structure(masked)
    for metrics in empty, compute(masked):
        assert metrics.pop("examples") == 0
        assert not metrics.pop("confusion_matrix").any()
        for name, value in metrics.items():
            assert np.isnan(value).all(), name


def test_low_precision_logits_are_summed_in_float32(examples):
    logits, labels, where = examples
    for dtype in jnp.bfloat16, jnp.float16:
        rounded = logits.clip(-1e4, 1e4).astype(dtype)
        low = sums_of_top2(rounded, labels, where=where)
        assert low.nll.total.dtype == jnp.float32
        assert_same_sums(low, sums_of_top2(rounded.astype(np.float32), labels, where=where))


def test_float64_logits_keep_their_precision(examples):
    logits, labels, where = np.float64(examples[0]), examples[1], examples[2]
    with jax.enable_x64(True):
        sums = sums_of_top2(logits, labels, where=where)
        total = sums + ClassificationSums.empty(CLASSES, **NOTHING)
    assert {leaf.dtype for leaf in jax.tree.leaves(total)} == {np.dtype("i4"), np.dtype("f4")}
    p = softmax(logits[where])[np.arange(200), labels[where]]
    np.testing.assert_allclose(compute(total)["nll"], -np.log(p).mean(), rtol=1e-12)


def test_without_the_confusion_matrix(examples):
    logits, labels, where = examples
    lean = sums_of(logits, labels, where=where, confusion=False)
    assert lean.confusion is None
    assert "confusion_matrix" not in compute(lean)
    lean += ClassificationSums.empty(CLASSES, confusion=False)
    assert compute(lean)["macro_f1"] == compute(sums_of(logits, labels, where=where))["macro_f1"]


def test_mistakes_are_named():
    logits, labels = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)
    sums = sums_of(logits, labels)
    with pytest.raises(UserError, match="same options"):
        sums + ClassificationSums.empty(3, top_k=1)
    with pytest.raises(UserError, match="same options"):
        sums + ClassificationSums.empty(4)
    unchecked = classification_sums
    while hasattr(unchecked, "__wrapped__"):  # past the shape checks that only tests install
        unchecked = unchecked.__wrapped__
    with pytest.raises(UserError, match="one-hot labels"):
        unchecked(logits, logits)
    with pytest.raises(UserError, match="one-hot labels"):
        unchecked(logits, labels, clean_labels=np.zeros(4, np.float32))
    with pytest.raises(UserError, match=r"mask of shape \(4,\)"):
        unchecked(logits, labels, where=np.ones((4, 3), bool))
    with pytest.raises(UserError, match=r"mask of shape \(4,\)"):
        unchecked(logits, labels, where=np.ones(4, np.float32))
