"""The results table: rows for machines (``table.json``), Markdown for people (``table.md``), a console print.

A row is one condition, one kind of need, tools on or off, one decoding, one seed. Accuracies are fractions
0…1 in rows and percent wherever a person reads them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from medvista_jax.evaluation.statistics import wilson_interval

Row = dict[str, Any]

ROW_KEYS = (
    "condition",
    "needs",
    "tools",
    "decoding",
    "accuracy",
    "n",
    "ci95",
    "calls_per_question",
    "seed",
    "seconds",
)

CONDITIONS = {
    "random_policy": "random policy",
    "no_tools": "trained without tools",
    "tools_offered": "the same, tools offered",
    "sft": "SFT with tools",
    "sft_grpo": "SFT + GRPO",
    "random_crop": "control: random crop",
    "oracle_crop": "control: oracle crop",
}
"""Name in a row -> name for people, in the order of the table; other conditions follow in their own order."""

NEEDS = ("none", "zoom", "detail", "window", "several", "measure")
"""Order of the columns; other needs follow, ``all`` comes last."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a number must name besides its value (items and seeds are read off the rows).

    Attributes:
      dataset: such as ``"packaged atlas (targets of zoom and detail items are implanted)"``.
      split: such as ``"test (colin27)"``.
      scorer: such as ``"normalised exact match"``.
      decoding: such as ``"greedy; sampled at temperature 1"``.
      machine: such as ``"2 CPU cores"``; may be empty.
      notes: further sentences, one line each.
    """

    dataset: str
    split: str
    scorer: str
    decoding: str
    machine: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Merged:
    """The seeds of one cell. Fractions 0…1; ``low`` and ``high`` are the Wilson interval of the pooled
    items.
    """

    mean: float
    minimum: float
    maximum: float
    low: float
    high: float
    n: int
    seeds: int
    calls_per_question: float

    def text(self) -> str:
        """``94.1 (92.3–95.4)`` in percent; with several seeds ``94.1 (92.3–95.4) [93.0–95.1]``."""
        interval = f"{100 * self.mean:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"
        if self.seeds == 1:
            return interval
        return f"{interval} [{100 * self.minimum:.1f}–{100 * self.maximum:.1f}]"


def make_row(
    *,
    condition: str,
    needs: str,
    tools: bool,
    decoding: str,
    correct: int,
    n: int,
    calls: int,
    seed: int,
    seconds: float,
) -> Row:
    """A row from counts.

    Args:
      condition: such as ``"sft_grpo"``.
      needs: ``"zoom"`` …, or ``"all"``.
      tools: whether tools were offered.
      decoding: ``"greedy"`` or ``"sampled"``.
      correct, n: items right and items asked; n is at least 1.
      calls: tool calls attempted over all n items.
      seed: of the run.
      seconds: wall time of the evaluation.
    """
    if n < 1:
        raise ValueError(f"{condition}, {needs}: a row needs at least one item")
    row = {
        "condition": condition,
        "needs": needs,
        "tools": bool(tools),
        "decoding": decoding,
        "accuracy": int(correct) / int(n),
        "n": int(n),
        "ci95": list(wilson_interval(int(correct), int(n))),
        "calls_per_question": int(calls) / int(n),
        "seed": int(seed),
        "seconds": round(float(seconds), 2),
    }
    check_rows([row])
    return row


def check_rows(rows: Iterable[Row]) -> None:
    """Raises ``ValueError`` for a row with other keys, an impossible value, or a cell that appears twice."""
    seen = set()
    for row in rows:
        name = f"row {row.get('condition')!r}, {row.get('needs')!r}"
        if set(row) != set(ROW_KEYS):
            missing, extra = set(ROW_KEYS) - set(row), set(row) - set(ROW_KEYS)
            raise ValueError(f"{name}: missing keys {sorted(missing)}, unknown keys {sorted(extra)}")
        if row["decoding"] not in ("greedy", "sampled"):
            raise ValueError(f"{name}: decoding {row['decoding']!r} is neither 'greedy' nor 'sampled'")
        low, high = row["ci95"]
        if not 0 <= low <= row["accuracy"] <= high <= 1:
            raise ValueError(f"{name}: accuracy {row['accuracy']} is not inside {row['ci95']} inside 0…1")
        cell = (*_line(row), row["needs"], row["seed"])
        if cell in seen:
            raise ValueError(f"{name}: two rows with decoding, tools and seed {cell}")
        seen.add(cell)


def merge_seeds(rows: Sequence[Row]) -> Merged:
    """One cell from the rows of its seeds.

    The interval pools the items of all seeds; where seeds share items it is narrower than it should be, which
    is why the range over seeds stands beside it.
    """
    n = sum(row["n"] for row in rows)
    correct = sum(round(row["accuracy"] * row["n"]) for row in rows)
    accuracies = [row["accuracy"] for row in rows]
    low, high = wilson_interval(correct, n)
    return Merged(
        mean=sum(accuracies) / len(rows),
        minimum=min(accuracies),
        maximum=max(accuracies),
        low=low,
        high=high,
        n=n,
        seeds=len(rows),
        calls_per_question=sum(row["calls_per_question"] * row["n"] for row in rows) / n,
    )


def layout(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the table for people: a line for each condition, tools on or off, and decoding.

    The column ``calls`` (a question) and ``n`` are those of needs ``all`` where it is there, else of all
    rows.
    """
    check_rows(rows)
    needs = _ordered((row["needs"] for row in rows), (*NEEDS, "all"))
    needs = [need for need in needs if need != "all"] + ["all"] * ("all" in needs)
    conditions = _ordered((row["condition"] for row in rows), tuple(CONDITIONS))
    lines = sorted({_line(row) for row in rows}, key=lambda line: (conditions.index(line[0]), not line[1], line[2]))
    body = []
    for line in lines:
        mine = [row for row in rows if _line(row) == line]
        cells = {need: [row for row in mine if row["needs"] == need] for need in needs}
        whole = merge_seeds(cells.get("all") or mine)
        condition, tools, decoding = line
        body.append(
            [
                CONDITIONS.get(condition, condition.replace("_", " ")),
                "on" if tools else "off",
                decoding,
                *(merge_seeds(cells[need]).text() if cells[need] else "–" for need in needs),
                f"{whole.calls_per_question:.2f}",
                str(whole.n),
            ]
        )
    return ["condition", "tools", "decoding", *needs, "calls", "n"], body


