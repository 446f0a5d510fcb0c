"""The formulas of published rewards over their signals, one place for the device and for text.

Every function uses operators only, so that its arguments may be Python numbers, numpy or jax arrays of one shape. The
letters: ``acc`` 0 … 1 whether the answer is right, ``fmt`` what the format is worth in the scale of the paper,
``images`` how many images tools returned, ``calls`` valid tool calls, ``used`` whether a tool was called at all. Where
each comes from and what it ranges over is written at the presets of :mod:`medvista_jax.learning.rewards.presets`.
"""

from __future__ import annotations

from typing import Any

Number = Any  # float, numpy or jax array


def deepeyes(acc: Number, fmt: Number, images: Number, accuracy=0.8, format=0.2, tool=1.2) -> Number:
    return accuracy * acc + format * fmt + tool * ((images > 0) & (acc > 0.5))


def deepeyes_additive_tool(acc: Number, fmt: Number, images: Number, accuracy=0.8, format=0.2, tool=0.4) -> Number:
    return accuracy * acc + format * fmt + tool * (images > 0)


def deepeyes_multiplicative(acc: Number, fmt: Number, images: Number, format=0.2, tool=1.2) -> Number:
    return acc * (tool * (images > 0)) + format * fmt


def weighted(acc: Number, fmt: Number, accuracy: float, format: float) -> Number:
    """The sum that DeepEyes (mathematics), DeepEyesV2, Chain-of-Focus, Med-R1 and OpenThinkIMG differ in weights of."""
    return accuracy * acc + format * fmt


def deepeyes_v2_search(acc: Number, fmt: Number, searched: Number, accuracy=0.8, format=0.2, penalty=0.1) -> Number:
    return accuracy * acc * (1 - penalty * searched) + format * fmt


def pixel_reasoner(acc: Number, calls: Number, rate: Number, target=0.3, curiosity=0.5, redundancy=0.05) -> Number:
    short = (target - rate) * (target > rate)
    return acc + curiosity * short * (calls > 0) - redundancy * (calls - 1) * (calls > 1)


def pixel_reasoner_release(
    acc: Number, calls: Number, rate: Number, target=0.3, scale=2.0, curiosity=0.25, redundancy=0.05
) -> Number:
    short = (target - rate) * (target > rate)
    some = rate + (rate == 0)  # nobody called: nobody is paid, and nothing is divided by 0
    return acc + short / scale / some * curiosity * (calls > 0) - redundancy * (calls - 1) * (calls > 1)


def mini_o3(acc: Number, fmt: Number, used: Number, penalty=0.0, accuracy=1.0, format=0.0, tool=0.0) -> Number:
    return (1 - penalty * used) * accuracy * acc + format * fmt + tool * used


def similarity(one: Number, other: Number) -> Number:
    """VTool-R1's likeness of two numbers: ``1 - |a - b| / max(|a|, |b|)``; 0 where just one is 0, below 0 where the
    signs differ.
    """
    big = abs(one) * (abs(one) >= abs(other)) + abs(other) * (abs(other) > abs(one))
    same, nought = one == other, (one == 0) | (other == 0)
    gap = abs(one - other) / (big + (big == 0))
    return same + (1 - gap) * (1 - same) * (1 - nought)


def vigorl_multiturn(
    acc: Number, valid: Number, places: Number, accuracy=0.6, format=0.4, bonus: float = 0.2
) -> Number:
    return accuracy * acc + format * valid * (1 + bonus * (places - 1) * (places > 1))


def grit(gpt: Number, bleu: Number, parts: Number, bleu_weight=0.1) -> Number:
    """``parts``: the sum of the rule-based parts, each in its own scale."""
    return gpt + bleu_weight * bleu + parts


def visualtoolagent(without: Number, with_tools: Number, harm=-0.5) -> Number:
    return with_tools + harm * without * (1 - with_tools)


def visionary_r1(acc: Number, fmt: Number, caption: Number, caption_weight=0.1) -> Number:
    return acc + fmt + caption_weight * caption


def medvlthinker(acc: Number, fmt: Number) -> Number:
    return fmt * acc


def ophiuchus_segmentation(iou: Number) -> Number:
    """3 above an intersection over union of 0.8, 2 above 0.7, 1 above 0.5, else 0; the bounds themselves earn less."""
    return 1.0 * (iou > 0.5) + 1.0 * (iou > 0.7) + 1.0 * (iou > 0.8)


def ophiuchus(answer: Number, fmt: Number, used: Number, tool=2.0) -> Number:
    return fmt + answer + tool * used * (answer > 0)


def verl_zoom_tool(faults: Number, penalty=0.05) -> Number:
    return -penalty * faults


def medvr(acc: Number, fmt: Number, tool: Number) -> Number:
    return acc + fmt + tool * (acc > 0)


def medvr_tool(iou: Number, threshold=0.5, agree=1.0, differ=0.5) -> Number:
    return differ + (agree - differ) * (iou > threshold)


def overlong(tokens: Number, limit: Number, cache: Number) -> Number:
    """DAPO's soft punishment of length (arXiv 2503.14476, eq. 13), 0 … -1.

    Args:
      tokens: sampled, not characters, and not what the environment said.
      limit: L_max.
      cache: L_cache, the last tokens before the limit, over which the punishment grows.
    """
    over = (tokens - (limit - cache)) / cache
    return -(over * ((over > 0) & (over <= 1)) + 1.0 * (over > 1))
