"""What the strict scorers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvista_jax.core.conformance import BadCase

Case = Mapping[str, Any]
"""The ``input`` of a case."""

Result = dict[str, Any]
"""What a scorer finds, by name."""

RANDOM = {"nondeterministic": True}
"""Upstream would draw its answer. Nothing is drawn here: such a reply is unparsable, so wrong."""


class UpstreamFails(Exception):
    """Upstream's program ends here; the message is its error as Python prints it."""


def text_of(case: Case, name: str) -> str:
    """An entry that must be text.

    Raises:
      BadCase: when it is missing or something else.
    """
    if name not in case:
        raise BadCase(f"input has no {name!r}; it has {', '.join(map(repr, case)) or 'nothing'}")
    if not isinstance(case[name], str):
        raise BadCase(f"{name!r} is {type(case[name]).__name__}, not text")
    return case[name]


def options_of(case: Case) -> dict[str, str]:
    """The options by letter, from ``{"A": "CT", …}``.

    Raises:
      BadCase: when there are none, or they are of another form.
    """
    options = case.get("options")
    if not isinstance(options, dict) or not options:
        raise BadCase('"options" is not an object of at least one letter and its text')
    return {letter: str(text) for letter, text in options.items()}
