"""The command line as a user meets it: every mistake is told in one line, and work is kept."""

import errno
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from xent_jax.reporting import records

# Children are forked from a server that has imported everything and has no backend yet.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["experiments.train", "matplotlib.figure", "sklearn.datasets"])

QUICK = [
    "--config=configs/quickstart.py",
    "--config.dataset.train_examples=128",
    "--config.epochs=2",
    "--config.devices=1",
    "--compilation_cache=",
]


TEXT = "--config=configs/language_model.py"


def _child(argv: list[str], output: str, fault: str | None) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w")
    sys.argv = ["train", *argv]
    from experiments import entry, train

    if fault == "full disk":

        def full(path: Path, record: dict) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        records.append = full
    if fault == "any folder":
        train.training.claim_workdir = lambda workdir, _: sys.exit(str(workdir))
    entry.run(train.main)


def start(argv: list[str], tmp_path: Path, fault: str | None = None):
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
    flags = [*argv]
    if not any(flag.startswith((TEXT, "--data_dir")) for flag in argv):
        flags.append(f"--data_dir={tmp_path / 'data'}")
    if fault != "any folder" and not any(flag.startswith("--workdir") for flag in argv):
        flags.append(f"--workdir={tmp_path / 'work'}")
    output = tmp_path / f"output{time.monotonic_ns()}"
    process = _FORK.Process(target=_child, args=(flags, str(output), fault))
    process.start()
    return process, output


def run(argv: list[str], tmp_path: Path, fault: str | None = None) -> tuple[int | None, str]:
    process, output = start(argv, tmp_path, fault)
    process.join(120)
    return process.exitcode, output.read_text()


FOLDERS = ("loss", "baseline")

