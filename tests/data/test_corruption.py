"""Wrong labels: how many, which, and the same on every machine."""

import pickle
import zipfile

import numpy as np
import pytest

from xent_jax import data
from xent_jax.data import canonical
from xent_jax.data.corruption import CLASS_MAPS
from xent_jax.errors import UserError

N = 20_000
BY_RATE = ("symmetric", "symmetric_all", "pair_flip", "asymmetric")


def dataset(num_classes=10, n=N, name="mnist"):
    labels = np.arange(n, dtype=np.int32) % num_classes
    names = tuple(map(str, range(num_classes)))
    return data.Dataset(np.zeros((n, 1, 1, 1), np.uint8), labels, labels, names, name)


def shares(noisy, num_classes=10):
    """The part of each clean class (rows) that has each label."""
    joint = np.zeros((num_classes, num_classes))
    np.add.at(joint, (noisy.clean_labels, noisy.labels), 1)
    return joint / joint.sum(axis=1, keepdims=True)


def assert_drawn_from(noisy, expected):
    # Five standard deviations of a binomial share, and exactly none where none are allowed.
    num_classes = len(expected)
    tolerance = 5 * np.sqrt(expected * (1 - expected) * num_classes / len(noisy.labels))
    assert (np.abs(shares(noisy, num_classes) - expected) <= tolerance).all()


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize(("name", "own"), [("symmetric", 0.0), ("symmetric_all", 1.0)])
@pytest.mark.parametrize("rate", [0.05, 0.4, 1.0])
def test_each_chosen_label_becomes_each_allowed_class_equally_often(name, own, rate, num_classes):
    clean = dataset(num_classes)
    noisy = data.corrupt(clean, name, rate=rate, seed=1)
    eye = np.eye(num_classes)
    target = (1 - (1 - own) * eye) / (num_classes - 1 + own)
    expected = (1 - rate) * eye + rate * target
    assert_drawn_from(noisy, expected)
    matrix = data.transition_matrix(name, num_classes, rate=rate)
    np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("exact", [False, True])
def test_mistakes_go_where_the_class_map_sends_them(exact):
    pairs = {"pair_flip": {k: (k + 1) % 10 for k in range(10)}, "asymmetric": CLASS_MAPS["mnist"]}
    for name, flips in pairs.items():
        expected = np.eye(10)
        for old, new in flips.items():
            expected[old, [old, new]] = 0.7, 0.3
        noisy = data.corrupt(dataset(), name, rate=0.3, seed=2, exact=exact)
        assert_drawn_from(noisy, expected)
        matrix = data.transition_matrix(name, 10, rate=0.3, dataset_name="mnist")
        np.testing.assert_allclose(matrix, expected, atol=1e-15)
        if exact:
            np.testing.assert_allclose(shares(noisy), expected, atol=1e-12)


def test_class_maps_are_those_of_the_literature():
    named = {}
    for source in (canonical.MNIST, canonical.FASHION_MNIST, canonical.CIFAR10):
        names = source.class_names
        named[source.name] = {
            names[old]: names[new] for old, new in CLASS_MAPS[source.name].items()
        }
    assert named["mnist"] == {"7": "1", "2": "7", "5": "6", "6": "5", "3": "8"}
    cifar = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    assert named["cifar10"] == cifar
    shoes = {"Ankle boot": "Sneaker", "Sneaker": "Sandal"}
    clothes = {"Pullover": "Shirt", "Coat": "Dress", "Dress": "Coat"}
    assert named["fashion_mnist"] == shoes | clothes
    assert CLASS_MAPS["digits"] == CLASS_MAPS["mnist"]


def test_a_class_map_may_be_another_data_sets():
    other = data.corrupt(
        dataset(name="letters"), "asymmetric", rate=1.0, seed=0, class_map="cifar10"
    )
    assert dict(zip(other.clean_labels[:10].tolist(), other.labels[:10].tolist(), strict=True)) == {
        **{k: k for k in range(10)},
        **CLASS_MAPS["cifar10"],
    }
    matrix = data.transition_matrix("asymmetric", 10, rate=1.0, class_map="cifar10")
    np.testing.assert_array_equal(matrix.argmax(axis=1), other.labels[:10])


MATRIX = ((0.5, 0.25, 0.25), (0.0, 1.0, 0.0), (0.1, 0.9, 0.0))


