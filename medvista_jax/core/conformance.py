"""Compares functions of ours with cases whose results are known: reading them, the verdicts, the command's output.

A file is ``{"cases": [{"id", KEY, "input": {…}, "expected": …}, …]}``; KEY says which function a case is for. Who runs
cases brings a :class:`Subject`, and makes :class:`Verdict` of them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

TOLERANCE = 1e-6
"""Numbers that differ by no more are the same."""

Case = Mapping[str, Any]


class BadFile(Exception):
    """The file cannot be read as cases. One line."""


class BadCase(Exception):
    """The case lacks what the function reads, or has it in another form."""


class Skipped(Exception):
    """The case cannot be run here, or decides nothing; the message says why."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of a case.

    Attributes:
      id, expected: of the case.
      found: None where it could not be run.
      agrees: ``found`` is what was expected.
      skipped: why it decides nothing here, else "".
      unreadable: what is wrong with its input, else "".
      words: a verdict that is neither skipped nor unreadable, for people.
    """

    id: str
    expected: Any
    found: Any = None
    agrees: bool = False
    skipped: str = ""
    unreadable: str = ""
    words: Callable[[Verdict], str] = dataclasses.field(default=repr, repr=False, compare=False)

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.id}: skipped: {self.skipped}"
        if self.unreadable:
            return f"{self.id}: cannot be read: {self.unreadable}"
        return f"{self.id}: {self.words(self)}"


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
      program: the command, for messages: "medvista_jax.learning.rewards".
      key: of a case, whose value names the function: "preset".
      known: its names.
      whole: whether a case has all its parts.
      lacks: what it must have, in words.
      call: runs a case: (found, agrees). May raise :class:`Skipped` and :class:`BadCase`.
      words: see :class:`Verdict`.
    """

    program: str
    key: str
    known: Collection[str]
    whole: Callable[[Case], bool]
    lacks: str
    call: Callable[[Case], tuple[Any, bool]]
    words: Callable[[Verdict], str]

    def read_cases(self, path: Path) -> list[Case]:
        """The cases of a file.

        Raises:
          BadFile: when it cannot be read, or names a function that is unknown.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadFile(f"{path}: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise BadFile(f"{path} is not JSON: {error}") from None
        cases = content.get("cases") if isinstance(content, dict) else content
        if not isinstance(cases, list) or not cases:
            raise BadFile(f'{path} has no list of cases under "cases"')
        for number, case in enumerate(cases):
            name = case.get("id", f"case {number}") if isinstance(case, dict) else f"case {number}"
            if not isinstance(case, dict) or not self.whole(case):
                raise BadFile(f"{path}: {name} lacks {self.lacks}")
            called = case.get(self.key)
            if called not in self.known:
                raise BadFile(f"{path}: {name} has the unknown {self.key} {called!r}; known: {', '.join(self.known)}")
        return cases

    def run(self, case: Case) -> Verdict:
        """Runs one case of :meth:`read_cases`."""
        name, expected = str(case.get("id", "?")), case["expected"]
        try:
            found, agrees = self.call(case)
        except Skipped as reason:
            return Verdict(name, expected, skipped=str(reason))
        except BadCase as error:
            return Verdict(name, expected, unreadable=f"{case[self.key]}: {error}")
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            return Verdict(name, expected, unreadable=f"{case[self.key]}: the input is of another form: {error!r}")
        return Verdict(name, expected, found, agrees, words=self.words)

    def command(self, path: Path) -> int:
        """Runs a file and prints every verdict and their number.

        Returns:
          Exit code: 0 when every case agrees or is skipped, 1 when one differs, 2 when the file or the input of a case
          cannot be read.
        """
        try:
            verdicts = [self.run(case) for case in self.read_cases(path)]
        except BadFile as error:
            print(f"{self.program}: {error}", file=sys.stderr)
            return 2
        print("\n".join(map(str, verdicts)))
        agree, skipped = sum(verdict.agrees for verdict in verdicts), sum(bool(verdict.skipped) for verdict in verdicts)
        unreadable = [verdict for verdict in verdicts if verdict.unreadable]
        differ = len(verdicts) - agree - skipped - len(unreadable)
        counts = [f"{len(verdicts)} cases: {agree} agree", f"{differ} differ", f"{skipped} skipped"]
        if unreadable:
            counts.append(f"{len(unreadable)} cannot be read")
            print(f"{self.program}: {path}: {unreadable[0]}", file=sys.stderr)
        print("\n" + ", ".join(counts))
        return 2 if unreadable else 1 if differ else 0


def alike(expected: Any, found: Any, truth_is_number: bool = False) -> bool:
    """Equal, numbers to :data:`TOLERANCE`, item by item.

    Args:
      truth_is_number: True equals 1 and 1.0.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            alike(value, found[key], truth_is_number) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(
            alike(one, other, truth_is_number) for one, other in zip(expected, found, strict=True)
        )
    if not truth_is_number and (isinstance(expected, bool) or isinstance(found, bool)):
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return abs(expected - found) <= TOLERANCE
    return expected == found


def short(value: Any, text: Callable[[Any], str] = repr) -> str:
    """Numbers without the dust of their last bits.

    Args:
      text: how anything else is written.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {short(item, text)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(short(item, text) for item in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else text(value)
