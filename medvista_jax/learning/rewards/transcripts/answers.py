"""Rewards that grade the words of an answer, as upstream code reads them, traps included."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Sequence

from medvista_jax.core.conformance import BadCase
from medvista_jax.learning.rewards import formulas
from medvista_jax.learning.rewards.transcripts.base import Case, Parts, is_number, response, verdict, wanted


def final_answer(text: str) -> str | None:
    """What follows the first "FINAL ANSWER:", up to a stop with white space behind it or the end of the text."""
    found = re.findall(r"FINAL ANSWER:\s*(.*?)(?=\.\s|\.?$)", text)
    return found[0] if found else None


def vtool_r1(case: Case) -> Parts:
    """The judge is asked about a final answer; without one, 0."""
    text = case.get("response", case.get("prediction"))
    acc = verdict(case) if text is None or final_answer(response(case)) is not None else 0.0
    return {"reward": acc, "accuracy": acc}


def vtool_r1_string(case: Case) -> Parts:
    """Answers are parted by "||" and golds by "|||". Every given answer earns the best likeness to any gold, so that
    one right answer said twice counts twice, and more answers than golds can earn more than 1.
    """
    golds = str(wanted(case, "gold", "ground_truth")).split("|||")
    given = final_answer(response(case))
    earned = sum(likeness(said, golds) for said in given.split("||")) if given is not None else 0.0
    score = earned / len(golds)
    return {"reward": score, "overall": score}


def likeness(said: str, golds: Sequence[str]) -> float:
    """The best of the golds: numbers by degrees, which can be below 0, words when they are equal, case included."""
    scores = []
    for gold in golds:
        if is_number(gold) and is_number(said):
            scores.append(_number_likeness(float(gold), float(said)))
        elif gold == said:
            scores.append(1.0)
    return max(scores, default=0.0)


def _number_likeness(one: float, other: float) -> float:
    """Of words such as "inf", too: no number is like infinity, which upstream's division calls not a number."""
    if math.isfinite(one) and math.isfinite(other):
        return formulas.similarity(one, other)
    return 1.0 if one == other else 0.0 if 0 in (one, other) else math.nan


def grit(case: Case) -> Parts:
    """The sum of the parts; ``judge`` is the language model's score, and BLEU wants the gold."""
    text, parts = response(case), grit_rule_parts(case)
    counts_objects = "ovd" in case.get("dataset", "")
    gpt = verdict(case) if "<answer>" in text and not counts_objects else 0.0
    bleu = bleu1(text, str(wanted(case, "gold", "answer", "gt_answer")))
    names = ("answer_format", "think_rethink", "grounding", "non_repetition")
    score = formulas.grit(gpt, bleu, sum(parts[name] for name in names))
    return {**parts, "reward": score, "gpt": gpt, "bleu": 0.1 * bleu}


def grit_rule_parts(case: Case) -> Parts:
    """The parts that need no model. ``completion_ids`` are the response's tokens, for the last; without them only words
    count.
    """
    text = response(case)
    parts = {
        "answer_format": 0.25 * ("<answer>" in text) + 0.25 * (text.count("<answer>") == 1),
        "think_rethink": 0.5 * _thoughts(text) / 5,
        "grounding": _grounding(case, text),
        "non_repetition": non_repetition(text, case.get("completion_ids")),
    }
    return {**parts, "reward": sum(parts.values())}


def _thoughts(text: str) -> int:
    """How many of the four tags stand in their order, each sought behind the last of the one before; a fifth point for
    all four and a thought of two words.
    """
    rest, found = text, 0
    for tag in ("<think>", "</think>", "<rethink>", "</rethink>"):
        if tag in rest:
            found += 1
            rest = rest.split(tag)[-1]
    if found < 4:
        return found
    thought = re.sub(r"[^a-zA-Z0-9\s]", " ", text.split("<think>")[-1].split("</think>")[0].strip())
    return found + (len(thought) > 1 and len(thought.split(" ")) > 1)


def _grounding(case: Case, text: str) -> float:
    """0.5 for four numbers in a row before the first second thought, without which there is nothing; on counting
    questions (``dataset`` "tallyqa") 1 more where there are as many such rows as the answer says.
    """
    if "<rethink>" not in text:
        return 0.0
    boxes = re.findall(r"\b\d+,\s*\d+,\s*\d+,\s*\d+\b", text.split("<rethink>")[0])
    counts = case.get("dataset") == "tallyqa" and len(boxes) == int(wanted(case, "gold", "answer", "gt_answer"))
    return 0.5 * bool(boxes) + 1.0 * counts


def bleu1(text: str, gold: str) -> float:
    """BLEU with one-grams of what follows the first ``<answer>``, closing tag included, with the brevity penalty."""
    if "<answer>" not in text:
        return 0.0
    words = lambda part: re.sub(r"[^a-zA-Z0-9\s]", " ", part).lower().split()  # noqa: E731
    said, truth = words(text.split("<answer>", 1)[-1]), words(gold)
    if not said:
        return 0.0
    shared = sum((collections.Counter(said) & collections.Counter(truth)).values())
    brevity = 1.0 if len(said) > len(truth) else math.exp(1 - len(truth) / len(said))
    return brevity * shared / len(said)


def non_repetition(text: str, ids: Sequence[int] | None, size: int = 8, pad: int = 151643) -> float:
    """0.5 less half of the share of neighbouring 8-grams that are equal, among words and among tokens."""
    words = text.split()
    if len(words) < size:
        return 0.5
    starts = range(len(words) - size)
    # Upstream also counts pairs whose second half is cut off at the end.
    alike = sum(words[i : i + size] == words[i + size : i + 2 * size] for i in starts)
    word_share = alike / len(starts) if len(starts) else 0.0
    if ids is None:
        return 0.5 * (1 - word_share)
    if not isinstance(ids, list):
        raise BadCase("'completion_ids' is not a list of token ids")
    ids = ids[: ids.index(pad)] if pad in ids else ids
    pairs = len(ids) - 2 * size + 1
    if pairs < 1:
        return 0.5
    token_share = sum(ids[i : i + size] == ids[i + size : i + 2 * size] for i in range(pairs)) / pairs
    return 0.5 * (1 - token_share - word_share)
