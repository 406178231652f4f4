"""The report's page in a real browser: it loads and runs nothing else, sorts, filters and copies.

Screenshots, wide, narrow and dark, stay in the folder that --basetemp names, to be looked at.
"""

from pathlib import Path

import pytest

from tests.browser import chromium
from tests.reporting import study_records
from xent_jax.reporting import report

EVIL = "<img src=x onerror=document.title='run'>"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def path(folder) -> Path:
    """Two studies on one page, one of which has a method that would run as a script."""
    study_records.write_study(
        folder / "noisy",
        methods=("CE", "GCE", EVIL),
        conditions={"corruption.rate": (0.0, 0.8)},
        seeds=2,
        diverged=("GCE-0.8-0", "GCE-0.8-1"),
    )
    study_records.write_study(folder / "few_shot", methods=("CE",), conditions={}, few_shot=True)
    return report.write_report([folder / "noisy", folder / "few_shot"], folder / "report")


@pytest.fixture(scope="module")
def browser(folder):
    program = chromium.find()
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(chromium.NAMES)} is found")
    with chromium.opened(program, folder / "profile") as page:
        yield page


@pytest.fixture
def page(browser, path):
    """The page, freshly loaded; afterwards it must have been quiet."""
    browser.resize(1280, 900)
    browser.load(path)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == []


FIRST = "document.querySelector('table')"


def column(page, number: int) -> list[str]:
    cells = f"[...{FIRST}.tBodies[0].rows].map(row => row.cells[{number}].textContent)"
    return page.run(cells)


def click(page, selector: str) -> None:
    page.run(f"document.querySelector({selector!r}).click()")


def type_into(page, selector: str, text: str) -> None:
    page.run(
        f"(() => {{ const place = document.querySelector({selector!r});"
        f"place.value = {text!r}; place.dispatchEvent(new Event('input')); }})()"
    )


def visible(page, selector: str) -> list[str]:
    return page.run(
        f"[...document.querySelectorAll({selector!r})].filter(x => x.checkVisibility())"
        ".map(x => x.textContent)"
    )


def test_the_page_shows_its_pictures_and_runs_no_text_of_a_study(page):
    assert page.run("document.title") == "2 studies of losses"
    widths = page.run("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 8
    assert min(widths) > 500
    assert EVIL in column(page, 0)


REFUSED = {
    "connect-src": "fetch('http://localhost:9/').catch(() => null)",
    "img-src": "new Image().src = 'http://localhost:9/x.png'",
    "script-src-attr": "document.body.setAttribute('onclick', 'alert(1)'); document.body.click()",
    "script-src-elem": "document.body.append(Object.assign(document.createElement('script'), "
    "{ textContent: 'alert(1)' }))",
}


@pytest.mark.parametrize("directive", REFUSED)
def test_the_pages_policy_refuses_the_network_and_scripts(browser, path, directive):
    browser.load(path)
    told = "addEventListener('securitypolicyviolation', event => done(event.effectiveDirective))"
    script = f"new Promise(done => {{ {told}; {REFUSED[directive]}; setTimeout(done, 5000); }})"
    assert browser.run(script) == directive


def test_columns_are_sorted_by_their_numbers_and_what_has_none_comes_last(page):
    before = column(page, 2)
    assert before[1] == "2 of 2 diverged"
    for order, reverse in (("descending", True), ("ascending", False)):
        click(page, "table thead th:nth-child(3) button")
        assert page.run(f"{FIRST}.tHead.rows[0].cells[2].ariaSort") == order
        assert column(page, 2) == [*sorted(before[::2], key=float_of, reverse=reverse), before[1]]
    click(page, "table thead th:nth-child(1) button")
    assert column(page, 0) == [EVIL, "CE", "GCE"]
    assert page.run(f"{FIRST}.tHead.rows[0].cells[2].ariaSort") is None


def float_of(cell: str) -> float:
    return float(cell.split()[0])


def test_rows_are_filtered_by_words(page):
    type_into(page, "[data-items='tbody tr'] input", "gce")
    assert visible(page, "#results-1 ~ div tbody th") == ["GCE"]
    assert visible(page, "output")[0] == "1 of 3"
    type_into(page, "[data-items='tbody tr'] input", "")
    assert len(visible(page, "#results-1 ~ div tbody th")) == 3


def test_runs_are_filtered_and_open_to_their_command(page):
    assert visible(page, "#study-1 details.run > summary") == []
    type_into(page, "#study-1 .runs input", "seed 1  GCE noise 0.8")
    (shown,) = visible(page, "#study-1 details.run > summary")
    assert "GCE-0.8-1" in shown
    page.run("document.querySelectorAll('#study-1 details.run').forEach(run => run.open = true)")
    command, config = visible(page, "#study-1 details.run pre")
    assert command.endswith("--only=id=GCE-0.8-1")
    assert config.startswith("{")
    type_into(page, "#study-1 .runs input", "")
    assert visible(page, "#study-1 details.run > summary") == []


def test_commands_are_copied(page):
    page.ask("Page.bringToFront")
    click(page, ".copyable button")
    told = "document.querySelector('.copyable button').textContent"
    page.run("new Promise(done => setTimeout(done, 200))")
    assert page.run(told) in ("Copied", "Selected")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark")])
def test_the_page_fits_its_window_light_or_dark(page, folder, width, scheme):
    page.resize(width, 900, scheme=scheme)
    assert page.run("document.documentElement.scrollWidth") == width
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    page.photograph(folder / f"{width}_{scheme}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page, scheme):
    page.resize(1280, 900, scheme=scheme)
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    pairs = page.run(COLOURS)
    assert len(pairs) > 5
    assert {str(pair): contrast(*pair) for pair in pairs if contrast(*pair) < 4.5} == {}


# The colours of every text, and of the nearest ground that is not transparent.
COLOURS = """
(() => {
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
    && element.checkVisibility() && element.localName !== "script");
  const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const pairs = texts.map((text) => [getComputedStyle(text).color, ground(text)].map(numbers));
  return [...new Set(pairs.map(JSON.stringify))].map((pair) => JSON.parse(pair));
})()
"""


def contrast(one: list[float], other: list[float]) -> float:
    """Returns WCAG's contrast ratio of two colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    shares = (channel / 255 for channel in colour)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
