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

from medvista_jax.evaluation.scorers.conformance import BadFile, read_cases, run
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


def conformance(path: Path) -> int:
    """Runs a file of cases; see the module's docstring for the exit codes."""
    verdicts = [run(case) for case in read_cases(path)]
    print("\n".join(map(str, verdicts)))
    agree, skipped = (sum(verdict.agrees for verdict in verdicts), sum(bool(verdict.skipped) for verdict in verdicts))
    unreadable = [verdict for verdict in verdicts if verdict.unreadable]
    differ = len(verdicts) - agree - skipped - len(unreadable)
    counts = [f"{len(verdicts)} cases: {agree} agree", f"{differ} differ", f"{skipped} skipped"]
    if unreadable:
        counts.append(f"{len(unreadable)} cannot be read")
        print(f"medvista_jax.evaluation.scorers: {path}: {unreadable[0]}", file=sys.stderr)
    print("\n" + ", ".join(counts))
    return 2 if unreadable else 1 if differ else 0


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
    try:
        return conformance(chosen.conformance)
    except BadFile as error:
        print(f"medvista_jax.evaluation.scorers: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
