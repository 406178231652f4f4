"""A step is the textbook's, an epoch is its steps, and evaluation counts everyone once."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from tests.training import tiny_run
from xent_jax import metrics, models
from xent_jax.data import Dataset, pipeline
from xent_jax.models.layers import BatchNorm
from xent_jax.training.run import Run, prepare
from xent_jax.training.step import _example_keys, train_step

TRAIN = tiny_run.dataset(30, wrong=4)
TEST = tiny_run.dataset(10, wrong=3)


@pytest.fixture(scope="module")
def plain() -> Run:
    """Nothing random in its steps, so that they can be written down."""
    changes = {"dataset.shift": 0, "model.dropout": 0.0, "weight_decay": 0.1, "clip_norm": 0.5}
    return prepare(tiny_run.config(**changes), {"train": TRAIN, "test": TEST})


@pytest.fixture(scope="module")
def random() -> Run:
    return prepare(tiny_run.config(), {"train": TRAIN, "test": TEST})


def float64(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.array(x, np.float64), tree)


def placed(run: Run, examples: Dataset) -> dict[str, jax.Array]:
    columns = {"image": examples.images, "label": examples.labels}
    return run.runner.place_data(columns | {"clean_label": examples.clean_labels})


def batches_of(run: Run, epoch: int) -> list[dict[str, np.ndarray]]:
    indices, masks = pipeline.epoch_indices(run.program.order_key, epoch, len(TRAIN.labels), 8)
    return [
        {
            "image": TRAIN.images[index],
            "label": TRAIN.labels[index],
            "index": index,
            "mask": mask,
            "position": np.arange(8, dtype=np.int32),
        }
        for index, mask in zip(np.asarray(indices), np.asarray(masks), strict=True)
    ]


def standardised(images: np.ndarray) -> np.ndarray:
    pixels = TRAIN.images / 255
    return ((images / 255 - pixels.mean()) / pixels.std()).reshape(len(images), -1)


def forward(params: dict, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inputs, the hidden units and the logits, in float64."""
    x, (first,) = standardised(images), params["hidden"].values()
    hidden = np.maximum(x @ first["kernel"] + first["bias"], 0)
    return x, hidden, hidden @ params["logits"]["kernel"] + params["logits"]["bias"]


def loss_and_gradient(params: dict, batch: dict) -> tuple[float, dict]:
    """Back-propagation by hand through softmax(W relu(V x + v) + w), over unmasked examples."""
    keep = batch["mask"]
    (key,) = params["hidden"]
    x, hidden, logits = forward(params, batch["image"][keep])
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows, labels = np.arange(len(p)), batch["label"][keep]
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    d_logits = p / len(p)
    d_hidden = d_logits @ params["logits"]["kernel"].T * (hidden > 0)
    return loss, {
        "hidden": {key: {"kernel": x.T @ d_hidden, "bias": d_hidden.sum(0)}},
        "logits": {"kernel": hidden.T @ d_logits, "bias": d_logits.sum(0)},
    }


def test_an_epoch_of_steps_equals_a_computation_by_hand(plain: Run) -> None:
    state = plain.runner.place_state(plain.initial_state)
    params = float64(plain.initial_state.params)
    average, velocity = params, jax.tree.map(np.zeros_like, params)
    for number, batch in enumerate(batches_of(plain, epoch=0)):
        state, step = plain.runner.train_batch(state, plain.runner.place_batch(batch))
        loss, gradient = loss_and_gradient(params, batch)
        norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradient)))
        scale = min(1.0, 0.5 / norm)
        velocity = jax.tree.map(
            lambda v, g, x, scale=scale: 0.9 * v + scale * g + 0.1 * x, velocity, gradient, params
        )
        params = jax.tree.map(lambda x, v: x - 0.05 * v, params, velocity)
        average = jax.tree.map(lambda a, x: 0.75 * a + 0.25 * x, average, params)
        assert scale < 1
        assert int(state.step) == number + 1
        assert float(step.examples) == (8, 8, 8, 6)[number]
        np.testing.assert_allclose(step.loss, loss, rtol=1e-5)
        for ours, theirs in ((state.params, params), (state.ema_params, average)):
            assert jax.tree.structure(ours) == jax.tree.structure(theirs)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs
            )


