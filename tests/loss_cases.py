"""One row per public loss: what the matrix of `losses/test_contract_matrix.py` must know of it."""

from tests.losses.cases import (
    binary,
    categorical,
    contrastive,
    information,
    metric,
    noisy_labels,
)

ROOMS = (
    categorical,
    noisy_labels,
    information,
    binary,
    metric,
    contrastive,
)
CASES = [case for room in ROOMS for case in room.CASES]