@pytest.mark.parametrize("form", ["tuples", "npy", "csv"])
def test_labels_are_drawn_from_the_rows_of_a_matrix(form, tmp_path):
    matrix = MATRIX
    if form != "tuples":
        matrix = str(tmp_path / f"matrix.{form}")
        np.save(matrix, MATRIX) if form == "npy" else np.savetxt(matrix, MATRIX, delimiter=",")
    clean = dataset(3)
    noisy = data.corrupt(clean, "transition", matrix=matrix, seed=4)
    assert_drawn_from(noisy, np.array(MATRIX))
    assert noisy.labels.dtype == np.int32
    found = data.transition_matrix("transition", 3, matrix=matrix)
    np.testing.assert_allclose(found, MATRIX)
    exact = data.corrupt(clean, "transition", matrix=matrix, seed=4, exact=True)
    assert np.abs(shares(exact, 3) - MATRIX).max() <= 1.5 / (N // 3)
    assert (exact.labels != noisy.labels).any()


@pytest.mark.parametrize("name", BY_RATE)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 1.0])
def test_exact_draws_choose_that_share_of_every_class(name, rate):
    uneven = data.select(dataset(), np.arange(N) % 10 * 200 <= np.arange(N) % 2001)
    sizes = np.bincount(uneven.labels)
    assert len(set(sizes)) > 5
    noisy = data.corrupt(uneven, name, rate=rate, seed=5, exact=True)
    wrong = np.bincount(uneven.labels[noisy.labels != uneven.labels], minlength=10)
    if name == "symmetric_all":  # of the chosen ones, some become what they were
        assert (wrong <= np.ceil(rate * sizes)).all()
    else:
        flipped = [k in CLASS_MAPS["mnist"] or name != "asymmetric" for k in range(10)]
        assert np.abs(wrong - rate * sizes * flipped).max() <= 0.5
    lower = data.corrupt(uneven, name, rate=rate / 2, seed=5, exact=True)
    changed = lower.labels != uneven.labels
    np.testing.assert_array_equal(noisy.labels[changed], lower.labels[changed])
    other = data.corrupt(uneven, name, rate=rate, seed=6, exact=True)
    assert rate in (0.0, 1.0) or (other.labels != noisy.labels).any()


def test_exact_draws_of_symmetric_labels_stay_even_among_the_others():
    noisy = data.corrupt(dataset(), "symmetric", rate=0.4, seed=1, exact=True)
    assert_drawn_from(noisy, data.transition_matrix("symmetric", 10, rate=0.4))


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_instance_dependent_mistakes_depend_on_the_image(rate):
    random = np.random.default_rng(0)
    prototypes = random.integers(0, 256, (50, 3, 3, 1), np.uint8)
    which = random.integers(0, 50, N)
    labels = (which % 5).astype(np.int32)
    clean = data.Dataset(prototypes[which], labels, labels, tuple("abcde"), "prototypes")
    noisy = data.corrupt(clean, "instance_dependent", rate=rate, seed=0)
    wrong = noisy.labels != labels
    # The mean of a normal distribution truncated to [0, 1] is above a rate near 0.
    from scipy import stats

    low, high = -rate / 0.1, (1 - rate) / 0.1
    mean = stats.truncnorm(low, high, loc=rate, scale=0.1).mean()
    assert abs(wrong.mean() - mean) < 5 * np.sqrt(mean * (1 - mean) / N)
    kinds = [len(np.unique(noisy.labels[wrong & (which == k)])) for k in range(50)]
    assert np.mean(np.array(kinds) == 1) > 0.8  # one image, one mistake
    of_class_0 = [np.bincount(noisy.labels[wrong & (which == k)]).argmax() for k in range(0, 50, 5)]
    assert len(set(of_class_0)) > 1  # another image of the class, another mistake
    again = data.corrupt(clean, "instance_dependent", rate=rate, seed=0)
    np.testing.assert_array_equal(again.labels, noisy.labels)
    assert data.transition_matrix("instance_dependent", 5, rate=rate) is None


