"""What a classifier gets right, counted so that every example counts exactly once.

`classification_sums` turns one batch into sums, `+` merges the sums of batches, a `psum` those of
devices, and `compute` turns them into numbers on the host, in float64:

    def add_batch(sums, batch):
        logits = model(batch["image"], mask=batch["mask"])
        return sums + classification_sums(logits, batch["label"], where=batch["mask"]), None

    sums, _ = jax.lax.scan(add_batch, ClassificationSums.empty(num_classes), padded_batches)
    metrics = compute(sums)

Counts are int32: exact up to 2**31 - 1 examples. The sums of the negative log-likelihood, the Brier
score and the confidences are float32 with a running compensation, so that their means are right
to about 1e-6 (relative) however many batches are merged.

The prediction is the class with the largest logit, the first of several equal ones. Logits with
NaN or +inf, or all -inf, have no prediction: they count as wrong, appear in no column of the
confusion matrix, and make nll, Brier score and calibration errors NaN. A logit of -inf is a class
with probability 0. A label outside the classes makes `compute` raise.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.errors import UserError
from xent_jax.metrics.calibration import (
    CalibrationBins,
    calibration_bins,
    expected_calibration_error,
    maximum_calibration_error,
)
from xent_jax.metrics.inputs import check_labels, entry_of, flatten, flatten_labels
from xent_jax.metrics.summation import CompensatedSum, merge
from xent_jax.typing import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassificationSums:
    """Sums over examples; a pytree that merges with `+` (and `sum(parts, start=empty)`).

    Attributes:
      support: examples per label, int32, shape `(classes,)`.
      predicted: examples per prediction, int32, shape `(classes,)`.
      hits: examples per label that were predicted right, int32, shape `(classes,)`.
      top_k_hits: examples whose label is among the k largest logits, int32 scalar.
      mislabelled: examples whose label differs from their clean label, int32 scalar.
      memorised: those of them for which the wrong label was predicted, int32 scalar.
      recovered: those of them for which the clean label was predicted, int32 scalar.
      invalid_labels: examples whose label or clean label is no class, int32 scalar.
      nll: sum of -log p_y, a compensated float32 pair of shape `(2,)`.
      brier: sum of squared errors of the probabilities, likewise.
      bins: confidence and correctness of the predictions, for the calibration errors.
      confusion: examples per label (row) and prediction (column), int32, shape
        `(classes, classes)`; None where it was not asked for.
      top_k: k, static.
    """

    # Any, not jax.Array: a pytree's leaves may be shapes, shardings or flags as well.
    support: Any
    predicted: Any
    hits: Any
    top_k_hits: Any
    mislabelled: Any
    memorised: Any
    recovered: Any
    invalid_labels: Any
    nll: CompensatedSum
    brier: CompensatedSum
    bins: CalibrationBins
    confusion: Any
    top_k: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def empty(
        cls, num_classes: int, *, bins: int = 15, top_k: int = 5, confusion: bool = True
    ) -> "ClassificationSums":
        """The sums over no examples; the options must be those given to `classification_sums`."""
        counts, count = jnp.zeros(num_classes, jnp.int32), jnp.zeros((), jnp.int32)
        total = CompensatedSum.of(jnp.zeros(()))
        matrix = jnp.zeros((num_classes, num_classes), jnp.int32) if confusion else None
        return cls(
            *(counts, counts, counts),
            *(count, count, count, count, count),
            *(total, total, CalibrationBins.empty(bins), matrix, top_k),
        )

    def __add__(self, other: "ClassificationSums") -> "ClassificationSums":
        return merge(self, other)


def classification_sums(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    *,
    clean_labels: Int[Array, "*batch"] | None = None,
    where: Bool[Array, "*batch"] | None = None,
    bins: int = 15,
    top_k: int = 5,
    confusion: bool = True,
) -> ClassificationSums:
    """Counts one batch; pure, for use under jit, scan, vmap and shard_map.

    Args:
      logits: any float type; sums are taken in float32 (float64 logits in float64).
      labels: integers in [0, classes): the labels to be judged by.
      clean_labels: the true labels where `labels` hold wrong ones, for `memorisation`.
      where: which examples count. The others may hold anything, NaN included.
      bins: number of confidence bins for the calibration errors.
      top_k: k of the top-k accuracy.
      confusion: whether to keep the confusion matrix, which has classes**2 entries.

    Returns:
      The sums of this batch, to be merged with `+`.
    """
    check_labels(logits, labels if clean_labels is None else clean_labels)
    z, y, keep = flatten(logits, labels, where)
    classes = z.shape[-1]
    clean = y if clean_labels is None else flatten_labels(clean_labels, keep, classes)
    predicted = _predict(z)
    nll, brier, confidence = _scores(z, y)
    right, wrong_label = keep & (predicted == y), keep & (y != clean)
    return ClassificationSums(
        support=_count(keep, classes, y),
        predicted=_count(keep, classes, predicted),
        hits=_count(right, classes, y),
        top_k_hits=_total(keep & _in_top_k(z, y, top_k)),
        mislabelled=_total(wrong_label),
        memorised=_total(wrong_label & right),
        recovered=_total(wrong_label & (predicted == clean)),
        invalid_labels=_total(keep & ((y == classes) | (clean == classes))),
        nll=CompensatedSum.of(jnp.sum(jnp.where(keep, nll, 0.0))),
        brier=CompensatedSum.of(jnp.sum(jnp.where(keep, brier, 0.0))),
        bins=calibration_bins(confidence, right, where=keep, bins=bins),
        confusion=_count(keep, classes, y, predicted) if confusion else None,
        top_k=top_k,
    )


def _total(flags: jax.Array) -> jax.Array:
    return jnp.sum(flags, dtype=jnp.int32)


def _count(flags: jax.Array, classes: int, *index: jax.Array) -> jax.Array:
    """Counts flags per class (or pair of classes); the index `classes` counts nowhere."""
    zeros = jnp.zeros((classes,) * len(index), jnp.int32)
    return zeros.at[index].add(flags.astype(jnp.int32), mode="drop")


def _predict(logits: jax.Array) -> jax.Array:
    """The first class with the largest logit; `classes` where softmax is undefined."""
    first = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.isfinite(jnp.max(logits, axis=-1)), first, logits.shape[-1])


def _in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether fewer than k classes come before the label, equal logits in order of their index."""
    label_logit = entry_of(logits, labels)
    earlier = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None] < labels[:, None]
    before = (logits > label_logit) | ((logits == label_logit) & earlier)
    possible = (label_logit[:, 0] > -jnp.inf) & jnp.isfinite(jnp.max(logits, axis=-1))
    return possible & (jnp.sum(before, axis=-1) < k)


