"""What the parsers make of a file of turns.

    python -m medvista_jax.text parse --file turns.jsonl

Each line of the file is a JSON string, one turn. Prints a line of JSON for each: the turn, what the host
parser and the device transducer make of it, and whether they agree. Exits with 1 when they differ somewhere,
with 2 when a line is no JSON string.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.text.compare import parse_both
from medvista_jax.text.grammar import compile_grammar

_ROWS = 256


def read_turns(path: Path) -> list[str]:
    """The strings of a JSON-lines file; blank lines are skipped.

    Raises:
      ValueError: naming the line that is no JSON string.
      OSError: when the file cannot be read.
    """
    turns = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            turn = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(turn, str):
            raise ValueError(f"{path}, line {number}: a JSON string is wanted, not {type(turn).__name__}")
        turns.append(turn)
    return turns


def report(specs: Sequence[ToolSpec], turns: Sequence[str]) -> int:
    """Print a line for each turn. Returns how many turns the two parsers read differently."""
    grammar, differing = compile_grammar(specs), 0
    raw = [turn.encode(errors="surrogatepass") for turn in turns]
    longest = max(map(len, raw), default=0)
    capacity = max(256, 1 << (longest - 1).bit_length()) if longest else 256
    for at in range(0, len(turns), _ROWS):
        batch = raw[at : at + _ROWS]
        padded = [*batch, *[b""] * (_ROWS - len(batch))]
        pairs = parse_both(specs, grammar, padded, capacity, answer_capacity=capacity)
        for turn, (host, device) in zip(turns[at : at + _ROWS], pairs, strict=False):
            differing += host != device
            print(json.dumps({"turn": turn, "host": host, "device": device, "agree": host == device}))
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m medvista_jax.text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parse = commands.add_parser("parse", help="read a file of turns with both parsers")
    parse.add_argument("--file", type=Path, required=True, help="a JSON string a line")
    arguments = parser.parse_args()
    from medvista_jax.tools.registry import DEFAULT_TOOLS  # late: text stands below tools

    try:
        turns = read_turns(arguments.file)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if report([tool.spec for tool in DEFAULT_TOOLS.values()], turns) else 0


if __name__ == "__main__":
    sys.exit(main())
