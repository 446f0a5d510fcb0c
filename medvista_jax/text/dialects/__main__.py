"""Turns from one dialect into another.

    python -m medvista_jax.text.dialects convert --from deepeyes --to medvista --file turns.jsonl --size 1920x1080

Each line of the file is a JSON string, one turn; each line printed is a JSON object: the turn in the other dialect
and the notes of what was lost or would have gone otherwise upstream. ``--size`` is given once for every image of the
trajectory, in order. Exits with 2 when the input is not of this form.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from medvista_jax.text import dialects
from medvista_jax.text.__main__ import read_turns


def read_size(text: str) -> dialects.Picture:
    """``WxH`` as a picture.

    Raises:
      argparse.ArgumentTypeError: naming what is wanted.
    """
    width, _, height = text.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; WIDTHxHEIGHT in pixels is wanted, such as 512x512")
    try:
        return dialects.Picture(int(width), int(height))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def convert(turns: Sequence[str], source: str, target: str, context: dialects.Context) -> None:
    """Print a line for each turn."""
    reader, writer = dialects.get(source), dialects.get(target)
    for turn in turns:
        reading = reader.read_turn(turn, context)
        print(json.dumps({"turn": writer.write_turn(reading.turn, context), "notes": reading.notes}))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m medvista_jax.text.dialects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command = parser.add_subparsers(dest="command", required=True).add_parser("convert", help="convert a file of turns")
    names = sorted(dialects.DIALECTS)
    command.add_argument("--from", dest="source", required=True, choices=names, help="dialect of the file")
    command.add_argument("--to", dest="target", required=True, choices=names, help="dialect to print")
    command.add_argument("--file", type=Path, required=True, help="a JSON string a line")
    command.add_argument(
        "--size", type=read_size, action="append", required=True, metavar="WxH", help="pixels of an image, in order"
    )
    command.add_argument("--originals", type=int, default=1, help="how many of the images are the question's own")
    given = parser.parse_args(arguments)
    from medvista_jax.tools.registry import DEFAULT_TOOLS  # late: text stands below tools

    try:
        specs = tuple(tool.spec for tool in DEFAULT_TOOLS.values())
        context = dialects.Context(tuple(given.size), specs, given.originals)
        turns = read_turns(given.file)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        convert(turns, given.source, given.target, context)
        sys.stdout.flush()
    except BrokenPipeError:
        # `… | head` has read enough. What is still buffered goes nowhere, or Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
