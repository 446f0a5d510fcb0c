"""Compares the rewards with cases whose results are known.

A file is ``{"cases": [{"id", "preset", "input": {…}, "expected": …}, …]}``. ``expected`` is the reward, a list of them
for a group, or an object of named parts, each of which must agree to 1e-6.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvista_jax.learning.rewards.transcripts import READERS
from medvista_jax.learning.rewards.transcripts.base import BadCase, Skipped

TOLERANCE = 1e-6


class BadFile(Exception):
    """The file cannot be read as cases."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of a case. ``got`` is None where it could not be run: ``skipped`` says what is missing here, or
    ``unreadable`` what is wrong with its input.
    """

    id: str
    expected: Any
    got: Any = None
    agrees: bool = False
    skipped: str = ""
    unreadable: str = ""

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.id}: skipped: {self.skipped}"
        if self.unreadable:
            return f"{self.id}: cannot be read: {self.unreadable}"
        return (
            f"{self.id}: expected {_short(self.expected)}, got {_short(self.got)}{'' if self.agrees else '  DIFFERS'}"
        )


def read_cases(path: Path) -> list[Mapping[str, Any]]:
    """The cases of a file.

    Raises:
      BadFile: when it cannot be read, or names a preset that is unknown.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is not JSON: {error}") from None
    cases = content.get("cases") if isinstance(content, dict) else content
    if not isinstance(cases, list) or not cases:
        raise BadFile(f'{path} has no list of cases under "cases"')
    for number, case in enumerate(cases):
        name = case.get("id", f"case {number}") if isinstance(case, dict) else f"case {number}"
        if not isinstance(case, dict) or not isinstance(case.get("input"), dict) or "expected" not in case:
            raise BadFile(f'{path}: {name} lacks "preset", "input" (an object) or "expected"')
        if case.get("preset") not in READERS:
            raise BadFile(f"{path}: {name} has the unknown preset {case.get('preset')!r}; known: {', '.join(READERS)}")
    return cases


def run(case: Mapping[str, Any]) -> Verdict:
    """Runs one case of :func:`read_cases`."""
    name, expected = str(case.get("id", "?")), case["expected"]
    try:
        parts = READERS[case["preset"]](case["input"])
    except Skipped as reason:
        return Verdict(name, expected, skipped=str(reason))
    except BadCase as error:
        return Verdict(name, expected, unreadable=f"{case['preset']}: {error}")
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        return Verdict(name, expected, unreadable=f"{case['preset']}: the input is of another form: {error!r}")
    got = {key: parts.get(key) for key in expected} if isinstance(expected, dict) else parts["reward"]
    return Verdict(name, expected, got, alike(expected, got))


def alike(expected: Any, got: Any) -> bool:
    """Equal, numbers to :data:`TOLERANCE`, item by item."""
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(alike(value, got[key]) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(alike, expected, got))
    if isinstance(expected, int | float) and isinstance(got, int | float):
        return abs(expected - got) <= TOLERANCE
    return expected == got


def _short(value: Any) -> str:
    """Numbers without the dust of their last bits."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
