"""One row per public loss: what the matrix of `losses/test_contract_matrix.py` must know of it."""

from tests.losses.cases import (
    alignment,
    binary,
    categorical,
    contrastive,
    few_shot,
    information,
    label_correction,
    large_vocabulary,
    metric,
    noisy_labels,
    sequence,
)

ROOMS = (
    categorical,
    noisy_labels,
    information,
    binary,
    metric,
    few_shot,
    label_correction,
    contrastive,
    alignment,
    large_vocabulary,
    sequence,
)
CASES = [case for room in ROOMS for case in room.CASES]
