"""Rows of the losses that sum over alignments: their references list every alignment."""

import functools
import itertools

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import LossCase, softmax


def padded(examples: int, length: int, shortest: int) -> np.ndarray:
    """Returns paddings (examples, length) of which each row leaves another number of places."""
    lengths = [length - i % (length - shortest + 1) for i in range(examples)]
    return (np.arange(length) >= np.array(lengths).reshape(-1, 1)).astype(np.int32)


def frames_and_labels(rng, examples, classes):
    logits = 2.0 * rng.normal(size=(examples, 4, classes))
    labels = rng.integers(1, classes, (examples, 2))
    labels[2] = labels[2, 0]  # a repetition, which a blank must keep apart
    return logits, padded(examples, 4, 3), labels, padded(examples, 2, 0)


@functools.cache
def alignments(labels: tuple[int, ...], frames: int, classes: int) -> np.ndarray:
    """Returns all class sequences that read as the labels, with class 0 the blank."""
    paths = itertools.product(range(classes), repeat=frames)

    def read(path):
        return tuple(k for k, _ in itertools.groupby(path) if k != 0)

    return np.array([path for path in paths if read(path) == labels], int).reshape(-1, frames)


def ctc_loss(logits, logit_paddings, labels, label_paddings):
    losses = []
    for z, no_frame, y, no_label in zip(
        logits, logit_paddings, labels, label_paddings, strict=True
    ):
        p = softmax(z[no_frame == 0])
        paths = alignments(tuple(y[no_label == 0].tolist()), *p.shape)
        losses.append(-np.log(np.prod(p[np.arange(len(p)), paths], axis=-1).sum()))
    return np.array(losses)


def lattice_and_labels(rng, examples, classes):
    logits = 2.0 * rng.normal(size=(examples, 3, 3, classes))
    labels = rng.integers(1, classes, (examples, 2))
    return logits, padded(examples, 3, 2), labels, padded(examples, 2, 0)


def paths_from(p, labels, t=0, u=0):
    """Returns the probability of all ways on from (t, u), one step at a time, without a table."""
    if t == len(p):
        return float(u == len(labels))
    total = p[t, u, 0] * paths_from(p, labels, t + 1, u)
    if u < len(labels):
        total += p[t, u, labels[u]] * paths_from(p, labels, t, u + 1)
    return total


def rnn_transducer(logits, logit_paddings, labels, label_paddings):
    rows = zip(softmax(logits), logit_paddings, labels, label_paddings, strict=True)
    return -np.log([paths_from(p[f == 0], y[n == 0]) for p, f, y, n in rows])


def of_blanks(logits, logit_paddings):
    """Returns the loss of emitting nothing: blanks in all frames (B, T, K)."""
    return -(np.log(softmax(logits)[..., 0]) * (1 - logit_paddings)).sum(-1)


CASES = [
    LossCase(
        function=xent.ctc_loss,
        family="sequence",
        reference=ctc_loss,
        inputs=frames_and_labels,
        defaults={"blank_id": 0, "zero_infinity": False},
        limit=lambda logits, paddings, labels, _: (
            xent.ctc_loss(logits, paddings, labels, np.ones_like(labels)),
            of_blanks(logits, paddings),
        ),
    ),
    LossCase(
        function=xent.rnn_transducer,
        family="sequence",
        reference=rnn_transducer,
        inputs=lattice_and_labels,
        defaults={"blank_id": 0},
        limit=lambda logits, paddings, labels, _: (
            xent.rnn_transducer(logits, paddings, labels, np.ones_like(labels)),
            of_blanks(logits[:, :, 0], paddings),
        ),
    ),
]
