"""Rows of regression as classification."""

import math

import numpy as np

import xent_jax as xent
from tests.losses.cases.row import LossCase, Parameter, softmax, with_integer_labels

LOW, HIGH = -3.0, 3.0


def logits_and_values(rng, examples, classes):
    """Values inside of the atoms, and no nearer to one than differences step."""
    return 2.0 * rng.normal(size=(examples, classes)), values(rng, (examples,), classes)


def values(rng, shape, classes):
    width = (HIGH - LOW) / max(classes - 1, 1)
    cells = rng.integers(0, max(classes - 1, 1), size=shape)
    return LOW + width * (cells + rng.uniform(0.2, 0.8, size=shape))


def bin_edges(classes):
    return {"bin_edges": np.linspace(LOW, HIGH, classes + 1, dtype=np.float32)}


def uneven_atoms(classes):
    """Cubes, so that the middle is dense; exact in float32."""
    places = np.linspace(-1.0, 1.0, classes) if classes > 1 else np.zeros(1)
    return {"atoms": np.float32(HIGH * np.sign(places) * np.abs(places) ** 1.5)}


def even_atoms(classes):
    return {"atoms": np.linspace(LOW, HIGH, classes, dtype=np.float32)}


def normal(x):
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def hl_gauss_targets(values, sigma_ratio, bin_edges=None):
    edges = bin_edges_of_four() if bin_edges is None else np.float64(bin_edges)
    sigma = sigma_ratio * (edges[-1] - edges[0]) / (len(edges) - 1)
    masses = np.array([[normal((e - v) / sigma) for e in edges] for v in values])
    masses = np.diff(masses.reshape(len(values), len(edges)), axis=-1)
    return masses / masses.sum(-1, keepdims=True)


def bin_edges_of_four():
    return np.linspace(LOW, HIGH, 5)


def hl_gauss(logits, values, sigma_ratio, bin_edges):
    targets = hl_gauss_targets(values, sigma_ratio, bin_edges)
    return -(targets * np.log(softmax(logits))).sum(-1)


def two_hot_targets(values, atoms):
    """Returns the hat functions of the atoms at the values."""
    atoms = np.float64(atoms)
    rows = [np.interp(values, atoms, hat) for hat in np.eye(len(atoms))]
    return np.stack(rows, axis=-1)


def two_hot(logits, values, atoms):
    return -(two_hot_targets(values, atoms) * np.log(softmax(logits))).sum(-1)


def categorical_projection(probabilities, source_atoms, atoms):
    """Returns sum_j clip(1 - |x_j - a_i| / width, 0, 1) p_j, which is C51's for even atoms."""
    atoms = np.float64(atoms)
    width = atoms[1] - atoms[0]
    projected = np.zeros((len(probabilities), len(atoms)))
    for n, (p, x) in enumerate(zip(probabilities, source_atoms, strict=True)):
        for i, atom in enumerate(atoms):
            for p_j, x_j in zip(p, np.clip(x, atoms[0], atoms[-1]), strict=True):
                projected[n, i] += np.clip(1.0 - abs(x_j - atom) / width, 0.0, 1.0) * p_j
    return projected


def probabilities_and_places(rng, examples, classes):
    """One place of each example lies outside."""
    places = values(rng, (examples, classes), classes)
    places[:, 0] = 1.2 * HIGH
    return softmax(rng.normal(size=(examples, classes))), places


def expected_value(logits, atoms):
    return softmax(logits) @ np.float64(atoms)


def centres(edges):
    return 0.5 * (edges[1:] + edges[:-1])


CASES = [
    LossCase(
        function=xent.hl_gauss,
        family="classification",
        reference=hl_gauss,
        inputs=logits_and_values,
        context=bin_edges,
        parameters={"sigma_ratio": Parameter(0.75)},
        defaults={"sigma_ratio": 0.75},
        limit=lambda logits, _: (  # a narrow Gaussian is a class
            xent.hl_gauss(
                logits,
                np.full(len(logits), centres(bin_edges_of_four())[1], np.float32),
                bin_edges_of_four(),
                sigma_ratio=0.05,
            ),
            with_integer_labels(logits, np.ones(len(logits), int)),
        ),
    ),
    LossCase(
        function=xent.hl_gauss_targets,
        family="transform",
        reference=hl_gauss_targets,
        inputs=lambda rng, examples, _: (values(rng, (examples,), 4),),
        context=lambda _: {"bin_edges": bin_edges_of_four().astype(np.float32)},
        parameters={"sigma_ratio": Parameter(0.75)},
        defaults={"sigma_ratio": 0.75},
        limit=lambda _: (  # a narrow Gaussian is a class
            xent.hl_gauss_targets(
                centres(bin_edges_of_four()), bin_edges_of_four(), sigma_ratio=0.05
            ),
            np.eye(4),
        ),
    ),
    LossCase(
        function=xent.two_hot,
        family="classification",
        reference=two_hot,
        inputs=logits_and_values,
        context=even_atoms,
        limit=lambda logits, _: (  # a value at an atom is a class
            xent.two_hot(logits, np.full(len(logits), -1.0, np.float32), np.linspace(LOW, HIGH, 4)),
            with_integer_labels(logits, np.ones(len(logits), int)),
        ),
    ),
    LossCase(
        function=xent.two_hot_targets,
        family="transform",
        reference=two_hot_targets,
        inputs=lambda rng, examples, _: (values(rng, (examples,), 4),),
        context=lambda _: even_atoms(4),
        limit=lambda values: (
            np.float32(xent.two_hot_targets(values, np.linspace(LOW, HIGH, 4)))
            @ np.linspace(LOW, HIGH, 4),
            values,
        ),
    ),
    LossCase(
        function=xent.categorical_projection,
        family="transform",
        reference=categorical_projection,
        inputs=probabilities_and_places,
        context=even_atoms,
        limit=lambda p, _: (  # atoms that stay where they are
            xent.categorical_projection(
                p, np.broadcast_to(even_atoms(4)["atoms"], p.shape), even_atoms(4)["atoms"]
            ),
            p,
        ),
    ),
    LossCase(
        function=xent.expected_value,
        family="transform",
        reference=expected_value,
        inputs=lambda rng, examples, classes: (rng.normal(size=(examples, classes)),),
        context=uneven_atoms,
        limit=lambda logits: (
            xent.expected_value(np.zeros_like(logits), np.arange(4.0)),
            np.full(len(logits), 1.5),
        ),
    ),
]
