"""A paper's table: every number with its protocol, three formats that say the same, and a section that is replaced."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from medvista_jax.evaluation.cells import Outcomes
from medvista_jax.evaluation.paper_tables import (
    Line,
    PaperTable,
    Published,
    as_json,
    gain_text,
    latex,
    latex_text,
    markdown,
    value_of,
    write_paper_table,
    write_section,
)
from medvista_jax.evaluation.statistics import Difference
from medvista_jax.evaluation.tables import Protocol

RUN = {"date": "2026-01-02", "commit": "abc1234"}


def outcomes(right, n=100, seed=0):
    ids = np.array([f"test/x/{number}" for number in range(n)])
    return Outcomes(ids, {}, np.arange(n) < right, np.full(n, 1, np.int32), seed, 1.0)


def table(**changes):
    base, more = [outcomes(30)], [outcomes(60)]
    fields = {
        "name": "table_x",
        "title": "A table",
        "stubs": ("training", "tools"),
        "columns": ("zoom", "all", "calls"),
        "lines": (
            Line(("base_1", "off"), {"zoom": None, "all": value_of(base), "calls": "0.00"}),
            Line(("full", "on"), {"zoom": value_of(more, base), "all": value_of(base, more), "calls": "1.00"}),
        ),
        "protocol": Protocol("atlas", "test", "exact match", "greedy", "2 cores", ("A note & more.",)),
        "tools": "as the line says",
        "base": "base_1",
        "published": (Published("Other-7B", "arXiv 1234.5678", "Mean of 11 sets.", {"full": "66.25"}),),
    }
    return PaperTable(**(fields | changes))


def test_markdown_has_the_numbers_and_their_protocol():
    text = markdown(table())
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["training", "tools", "zoom", "all", "calls", "Other-7B †"]
    # 30 and 60 of 100: Wilson's intervals by Newcombe's formula.
    assert rows[2] == ["base_1", "off", "–", "30.0 (21.9–39.6)", "0.00", "–"]
    assert rows[3] == ["full", "on", "60.0 (50.2–69.1)↑", "30.0 (21.9–39.6)↓", "1.00", "66.25"]
    for part in ("atlas", "split test", "100 items", "exact match", "greedy", "tools as the line says", "seed 0"):
        assert part in text
    assert "95 % interval: Wilson" in text and "arXiv 1234.5678" in text and "not comparable" in text


def test_published_numbers_never_stand_in_a_column_of_ours():
    ours = as_json(table(), RUN)
    assert "66.25" not in json.dumps(ours["lines"])
    assert ours["published"][0] == {
        "head": "Other-7B",
        "source": "arXiv 1234.5678",
        "protocol": "Mean of 11 sets.",
        "values": {"full": "66.25"},
    }


def test_json_has_the_fractions():
    value = as_json(table(), RUN)["lines"][1]["values"]["zoom"]
    assert value["accuracy"] == 0.6 and value["n"] == 100 and value["seeds"] == [0]
    assert value["difference"]["mean"] == pytest.approx(0.3)
    assert value["difference"]["ci95"][0] > 0 and value["calls_per_question"] == 1.0


def test_latex_is_balanced_and_escaped():
    text = latex(table())
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [len(re.split(r"(?<!\\)&", line)) for line in body] == [6, 6]
    assert r"base\_1 & off & -- & 30.0 (21.9--39.6) & 0.00 & -- \\" in body
    assert r"60.0 (50.2--69.1)$\uparrow$" in body[1] and r"A note \& more." in text
    assert latex_text(r"a\b_{c}~^%") == r"a\textbackslash{}b\_\{c\}\textasciitilde{}\textasciicircum{}\%"


def test_gains():
    assert gain_text(Difference(0.123, 0.1, 0.15, 0.0)) == "+12.3 (+10.0 to +15.0)"
    assert gain_text(Difference(-0.01, -0.05, 0.03, 0.7)) == "-1.0 (-5.0 to +3.0)"
    assert gain_text(None) == "–"


def test_lines_must_fit_the_heads():
    with pytest.raises(ValueError, match="has a column 'al'"):
        table(lines=(Line(("a", "b"), {"al": "1"}),))
    with pytest.raises(ValueError, match="has 1 names"):
        table(lines=(Line(("a",), {}),))


def test_three_files(tmp_path):
    paths = write_paper_table(tmp_path / "out", table(), RUN)
    assert [path.name for path in paths] == ["table_x.md", "table_x.tex", "table_x.json"]
    assert "commit: abc1234" in paths[0].read_text()
    assert json.loads(paths[2].read_text())["run"] == RUN
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["table_x.json", "table_x.md", "table_x.tex"]


def test_a_section_is_replaced_and_the_rest_stays(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\nWritten by a person.\n")
    write_section(page, table(), RUN)
    write_section(page, table(name="table_y", title="Another"), RUN)
    before = page.read_text()
    assert before.startswith("# Results\n\nWritten by a person.\n\n<!-- table_x") and "## Another" in before
    write_section(page, table(title=r"New \1 title"), RUN)
    after = page.read_text()
    assert r"## New \1 title" in after and "## A table" not in after and after.count("<!-- end of table_x -->") == 1
    assert after.split("<!-- table_y")[1] == before.split("<!-- table_y")[1]
    write_section(page, table(), RUN)
    assert page.read_text() == before
    page.write_text(before.replace("<!-- end of table_x -->", ""))
    with pytest.raises(ValueError, match="table_x must stand once"):
        write_section(page, table(), RUN)
