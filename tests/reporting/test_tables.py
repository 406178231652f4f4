"""Tables say what the records hold, and their captions what the numbers are."""

import csv
import io

import pytest

from tests.reporting.study_records import write_study
from xent_jax.reporting.published import PUBLISHED
from xent_jax.reporting.results import measure
from xent_jax.reporting.study import Study, load_study
from xent_jax.reporting.tables import make_tables
from xent_jax.reporting.typesetting import Table, comma_separated, markdown

N1 = {
    "methods": ("CE", "CE + clipping", "Linear", "GCE", "PHuber-CE", "PHuber-GCE"),
    "conditions": {"corruption.rate": (0.0, 0.2, 0.4, 0.6)},
    "report": {"published": "mnist_n1", "title": "MNIST with wrong labels"},
    "seeds": 5,
}


def study(folder, **arguments) -> Study:
    return load_study(write_study(folder, **arguments))


def texts(table: Table) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Returns each row's other cells by those that hold words."""
    rows = [[cell.text for cell in row] for row in table.rows]
    return {tuple(row[: table.labels]): tuple(row[table.labels :]) for row in rows}


def test_a_whole_published_table_is_compared_cell_by_cell(tmp_path):
    loaded = study(tmp_path, **N1)
    results, compared = make_tables(loaded)
    cells = measure(loaded).cells
    assert results.title == "MNIST with wrong labels"
    rates = tuple(f"noise rate {rate}" for rate in ("0", "0.2", "0.4", "0.6"))
    assert results.header == ("method", *rates, "average rank")
    assert compared.header == ("method", "", *rates)
    rows = texts(compared)
    assert len(rows) == 3 * 6
    printed = {
        (r.method, r.conditions["corruption.rate"]): r for r in PUBLISHED["mnist_n1"].results
    }
    for method in N1["methods"]:
        for i, rate in enumerate(N1["conditions"]["corruption.rate"]):
            summary = cells[method][i].summary
            ours = f"{100 * summary.mean:.2f} ± {100 * summary.sd:.2f}"
            theirs = printed[method, rate].percent
            assert texts(results)[(method,)][i] == rows[method, "ours"][i] == ours
            assert rows[method, "published"][i] == f"{theirs:.1f}"
            difference = rows[method, "difference"][i].replace("−", "-")
            assert float(difference) == pytest.approx(100 * summary.mean - theirs, abs=0.0051)
    assert len(compared.records) == 24
    assert all(record["difference"] < 0 for record in compared.records)
    assert "https://github.com/dmizr/phuber" in compared.caption
    assert "LeNet-5" in compared.caption


def test_differences_have_their_sign(tmp_path):
    # Of noise at 0.8 the paper's cross-entropy reaches 18.95 %.
    loaded = study(tmp_path, report={"published": "cifar10_n3"}, methods=("CE", "GCE", "own"))
    rows = texts(make_tables(loaded)[1])
    assert rows["CE", "difference"][2].startswith("+")
    assert rows["GCE", "difference"][0][0] in "+−"
    assert ("own", "ours") not in rows


def test_the_caption_says_what_the_numbers_are(tmp_path):
    (table,) = make_tables(study(tmp_path))
    for told in (
        "Test accuracy in percent: mean ± standard deviation over 3 seeds, at the last epoch.",
        "The 95% interval of a mean is ± 2.48 standard deviations.",  # 4.303 / sqrt(3)
        "two-sided paired t-test against the best over the seeds, Holm-corrected within the column",
        "Average rank: over 3 conditions, 1 being the best (Friedman's test: p = ",
        "ranks that differ by less than 1.91 do not differ significantly (Nemenyi, 5%).",
    ):
        assert told in table.caption, told
    for untold in ("diverge", "not ended", "Less is better"):
        assert untold not in table.caption


def test_the_epoch_of_the_best_validation_accuracy_is_said(tmp_path):
    (table,) = make_tables(study(tmp_path, report={"epoch": "validation"}))
    assert "at the epoch of the best validation accuracy." in table.caption


def test_one_seed_has_no_deviation_and_one_bold_cell_per_column(tmp_path):
    (table,) = make_tables(study(tmp_path, seeds=1))
    assert "Test accuracy in percent: one seed" in table.caption
    assert "one seed can tell neither deviations nor significance" in table.caption
    assert "±" not in markdown(table)
    for column in range(1, 4):
        assert sum(row[column].bold for row in table.rows) == 1


def test_where_all_is_bold_it_is_said_that_nothing_differs(tmp_path):
    (few,) = make_tables(study(tmp_path / "a", conditions={}, seeds=2))
    assert all(row[1].bold for row in few.rows)
    assert "With 2 seeds no difference is significant." in few.caption
    (more,) = make_tables(study(tmp_path / "b"))
    assert "no difference" not in more.caption


