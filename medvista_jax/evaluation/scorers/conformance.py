"""Compares the strict scorers with cases whose results are known.

A file is ``{"cases": [{"id", "scorer", "input": {…}, "expected": {…}}, …]}``. Every named part of ``expected`` must
agree, numbers to 1e-6. ``{"error": "…"}`` stands for upstream's program ending there. Results that upstream draws at
random, ``{"nondeterministic": true}`` or several under ``"acc_possible"``, are skipped where the scorer here finds none
or the same ones; where it finds a definite result, it differs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvista_jax.evaluation.scorers.base import BadCase, UpstreamFails
from medvista_jax.evaluation.scorers.strict import STRICT

TOLERANCE = 1e-6


class BadFile(Exception):
    """The file cannot be read as cases."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of a case. ``skipped`` says why it decides nothing, ``unreadable`` what is wrong with its input."""

    id: str
    expected: Any
    found: Any = None
    agrees: bool = False
    skipped: str = ""
    unreadable: str = ""

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.id}: skipped: {self.skipped}"
        if self.unreadable:
            return f"{self.id}: cannot be read: {self.unreadable}"
        if self.agrees:
            return f"{self.id}: agree: {_short(self.expected)}"
        return f"{self.id}: DIFFER: expected {_short(self.expected)}, found {_short(self.found)}"


def read_cases(path: Path) -> list[Mapping[str, Any]]:
    """The cases of a file.

    Raises:
      BadFile: when it cannot be read, or names a scorer that is unknown.
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
        if not isinstance(case, dict) or not all(isinstance(case.get(part), dict) for part in ("input", "expected")):
            raise BadFile(f'{path}: {name} lacks "input" or "expected" (objects)')
        if case.get("scorer") not in STRICT:
            raise BadFile(f"{path}: {name} has the unknown scorer {case.get('scorer')!r}; known: {', '.join(STRICT)}")
    return cases


def run(case: Mapping[str, Any]) -> Verdict:
    """Runs one case of :func:`read_cases`."""
    name, expected = str(case.get("id", "?")), case["expected"]
    try:
        found = STRICT[case["scorer"]](case["input"])
    except UpstreamFails as error:
        found = {"error": str(error)}
    except BadCase as error:
        return Verdict(name, expected, unreadable=f"{case['scorer']}: {error}")
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        return Verdict(name, expected, unreadable=f"{case['scorer']}: the input is of another form: {error!r}")
    found = {key: found[key] for key in expected if key in found} or found
    # What else a case says of a program that ended with an error is how far it came.
    agrees = alike({"error": expected["error"]} if "error" in expected else expected, found)
    if agrees and (random := _random(expected)):
        return Verdict(name, expected, found, skipped=random)
    return Verdict(name, expected, found, agrees)


def _random(expected: Mapping[str, Any]) -> str:
    """Why the case decides nothing; empty when it does."""
    if expected.get("nondeterministic"):
        return "upstream draws an option at random; here the reply is unparsable, so wrong"
    possible = expected.get("acc_possible")
    if isinstance(possible, list) and len(possible) > 1:
        return f"upstream gives any of {', '.join(map(_short, possible))}, by the order of a set"
    return ""


def alike(expected: Any, found: Any) -> bool:
    """Equal, numbers to :data:`TOLERANCE`, item by item."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(alike(value, found[key]) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(alike, expected, found))
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return abs(expected - found) <= TOLERANCE
    return expected == found


def _short(value: Any) -> str:
    """Numbers without the dust of their last bits."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
