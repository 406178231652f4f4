"""The report's command as a user meets it: a table and a page, or one line of what's wrong."""

import sys

import pytest
from absl import flags

from experiments import entry, report
from tests.reporting import study_records


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process; returns its exit status, output and errors."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["report", *arguments])
        flags.FLAGS.unparse_flags()
        with pytest.raises(SystemExit) as caught:
            entry.run(report.main)
        told = capsys.readouterr()
        return caught.value.code or 0, told.out, told.err

    yield ran
    flags.FLAGS.unparse_flags()


def write(folder, **study):
    small = {"methods": ("CE", "GCE"), "conditions": {}, "seeds": 2, "few_shot": True}
    return study_records.write_study(folder, **{**small, **study})


def test_prints_the_main_table_and_where_the_page_is(tmp_path, run):
    workdir = write(tmp_path / "study", unfinished=("GCE-1",))
    status, out, err = run(f"--workdir={workdir}")
    assert (status, err) == (0, "")
    page = workdir / "report" / "report.html"
    assert out.splitlines()[-1] == f"report       {page}"
    assert "1 of 4 runs are missing" in page.read_text()
    assert out.startswith((workdir / "report" / "tables" / "results.md").read_text())
    assert "| GCE |" in out


def test_several_sweeps_share_a_page(tmp_path, run):
    one, two = (write(tmp_path / name, seeds=1) for name in ("one", "two"))
    status, out, _ = run(f"--workdir={one},{two}", f"--output={tmp_path / 'both'}")
    assert status == 0
    assert out.count("| method |") == 2
    assert (tmp_path / "both" / "report.html").exists()
    assert (tmp_path / "both" / "two" / "tables" / "results.csv").exists()
    assert not (one / "report").exists()


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("", "no sweep is named; try --workdir="),
        ("--workdir=/nowhere", "/nowhere"),
        ("--workdir=a/x,b/x", "'x' twice"),
        ("--wrokdir=x", "wrokdir"),
    ],
)
def test_mistakes_are_told_in_one_line(argument, told, run):
    status, out, err = run(*filter(None, [argument]))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err
