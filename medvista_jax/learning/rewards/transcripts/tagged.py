"""Rewards that look for tags in one response, as upstream code reads them, traps included."""

from __future__ import annotations

import re

from medvista_jax.core.conformance import Skipped
from medvista_jax.learning.rewards import formulas
from medvista_jax.learning.rewards.transcripts import mathematics
from medvista_jax.learning.rewards.transcripts.base import (
    Case,
    Parts,
    first_tagged,
    is_number,
    paired,
    response,
    verdict,
    wanted,
)

_IMAGE, _IMAGE_END = "<|vision_start|><|image_pad|>", "<|image_pad|><|vision_end|>"


def after_thought(text: str) -> str:
    """What follows the last ``</think>``; all of it where there is none."""
    return text.split("</think>")[-1].strip()


def _deepeyes(case: Case) -> tuple[float, float, int]:
    """acc, fmt and images. Tags of images that the policy wrote itself count too; a response without tags is no error
    of format, for 0 equals 0; and the judge reads all of it then.
    """
    text = response(case)
    images = text.count(_IMAGE)
    good = paired(text, "think") and images == text.count(_IMAGE_END) and paired(after_thought(text), "answer")
    answer = text.split("<answer>")[-1].split("</answer>")[0].strip()
    if len(answer) >= 1000:
        return 0.0, -1.0, images
    return verdict(case), 0.0 if good else -1.0, images


def deepeyes(case: Case) -> Parts:
    acc, fmt, images = _deepeyes(case)
    return {"reward": formulas.deepeyes(acc, fmt, images), "accuracy": acc, "format": fmt}


def deepeyes_additive_tool(case: Case) -> Parts:
    acc, fmt, images = _deepeyes(case)
    return {"reward": formulas.deepeyes_additive_tool(acc, fmt, images), "accuracy": acc, "format": fmt}


def deepeyes_multiplicative(case: Case) -> Parts:
    acc, fmt, images = _deepeyes(case)
    return {"reward": formulas.deepeyes_multiplicative(acc, fmt, images), "accuracy": acc, "format": fmt}


def deepeyes_math(case: Case) -> Parts:
    """The answer is the last ``\\boxed{…}`` after the thought, up to its first closing brace; several are an error of
    format, and the last of them counts. math-verify is asked first, then the judge.
    """
    text = response(case)
    boxes = re.findall(r"\\boxed{([^}]+)}", after_thought(text))
    fmt = 0.0 if paired(text, "think") and len(boxes) == 1 else -1.0
    acc = math_or_judge(case, boxes[-1]) if boxes else 0.0
    return {"reward": formulas.weighted(acc, fmt, 1.2, 0.4), "accuracy": acc, "format": fmt}


def math_or_judge(case: Case, answer: str) -> float:
    """1 where math-verify finds the gold in the answer, else what the judge says; of a case with a gold and no judge,
    math-verify's word is the last.
    """
    if "gold" in case and mathematics.same(str(case["gold"]), answer):
        return 1.0
    return verdict({"judge": 0, **case}) if "gold" in case else verdict(case)


def _deepeyes_v2(case: Case) -> tuple[str, float, bool]:
    """The text with its first tag, acc, and whether the format is right."""
    text = response(case)
    text = text if text.startswith("<think>") else "<think>" + text
    tail = after_thought(text)
    answer = first_tagged(tail, "answer") or ""
    if len(answer) >= 300:
        return text, 0.0, False
    good = paired(text, "think", 1) and paired(text, "code") and paired(tail, "answer", 1) and bool(answer)
    return text, verdict(case), good


def deepeyes_v2(case: Case) -> Parts:
    """Without an answer the judge is still asked, and what it says still pays."""
    _, acc, good = _deepeyes_v2(case)
    return {"reward": formulas.weighted(acc, good, 0.8, 0.2), "accuracy": acc, "format": float(good)}


def deepeyes_v2_search(case: Case) -> Parts:
    """Any ``<tool_call>`` is a search, whatever it names, and opening and closing tags of it must be as many."""
    text, acc, good = _deepeyes_v2(case)
    good = good and paired(text, "tool_call")
    score = formulas.deepeyes_v2_search(acc, good, "<tool_call>" in text)
    return {"reward": score, "accuracy": acc, "format": float(good)}