def test_evaluation_counts_every_example_once(plain: Run) -> None:
    runner = plain.runner
    average = jax.tree.map(lambda x: np.tanh(3 * np.asarray(x)) + 0.1, plain.initial_state.params)
    state = runner.place_state(plain.initial_state._replace(ema_params=average))
    sums = runner.evaluate(state, placed(plain, TEST))
    _, _, logits = forward(float64(average), TEST.images)  # of the average, where there is one
    predicted = logits.argmax(1)
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (TEST.labels, predicted), 1)
    np.testing.assert_array_equal(sums.confusion, confusion)
    wrong = TEST.labels != TEST.clean_labels
    assert int(sums.mislabelled) == wrong.sum() == 3
    assert int(sums.memorised) == (wrong & (predicted == TEST.labels)).sum()
    assert int(sums.recovered) == (wrong & (predicted == TEST.clean_labels)).sum()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    nll = -np.log(p[np.arange(10), TEST.labels]).mean()
    assert metrics.compute(sums)["nll"] == pytest.approx(nll, rel=1e-5)


def test_a_scanned_epoch_equals_its_steps_and_its_parts(random: Run) -> None:
    runner = random.runner
    data = placed(random, TRAIN)

    def outcome(epoch: int, *chunks: tuple[int, int]) -> Any:
        state, losses = runner.place_state(random.initial_state), []
        for start, length in chunks:
            state, steps = runner.train_chunk(state, data, epoch, start, length)
            losses.extend(np.asarray(steps.loss))
        return jax.device_get((state, losses))

    whole = outcome(1, (0, 4))
    state, losses = runner.place_state(random.initial_state), []
    for batch in batches_of(random, epoch=1):
        state, step = runner.train_batch(state, runner.place_batch(batch))
        losses.append(np.asarray(step.loss))
    for other in (jax.device_get((state, losses)), outcome(1, (0, 2), (2, 2))):
        # Alike but for how XLA fuses: a unit or two in the last place.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), whole, other
        )
    assert np.abs(np.subtract(outcome(0, (0, 4))[1], whole[1])).max() > 1e-3


def test_padding_stays_out_of_batch_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "create", Normalised)
    changes = {"dataset.shift": 0, "model": ConfigDict({"name": "mlp"})}
    run = prepare(tiny_run.config(**changes), {"train": TRAIN, "test": TEST})
    state, *_, last = run.runner.place_state(run.initial_state), *batches_of(run, epoch=0)
    state, step = run.runner.train_batch(state, run.runner.place_batch(last))
    seen = standardised(last["image"][:6])
    statistics = state.batch_stats["norm"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * seen.mean(0), rtol=1e-5, atol=1e-7)
    variance = 0.9 + 0.1 * seen.var(0, ddof=1)
    np.testing.assert_allclose(statistics["variance"], variance, rtol=1e-5)
    kernel = run.initial_state.params["logits"]["kernel"].astype(np.float64)
    logits = (seen - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5) @ kernel
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(step.loss, -log_p[range(6), last["label"][:6]].mean(), rtol=1e-5)


class Normalised(nnx.Module):
    """Batch normalisation and a linear layer, in the place of a named model."""

    def __init__(self, name: str, *, num_classes: int, rngs: nnx.Rngs, **_: Any):
        self.norm = BatchNorm(16)
        self.logits = nnx.Linear(16, num_classes, rngs=rngs)

    def features(self, images: Any, train: bool, mask: Any, keys: Any) -> Any:
        return self.norm(images.reshape(len(images), -1), train, mask)


def test_what_is_drawn_depends_on_the_step_and_the_place_in_the_batch(random: Run) -> None:
    batch = batches_of(random, epoch=0)[0]

    def loss(step: int, positions: Any) -> float:
        state = random.initial_state._replace(step=np.int32(step))
        placed = random.runner.place_batch(batch | {"position": np.asarray(positions, np.int32)})
        return float(random.runner.train_batch(random.runner.place_state(state), placed)[1].loss)

    assert loss(0, range(8)) == loss(0, range(8))
    assert len({loss(0, range(8)), loss(1, range(8)), loss(0, range(8, 16))}) == 3
    drawn = jax.vmap(_example_keys, (0, None))(jax.random.split(jax.random.key(0), 3), np.arange(8))
    assert (
        len(
            {
                tuple(data)
                for keys in drawn
                for data in jax.random.key_data(keys).reshape(-1, 2).tolist()
            }
        )
        == 48
    )


@pytest.mark.parametrize(("shift", "flip"), [(2, True), (0, True), (1, False), (0, False)])
def test_images_are_augmented_as_the_config_says(
    random: Run, shift: int, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def augment(keys: Any, images: Any, **options: Any) -> Any:
        asked.append((keys.shape, images.shape, options))
        return images

    monkeypatch.setattr(pipeline, "augment", augment)
    program = random.program._replace(shift=shift, flip=flip)
    jax.eval_shape(partial(train_step, program), random.initial_state, batches_of(random, 0)[0])
    expected = [((8,), (8, 4, 4, 1), {"shift": shift, "flip": flip})]
    assert asked == (expected if shift or flip else [])