def protocol_lines(rows: Sequence[Row], protocol: Protocol) -> list[str]:
    """What stands below every table."""
    seeds = sorted({row["seed"] for row in rows})
    total = [row["n"] for row in rows if row["needs"] == "all"] or [row["n"] for row in rows]
    items = f"{min(total)}" if min(total) == max(total) else f"{min(total)} to {max(total)}"
    spread = " [lowest–highest seed]" if len(seeds) > 1 else ""
    pooled = ", seeds pooled" if len(seeds) > 1 else ""
    machine = f"; {protocol.machine}" if protocol.machine else ""
    lines = [
        f"Accuracy in percent (95 % Wilson interval{pooled}){spread}, by what an item needs; "
        f"calls: tool calls a question; n: items{' summed over seeds' if spread else ''}.",
        f"Protocol: data set {protocol.dataset}; split {protocol.split}; {items} items a seed; "
        f"scorer {protocol.scorer}; decoding {protocol.decoding}; "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}{machine}.",
    ]
    return [line for line in (*lines, needless(rows), *protocol.notes) if line]


def needless(rows: Sequence[Row]) -> str:
    """A sentence on the share of tool calls that went to items which need none, for trained policies that call."""
    parts = []
    for line in sorted({_line(row) for row in rows}):
        mine = [row for row in rows if _line(row) == line]
        if line[0] not in ("sft", "sft_grpo") or not line[1] or {"none", "all"} - {row["needs"] for row in mine}:
            continue
        calls = {
            need: sum(row["calls_per_question"] * row["n"] for row in mine if row["needs"] == need)
            for need in ("none", "all")
        }
        share = f"{100 * calls['none'] / calls['all']:.1f} %" if calls["all"] else "no calls"
        parts.append(f"{CONDITIONS.get(line[0], line[0])}, {line[2]} {share}")
    return f"Share of tool calls on items that need none: {'; '.join(parts)}." if parts else ""


