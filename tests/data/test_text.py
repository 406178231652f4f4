"""Every way in which a text reaches memory, and every way in which it may fail to."""

import pathlib
import re
import subprocess
import sys
from pydoc_data.topics import topics

import pytest
import tensorflow_datasets as tfds

from xent_jax import data
from xent_jax.data import text as text_module
from xent_jax.data.text import Text, load_text
from xent_jax.errors import UserError


def paragraphs(text):
    """Those longer than a heading, whatever the space between words."""
    parts = (" ".join(part.split()) for part in text.decode().split("\n\n"))
    return {part for part in parts if len(part) > 60}


@pytest.fixture(scope="module")
def reference():
    return load_text("python_language_reference")


def test_nothing_held_out_of_the_reference_is_trained_on(reference):
    assert not paragraphs(reference.train) & paragraphs(reference.validation)


def test_of_the_reference_only_repetitions_are_left_out(reference):
    original = set().union(*(paragraphs(topic.encode()) for topic in topics.values()))
    kept = paragraphs(reference.train) | paragraphs(reference.validation)
    assert original == kept
    size = len(reference.train) + len(reference.validation)
    assert sum(len(topic.encode()) for topic in topics.values()) * 0.7 < size
    assert 0.1 <= len(reference.validation) / size < 0.13


def test_the_reference_is_the_same_in_every_process(reference):
    code = (
        "import sys; from xent_jax.data.text import load_text;"
        "print(load_text('python_language_reference').digest);"
        "assert 'tensorflow' not in sys.modules"
    )
    root = pathlib.Path(data.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True
    )
    assert run.stdout.strip() == reference.digest
    assert re.fullmatch("[0-9a-f]{16}", reference.digest)


def test_a_digest_tells_where_a_text_is_cut():
    digests = {Text("x", *parts).digest for parts in [(b"ab", b"c"), (b"a", b"bc"), (b"ab", b"d")]}
    assert len(digests) == 3


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def test_a_folder_is_read_in_the_order_of_names_and_cut_at_a_line(tmp_path):
    files = {"b.txt": b"2" * 30 + b"\n" * 2, "a/z.txt": b"1" * 30, "c.txt": b"3\n" * 20, "d": b""}
    text = load_text("folder", data_dir=write(tmp_path, files))
    assert text.train + text.validation == b"\n\n".join([b"1" * 30, files["b.txt"], files["c.txt"]])
    assert text.train.endswith(b"\n")
    assert text.validation == b"3\n" * 6  # 11 of the 106 bytes, and one to the line's beginning.


@pytest.mark.parametrize(("gap", "held_out"), [(0, 1000), (100, 1100), (101, 1000), (4000, 1000)])
def test_a_folder_is_cut_at_a_line_only_where_one_is_near(gap, held_out, tmp_path):
    # The second line begins `gap` bytes before the last tenth; near is a hundredth of the whole.
    line = b"x" * (8999 - gap) + b"\n"
    text = load_text("folder", data_dir=write(tmp_path, {"a": line.ljust(10_000, b"y")}))
    assert (len(text.train), len(text.validation)) == (10_000 - held_out, held_out)


def test_a_folder_of_one_long_line_is_cut_within_it(tmp_path):
    text = load_text("folder", data_dir=write(tmp_path, {"a": "é".encode() * 50}))
    assert (len(text.train), len(text.validation)) == (90, 10)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"folder: .* holds no text; put UTF-8 files there"),
        ({"a.txt": b""}, r"folder: .* holds no text"),
        ({"a.txt": b"x"}, r"no text is left for train; it needs more"),
        ({"a.txt": b"fine", "b.bin": b"ab\xff"}, r"b\.bin is not UTF-8 \(byte 2\); convert it or"),
    ],
)
def test_a_folder_without_text_is_told_in_one_line(files, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        load_text("folder", data_dir=write(tmp_path, files))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data_dir", "message"),
    [(None, "no --data_dir is given; name"), ("/nowhere", "--data_dir=/nowhere is none; name")],
)
def test_a_missing_folder_is_told(data_dir, message):
    with pytest.raises(UserError, match=f"folder: {message} a folder of UTF-8 files by --data_dir"):
        load_text("folder", data_dir=data_dir)


