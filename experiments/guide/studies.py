"""The numbers behind the guide's pictures: curves of xent_jax's losses, and small experiments.

Each public function returns the arrays of one picture. All are computed in float64 on the CPU, and
none depends on chance that NumPy does not promise to keep, so that they come out alike everywhere.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import ndtr, ndtri
from sklearn.datasets import load_digits

import xent_jax as xent
from xent_jax.data.corruption import corrupt
from xent_jax.data.dataset import Dataset
from xent_jax.typing import Array

Data = dict[str, Any]

# The labels of the curves: the first class, and yes.
LABEL, YES = np.array(0), np.array(1)
NOISE_RATE, HIDDEN = 0.4, 80
RATIOS = np.geomspace(1.0, 1000.0, 13)
SHOTS, SHOWN_SHOTS = (1, 2, 3, 5, 10, 20, 50, 100), 3
CENTRES = np.array([[0.0, 1.6], [-1.5, -0.8], [1.5, -0.8]])
# How a few-shot class lies around its centre. The picture shows an episode of round classes.
SPREADS = {
    "elongated": np.array([[1.4, 0.3], [0.0, 0.7]]),
    "round": np.eye(2),
}
SHOWN_EPISODE = 1
BIN_EDGES = np.linspace(-1.7, 1.7, 18)

# What runs once is not worth compiling well.
compiled = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
cross_entropy = xent.softmax_cross_entropy_with_integer_labels


def compute(study: Callable[[], Data]) -> Data:
    """Returns a study's arrays as NumPy's."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return jax.tree.map(np.asarray, study())


def surprise() -> Data:
    """-log q for an outcome of probability q, and the entropy of a coin."""
    q = np.linspace(0.005, 1.0, 200)
    heads = np.linspace(0.0, 1.0, 101)
    return {
        "q": q,
        "surprise": xent.cross_entropy(np.ones((200, 1)), q[:, None], base=2),
        "heads": heads,
        "entropy": xent.entropy(np.stack([heads, 1 - heads], axis=-1), base=2),
    }


def divergence(truth: float = 0.7) -> Data:
    """What a coin of known bias costs under each prediction, and what no prediction saves."""
    q = np.linspace(0.01, 0.99, 99)
    prediction = np.stack([q, 1 - q], axis=-1)
    p = np.broadcast_to([truth, 1 - truth], prediction.shape)
    return {
        "truth": truth,
        "q": q,
        "entropy": xent.entropy(p),
        "cross_entropy": xent.cross_entropy(p, prediction),
        "reverse": xent.cross_entropy(prediction, p),
    }


def safe_logarithms() -> Data:
    """Loss and slope of a wrong logit, with the logarithm made 'safe' in three ways (float32)."""
    z = np.linspace(-40.0, 10.0, 201).astype(np.float32)

    def probability(z: Array) -> Array:
        return jax.nn.softmax(jnp.stack([z, jnp.zeros_like(z)]))[0]

    return {"z": z} | _value_and_slope(
        z,
        exact=lambda z: cross_entropy(jnp.stack([z, jnp.zeros_like(z)]), LABEL),
        added=lambda z: -jnp.log(probability(z) + jnp.float32(1e-10)),
        clipped=lambda z: -jnp.log(jnp.clip(probability(z), 1e-7, 1.0)),
    )


def squared_error() -> Data:
    """Cross-entropy and two squared errors for a label 1, against the logit."""
    z = np.linspace(-8.0, 8.0, 161)
    return {"z": z} | _value_and_slope(
        z,
        cross_entropy=lambda z: xent.sigmoid_binary_cross_entropy(z, YES),
        of_probability=lambda z: (jax.nn.sigmoid(z) - 1.0) ** 2,
    )


def learning() -> Data:
    """Gradient descent on one logit that starts confidently wrong."""

    def descend(loss: Callable[[Array], Array]) -> Array:
        def step(z: Array, _: None) -> tuple[Array, Array]:
            return z - jax.grad(loss)(z), jax.nn.sigmoid(z)

        return jax.lax.scan(step, jnp.asarray(-6.0), None, length=151)[1]

    return {
        "cross_entropy": descend(lambda z: xent.sigmoid_binary_cross_entropy(z, YES)),
        "of_probability": descend(lambda z: (jax.nn.sigmoid(z) - 1.0) ** 2),
    }


