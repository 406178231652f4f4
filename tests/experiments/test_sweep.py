"""The sweep's command as a user meets it."""

import subprocess
import sys

# In a process of its own, as two commands' flags of one name cannot be in one.
_TELL = "from experiments import sweep; print(sweep._command())"


def test_a_run_is_repeated_by_what_was_typed_but_for_the_place():
    given = ["--config=configs/noisy_labels.py", "--config.seeds", "2", "--workdir", "here too"]
    given += ["--only", "method=CE", "-data_dir=there", "--only=seed=0", "--memory_gb", "3"]
    told = subprocess.run(
        [sys.executable, "-c", _TELL, *given], capture_output=True, text=True, check=True
    )
    expected = "python -m experiments.sweep --config=configs/noisy_labels.py --config.seeds 2"
    assert told.stdout.strip() == expected


def test_memory_that_is_no_memory_is_told():
    command = [sys.executable, "-m", "experiments.sweep", "--config=configs/noisy_labels.py"]
    done = subprocess.run([*command, "--memory_gb=0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: --memory_gb=0.0 must be above 0; leave it out for what is sensible\n"
    )


def test_a_language_model_is_sent_to_the_command_that_trains_it():
    command = [sys.executable, "-m", "experiments.sweep", "--config=configs/language_model.py:lstm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: config.model.name='lstm': language models are not swept; train them by "
        "python -m experiments.train\n"
    )
