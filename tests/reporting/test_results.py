"""A study's cells hold what the records say, and compare what can be compared."""

import json
import math

import numpy as np
import pytest

from tests.reporting.study_records import write_study
from xent_jax.errors import UserError
from xent_jax.reporting import statistics
from xent_jax.reporting.results import Cell, Results, measure
from xent_jax.reporting.study import load_study


def results(folder, **arguments) -> Results:
    return measure(load_study(write_study(folder, **arguments)))


def rewrite(folder, change) -> None:
    """Changes every record in place."""
    for path in folder.glob("groups/*/*/records.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            change(line)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def accuracies(folder, prefix: str) -> dict[int, float]:
    runs = [run for run in load_study(folder).runs if run.id.startswith(prefix)]
    return {run.seed: run.records[-1]["test"]["accuracy"] for run in runs}


def test_a_cell_is_the_mean_over_the_seeds_of_the_last_epoch(tmp_path):
    found = results(tmp_path, seeds=4)
    assert found.methods == ("CE", "GCE", "SCE")
    rates = [column.conditions["corruption.rate"] for column in found.columns]
    assert rates == [0.0, 0.4, 0.8]
    cell = found.cells["GCE"][1]
    values = accuracies(tmp_path, "GCE-0.4-")
    assert cell.summary == statistics.summarise(list(values.values()))
    assert cell.summary.mean == pytest.approx(np.mean(list(values.values())), rel=1e-12)
    assert (cell.summary.n, cell.runs, cell.diverged, cell.unfinished) == (4, 4, 0, 0)
    assert (cell.published, cell.difference) == (None, None)


def test_the_epoch_of_the_best_validation_accuracy_may_be_reported(tmp_path):
    last = results(tmp_path / "last")
    best = results(tmp_path / "best", report={"epoch": "validation"})
    assert best.cells["CE"][0] == last.cells["CE"][0]  # without noise they are the same
    assert best.cells["CE"][1].summary.mean > last.cells["CE"][1].summary.mean


def test_bold_is_what_the_test_says(tmp_path):
    found = results(tmp_path, seeds=4)
    for i, rate in enumerate(("0.0", "0.4", "0.8")):
        column = {m: accuracies(tmp_path, f"{m}-{rate}-") for m in found.methods}
        compared = statistics.compare(column)
        cells = [found.cells[method][i] for method in found.methods]
        assert {cell.method for cell in cells if cell.bold} == compared.not_worse
        p_values = {cell.method: cell.p_value for cell in cells if cell.p_value is not None}
        assert p_values == compared.p_values
    assert [cell.bold for cell in (row[2] for row in found.cells.values())] == [True, False, False]


def test_cells_with_diverged_runs_are_never_the_best(tmp_path):
    # CE is the best at 0.8 by far.
    found = results(tmp_path, diverged=("CE-0.8-1", "SCE-0.8-0", "SCE-0.8-1", "SCE-0.8-2"))
    ce, gce, sce = (found.cells[method][2] for method in found.methods)
    rest = accuracies(write_study(tmp_path / "whole"), "CE-0.8-")
    assert ce.summary.mean == pytest.approx((rest[0] + rest[2]) / 2, rel=1e-12)
    assert (ce.summary.n, ce.runs, ce.diverged, ce.unfinished) == (2, 3, 1, 0)
    assert ce.summary.mean > gce.summary.mean
    assert (ce.bold, gce.bold, sce.bold) == (False, True, False)
    assert (ce.rank, gce.rank, sce.rank) == (2, 1, 3)
    assert (sce.summary, sce.diverged) == (None, 3)


def test_unfinished_runs_are_counted_and_leave_ranks_to_what_is_there(tmp_path):
    late = tuple(f"SCE-0.4-{seed}" for seed in range(3))
    found = results(tmp_path, unfinished=("GCE-0.0-1", *late))
    cell = found.cells["GCE"][0]
    assert (cell.summary.n, cell.runs, cell.unfinished) == (2, 3, 1)
    absent = found.cells["SCE"][1]
    assert (absent.summary, absent.rank, absent.unfinished) == (None, None, 3)
    # Methods are ranked over the conditions in which all of them are.
    assert found.ranking.conditions == 2


def test_ranks_are_averaged_over_conditions(tmp_path):
    found = results(tmp_path)
    ranks = np.asarray([[cell.rank for cell in row] for row in found.cells.values()])
    np.testing.assert_array_equal(ranks.sum(axis=0), [6, 6, 6])
    np.testing.assert_allclose(list(found.ranking.average.values()), ranks.mean(axis=1))
    assert found.ranking.friedman == statistics.friedman(ranks.T)
    assert found.ranking.critical_difference == statistics.critical_difference(3, 3)
    means = [found.cells[method][2].summary.mean for method in found.methods]
    assert [int(rank) for rank in ranks[:, 2]] == [1 + sum(m > x for m in means) for x in means]


def test_one_method_or_one_condition_is_not_ranked(tmp_path):
    assert results(tmp_path / "a", methods=("CE",)).ranking is None
    assert results(tmp_path / "b", conditions={}).ranking is None


def test_of_a_loss_the_least_is_the_best(tmp_path):
    # Their negative log-likelihood is 1 - accuracy.
    report = {"metrics": ["test.accuracy", "test.nll"]}
    found = results(tmp_path, report=report, seeds=4)
    assert [column.metric for column in found.columns][:2] == report["metrics"]
    for row in found.cells.values():
        for accuracy, nll in zip(row[::2], row[1::2], strict=True):
            assert (accuracy.bold, accuracy.rank) == (nll.bold, nll.rank)
    accuracy, nll = (found.rankings[metric] for metric in report["metrics"])
    assert accuracy.average == nll.average
    assert found.ranking is accuracy


def test_equal_values_are_equally_good(tmp_path):
    write_study(tmp_path)
    rewrite(tmp_path, lambda record: record["test"].update(accuracy=0.5))
    found = measure(load_study(tmp_path))
    for row in found.cells.values():
        assert all((cell.bold, cell.rank, cell.summary.sd) == (True, 2.0, 0.0) for cell in row)
    assert found.ranking.friedman == (0.0, 1.0)


def test_values_that_are_not_finite_count_as_diverged(tmp_path):
    write_study(tmp_path, report={"metrics": ["test.nll"]})

    def spoil(record):
        if record["run"] == "CE-0.8-0":
            record["test"]["nll"] = "Infinity"

    rewrite(tmp_path, spoil)
    cell = measure(load_study(tmp_path)).cells["CE"][2]
    assert (cell.summary.n, cell.diverged, cell.bold, cell.rank) == (2, 1, False, 3)
    assert math.isfinite(cell.summary.mean)


def test_an_accuracy_over_no_examples_is_no_run_that_diverged(tmp_path):
    write_study(tmp_path, report={"metrics": ["test.accuracy", "test.medium_accuracy"]})

    def without(record):
        there = record["run"].split("-")[1] != "0.8"
        record["test"]["medium_accuracy"] = 0.5 if there else "NaN"

    rewrite(tmp_path, without)
    found = measure(load_study(tmp_path))
    medium = [c.conditions["corruption.rate"] for c in found.columns if "medium" in c.metric]
    assert medium == [0.0, 0.4]
    assert not any(cell.diverged for row in found.cells.values() for cell in row)


def test_columns_that_can_have_no_value_are_left_out(tmp_path):
    found = results(tmp_path, report={"metrics": ["test.accuracy", "wrong_labels.memorised"]})
    told = [(c.conditions["corruption.rate"], c.metric.split(".")[1]) for c in found.columns]
    assert told == [
        (0.0, "accuracy"),
        *((rate, name) for rate in (0.4, 0.8) for name in ("accuracy", "memorised")),
    ]
    assert all(isinstance(cell, Cell) for row in found.cells.values() for cell in row)
    assert {len(row) for row in found.cells.values()} == {5}


def test_published_numbers_stand_beside_ours(tmp_path):
    found = results(tmp_path, report={"published": "cifar10_n3"})
    cell = found.cells["GCE"][1]
    assert cell.published == pytest.approx(0.8224)
    assert cell.difference == pytest.approx(cell.summary.mean - 0.8224)
    assert results(tmp_path / "none").published is None


def test_what_the_config_gets_wrong_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no record holds 'test.acuracy' \(did you mean 'test.acc"):
        results(tmp_path / "a", report={"metrics": ["test.acuracy"]})
    with pytest.raises(UserError, match=r"published='mnist' is not known.*mnist_n1"):
        results(tmp_path / "b", report={"published": "mnist"})


def test_a_sweep_that_only_began_has_no_numbers(tmp_path):
    write_study(tmp_path)
    for path in tmp_path.glob("groups/*/*/records.jsonl"):
        path.unlink()
    found = measure(load_study(tmp_path))
    cells = [cell for row in found.cells.values() for cell in row]
    assert len(cells) == 9
    assert all(cell.summary is None and cell.unfinished == 3 for cell in cells)
    assert not any(cell.bold for cell in cells)
    assert found.ranking is None
