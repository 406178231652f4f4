"""The sweep's command as a user meets it."""

import sys

from experiments import sweep


def test_a_run_is_repeated_by_what_was_typed_but_for_the_place(monkeypatch):
    given = ["--config=configs/noisy_labels.py", "--config.seeds", "2", "--workdir", "here too"]
    given += ["--only", "method=CE", "-data_dir=there", "--only=seed=0", "--memory_gb", "3"]
    monkeypatch.setattr(sys, "argv", ["sweep", *given])
    expected = "python -m experiments.sweep --config=configs/noisy_labels.py --config.seeds 2"
    assert sweep._command() == expected
