"""A report as one page that needs nothing else: no network, no library, no other file.

Its style and its script are `page.css` and `page.js`, its pictures stand in it as data. A policy
in its head forbids all else, so that even a text that was not escaped could neither run nor load.
"""

import base64
import functools
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xent_jax.reporting import findings
from xent_jax.reporting.html import Html, join, tag
from xent_jax.reporting.names import condition_name, is_share, metric_name
from xent_jax.reporting.pictures import Picture
from xent_jax.reporting.pictures.style import COLUMN, DOTS_PER_INCH, FULL
from xent_jax.reporting.study import Study, StudyRun, reported_record, value
from xent_jax.reporting.typesetting import Table, Text

# What a cell is sorted by: the number it begins with, but not that of '2 of 3 diverged'.
_NUMBER = re.compile(r"[+−-]?\d+(\.\d+)?(?=$|†| [±(])")
_WIDTHS = {COLUMN: None, FULL: "wide"}


class Section(NamedTuple):
    """What the page shows of one study."""

    study: Study
    summary: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[Picture]


def render(sections: Sequence[Section]) -> str:
    """Returns the page: a contents list, and a section per study."""
    titles = [_title(section.study) for section in sections]
    title = titles[0] if len(titles) == 1 else f"{len(titles)} studies of losses"
    alone = len(sections) == 1
    parts = (_section(i, section, alone=alone) for i, section in enumerate(sections, start=1))
    style, script = (_source(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), _contents(sections, titles)),
        tag("main", *parts),
        tag("script", Html(script)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


@functools.cache
def _source(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _title(study: Study) -> str:
    return study.config["report"]["title"] or study.folder.name


def _contents(sections: Sequence[Section], titles: Sequence[str]) -> Html:
    inner = [
        tag("ul", *(tag("li", _link(_place(name, i), name)) for name in _chapters(section)))
        for i, section in enumerate(sections, start=1)
    ]
    if len(titles) == 1:
        return tag("nav", *inner, aria_label="Contents")
    items = (
        tag("li", _link(_place("study", i), title), links)
        for i, (title, links) in enumerate(zip(titles, inner, strict=True), start=1)
    )
    return tag("nav", tag("ul", *items, class_="studies"), aria_label="Contents")


def _place(name: str, number: int) -> str:
    return f"{name.lower()}-{number}"


def _link(place: str, text: str) -> Html:
    return tag("a", text, href=f"#{place}")


def _chapters(section: Section) -> dict[str, Html]:
    """Returns what there is of a section, by its heading."""
    chapters = {
        "Summary": _summary(section),
        "Results": join(_table(table) for table in section.tables),
        "Pictures": _pictures(section),
        "Runs": _runs(section.study),
        "Environment": _environments(section.study),
    }
    return {name: chapter for name, chapter in chapters.items() if chapter}


def _section(number: int, section: Section, *, alone: bool) -> Html:
    """Returns a study's section, whose heading is the page's if it is alone."""
    title = tag("h2", _title(section.study), class_="study")
    chapters = (
        join([tag("h2" if alone else "h3", name, id=_place(name, number)), chapter])
        for name, chapter in _chapters(section).items()
    )
    return tag("section", *([] if alone else [title]), *chapters, id=_place("study", number))


def _summary(section: Section) -> Html:
    first, *others = section.summary
    listed = tag("ul", *(tag("li", sentence) for sentence in others))
    return tag("div", tag("p", first), listed, class_="summary")


def _table(table: Table) -> Html:
    """Returns a table to be filtered, and to be sorted unless its rows belong together."""
    firsts = [row[0].text for row in table.rows]
    sortable = len(set(firsts)) == len(firsts) > 1
    header = (_heading(name, i < table.labels) for i, name in enumerate(table.header))
    rows = (
        tag("tr", *(_cell(cell, i, table.labels) for i, cell in enumerate(row)))
        for row in table.rows
    )
    whole = tag(
        "table",
        tag("caption", table.title),
        tag("thead", tag("tr", *header)),
        tag("tbody", *rows),
        class_="sortable" if sortable else None,
    )
    # What scrolls can be scrolled by keyboard, too.
    scroll = tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=table.title)
    note = tag("p", table.caption, class_="note")
    return tag("div", scroll, note, data_filter="Filter the rows", data_items="tbody tr")


def _heading(name: str, is_label: bool) -> Html:
    """Returns a column's heading, which says how the column is sorted first: the best on top."""
    ascending = is_label or "↓" in name or "rank" in name
    return tag(
        "th",
        name,
        scope="col",
        class_="text" if is_label else None,
        data_first="ascending" if ascending else None,
    )


def _cell(cell: Text, column: int, labels: int) -> Html:
    if column == 0:
        return tag("th", cell.text, scope="row")
    if column < labels:
        return tag("td", cell.text, class_="text")
    number = _NUMBER.match(cell.text)
    value = number[0].replace("−", "-") if number else None
    return tag("td", cell.text, class_="best" if cell.bold else None, data_value=value)


def _pictures(section: Section) -> Html:
    if not section.pictures:
        return Html("")
    left_out = findings.diverged(section.study.runs)
    notes = [tag("p", f"Runs that diverged are not drawn: {left_out}.")] if left_out else []
    return join([*notes, tag("div", *map(_figure, section.pictures), class_="pictures")])


def _figure(picture: Picture) -> Html:
    data = picture.png.read_bytes()
    width, height = (round(96 / DOTS_PER_INCH * n) for n in struct.unpack(">II", data[16:24]))
    image = tag(
        "img",
        src=f"data:image/png;base64,{base64.b64encode(data).decode()}",
        alt=f"Picture of {picture.title}; its numbers are in the tables and the records",
        width=width,
        height=height,
    )
    title = picture.title[:1].upper() + picture.title[1:]
    caption = tag("figcaption", tag("b", f"{title}. "), picture.caption)
    return tag("figure", image, caption, class_=_WIDTHS.get(picture.inches, "part"))


def _runs(study: Study) -> Html:
    methods = dict.fromkeys(run.method for run in study.runs)
    groups = [_group(study, [r for r in study.runs if r.method == m]) for m in methods]
    whole = _copyable(study.runs[0].command.partition(" --only=")[0]) if study.runs else ""
    return tag(
        "div",
        tag("p", "Every run is repeated alone by its own command. The whole study:"),
        whole,
        tag("div", *groups, data_filter="Filter the runs", data_items="details.run"),
        _folded("The study's config", _config(study.config)),
        class_="runs",
    )


def _group(study: Study, runs: Sequence[StudyRun]) -> Html:
    finished = sum(run.status == "finished" for run in runs)
    status = tag("span", f"{finished} of {len(runs)} finished", class_="status")
    summary = tag("summary", status, runs[0].method)
    inner = tag("div", *(_run(study, run) for run in runs))
    return tag("details", summary, inner, class_="group")


def _run(study: Study, run: StudyRun) -> Html:
    """Returns a run's line, which opens to its command and its config."""
    place = condition_name(run.conditions | run.tuned)
    told = ", ".join(filter(None, (place, f"seed {run.seed}")))
    status = tag("span", _outcome(study, run), class_=_class_of(run))
    summary = tag("summary", status, told, " ", tag("code", run.id, class_="pale"))
    inner = tag("div", _copyable(run.command), _config(run.config))
    text = f"{run.method} {told} {run.id} {run.status}"
    return tag("details", summary, inner, class_="run", data_text=text)


def _class_of(run: StudyRun) -> str:
    return "status" if run.status == "finished" else "status bad"


def _outcome(study: Study, run: StudyRun) -> str:
    report = study.config["report"]
    record = reported_record(run, report["epoch"])
    metric = report["metrics"][0]
    found = value(record, metric) if record is not None else None
    if found is None:
        return run.status
    return f"{metric_name(metric)} " + (
        f"{100 * found:.2f} %" if is_share(metric) else f"{found:.4g}"
    )


def _copyable(text: str, *, wrap: bool = True) -> Html:
    pre = tag("pre", text, class_="wrap" if wrap else None, tabindex=0)
    return tag("div", pre, class_="copyable")


def _config(config: Mapping[str, Any]) -> Html:
    return _copyable(json.dumps(config, indent=2, ensure_ascii=False), wrap=False)


def _folded(summary: str, *parts: Html) -> Html:
    return tag("details", tag("summary", summary), tag("div", *parts))


def _environments(study: Study) -> Html:
    found = findings.environments(study.runs)
    return join(
        tag("dl", *(join([tag("dt", key), tag("dd", told)]) for key, told in _flat(each)))
        for each in found
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yields the leaves with their dotted keys."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        elif item not in (None, ""):
            yield prefix + key, str(item)
