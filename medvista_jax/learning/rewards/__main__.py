"""Checks the published rewards against known results, or lists them.

    python -m medvista_jax.learning.rewards --conformance FILE
    python -m medvista_jax.learning.rewards --list

Exit code 0 when every case agrees (or is skipped for a reason that is printed), 1 when one differs, 2 when the file or
the input of a case cannot be read, or a preset is unknown.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from medvista_jax.learning.rewards import PRESETS
from medvista_jax.learning.rewards.conformance import SUBJECT


def listing() -> str:
    """Every preset with what its docstring says up to its arguments."""
    entries = []
    for name, reward in PRESETS.items():
        text = inspect.cleandoc(getattr(reward, "func", reward).__doc__ or "of the user").split("\nArgs:")[0]
        entries.append(f"{name}\n" + "\n".join(f"  {line}" for line in text.strip().splitlines() if line))
    return "\n\n".join(entries)


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m medvista_jax.learning.rewards", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--conformance", type=Path, metavar="FILE", help="JSON of cases with known results")
    what.add_argument("--list", action="store_true", help="every preset: formula, range, needs, source")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        print(listing())
        return 0
    return SUBJECT.command(chosen.conformance)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
