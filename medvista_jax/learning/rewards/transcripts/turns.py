"""Rewards that look at turns and calls, as upstream code reads them, traps included."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvista_jax.core.conformance import BadCase
from medvista_jax.learning.rewards import formulas
from medvista_jax.learning.rewards.transcripts import mathematics
from medvista_jax.learning.rewards.transcripts.base import Case, Parts, response, unabridged, verdict, wanted
from medvista_jax.learning.rewards.transcripts.tagged import one_line_answer


def turns_of(case: Case) -> list[str]:
    turns = wanted(case, "turns", "actions", "model_output_texts")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise BadCase("'turns' is not a list of at least one text")
    return [unabridged(turn) for turn in turns]


def mini_o3(case: Case) -> Parts:
    """The tool's bonus and penalty look at any ``<grounding>`` before the first ill-formed turn; the bonus is paid for
    wrong answers too. What ``config`` leaves out has the code's defaults, not the paper's settings.
    """
    turns, config = turns_of(case), case.get("config", {})
    acc = _mini_o3_accuracy(case, " ".join(turns), config)
    fmt, calls = _mini_o3_format(turns)
    penalty, tool = config.get("tool_call_penalty", 0.1), config.get("use_tool_reward_weight", 0.0)
    weights = config.get("acc_reward_weight", 1.0), config.get("format_reward_weight", 1.0)
    score = formulas.mini_o3(acc, fmt, calls > 0, penalty, *weights, tool)
    exceeded = bool(case.get("exceeded", case.get("over_turn", False)))
    return {
        "reward": 0.0 if exceeded else score,
        "accuracy": acc,
        "format": fmt,
        "tool_calls": calls,
        "include": not exceeded,
        "score": score,
        "acc_score": weights[0] * acc,
        "format_score": weights[1] * fmt,
    }


def _mini_o3_accuracy(case: Case, text: str, config: Mapping[str, Any]) -> float:
    """What the judge says; 0 unasked where the answer's tags are wanted and missing."""
    if config.get("gpt_extract_answer", False):
        rule = config.get("extract_answer_tags", "split")
        patterns = {"split": "", "strict": r"<answer>(.*?)</answer>", "strict_v2": r"<answer>(.*?)</answer>$"}
        if rule not in patterns:
            raise BadCase(f"extract_answer_tags {rule!r} is none of {', '.join(patterns)}")
        if not re.search(patterns[rule], text, re.DOTALL):
            return 0.0
    return verdict(case)


def _mini_o3_format(turns: Sequence[str]) -> tuple[int, int]:
    """1 where every turn but the last calls and the last answers, and the calls up to the first turn that does not."""
    called = [bool(re.search(r"<grounding>.*?</grounding>", turn.strip(), re.DOTALL)) for turn in turns]
    if len(turns) == 1:
        return int(_answers(turns[0].strip())), int(called[0])
    calls = 0
    for turn, has_call in zip(turns[:-1], called, strict=False):
        calls += has_call
        if not _calls(turn.strip()):
            return 0, calls
    return int(_answers(turns[-1])), calls


def _once(turn: str, *tags: str) -> bool:
    return all(turn.count(tag) == 1 for tag in tags)


def _answers(turn: str) -> bool:
    return (
        re.match(r"^<think>.*</think>.*<answer>.*</answer>$", turn, re.DOTALL) is not None
        and _once(turn, "<think>", "</think>", "<answer>", "</answer>")
        and "<grounding>" not in turn
        and "</grounding>" not in turn
    )


def _calls(turn: str) -> bool:
    """Upstream lets several opening tags pass as long as there is one closing tag, or the other way round."""
    return (
        re.match(r"^<think>.*</think>.*<grounding>.*</grounding>$", turn, re.DOTALL) is not None
        and _once(turn, "<think>", "</think>")
        and (turn.count("<grounding>") == 1 or turn.count("</grounding>") == 1)
        and "<answer>" not in turn
        and "</answer>" not in turn
    )


def _braces(depth: int) -> str:
    """A pattern of JSON objects nested ``depth`` times."""
    inner = r"\{[^{}]*\}"
    for _ in range(depth):
        inner = r"\{(?:[^{}]|" + inner + r")*\}"
    return inner


_OBJECT = re.compile(_braces(3))


def first_object(text: str) -> Any:
    """The first JSON object of a turn; None where there is none or it does not parse."""
    found = _OBJECT.search(text)
    try:
        return json.loads(found[0]) if found else None
    except ValueError:
        return None


def openthinkimg(case: Case) -> Parts:
    """The last turn is judged, by math-verify and by the ``ans`` of its first action; the format, which counts where
    ``config`` has ``"format": true``, is the share of turns that are JSON with a thought or actions.
    """
    turns, gold = turns_of(case), str(wanted(case, "gold", "solution", "answer"))
    acc = _openthinkimg_accuracy(turns[-1], gold)
    objects = [first_object(turn) for turn in turns]
    good = [isinstance(found, dict) and bool({"thought", "thoughts", "actions"} & found.keys()) for found in objects]
    fmt = sum(good) / len(good)
    weight = 1.0 if case.get("config", {}).get("format") else 0.0
    return {"reward": formulas.weighted(acc, fmt, 1.0, weight), "accuracy": acc, "format": fmt}


