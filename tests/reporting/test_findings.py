"""The sentences of a summary say what the records say, and how sure it is."""

import re

import pytest

from tests.reporting import study_records
from xent_jax.reporting import findings, results
from xent_jax.reporting.study import load_study


@pytest.fixture
def describe(tmp_path):
    def described(**study) -> list[str]:
        loaded = load_study(study_records.write_study(tmp_path / "study", **study))
        return findings.describe(loaded, results.measure(loaded))

    return described


def told_number(found: results.Results, method: str, column: int) -> str:
    summary = found.cells[method][column].summary
    assert summary is not None
    assert summary.sd is not None
    return f"{100 * summary.mean:.2f}% ± {100 * summary.sd:.2f}"


def test_a_finished_study_is_told_in_sentences(tmp_path):
    study = load_study(study_records.write_study(tmp_path))
    found = results.measure(study)
    # As the study's maker has it: alike without noise, and far apart with much of it.
    assert [[row[i].bold for row in found.cells.values()] for i in (0, 2)] == [
        [True, True, True],
        [True, False, False],
    ]
    assert max(row[2].p_value or 0.0 for row in found.cells.values()) < 0.001
    worst = max(row[1].p_value or 0.0 for row in found.cells.values())
    sentences = findings.describe(study, found)
    assert sentences[:2] == [
        "3 methods (CE, GCE, SCE); noise rate 0, 0.4 and 0.8; dataset digits; model mlp; "
        "3 seeds each: 27 runs.",
        f"With noise rate 0, GCE has the best test accuracy, {told_number(found, 'GCE', 0)}; "
        "none of the others is significantly worse.",
    ]
    assert sentences[2:] == [
        f"With noise rate 0.4, CE has the best test accuracy, {told_number(found, 'CE', 1)}, "
        f"significantly better than the others (p ≤ {worst:.2g}).",
        f"With noise rate 0.8, CE has the best test accuracy, {told_number(found, 'CE', 2)}, "
        "significantly better than the others (p < 0.001).",
        "Over all 3 conditions CE ranks best, 1.67 on average; not told apart from it: GCE and SCE "
        "(Nemenyi, 5%).",
        "All numbers are of the last epoch. Test data chose nothing.",
        "Trained on 1 × cpu in 54 s.",
    ]


def test_methods_that_are_not_told_apart_from_the_best_are_named(describe):
    told = describe(unfinished=("GCE-0.4-1",))  # Two pairs are too few to tell.
    (best,) = (sentence for sentence in told if sentence.startswith("With noise rate 0.4"))
    assert best.endswith("; not significantly worse: GCE.")


def test_conditions_that_are_no_product_are_listed(tmp_path):
    study = load_study(
        study_records.write_study(
            tmp_path,
            methods=("CE",),
            conditions={"corruption.name": ("pair", "uniform"), "corruption.rate": (0.2, 0.4)},
        )
    )
    told = findings.describe(study, results.measure(study))
    assert "(CE); noise pair and uniform; noise rate 0.2 and 0.4; dataset" in told[0]
    fewer = study._replace(runs=study.runs[:9])
    told = findings.describe(fewer, results.measure(fewer))
    assert "3 conditions (pair noise 0.2 / pair noise 0.4 / uniform noise 0.2); dataset" in told[0]


def test_what_is_missing_and_what_diverged_is_counted(describe):
    told = describe(
        diverged=("SCE-0.8-0", "SCE-0.8-1", "GCE-0.4-0"), unfinished=("CE-0.0-0", "CE-0.0-1")
    )
    assert told[1].startswith("The sweep has not ended: 2 of 27 runs are missing")
    assert "Diverged: GCE at noise rate 0.4 (1 run); SCE at noise rate 0.8 (2 runs)." in told


def test_where_all_diverge_none_is_best(describe):
    told = describe(methods=("CE",), seeds=1, diverged=("CE-0.8-0",))
    assert "With noise rate 0.8, no method has come to its end without diverging." in told
    assert re.fullmatch(r"With noise rate 0, CE has the best test accuracy, \d\d\.\d\d%\.", told[1])


def test_one_seed_cannot_be_sure(describe):
    told = describe(conditions={}, seeds=1)
    assert any(
        sentence.startswith("Of all methods GCE has")
        and sentence.endswith("; one seed cannot tell how sure that is.")
        for sentence in told
    ), told
    assert told[0].endswith("; 1 seed each: 3 runs.")


def test_less_is_better_of_a_loss_and_it_has_no_percent(tmp_path):
    study = load_study(study_records.write_study(tmp_path, report={"metrics": ["test.nll"]}))
    found = results.measure(study)
    means = {method: row[0].summary.mean for method, row in found.cells.items() if row[0].summary}
    assert all(row[0].bold for row in found.cells.values())
    best = min(means, key=means.__getitem__)
    told = findings.describe(study, found)[1]
    start = f"With noise rate 0, {best} has the best test negative log-likelihood, "
    assert told.startswith(f"{start}{means[best]:.3f} ± 0.00")
    assert "%" not in told


def test_what_validation_chose_is_said(describe):
    told = describe(
        methods=("CE",),
        conditions={},
        tuned={"optimizer.learning_rate": (0.1, 0.2, 0.3)},
        report={"epoch": "validation"},
    )
    assert (
        "All numbers are of the epoch with the best validation accuracy. Validation accuracy chose "
        "learning rate; test data chose nothing."
    ) in told


def test_nothing_measured_is_nothing_claimed(describe):
    ids = [f"{method}--{seed}" for method in ("CE", "GCE") for seed in (0, 1)]
    ids = [text.replace("--", "-") for text in ids]
    told = describe(methods=("CE", "GCE"), conditions={}, seeds=2, epochs=1, unfinished=ids)
    assert told[1].startswith("The sweep has not ended: 4 of 4 runs are missing")
    assert not any("best" in sentence or "Trained" in sentence for sentence in told)


@pytest.mark.parametrize(("seconds", "told"), [(0.25, "0.25 s"), (300, "5 min"), (9000, "2.5 h")])
def test_durations_have_the_unit_that_suits_them(seconds, told):
    assert findings._duration(float(seconds)) == told
