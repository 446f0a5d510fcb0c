"""MedEvalKit's totals over a benchmark, with their faults (alibaba-damo-academy/MedEvalKit@9b12e3b).

``totals.summary`` counts the same without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvista_jax.core.conformance import BadCase
from medvista_jax.evaluation.scorers.base import Case, Result, UpstreamFails
from medvista_jax.evaluation.scorers.medevalkit import judge_sample, tagged

DATASETS = ("SLAKE", "PATH_VQA", "VQA_RAD")
SCORES = (*(f"bleu{n}" for n in (1, 2, 3, 4)), "rouge1", "rouge2", "rougel", "precision", "recall", "f1", "em")


def aggregate(case: Case) -> Result:
    """Totals of SLAKE, PathVQA or VQA-RAD, with or without a judge: open accuracy is divided by the number of open
    questions twice; a judge counts SLAKE's closed questions again and clears PathVQA's; no open or no closed question
    ends in an error.

    Source: alibaba-damo-academy/MedEvalKit@9b12e3b, ``cal_metrics`` of utils/SLAKE/SLAKE.py, utils/VQA_RAD/VQA_RAD.py,
    utils/PATH_VQA/PATH_VQA.py.
    """
    dataset, samples = case.get("dataset"), case.get("samples")
    if dataset not in DATASETS:
        raise BadCase(f"dataset is {dataset!r}; known: {', '.join(DATASETS)}")
    if not isinstance(samples, list):
        raise BadCase('"samples" is not a list')
    judged = [
        judge_sample(sample["answer"], sample["response"], dataset, sample.get("answer_type", "")) for sample in samples
    ]
    opened = {"total": 0, "right": 0} | dict.fromkeys(SCORES, 0.0)
    closed = {"total": 0, "right": 0}
    for bucket, correct, scores in judged:
        counts = opened if bucket == "open" else closed
        counts["total"] += 1
        counts["right"] += correct
        for name, value in scores.items():
            counts[name] += value
    right = opened["right"] + closed["right"]
    if case.get("use_llm_judge"):
        right = _judge(dataset, tagged(case.get("judge_verdict") or "", "judge") == "0", opened, closed)
    everything: dict[str, Any] = {"total": len(samples), "right": right}
    for counts in (everything, opened, closed):
        counts["acc"] = _share(counts["right"], counts["total"])
    for name in (*SCORES, "acc"):
        opened[name] = _share(opened[name], opened["total"])
    return {"total metrics": everything, "open": opened, "close": closed}


def _judge(dataset: str, verdict: bool, opened: dict[str, float], closed: dict[str, float]) -> float:
    """Puts a judge's verdict, the same for all it is asked, into the counts; returns the number right of all."""
    if dataset == "PATH_VQA":
        closed["right"] = 0
    before = closed["right"]
    opened["right"] = verdict * opened["total"]
    asked = opened["total"]
    if dataset == "SLAKE":
        closed["right"] += verdict * closed["total"]
        asked += closed["total"]
    return before + verdict * asked


def _share(part: float, whole: float) -> float:
    if not whole:
        raise UpstreamFails("ZeroDivisionError: division by zero")
    return part / whole


def comparable(totals: Mapping[str, Mapping[str, float]]) -> Sequence[float]:
    """The counts and accuracies that ``totals.summary`` gives too: total, right, accuracy of all, open, closed."""
    return [totals[part][name] for part in ("total metrics", "open", "close") for name in ("total", "right", "acc")]
