"""What answers questions: the interface, and a policy that reads its replies from a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from medvista_jax.evaluation.benchmark.lines import BadRun
from medvista_jax.evaluation.protocols import Ask


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a policy says to one question.

    Attributes:
      text: what is scored.
      turns: everything it said, turn by turn, where there were several.
      calls: tool calls attempted.
    """

    text: str
    turns: tuple[str, ...] = ()
    calls: int = 0


class Policy(Protocol):
    """Anything with these three."""

    name: str
    """For the result: a folder, a file, an address."""

    tools: tuple[str, ...]
    """Names of the tools that it was offered; empty for none."""

    def reply(self, asks: Sequence[Ask]) -> Sequence[Reply | str]:
        """One reply to each question, in order. The same question gets the same reply, whatever stands beside it."""
        ...


class RecordedPolicy:
    """Replies out of a file of JSON lines: ``{"id", "reply"}``, and ``"set"`` where ids of several sets could clash.

    The lines that a run writes are such a file. A later line of a question replaces an earlier one.

    Args:
      path: of the file.
      tools: names of the tools that the replies were made with.

    Raises:
      BadRun: the file is missing, or a line is no such object.
    """

    def __init__(self, path: Path, tools: tuple[str, ...] = ()) -> None:
        self.name, self.tools = str(path), tools
        self._replies: dict[tuple[str, str], Reply] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadRun(f"{path}: the replies cannot be read ({getattr(error, 'strerror', None) or error})") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._take(line, f"{path}, line {number}")

    def _take(self, line: str, where: str) -> None:
        try:
            entry = json.loads(line)
            name, text = entry["id"], entry["reply"]
            turns, calls = tuple(entry.get("turns", ())), int(entry.get("calls", 0))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRun(f'{where}: is no {{"id": …, "reply": …}} ({error!r})') from None
        if not isinstance(text, str):
            raise BadRun(f'{where}: "reply" is {type(text).__name__}, not text')
        self._replies[str(entry.get("set", "")), str(name)] = Reply(text, turns, calls)

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """The replies on file.

        Raises:
          BadRun: there is none for one of them.
        """
        out = []
        for ask in asks:
            found = self._replies.get((ask.set, ask.id), self._replies.get(("", ask.id)))
            if found is None:
                raise BadRun(
                    f"{self.name}: has no reply to {ask.id!r} of {ask.set}; add a line for it, or leave out the set"
                )
            out.append(found)
        return out