def test_instance_dependent_rates_differ_between_examples():
    clean = dataset()
    wide, narrow = (
        data.corrupt(clean, "instance_dependent", rate=0.5, seed=0, deviation=d).labels
        for d in (10.0, 1e-6)
    )
    # Blank images score all classes alike.
    joint = np.bincount(narrow[(clean.labels == 0) & (narrow != 0)], minlength=10)[1:]
    assert (np.abs(joint - N / 20 / 9) < 5 * np.sqrt(N / 20 / 9)).all()
    chosen = data.corrupt(clean, "pair_flip", rate=0.5, seed=0).labels != clean.labels
    # With a deviation so wide q is uniform, and it is below 1/2 where that draw is.
    assert (
        (wide != clean.labels)[chosen].mean() < 0.3 < 0.7 < (wide != clean.labels)[~chosen].mean()
    )


def save_pt(path, arrays):
    """As PyTorch does: a zip with one pickle, of protocol 2."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(arrays, protocol=2))
        archive.writestr("archive/version", "3")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_labels_that_people_gave_are_read_from_a_file(suffix, tmp_path):
    clean, path = dataset(n=40), str(tmp_path / f"human{suffix}")
    worse = ((clean.labels + np.arange(40) % 2) % 10).astype(np.int64)
    arrays = {"clean_label": clean.labels.astype(np.int64), "worse_label": worse}
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".npy":
        np.save(path, np.array(arrays), allow_pickle=True)
    else:
        save_pt(path, arrays)
    noisy = data.corrupt(clean, "from_file", path=path, key="worse_label", seed=0)
    np.testing.assert_array_equal(noisy.labels, worse)
    assert noisy.labels.dtype == np.int32
    assert data.transition_matrix("from_file", 10, path=path) is None
    with pytest.raises(UserError, match=r"'worst_label' \(did you mean 'worse_label'.*has clean_l"):
        data.corrupt(clean, "from_file", path=path, key="worst_label", seed=0)
    part = data.select(clean, slice(30))
    with pytest.raises(UserError, match=r"shape \(40,\), and mnist as it is used here has 30 ex"):
        data.corrupt(part, "from_file", path=path, key="worse_label", seed=0)
    turned = data.select(clean, slice(None, None, -1))
    with pytest.raises(UserError, match=r"clean_label differs from mnist's labels in 40 of 40"):
        data.corrupt(turned, "from_file", path=path, key="worse_label", seed=0)


def test_a_plain_array_of_labels_needs_no_key(tmp_path):
    path = str(tmp_path / "labels.npy")
    np.save(path, np.arange(40) % 7)
    noisy = data.corrupt(dataset(n=40), "from_file", path=path, seed=0)
    np.testing.assert_array_equal(noisy.labels, np.arange(40) % 7)
    np.save(path, np.arange(40) / 7)
    with pytest.raises(UserError, match=r"holds float64; labels must be whole numbers"):
        data.corrupt(dataset(n=40), "from_file", path=path, seed=0)
    np.save(path, np.arange(40) % 11)
    with pytest.raises(UserError, match=r"label 10 of example 10 is not one of the 10 classes"):
        data.corrupt(dataset(n=40), "from_file", path=path, seed=0)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_what_is_in_a_file_of_labels_is_never_run(tmp_path):
    numpy_file, torch_file = tmp_path / "evil.npy", tmp_path / "evil.pt"
    np.save(numpy_file, np.array({"clean_label": Payload()}), allow_pickle=True)
    save_pt(torch_file, {"clean_label": Payload()})
    for path in (numpy_file, torch_file):
        with pytest.raises(UserError, match=r"cannot read labels from it: it asks for .*\.exec"):
            data.corrupt(dataset(n=40), "from_file", path=str(path), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1", r"must end in one of \.npy, \.npz, \.pt"),
        ("a.npy", None, r"there is no such file"),
        ("a.npy", b"not numpy", r"cannot read labels from it"),
        ("a.npz", b"", r"cannot read labels from it"),
        ("a.pt", b"legacy", r"cannot read labels from it: File is not a zip file"),
    ],
)
def test_files_that_are_missing_or_damaged_are_told(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        data.corrupt(dataset(n=40), "from_file", path=str(path), seed=0)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", [*BY_RATE, "instance_dependent"])
def test_rate_0_changes_nothing(name):
    clean = dataset()
    np.testing.assert_array_equal(data.corrupt(clean, name, rate=0.0, seed=0).labels, clean.labels)
    matrix = data.transition_matrix(name, 10, rate=0.0, dataset_name="mnist")
    assert matrix is None or (matrix == np.eye(10)).all()


@pytest.mark.parametrize("name", ["symmetric", "symmetric_all", "pair_flip", "instance_dependent"])
def test_one_class_has_no_other(name):
    single = dataset(num_classes=1, n=5)
    np.testing.assert_array_equal(data.corrupt(single, name, rate=1.0, seed=0).labels, np.zeros(5))
    if name != "instance_dependent":
        assert data.transition_matrix(name, 1, rate=1.0) == [[1.0]]


@pytest.mark.parametrize(
    ("name", "seed", "labels"),
    [
        ("symmetric", 0, "33624169260223926928"),
        ("symmetric", 7, "80610527590191626689"),
        ("symmetric_all", 0, "21494661370023566149"),
    ],
)
def test_labels_are_the_same_for_ever(name, seed, labels):
    noisy = data.corrupt(dataset(n=20), name, rate=0.5, seed=seed)
    assert "".join(map(str, noisy.labels)) == labels


def test_a_higher_rate_keeps_the_labels_that_a_lower_one_made_wrong():
    clean = dataset()
    low, high = (data.corrupt(clean, "symmetric", rate=r, seed=3).labels for r in (0.2, 0.6))
    wrong = low != clean.labels
    np.testing.assert_array_equal(high[wrong], low[wrong])


def test_only_labels_change_and_the_original_not_at_all():
    clean = dataset()
    before = clean.labels.copy()
    noisy = data.corrupt(clean, "symmetric", rate=0.5, seed=0)
    np.testing.assert_array_equal(clean.labels, before)
    np.testing.assert_array_equal(noisy.clean_labels, before)
    assert noisy.images is clean.images
    assert noisy.labels.dtype == np.int32
    assert (noisy.labels != data.corrupt(clean, "symmetric", rate=0.5, seed=1).labels).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "symetric", "rate": 0.1, "seed": 0}, r"'symetric' \(did you mean 'symmetric'"),
        ({"rate": 1.1, "seed": 0}, r"rate=1.1 must be a number from 0 to 1"),
        ({"rate": -0.1, "seed": 0}, r"rate=-0.1 must be"),
        ({"rate": float("nan"), "seed": 0}, r"rate=nan must be"),
        ({"rate": 0.1, "seed": -1}, r"seed=-1 must be a whole number, at least 0"),
        ({"seed": 0}, r"'symmetric' needs rate, a number from 0 to 1"),
        ({"name": "transition", "seed": 0}, r"'transition' needs matrix, rows of probabilities"),
        ({"name": "from_file", "seed": 0}, r"'from_file' needs path, a file of labels"),
        (
            {"rate": 0.1, "exakt": True, "seed": 0},
            r"no argument 'exakt' \(did you mean 'exact'\?\); it takes rate, exact$",
        ),
        (
            {"name": "asymmetric", "rate": 0.1, "class_map": "cifar", "seed": 0},
            r"no class map for 'cifar' with 10 classes; .*digits, mnist, fashion_mnist, cifar10",
        ),
        (
            {"name": "instance_dependent", "rate": 0.1, "deviation": 0.0, "seed": 0},
            r"deviation=0.0 must be a number above 0",
        ),
        (
            {"name": "transition", "matrix": MATRIX, "seed": 0},
            r"the matrix has shape \(3, 3\); 10 classes need \(10, 10\)",
        ),
        (
            {"name": "transition", "matrix": "no.npy", "seed": 0},
            r"the corruption's matrix no.npy cannot be read: .*No such file",
        ),
        (
            {"name": "transition", "matrix": "no.mat", "seed": 0},
            r"cannot be read: it must end in .npy or .csv",
        ),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        data.corrupt(dataset(n=4), **arguments)


def test_matrices_that_are_none_of_probabilities_are_told():
    with pytest.raises(UserError, match=r"the matrix: row 1 sums to 1.1, and each must to 1"):
        data.transition_matrix("transition", 2, matrix=((1.0, 0.0), (0.1, 1.0)))
    with pytest.raises(UserError, match=r"the matrix must hold probabilities, at least 0"):
        data.transition_matrix("transition", 2, matrix=((1.0, 0.0), (1.5, -0.5)))
    with pytest.raises(UserError, match=r"the matrix cannot be read"):
        data.transition_matrix("transition", 2, matrix=((1.0, 0.0), (1.0,)))