_FOCUS_INSTRUCTION = (
    "Think in the mind first, and then decide whether to call tools one or more times OR provide final answer. Format "
    "strictly as: <think>...</think> <tool_call>...</tool_call> <tool_call>...</tool_call> (if any tools needed) OR "
    "<answer>...</answer> (if no tools needed)."
)
"""It comes back with every observation and is no part of what the policy wrote."""


def chain_of_focus(case: Case) -> Parts:
    """At least one pair of each tag, and no more than 1,000 words in the last answer. On mathematics (``data_source``
    "thinklite_eureka") an empty answer is wrong, and math-verify is asked before the judge.
    """
    text = response(case)
    if case.get("data_source") == "thinklite_eureka":
        answer = last_answer(text)
        acc = math_or_judge(case, answer) if answer else 0.0
    else:
        text = text.replace(_FOCUS_INSTRUCTION, "")
        acc = verdict(case)
    good = paired(text, "think", 1) and paired(text, "answer", 1) and len(last_answer(text).split()) <= 1000
    return {"reward": formulas.weighted(acc, good, 0.9, 0.1), "accuracy": acc, "format": float(good)}


def last_answer(text: str) -> str:
    """What stands in the last pair of answer tags; "" where there is none."""
    return (re.findall(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL) or [""])[-1].strip()


def thought_then_answer(text: str) -> bool:
    """The whole text is a thought and an answer. Tags within them are not looked at."""
    return re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL) is not None


def med_r1(case: Case) -> Parts:
    """math-verify over the whole response, thought included, then equal strings: an answer of several lines is none,
    and then the whole response is compared. Case counts.
    """
    text, gold = response(case), str(wanted(case, "gold", "answer", "solution"))
    equal = one_line_answer(text) == one_line_answer(gold)
    acc = float(equal or mathematics.same(text, gold))
    fmt = float(thought_then_answer(text))
    return {"reward": formulas.weighted(acc, fmt, 1.0, 1.0), "accuracy": acc, "format": fmt}


def one_line_answer(text: str) -> str:
    """What stands between the tags if it is on one line, else all of the text."""
    inside = first_tagged(text, "answer", 0)
    return text.strip() if inside is None else inside


def medvlthinker(case: Case) -> Parts:
    """Right is the gold, its letter (``answer_label``), or "letter. gold"; case does not count."""
    text, gold = response(case), str(wanted(case, "gold", "answer", "ground_truth")).strip().lower()
    label = case.get("answer_label")
    right = {gold}
    if label is not None:
        # Upstream joins letter and gold before it strips them, so that inner space stays.
        raw = str(wanted(case, "gold", "answer", "ground_truth"))
        right |= {str(label).strip().lower(), f"{label}. {raw}".strip().lower()}
    fmt = float(thought_then_answer(text))
    acc = float(one_line_answer(text).strip().lower() in right)
    return {"reward": formulas.medvlthinker(acc, fmt), "accuracy": acc if fmt else 0.0, "format": fmt}


def visionary_r1(case: Case) -> Parts:
    """Caption, exactly one white space, thought, answer. Gold stands in answer tags; without them it counts as empty,
    which only an empty answer equals.
    """
    text = response(case)
    pattern = r"<info>.*?</info>\s<think>.*?</think>\s*<answer>.*?</answer>"
    fmt = float(re.fullmatch(pattern, text, re.DOTALL) is not None)
    if "judge" in case:
        acc = verdict(case)
    else:
        gold, said = (
            first_tagged(part, "answer") or "" for part in (str(wanted(case, "gold", "solution", "answer")), text)
        )
        acc = graded(gold, said, case.get("problem_type", ""))
    caption = float(case.get("caption", case.get("caption_reward", 0.0)))
    return {"reward": formulas.visionary_r1(acc, fmt, caption), "accuracy": acc, "format": fmt}


def graded(gold: str, said: str, problem_type: str) -> float:
    """Numbers by value ("%" divides by 100), text by equality, or by likeness where it was read from a picture."""
    if problem_type == "free-form":
        raise Skipped("free-form answers are graded by ROUGE, which is not installed here; give its value as 'judge'")
    if is_number(gold):
        found = re.search(r"[-+]?\d*\.?\d+", said)
        if found is None:
            return 0.0
        return float(float(found[0]) / (100 if said.strip().endswith("%") else 1) == float(gold))
    if problem_type != "OCR":
        return float(said.lower() == gold.lower())
    longest = max(len(gold), len(said))
    return max(0.0, 1 - edit_distance(gold.lower(), said.lower()) / longest) if longest else 0.0


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
