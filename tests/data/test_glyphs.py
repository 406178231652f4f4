"""Letters drawn from fonts, Omniglot's characters from its archives, and their splits."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from xent_jax import data
from xent_jax.data import builders, canonical, glyphs
from xent_jax.errors import UserError

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def letters():
    return glyphs.draw_letters(glyphs.matplotlib_fonts())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    return {split: data.load("font_glyphs", split, data_dir=folder) for split in SPLITS}


def test_letters_have_names_and_enough_drawings_of_which_none_occurs_twice(letters):
    assert 800 < len(letters) < 1000
    assert "GREEK SMALL LETTER ALPHA" in letters
    assert not any("LATIN" in name or "MATHEMATICAL" in name for name in letters)
    every = np.concatenate(list(letters.values()))
    assert min(map(len, letters.values())) >= 8
    assert len(np.unique(every.reshape(len(every), -1), axis=0)) == len(every)


def test_drawings_are_white_on_black_centred_and_smooth(letters):
    every = np.concatenate(list(letters.values()))[..., 0]
    assert every.shape[1:] == (28, 28)
    assert 0.03 < (every > 127).mean() < 0.3
    assert len(np.unique(every)) > 100
    for axis in (1, 2):
        ink = np.any(every, axis=3 - axis)
        before, after = ink.argmax(1), ink[:, ::-1].argmax(1)
        assert set(after - before) <= {0, 1}


def test_scripts_do_not_meet_in_two_splits(loaded):
    scripts = {s: {name.split()[0] for name in loaded[s].class_names} for s in SPLITS}
    assert scripts["train"] >= {"GREEK", "CYRILLIC"}
    assert (scripts["validation"], scripts["test"]) == ({"MODIFIER"}, {"ARMENIAN", "GEORGIAN"})
    assert not scripts["train"] & (scripts["validation"] | scripts["test"])
    assert {split: len(loaded[split].class_names) > 100 for split in SPLITS} == dict.fromkeys(
        SPLITS, True
    )


def test_loaded_are_the_letters_that_were_drawn(letters, loaded):
    assert sum(len(d.class_names) for d in loaded.values()) == len(letters)
    for dataset in loaded.values():
        assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int32)
        for label in (0, dataset.num_classes - 1):
            images = dataset.images[dataset.labels == label]
            np.testing.assert_array_equal(images, letters[dataset.class_names[label]])


def test_more_fonts_are_taken_from_a_folder(monkeypatch, tmp_path):
    few, *rest = glyphs.matplotlib_fonts()
    monkeypatch.setattr(glyphs, "matplotlib_fonts", lambda: [few])
    (tmp_path / "fonts" / "deeper").mkdir(parents=True)
    for path in rest:
        if path.name.startswith("DejaVu"):
            (tmp_path / "fonts" / "deeper" / path.name).symlink_to(path)
    (tmp_path / "fonts" / "LastResortHE-Regular.ttf").write_bytes(b"left out unread")
    folders = {"raw_dir": str(tmp_path / "fonts"), "data_dir": str(tmp_path)}
    assert data.load("font_glyphs", "test", **folders).num_classes > 100


def test_a_folder_without_fonts_is_told(tmp_path):
    with pytest.raises(UserError, match=r"font_glyphs: --raw_dir=.* holds no font"):
        data.load("font_glyphs", "train", raw_dir=str(tmp_path), data_dir=str(tmp_path))


def drawing(column):
    image = np.full((105, 105), 255, np.uint8)
    image[:, 3 * column : 3 * column + 3] = 0
    file = io.BytesIO()
    Image.fromarray(image).convert("1").save(file, "png")
    return file.getvalue()


def zipped(folder, members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in members.items():
            archive.writestr(f"{folder}/{path}", content)
    return file.getvalue()


@pytest.fixture
def omniglot(monkeypatch):
    """Two small archives that the builder takes for the published ones."""
    characters = ["Greek/character02", "Greek/character01", "Gurmukhi/character41"]
    background = {f"{c}/{i:04}_0{i}.png": drawing(i) for c in characters for i in (2, 1)}
    evaluation = {
        f"{c}/0001_01.png": drawing(3) for c in ("ULOG/character01", "Gurmukhi/character42")
    }
    evaluation |= {"Hebrew/character22/0001_01.png": drawing(4), "Hebrew/": b""}
    files = {
        "images_background.zip": zipped("images_background", background),
        "images_evaluation.zip": zipped("images_evaluation", evaluation),
    }
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(builders.Omniglot, "source", canonical.OMNIGLOT._replace(sha256=sha256))
    return files


def test_omniglot_is_read_from_its_archives_and_split_as_by_vinyals(omniglot, tmp_path):
    for name, content in omniglot.items():
        (tmp_path / name).write_bytes(content)
    folders = {"raw_dir": str(tmp_path), "data_dir": str(tmp_path)}
    train, validation, test = (data.load("omniglot", split, **folders) for split in SPLITS)
    greek = ("Greek/character01", "Greek/character02")
    assert train.class_names == (*greek, "Gurmukhi/character41")
    assert validation.class_names == ("Hebrew/character22",)
    assert test.class_names == ("Gurmukhi/character42", "ULOG/character01")
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1, 2, 2])
    assert train.images.shape == (6, 28, 28, 1)
    # Drawers in their order; the stroke lies at 3/105 to 6/105 of the width, white on black.
    strokes = train.images[:2, 14, :, 0] / 255.0
    np.testing.assert_allclose(strokes.sum(1), 28 * 3 / 105, atol=0.05)
    np.testing.assert_allclose(strokes @ np.arange(28) / strokes.sum(1), [0.7, 1.5], atol=0.15)


def test_the_archives_are_named_where_they_are_missing_or_damaged(omniglot, tmp_path):
    (tmp_path / "images_background.zip").write_bytes(omniglot["images_background.zip"][:-1])
    with pytest.raises(UserError) as error:
        data.load("omniglot", "test", raw_dir=str(tmp_path), data_dir=str(tmp_path))
    assert "missing: images_evaluation.zip; damaged (by their SHA-256): images_b" in str(
        error.value
    )
    assert "it needs images_background.zip, images_evaluation.zip from" in str(error.value)


def test_the_splits_of_omniglot_are_as_large_as_published():
    # The alphabets held out have 41 + 46 + 22 + 22 + 41 characters, and 419 beside Gurmukhi's 4.
    sizes = {"Armenian": 41, "Bengali": 46, "Early_Aramaic": 22, "Hebrew": 22, "Gurmukhi": 45}
    sizes |= {"Mkhedruli_(Georgian)": 41, "Kannada": 41, "Keble": 26, "Malayalam": 47}
    sizes |= {"Manipuri": 40, "Mongolian": 30, "Old_Church_Slavonic_(Cyrillic)": 45, "Oriya": 46}
    sizes |= {"Sylheti": 28, "Syriac_(Serto)": 23, "Tengwar": 25, "Tibetan": 42, "ULOG": 26}
    names = [f"{name}/character{i + 1:02}" for name, size in sizes.items() for i in range(size)]
    splits = [canonical.omniglot_split(name) for name in names]
    assert [splits.count(split) for split in SPLITS] == [41, 172, 423]
    assert canonical.omniglot_split("Asomtavruli_(Georgian)/character40") == "train"
