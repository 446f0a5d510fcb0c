"""What the readers of transcripts share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from medvista_jax.core.conformance import BadCase

Case = Mapping[str, Any]
"""The ``input`` of a case."""

Parts = Mapping[str, Any]
"""What a reader finds: ``"reward"``, and the parts by name."""

Reader = Callable[[Case], Parts]


def wanted(case: Case, *names: str) -> Any:
    """The first of the names that the case has.

    Raises:
      BadCase: when it has none.
    """
    for name in names:
        if name in case:
            return case[name]
    raise BadCase(f"input has none of {', '.join(map(repr, names))}; it has {', '.join(map(repr, case)) or 'nothing'}")


def response(case: Case) -> str:
    """The text that the policy and the environment wrote."""
    text = wanted(case, "response", "prediction", "completion", "predict_str")
    if not isinstance(text, str):
        raise BadCase(f"the response is {type(text).__name__}, not text")
    return unabridged(text)


def verdict(case: Case) -> float:
    """What the judge says when it is asked."""
    value = wanted(case, "judge", "acc", "accuracy")
    if not isinstance(value, bool | int | float):
        raise BadCase(f"the judge's verdict is {value!r}, not a number")
    return float(value)


_ABRIDGED = re.compile(r"(\S)\1+\.\.\.\([^()\d]*(\d+) x\b[^()]*\)\.\.\.")


def unabridged(text: str) -> str:
    """The text with long runs written out: ``xxxxxx...(answer is 1000 x 'x')...`` stands for a thousand of them."""
    return _ABRIDGED.sub(lambda found: found[1] * int(found[2]), text)


def first_tagged(text: str, tag: str, flags: int = re.DOTALL) -> str | None:
    """What stands in the first pair of tags, without space around it; None where there is no pair."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, flags)
    return found[1].strip() if found else None


def paired(text: str, tag: str, least: int = 0) -> bool:
    """As many opening tags as closing ones, and at least so many."""
    count = text.count(f"<{tag}>")
    return count == text.count(f"</{tag}>") and count >= least


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
