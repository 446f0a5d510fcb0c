"""Measuring, and saying where it was measured. Standard library only: peers use it in environments of their own."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def timed(function: Callable[[], Any]) -> dict[str, Any]:
    """What a call gives, its seconds, and the CPU-seconds of all threads of this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = function()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "result": result}


def by_turns(repetitions: int, *calls: Callable[[], Mapping[str, Any]]) -> list[dict[str, float]]:
    """Medians of seconds and CPU-seconds of each, measured by turns so that all meet the same machine.

    Args:
      calls: each gives what :func:`timed` gives; the warm-up is the caller's.
    """
    seen: list[list[Mapping[str, Any]]] = [[] for _ in calls]
    for _ in range(repetitions):
        for call, answers in zip(calls, seen, strict=True):
            answers.append(call())
    middle = lambda answers, what: statistics.median(answer[what] for answer in answers)  # noqa: E731
    return [{what: middle(answers, what) for what in ("seconds", "cpu_seconds")} for answers in seen]


def circumstances() -> dict[str, Any]:
    """Date, processor, cores, load and commit, for the line above a table."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "commit": _commit(),
    }


def _processor() -> str:
    """The model name that lscpu gives, else what Python knows."""
    try:
        told = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in told.splitlines() if line.startswith("Model name:")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Of the working tree that holds this file; marked where it has changes."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def headline(told: Mapping[str, Any]) -> str:
    return (
        f"{told['date']}, {told['processor']}, {told['cores']} cores, load {told['load']} at the start, "
        f"commit {told['commit']}"
    )


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
