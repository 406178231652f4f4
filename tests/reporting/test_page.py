"""The page holds all it shows, nothing it shows can run, and its structure is sound."""

import base64
import hashlib
import html.parser
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.reporting import study_records
from xent_jax.errors import UserError
from xent_jax.reporting import page, report
from xent_jax.reporting.html import Html, join, tag
from xent_jax.reporting.study import load_study
from xent_jax.reporting.typesetting import Table, Text

EVIL = "<script>alert(1)</script>\"'&"
_VOID = {"img", "input", "link", "meta"}


class Tree(html.parser.HTMLParser):
    """Every element with its attributes, and the texts; fails on what is not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The report of a study whose every text is evil, and its folder."""
    folder = tmp_path_factory.mktemp("evil") / "study"
    study_records.write_study(
        folder,
        methods=("CE", f"GCE{EVIL}"),
        conditions={"corruption.name": (f"a{EVIL}", "b")},
        seeds=2,
        epochs=2,
        report={"title": f"Title{EVIL}"},
        diverged=("CE-b-1",),
        unfinished=("CE-b-0",),
    )
    with pytest.MonkeyPatch.context() as patch:
        # Words on a picture are no markup, and need no drawing here.
        patch.setattr(report, "draw_study", lambda *_: [])
        return report.write_report([folder])


@pytest.fixture(scope="module")
def tree(written) -> Tree:
    return Tree(written.read_text())


def test_elements_escape_all_that_is_not_markup():
    inner = tag("b", EVIL, title=EVIL, data_x=1, hidden=True, class_=None, id=False)
    quoted = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;"
    assert inner == f'<b title="{quoted}" data-x="1" hidden>{quoted}</b>'
    assert tag("p", inner, "<") == f"<p>{inner}&lt;</p>"
    assert tag("meta", name="x") == '<meta name="x">'
    assert isinstance(join(["<", Html("<br>")]), Html)
    assert join(["<", Html("<br>")]) == "&lt;<br>"


def test_no_text_of_a_study_becomes_markup(written, tree):
    text = written.read_text()
    assert "<script>alert" not in text
    assert len(tree.of("script")) == 1
    assert any(EVIL in shown for shown in tree.texts)
    assert not any(name.startswith("on") for _, found in tree.elements for name in found)


def test_a_policy_allows_the_pages_own_style_and_script_alone(written, tree):
    (policy,) = (meta["content"] for meta in tree.of("meta") if "http-equiv" in meta)
    for element in ("style", "script"):
        (source,) = re.findall(f"<{element}>(.*?)</{element}>", written.read_text(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not any("style" in attributes for _, attributes in tree.elements)


def test_nothing_is_loaded_from_elsewhere(tree):
    for _, attributes in tree.elements:
        for name in ("src", "href"):
            assert re.match(r"data:|#", attributes.get(name, "#")), attributes


def test_places_are_named_once_and_every_link_leads_to_one(tree):
    places = Counter(a["id"] for _, a in tree.elements if "id" in a)
    assert set(places.values()) == {1}
    links = [a["href"][1:] for a in tree.of("a")]
    assert links == ["summary-1", "results-1", "runs-1", "environment-1"]
    assert set(links) <= set(places)


def test_headers_say_what_they_are_the_header_of(tree):
    assert {header.get("scope") for header in tree.of("th")} == {"row", "col"}
    assert tree.of("html") == [{"lang": "en"}]
    assert all(region["aria-label"] for region in tree.of("div") if region.get("role"))
    names = [name for name, _ in tree.elements]
    assert names.count("h1") == names.count("main") == names.count("caption") == 1


def test_every_run_tells_its_command_its_config_and_how_it_ended(written, tree):
    study = load_study(written.parent.parent)
    runs = [found for found in tree.of("details") if found.get("class") == "run"]
    assert len(runs) == len(study.runs) == 8
    for run in study.runs:
        assert run.command in tree.texts
        assert json.dumps(run.config, indent=2, ensure_ascii=False) in tree.texts
    shown = Counter(text for text in tree.texts if text in ("diverged", "unfinished"))
    assert shown == {"diverged": 1, "unfinished": 1}
    assert "python -m experiments.sweep --config=c.py" in tree.texts


def test_cells_are_sorted_by_the_number_they_begin_with():
    texts = ("98.60 ± 0.05", "−0.20", "+1.30", "97.1†", "59.01 ± 0.41 (1 of 3 diverged)",
             "97.10 (1 of 3 diverged)", "3 of 3 diverged", "–", "0.103")  # fmt: skip
    cells = [Tree(page._cell(Text(text), 1, 1)).of("td")[0] for text in texts]
    assert [cell.get("data-value") for cell in cells] == [
        "98.60", "-0.20", "+1.30", "97.1", "59.01", "97.10", None, None, "0.103"
    ]  # fmt: skip


def test_rows_that_belong_together_are_not_sorted_apart():
    rows = ((Text("CE"), Text("1.0", bold=True)), (Text("GCE"), Text("2.0")))
    table = Table("results", "A title", "A caption.", ("method", "loss ↓"), rows, 1, ())
    found = Tree(page._table(table))
    assert found.of("table") == [{"class": "sortable"}]
    assert [header.get("data-first") for header in found.of("th")[:2]] == ["ascending"] * 2
    assert [cell.get("class") for cell in found.of("td")] == ["best", None]
    pairs = table._replace(rows=(rows[0], rows[0]))
    assert Tree(page._table(pairs)).of("table") == [{}]


def test_several_studies_have_a_section_each_and_pictures_within_the_page(tmp_path):
    for name in ("one", "two"):
        study_records.write_study(
            tmp_path / name,
            methods=("CE",),
            conditions={},
            seeds=1,
            few_shot=True,
            report={"title": f"Study {name}"},
        )
    path = report.write_report([tmp_path / "one", tmp_path / "two"])
    assert path == tmp_path / "report" / "report.html"
    before = path.read_bytes()
    found = Tree(path.read_text())
    assert [each["id"] for each in found.of("section")] == ["study-1", "study-2"]
    assert {"2 studies of losses", "Study one", "Study two"} <= set(found.texts)
    images = found.of("img")
    assert len(images) == 4
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in images)
    assert all(image["alt"] and int(image["width"]) == 317 for image in images)
    names = {str(p.relative_to(path.parent)) for p in path.parent.rglob("*.*")}
    assert {"one/tables/results.tex", "two/pictures/over_epochs.pdf"} <= names
    report.write_report([tmp_path / "one", tmp_path / "two"])
    assert path.read_bytes() == before


def test_folders_that_cannot_be_told_apart_are_named(tmp_path):
    with pytest.raises(UserError, match="'x' twice"):
        report.folders_of([tmp_path / "a" / "x", tmp_path / "b" / "x"])
    with pytest.raises(UserError, match="no sweep is named"):
        report.write_report([])
    with pytest.raises(UserError, match="missing"):
        report.write_report([tmp_path / "missing"])
    assert report.folders_of(["runs/a"], "out") == {Path("runs/a"): Path("out")}
