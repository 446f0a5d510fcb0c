"""Prints the protocols of evaluation: sets, counts, scorers and sampling.

python -m medvista_jax.evaluation.protocols --list
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from medvista_jax.evaluation.protocols import PROTOCOLS, Protocol


def entry(protocol: Protocol) -> str:
    """A protocol for people."""
    lines = [protocol.line()]
    lines.append(
        f"  seed {protocol.seed}, {protocol.runs} run{'s' * (protocol.runs > 1)}, tools "
        f"{'on' if protocol.tools else 'off'} upstream (with --tools: on, and the number says so)"
    )
    for rule in protocol.sets.values():
        lines.append(f"  {rule.name:<14}{rule.wanted:>11}  {'+'.join(rule.splits)}: {rule.subset}")
        lines.append(f"  {'':<27}scorer fixed; strict {', '.join(rule.strict)}{f'; {rule.note}' * bool(rule.note)}")
    lines += [f"  note: {note}" for note in protocol.notes]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m medvista_jax.evaluation.protocols", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--list", action="store_true", required=True, help="every protocol and its sets")
    parser.parse_args(arguments)
    print("\n\n".join(map(entry, PROTOCOLS.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