def _openthinkimg_accuracy(turn: str, gold: str) -> float:
    if mathematics.same(turn, gold):
        return 1.0
    truth, said = one_line_answer(gold), turn
    found = first_object(turn)
    actions = found.get("actions") if isinstance(found, dict) else None
    if actions:
        try:
            parsed = [(action["name"], action["arguments"]) for action in actions]
            said = parsed[0][1].get("ans", turn)
        except (KeyError, TypeError, AttributeError, IndexError):
            said = turn  # actions of another form are read as text
    return float(said == truth or (isinstance(said, str) and mathematics.same(said, truth)))


_TAG = re.compile(r"</?(?:tool_call|observation|think|answer)>", re.IGNORECASE)
_FOLLOWS = {
    "start": {"<think>": "think"},
    "think": {"</think>": "thought"},
    "thought": {"<tool_call>": "call", "<answer>": "answer"},
    "call": {"</tool_call>": "called"},
    "called": {"<observation>": "observation"},
    "observation": {"</observation>": "start"},
    "answer": {"</answer>": "end"},
    "end": {},
}
"""ViGoRL's grammar: from each state by each tag to the next; all else between the tags is free."""


def vigorl_multiturn(case: Case) -> Parts:
    """Calls that are no JSON object are not looked at; whole-numbered coordinates only; the answer is compared without
    case, and without tags the whole text is.
    """
    text, gold = response(case), str(wanted(case, "gold", "ground_truth")).strip().lower()
    found = re.search(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL | re.IGNORECASE)
    acc = float((found[1] if found else text).strip().lower() == gold)
    points = _vigorl_points(text.strip())
    valid, seen = points is not None, apart(points or [], 10)
    score = formulas.vigorl_multiturn(acc, valid, seen)
    fmt = formulas.vigorl_multiturn(0.0, valid, seen, format=1.0)
    return {"reward": score, "overall": score, "accuracy": acc, "format": fmt}


def _vigorl_points(text: str) -> list[list[int]] | None:
    """The coordinates of the calls; None where the format is broken."""
    if not re.search(r"</answer>\s*(<\|im_end\|>)?\s*$", text):
        return None
    state = "start"
    for tag in _TAG.findall(text):
        state = _FOLLOWS[state].get(tag.lower(), "")
        if not state:
            return None
    answer = re.search(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL)
    if state != "end" or not answer or not answer[1].strip():
        return None
    points = []
    for call in re.findall(r"<tool_call>\s*({.*?})\s*</tool_call>", text, re.DOTALL):
        try:
            point = json.loads(call).get("arguments", {}).get("coordinate")
        except (ValueError, AttributeError):
            return None
        if not isinstance(point, list) or len(point) != 2 or not all(isinstance(x, int) for x in point):
            return None
        points.append(point)
    return points


def apart(points: Sequence[Sequence[float]], least: float) -> int:
    """How many points lie at least ``least`` from all that were counted before them."""
    counted: list[Sequence[float]] = []
    for point in points:
        if all(math.dist(point, other) >= least for other in counted):
            counted.append(point)
    return len(counted)


def verl_zoom_tool(case: Case) -> Parts:
    """One call (``bbox_2d`` and ``image``, width and height) or several (``calls``); boxes are pixels, and what the
    tool can mend is no fault.
    """
    size = wanted(case, "image", "image_size", "size")
    if not isinstance(size, list) or len(size) != 2:
        raise BadCase("'image' is not [width, height]")
    calls = case.get("calls", case.get("boxes"))
    boxes = [case.get("bbox_2d")] if calls is None else [c.get("bbox_2d") if isinstance(c, dict) else c for c in calls]
    faults = [not zoomable(box, *size) for box in boxes]
    steps = [formulas.verl_zoom_tool(fault) for fault in faults]
    return {"reward": sum(steps), "steps": steps, "faults": sum(faults)}


def zoomable(box: Any, width: float, height: float, least: int = 28) -> bool:
    """Whether verl's tool makes an image of the box: not empty within the image, no thinner than 1 : 100, and, grown to
    ``least`` pixels about its middle and shifted inside, still so large.
    """
    if not isinstance(box, list) or len(box) != 4:
        return False
    try:
        x1, y1, x2, y2 = map(float, box)
    except (TypeError, ValueError):
        return False
    x1, y1, x2, y2 = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    if not _sound(x1, y1, x2, y2):
        return False
    if min(x2 - x1, y2 - y1) < least:
        x1, y1, x2, y2 = _grown(x1, y1, x2, y2, width, height, least)
    wide, high = math.floor(x2) - math.floor(x1), math.floor(y2) - math.floor(y1)
    return _sound(x1, y1, x2, y2) and wide >= least and high >= least


def _sound(x1: float, y1: float, x2: float, y2: float) -> bool:
    return x1 < x2 and y1 < y2 and max(x2 - x1, y2 - y1) / min(x2 - x1, y2 - y1) <= 100


def _grown(
    x1: float, y1: float, x2: float, y2: float, width: float, height: float, least: int
) -> tuple[float, float, float, float]:
    ratio = least / min(x2 - x1, y2 - y1)
    wide, high = (x2 - x1) * ratio, (y2 - y1) * ratio
    if wide > width:
        wide, high = width, high * width / wide
    if high > height:
        wide, high = wide * height / high, height
    left = min(max((x1 + x2) / 2 - wide / 2, 0), width - wide)
    top = min(max((y1 + y2) / 2 - high / 2, 0), height - high)
    return math.floor(left), math.floor(top), math.ceil(left + wide), math.ceil(top + high)