def markdown(rows: Sequence[Row], protocol: Protocol) -> str:
    """The table and its protocol as Markdown, with a line feed at the end."""
    return markdown_table(rows) + "\n" + "\n\n".join(protocol_lines(rows, protocol)) + "\n"


def markdown_table(rows: Sequence[Row]) -> str:
    """The table alone, with a line feed at the end."""
    heads, body = layout(rows)
    # A rule of a right-aligned column takes two characters.
    widths = [max(2, *(len(line[k]) for line in [heads, *body])) for k in range(len(heads))]
    # Numbers to the right, names to the left.
    rule = ["-" * w if k < 3 else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    text = []
    for line in [heads, *body]:
        cells = zip(line, widths, strict=True)
        text.append("| " + " | ".join(c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(cells)) + " |")
    text.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(text) + "\n"


def print_table(rows: Sequence[Row], protocol: Protocol, console: Console | None = None) -> None:
    """Prints the table to a terminal; a narrow one gets fewer intervals, then fewer columns, than ``table.md`` has."""
    console = console or Console()
    heads, body = layout(rows)
    short = [[text.split(" (")[0] for text in line] for line in body]
    few = [k for k, head in enumerate(heads) if head not in NEEDS or head in ("none", "zoom")]
    layouts = [(heads, body), (heads, short), ([heads[k] for k in few], [[line[k] for k in few] for line in short])]
    for names, lines in layouts:
        table = Table(header_style="bold", row_styles=["", "dim"], box=box.SIMPLE, padding=(0, 1, 0, 0))
        for name in names:
            left = name in ("condition", "tools", "decoding")
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
            break
    console.print(table)
    for line in protocol_lines(rows, protocol):
        console.print(line, markup=False, highlight=False)


def write_tables(folder: str | Path, rows: Sequence[Row], protocol: Protocol) -> None:
    """Writes ``table.json`` (a list of rows with exactly :data:`ROW_KEYS`) and ``table.md`` into
    ``folder``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(rows, protocol)
    ordered = [{key: row[key] for key in ROW_KEYS} for row in rows]
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False, allow_nan=False) for row in ordered)
    (folder / "table.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (folder / "table.md").write_text(text, encoding="utf-8")


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a ``table.json``, checked."""
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    check_rows(rows)
    return rows


def _line(row: Row) -> tuple[str, bool, str]:
    return row["condition"], row["tools"], row["decoding"]


def _ordered(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    found = list(dict.fromkeys(names))
    return [name for name in known if name in found] + [name for name in found if name not in known]


def main(arguments: list[str]) -> int:
    """``python -m medvista_jax table``: part of a ``table.json`` as Markdown, to quote."""
    parser = argparse.ArgumentParser(prog="python -m medvista_jax table", description=main.__doc__)
    parser.add_argument("path", type=Path, help="a table.json")
    parser.add_argument("--needs", nargs="+", help="columns, such as: zoom none all")
    parser.add_argument("--conditions", nargs="+", help="lines, such as: sft sft_grpo")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.path)
        for key, wanted in (("needs", options.needs), ("condition", options.conditions)):
            known = list(dict.fromkeys(row[key] for row in rows))
            if unknown := [name for name in wanted or () if name not in known]:
                raise ValueError(f"no {key} {', '.join(unknown)}; there are {', '.join(known)}")
            rows = [row for row in rows if not wanted or row[key] in wanted]
    except (OSError, ValueError) as error:
        print(f"{options.path}: {error}", file=sys.stderr)
        return 2
    print(markdown_table(rows), end="")
    return 0
