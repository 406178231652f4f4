"""One row per public loss: what the matrix of `losses/test_contract_matrix.py` must know of it."""

from tests.losses.cases import (
    adversarial,
    alignment,
    binary,
    categorical,
    contrastive,
    fenchel_young,
    few_shot,
    imbalance,
    information,
    label_correction,
    large_vocabulary,
    metric,
    noisy_labels,
    policy,
    ranking,
    sequence,
    tempered,
    transfer,
)

ROOMS = (
    categorical,
    noisy_labels,
    tempered,
    information,
    binary,
    imbalance,
    metric,
    few_shot,
    label_correction,
    contrastive,
    alignment,
    large_vocabulary,
    sequence,
    adversarial,
    policy,
    transfer,
    fenchel_young,
    ranking,
)
CASES = [case for room in ROOMS for case in room.CASES]
