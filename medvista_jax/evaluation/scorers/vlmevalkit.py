"""VLMEvalKit's reading of a multiple-choice reply (open-compass/VLMEvalKit@e8e78f05)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from medvista_jax.core.conformance import BadCase
from medvista_jax.evaluation.scorers.base import Case, Result, options_of

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SAID = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def by_letter(reply: str, options: Mapping[str, str], verbose: bool) -> str | None:
    """The one letter among the last five words, ``"Z"`` for a refusal, else the letter said after "answer is"."""
    if "Failed to obtain answer via API" in reply:
        return None
    if any(refusal in reply for refusal in REFUSALS):
        return "Z"
    words = reply.translate(_MARKS).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1:
        if verbose and "A" in words and len(words) > 3:
            return None  # perhaps the article
        if words.index(found[0]) > len(words) - 5:
            return found[0]
    elif not found and "Z" in words:
        return "Z"
    said = _SAID.search(reply)
    letter = said[1].upper() if said else None
    return letter if letter in options else None


def by_text(reply: str, options: Mapping[str, str]) -> str | None:
    """The one option whose text occurs; none in a reply of more than twice all options' length."""
    if len(reply.lower()) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, text in options.items() if text.lower() in reply.lower()]
    return found[0] if len(found) == 1 else None


def can_infer(case: Case) -> Result:
    """Multiple choice: a single letter near the end, else a single option's text; ``false`` for none (a judge or a
    random draw comes next upstream), ``"Z"`` for a refusal. ``env_VERBOSE`` is the environment's variable VERBOSE.

    Source: open-compass/VLMEvalKit@e8e78f05, vlmeval/utils/matching_util.py.
    """
    if "prediction" not in case:
        raise BadCase("input has no 'prediction'")
    reply, options = str(case["prediction"]), options_of(case)
    return {"inferred": by_letter(reply, options, bool(case.get("env_VERBOSE"))) or by_text(reply, options) or False}
