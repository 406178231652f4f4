"""A sweep's folder is read whole, and validation alone chooses what is reported."""

import json

import pytest

from tests.reporting.study_records import write_study
from xent_jax.errors import UserError
from xent_jax.reporting.study import StudyRun, chosen, load_study, reported_record, value


def run(*records: dict, epochs: int = 3) -> StudyRun:
    return StudyRun("a", "CE", {}, {}, 0, {"epochs": epochs}, "", records)


def record(epoch: int, validation: float, test: float = 0.5) -> dict:
    accuracies = {"test": {"accuracy": test}, "validation": {"accuracy": validation}}
    return {"run": "a", "epoch": epoch, **accuracies}


def records_files(folder):
    return sorted(folder.glob("groups/*/*/records.jsonl"))


def test_runs_come_in_the_grids_order_with_their_records_by_epoch(tmp_path):
    study = load_study(write_study(tmp_path, seeds=2, epochs=3))
    ids = ["CE-0.0-0", "CE-0.0-1", "CE-0.4-0", "CE-0.4-1", "CE-0.8-0", "CE-0.8-1", "GCE-0.0-0"]
    assert [run.id for run in study.runs][:7] == ids
    third = study.runs[2]
    assert (third.method, third.conditions, third.seed) == ("CE", {"corruption.rate": 0.4}, 0)
    assert third.command.endswith("--only=id=CE-0.4-0")
    assert all([r["epoch"] for r in run.records] == [1, 2, 3] for run in study.runs)
    assert all(r["run"] == run.id for run in study.runs for r in run.records)
    assert study.config["report"]["epoch"] == "last"


def test_lines_written_twice_or_out_of_order_count_once(tmp_path):
    write_study(tmp_path)
    before = load_study(tmp_path)
    first, second = records_files(tmp_path)
    lines = second.read_text().splitlines(keepends=True)
    again = tmp_path / "groups" / "mlp" / "2" / "records.jsonl"
    again.parent.mkdir()
    again.write_text("".join(lines[:7]))  # a chunk that was begun anew elsewhere
    second.write_text("".join(reversed(lines)))
    first.write_text(first.read_text() + '{"run": "CE-0.0-0", "epo')  # cut off by a crash
    assert load_study(tmp_path) == before


def test_a_run_is_finished_diverged_or_unfinished(tmp_path):
    folder = write_study(tmp_path, diverged=("CE-0.4-1",), unfinished=("GCE-0.0-2",))
    status = {run.id: run.status for run in load_study(folder).runs}
    assert {k: v for k, v in status.items() if v != "finished"} == {
        "CE-0.4-1": "diverged",
        "GCE-0.0-2": "unfinished",
    }
    assert run().status == "unfinished"


def test_a_folder_that_is_no_sweeps_is_told(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*absent; name one"):
        load_study(tmp_path / "absent")
    with pytest.raises(UserError, match=r"is no sweep's folder: it holds no runs.json"):
        load_study(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"config": {}, "runs": [{"id": "a"}]}', '{"runs": []}']
)
def test_a_damaged_list_of_runs_is_told(tmp_path, text):
    (tmp_path / "runs.json").write_text(text)
    with pytest.raises(UserError, match=r"runs.json is damaged \(.*writes it anew$"):
        load_study(tmp_path)


def test_a_run_without_a_length_is_told(tmp_path):
    path = write_study(tmp_path) / "runs.json"
    listed = json.loads(path.read_text())
    del listed["runs"][3]["config"]["epochs"]
    path.write_text(json.dumps(listed))
    with pytest.raises(UserError, match=r"runs.json is damaged .*epochs"):
        load_study(tmp_path)


def test_damaged_and_foreign_records_are_told(tmp_path):
    path = records_files(write_study(tmp_path))[0]
    whole = path.read_text()
    path.write_text(whole + '{"run": "other", "epoch": 1}\n')
    with pytest.raises(UserError, match="a line of run 'other', epoch 1, which is none of"):
        load_study(tmp_path)
    path.write_text(whole + "{oops}\n")
    with pytest.raises(UserError, match="is damaged"):
        load_study(tmp_path)


def test_a_value_is_found_by_its_path():
    told = {"shots": {"1": {"accuracy": 0.75}}, "test": None, "epoch": 3}
    assert value(told, "shots.1.accuracy") == 0.75
    assert value(told, "epoch") == 3
    for path in ("shots.5.accuracy", "test.accuracy", "epoch.accuracy", "none"):
        assert value(told, path) is None


