"""Text to train a language model on, and other text to measure it on, as bytes."""

import dataclasses
import hashlib
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tensorflow_datasets.core import constants, read_only_builder, registered

from xent_jax.errors import UserError, nearest

NAMES = ("python_language_reference", "folder")
"""The texts that `load_text` knows besides the data sets of TensorFlow Datasets."""

_HELD_OUT = 0.1
_BETWEEN = b"\n\n"  # Documents, and in the reference paragraphs.


@dataclasses.dataclass(frozen=True)
class Text:
    """Bytes to train on, and bytes to measure on; `UserError` if there are none of either."""

    name: str
    train: bytes = dataclasses.field(repr=False)
    validation: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        for part in ("train", "validation"):
            if not getattr(self, part):
                raise UserError(f"{self.name}: no text is left for {part}; it needs more text")

    @property
    def digest(self) -> str:
        """16 hexadecimal digits, others for other text, to record beside results."""
        parts = [hashlib.sha256(part).digest() for part in (self.train, self.validation)]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def load_text(name: str, *, data_dir: str | None = None) -> Text:
    """Returns a text by name, the same bytes at every call.

    python_language_reference: Python's, which comes with CPython; its text is the interpreter's
      (`digest` tells one from another), in 3.11 and 3.12 about 0.4 MB. Topics quote each other:
      a fifth of the text is there twice, and what is held out would be trained on. So every
      paragraph is kept once, in the first topic that has it, in the order of their names. Whole
      topics are held out, those of the smallest hashes, until they are a tenth of the text.
    folder: the files under `data_dir`, of all its folders, in the order of their names, each of
      them UTF-8. The last tenth of the whole is held out, from the beginning of a line on if one
      is near.
    any other name: a data set of TensorFlow Datasets with a feature 'text', such as 'wiki40b/en',
      'lm1b' or 'tiny_shakespeare'. It must be prepared in the format array_record, which is read
      without TensorFlow. Its split 'validation' is held out, or else its 'test'.

    Between documents there is an empty line. All of a text is held in memory.

    Args:
      name: see above.
      data_dir: the folder of files, or that of prepared data sets; the latter by default
        `$TFDS_DATA_DIR` or else `~/tensorflow_datasets`.

    Raises:
      UserError: an unknown name; a folder that is missing, has no text or a file that is not
        UTF-8, or that nothing would read; a data set that is not prepared, damaged, of another
        format or not of text; a text that is larger than memory.
    """
    try:
        if name == "python_language_reference":
            return _by_document(name, _unrepeated(_reference(data_dir)))
        if name == "folder":
            return _by_place(name, _read_folder(data_dir))
        return _read_prepared(name, Path(data_dir or constants.DATA_DIR).expanduser())
    except MemoryError:
        raise UserError(f"{name}: the text is too large for memory; take a part of it") from None


def _reference(data_dir: str | None) -> Mapping[str, str]:
    if data_dir is not None:
        raise UserError(
            f"--data_dir={data_dir} is not read where the text is python_language_reference, which "
            "Python brings: leave it out, or set --config.dataset.name=folder"
        )
    try:
        topics = importlib.import_module("pydoc_data.topics")
    except ImportError:  # Some distributions leave it out.
        raise UserError(
            "python_language_reference: this Python comes without pydoc_data, whose text it is; "
            "name another: --config.dataset.name=folder --data_dir=FOLDER"
        ) from None
    return topics.topics


def _unrepeated(documents: Mapping[str, str]) -> dict[str, bytes]:
    """Returns the documents by name, without paragraphs that one before has."""
    seen, kept = set(), {}
    for name in sorted(documents):
        paragraphs = re.split("\n{2,}", documents[name].strip("\n"))
        kept[name] = "\n\n".join(p for p in paragraphs if p not in seen and not seen.add(p))
    return {name: text.encode() for name, text in kept.items() if text}


def _by_document(name: str, documents: Mapping[str, bytes]) -> Text:
    wanted = _HELD_OUT * sum(map(len, documents.values()))
    held, size = set(), 0
    for document in sorted(documents, key=lambda d: hashlib.sha256(d.encode()).digest()):
        if size < wanted:
            held.add(document)
            size += len(documents[document])
    return Text(
        name,
        train=_BETWEEN.join(documents[d] for d in documents if d not in held),
        validation=_BETWEEN.join(documents[d] for d in documents if d in held),
    )


def _by_place(name: str, text: bytes) -> Text:
    most = int((1 - _HELD_OUT) * len(text))
    near = max(0, most - len(text) // 100 - 1)
    cut = text.rfind(b"\n", near, most) + 1 or most  # A long line is cut where it must be.
    return Text(name, train=text[:cut], validation=text[cut:])


def _read_folder(data_dir: str | None) -> bytes:
    if data_dir is None or not Path(data_dir).expanduser().is_dir():
        given = "no --data_dir is given" if data_dir is None else f"--data_dir={data_dir} is none"
        raise UserError(f"folder: {given}; name a folder of UTF-8 files by --data_dir=FOLDER")
    root = Path(data_dir).expanduser()
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    texts = [text for text in map(_read_file, paths) if text]
    if not texts:
        raise UserError(f"folder: {root} holds no text; put UTF-8 files there")
    return _BETWEEN.join(texts)


def _read_file(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"folder: {path} is not UTF-8 (byte {error.start}); convert it or take it out"
        ) from error
    except OSError as error:
        raise UserError(f"folder: cannot read {path} ({error.strerror})") from error
    return content


def _read_prepared(name: str, root: Path) -> Text:
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=root)
    except Exception as error:  # TFDS, protobuf and JSON each raise their own.
        place = root / name.partition(":")[0]
        if place.exists() and not isinstance(error, registered.DatasetNotFoundError):
            raise _damaged(name, place, error) from error
        raise UserError(
            f"unknown text {name!r}{nearest(name, NAMES)}; one of: {', '.join(NAMES)}, or a data "
            f"set in {root}, as `tfds build --file_format=array_record --data_dir={root}` prepares"
        ) from error
    splits, features = set(builder.info.splits), set(cast(Mapping, builder.info.features))
    held_out = "validation" if "validation" in splits else "test"
    if not {"train", held_out} <= splits or "text" not in features:
        raise UserError(
            f"{name}: needs a feature 'text', a split 'train' and 'validation' or 'test'; it has "
            f"the features {', '.join(sorted(features))} and splits {', '.join(sorted(splits))}"
        )
    return Text(name, train=_joined(builder, "train"), validation=_joined(builder, held_out))


def _joined(builder: Any, split: str) -> bytes:
    try:
        return _BETWEEN.join(example["text"] for example in builder.as_data_source(split))
    except NotImplementedError as error:
        raise UserError(
            f"{builder.name}: the data in {builder.data_path} are of the format "
            f"{builder.info.file_format.value}; prepare them with --file_format=array_record"
        ) from error
    except MemoryError:  # The data are sound: `load_text` tells of it.
        raise
    except Exception as error:  # TFDS, protobuf and ArrayRecord each raise their own.
        raise _damaged(builder.name, builder.data_path, error) from error


def _damaged(name: str, place: Any, error: Exception) -> UserError:
    return UserError(
        f"{name}: the prepared data in {place} are incomplete or damaged "
        f"({type(error).__name__}); delete that folder and prepare them again"
    )
