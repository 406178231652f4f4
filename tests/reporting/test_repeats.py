"""What is drawn of a study: each method under each condition once."""

from tests.reporting.study_records import write_study
from xent_jax.reporting.pictures.repeats import repeats_of
from xent_jax.reporting.study import load_study


def test_seeds_that_were_added_later_are_drawn_with_the_others(tmp_path):
    study = load_study(write_study(tmp_path, seeds=3))
    cells = repeats_of(study)
    grown = repeats_of(study._replace(runs=tuple(sorted(study.runs, key=lambda run: run.seed))))
    assert len(cells) == 9
    assert grown == cells
    assert all([run.seed for run in cell.runs] == [0, 1, 2] for cell in grown)