def test_the_epoch_reported_is_the_last_or_the_first_best_by_validation():
    # By the test set the first epoch would be the best.
    records = [record(1, 0.6, test=0.9), record(2, 0.8), record(3, 0.8), record(4, 0.7)]
    assert reported_record(run(*records, epochs=4), "last") == records[3]
    assert reported_record(run(*records, epochs=4), "validation") == records[1]
    assert reported_record(run(*records, epochs=5), "validation") is None
    end = {"run": "a", "epoch": 5, "diverged": True}
    assert reported_record(run(*records, end, epochs=5), "last") is None


def test_without_validation_no_epoch_can_be_chosen():
    alone = run({"run": "a", "epoch": 3, "test": {"accuracy": 0.9}})
    assert reported_record(alone, "last") is alone.records[-1]
    with pytest.raises(UserError, match=r"nothing was validated.*validation_examples"):
        reported_record(alone, "validation")
    with pytest.raises(UserError, match="epoch='best' must be 'last' or 'validation'"):
        reported_record(alone, "best")


def test_tuned_values_are_chosen_by_validation_for_each_method_and_condition(tmp_path):
    write_study(tmp_path, tuned={"loss.q": (0.3, 0.5, 0.7)}, seeds=2)
    for path in records_files(tmp_path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            # The test set would always take 0.7, and validation takes 0.3 in one cell.
            line["test"]["accuracy"] = 0.99 if "-0.7-" in line["run"] else 0.1
            if line["run"].startswith("GCE-0.4-0.3-"):
                line["validation"]["accuracy"] = 0.999
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = chosen(load_study(tmp_path))
    assert len(kept) == 3 * 3 * 2
    assert {r.tuned["loss.q"] for r in kept if r.id.startswith("GCE-0.4-")} == {0.3}
    assert {r.tuned["loss.q"] for r in kept if not r.id.startswith("GCE-0.4-")} == {0.5}


def test_choices_that_diverged_or_are_behind_lose(tmp_path):
    write_study(
        tmp_path,
        tuned={"loss.q": (0.3, 0.5, 0.7)},
        diverged=("CE-0.0-0.5-1",),
        unfinished=("CE-0.4-0.5-0",),
    )
    q = {
        (r.method, r.conditions["corruption.rate"]): r.tuned["loss.q"]
        for r in chosen(load_study(tmp_path))
    }
    assert q["CE", 0.0] != 0.5
    assert q["CE", 0.4] != 0.5
    assert q["CE", 0.8] == q["GCE", 0.0] == 0.5


def test_the_first_of_equal_choices_is_taken(tmp_path):
    write_study(tmp_path, methods=("CE",), conditions={}, tuned={"loss.q": (0.7, 0.5)}, seeds=1)
    for path in records_files(tmp_path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        told = [line | {"validation": {"accuracy": 0.5}} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in told))
    assert [r.tuned for r in chosen(load_study(tmp_path))] == [{"loss.q": 0.7}]


def test_choosing_needs_validation_only_where_there_is_a_choice(tmp_path):
    one = load_study(write_study(tmp_path / "one", tuned={"loss.q": (0.5,)}, validated=False))
    assert chosen(one) == one.runs
    two = write_study(tmp_path / "two", tuned={"loss.q": (0.3, 0.5)}, validated=False)
    with pytest.raises(UserError, match="nothing was validated"):
        chosen(load_study(two))
    for path in records_files(two):
        path.unlink()
    assert {r.tuned["loss.q"] for r in chosen(load_study(two))} == {0.3}  # nothing ran yet


def test_a_study_of_balanced_accuracy_is_judged_by_it(tmp_path):
    write_study(tmp_path, report={"metrics": ("test.balanced_accuracy",)})
    assert {run.judge for run in load_study(tmp_path).runs} == {"balanced_accuracy"}
    rare = {"accuracy": 0.9, "balanced_accuracy": 0.2}
    even = {"accuracy": 0.5, "balanced_accuracy": 0.5}
    records = tuple({"epoch": epoch, "validation": v} for epoch, v in ((1, rare), (2, even)))
    judged = load_study(tmp_path).runs[0]._replace(records=records, config={"epochs": 2})
    assert reported_record(judged, "validation") == records[1]
    assert reported_record(judged._replace(judge="accuracy"), "validation") == records[0]
