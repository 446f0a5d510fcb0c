"""``medvlthinker``: closed and multiple-choice questions only, every one with options and asked to think first.

Facts: UCSC-VLAA/MedVLThinker@a3163b1, ``data_process/prepare_vlm_eval_data{,_v2}.py``, ``eval/eval_commands.sh``,
``eval/run_offline_inference.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medvista_jax.data.benchmarks import BenchmarkItem
from medvista_jax.evaluation.protocols.base import Case, Protocol, SetRule, Strict
from medvista_jax.evaluation.protocols.either_or import is_yes_no, letter_of, names_options, options_of
from medvista_jax.evaluation.scorers.strict import STRICT

INSTRUCTION = (
    r"You will solve a problem/request. You should provide your thoughts within <think> </think> tags before providing "
    r"the answer.\nWrite your final answer within <answer> </answer> tags."
)
"""Upstream's sentence. The backslash and the n are two characters: upstream wrote a raw string, and so its models were
asked."""

_SCORER = "medvlthinker.eval_v2"


def prompt(question: str, options: Mapping[str, str] | None) -> str:
    """The message of the user behind the images."""
    text = f"{INSTRUCTION}\n\nQuestion: {question}"
    if options:
        text += "\n\nOptions:" + "".join(f"\n\n{letter}. {option}" for letter, option in options.items())
    return text


def _closed(item: BenchmarkItem) -> tuple[str, Mapping[str, str] | None, str]:
    options = options_of(item.question, item.answer)
    return prompt(item.question, options), options, letter_of(item.answer, options) if options else item.answer


def _choice(item: BenchmarkItem, question: str | None = None) -> tuple[str, Mapping[str, str] | None, str]:
    return prompt(question or item.question, item.options), item.options, item.answer_letter or item.answer


def _mmmu(item: BenchmarkItem) -> tuple[str, Mapping[str, str] | None, str]:
    """Upstream takes the markers of images out of the question, with the space around them, and leaves them in the
    options."""
    return _choice(item, re.sub(r"\s*<image \d+>\s*", "", item.question).strip())


def _medxpertqa(item: BenchmarkItem) -> tuple[str, Mapping[str, str] | None, str]:
    """Without the options that the question repeats."""
    return _choice(item, item.question.split("\nAnswer Choices: ")[0].strip())


def grade(case: Case, reply: str) -> Strict:
    """``medvlthinker.eval_v2``: the first tag or the whole reply, letter, text or both."""
    given = {"prediction": reply, "answer": case.item.answer}
    if case.options:
        given |= {"answer": case.options[case.answer], "answer_label": case.answer}
    found = STRICT[_SCORER](given)
    return Strict(found["correct"], found["extracted"])


def _rule(name: str, subset: str, keep, count: int, words, splits=("test",)) -> SetRule:
    return SetRule(name, name, splits, subset, keep, count, words, (_SCORER,), grade)


_SETS = (
    _rule(
        "vqa_rad",
        "closed: answered by yes or no, or the question says 'or'",
        lambda item: is_yes_no(item.answer) or names_options(item.question),
        272,
        _closed,
    ),
    _rule("slake", "closed, English", lambda item: item.closed and item.language == "en", 416, _closed),
    _rule("path_vqa", "answered by yes or no", lambda item: item.closed, 3362, _closed),
    _rule("pmc_vqa", "all (version 1, checked by people)", lambda item: True, 2000, _choice),
    _rule("mmmu_medical", "multiple choice", lambda item: item.closed, 170, _mmmu, splits=("validation", "dev")),
    _rule("medxpertqa_mm", "all", lambda item: True, 2000, _medxpertqa),
)

MEDVLTHINKER = Protocol(
    name="medvlthinker",
    about="closed and multiple-choice questions only, with options, think then <answer>",
    source="UCSC-VLAA/MedVLThinker@a3163b1",
    sets={rule.name: rule for rule in _SETS},
    temperature=0.0,
    top_p=1.0,
    max_new_tokens=4096,
    seed=42,
    runs=3,
    notes=(
        "upstream's instruction has a backslash and an n where a line break was meant; kept, its models were asked so",
        "options of closed questions: upstream's were written by GPT-4o; here by rule (protocols/either_or.py)",
        "the fixed scorer also reads '(B)', 'B.' and an option's text in a sentence, which upstream's does not",
    ),
)
