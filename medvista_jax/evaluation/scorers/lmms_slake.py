"""SLAKE in lmms-eval: exact match of normal forms (EvolvingLMMs-Lab/lmms-eval@75571cfe, lmms_eval/tasks/slake)."""

from __future__ import annotations

import re
import string
from typing import Any

from medvista_jax.evaluation.scorers.base import Case, Result

YES = frozenset("yes yeah yep true 是 是的 有 包含 可以 能 会 正常".split())
NO = frozenset("no nope false 否 不是 没有 无 不包含 不能 不会 不可以 不正常 异常".split())
_CHINESE_MARKS = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～、《》？【】"
_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + _CHINESE_MARKS, " "))


def normal_form(answer: Any) -> str:
    """Lower case, without brackets and what they hold, without punctuation; words for yes and no as one of both."""
    text = "" if answer is None else str(answer).strip().lower()
    for brackets in (r"\([^)]*\)", r"（[^）]*）"):
        text = re.sub(brackets, " ", text)
    text = " ".join(text.translate(_TO_SPACE).split())
    if text == "x ray":
        return "xray"
    return "yes" if text in YES else "no" if text in NO else text


def slake_normalize(case: Case) -> Result:
    """SLAKE: the normal form of an answer, English or Chinese. "正常" (normal) is yes and "异常" (abnormal) no.

    Source: EvolvingLMMs-Lab/lmms-eval@75571cfe, lmms_eval/tasks/slake/utils.py.
    """
    return {"normalized": normal_form(case.get("text"))}


def slake_correct(case: Case) -> Result:
    """SLAKE: equal normal forms; "Yes, it is" is not "Yes".

    Source: EvolvingLMMs-Lab/lmms-eval@75571cfe, lmms_eval/tasks/slake/utils.py.
    """
    return {"correct": normal_form(case.get("prediction")) == normal_form(case.get("gold"))}
