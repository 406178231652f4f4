"""The data sets by name."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from xent_jax.data import builders
from xent_jax.data.dataset import Dataset
from xent_jax.errors import UserError, nearest

_BUILDERS: dict[str, type[builders.ImageBuilder]] = {
    "digits": builders.Digits,
    "mnist": builders.Mnist,
    "fashion_mnist": builders.FashionMnist,
    "cifar10": builders.Cifar10,
    "font_glyphs": builders.FontGlyphs,
    "omniglot": builders.Omniglot,
}
NAMES = tuple(_BUILDERS)
SPLIT_BY_CLASS = ("font_glyphs", "omniglot")
"""The sets of which no class is in two splits: to train on some, and to learn others from few."""


def load(
    name: str, split: str, *, data_dir: str | None = None, raw_dir: str | None = None
) -> Dataset:
    """Returns a split of a data set, in the order in which it was published.

    The first call prepares the set: it writes it under `data_dir`, from where later calls read
    it. `digits` comes with scikit-learn, and `font_glyphs` are drawn from matplotlib's fonts and
    those in `raw_dir`, if it is given. The others are downloaded, or read from the published
    files in `raw_dir`; once prepared they need neither, and `raw_dir` is not looked at.

    Args:
      name: one of `NAMES`.
      split: 'train' or 'test'; of those in `SPLIT_BY_CLASS` also 'validation', each with classes
        of its own.
      data_dir: a folder for prepared data; by default that of TensorFlow Datasets, which is
        `$TFDS_DATA_DIR` or else `~/tensorflow_datasets`.
      raw_dir: a folder with the published files, as they are or unpacked, or with fonts.

    Raises:
      UserError: an unknown name or split, files that are missing, damaged or cannot be
        downloaded, or a `data_dir` that cannot be written.
    """
    if name not in NAMES:
        raise UserError(
            f"unknown data set {name!r}{nearest(name, NAMES)}; one of: {', '.join(NAMES)}"
        )
    builder = _BUILDERS[name]
    if split not in builder.splits:
        raise UserError(f"unknown split {split!r} of {name}; one of: {', '.join(builder.splits)}")
    root = Path(data_dir or constants.DATA_DIR).expanduser()
    folder = root / builder.name / str(builder.VERSION)
    if not folder.exists():
        _prepare(builder(data_dir=root, raw_dir=raw_dir), folder)
    try:
        images, labels, class_names = _read(builder(data_dir=root), split)
    except Exception as error:  # TFDS, protobuf and ArrayRecord each raise their own.
        raise UserError(
            f"{name}: the prepared data in {folder} are incomplete or damaged "
            f"({type(error).__name__}); delete that folder and run again"
        ) from error
    if name in SPLIT_BY_CLASS:
        present, labels = np.unique(labels, return_inverse=True)
        labels, class_names = labels.astype(np.int32), tuple(class_names[i] for i in present)
    return Dataset(images, labels, labels, class_names, name)


def _prepare(builder: builders.ImageBuilder, folder: Path) -> None:
    tfds.disable_progress_bar()  # Bars for every file it writes; a download shows its own.
    try:
        # Written beside its place and renamed, so that a run killed here leaves nothing half done.
        builder.download_and_prepare()
    except (OSError, RuntimeError) as error:  # ArrayRecord says that a disk is full by the latter.
        # Unless another process came first to the same end: its data are as good.
        if not folder.exists():
            raise UserError(
                f"cannot write prepared data to {folder} ({error}); "
                "choose another place with --data_dir= or TFDS_DATA_DIR"
            ) from error
    finally:
        tfds.enable_progress_bar()


def _read(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    source = builder.as_data_source(split)
    examples = source.__getitems__(range(len(source)))
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples], np.int32)
    return images, labels, tuple(builder.info.features["label"].names)
