"""Compares the strict scorers with cases whose results are known.

A file is ``{"cases": [{"id", "scorer", "input": {…}, "expected": {…}}, …]}``. Every named part of ``expected`` must
agree, numbers to 1e-6. ``{"error": "…"}`` stands for upstream's program ending there. Results that upstream draws at
random, ``{"nondeterministic": true}`` or several under ``"acc_possible"``, are skipped where the scorer here finds none
or the same ones; where it finds a definite result, it differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvista_jax.core.conformance import Case, Skipped, Subject, Verdict, alike, short
from medvista_jax.evaluation.scorers.base import UpstreamFails
from medvista_jax.evaluation.scorers.strict import STRICT


def _call(case: Case) -> tuple[Any, bool]:
    expected = case["expected"]
    try:
        found = STRICT[case["scorer"]](case["input"])
    except UpstreamFails as error:
        found = {"error": str(error)}
    found = {key: found[key] for key in expected if key in found} or found
    # What else a case says of a program that ended with an error is how far it came.
    agrees = alike({"error": expected["error"]} if "error" in expected else expected, found)
    if agrees and (random := _random(expected)):
        raise Skipped(random)
    return found, agrees


def _random(expected: Mapping[str, Any]) -> str:
    """Why the case decides nothing; empty when it does."""
    if expected.get("nondeterministic"):
        return "upstream draws an option at random; here the reply is unparsable, so wrong"
    possible = expected.get("acc_possible")
    if isinstance(possible, list) and len(possible) > 1:
        return f"upstream gives any of {', '.join(map(short, possible))}, by the order of a set"
    return ""


def _words(verdict: Verdict) -> str:
    if verdict.agrees:
        return f"agree: {short(verdict.expected)}"
    return f"DIFFER: expected {short(verdict.expected)}, found {short(verdict.found)}"


SUBJECT = Subject(
    program="medvista_jax.evaluation.scorers",
    key="scorer",
    known=STRICT,
    whole=lambda case: all(isinstance(case.get(part), dict) for part in ("input", "expected")),
    lacks='"input" or "expected" (objects)',
    call=_call,
    words=_words,
)