def test_diverged_and_unfinished_runs_are_named_in_their_cells(tmp_path):
    loaded = study(
        tmp_path,
        diverged=("CE-0.4-1", *(f"SCE-0.8-{seed}" for seed in range(3))),
        unfinished=("GCE-0.0-0", *(f"GCE-0.4-{seed}" for seed in range(3))),
    )
    (table,) = make_tables(loaded)
    rows = texts(table)
    assert rows[("CE",)][1].endswith(" (1 of 3 diverged)")
    assert rows[("SCE",)][2] == "3 of 3 diverged"
    assert rows[("GCE",)][0].endswith(" (1 of 3 unfinished)")
    assert rows[("GCE",)][1] == "3 of 3 unfinished"
    assert not table.rows[0][2].bold
    assert "Means are of the runs that did not diverge" in table.caption
    assert "The sweep has not ended" in table.caption
    record = next(r for r in table.records if (r["method"], r["corruption.rate"]) == ("CE", 0.4))
    assert (record["n"], record["runs"], record["diverged"]) == (2, 3, 1)


def test_several_metrics_of_several_conditions_are_tables_of_their_own(tmp_path):
    metrics = ["test.accuracy", "test.nll", "wrong_labels.memorised"]
    first, second, third = make_tables(study(tmp_path, report={"metrics": metrics}))
    names = [table.name for table in (first, second, third)]
    assert names == ["results", "results_test_nll", "results_wrong_labels_memorised"]
    assert "Less is better." in second.caption
    assert second.title.endswith(": test negative log-likelihood")
    # Their deviations are alike, in percent and not.
    assert texts(first)[("CE",)][0].split(" ± ")[1] == "0.09"
    assert texts(second)[("CE",)][0].split(" ± ")[1] == "0.001"
    assert third.header[1:3] == ("noise rate 0.4", "noise rate 0.8")  # at 0 no label is wrong


def test_several_metrics_of_one_condition_are_columns(tmp_path):
    (table,) = make_tables(study(tmp_path, conditions={}, few_shot=True))
    assert table.header == ("method", "1-shot accuracy", "5-shot accuracy")
    metrics = ["test.accuracy", "test.nll"]
    (table,) = make_tables(study(tmp_path / "b", conditions={}, report={"metrics": metrics}))
    assert table.header == ("method", "test accuracy", "test negative log-likelihood ↓")
    assert "↓: less is better." in table.caption


def test_what_validation_chose_is_a_table(tmp_path):
    tuned = {"loss.q": (0.3, 0.5, 0.7), "optimizer.learning_rate": (0.1, 0.01, 0.001)}
    loaded = study(tmp_path, tuned=tuned)
    *_, table = make_tables(loaded)
    assert table.name == "chosen"
    assert texts(table)[("GCE",)] == ("q 0.5, learning rate 0.01",) * 3
    assert (
        "Tried for CE, GCE, SCE: q 0.3, 0.5, 0.7; learning rate 0.1, 0.01, 0.001." in table.caption
    )
    assert "the test set chose nothing" in table.caption
    record = table.records[0]
    assert (record["loss.q"], record["optimizer.learning_rate"], record["n"]) == (0.5, 0.01, 3)
    runs = [run for run in loaded.runs if run.id.startswith("CE-0.0-0.5-0.01-")]
    accuracies = [run.records[-1]["validation"]["accuracy"] for run in runs]
    assert record["validation.accuracy"] == pytest.approx(sum(accuracies) / 3, rel=1e-12)


def test_numbers_quoted_from_memory_or_from_elsewhere_are_marked(tmp_path):
    *_, recalled = make_tables(study(tmp_path / "a", report={"published": "mnist_n2"}))
    assert "quoted from memory and not yet confirmed" in recalled.caption
    where = {"imbalance.name": ("long_tail",), "imbalance.ratio": (100,)}
    report = {"published": "cifar10_lt100"}
    imbalanced = study(tmp_path / "b", methods=("ERM", "CDT"), conditions=where, report=report)
    *_, table = make_tables(imbalanced)
    assert "from memory" not in table.caption
    assert texts(table)["CDT", "published"] == ("79.55†",)
    assert texts(table)["ERM", "published"] == ("70.36",)
    assert "† CDT: Kini et al. 2021" in table.caption


def test_a_protocol_that_nothing_matches_is_said(tmp_path):
    (table,) = make_tables(study(tmp_path, report={"published": "omniglot"}))
    assert "reports nothing of these methods and conditions" in table.caption


def test_the_csv_holds_a_cell_per_line_in_full_precision(tmp_path):
    loaded = study(tmp_path, **N1)
    lines = list(csv.DictReader(io.StringIO(comma_separated(make_tables(loaded)[0]))))
    cells = [cell for row in measure(loaded).cells.values() for cell in row]
    assert len(lines) == len(cells) == 24
    for line, cell in zip(lines, cells, strict=True):
        assert line["method"] == cell.method
        assert float(line["corruption.rate"]) == cell.column.conditions["corruption.rate"]
        assert line["metric"] == "test.accuracy"
        for name in ("mean", "sd", "low", "high"):
            assert float(line[name]) == getattr(cell.summary, name)
        assert int(line["n"]) == 5
        assert float(line["rank"]) == cell.rank
        assert line["bold"] == str(cell.bold)
        assert float(line["published"]) == cell.published
        assert float(line["difference"]) == cell.difference
