"""Where the fixed scorer and the strict ones differ, and why. Tests hold the fixed scorer to this list."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Difference:
    """``cases`` are the ids in tests/data/scorers/published.json on which the two differ for this reason."""

    id: str
    reason: str
    cases: tuple[str, ...]


DIFFERENCES = (
    Difference(
        "yes-no-inside-words",
        "MedEvalKit finds yes and no inside other words: 'normal' and 'unknown' are right for no, 'eyes' for yes, "
        "'Yes, there is a nodule' is wrong. Fixed: whole words, negation, the first of both.",
        ("medevalkit.vqa_rad_pathvqa-008", "medevalkit.vqa_rad_pathvqa-014"),
    ),
    Difference(
        "space-before-answer",
        "MedEvalKit leaves the space behind 'final answer:', so that no such answer equals the right one.",
        ("medevalkit.vqa_rad_pathvqa-019",),
    ),
    Difference(
        "spelling",
        "MedEvalKit compares letter by letter: hyphens, articles and punctuation make an answer wrong.",
        ("medevalkit.vqa_rad_pathvqa-021", "medevalkit.aggregate-006", "medevalkit.aggregate-011"),
    ),
    Difference(
        "nearest-option",
        "MedEvalKit takes the option spelled most like a reply that names none or several: option A for an empty one. "
        "Fixed: unparsable, wrong.",
        ("medevalkit.multi_choice-011", "medevalkit.multi_choice-013", "medevalkit.multi_choice-019"),
    ),
    Difference(
        "article-as-letter",
        "VLMEvalKit takes a lone 'A' in a sentence for option A although another option's text is named.",
        ("vlmevalkit.can_infer-015",),
    ),
    Difference(
        "open-answers-never-right",
        "lmms-eval compares MMMU's open answers character by character, so that none is right. Fixed: equal normal "
        "forms, or numbers equal to two decimals.",
        tuple(f"lmms_eval.mmmu_open_as_wired-{number:03d}" for number in (0, 2, 4, 5, 6, 7)),
    ),
    Difference(
        "yes-with-more-words",
        "lmms-eval wants the bare word: 'Yes, it is' is wrong for yes.",
        ("lmms_eval.slake_correct-001",),
    ),
    Difference(
        "normal-as-yes",
        "lmms-eval takes 'normal' (正常) for yes and 'abnormal' (异常) for no in any question; fixed: unparsable.",
        ("lmms_eval.slake_correct-004", "lmms_eval.slake_correct-005"),
    ),
    Difference(
        "letter-with-marks",
        "MedVLThinker does not read '(B)' and 'B.'.",
        ("medvlthinker.reward-003", "medvlthinker.eval_v2-003", "medvlthinker.regrade-009"),
    ),
    Difference(
        "format-gate",
        "MedVLThinker's reward is 0 where tags are missing, space precedes them or the answer has a line of its own; "
        "format is no matter of correctness here.",
        ("medvlthinker.reward-004", "medvlthinker.reward-006", "medvlthinker.reward-007"),
    ),
    Difference(
        "no-question-of-a-kind",
        "MedEvalKit divides by zero without open or closed questions; fixed: their accuracy is None.",
        ("medevalkit.aggregate-002", "medevalkit.aggregate-012"),
    ),
    Difference(
        "judge-and-closed",
        "With a judge MedEvalKit clears PathVQA's closed questions and counts SLAKE's twice; it divides the open "
        "accuracy of all benchmarks by their number twice. Fixed: every question counts once; closed ones by rule.",
        ("medevalkit.aggregate-008", "medevalkit.aggregate-009"),
    ),
    Difference(
        "empty-open-reply",
        "MedEvalKit ends with an error on an empty open reply; fixed: unparsable, wrong. (No published case.)",
        (),
    ),
    Difference(
        "random-choice",
        "MedEvalKit and lmms-eval draw an option where no letter is found in MMMU; never drawn here, in neither "
        "scorer: unparsable, wrong. (Such cases are skipped.)",
        (),
    ),
)
