"""Metrics that merge: counted per batch on the device, added up, turned into numbers at the end."""

from xent_jax.metrics.calibration import (
    CalibrationBins,
    adaptive_calibration_error,
    calibration_bins,
    expected_calibration_error,
    fit_temperature,
    maximum_calibration_error,
    reliability,
)
from xent_jax.metrics.classification import (
    ClassificationSums,
    accuracy,
    balanced_accuracy,
    brier_score,
    classification_sums,
    compute,
    group_accuracy,
    label_noise,
    macro_f1,
    negative_log_likelihood,
    per_class_recall,
    top_k_accuracy,
)
from xent_jax.metrics.ranking import auroc, hit_rate, ndcg, ndcg_with_integer_labels
from xent_jax.metrics.sequence import (
    bits_per_character,
    character_error_rate,
    edit_distance,
    token_perplexity,
    word_error_rate,
)

__all__ = [
    "CalibrationBins",
    "ClassificationSums",
    "accuracy",
    "adaptive_calibration_error",
    "auroc",
    "balanced_accuracy",
    "bits_per_character",
    "brier_score",
    "calibration_bins",
    "character_error_rate",
    "classification_sums",
    "compute",
    "edit_distance",
    "expected_calibration_error",
    "fit_temperature",
    "group_accuracy",
    "hit_rate",
    "label_noise",
    "macro_f1",
    "maximum_calibration_error",
    "ndcg",
    "ndcg_with_integer_labels",
    "negative_log_likelihood",
    "per_class_recall",
    "reliability",
    "token_perplexity",
    "top_k_accuracy",
    "word_error_rate",
]
