"""A peer in a process, and if need be an environment, of its own: one line of JSON asks, one answers.

Nothing but the standard library: both ends use this file, and the peer's environment has no medvista_jax.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

try:
    from measure import timed  # a peer's script: this folder is where it starts
except ImportError:
    from peers.measure import timed

Job = Callable[..., Any]


def serve(jobs: Mapping[str, Job]) -> None:
    """Answers jobs until the input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked.pop("job")
        answers.write(json.dumps(timed(lambda name=name, asked=asked: jobs[name](**asked))) + "\n")
        answers.flush()


class Peer:
    """The other end: a child that answers :meth:`ask`. It waits for its input while it is not asked.

    Args:
      script: a file that calls :func:`serve`.
      python: the interpreter of its environment; ours by default.
    """

    def __init__(self, script: Path, python: Path | str = sys.executable, **environment: str) -> None:
        self.script = script
        self._child = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def ask(self, job: str, **settings: Any) -> dict[str, Any]:
        """:func:`timed` of a job there; RuntimeError when the child has died."""
        self._child.stdin.write(json.dumps({"job": job, **settings}) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.script.name} ended with {self._child.wait()} at {job!r}; its error stands above")
        return json.loads(answer)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()
