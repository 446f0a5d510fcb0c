"""Trajectory files: convert others' formats, look, count.

    python -m medvista_jax.data.trajectories convert messages train.json --out runs/imported/train.jsonl
    python -m medvista_jax.data.trajectories convert sharegpt train.jsonl --dialect deepeyes --images data --out …
    python -m medvista_jax.data.trajectories convert verl train.parquet --out …
    python -m medvista_jax.data.trajectories show runs/imported/train.jsonl --row 3
    python -m medvista_jax.data.trajectories stats runs/imported/train.jsonl

``convert`` prints how many rows became records, what was noted about them, and how many were rejected for which reason,
with the first row of each. Exit code 0 when all is well, 1 when there are rejected rows or lines, 2 when a file cannot
be read or written at all, 130 after Ctrl-C (what is written by then is whole).
"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvista_jax.data.files import BadFile
from medvista_jax.data.trajectories import messages, sharegpt, verl
from medvista_jax.data.trajectories.files import Writer, read_records
from medvista_jax.data.trajectories.foreign import Reading, Rejected, read_rows
from medvista_jax.data.trajectories.record import Record, Source
from medvista_jax.environment.episodes import choose_tools
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.progress import Progress
from medvista_jax.text.dialects import DIALECTS

FORMATS = {"messages": messages, "sharegpt": sharegpt, "verl": verl}
_SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    out = argparse.ArgumentParser(
        prog="python -m medvista_jax.data.trajectories", description=__doc__, formatter_class=raw
    )
    commands = out.add_subparsers(dest="command", required=True)
    convert = commands.add_parser(
        "convert",
        help="another format as a trajectory file",
        formatter_class=raw,
        description="\n\n".join(f"{name}: {module.__doc__}" for name, module in FORMATS.items()),
    )
    convert.add_argument("format", choices=FORMATS)
    convert.add_argument("files", nargs="+", type=Path, help=".jsonl, .json or .parquet")
    convert.add_argument("--out", type=Path, required=True, help="the file to write; images go into a folder beside it")
    convert.add_argument(
        "--dialect", default="openai", choices=sorted(DIALECTS), help="in which words tools are called (default openai)"
    )
    convert.add_argument("--images", type=Path, help="folder of the images' paths (default: that of the file)")
    convert.add_argument("--link", action="store_true", help="name images where they are instead of copying them")
    convert.add_argument(
        "--answers",
        default="last",
        choices=("last", "tags"),
        help="a last turn without tags is the answer (default), or is rejected",
    )
    convert.add_argument("--tools", help="offer these, with commas between, instead of what the rows offer")
    convert.add_argument("--family", default="", help="of questions that name none")
    convert.add_argument("--split", default="", help="of questions that name none")
    show = commands.add_parser("show", help="one record as text")
    show.add_argument("files", nargs="+", type=Path)
    show.add_argument("--row", type=int, default=0, help="which record, from 0 (default 0)")
    stats = commands.add_parser("stats", help="what a file holds")
    stats.add_argument("files", nargs="+", type=Path)
    return out


def convert(chosen: argparse.Namespace, progress: Progress, interrupts: Interrupts) -> int:
    """Writes the file; returns the exit code."""
    if any(chosen.out.resolve() == file.resolve() for file in chosen.files):
        raise ValueError(f"--out {chosen.out} is one of the files to read; name another")
    offered = None if chosen.tools is None else tuple(tool.name for tool in choose_tools(chosen.tools))
    rejected: dict[str, list[str]] = {}
    notes: collections.Counter = collections.Counter()
    with Writer(chosen.out, images="link" if chosen.link else "copy") as out:
        for file in chosen.files:
            folder = file.parent if chosen.images is None else chosen.images
            reading = Reading(chosen.dialect, chosen.answers, folder, chosen.family or file.stem, chosen.split, offered)
            rows = list(read_rows(file)) if file.suffix.lower() == ".json" else read_rows(file)
            total = len(rows) if isinstance(rows, list) else _count(file)
            with progress.stage(file.name, total=total) as bar:
                for number, row in rows:
                    place = f"{file}, {'line' if file.suffix == '.jsonl' else 'row'} {number}"
                    try:
                        name = f"{file.stem}/{number:06d}"
                        record = FORMATS[chosen.format].read_row(row, name, reading, Source("file", place))
                        out.write(record)
                        notes.update(record.notes)
                    except Rejected as error:
                        rejected.setdefault(str(error), []).append(place)
                    bar.advance(rejected=sum(map(len, rejected.values())))
                    if interrupts.requested:
                        return 130
    print(f"{out.count} records in {chosen.out}")
    for note, count in notes.most_common(_SHOWN):
        print(f"{count:>7}  noted: {note}")
    total = sum(map(len, rejected.values()))
    if total:
        print(f"{total} rows rejected")
    for reason, places in sorted(rejected.items(), key=lambda entry: -len(entry[1])):
        print(f"{len(places):>7}  {reason} (first: {places[0]})")
    return 1 if rejected else 0


def _count(file: Path) -> int:
    """How many rows, for the time left."""
    if not file.is_file():
        return 0  # the reader says what is wrong
    if file.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_metadata(file).num_rows
        except pa.ArrowException:
            return 0
    with open(file, "rb") as lines:
        return sum(bool(line.strip()) for line in lines)


def as_text(record: Record) -> str:
    """A record to read: question, turns, what came back, outcome."""
    outcome = record.outcome
    lines = [
        f"{record.id}  ({record.family or 'no family'}, {record.split or 'no split'})",
        f"source    {record.source.kind} {record.source.name}",
        f"tools     {', '.join(map(_tool_name, record.tools))}",
        *(f"image {at}   {image.file or 'embedded'}" for at, image in enumerate(record.images)),
        f"question  {record.question}",
    ]
    for number, turn in enumerate(record.turns):
        ids = "" if turn.ids is None else f" [{len(turn.ids)} ids]"
        fault = "" if turn.fault in ("", "NONE") else f" [{turn.fault.lower()}]"
        lines.append(f"turn {number}    {turn.text}{ids}{fault}")
        if turn.observation is not None:
            seen = turn.observation
            lines.append(
                f"  heard   {seen.text}" + ("" if seen.image is None else f" ({seen.image.file or 'embedded'})")
            )
    right = {True: "right", False: "wrong", None: "true answer unknown"}[outcome.correct]
    lines.append(f"answer    {outcome.answer!r}, {right}; true: {record.answer!r}; reward {outcome.reward}")
    return "\n".join([*lines, *(f"note      {note}" for note in record.notes)])


def _tool_name(tool: Any) -> str:
    return tool if isinstance(tool, str) else str(tool.get("function", tool).get("name", "?"))


def stats_of(files: Sequence[Path], problems: list[str]) -> str:
    """The counts of files."""
    families: dict[str, collections.Counter] = {}
    turns: list[int] = []
    ids: list[int] = []
    tools: collections.Counter = collections.Counter()
    sources: collections.Counter = collections.Counter()
    questions: set[str] = set()
    for file in files:
        for record in read_records(file, problems):
            counts = families.setdefault(record.family, collections.Counter())
            counts["records"] += 1
            counts["right" if record.outcome.correct else "wrong" if record.outcome.correct is False else "open"] += 1
            counts["well formed"] += record.outcome.well_formed
            turns.append(len(record.turns))
            ids += [len(turn.ids) for turn in record.turns if turn.ids is not None]
            sources[f"{record.source.kind} {record.source.dialect}".strip()] += 1
            questions.add(record.id)
            tools.update(name for turn in record.turns if (name := _called(turn.text)))
    columns = ("records", "right", "wrong", "open", "well formed")
    lines = [f"{sum(c['records'] for c in families.values())} records of {len(questions)} questions", ""]
    lines.append(f"{'family':<24}" + "".join(f"{name:>13}" for name in columns))
    lines += [
        f"{family or '(none)':<24}" + "".join(f"{counts[name]:>13}" for name in columns)
        for family, counts in sorted(families.items())
    ]
    if turns:
        lines += ["", f"turns: mean {np.mean(turns):.2f}, most {max(turns)}"]
    if ids:
        lines.append(f"ids a turn: median {np.median(ids):.0f}, most {max(ids)} ({len(ids)} turns have ids)")
    lines += [f"{count:>7}  calls of {tool}" for tool, count in tools.most_common(_SHOWN)]
    lines += [f"{count:>7}  from {source}" for source, count in sources.most_common()]
    return "\n".join(lines)


def _called(text: str) -> str:
    """The name of the tool that a turn calls."""
    _, opened, body = text.rpartition('<tool_call>{"name": "')
    return body.partition('"')[0] if opened else ""


def show(files: Sequence[Path], row: int) -> str:
    """The ``row``-th record.

    Raises:
      BadFile: there are fewer.
    """
    left = row
    for file in files:
        for record in read_records(file):
            if left == 0:
                return as_text(record)
            left -= 1
    raise BadFile(f"{', '.join(map(str, files))}: there is no record {row}, there are {row - left}")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see the module's docstring for the exit codes."""
    chosen = parser().parse_args(arguments)
    problems: list[str] = []
    try:
        if chosen.command == "convert":
            with Interrupts() as interrupts, Progress() as progress:
                return convert(chosen, progress, interrupts)
        print(stats_of(chosen.files, problems) if chosen.command == "stats" else show(chosen.files, chosen.row))
    except (BadFile, OSError, ValueError) as error:
        print(f"medvista_jax.data.trajectories: {error}", file=sys.stderr)
        return 2
    for problem in problems[:_SHOWN]:
        print(f"no record: {problem}")
    if len(problems) > _SHOWN:
        print(f"and {len(problems) - _SHOWN} more")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
