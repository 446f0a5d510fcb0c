"""What a data set of files holds, and what is wrong with it.

    python -m medvista_jax.data.files SOURCE [--sheet out.png]

SOURCE is a folder with questions.jsonl (or .csv, .parquet, metadata.csv …), a table, or parquet shards. Prints how many
questions there are, the kinds of images, the first questions, and every row that cannot be used. Exit code 0 when all
is well, 1 when there are such rows, 2 when the source cannot be read at all.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from medvista_jax.data.files.image import BadFile
from medvista_jax.data.files.questions import FileItem, read_questions
from medvista_jax.data.files.sheet import describe, draw_sheet
from medvista_jax.data.files.tables import Columns

_SHOWN = 20  # lines of one part of the report


def examine(items: Sequence[FileItem], problems: list[str]) -> tuple[collections.Counter, list[FileItem]]:
    """How many images there are of each description, and the items whose images can be read; the others are added to
    ``problems``.
    """
    kinds: collections.Counter = collections.Counter()
    sound = []
    for item in items:
        try:
            kinds.update(describe(image) for image in item.images)
            sound.append(item)
        except BadFile as error:
            problems.append(str(error))
    return kinds, sound


def report(items: Sequence[FileItem], looked: int, kinds: collections.Counter, problems: Sequence[str]) -> str:
    """The text that the command prints."""
    answers = collections.Counter(item.answer for item in items)
    several = sum(bool(item.options) for item in items)
    lines = [
        f"{len(items)} questions ({several} with options), {len(answers)} different answers; "
        f"images of the first {looked} looked at",
        "",
        f"{'images':>7}  modality, size, type, unit, spacing",
    ]
    lines += [f"{count:>7}  {kind}" for kind, count in kinds.most_common(_SHOWN)]
    if len(kinds) > _SHOWN:
        lines.append(f"{sum(kinds.values()) - sum(n for _, n in kinds.most_common(_SHOWN)):>7}  of other kinds")
    lines += ["", "first questions"]
    lines += [f"  {item.id}: {' '.join(item.question.split())} -> {item.answer}" for item in items[:3]]
    if problems:
        lines += ["", f"{len(problems)} rows cannot be used", *(f"  {problem}" for problem in problems[:_SHOWN])]
        if len(problems) > _SHOWN:
            lines.append(f"  and {len(problems) - _SHOWN} more")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(prog="python -m medvista_jax.data.files", description=__doc__.split("\n")[0])
    out.add_argument("source", nargs="+", help="folder, table, or parquet shards")
    out.add_argument("--sheet", type=Path, help="draw the first images to this file")
    out.add_argument("--tiles", type=int, default=16, help="images on the sheet (default 16)")
    out.add_argument("--look", type=int, default=200, help="questions whose images are read (default 200; 0 for all)")
    out.add_argument("--split", help="which split of a folder of parquet")
    out.add_argument("--frames", help='frames of every file: 3, "0,4", middle, all')
    out.add_argument("--slices", default="axial", help='slices of NIfTI: "axial", "coronal:40", "sagittal:0.5" …')
    for field in dataclasses.fields(Columns):
        flag = f"--{field.name.replace('_', '-')}-column"
        out.add_argument(flag, default=field.default, metavar="NAME", help=f"column of the {field.name}")
    return out


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see the module's docstring for the exit codes."""
    chosen = parser().parse_args(arguments)
    columns = Columns(**{field.name: getattr(chosen, f"{field.name}_column") for field in dataclasses.fields(Columns)})
    source = chosen.source[0] if len(chosen.source) == 1 else chosen.source
    problems: list[str] = []
    try:
        items = read_questions(
            source, columns=columns, split=chosen.split, frames=chosen.frames, slices=chosen.slices, problems=problems
        )
        looked = items[: chosen.look or None]
        kinds, sound = examine(looked, problems)
        print(report(items, len(looked), kinds, problems))
        if chosen.sheet is not None:
            draw_sheet(sound[: chosen.tiles]).save(chosen.sheet)
            print(f"\n{chosen.sheet} shows {len(sound[: chosen.tiles])} of them")
    except (BadFile, OSError, ValueError) as error:
        print(f"medvista_jax.data.files: {error}", file=sys.stderr)
        return 2
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