def smoothing_and_focal(classes: int = 10) -> Data:
    """Three answers to confidence, against the label's logit; the other logits are 0."""
    z = np.linspace(-4.0, 10.0, 141)

    def logits(z: Array) -> Array:
        return jnp.where(jnp.arange(classes) == 0, z, jnp.zeros_like(z))

    return {"z": z} | _value_and_slope(
        z,
        plain=lambda z: cross_entropy(logits(z), LABEL),
        smoothed=lambda z: cross_entropy(logits(z), LABEL, label_smoothing=0.1),
        focal=lambda z: xent.softmax_focal_loss(logits(z), LABEL, gamma=2.0),
    )


def imbalance() -> Data:
    """Where a linear classifier of one number draws the line as one of two classes gets rare.

    The classes are normal around -1 (frequent) and +1 (rare). They are represented by quantiles,
    and their frequencies by weights: no line depends on a draw.
    """
    x = np.concatenate([ndtri((np.arange(200) + 0.5) / 200) + mean for mean in (-1.0, 1.0)])
    labels = np.repeat([0, 1], 200)

    def boundary(counts: Array, loss: Callable[..., Array]) -> Array:
        def objective(parameters: Array) -> Array:
            logits = jnp.stack([jnp.zeros_like(x), parameters[0] * x + parameters[1]], axis=-1)
            return jnp.average(loss(logits, labels, counts), weights=counts[labels])

        slope, intercept = newton(objective, jnp.zeros(2))
        return -intercept / slope

    losses = {
        "plain": lambda z, y, _: cross_entropy(z, y),
        "balanced": lambda z, y, n: xent.balanced_softmax(z, y, class_counts=n),
    }

    @compiled
    @jax.vmap
    def boundaries(counts: Array) -> Data:
        return {name: boundary(counts, loss) for name, loss in losses.items()}

    lines = boundaries(np.stack([RATIOS, np.ones(len(RATIOS))], axis=-1))
    recalls = {
        name: {"frequent": ndtr(line + 1.0), "rare": ndtr(1.0 - line)}
        for name, line in lines.items()
    }
    return {"ratio": RATIOS, "boundary": lines, "recall": recalls}


def noise() -> Data:
    """A small network on digits of which many carry a wrong label, under two losses."""
    images, given, clean, train = _noisy_digits()

    def objective(parameters: Any, loss: Callable[..., Array]) -> Array:
        return jnp.mean(loss(_network(parameters, images[train]), given[train]))

    def measure(parameters: Any) -> Data:
        predicted = jnp.argmax(_network(parameters, images), axis=-1)
        wrong = train & (given != clean)
        return {
            "test_accuracy": jnp.mean(predicted[~train] == clean[~train]),
            "memorised": jnp.mean(predicted[wrong] == given[wrong]),
        }

    def run(loss: Callable[..., Array]) -> Data:
        return _adam(lambda parameters: objective(parameters, loss), measure)

    p = np.linspace(0.0, 1.0, 101)
    return {
        "cross_entropy": run(cross_entropy),
        "generalized": run(xent.generalized_cross_entropy),
        "hidden": HIDDEN,
        "wrong": np.mean((given != clean)[train]),
        "p": p,
        # The gradient's length with respect to the label's logit, at probability p of the label.
        "pull": {f"{q:g}": _pull(p, q) for q in (0.0, 0.7, 1.0)},
    }


