"""What the parsers make of a file of turns.

    python -m medvista_jax.text parse --file turns.jsonl [--tools my_tools.py]

Each line of the file is a JSON string, one turn. Prints a line of JSON for each: the turn, what the host
parser and the device transducer make of it, whether they agree, and the arguments of a sound call by name, as
Python values (``values``; null where there is none). The tools are the packaged ones, or those that a Python file
defines. Exits with 1 when the parsers differ somewhere, with 2 when a line is no JSON string or a file cannot be
used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvista_jax.core.tool_spec import ToolSpec, python_values
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.compare import parse_both
from medvista_jax.text.grammar import Grammar, compile_grammar
from medvista_jax.text.host_parser import parse_turn_text

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


def read_specs(path: Path | None) -> list[ToolSpec]:
    """Specs of the tools that a Python file defines; of the packaged tools when there is no file."""
    # Late, and only what is needed: text stands below tools.
    if path is None:
        from medvista_jax.tools.registry import DEFAULT_TOOLS as tools
    else:
        from medvista_jax.tools.registry import load_tools

        tools = load_tools(path)
    return [tool.spec for tool in tools.values()]


def values_of(specs: Sequence[ToolSpec], turn: bytes) -> dict[str, Any] | None:
    """Arguments of a turn's call as Python values; None unless it makes a call without a fault."""
    said = parse_turn_text(specs, turn)
    if said.kind != Kind.CALL or said.fault != Fault.NONE:
        return None
    return python_values(specs[said.tool], said.arguments, said.texts)


def report(specs: Sequence[ToolSpec], grammar: Grammar, turns: Sequence[str]) -> int:
    """Print a line for each turn. Returns how many turns the two parsers read differently."""
    differing = 0
    raw = [turn.encode(errors="surrogatepass") for turn in turns]
    longest = max(map(len, raw), default=0)
    capacity = max(256, 1 << (longest - 1).bit_length()) if longest else 256
    for at in range(0, len(turns), _ROWS):
        batch = raw[at : at + _ROWS]
        padded = [*batch, *[b""] * (_ROWS - len(batch))]
        pairs = parse_both(specs, grammar, padded, capacity, answer_capacity=capacity)
        for turn, said, (host, device) in zip(turns[at : at + _ROWS], batch, pairs, strict=False):
            differing += host != device
            line = {"turn": turn, "host": host, "device": device, "agree": host == device}
            print(json.dumps({**line, "values": values_of(specs, said)}))
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
    parse.add_argument("--tools", type=Path, help="a Python file that defines tools, instead of the packaged ones")
    arguments = parser.parse_args()

    try:
        specs = read_specs(arguments.tools)
        grammar, turns = compile_grammar(specs), read_turns(arguments.file)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if report(specs, grammar, turns) else 0


if __name__ == "__main__":
    sys.exit(main())
