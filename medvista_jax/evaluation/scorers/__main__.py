"""Checks the strict scorers against known results, or lists all scorers.

    python -m medvista_jax.evaluation.scorers --conformance FILE
    python -m medvista_jax.evaluation.scorers --list

Exit code 0 when every case agrees (or is skipped for a reason that is printed), 1 when one differs, 2 when the file or
the input of a case cannot be read, or a scorer is unknown.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from medvista_jax.evaluation.scorers.conformance import SUBJECT
from medvista_jax.evaluation.scorers.differences import DIFFERENCES
from medvista_jax.evaluation.scorers.fixed import score
from medvista_jax.evaluation.scorers.strict import STRICT


def listing() -> str:
    """Every scorer with its docstring, and the differences of the fixed one."""
    entries = []
    for name, scorer in {"fixed (the default)": score, **STRICT}.items():
        text = inspect.cleandoc(scorer.__doc__ or "").split("\nArgs:")[0]
        entries.append(f"{name}\n" + "\n".join(f"  {line}" for line in text.strip().splitlines() if line))
    lines = [f"  {difference.id}: {difference.reason}" for difference in DIFFERENCES]
    return "\n\n".join([*entries, "Where the fixed scorer differs from the strict ones\n" + "\n".join(lines)])


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m medvista_jax.evaluation.scorers", description=__doc__.split("\n")[0]
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--conformance", type=Path, metavar="FILE", help="JSON of cases with known results")
    what.add_argument("--list", action="store_true", help="every scorer: what it does, source; the differences")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        print(listing())
        return 0
    return SUBJECT.command(chosen.conformance)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