def test_a_folder_that_nothing_would_read_is_told(tmp_path):
    with pytest.raises(UserError, match=f"--data_dir={tmp_path} is not read .*leave it out"):
        load_text("python_language_reference", data_dir=str(tmp_path))


def test_a_python_without_its_reference_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"without pydoc_data.*name=folder --data_dir=FOLDER"):
        load_text("python_language_reference")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_text_that_memory_does_not_hold_is_not_called_damaged(prepare, split, monkeypatch):
    data_dir, joined = prepare(), text_module._joined

    def large(builder, part):
        if part != split:
            return joined(builder, part)
        monkeypatch.setattr(builder, "as_data_source", exhausted)
        return joined(builder, part)

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(text_module, "_joined", large)
    with pytest.raises(UserError, match="prepared: the text is too large for memory; take a part"):
        load_text("prepared", data_dir=data_dir)


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of three documents to train on and one in each of the other splits."""

    name = "prepared"
    VERSION = tfds.core.Version("1.0.0")
    splits, feature = ("train", "validation", "test"), "text"

    def _info(self):
        features = tfds.features.FeaturesDict({self.feature: tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        for i in range(3 if split == "train" else 1):
            yield i, {self.feature: f"é {split} {i}"}


@pytest.fixture
def prepare(tmp_path):
    tfds.disable_progress_bar()

    def write_records(**attributes):
        builder = type("Prepared", (Prepared,), attributes, skip_registration=True)
        builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()
        return str(tmp_path)

    yield write_records
    tfds.enable_progress_bar()


def test_prepared_data_are_read_by_name(prepare):
    text = load_text("prepared", data_dir=prepare())
    assert text.train.decode() == "é train 0\n\né train 1\n\né train 2"
    assert text.validation.decode() == "é validation 0"
    assert text.name == "prepared"


def test_the_test_split_is_held_out_where_there_is_no_other(prepare):
    text = load_text("prepared", data_dir=prepare(splits=("train", "test")))
    assert text.validation.decode() == "é test 0"


@pytest.mark.parametrize(
    "attributes", [{"splits": ("train",)}, {"splits": ("test",)}, {"feature": "document"}]
)
def test_data_that_are_no_text_are_told(prepare, attributes):
    data_dir = prepare(**attributes)
    with pytest.raises(UserError, match=r"prepared: needs a feature 'text'.*; it has the") as error:
        load_text("prepared", data_dir=data_dir)
    assert "\n" not in str(error.value)


def damage_format(folder):
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


def damage_records(folder):
    next(folder.glob("*train.array_record*")).write_bytes(b"cut short")


def damage(name, content):
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage_format, r"1\.0\.0 are of the format tfrecord; .* --file_format=array_record"),
        (damage("dataset_info.json", "{"), "prepared are incomplete or damaged .*; delete that"),
        (damage("dataset_info.json", "{}"), "prepared are incomplete or damaged .*; delete that"),
        (damage("features.json", "{"), r"incomplete or damaged \(JSONDecodeError\); delete that"),
        (damage("features.json", "{}"), "prepared are incomplete or damaged .*; delete that"),
        (damage_records, r"1\.0\.0 are incomplete or damaged .*; delete that folder"),
    ],
)
def test_prepared_data_that_cannot_be_read_are_told(prepare, spoil, message):
    data_dir = prepare()
    spoil(pathlib.Path(data_dir) / "prepared" / "1.0.0")
    with pytest.raises(UserError, match=message) as error:
        load_text("prepared", data_dir=data_dir)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python_reference", r"unknown text .*did you mean 'python_language_reference'\?"),
        ("wiki40b/en", r"unknown text 'wiki40b/en'.*`tfds build --file_format=array_record"),
        ("no name", r"unknown text 'no name'; one of: python_language_reference, folder, or a"),
    ],
)
def test_unknown_names_are_told(name, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        load_text(name, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)