MISTAKES = {
    "no config": ([], "--config=configs/quickstart.py"),
    "no such file": (["--config=configs/quikstart.py"], "configs/quikstart.py"),
    "an empty config": (["--config="], "no config is named"),
    "a folder": (["--config=configs"], "no such file"),
    "no get_config": (["--config=experiments/entry.py"], "no function get_config()"),
    "half of a colon": (["--config=configs/quickstart.py:x"], "nothing after a colon"),
    "a config's own word": (["--config=configs/cifar10.py:resnet9"], "knows cnn8 and resnet32"),
    "no section": ([*QUICK, "--config.loss=focal"], "--config.loss.name=NAME"),
    "not a loss of labels": ([*QUICK, "--config.loss.name=entropy"], "is no loss of a network"),
    "too large a shift": ([*QUICK, "--config.dataset.shift=8"], "below 8x8 pixels"),
    "half of the processes": ([*QUICK, "--processes=2"], "all or none"),
    "unknown flag": ([*QUICK, "--workdri=x"], "workdri"),
    "stray argument": ([*QUICK, "quick"], "'quick'"),
    "unknown key": ([*QUICK, "--config.epoch=3"], "did you mean 'epochs'"),
    "unknown section": ([*QUICK, "--config.optimiser.name=sgd"], "did you mean 'optimizer'"),
    "wrong type": ([*QUICK, "--config.epochs=many"], "config.epochs=many: it must be a whole"),
    "a fraction of an epoch": ([*QUICK, "--config.epochs=2.5"], "config.epochs"),
    "no epochs": ([*QUICK, "--config.epochs=0"], "at least 1"),
    "unknown loss": (
        [*QUICK, "--config.loss.name=generalised_cross_entropy"],
        "did you mean 'generalized_cross_entropy'",
    ),
    "unknown baseline": ([*QUICK, "--config.baseline.name=mse"], "config.baseline"),
    "unknown hyper-parameter": ([*QUICK, "--config.loss.p=0.5"], "no argument 'p'"),
    "hyper-parameter's range": ([*QUICK, "--config.loss.q=3"], "[0, 1]"),
    "unknown model": ([*QUICK, "--config.model.name=lenett"], "did you mean 'lenet'"),
    "unknown size": ([*QUICK, "--config.model.hiden=(3,)"], "'hidden'"),
    "unknown data": ([*QUICK, "--config.dataset.name=digit"], "did you mean 'digits'"),
    "unknown optimiser": ([*QUICK, "--config.optimizer.name=adan"], "did you mean 'adam'"),
    "unknown moment": ([*QUICK, "--config.optimizer.b3=0.9"], "no argument 'b3'"),
    "learning rate": ([*QUICK, "--config.optimizer.learning_rate=-1.0"], "positive"),
    "unknown schedule": ([*QUICK, "--config.schedule.name=cosin"], "did you mean 'cosine'"),
    "unknown corruption": ([*QUICK, "--config.corruption.name=symetric"], "'symmetric'"),
    "noise rate": ([*QUICK, "--config.corruption.rate=1.5"], "0 to 1"),
    "devices": ([*QUICK, "--config.devices=99"], "JAX sees 8"),
    "batch": ([*QUICK, "--config.devices=8", "--config.batch_size=12"], "multiple of 8"),
    "missing files": (
        ["--config=configs/mnist_mlp.py", "--raw_dir=/nowhere"],
        "train-images-idx3-ubyte",
    ),
    "a size that is none": (
        [TEXT, "--config.tokens.name=bpe", "--config.tokens.size=big"],
        "config.tokens.size='big' must be a whole number, at least 256",
    ),
    "a fraction of a size": (
        [TEXT, "--config.tokens.name=bpe", "--config.tokens.size=300.5"],
        "config.tokens.size=300.5 must be a whole number, at least 256",
    ),
    "a baseline of text": (
        [TEXT, "--config.baseline.name=generalized_cross_entropy", "--config.baseline.q=3.0"],
        "config.baseline: 'generalized_cross_entropy' cannot be trained so: q",
    ),
    "an unknown baseline of text": ([TEXT, "--config.baseline.name=mse"], "config.baseline.name"),
    "a folder of no use": ([TEXT, "--data_dir=texts"], "--data_dir=texts is not read where"),
    "no folder": ([TEXT, "--config.dataset.name=folder"], "no --data_dir is given; name a folder"),
    "workdir is a file": ([*QUICK, f"--workdir={__file__}"], "choose another"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_told_in_one_line(mistake: str, tmp_path: Path) -> None:
    argv, expected = MISTAKES[mistake]
    status, output = run(argv, tmp_path)
    assert status == 2, output
    lines = output.strip().splitlines()
    assert len(lines) == 1, output
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


def test_trains_and_summarises_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    status, output = run(QUICK, tmp_path)
    assert status == 0, output
    assert "test accuracy" in output
    for name in FOLDERS:
        folder = tmp_path / "work" / name
        assert len(records.read(folder / "records.jsonl")) == 2
        assert (folder / "confusion_matrix.png").stat().st_size > 10_000
    assert (tmp_path / "work" / "learning_curve.png").stat().st_size > 10_000
    before = (tmp_path / "work" / "loss" / "records.jsonl").read_bytes()
    status, again = run(QUICK, tmp_path)
    assert status == 0
    assert again == output
    assert (tmp_path / "work" / "loss" / "records.jsonl").read_bytes() == before
    status, other = run([*QUICK, "--config.seed=1"], tmp_path)
    assert status == 2
    assert "holds another config's run (seed: 0 -> 1" in other


def test_each_variant_of_a_config_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for variant, folder in {"": "language_model", ":bpe": "language_model_bpe"}.items():
        process, output = start([TEXT + variant], tmp_path, fault="any folder")
        process.join(60)
        assert output.read_text() == f"runs/{folder}\n"


def test_a_folder_s_text_is_trained_on_with_a_baseline(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("".join(f"line {i}: the cat sat on a mat\n" for i in range(40)))
    tiny = ["width=8", "layers=1", "heads=2"]
    argv = [TEXT, "--config.dataset.name=folder", f"--data_dir={texts}", "--compilation_cache="]
    argv += [*(f"--config.model.{size}" for size in tiny), "--config.dataset.window=32"]
    argv += ["--config.epochs=2", "--config.devices=1", "--config.steps_per_call=0"]
    argv.append("--config.baseline.name=softmax_cross_entropy_with_integer_labels")
    status, output = run(argv, tmp_path)
    assert status == 0, output
    assert "test perplexity" in output
    found = [records.read(tmp_path / "work" / name / "records.jsonl") for name in FOLDERS]
    told = [[each["test"]["perplexity"] for each in run] for run in found]
    assert told[0] == pytest.approx(told[1], rel=1e-4)
    assert told[0][1] < told[0][0] < 256
    (texts / "b.txt").write_text("and another\n")
    status, output = run(argv, tmp_path)
    assert status == 2, output
    assert "was saved by a run on other data (text_digest: " in output
    assert len(output.strip().splitlines()) == 1


def test_divergence_names_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    bad = ["--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30"]
    loss = "--config.loss.name=squared_error"
    status, output = run([*QUICK, *bad, loss, "--config.baseline.name=none"], tmp_path)
    assert status == 3, output
    assert "stopped being finite at step" in output
    assert "last finite losses: " in output
    assert "Traceback" not in output


def test_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    status, output = run(QUICK, tmp_path, fault="full disk")
    assert status == 2, output
    assert "No space left on device" in output
    assert "Traceback" not in output


def test_sigterm_saves_and_the_same_command_continues(tmp_path: Path) -> None:
    flags = [*QUICK, "--config.baseline.name=none", "--config.steps_per_call=1"]
    flags.append("--config.epochs=4000")
    path, steps = tmp_path / "work" / "records.jsonl", []
    for _ in range(2):
        process, output = start(flags, tmp_path)
        wait_for_records(path, len(steps) + 3, output)
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
        assert process.exitcode == 75, output.read_text()
        assert "run it again to continue" in output.read_text()
        assert len(records.read(path)) > len(steps) + 2
        steps = [record["step"] for record in records.read(path)]
        assert steps == list(range(2, 2 * len(steps) + 1, 2))  # two steps an epoch, none missing


def wait_for_records(path: Path, count: int, output: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.02)
