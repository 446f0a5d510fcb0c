"""MedVLThinker's three ways to grade a reply (UCSC-VLAA/MedVLThinker@a3163b1)."""

from __future__ import annotations

import re

from medvista_jax.evaluation.scorers.base import Case, Result, UpstreamFails, text_of

_TAGGED = r"<answer>(.*?)</answer>"
_LEADS = [re.compile(rf"{lead}\s*(.*)", re.IGNORECASE) for lead in ("answer:", "answer is:", "answer is", "is:")]


def same_answer(given: str, answer: str, label: str | None, within: bool = False) -> bool:
    """The option's letter, its text, or both as "B. MRI", whatever the case of letters.

    Args:
      given: what the model answered.
      answer: the right option's text.
      label: its letter; None in open questions.
      within: the text anywhere in ``given`` is enough (the rule for LLaVA-Med).
    """
    if within and answer.lower() in given.lower():
        return True
    accepted = [answer] if label is None else [f"{label}. {answer}", label, answer]
    return given.strip().lower() in [form.strip().lower() for form in accepted]


def _gold(case: Case) -> tuple[str, str | None]:
    return text_of(case, "answer"), text_of(case, "answer_label") if case.get("answer_label") is not None else None


def reward(case: Case) -> Result:
    """Training reward: 1 where the whole reply is ``<think>…</think><answer>…</answer>`` and the answer is right. An
    answer of several lines is never read.

    Source: UCSC-VLAA/MedVLThinker@a3163b1, train/my_reward.py.
    """
    reply, (answer, label) = text_of(case, "solution_str"), _gold(case)
    if not re.fullmatch(rf"<think>.*?</think>\s*{_TAGGED}", reply, re.DOTALL):
        return {"score": 0.0}
    truth = case.get("ground_truth", answer)
    if truth != answer:
        raise UpstreamFails(
            f"ValueError: Answer mismatch: {answer} != {truth}. "
            "Ensure the ground truth is correctly set in the extra_info."
        )
    found = re.search(_TAGGED, reply)
    return {"score": float(same_answer(found[1] if found else reply, answer, label))}


def regrade(case: Case) -> Result:
    """Second grading of stored replies: first line of the last tag, else what follows "answer:", "answer is" or "is:".

    Source: UCSC-VLAA/MedVLThinker@a3163b1, analysis/regrade_eval_results.py.
    """
    extracted = _regraded(text_of(case, "prediction"))
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        extracted = extracted.replace(tag, "")
    extracted = extracted.strip()
    return {"extracted": extracted, "correct": same_answer(extracted, *_gold(case), bool(case.get("llava_med_rule")))}


def _regraded(reply: str) -> str:
    inside = re.findall(_TAGGED, reply, re.DOTALL)
    if inside:
        return re.split(r"[\n\r]", inside[-1].strip(), maxsplit=1)[0]
    for lead in _LEADS:
        found = lead.findall(reply)
        if found:
            return found[-1]
    return reply


def eval_v2(case: Case) -> Result:
    """Evaluation: the first tag, else the whole reply.

    Source: UCSC-VLAA/MedVLThinker@a3163b1, eval/run_offline_inference_v2.py.
    """
    reply = text_of(case, "prediction")
    found = re.search(_TAGGED, reply, re.DOTALL)
    extracted = (found[1] if found else reply).strip()
    return {"extracted": extracted, "correct": same_answer(extracted, *_gold(case))}
