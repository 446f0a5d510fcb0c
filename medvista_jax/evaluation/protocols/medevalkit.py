"""``medevalkit``: every question, open ones included, answered directly.

Facts: alibaba-damo-academy/MedEvalKit@9b12e3b, ``utils/question_formats.py``, ``utils/{VQA_RAD,SLAKE,PATH_VQA,PMC_VQA,
MedXpertQA,MMMU}``, ``eval.sh`` (REASONING="False").
"""

from __future__ import annotations

from collections.abc import Mapping

from medvista_jax.data.benchmarks import BenchmarkItem
from medvista_jax.evaluation.protocols.base import Case, Protocol, SetRule, Strict
from medvista_jax.evaluation.protocols.either_or import is_yes_no
from medvista_jax.evaluation.scorers.medevalkit import tagged
from medvista_jax.evaluation.scorers.strict import STRICT

JUDGEMENT = "Please output 'yes' or 'no'(no extra output)."
CLOSE = {"en": "Answer the question using a single word or phrase.", "zh": "请用一个单词或者短语回答该问题。"}
OPEN = {"en": "Please answer the question concisely.", "zh": "请简要回答该问题。"}
LETTER = "Answer with the option's letter from the given choices directly."

Worded = tuple[str, Mapping[str, str] | None, str]


def _plain(item: BenchmarkItem) -> Worded:
    """VQA-RAD and PathVQA."""
    wish = JUDGEMENT if is_yes_no(item.answer) else OPEN["en"]
    return f"{item.question}\n{wish}", None, item.answer


def _slake(item: BenchmarkItem) -> Worded:
    wish = (CLOSE if item.closed else OPEN)[item.language]
    return f"{item.question}\n{wish}", None, item.answer


def _choices(item: BenchmarkItem, mark: str) -> list[str]:
    return [f"{letter}{mark}{text}" for letter, text in (item.options or {}).items()]


def _multiple(item: BenchmarkItem, mark: str) -> Worded:
    """The line "Options: " ends with a space upstream."""
    listed = "\n".join(_choices(item, mark))
    return f"\nQuestion: {item.question}\nOptions: \n{listed}\n{LETTER}", item.options, item.answer_letter or ""


def _pmc_vqa(item: BenchmarkItem) -> Worded:
    return _multiple(item, ":")


def _medxpertqa(item: BenchmarkItem) -> Worded:
    return _multiple(item, ". ")


def _mmmu(item: BenchmarkItem) -> Worded:
    """Markers of images stay in the text, and so do the eight spaces at the end of upstream's template."""
    if item.options:
        listed = "".join(f"({letter}) {text}\n" for letter, text in item.options.items())
        return f"\n{item.question}\n\n{listed}\n\n        {LETTER}", item.options, item.answer_letter or ""
    return f"\n{item.question}\n\n        {CLOSE['en']}", None, item.answer


def _grade_plain(case: Case, reply: str) -> Strict:
    return Strict(STRICT["medevalkit.vqa_rad_pathvqa"]({"gold": case.item.answer, "prediction": reply})["correct"])


def _grade_slake(case: Case, reply: str) -> Strict:
    kind = "CLOSED" if case.item.closed else "OPEN"
    given = {"gold": case.item.answer, "prediction": reply, "answer_type": kind}
    return Strict(STRICT["medevalkit.slake"](given)["correct"])


def _grade_multiple(mark: str, tag: bool):
    def grade(case: Case, reply: str) -> Strict:
        given = {
            "choices": _choices(case.item, mark),
            "gold": case.item.answer_letter,
            "prediction": tagged(reply, "answer") if tag else reply,
        }
        return Strict(STRICT["medevalkit.multi_choice"](given)["correct"])

    return grade


def _grade_mmmu(case: Case, reply: str) -> Strict:
    if not case.options:
        found = STRICT["medevalkit.mmmu_open"]({"gold": case.item.answer, "prediction": reply})
        return Strict(found["correct"], "; ".join(found["parsed"]))
    found = STRICT["medevalkit.mmmu_parse_mc"]({"prediction": reply, "options": dict(case.options)})
    if found.get("nondeterministic"):
        return Strict(False, fault="random")
    return Strict(found["parsed"] == case.answer, found["parsed"])


def _all(item: BenchmarkItem) -> bool:
    return True


_PLAIN = ("medevalkit.vqa_rad_pathvqa",)
_MULTIPLE = ("medevalkit.multi_choice",)
_SETS = (
    SetRule("vqa_rad", "vqa_rad", ("test",), "all", _all, 451, _plain, _PLAIN, _grade_plain),
    SetRule(
        "slake", "slake", ("test",), "all, English and Chinese", _all, 2094, _slake, ("medevalkit.slake",), _grade_slake
    ),
    SetRule("path_vqa", "path_vqa", ("test",), "all", _all, 6719, _plain, _PLAIN, _grade_plain),
    SetRule(
        "pmc_vqa_2",
        "pmc_vqa_2",
        ("test",),
        "all (version 2)",
        _all,
        33_000,
        _pmc_vqa,
        _MULTIPLE,
        _grade_multiple(":", tag=False),
        about=True,
    ),
    SetRule(
        "pmc_vqa",
        "pmc_vqa",
        ("test",),
        "all (version 1, checked by people)",
        _all,
        2000,
        _pmc_vqa,
        _MULTIPLE,
        _grade_multiple(":", tag=False),
        note="upstream asks version 2; this set has its prompts and scorer only",
    ),
    SetRule(
        "mmmu_medical",
        "mmmu_medical",
        ("validation",),
        "all of the validation split",
        _all,
        150,
        _mmmu,
        ("medevalkit.mmmu_parse_mc", "medevalkit.mmmu_open"),
        _grade_mmmu,
        images=1,
        note="upstream shows the first image only",
    ),
    SetRule(
        "medxpertqa_mm",
        "medxpertqa_mm",
        ("test",),
        "all",
        _all,
        2000,
        _medxpertqa,
        _MULTIPLE,
        _grade_multiple(". ", tag=True),
        images=6,
    ),
)

MEDEVALKIT = Protocol(
    name="medevalkit",
    about="every question, open ones included, answered directly",
    source="alibaba-damo-academy/MedEvalKit@9b12e3b",
    sets={rule.name: rule for rule in _SETS},
    temperature=0.0,
    top_p=0.0001,
    max_new_tokens=8192,
    seed=42,
    notes=(
        "open questions: exact match of normal forms, or a judge where one is named; upstream's judge is GPT-4.1 with "
        "another prompt",
        "with several images upstream writes '<image_1>: ' and so on between them; here they stand side by side",
        "upstream tests PathVQA's answers for a small 'yes' or 'no'; so they are written on the hub",
    ),
)
