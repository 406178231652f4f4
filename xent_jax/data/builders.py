"""TensorFlow Datasets builders that neither write nor read a byte with TensorFlow.

TFDS's own builders of these sets unpack their archives and encode their images with TensorFlow.
The ones here store raw bytes in ArrayRecord files, in the published order, under names of their
own: the two kinds can share a data folder.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from xent_jax.data import canonical, glyphs
from xent_jax.errors import UserError


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the images and labels that a subclass reads, in their order."""

    VERSION = tfds.core.Version("1.0.0")
    splits: tuple[str, ...] = ("train", "test")
    class_names: tuple[str, ...] | None  # None: known when the data are
    image_shape: tuple[int, int, int]

    def __init__(self, raw_dir: str | None = None, **kwargs: Any):
        self.raw_dir = raw_dir
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(
            shape=self.image_shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        label = tfds.features.ClassLabel(names=self.class_names)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        splits = self._read_splits(dl_manager)
        return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

    def _read_splits(self, dl_manager: tfds.download.DownloadManager) -> canonical.Splits:
        raise NotImplementedError

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}

    # TFDS prints two lines around every preparation; they say "Unknown size" and "downloading"
    # of what is neither.
    def _log_download_bytes(self) -> None: ...

    def _log_download_done(self) -> None: ...


class Digits(ImageBuilder, skip_registration=True):
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    Test is every fifth image of the set once it is sorted by class, so that every class gives a
    fifth: 360 for test, 1,437 for training. The 17 grey levels are spread over 0 to 255.
    """

    name = "xent_digits"
    class_names = tuple("0123456789")
    image_shape = (8, 8, 1)

    def _read_splits(self, dl_manager: tfds.download.DownloadManager) -> canonical.Splits:
        from sklearn.datasets import load_digits  # Takes a second, and only the first time.

        images, labels = load_digits(return_X_y=True)
        images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, *self.image_shape)
        test = np.zeros(len(labels), bool)
        test[np.argsort(labels, kind="stable")[::5]] = True
        return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


class CanonicalBuilder(ImageBuilder, skip_registration=True):
    """Reads published files, from `raw_dir` if that is given and else downloaded."""

    source: canonical.Source

    def _read_splits(self, dl_manager: tfds.download.DownloadManager) -> canonical.Splits:
        return self.source.parse(_published(self.source, self.raw_dir, dl_manager))


def _published(
    source: canonical.Source, raw_dir: str | None, dl_manager: tfds.download.DownloadManager
) -> dict[str, bytes]:
    """Returns the source's unpacked files by name."""
    if raw_dir is None:
        return _download(source, dl_manager)
    return canonical.read_folder(source, raw_dir)


def _download(
    source: canonical.Source, dl_manager: tfds.download.DownloadManager
) -> dict[str, bytes]:
    try:
        with _downloading():
            # One after the other, so that the first failure leaves no other under way.
            paths = {
                Path(dl_manager.download(source.url + archive)): archive
                for archive in source.archives
            }
    except Exception as error:  # Of requests, urllib3 or TFDS: they have no kind in common.
        raise UserError(
            f"{source.name}: cannot download from {source.url} ({_reason(error)}); "
            f"try again, or pass --raw_dir=, a folder with {source.wanted}"
        ) from error
    files, faults = canonical.unpack(source, paths)
    if faults:
        # TFDS checks what it downloads, but not what it finds in its cache.
        for path in paths:
            if path.name in faults:
                path.unlink()
        raise UserError(f"{source.name}: deleted bad downloads ({faults}); run again")
    return files


class Mnist(CanonicalBuilder, skip_registration=True):
    """MNIST: LeCun, Cortes and Burges, 1998."""

    name = "xent_mnist"
    source = canonical.MNIST
    class_names, image_shape = source.class_names, source.image_shape


class FashionMnist(CanonicalBuilder, skip_registration=True):
    """Fashion-MNIST: Xiao, Rasul and Vollgraf, 2017."""

    name = "xent_fashion_mnist"
    source = canonical.FASHION_MNIST
    class_names, image_shape = source.class_names, source.image_shape


class Cifar10(CanonicalBuilder, skip_registration=True):
    """CIFAR-10: Krizhevsky, 2009."""

    name = "xent_cifar10"
    source = canonical.CIFAR10
    class_names, image_shape = source.class_names, source.image_shape


class LetterBuilder(ImageBuilder, skip_registration=True):
    """Writes letters, each of which is a class in one split alone, so that others are unseen."""

    splits = ("train", "validation", "test")
    class_names = None
    image_shape = (28, 28, 1)
    split_of: Callable[[str], str]  # a letter's, by its name

    def _read_splits(self, dl_manager: tfds.download.DownloadManager) -> canonical.Splits:
        letters = self._read_letters(dl_manager)
        features: Any = self.info.features
        features["label"].names = list(letters)
        return {split: _together(letters, split, type(self).split_of) for split in self.splits}

    def _read_letters(self, dl_manager: tfds.download.DownloadManager) -> canonical.Letters:
        raise NotImplementedError


def _together(
    letters: canonical.Letters, split: str, split_of: Callable[[str], str]
) -> tuple[np.ndarray, np.ndarray]:
    members = [label for label, name in enumerate(letters) if split_of(name) == split]
    images = list(letters.values())
    return (
        np.concatenate([images[label] for label in members]),
        np.repeat(members, [len(images[label]) for label in members]),
    )


class FontGlyphs(LetterBuilder, skip_registration=True):
    """Printed glyphs: letters in the fonts of matplotlib and, if given, of a folder `raw_dir`."""

    name = "xent_font_glyphs"
    split_of = staticmethod(glyphs.split_of)

    def _read_letters(self, dl_manager: tfds.download.DownloadManager) -> canonical.Letters:
        more = [] if self.raw_dir is None else glyphs.fonts_in(self.raw_dir)
        if self.raw_dir is not None and not more:
            raise UserError(
                f"font_glyphs: --raw_dir={self.raw_dir} holds no font (*.ttf, *.otf); name a "
                "folder that does, or leave it out for matplotlib's fonts alone"
            )
        return glyphs.draw_letters([*glyphs.matplotlib_fonts(), *more])


class Omniglot(LetterBuilder, skip_registration=True):
    """Omniglot: Lake, Salakhutdinov and Tenenbaum, 2015; the split of Vinyals et al., 2016."""

    name = "xent_omniglot"
    source = canonical.OMNIGLOT
    split_of = staticmethod(canonical.omniglot_split)

    def _read_letters(self, dl_manager: tfds.download.DownloadManager) -> canonical.Letters:
        return self.source.parse(_published(self.source, self.raw_dir, dl_manager))


def _reason(error: BaseException) -> str:
    while error.__context__:  # What the network said comes wrapped four times.
        error = error.__context__
    return str(error).partition("\n")[0]


@contextlib.contextmanager
def _downloading() -> Iterator[None]:
    """Shows TFDS's progress, and gives up at once where there is no network.

    By itself TFDS tries eleven times, for over three minutes, with a warning for every file.
    """
    kept, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 0
    tfds.enable_progress_bar()
    try:
        yield
    finally:
        tfds.disable_progress_bar()
        downloader.MAX_RETRIES = kept
