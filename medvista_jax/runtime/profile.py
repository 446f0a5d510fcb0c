"""A trace of some steps for TensorBoard's profiler, and their time by what a step is made of.

    run_stage(..., profile=Profile(folder))
    tensorboard --logdir FOLDER            # pip install tensorboard tensorboard-plugin-profile

The program names its parts by ``jax.named_scope``: ``encode`` (images), ``prefill``, ``decode``, ``tool`` (drawing
views), ``observe``, ``reward``, ``score`` and ``update``. An operation belongs to the innermost of them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.extend

SCOPES = ("encode", "prefill", "decode", "tool", "observe", "reward", "score", "update")
OTHER = "other"
_NAMED = re.compile(r'%?([\w.\-]+) = .*metadata=\{[^}]*op_name="([^"]*)"')
_AROUND = ("while", "conditional", "call", "end: ")
"""Beginnings of events that last as long as those inside them."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps of a stage are traced, and where to.

    Attributes:
      folder: of the trace; ``scopes.json`` lies beside it.
      skip: steps before it: the first one compiles.
      steps: how many.
    """

    folder: Path
    skip: int = 2
    steps: int = 2

    def begin(self) -> None:
        """Start tracing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(str(self.folder))

    def end(self, result: Any, steps: int) -> dict[str, float]:
        """Wait for ``result``, stop, and write what :func:`seconds_by_scope` found, a step.

        Args:
          steps: how many were traced.

        Returns:
          Seconds of a step in each scope, summed over threads and devices.
        """
        jax.block_until_ready(result)
        jax.profiler.stop_trace()
        trace = max(self.folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        found = seconds_by_scope(events_of(trace), scopes_of_programs())
        spent = {scope: seconds / steps for scope, seconds in found.items()}
        (self.folder / "scopes.json").write_text(json.dumps(spent, indent=1) + "\n", encoding="utf-8")
        return spent


def scope_of(path: str) -> str:
    """The innermost of :data:`SCOPES` in an operation's name, ``jit(step)/decode/while/body/tool/sin``."""
    return next((part for part in reversed(path.split("/")) if part in SCOPES), OTHER)


def scopes_of_text(text: str) -> dict[str, str]:
    """Operation -> scope, from a compiled program's text."""
    return {match[1]: scope_of(match[2]) for match in map(_NAMED.search, text.splitlines()) if match}


def scopes_of_programs() -> dict[str, dict[str, str]]:
    """Program -> operation -> scope, of all programs that are compiled in this process. The last of a name counts."""
    found: dict[str, dict[str, str]] = {}
    for executable in jax.extend.backend.get_backend().live_executables():
        for module in executable.hlo_modules():
            found.setdefault(module.name, {}).update(scopes_of_text(module.to_string()))
    return found


def events_of(trace: Path) -> Iterable[tuple[str, str, float]]:
    """(program, operation, seconds) of every operation in a trace file; what only surrounds others is left out."""
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = {name: value for name, value in event.stats}
                operation = str(stats.get("hlo_op", ""))
                if operation and not event.name.startswith(_AROUND) and not operation.startswith(_AROUND):
                    yield str(stats.get("hlo_module", "")), operation, event.duration_ns * 1e-9


def seconds_by_scope(
    events: Iterable[tuple[str, str, float]], scopes: Mapping[str, Mapping[str, str]]
) -> dict[str, float]:
    """Seconds of each scope, summed over threads and devices, in the order of :data:`SCOPES`, ``other`` last."""
    spent: dict[str, float] = collections.defaultdict(float)
    for program, operation, seconds in events:
        spent[scopes.get(program, {}).get(operation, OTHER)] += seconds
    return {scope: spent[scope] for scope in (*SCOPES, OTHER) if scope in spent}
