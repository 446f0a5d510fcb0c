"""A paper's table: lines and columns of estimates, as Markdown, LaTeX and JSON, and as a section of a results page."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvista_jax.evaluation.cells import Estimate, Outcomes, calls_per_question, difference, estimate
from medvista_jax.evaluation.statistics import Difference
from medvista_jax.evaluation.tables import Protocol

NONE = "–"
"""Stands where there is no number."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A number of the table.

    Attributes:
      estimate: accuracy and interval.
      calls: tool calls a question.
      against: paired difference to the base, as a fraction; None for the base itself and where items differ.
    """

    estimate: Estimate
    calls: float
    against: Difference | None = None

    def text(self) -> str:
        """``94.1 (92.3–95.4)↑``: with an arrow where the interval of the difference to the base leaves out 0."""
        return self.estimate.text() + arrow(self.against)


def arrow(gain: Difference | None) -> str:
    """``↑`` or ``↓`` where the interval leaves out 0, else nothing."""
    return "" if gain is None or gain.low <= 0 <= gain.high else ("↑" if gain.low > 0 else "↓")


def gain_text(gain: Difference | None) -> str:
    """``+12.3 (10.1 to 14.4)`` in percentage points."""
    if gain is None:
        return NONE
    return f"{100 * gain.mean:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def value_of(runs: Sequence[Outcomes], base: Sequence[Outcomes] = ()) -> Value | None:
    """A number of the seeds' outcomes; None where there is no item."""
    if not runs or not len(runs[0].items):
        return None
    return Value(estimate(runs), calls_per_question(runs), difference(runs, base) if base else None)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line: what names it, and what stands in its columns. Texts stand as they are; a missing column is empty."""

    names: tuple[str, ...]
    values: Mapping[str, Value | str | None]


@dataclasses.dataclass(frozen=True)
class Published:
    """Numbers that others measured, in a column of their own.

    Attributes:
      head: of the column.
      source: where they were published.
      protocol: how they were measured, as far as the source says.
      values: of a line, by the text of its first name.
    """

    head: str
    source: str
    protocol: str
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table and all that its numbers must name.

    Attributes:
      name: such as ``"table_main"``: of its files.
      title: a sentence.
      stubs: heads of the columns that name a line.
      columns: heads of the others, in order.
      tools: whether tools are on; such as ``"on or off as the column says"``.
      base: what differences are to; empty where there are none.
      items: how many and which lines or columns share them; by default those of a seed, the same for all lines.
      published: of others.
    """

    name: str
    title: str
    stubs: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    protocol: Protocol
    tools: str
    base: str = ""
    items: str = ""
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.names) != len(self.stubs):
                raise ValueError(f"{self.name}: line {line.names} has {len(line.names)} names for {self.stubs}")
            if odd := [column for column in line.values if column not in self.columns]:
                raise ValueError(f"{self.name}: line {line.names} has a column {odd[0]!r}; there are {self.columns}")

    def heads(self) -> list[str]:
        """All heads, in order."""
        return [*self.stubs, *self.columns, *(f"{one.head} †" for one in self.published)]

    def body(self) -> list[list[str]]:
        """Texts of the lines."""
        return [
            [
                *line.names,
                *(_text(line.values.get(column)) for column in self.columns),
                *(one.values.get(line.names[0], NONE) for one in self.published),
            ]
            for line in self.lines
        ]

    def values(self) -> list[Value]:
        """All numbers."""
        return [value for line in self.lines for value in line.values.values() if isinstance(value, Value)]

    def notes(self) -> list[str]:
        """Sentences below the table: what every number names."""
        estimates = [value.estimate for value in self.values()]
        seeds = sorted({seed for one in estimates for seed in one.seeds})
        items = self.items or f"{max((one.n for one in estimates), default=0)} items a seed, the same for all lines"
        intervals = " or ".join(sorted({one.interval for one in estimates}))
        protocol, many = self.protocol, len(seeds) > 1
        machine = f"; {protocol.machine}" if protocol.machine else ""
        notes = [
            f"Accuracy in percent (95 % interval: {intervals}); calls: tool calls a question.",
            f"Protocol: data set {protocol.dataset}; split {protocol.split}; {items}; scorer {protocol.scorer}; "
            f"decoding {protocol.decoding}; tools {self.tools}; "
            f"seed{'s' if many else ''} {', '.join(map(str, seeds))}{machine}.",
        ]
        if self.base:
            pairs = "over seeds and items, " if many else ""
            notes.append(
                f"↑ ↓: above or below {self.base} on the same items; the 95 % interval of the paired difference "
                f"(bootstrap, {pairs}not corrected for the number of comparisons) leaves out 0."
            )
        notes += list(protocol.notes)
        notes += [
            f"† {one.head}: published by others and not comparable with ours. {one.source}. {one.protocol}"
            for one in self.published
        ]
        return notes


