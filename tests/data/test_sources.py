"""Every way in which a data set reaches memory, and every way in which it may fail to."""

import functools
import gzip
import hashlib
import http.server
import io
import pathlib
import shutil
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import checksums

from xent_jax import data
from xent_jax.data import builders, canonical
from xent_jax.errors import UserError


def idx(array):
    sizes = np.array(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def tiny(source, files):
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return source._replace(sha256=sha256, url="http://127.0.0.1:9/")  # Nothing listens there.


@pytest.fixture
def arrays():
    """Five images to train on and three to test with, of MNIST's and of CIFAR-10's shape."""
    rng = np.random.default_rng(0)

    def split(n, shape):
        return rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n, np.uint8)

    sources = (canonical.MNIST, canonical.CIFAR10)
    shapes = {source.name: source.image_shape for source in sources}
    return {n: {"train": split(5, s), "test": split(3, s)} for n, s in shapes.items()}


@pytest.fixture
def mnist(arrays, monkeypatch):
    """The unpacked files of a tiny MNIST that the builder takes for the published one."""
    (train_x, train_y), (test_x, test_y) = arrays["mnist"].values()
    contents = map(idx, (train_x[..., 0], train_y, test_x[..., 0], test_y))
    files = dict(zip(canonical.IDX_FILES, contents, strict=True))
    monkeypatch.setattr(builders.Mnist, "source", tiny(canonical.MNIST, files))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return files


@pytest.fixture
def cifar(arrays, monkeypatch):
    """The unpacked files of a tiny CIFAR-10, one image per batch to train on."""
    (train_x, train_y), (test_x, test_y) = arrays["cifar10"].values()

    def record(x, y):
        return bytes([y]) + x.transpose(2, 0, 1).tobytes()

    records = [record(x, y) for x, y in zip(train_x, train_y, strict=True)]
    records.append(b"".join(map(record, test_x, test_y)))
    files = dict(zip(canonical.CIFAR_FILES, records, strict=True))
    monkeypatch.setattr(builders.Cifar10, "source", tiny(canonical.CIFAR10, files))
    return files


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


def packed(files):
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"batches.meta.txt": b"airplane\n", **files}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {"cifar-10-binary.tar.gz": buffer.getvalue()}


