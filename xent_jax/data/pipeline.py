"""The order of examples, their scaling and augmentation, and the stream of batches.

The order is a pure function of a key and the epoch, so the scan over data on the device and the
stream from the host see the same batches, and either goes on at any step without stored state.
"""

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np

from xent_jax.data.dataset import Dataset
from xent_jax.errors import UserError
from xent_jax.typing import Array, Bool, Float, Int, Key, Num, UInt8

Batch = dict[str, np.ndarray]

# A few batches ahead hide the host's work; grain's default of 500 would fill the memory.
_READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns how many batches hold every example once, the last perhaps in part."""
    return -(-examples // batch_size)


SAMPLERS = {
    "shuffle": None,
    "square_root": (0.5, 0.5),
    "class_balanced": (0.0, 0.0),
    "progressively_balanced": (1.0, 0.0),
}
"""How a config may draw examples, by name: the powers of a class's count that its share of the
draws is proportional to, at the start and at the end; or None: every example once per epoch."""


class ClassSampler(NamedTuple):
    """Draws a class first, then one of its examples, both with replacement.

    The fields are arrays, so that a sampler may be traced, and mapped over with others like it.
    """

    by_class: Int[Array, " examples"]  # the examples, sorted by class
    starts: Int[Array, " classes"]  # where each class begins in them
    counts: Int[Array, " classes"]
    log_shares: Float[Array, " classes"]  # of the draws; -inf for a class without examples
    # Of a sampler that changes: what the shares have become after so many epochs.
    last_log_shares: Float[Array, " classes"] | None = None
    epochs: Float[Array, ""] | None = None

    def draw(
        self, key: Key[Array, ""], shape: tuple[int, ...], epoch: int | Int[Array, ""]
    ) -> Int[Array, " draws"]:
        class_key, example_key = jax.random.split(key)
        classes = jax.random.categorical(class_key, self._log_shares(epoch), shape=shape)
        within = jax.random.randint(example_key, shape, 0, jnp.asarray(self.counts)[classes])
        return jnp.asarray(self.by_class)[jnp.asarray(self.starts)[classes] + within]

    def _log_shares(self, epoch: int | Int[Array, ""]) -> Float[Array, " classes"]:
        if self.last_log_shares is None or self.epochs is None:
            return jnp.asarray(self.log_shares)
        progress = jnp.minimum(jnp.asarray(epoch, jnp.float32) / self.epochs, 1.0)
        first, last = (jax.nn.softmax(x) for x in (self.log_shares, self.last_log_shares))
        return jnp.log((1.0 - progress) * first + progress * last)


def class_sampler(
    name: str,
    labels: Int[np.ndarray, " examples"],
    *,
    num_classes: int | None = None,
    epochs: int | None = None,
) -> ClassSampler | None:
    """Returns the sampler of a name in `SAMPLERS`; None for the one that shuffles.

    A class of n examples is drawn with probability proportional to n**q: q = 0 shows every class
    as often, q = 1/2 is the square root between that and the data's own shares. Progressively
    balanced, the shares move in a straight line from q = 1 to q = 0: in epoch t of T they are
    (1 - t / T) n / sum(n) + (t / T) / K.

    Args:
      name: one of `SAMPLERS`.
      labels: of the examples to draw from.
      num_classes: K; by default the classes that there are labels of.
      epochs: T, which only the progressively balanced sampler asks for.

    Raises:
      UserError: that sampler, without `epochs`.

    Reference: Kang et al. 2020, "Decoupling representation and classifier for long-tailed
    recognition", equations 1 and 2.
    """
    powers = SAMPLERS[name]
    if powers is None:
        return None
    first, last = powers
    counts = np.bincount(labels, minlength=num_classes or 0).astype(np.int32)
    by_class = np.argsort(labels, kind="stable").astype(np.int32)
    starts = (np.cumsum(counts) - counts).astype(np.int32)
    constant = ClassSampler(by_class, starts, counts, _log_shares(counts, first))
    if first == last:
        return constant
    if epochs is None:
        raise UserError(f"the sampler {name!r} needs to know how many epochs there will be")
    return constant._replace(
        last_log_shares=_log_shares(counts, last), epochs=np.asarray(epochs, np.float32)
    )


def _log_shares(counts: Int[np.ndarray, " classes"], power: float) -> Float[np.ndarray, " classes"]:
    log_shares = np.where(counts > 0, power * np.log(np.maximum(counts, 1)), -np.inf)
    return log_shares.astype(np.float32)


def epoch_indices(
    key: Key[Array, ""],
    epoch: int | Int[Array, ""],
    examples: int,
    batch_size: int,
    shuffle: bool = True,
    sampler: ClassSampler | None = None,
) -> tuple[Int[Array, "steps batch"], Bool[Array, "steps batch"]]:
    """Returns which examples make up each batch of an epoch, and where those are padding.

    Every example occurs exactly once, in an order of this epoch's own or, without `shuffle`, in
    the data set's. A `sampler` draws as many, some of them repeatedly. Where the last batch runs
    short it is filled with example 0, masked False.
    """
    order = jnp.arange(examples, dtype=jnp.int32)
    if sampler is not None:
        order = sampler.draw(jax.random.fold_in(key, epoch), (examples,), epoch)
    elif shuffle:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), order)
    shape = (steps_per_epoch(examples, batch_size), batch_size)
    order = jnp.pad(order, (0, shape[0] * shape[1] - examples))
    mask = jnp.arange(order.size) < examples
    return order.reshape(shape), mask.reshape(shape)


def stream(
    dataset: Dataset,
    key: Key[Array, ""],
    batch_size: int,
    *,
    start_step: int = 0,
    epochs: int | None = None,
    shuffle: bool = True,
    sampler: ClassSampler | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Returns a grain iterator over this process's share of the batches of `epoch_indices`.

    Threads read ahead while the caller computes. A batch is a dict of image, label, clean_label,
    index (in the data set) and mask, whose first axis is `batch_size // process_count`: process p
    has the p-th contiguous part of every batch.

    Args:
      dataset: where examples are taken from.
      key: orders the epochs, as in `epoch_indices`.
      batch_size: over all processes together.
      start_step: the first batch, counted from the start of epoch 0.
      epochs: where to end; None: never.
      shuffle: a new order every epoch, or always the data set's.
      sampler: draws the examples of an epoch instead.
      process_index: which process this is, from 0.
      process_count: how many share each batch.

    Raises:
      UserError: if the batch does not divide over the processes.
    """
    if batch_size % process_count:
        raise UserError(f"batch_size={batch_size} does not divide over {process_count} processes")
    share = batch_size // process_count
    mine = slice(process_index * share, (process_index + 1) * share)
    steps = steps_per_epoch(len(dataset.labels), batch_size)
    order = _host_order(key, len(dataset.labels), batch_size, shuffle, sampler)

    def batch(step: int) -> Batch:
        indices, mask = order(step // steps)
        return _take(dataset, indices[step % steps, mine], mask[step % steps, mine])

    end = sys.maxsize if epochs is None else epochs * steps
    return iter(grain.MapDataset.range(start_step, end).map(batch).to_iter_dataset(_READ_AHEAD))


_epoch_indices = jax.jit(epoch_indices, static_argnums=(2, 3, 4))


def _host_order(
    key: Key[Array, ""],
    examples: int,
    batch_size: int,
    shuffle: bool,
    sampler: ClassSampler | None,
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Returns `epoch_indices` as a function of the epoch, for several threads to call."""
    one_at_a_time = threading.Lock()  # Else each thread that comes to a new epoch would order it.

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return jax.device_get(_epoch_indices(key, epoch, examples, batch_size, shuffle, sampler))

    def locked_order(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with one_at_a_time:
            return order(epoch)

    return locked_order


def _take(dataset: Dataset, index: np.ndarray, mask: np.ndarray) -> Batch:
    return {
        "image": dataset.images[index],
        "label": dataset.labels[index],
        "clean_label": dataset.clean_labels[index],
        "index": index,
        "mask": mask,
    }


def channel_statistics(
    dataset: Dataset,
) -> tuple[Float[np.ndarray, " channels"], Float[np.ndarray, " channels"]]:
    """Returns each channel's mean and standard deviation over all pixels, of images in [0, 1].

    Both are float64, from exact integer counts. A channel without variation has deviation 1, so
    that it is centred and not divided by zero.
    """
    levels = np.arange(256)
    channels = np.moveaxis(dataset.images, -1, 0).reshape(dataset.images.shape[-1], -1)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in channels])
    mean = counts @ levels / channels.shape[1]
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / channels.shape[1]
    return mean / 255, np.where(variance > 0, np.sqrt(variance) / 255, 1.0)


def normalise(
    images: UInt8[Array, "*batch height width channels"],
    mean: Sequence[float] | Float[Array, " channels"],
    std: Sequence[float] | Float[Array, " channels"],
) -> Float[Array, "*batch height width channels"]:
    """Returns (images / 255 - mean) / std in float32, with mean and std per channel."""
    per_channel = (1,) * (images.ndim - 1) + (-1,)
    mean, std = (jnp.asarray(x, jnp.float32).reshape(per_channel) for x in (mean, std))
    return images.astype(jnp.float32) * (1 / (255 * std)) - mean / std


def augment(
    keys: Key[Array, " batch"],
    images: Num[Array, "batch height width channels"],
    *,
    shift: int,
    flip: bool,
) -> Num[Array, "batch height width channels"]:
    """Returns each image moved at random by up to `shift` pixels each way, and perhaps mirrored.

    What moves in from outside is zero: it is a crop of the image padded by `shift`. With `flip`,
    each image is mirrored left to right with probability 1/2. An image's key alone decides.
    """
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))

    def one(key: Key[Array, ""], padded: Array) -> Array:
        crop_key, flip_key = jax.random.split(key)
        row, column = jax.random.randint(crop_key, (2,), 0, 2 * shift + 1)
        image = jax.lax.dynamic_slice(padded, (row, column, 0), images.shape[1:])
        mirror = flip and jax.random.bernoulli(flip_key)
        return jnp.where(mirror, image[:, ::-1], image)

    return jax.vmap(one)(keys, padded)
