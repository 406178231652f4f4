"""The order of examples, on the device and streamed; scaling; augmentation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent_jax import data
from xent_jax.data import pipeline
from xent_jax.errors import UserError

KEY = jax.random.key(0)
indices_of = jax.jit(pipeline.epoch_indices, static_argnums=(2, 3, 4))


def dataset(n=23, shape=(2, 3, 1), num_classes=5):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *shape), np.uint8)
    labels, clean = rng.integers(0, num_classes, (2, n), np.int32)
    return data.Dataset(images, labels, clean, tuple("abcde"), "random")


@pytest.mark.parametrize(("n", "batch"), [(23, 4), (24, 4), (3, 8), (1, 1)])
def test_an_epoch_holds_every_example_once(n, batch):
    orders = []
    for epoch in range(2):
        indices, mask = map(np.asarray, indices_of(KEY, epoch, n, batch, True))
        assert indices.shape == mask.shape == (pipeline.steps_per_epoch(n, batch), batch)
        assert indices.dtype == np.int32
        assert mask.ravel()[:n].all()
        assert not mask.ravel()[n:].any()
        assert sorted(indices[mask]) == list(range(n))
        assert (indices[~mask] == 0).all()
        orders.append(indices)
    assert n < 10 or (orders[0] != orders[1]).any()


def test_order_depends_on_key_and_epoch_alone():
    plain, _ = indices_of(KEY, 0, 23, 4, False)
    np.testing.assert_array_equal(plain.ravel()[:23], np.arange(23))
    traced, _ = jax.jit(lambda epoch: pipeline.epoch_indices(KEY, epoch, 23, 4))(jnp.int32(3))
    np.testing.assert_array_equal(traced, indices_of(KEY, 3, 23, 4, True)[0])
    # Longer batches cut the same order at other places.
    np.testing.assert_array_equal(
        traced.ravel()[:23], indices_of(KEY, 3, 23, 8, True)[0].ravel()[:23]
    )


def resident(dataset, batch, epochs, shuffle=True):
    """The batches that a scan over data on the device would take."""
    for epoch in range(epochs):
        indices, mask = indices_of(KEY, epoch, len(dataset.labels), batch, shuffle)
        for index_B, mask_B in zip(np.asarray(indices), np.asarray(mask), strict=True):
            yield {
                "image": dataset.images[index_B],
                "label": dataset.labels[index_B],
                "clean_label": dataset.clean_labels[index_B],
                "index": index_B,
                "mask": mask_B,
            }


def assert_same_batches(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name])
            assert mine[name].dtype == other[name].dtype


@pytest.mark.parametrize("shuffle", [True, False])
def test_stream_has_the_batches_of_the_resident_order_from_any_step(shuffle):
    source = dataset()
    expected = list(resident(source, 4, 3, shuffle))
    for start in range(len(expected) + 1):
        batches = pipeline.stream(source, KEY, 4, start_step=start, epochs=3, shuffle=shuffle)
        assert_same_batches(list(batches), expected[start:])


def test_stream_without_an_end_goes_on_after_the_epochs_of_any_run():
    source = dataset()
    batches = itertools.islice(pipeline.stream(source, KEY, 4, start_step=5), 8)
    assert_same_batches(list(batches), list(resident(source, 4, 3))[5:13])
    far = next(pipeline.stream(source, KEY, 4, start_step=6 * 10**6))
    np.testing.assert_array_equal(far["index"], indices_of(KEY, 10**6, 23, 4, True)[0][0])


def test_processes_share_each_batch_in_contiguous_parts():
    source = dataset()
    shares = [
        pipeline.stream(source, KEY, 6, epochs=2, process_index=p, process_count=3)
        for p in range(3)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same_batches(joined, list(resident(source, 6, 2)))
    with pytest.raises(UserError, match="batch_size=4 does not divide over 3 processes"):
        pipeline.stream(source, KEY, 4, process_count=3)


def test_stream_can_be_checkpointed_by_grain():
    batches = pipeline.stream(dataset(), KEY, 4)
    next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(7)]
    batches.set_state(state)
    assert_same_batches([next(batches) for _ in range(7)], expected)


def test_statistics_are_those_of_float64_even_where_the_variance_is_tiny():
    images = dataset(n=200, shape=(4, 4, 3)).images
    images[..., 1] = 254 + (images[..., 1] > 250)
    images[..., 2] = 9
    labels = np.zeros(200, np.int32)
    mean, std = pipeline.channel_statistics(data.Dataset(images, labels, labels, ("x",), "x"))
    unit = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, unit.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std[:2], unit.std((0, 1, 2))[:2], rtol=1e-10)
    assert std[2] == 1  # A constant channel is centred alone.
    scaled = np.asarray(jax.jit(pipeline.normalise)(images, mean, std))
    assert scaled.dtype == np.float32
    rounding = 3e-7 * (1 + np.abs(unit) / std)
    assert (np.abs(scaled - (unit - mean) / std) <= rounding).all()
    np.testing.assert_allclose(scaled[..., 0].std(), 1, rtol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("flip", [True, False])
def test_augmentation_takes_every_crop_and_mirror_equally_often(shift, flip):
    n, height, width = 3000, 3, 4
    image = np.arange(1, 1 + height * width * 2, dtype=np.uint8).reshape(height, width, 2)
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)))
    crops = {}
    for row, column in itertools.product(range(2 * shift + 1), repeat=2):
        crop = padded[row : row + height, column : column + width]
        crops[crop.tobytes()] = 0
        if flip:
            crops[np.ascontiguousarray(crop[:, ::-1]).tobytes()] = 0
    assert len(crops) == (1 + flip) * (2 * shift + 1) ** 2
    augment = jax.jit(pipeline.augment, static_argnames=("shift", "flip"))
    keys = jax.random.split(jax.random.key(1), n)
    out = np.asarray(augment(keys, np.stack([image] * n), shift=shift, flip=flip))
    assert out.dtype == np.uint8
    for one in out:
        crops[one.tobytes()] += 1  # A KeyError here would be an image that is no crop.
    share = 1 / len(crops)
    deviation = np.sqrt(share * (1 - share) / n)
    assert all(abs(count / n - share) <= 5 * deviation for count in crops.values())


def test_an_image_s_augmentation_depends_on_its_key_alone():
    images = jnp.asarray(dataset(n=16, shape=(8, 8, 3)).images, jnp.float32)
    keys = jax.random.split(KEY, 16)
    augment = jax.jit(lambda k, x: pipeline.augment(k, x, shift=2, flip=True))
    whole = np.asarray(augment(keys, images))
    np.testing.assert_array_equal(whole[::-1], augment(keys[::-1], images[::-1]))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    sharded = augment(*jax.device_put((keys, images), sharding))
    assert sharded.sharding.is_equivalent_to(sharding, sharded.ndim)
    np.testing.assert_array_equal(whole, sharded)


# ---------------------------------------------------------------------------- samplers

UNEVEN = np.repeat(np.arange(3, dtype=np.int32), [900, 90, 10])


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("square_root", [42, 115, 84, 40, 72, 85, 33, 3, 99, 102]),
        ("class_balanced", [112, 115, 114, 40, 72, 95, 103, 113, 99, 102]),
    ],
)
def test_samplers_draw_the_same_for_ever(name, order):
    labels = np.repeat(np.arange(3, dtype=np.int32), [90, 20, 10])
    sampler = pipeline.class_sampler(name, labels)
    drawn, _ = indices_of(KEY, 2, 120, 10, True, sampler=sampler)
    assert drawn[0].tolist() == order


def test_shares_move_from_the_data_s_to_equal_ones_over_the_epochs():
    sampler = pipeline.class_sampler("progressively_balanced", UNEVEN, num_classes=4, epochs=5)
    draw = jax.jit(lambda s, e: pipeline.epoch_indices(KEY, e, 20_000, 100, sampler=s)[0].ravel())
    own, equal = np.array([0.9, 0.09, 0.01, 0.0]), np.array([1, 1, 1, 0]) / 3
    for epoch in (0, 2, 4, 7):
        progress = min(epoch / 5, 1.0)
        expected = (1 - progress) * own + progress * equal
        drawn = np.asarray(draw(sampler, epoch))
        found = np.bincount(UNEVEN[drawn], minlength=4) / 20_000
        assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / 20_000)).all()
    assert len(np.unique(drawn[UNEVEN[drawn] == 0])) > 800  # any example of a class
    with pytest.raises(UserError, match="'progressively_balanced' needs to know how many epochs"):
        pipeline.class_sampler("progressively_balanced", UNEVEN)


@pytest.mark.parametrize("name", ["class_balanced", "progressively_balanced"])
def test_runs_with_labels_of_their_own_are_mapped_over_their_samplers(name):
    several = [np.roll(UNEVEN, 7), UNEVEN[::-1], np.zeros(1000, np.int32)]
    samplers = [pipeline.class_sampler(name, y, num_classes=3, epochs=4) for y in several]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *samplers)
    keys = jax.random.split(KEY, 3)

    def order(sampler, key, epoch):
        return pipeline.epoch_indices(key, epoch, 1000, 64, sampler=sampler)[0]

    together = jax.jit(jax.vmap(order, in_axes=(0, 0, None)))(stack, keys, 3)
    alone = jax.jit(order)
    for i, sampler in enumerate(samplers):
        np.testing.assert_array_equal(together[i], alone(sampler, keys[i], 3))


def test_a_stream_draws_by_the_epoch_what_the_device_draws():
    source = dataset()
    sampler = pipeline.class_sampler("progressively_balanced", source.labels, epochs=2)
    streamed = list(pipeline.stream(source, KEY, 8, epochs=2, sampler=sampler))
    expected = [
        index for e in range(2) for index in indices_of(KEY, e, 23, 8, True, sampler=sampler)[0]
    ]
    np.testing.assert_array_equal([batch["index"] for batch in streamed], expected)
