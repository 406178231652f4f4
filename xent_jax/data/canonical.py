"""The files that MNIST, Fashion-MNIST, CIFAR-10 and Omniglot were published as.

Downloaded or found in a folder, packed or not, a file is sound if the SHA-256 of what is in it
is that of the published file.
"""

import gzip
import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from xent_jax.errors import UserError

Splits = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images (N, H, W, C), uint8, and labels (N,), by the name of their split."""


Letters = dict[str, np.ndarray]
"""The images (N, H, W, C), uint8, of each class by its name, for sets split by classes."""


class Source(NamedTuple):
    """Where a data set was published and what it is made of."""

    name: str
    class_names: tuple[str, ...]  # () where the files name them
    image_shape: tuple[int, int, int]
    url: str  # of the folder that serves the archives
    archives: tuple[str, ...]
    sha256: Mapping[str, str]  # of every unpacked file, by its name
    parse: Callable[[Mapping[str, bytes]], Any]  # Splits, or Letters

    @property
    def wanted(self) -> str:
        """The files to fetch, in words."""
        zipped = set(self.archives) == set(self.sha256)  # they are read as they are
        return ", ".join(self.archives) + ("" if zipped else " (packed or unpacked)")


def read_folder(source: Source, folder: str) -> dict[str, bytes]:
    """Returns the source's unpacked files by name, from a folder that holds them in any form.

    The forms are the archives, their unpacked files, and the folder that unpacking a tar makes.

    Raises:
      UserError: if files are missing or damaged; it names them all.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(
            f"{source.name}: --raw_dir={folder} is not a folder; it needs one with {source.wanted}"
        )
    known = {*source.sha256, *source.archives}
    paths = sorted((*root.iterdir(), *root.glob("cifar-10-batches-bin/*")))
    files, faults = unpack(source, {path: path.name for path in paths if path.name in known})
    if faults:
        raise UserError(
            f"{source.name}: --raw_dir={folder} has files {faults}; "
            f"it needs {source.wanted} from {source.url}"
        )
    return files


def unpack(source: Source, paths: Mapping[Path, str]) -> tuple[dict[str, bytes], str]:
    """Returns the sound files by name, and in words which others are missing or damaged.

    `paths` maps where a file or archive lies to the name that it was published under.
    """
    sound: dict[str, bytes] = {}
    damaged: dict[str, str] = {}
    for path, published in paths.items():
        content = _content(path, published)
        for name in _names_in(source, published):
            if hashlib.sha256(content.get(name, b"")).hexdigest() == source.sha256[name]:
                sound[name] = content[name]
            else:
                damaged[name] = path.name
    missing = [name for name in source.sha256 if name not in sound | damaged]
    spoilt = sorted({path for name, path in damaged.items() if name not in sound})
    faults = [f"missing: {', '.join(missing)}"] if missing else []
    faults += [f"damaged (by their SHA-256): {', '.join(spoilt)}"] if spoilt else []
    return sound, "; ".join(faults)


def _names_in(source: Source, published: str) -> tuple[str, ...]:
    if published.endswith(".tar.gz"):
        return tuple(source.sha256)
    return (published.removesuffix(".gz"),)


def _content(path: Path, published: str) -> dict[str, bytes]:
    """Returns what is in a file or archive, by name; nothing if it cannot be read to its end."""
    try:
        if published.endswith(".tar.gz"):
            with tarfile.open(path, "r:gz") as archive:
                members = [(member.name, archive.extractfile(member)) for member in archive]
                return {Path(name).name: file.read() for name, file in members if file}
        content = path.read_bytes()
        if published.endswith(".gz"):
            content = gzip.decompress(content)
        return {published.removesuffix(".gz"): content}
    except (OSError, EOFError, zlib.error, tarfile.TarError):
        return {}


def parse_idx(content: bytes) -> np.ndarray:
    """Returns the array in an IDX file of unsigned bytes.

    The file's fourth byte is the rank; the sizes follow as big-endian 32-bit numbers, then the
    values in row-major order.
    """
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def parse_idx_splits(files: Mapping[str, bytes]) -> Splits:
    """Returns the splits in four IDX files that are named as MNIST's are."""
    train_images, train_labels, test_images, test_labels = (parse_idx(files[f]) for f in IDX_FILES)
    return {
        "train": (train_images[..., None], train_labels),
        "test": (test_images[..., None], test_labels),
    }