def few_examples() -> Data:
    """Prototypes against a fitted linear classifier, by the number of examples of each class."""
    episodes, queries, most = 100, 100, max(SHOTS)
    labels, truth = np.repeat(np.arange(3), most), np.repeat(np.arange(3), queries)
    kept = np.tile(np.arange(most), 3) < np.array(SHOTS)[:, None]

    @compiled
    def accuracies(support: Array, query: Array, kept: Array) -> Data:
        def accuracy(predict: Classifier, kept: Array) -> Array:
            found = jax.vmap(lambda q, s: predict(q, s, labels, kept))(query, support)
            return jnp.mean(jnp.argmax(found, axis=-1) == truth)

        return {
            name: jax.lax.map(lambda kept, predict=predict: accuracy(predict, kept), kept)
            for name, predict in CLASSIFIERS.items()
        }

    @compiled
    def margins(support: Array, grid: Array, kept: Array) -> Data:
        """Returns by how much each class's logit is above the highest of the others."""
        found = {
            name: predict(grid, support, labels, kept) for name, predict in CLASSIFIERS.items()
        }
        return jax.tree.map(
            lambda z: z - jnp.max(jnp.where(np.eye(3, dtype=bool), -jnp.inf, z[..., None, :]), -1),
            found,
        )

    def draws(spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = _normal_points(1, episodes, most + queries) @ spread + CENTRES[:, None]
        parts = points[:, :, :most], points[:, :, most:]
        return parts[0].reshape(episodes, -1, 2), parts[1].reshape(episodes, -1, 2)

    support, query = (points[SHOWN_EPISODE] for points in draws(SPREADS["round"]))
    x, y = np.linspace(-4.5, 4.5, 41), np.linspace(-4.0, 4.5, 41)
    grid, shown = np.stack(np.meshgrid(x, y), axis=-1), kept[SHOTS.index(SHOWN_SHOTS)]
    return {
        "shots": np.array(SHOTS),
        "accuracy": {shape: accuracies(*draws(spread), kept) for shape, spread in SPREADS.items()},
        "x": x,
        "y": y,
        "support": support[shown].reshape(3, -1, 2),
        "query": query.reshape(3, queries, 2)[:, :40],
        "margins": margins(support, grid, shown),
    }


def regression() -> Data:
    """Numbers as distributions: two kinds of targets, and a fit where the answer is twofold."""
    edges, centres = BIN_EDGES, 0.5 * (BIN_EDGES[1:] + BIN_EDGES[:-1])
    value = np.array(0.25)
    x = np.linspace(0.0, 1.0, 61)
    # Below one half there is one answer; above it two, three in four of them the upper.
    branch = np.maximum(0.0, 2.4 * (x - 0.5))
    values = np.stack([branch, branch, branch, -branch], axis=-1)
    bumps = np.exp(-0.5 * ((x[:, None] - np.linspace(0, 1, 8)) / 0.12) ** 2)

    # The loss is linear in its target, so that the mean target stands for the four.
    targets = xent.hl_gauss_targets(values, edges).mean(axis=1)

    @compiled
    def fit(start: Array, targets: Array) -> Array:
        def objective(weights: Array) -> Array:
            losses = xent.softmax_cross_entropy(bumps @ weights, targets)
            return jnp.mean(losses) + 1e-4 * jnp.sum(weights**2)

        return newton(objective, start)

    weights = fit(np.zeros((bumps.shape[1], len(centres))), targets)
    logits = bumps @ weights
    squared = bumps @ np.linalg.lstsq(bumps, values.mean(axis=-1))[0]
    return {
        "value": value,
        "edges": edges,
        "centres": centres,
        "hl_gauss": xent.hl_gauss_targets(value, edges),
        "two_hot": xent.two_hot_targets(value, centres),
        "x": x,
        "branch": branch,
        "density": jax.nn.softmax(logits),
        "mean": xent.expected_value(logits, centres),
        "squared_error": squared,
    }


def newton(objective: Callable[[Array], Array], start: Array, steps: int = 15) -> Array:
    """Returns the minimum of a convex function of an array of any shape."""
    shape = start.shape

    def flat(x: Array) -> Array:
        return objective(x.reshape(shape))

    def step(x: Array, _: None) -> tuple[Array, None]:
        gradient = jax.grad(flat)(x)
        direction = jnp.linalg.solve(jax.hessian(flat)(x), gradient)
        # Shorter far from the minimum, where a full step may overshoot.
        return x - direction / (1.0 + jnp.sqrt(gradient @ direction)), None

    return jax.lax.scan(step, start.ravel(), None, length=steps)[0].reshape(shape)


def prototypes(query: Array, support: Array, labels: Array, kept: Array) -> Array:
    """Returns logits: minus the squared distances to the classes' means."""
    return xent.prototypical_logits(query, support, labels, num_classes=3, support_where=kept)


def linear_classifier(query: Array, support: Array, labels: Array, kept: Array) -> Array:
    """Returns logits of a softmax regression, fitted with a slight penalty that keeps it finite."""
    # None on the biases to speak of, so that it does not matter where the origin lies.
    penalty = np.array([[0.01], [0.01], [1e-6]])
    features = jnp.concatenate([support, jnp.ones_like(support[:, :1])], axis=-1)

    def objective(weights: Array) -> Array:
        losses = cross_entropy(features @ weights, labels, where=kept)
        return xent.masked_mean(losses, where=kept) + jnp.sum(penalty * weights**2)

    weights = newton(objective, jnp.zeros((3, 3)))
    return query @ weights[:-1] + weights[-1]


Classifier = Callable[[Array, Array, Array, Array], Array]
CLASSIFIERS: dict[str, Classifier] = {"prototypes": prototypes, "linear": linear_classifier}


def _value_and_slope(z: np.ndarray, **losses: Callable[[Array], Array]) -> Data:
    @compiled
    @jax.vmap
    def along(z: Array) -> Data:
        found = {name: jax.value_and_grad(loss)(z) for name, loss in losses.items()}
        return {name: {"loss": loss, "slope": slope} for name, (loss, slope) in found.items()}

    return along(z)


def _pull(p: np.ndarray, q: float) -> Array:
    """Returns the slope of a loss of two logits of which the first has the probability p."""

    def slope(p: Array) -> Array:
        logits = jnp.log(jnp.stack([p, 1.0 - p]))
        return -jax.grad(lambda z: xent.generalized_cross_entropy(z, LABEL, q=q))(logits)[0]

    inside = np.clip(p, 1e-9, 1 - 1e-9)
    return jax.vmap(slope)(inside)


def _noisy_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns images, given and true labels, and which of them are for training."""
    pixels, labels = load_digits(return_X_y=True)
    names = tuple(map(str, range(10)))
    images = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)
    data = corrupt(Dataset(images, labels, labels, names, "digits"), rate=NOISE_RATE, seed=0)
    train = np.arange(len(labels)) < 1000
    return pixels / 16.0, data.labels, data.clean_labels, train


def _network(parameters: Any, images: Array) -> Array:
    (first, bias), (last, last_bias) = parameters
    return jax.nn.relu(images @ first + bias) @ last + last_bias


def _adam(objective: Callable[..., Array], measure: Callable[..., Data], steps: int = 300) -> Data:
    """Returns what is measured at every tenth step."""
    first = 0.18 * uniform(2, 64, HIDDEN) - 0.09
    last = 0.18 * uniform(3, HIDDEN, 10) - 0.09
    parameters = (first, np.zeros(HIDDEN)), (last, np.zeros(10))
    adam = optax.adam(0.01)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        parameters, state = carry
        updates, state = adam.update(jax.grad(objective)(parameters), state)
        return (optax.apply_updates(parameters, updates), state), None

    def ten(carry: Any, _: None) -> tuple[Any, Data]:
        return jax.lax.scan(step, carry, None, length=10)[0], measure(carry[0])

    scan = compiled(lambda carry: jax.lax.scan(ten, carry, None, length=steps // 10 + 1)[1])
    return scan((parameters, adam.init(parameters))) | {"step": np.arange(0, steps + 1, 10)}


def _normal_points(seed: int, episodes: int, examples: int) -> np.ndarray:
    """Returns standard normal points (episode, class, example, coordinate) for three classes."""
    return np.asarray(ndtri(uniform(seed, episodes, 3, examples, 2)))


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Returns numbers in (0, 1) from raw bits, which NumPy promises never to change."""
    bits = np.random.Philox(seed).random_raw(int(np.prod(shape)))
    return (((bits >> 11) + 0.5) * 2.0**-53).reshape(shape)


STUDIES: dict[str, Callable[[], Data]] = {
    "surprise": surprise,
    "divergence": divergence,
    "safe_logarithms": safe_logarithms,
    "squared_error": lambda: squared_error() | {"learning": learning()},
    "smoothing_and_focal": smoothing_and_focal,
    "imbalance": imbalance,
    "noise": noise,
    "few_examples": few_examples,
    "regression": regression,
}
