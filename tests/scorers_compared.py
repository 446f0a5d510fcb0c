"""Puts the fixed scorer on the cases of the strict ones, to hold it to the list in ``differences.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvista_jax.evaluation.scorers.fixed import Item, Score, score
from medvista_jax.evaluation.scorers.totals import summary


def item_of(scorer: str, case: Mapping[str, Any]) -> Item:
    """The question of a case of a scorer that judges one reply.

    Raises:
      ValueError: the answer is none of the options.
    """
    if scorer == "medevalkit.multi_choice":
        return Item(case["gold"], unlabelled(case["choices"]))
    if scorer.startswith("medvlthinker."):
        label = case.get("answer_label")
        return Item(case["answer"] if label is None else label, None if label is None else {label: case["answer"]})
    return Item(case["gold"], closed=case.get("answer_type") == "CLOSED")


def unlabelled(choices: list[str]) -> dict[str, str]:
    """Options by letter, without the letters before their texts ("A. CT")."""
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    return {letter: text.removeprefix(f"{letter}. ") for letter, text in zip(letters, choices, strict=True)}


def both(case: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """What upstream says of a case and what the fixed scorer says, in the same terms.

    Args:
      case: one of ``conformance.read_cases``.

    Returns:
      None where upstream judges nothing: a helper (``calculate_f1``, ``slake_normalize``), or a random result. Else
      whether the reply is right, or the letter read where no answer is given, or counts and accuracies of a total.
    """
    scorer, given, expected = case["scorer"], case["input"], case["expected"]
    if scorer in ("medevalkit.calculate_f1", "lmms_eval.slake_normalize") or expected.get("nondeterministic"):
        return None
    if scorer == "medevalkit.aggregate":
        return _upstream_totals(expected), _totals(given)
    if "options" in given:
        item = Item(next(iter(given["options"])), given["options"])
        letter = expected.get("parsed", expected.get("inferred"))
        return None if letter in (False, "Z") else letter, score(given["prediction"], item).parsed
    found: Score = score(given.get("prediction", given.get("solution_str")), item_of(scorer, given))
    if "error" in expected:
        return expected["error"], found.correct
    possible = expected.get("acc_possible", [0])
    if len(possible) > 1:
        return None
    return bool(expected.get("correct", expected.get("score", possible[0]))), found.correct


def _upstream_totals(expected: Mapping[str, Any]) -> Any:
    if "error" in expected:
        return expected["error"]
    parts = [expected[part] for part in ("total metrics", "open", "close")]
    return [(part["total"], part["right"], round(part["acc"], 6)) for part in parts]


def _totals(given: Mapping[str, Any]) -> Any:
    items = [
        Item(sample["answer"], closed=given["dataset"] == "SLAKE" and sample["answer_type"] != "OPEN")
        for sample in given["samples"]
    ]
    scores = [score(sample["response"], item) for sample, item in zip(given["samples"], items, strict=True)]
    verdict = "<judge>0</judge>" in (given.get("judge_verdict") or "")
    verdicts = {n: verdict for n, item in enumerate(items) if given.get("use_llm_judge") and item.kind == "open"}
    counted = summary(items, scores, verdicts)
    parts = [counted[part] for part in ("all", "open", "closed")]
    return [(part.total, part.right, None if part.accuracy is None else round(part.accuracy, 6)) for part in parts]
