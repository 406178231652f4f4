"""Whatever stands in a table, its Markdown, LaTeX and CSV hold it and nothing else."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from xent_jax.reporting.typesetting import Table, Text, comma_separated, latex, markdown, write

AWKWARD = "100% of a_b & c|d #1 ${x}$ ~^\\ <[1]> α ± − – † ↓ ε τ *"
TABLE = Table(
    name="awkward",
    title=AWKWARD,
    caption=AWKWARD,
    header=("method", AWKWARD, "plain"),
    rows=(
        (Text(AWKWARD), Text("90.00 ± 0.10", bold=True), Text("1")),
        (Text("[x]"), Text("−8.22"), Text(AWKWARD, bold=True)),
    ),
    labels=1,
    records=(
        {"method": "a, b", "corruption.rate": 0.4, "mean": 0.1 + 0.2, "sd": None},
        {"method": 'say "c"', "mean": 1e-17, "low": -0.5},
    ),
)


def test_markdown_is_a_table_of_all_cells():
    lines = markdown(TABLE).splitlines()
    header, rule, *rows = lines[2:6]
    assert rule == "| --- | ---: | ---: |"
    for line in (header, *rows):
        assert len(re.findall(r"(?<!\\)\|", line)) == 4, line  # unescaped
    assert rows[0].split(" | ")[1] == "**90.00 ± 0.10**"
    assert rows[1].startswith(r"| \[x] | −8.22 | **100%")
    assert lines[0].startswith(r"**100% of a\_b & c\|d")
    assert lines[-1].endswith(r"\*")


def test_latex_is_a_booktabs_table_of_all_cells():
    text = latex(TABLE)
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)&", row)) == 2 for row in rows)
    assert r"\begin{tabular}{lrr}" in text
    assert r"\textbf{\boldmath 90.00 $\pm$ 0.10}" in rows[1]
    assert r"100\% of a\_b \& c|d \#1 \$\{x\}\$ \textasciitilde{}\textasciicircum{}" in rows[0]
    assert rows[2].lstrip().startswith("{[}x]")
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    assert text.isascii()
    assert [part in body for part in (r"\midrule", r"\addlinespace")] == [True, False]


def test_latex_keeps_the_rows_of_one_name_together():
    names = ("a", "a", "b")
    rows = tuple((Text(name), Text(str(i)), Text("1")) for i, name in enumerate(names))
    lines = latex(TABLE._replace(rows=rows, labels=2)).splitlines()
    body = lines[lines.index(r"    \midrule") + 1 : lines.index(r"    \bottomrule")]
    assert [line.split()[0] for line in body] == ["a", "a", r"\addlinespace", "b"]


@pytest.mark.skipif(
    shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None,
    reason="no LaTeX is installed to compile the table with",
)
def test_latex_compiles(tmp_path):
    found = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, text=True)
    if not found.stdout.strip():
        pytest.skip("the LaTeX that is installed lacks booktabs")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}%s\end{document}"
    (tmp_path / "table.tex").write_text(document % latex(TABLE))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]


def test_csv_holds_every_number_as_it_is():
    text = comma_separated(TABLE)
    first, second = csv.DictReader(io.StringIO(text))
    assert list(first) == ["method", "corruption.rate", "mean", "sd", "low"]
    assert float(first["mean"]) == 0.1 + 0.2
    assert (first["method"], first["sd"], first["low"]) == ("a, b", "", "")
    assert (second["method"], float(second["mean"])) == ('say "c"', 1e-17)
    assert text.count("\n") == 3


def test_a_table_is_written_in_all_three_forms(tmp_path):
    paths = write(TABLE, tmp_path / "report" / "tables")
    assert [path.name for path in paths] == ["awkward.md", "awkward.tex", "awkward.csv"]
    forms = (markdown, latex, comma_separated)
    assert [path.read_text("utf-8") for path in paths] == [form(TABLE) for form in forms]