def assert_loads(expected, name, **folders):
    for split, (images, labels) in expected[name].items():
        loaded = data.load(name, split, **folders)
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        np.testing.assert_array_equal(loaded.clean_labels, labels)
        assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int32)
        assert (loaded.name, loaded.num_classes) == (name, 10)


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def test_digits_are_split_by_class_and_none_is_lost(digits_dir):
    from sklearn.datasets import load_digits

    train, test = (data.load("digits", split, data_dir=digits_dir) for split in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert train.images.shape == (1437, 8, 8, 1)
    per_class = np.bincount(test.labels) / np.bincount(np.r_[train.labels, test.labels])
    np.testing.assert_allclose(per_class, 0.2, atol=0.006)
    images, labels = load_digits(return_X_y=True)
    ours = np.c_[np.r_[train.images, test.images].reshape(-1, 64), np.r_[train.labels, test.labels]]
    theirs = np.c_[np.round(images * 255 / 16), labels]
    np.testing.assert_array_equal(*(np.unique(rows, axis=0) for rows in (ours, theirs)))
    assert len(np.unique(ours, axis=0)) == 1797


def test_data_lie_in_the_folder_of_tfds_unless_another_is_given(digits_dir, monkeypatch):
    data.load("digits", "test", data_dir=digits_dir)
    monkeypatch.setattr(constants, "DATA_DIR", digits_dir)
    monkeypatch.setattr(builders.Digits, "download_and_prepare", None)  # It is there already.
    assert len(data.load("digits", "test").labels) == 360


def test_tensorflow_is_not_imported(digits_dir):
    code = (
        "import sys; from xent_jax import data;"
        f"assert len(data.load('digits', 'test', data_dir={digits_dir!r}).labels) == 360;"
        "assert 'tensorflow_datasets' in sys.modules; assert 'tensorflow' not in sys.modules"
    )
    root = pathlib.Path(data.__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("pack", [dict, packed], ids=["unpacked", "packed"])
def test_idx_files_load_packed_or_unpacked(mnist, arrays, pack, tmp_path):
    raw_dir = write(tmp_path / "raw", pack(mnist))
    assert_loads(arrays, "mnist", raw_dir=raw_dir, data_dir=str(tmp_path))


@pytest.mark.parametrize("form", ["tar", "folder", "loose"])
def test_cifar_loads_in_every_published_form(cifar, arrays, form, tmp_path):
    raw_dir = write(tmp_path / "raw", tar(cifar) if form == "tar" else {})
    if form != "tar":
        write(tmp_path / "raw" / ("cifar-10-batches-bin" if form == "folder" else ""), cifar)
    assert_loads(arrays, "cifar10", raw_dir=raw_dir, data_dir=str(tmp_path))


def test_prepared_data_need_no_raw_files(mnist, arrays, tmp_path):
    raw_dir = write(tmp_path / "raw", mnist)
    data.load("mnist", "train", raw_dir=raw_dir, data_dir=str(tmp_path))
    assert_loads(arrays, "mnist", raw_dir="/nowhere", data_dir=str(tmp_path))


def test_all_missing_and_damaged_files_are_named_in_one_line(mnist, tmp_path):
    files = packed(mnist)
    del files["train-images-idx3-ubyte.gz"]
    files["t10k-images-idx3-ubyte.gz"] = files["t10k-images-idx3-ubyte.gz"][:-9]  # cut short
    files["t10k-labels-idx1-ubyte.gz"] = gzip.compress(b"another file")
    raw_dir = write(tmp_path / "raw", files)
    with pytest.raises(UserError) as error:
        data.load("mnist", "train", raw_dir=raw_dir, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)
    assert "missing: train-images-idx3-ubyte; damaged" in str(error.value)
    assert ": t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz; it needs" in str(error.value)
    assert canonical.MNIST.archives[0] in str(error.value)


def test_a_sound_form_beside_a_damaged_one_is_taken(mnist, cifar, arrays, tmp_path):
    broken = {name: content[:20] for name, content in packed(mnist).items()}
    raw_dir = write(tmp_path / "raw", mnist | broken)
    assert_loads(arrays, "mnist", raw_dir=raw_dir, data_dir=str(tmp_path))
    broken = {name: content[:99] for name, content in tar(cifar).items()}
    raw_dir = write(tmp_path / "raw", cifar | broken)
    assert_loads(arrays, "cifar10", raw_dir=raw_dir, data_dir=str(tmp_path))


def test_a_damaged_tar_is_named(cifar, tmp_path):
    content = bytearray(tar(cifar)["cifar-10-binary.tar.gz"])
    content[len(content) // 2] ^= 1
    raw_dir = write(tmp_path / "raw", {"cifar-10-binary.tar.gz": bytes(content)})
    with pytest.raises(UserError, match=r"damaged .*: cifar-10-binary.tar.gz; it needs"):
        data.load("cifar10", "test", raw_dir=raw_dir, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("minst", "train"), r"unknown data set 'minst' \(did you mean 'mnist'\?\).*cifar10"),
        (("mnist", "valid"), r"unknown split 'valid' of mnist; one of: train, test"),
    ],
)
def test_unknown_names_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        data.load(*arguments)


def test_a_raw_dir_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"--raw_dir=/nowhere is not a folder.*\.gz"):
        data.load("mnist", "train", raw_dir="/nowhere", data_dir=str(tmp_path))


def test_a_data_dir_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*choose another place with --data_dir="):
        data.load("digits", "train", data_dir=str(tmp_path / "file"))


