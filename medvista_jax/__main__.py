"""``python -m medvista_jax COMMAND``: the commands of the package."""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS: dict[str, tuple[str, str]] = {
    "replay": ("medvista_jax.evaluation.replay", "play saved trajectories again and compare them bit for bit"),
    "table": ("medvista_jax.evaluation.tables", "print part of a results table as Markdown"),
    "doctor": ("medvista_jax.runtime.doctor", "print versions, devices and what is missing, with the remedy"),
}
"""Name -> (module with ``main(arguments) -> exit code``, a line of help); imported only when called."""


def usage() -> str:
    """The list of commands as text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: python -m medvista_jax COMMAND [--help] …", "", "commands:", *lines])


def main(arguments: list[str]) -> int:
    """Runs one command; 2 is the exit code of an unknown one."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"unknown command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        code = importlib.import_module(COMMANDS[name][0]).main(rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # `… | head` has read enough. What is still buffered goes nowhere, or Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