def _text(value: Value | str | None) -> str:
    return NONE if value is None else value if isinstance(value, str) else value.text()


def markdown(table: PaperTable) -> str:
    """The table and its notes."""
    heads, body = table.heads(), table.body()
    widths = [max(len(line[k]) for line in [heads, *body]) for k in range(len(heads))]
    named = len(table.stubs)
    rule = ["-" * width if k < named else "-" * (width - 1) + ":" for k, width in enumerate(widths)]
    rows = []
    for line in [heads, rule, *body]:
        cells = [
            text.ljust(w) if k < named else text.rjust(w) for k, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n\n" + "\n\n".join(table.notes()) + "\n"


_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\dag{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
    "²": r"\textsuperscript{2}",
    "<": r"$<$",
    ">": r"$>$",
    "…": r"\ldots{}",
}


def latex_text(text: str) -> str:
    """Text with what LaTeX would take for commands made harmless."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(table: PaperTable) -> str:
    """A ``table*`` environment for ``\\usepackage{booktabs}``; notes are in the caption."""
    heads = " & ".join(latex_text(text) for text in table.heads())
    lines = [" & ".join(latex_text(text) for text in line) + r" \\" for line in table.body()]
    kinds = "l" * len(table.stubs) + "r" * (len(table.columns) + len(table.published))
    caption = latex_text(" ".join([f"{table.title}.", *table.notes()]))
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table*}",
            r"\centering\small",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            heads + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{table.name}}}",
            r"\end{table*}",
            "",
        ]
    )


def as_json(table: PaperTable, run: Mapping[str, str]) -> dict[str, Any]:
    """Everything, for machines. Accuracies and differences are fractions.

    Args:
      run: date, commit, machine and the like.
    """

    def plain(value: Value | str | None) -> Any:
        if not isinstance(value, Value):
            return value
        one, gain = value.estimate, value.against
        return {
            "accuracy": one.mean,
            "ci95": [one.low, one.high],
            "interval": one.interval,
            "n": one.n,
            "seeds": list(one.seeds),
            "calls_per_question": value.calls,
            "difference": None if gain is None else {"mean": gain.mean, "ci95": [gain.low, gain.high]},
        }

    return {
        "name": table.name,
        "title": table.title,
        "run": dict(run),
        "protocol": {**dataclasses.asdict(table.protocol), "tools": table.tools, "differences_to": table.base},
        "lines": [
            {
                "names": dict(zip(table.stubs, line.names, strict=True)),
                "values": {column: plain(line.values.get(column)) for column in table.columns},
            }
            for line in table.lines
        ],
        "published": [
            {"head": one.head, "source": one.source, "protocol": one.protocol, "values": dict(one.values)}
            for one in table.published
        ],
    }


def write_paper_table(folder: str | Path, table: PaperTable, run: Mapping[str, str]) -> list[Path]:
    """``NAME.md``, ``NAME.tex`` and ``NAME.json`` in ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        ".md": f"# {table.title}\n\n{markdown(table)}\n{_run_line(run)}\n",
        ".tex": latex(table),
        ".json": json.dumps(as_json(table, run), ensure_ascii=False, allow_nan=False, indent=1) + "\n",
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{table.name}{suffix}")
        _replace(paths[-1], text)
    return paths


def _run_line(run: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in run.items()) + "."


def write_section(page: str | Path, table: PaperTable, run: Mapping[str, str]) -> None:
    """Replace the table's section of a Markdown page, between comments with its name; add it at the end where there is
    none. What people write elsewhere on the page stays.

    Raises:
      ValueError: the section begins and does not end, or the other way round.
    """
    page = Path(page)
    begin, end = f"<!-- {table.name}: written by its script -->", f"<!-- end of {table.name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if (text.count(begin), text.count(end)) not in ((0, 0), (1, 1)):
        raise ValueError(f"{page}: the section {table.name} must stand once between {begin!r} and {end!r}")
    section = f"{begin}\n## {table.title}\n\n{markdown(table)}\n{_run_line(run)}\n{end}"
    if begin in text:
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda found: section, text, flags=re.DOTALL)
    else:
        text = text.rstrip("\n") + ("\n\n" if text.strip() else "") + section + "\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    _replace(page, text)


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