def parse_cifar_splits(files: Mapping[str, bytes]) -> Splits:
    """Returns the splits in CIFAR-10's binary batches.

    A record is one byte of label and the 32 x 32 image: all its red, then green, then blue.
    """

    def parse(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        records = np.frombuffer(b"".join(files[name] for name in names), np.uint8)
        records = records.reshape(-1, 1 + 3 * 32 * 32)
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]

    return {"train": parse(CIFAR_FILES[:-1]), "test": parse(CIFAR_FILES[-1:])}


def parse_omniglot(files: Mapping[str, bytes]) -> Letters:
    """Returns the characters in Omniglot's archives by name: 'Greek/character01'.

    Strokes are white on black. Drawings of 105 x 105 pixels become 28 x 28 by weighted means, so
    that thin strokes stay whole.
    """
    drawings: dict[str, list[np.ndarray]] = {}
    for content in files.values():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for path in sorted(map(PurePosixPath, archive.namelist())):
                if path.suffix == ".png":
                    image = _omniglot_image(archive.read(str(path)))
                    drawings.setdefault("/".join(path.parts[-3:-1]), []).append(image)
    return {name: np.stack(drawings[name]) for name in sorted(drawings)}


def _omniglot_image(png: bytes) -> np.ndarray:
    from PIL import Image  # Only where Omniglot is prepared, which is once.

    ink = 255 - np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    return np.asarray(Image.fromarray(ink).resize((28, 28), Image.Resampling.BILINEAR))[..., None]


def omniglot_split(name: str) -> str:
    """Returns the split of a character: 1,028 'train', 172 'validation', 423 'test'.

    References: Vinyals et al. 2016, "Matching networks for one shot learning", 4.1.1, have 1,200
    characters to train and 423 to test; Snell et al. 2017, "Prototypical networks", hold 172 of
    the former out for validation. The lists are those of the latter's code.
    """
    alphabet, _, character = name.partition("/character")
    if alphabet == "Gurmukhi":  # The only one that the 1,200 cut through.
        return "train" if int(character) <= 41 else "test"
    held_out = {"validation": _VALIDATION_ALPHABETS, "test": _TEST_ALPHABETS}
    return next((split for split, names in held_out.items() if alphabet in names), "train")


_VALIDATION_ALPHABETS = (
    "Armenian",
    "Bengali",
    "Early_Aramaic",
    "Hebrew",
    "Mkhedruli_(Georgian)",
)
_TEST_ALPHABETS = (
    "Kannada",
    "Keble",
    "Malayalam",
    "Manipuri",
    "Mongolian",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
)

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")

MNIST = Source(
    name="mnist",
    class_names=tuple("0123456789"),
    image_shape=(28, 28, 1),
    url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    archives=tuple(f"{file}.gz" for file in IDX_FILES),
    sha256=dict(
        zip(
            IDX_FILES,
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            strict=True,
        )
    ),
    parse=parse_idx_splits,
)

FASHION_MNIST = Source(
    name="fashion_mnist",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    image_shape=(28, 28, 1),
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    archives=MNIST.archives,
    sha256=dict(
        zip(
            IDX_FILES,
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            strict=True,
        )
    ),
    parse=parse_idx_splits,
)

CIFAR10 = Source(
    name="cifar10",
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    image_shape=(32, 32, 3),
    url="https://www.cs.toronto.edu/~kriz/",
    archives=("cifar-10-binary.tar.gz",),
    sha256=dict(
        zip(
            CIFAR_FILES,
            (
                "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            ),
            strict=True,
        )
    ),
    parse=parse_cifar_splits,
)

OMNIGLOT = Source(
    name="omniglot",
    class_names=(),
    image_shape=(28, 28, 1),
    url="https://github.com/brendenlake/omniglot/raw/master/python/",
    archives=("images_background.zip", "images_evaluation.zip"),
    sha256={
        "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    },
    parse=parse_omniglot,
)