def _scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Per example: -log p_y, sum_k (p_k - [k = y])**2, and the largest probability."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    one_hot = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
    brier = jnp.sum(jnp.square(p - one_hot), axis=-1)
    return -entry_of(log_p, labels)[:, 0], brier, jnp.max(p, axis=-1)


def accuracy(sums: ClassificationSums) -> float:
    """The fraction of examples that were predicted right."""
    return _ratio(_sum(sums.hits), _sum(sums.support))


def top_k_accuracy(sums: ClassificationSums) -> float:
    """The fraction of examples whose label is among the `sums.top_k` largest logits.

    Of equal logits the lower class comes first, as in the prediction, so that top-1 is the
    accuracy (scikit-learn lets the higher class come first).
    """
    return _ratio(_sum(sums.top_k_hits), _sum(sums.support))


def negative_log_likelihood(sums: ClassificationSums) -> float:
    """The mean of -log p_y in nats; inf where a label had probability 0."""
    return _ratio(sums.nll.value(), _sum(sums.support))


def brier_score(sums: ClassificationSums) -> float:
    """The mean of sum_k (p_k - [k = y])**2, in [0, 2]. Source: Brier (1950)."""
    return _ratio(sums.brier.value(), _sum(sums.support))


def per_class_recall(sums: ClassificationSums) -> np.ndarray:
    """The accuracy among each label's examples, shape `(classes,)`; NaN for a label without."""
    return _ratios(sums.hits, sums.support)


def balanced_accuracy(sums: ClassificationSums) -> float:
    """The mean recall over the classes that occur as labels, as in scikit-learn."""
    return _mean_known(per_class_recall(sums))