def test_a_full_disk_is_told(mnist, monkeypatch, tmp_path):
    def full(self, **kwargs):
        raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(builders.Mnist, "download_and_prepare", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        data.load("mnist", "train", raw_dir=write(tmp_path / "raw", mnist), data_dir=str(tmp_path))


@pytest.mark.parametrize("fault", ["flipped bit", "cut short", "gone", "half an info", "empty"])
def test_damaged_prepared_data_are_told(mnist, tmp_path, fault):
    raw_dir = write(tmp_path / "raw", mnist)
    data.load("mnist", "train", raw_dir=raw_dir, data_dir=str(tmp_path))
    folder = tmp_path / "xent_mnist" / "1.0.0"
    records, info = next(folder.glob("*train.array_record*")), folder / "dataset_info.json"
    content = bytearray(records.read_bytes())
    at = content.index(mnist["train-images-idx3-ubyte"][16:32])
    content[at] ^= 1
    damage = {
        "flipped bit": lambda: records.write_bytes(content),
        "cut short": lambda: records.write_bytes(content[:at]),
        "gone": records.unlink,
        "half an info": lambda: info.write_text(info.read_text()[:60]),
        "empty": lambda: [path.unlink() for path in folder.iterdir()],
    }
    damage[fault]()
    with pytest.raises(UserError, match=r"mnist: .*1\.0\.0 are incomplete or damaged .*delete"):
        data.load("mnist", "train", data_dir=str(tmp_path))


def test_a_preparation_that_was_killed_does_not_stand_in_the_way(mnist, arrays, tmp_path):
    write(tmp_path / "xent_mnist" / "incomplete.ABCDEF_1.0.0", {"half": b"written"})
    raw_dir = write(tmp_path / "raw", mnist)
    assert_loads(arrays, "mnist", raw_dir=raw_dir, data_dir=str(tmp_path))


def test_of_two_that_prepare_at_once_the_slower_takes_the_other_s_data(
    mnist, arrays, monkeypatch, tmp_path
):
    folders = {"raw_dir": write(tmp_path / "raw", mnist), "data_dir": str(tmp_path)}
    read, others = builders.Mnist._read_splits, iter(["one other"])

    def read_while_another_is_faster(self, dl_manager):
        if next(others, None):
            data.load("mnist", "test", **folders)
        return read(self, dl_manager)

    monkeypatch.setattr(builders.Mnist, "_read_splits", read_while_another_is_faster)
    assert_loads(arrays, "mnist", **folders)
    assert not any((tmp_path / "xent_mnist").glob("incomplete*"))


@pytest.fixture
def server(tmp_path):
    """A folder and the address that serves it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args): ...

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def test_files_are_downloaded_and_checked(mnist, arrays, monkeypatch, server, tmp_path):
    folder, url = server
    monkeypatch.setattr(builders.Mnist, "source", builders.Mnist.source._replace(url=url))
    with pytest.raises(UserError, match=r"mnist: cannot download .*HTTP code: 404.*--raw_dir="):
        data.load("mnist", "train", data_dir=str(tmp_path))
    write(folder, packed(mnist))
    assert_loads(arrays, "mnist", data_dir=str(tmp_path))
    shutil.rmtree(tmp_path / "xent_mnist")
    cached = next((tmp_path / "downloads").rglob("*t10k-labels*.gz"))
    cached.write_bytes(b"spoilt")
    with pytest.raises(UserError, match=r"deleted bad downloads .*t10k-labels.*; run again"):
        data.load("mnist", "train", data_dir=str(tmp_path))
    assert_loads(arrays, "mnist", data_dir=str(tmp_path))


def test_without_a_network_one_line_says_what_to_do(mnist, caplog, tmp_path):
    with pytest.raises(UserError) as error:
        data.load("mnist", "train", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)
    assert "Connection refused" in str(error.value)
    assert "--raw_dir=, a folder with train-images-idx3-ubyte.gz" in str(error.value)
    assert "Retrying" not in caplog.text


@pytest.mark.parametrize(
    "builder", [builders.Mnist, builders.FashionMnist, builders.Cifar10, builders.Omniglot]
)
def test_downloads_are_registered_with_the_checksums_that_tfds_knows(builder):
    published = checksums.get_all_url_infos()
    for archive in builder.source.archives:
        url = builder.source.url + archive
        assert builder.url_infos[url] == published[url]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_published_files(name, tmp_path):
    raw_dir = pathlib.Path("raw") / name
    if not raw_dir.is_dir():
        pytest.skip(f"{raw_dir}/ holds no published files")
    sizes = {"train": 50_000 if name == "cifar10" else 60_000, "test": 10_000}
    for split, size in sizes.items():
        loaded = data.load(name, split, raw_dir=str(raw_dir), data_dir=str(tmp_path))
        counts = np.bincount(loaded.labels, minlength=10)
        assert counts.sum() == size
        if name != "mnist":
            assert set(counts) == {size // 10}
