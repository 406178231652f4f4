"""The pictures of a study, each drawn where the records hold what it shows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

from xent_jax.reporting.pictures import classes, curves
from xent_jax.reporting.pictures.ranks import average_ranks
from xent_jax.reporting.pictures.repeats import Repeats, repeats_of
from xent_jax.reporting.pictures.style import SMALL, Drawing, Mark, marks_of
from xent_jax.reporting.results import Results
from xent_jax.reporting.study import Study


class Picture(NamedTuple):
    """A picture on the disk, as PNG and as PDF."""

    png: Path
    title: str
    caption: str
    inches: float  # how wide it is printed

    @property
    def pdf(self) -> Path:
        """Where it lies as PDF."""
        return self.png.with_suffix(".pdf")


def draw_study(study: Study, results: Results, folder: Path) -> list[Picture]:
    """Draws all that the records of `study` hold, into `folder`, and returns the pictures.

    `results` are the study's, whose ranking is drawn if there is one.

    Runs that diverged or are unfinished are left out. The same records give the same files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = repeats_of(study)
    # The config's first, and those that it named once and whose runs are there still.
    labels = [method["label"] for method in study.config["methods"]]
    marks = marks_of([*dict.fromkeys([*labels, *results.methods])])
    with matplotlib.rc_context(SMALL):
        metric = study.config["report"]["metrics"][0]
        drawings = _drawings(metric, cells, marks) if cells else ()
        pictures = [_write(drawing, folder) for drawing in drawings]
        if results.ranking and len(results.methods) > 2:
            pictures.insert(1, _write(average_ranks(results.ranking), folder))
    return pictures


def _drawings(
    metric: str, cells: Sequence[Repeats], marks: Mapping[str, Mark]
) -> Iterator[Drawing]:
    yield from curves.against_condition(cells, marks, metric)
    yield from curves.against_shots(cells, marks)
    yield from curves.over_epochs(cells, marks)
    yield from classes.class_groups(cells, marks)
    yield from classes.class_recall(cells)
    yield from classes.reliability(cells)
    yield from classes.embeddings(cells)


def _write(drawing: Drawing, folder: Path) -> Picture:
    path = folder / f"{drawing.name}.png"
    if drawing.figure.get_layout_engine() is not None:
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")  # which would lay it out again for each file
    drawing.figure.savefig(path, metadata={"Software": None})
    # Without the date the same records give the same file.
    drawing.figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    return Picture(path, drawing.title, drawing.caption, drawing.figure.get_figwidth())
