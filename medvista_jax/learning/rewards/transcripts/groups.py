"""Rewards of a group of rollouts, and of a frozen model, from the numbers of a case."""

from __future__ import annotations

import numpy as np

from medvista_jax.core.conformance import BadCase
from medvista_jax.learning.rewards import formulas
from medvista_jax.learning.rewards.transcripts.base import Case, Parts, wanted


def _group(case: Case) -> tuple[np.ndarray, np.ndarray, float]:
    """Accuracies, valid calls, and the share of the rollouts that have any."""
    acc = np.asarray(wanted(case, "group_accuracy"), float)
    calls = np.asarray(wanted(case, "group_valid_tool_calls"), float)
    if acc.ndim != 1 or acc.shape != calls.shape or not acc.size:
        raise BadCase("group_accuracy and group_valid_tool_calls are not two lists of one length")
    return acc, calls, float(np.mean(calls > 0))


def pixel_reasoner(case: Case) -> Parts:
    acc, calls, rate = _group(case)
    return {"reward": formulas.pixel_reasoner(acc, calls, rate).tolist(), "rate": rate}


def pixel_reasoner_release(case: Case) -> Parts:
    """A right answer after a failed last operation (``group_final_error``) earns no accuracy; videos
    (``group_is_video``) divide by 1.5.
    """
    acc, calls, rate = _group(case)
    failed = np.asarray(case.get("group_final_error", case.get("group_final_error_flags", np.zeros(len(acc)))), bool)
    video = np.asarray(case.get("group_is_video", np.full(len(acc), bool(case.get("is_video", False)))), bool)
    acc = np.where(failed & (acc > 0.5), 0.0, acc)
    scale = np.where(video, 1.5, 2.0)
    return {"reward": formulas.pixel_reasoner_release(acc, calls, rate, scale=scale).tolist(), "rate": rate}


def visualtoolagent(case: Case) -> Parts:
    without = bool(wanted(case, "frozen_model_correct_without_tools"))
    with_tools = bool(wanted(case, "frozen_model_correct_with_tools"))
    return {"reward": formulas.visualtoolagent(without, with_tools)}


def medvr(case: Case) -> Parts:
    """Read literally: who never zooms gets the lower tool reward, not none.

    ``format_penalty`` is one number or one a rollout, and is taken off where ``format_ok`` is not true.
    """
    acc = np.asarray(wanted(case, "acc", "accuracy"), float)
    boxes = wanted(case, "zoom_boxes_xyxy")
    if len(boxes) != len(acc):
        raise BadCase("zoom_boxes_xyxy and acc are not of one length")
    side = max(wanted(case, "image"))  # a square canvas: the masks are the same however the image lies in it
    masks = np.zeros((len(acc), side, side), bool)
    for mask, zooms in zip(masks, boxes, strict=True):
        for x1, y1, x2, y2 in zooms:
            mask[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = True
    right = acc > 0
    consensus = 2 * masks[right].sum(axis=0) > right.sum()
    either = (masks | consensus).sum(axis=(1, 2))
    iou = np.divide((masks & consensus).sum(axis=(1, 2)), either, out=np.zeros(len(acc)), where=either > 0)
    fine = np.asarray(case.get("format_ok", np.zeros(len(acc))), bool)
    fmt = np.where(fine, 0.0, -np.asarray(case.get("format_penalty", 0.0), float))
    reward = formulas.medvr(acc, fmt, formulas.medvr_tool(iou, case.get("eta", 0.5)))
    return {
        "reward": reward.tolist(),
        "consensus_pixels": int(consensus.sum()),
        "iou": [float(value) if some else None for value, some in zip(iou, either, strict=True)],
    }
