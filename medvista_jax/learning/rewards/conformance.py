"""Compares the rewards with cases whose results are known.

A file is ``{"cases": [{"id", "preset", "input": {…}, "expected": …}, …]}``. ``expected`` is the reward, a list of them
for a group, or an object of named parts, each of which must agree to 1e-6.
"""

from __future__ import annotations

from typing import Any

from medvista_jax.core.conformance import Case, Subject, Verdict, alike, short
from medvista_jax.learning.rewards.transcripts import READERS


def _call(case: Case) -> tuple[Any, bool]:
    parts, expected = READERS[case["preset"]](case["input"]), case["expected"]
    got = {key: parts.get(key) for key in expected} if isinstance(expected, dict) else parts["reward"]
    return got, alike(expected, got, truth_is_number=True)


def _words(verdict: Verdict) -> str:
    expected, got = short(verdict.expected, str), short(verdict.found, str)
    return f"expected {expected}, got {got}{'' if verdict.agrees else '  DIFFERS'}"


SUBJECT = Subject(
    program="medvista_jax.learning.rewards",
    key="preset",
    known=READERS,
    whole=lambda case: isinstance(case.get("input"), dict) and "expected" in case,
    lacks='"preset", "input" (an object) or "expected"',
    call=_call,
    words=_words,
)
