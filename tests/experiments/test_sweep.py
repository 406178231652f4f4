"""The sweep's command as a user meets it."""

import multiprocessing
import sys
from pathlib import Path

# In processes of their own, as two commands' flags of one name cannot be in one; they are forked
# from a server that has imported everything.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["experiments.sweep"])


def child(told: str, given: list[str], command_alone: bool) -> None:
    from experiments import entry, sweep

    sys.argv = ["experiments/sweep.py", *given]
    with open(told, "w") as sys.stdout:
        sys.stderr = sys.stdout
        if command_alone:
            print(sweep._command())
        else:
            entry.run(sweep.main)


def run(workdir: Path, *given: str, command_alone: bool = False) -> tuple[int | None, str]:
    """Returns the status and what is told."""
    told = workdir / "told"
    process = _FORK.Process(target=child, args=(str(told), list(given), command_alone))
    process.start()
    process.join(120)
    return process.exitcode, told.read_text()


def test_a_run_is_repeated_by_what_was_typed_but_for_the_place(tmp_path):
    given = ["--config=configs/noisy_labels.py", "--config.seeds", "2", "--workdir", "here too"]
    given += ["--only", "method=CE", "-data_dir=there", "--only=seed=0", "--memory_gb", "3"]
    expected = "python -m experiments.sweep --config=configs/noisy_labels.py --config.seeds 2\n"
    assert run(tmp_path, *given, command_alone=True) == (0, expected)


def test_memory_that_is_no_memory_is_told(tmp_path):
    assert run(tmp_path, "--config=configs/noisy_labels.py", "--memory_gb=0") == (
        2,
        "error: --memory_gb=0.0 must be above 0; leave it out for what is sensible\n",
    )


def test_a_language_model_is_sent_to_the_command_that_trains_it(tmp_path):
    assert run(tmp_path, "--config=configs/language_model.py:lstm") == (
        2,
        "error: config.model.name='lstm': language models are not swept; train them by "
        "python -m experiments.train\n",
    )
