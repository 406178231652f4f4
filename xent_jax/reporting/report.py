"""A report: tables, pictures and the page of one study or of several, from records alone."""

import os
from collections.abc import Sequence
from pathlib import Path

from xent_jax.errors import UserError
from xent_jax.reporting import findings, page, results, tables, typesetting
from xent_jax.reporting.pictures import draw_study
from xent_jax.reporting.study import Study, load_study

Folder = str | os.PathLike[str]


def write_report(workdirs: Sequence[Folder], output: Folder | None = None) -> Path:
    """Writes `report.html`, and each study's tables and pictures; returns the page's path.

    Written again it replaces itself. The sweeps need not have ended.

    Args:
      workdirs: a sweep's folder, or several, which share one page.
      output: where to write (default: `report` in the sweep's folder, or beside the first's of
        several).

    Raises:
      UserError: a folder that is no sweep's or is damaged, or a report that asks for what the
        records lack.
    """
    folders = folders_of(workdirs, output)
    sections = [_section(load_study(workdir), folder) for workdir, folder in folders.items()]
    path = _root(workdirs, output) / "report.html"
    path.write_text(page.render(sections), encoding="utf-8")
    return path


def folders_of(workdirs: Sequence[Folder], output: Folder | None = None) -> dict[Path, Path]:
    """Returns where the `tables` and `pictures` of each workdir go: a folder each of several.

    Raises:
      UserError: there is no workdir, or two have one name.
    """
    paths, root = [Path(workdir) for workdir in workdirs], _root(workdirs, output)
    if len(paths) == 1:
        return {paths[0]: root}
    names = [path.absolute().name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--workdir names {name!r} twice; name or rename each once")
    return {path: root / name for path, name in zip(paths, names, strict=True)}


def _root(workdirs: Sequence[Folder], output: Folder | None) -> Path:
    if not workdirs:
        raise UserError("no sweep is named; try --workdir=runs/noisy_labels")
    if output is not None:
        return Path(output)
    first = Path(workdirs[0])
    return (first if len(workdirs) == 1 else first.parent) / "report"


def _section(study: Study, folder: Path) -> page.Section:
    """Writes a study's tables and pictures, and returns what the page shows of it."""
    found = results.measure(study)
    made = tables.make_tables(study)
    for table in made:
        typesetting.write(table, folder / "tables")
    pictures = draw_study(study, found, folder / "pictures")
    return page.Section(study, findings.describe(study, found), made, pictures)