def macro_f1(sums: ClassificationSums) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN).

    Taken over the classes that occur as labels or as predictions, as in scikit-learn.
    """
    hits = np.asarray(sums.hits, np.int64)
    return _mean_known(_ratios(2 * hits, np.asarray(sums.support, np.int64) + sums.predicted))


def group_accuracy(
    sums: ClassificationSums, train_counts: Array, *, many: int = 100, few: int = 20
) -> dict[str, float]:
    """The mean recall of classes with many, medium and few examples in the training set.

    Args:
      sums: the sums over the evaluation set.
      train_counts: training examples per class, shape `(classes,)`.
      many: classes with more than this many are `many_accuracy`.
      few: classes with fewer than this many are `few_accuracy`; the rest `medium_accuracy`.

    Returns:
      The three means; NaN for a group without a class that occurs as label.

    Source: Liu et al. (2019), "Large-scale long-tailed recognition in an open world", section 4.
    """
    recall, counts = per_class_recall(sums), np.asarray(train_counts)
    if counts.shape != recall.shape:
        raise UserError(
            f"train_counts must have shape {recall.shape} (one count per class), got {counts.shape}"
        )
    return {
        "many_accuracy": _mean_known(recall[counts > many]),
        "medium_accuracy": _mean_known(recall[(few <= counts) & (counts <= many)]),
        "few_accuracy": _mean_known(recall[counts < few]),
    }


def label_noise(sums: ClassificationSums) -> dict[str, float]:
    """What was learnt from wrong labels, given `clean_labels`.

    `clean_accuracy` is the accuracy against the clean labels; of the examples with a wrong label,
    `memorisation` is the fraction for which that label is predicted, and `recovery` the fraction
    for which the clean one is. Both are NaN where no label is wrong.

    Source: Liu et al. (2020), "Early-learning regularization", figure 1.
    """
    wrong, memorised, recovered = map(_sum, (sums.mislabelled, sums.memorised, sums.recovered))
    return {
        "clean_accuracy": _ratio(_sum(sums.hits) - memorised + recovered, _sum(sums.support)),
        "memorisation": _ratio(memorised, wrong),
        "recovery": _ratio(recovered, wrong),
    }


def compute(
    sums: ClassificationSums, train_counts: Array | None = None
) -> dict[str, int | float | np.ndarray]:
    """All metrics, in float64 on the host.

    Args:
      sums: the merged sums of all batches (and devices).
      train_counts: training examples per class, for the accuracies of `group_accuracy`.

    Returns:
      `examples` (an int); as floats `accuracy`, `top_{k}_accuracy`, `balanced_accuracy`,
      `macro_f1`, `nll`, `brier`, `expected_calibration_error`, `maximum_calibration_error`; as
      arrays `per_class_recall` and, if it was kept, `confusion_matrix`. With `train_counts` also
      `many_accuracy`, `medium_accuracy` and `few_accuracy`; where wrong labels were seen also
      `clean_accuracy`, `memorisation` and `recovery`. A mean over nothing is NaN.

    Raises:
      UserError: if a label lies outside the classes.
    """
    sums = jax.device_get(sums)
    _check_all_labels_valid(sums)
    metrics: dict[str, int | float | np.ndarray] = {
        "examples": _sum(sums.support),
        "accuracy": accuracy(sums),
        f"top_{sums.top_k}_accuracy": top_k_accuracy(sums),
        "balanced_accuracy": balanced_accuracy(sums),
        "macro_f1": macro_f1(sums),
        "nll": negative_log_likelihood(sums),
        "brier": brier_score(sums),
        "expected_calibration_error": expected_calibration_error(sums.bins),
        "maximum_calibration_error": maximum_calibration_error(sums.bins),
        "per_class_recall": per_class_recall(sums),
    }
    if sums.confusion is not None:
        metrics["confusion_matrix"] = sums.confusion
    if train_counts is not None:
        metrics |= group_accuracy(sums, train_counts)
    return metrics | label_noise(sums) if sums.mislabelled > 0 else metrics


def _check_all_labels_valid(sums: ClassificationSums) -> None:
    if sums.invalid_labels > 0:
        raise UserError(
            f"{sums.invalid_labels} labels lie outside [0, {len(sums.support)}); "
            "leave padding out with where="
        )


def _sum(counts: Any) -> int:
    return int(np.sum(counts, dtype=np.int64))


def _ratio(part: Any, whole: int) -> float:
    return float(part / whole) if whole else float("nan")


def _ratios(part: Any, whole: Any) -> np.ndarray:
    """Elementwise, NaN where the whole is 0."""
    return np.asarray(part) / np.where(np.asarray(whole) > 0, whole, np.nan)


def _mean_known(values: np.ndarray) -> float:
    """The mean of the entries that are not NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
