"""MMMU's parsers as MedEvalKit and lmms-eval have them, both after MMMU-Benchmark/MMMU.

Where upstream draws an option (``random.choice``), these find none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from medvista_jax.core.conformance import BadCase
from medvista_jax.evaluation.scorers.base import RANDOM, Case, Result, options_of, text_of
from medvista_jax.evaluation.scorers.medevalkit import boxed, tagged

PUNCTUATION = ",.!?;:'"
LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What an open answer stands behind."""

_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",  # 12,000
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",  # 1e3
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",  # 12, .5, 3.14
)


def _padded(reply: str) -> str:
    """Without punctuation at the ends, stripped one mark after the other, and with a space on both sides."""
    for mark in PUNCTUATION:
        reply = reply.strip(mark)
    return f" {reply} "


def _choose(text: str, options: Mapping[str, str], forms: Sequence[str], placed: str) -> str | None:
    """The option of the first form that any has in the text, else the one named by its text in a long reply.

    Args:
      text: :func:`_padded`.
      options: by letter.
      forms: how a letter may stand, such as ``"({})"``.
      placed: the form by which the last of several letters is found, but for letters in brackets.
    """
    for form in forms:
        found = [letter for letter in options if form.format(letter) in text]
        if found:
            place = form if form == "({})" else placed
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    lower = text.lower()
    found = [letter for letter, option in options.items() if option.lower() in lower]
    if found and len(text.split()) > 5:
        return max(found, key=lambda letter: lower.rfind(options[letter].lower()))
    # To draw one of a single option is no chance.
    return next(iter(options)) if len(options) == 1 else None


def _letter(found: str | None) -> Result:
    return dict(RANDOM) if found is None else {"parsed": found}


def medevalkit_choice(case: Case) -> Result:
    """MMMU, multiple choice: ``(A)``, then ``A`` between spaces, then an option's text in more than five words; the
    last of several.

    Source: alibaba-damo-academy/MedEvalKit@9b12e3b, utils/MMMU/eval_utils.py.
    """
    reply = text_of(case, "prediction") if case.get("prediction") is not None else ""
    if "<answer>" in reply:
        reply = tagged(reply, "answer")
    elif "\\boxed" in reply:
        content = boxed(reply)
        reply = "None" if content is None else content
    return _letter(_choose(_padded(reply.strip()), options_of(case), ("({})", " {} "), " {} "))


def lmms_choice(case: Case) -> Result:
    """MMMU, multiple choice: as in MedEvalKit without tags and boxes, but a letter may end a word (``DNA`` is A), and
    ``A.`` counts.

    Source: EvolvingLMMs-Lab/lmms-eval@75571cfe, lmms_eval/tasks/_task_utils/mmmu_mcq_utils.py.
    """
    text = _padded(text_of(case, "prediction"))
    return _letter(_choose(text, options_of(case), ("({})", "{} ", "{}."), " {} "))


def normal_forms(text: str) -> list[float | str]:
    """A number to two decimals, or the text in lower case; one character is told from parts of words by a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_answers(reply: str) -> set[float | str]:
    """Every text and number of the reply that may be its answer: the shortest tail behind a lead of each line."""
    text = reply.strip().strip(".").lower()
    lines = text.split("\n")
    tails = []
    for number, line in enumerate(lines, 1):
        leads = (*LEADS, "=") if number == len(lines) else LEADS
        # An empty tail gives way to the one after it.
        tail = ""
        for lead in leads:
            if lead in line:
                candidate = line.rpartition(lead)[2].strip()
                if not tail or len(candidate) < len(tail):
                    tail = candidate
        if tail and tail not in set(PUNCTUATION):
            tails.append(tail)
    tails = tails or [text]
    numbers = [number for tail in tails for pattern in _NUMBERS for number in re.findall(pattern, tail)]
    return {form for part in (*tails, *numbers) for form in normal_forms(part)}


def _gold_forms(case: Case) -> list[float | str]:
    golds = case.get("gold")
    golds = golds if isinstance(golds, list) else [golds]
    if not golds or not all(isinstance(gold, str) for gold in golds):
        raise BadCase('"gold" is neither a text nor a list of them')
    return [form for gold in golds for form in normal_forms(gold)]


def medevalkit_open(case: Case) -> Result:
    """MMMU, open: the gold text inside any candidate, or the gold number among them.

    Source: alibaba-damo-academy/MedEvalKit@9b12e3b, utils/MMMU/eval_utils.py.
    """
    answers, golds = open_answers(text_of(case, "prediction")), _gold_forms(case)
    correct = any(
        gold in answer if isinstance(answer, str) else gold == answer
        for answer in answers
        for gold in golds
        if isinstance(answer, float) or isinstance(gold, str)
    )
    return {"correct": correct, "parsed": sorted(map(str, answers))}


def lmms_open(case: Case) -> Result:
    """MMMU, open, as lmms-eval's task runs it: one candidate (whichever a set has first) is compared character by
    character, so that nothing but an empty gold answer is ever found.

    Source: EvolvingLMMs-Lab/lmms-eval@75571cfe, lmms_eval/tasks/mmmu/utils.py.
    """
    answers, golds = open_answers(text_of(case, "prediction")), _gold_forms(case)
    possible = {float("" in golds and str(answer) != "") for answer in answers}
    return {"acc_possible": sorted(possible)}
