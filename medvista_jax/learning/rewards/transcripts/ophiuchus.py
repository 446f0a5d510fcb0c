"""Ophiuchus' environment over texts of actions: what counts as a call, as an answer, and what both are worth.

No tool server is asked: zooming in is the one tool that works, as in an environment whose servers are down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvista_jax.core.conformance import BadCase
from medvista_jax.learning.rewards import formulas
from medvista_jax.learning.rewards.transcripts.base import Case, Parts, wanted
from medvista_jax.learning.rewards.transcripts.turns import turns_of

_TOOLS = ("Zoom-in", "SAM2", "BiomedParse")


def letter(action: str) -> str | None:
    """The answer of an action. A lone letter a … e anywhere will do, the article "a" of a thought included."""
    for pattern in (r"<answer>\s*([A-Za-z])\b", r"answer\s*[:：]\s*([A-Za-z])", r"\b([A-E])\b"):
        found = re.search(pattern, action, re.IGNORECASE)
        if found:
            return found[1].upper()
    return None


def called_tool(action: str, tools: Sequence[str] = _TOOLS) -> re.Match[str] | None:
    """The line "Action: TOOL", where it names one of the tools, letter by letter."""
    found = re.search(r"Action\s*:\s*([^\r\n]+)", action, re.IGNORECASE)
    return found if found and found[1].strip().lower() != "answer" and found[1].strip() in tools else None


def payload_of(text: str) -> list[Any]:
    """The first block of JSON that parses, as a list; comments behind # and // are cut out."""
    for block in re.findall(r"```json\s*(.*?)\s*```", text, re.IGNORECASE | re.DOTALL):
        body = re.sub(r"(?://|#).*?$", "", block, flags=re.MULTILINE).strip()
        if not body.startswith(("[", "{")):
            continue
        try:
            payload = json.loads(body)
        except json.JSONDecodeError:
            continue
        return payload if isinstance(payload, list) else [payload]
    return []


def zoom(sizes: list[tuple[int, int]], call: Any) -> tuple[int, int] | None:
    """Width and height of the new image; None where the call fails."""
    if not isinstance(call, Mapping):
        return None
    try:
        index, (x1, y1, x2, y2) = int(call.get("index", 1)), map(int, call.get("bbox_2d") or ())
    except (TypeError, ValueError):
        return None
    if not 1 <= index <= len(sizes):
        return None
    width, height = sizes[index - 1]
    clamp = lambda value, most: max(0, min(value, most))  # noqa: E731
    wide, high = clamp(x2, width) - clamp(x1, width), clamp(y2, height) - clamp(y1, height)
    return (wide, high) if wide > 0 and high > 0 else None


def well_formed(actions: Sequence[str], tools: Sequence[str]) -> bool:
    """Every action has a thought and is a call or an answer, and the last is an answer. An action with a letter in its
    words counts as an answer too and must look like one, which a call does not: there the article "a" costs the format.
    """
    return letter(actions[-1]) is not None and all(_looks_right(action, tools) for action in actions)


def _looks_right(action: str, tools: Sequence[str]) -> bool:
    if not re.search(r"<think>.*?</think>", action, re.IGNORECASE | re.DOTALL):
        return False
    if letter(action) is None:
        return called_tool(action, tools) is not None
    shapes = (r"<answer>.*?</answer>", r"answer\s*[:：]\s*[A-Za-z]", r"Action\s*:\s*Answer\b")
    return any(re.search(shape, action, re.IGNORECASE | re.DOTALL) for shape in shapes)


def ophiuchus(case: Case) -> Parts:
    """Steps until an action that is no call holds an answer, or ``max_steps`` (4). Segmentation is paid by ``iou``; a
    zoom hands on the true mask of the image that the environment starts with, so that without one it is 1.
    """
    actions, gold = turns_of(case), str(case.get("gold", case.get("answer", ""))).upper()
    tools = case.get("available_tools", _TOOLS)
    sizes = [tuple(case.get("image", (64, 64)))]
    if len(sizes[0]) != 2:
        raise BadCase("'image' is not [width, height]")
    used, done, said, step = False, False, None, 0
    for step, action in enumerate(actions, 1):
        found = called_tool(action, tools)
        said = letter(action) if found is None else None
        for call in payload_of(action[found.end() :]) if found is not None else []:
            size = zoom(sizes, call) if found[1].strip() == "Zoom-in" else None
            if size is not None:
                sizes.append(size)
                used = True
        done = bool(said) or step >= int(case.get("max_steps", 4))
        if done:
            break
    if not done:
        return {"reward": 0.0, "done": False, "won": False, "steps_taken": step}
    if "seg" in str(case.get("task", "")).lower():
        answer = formulas.ophiuchus_segmentation(float(case.get("iou", 1.0)))
    else:
        answer = float(bool(said and gold) and said == gold)
    fmt = float(well_formed(actions[:step], tools))
    return {
        "reward": formulas.ophiuchus(answer, fmt, used),
        "done": True,
        "won": answer > 0,
        "steps_taken": step,
        "answer": answer,
        "format": fmt,
        "tool_used": used,
    }


def ophiuchus_seg(case: Case) -> Parts:
    """What the mask of a segmentation is worth, S_ans alone; with ``actions``, all of the reward."""
    if "actions" in case:
        return ophiuchus({"task": "seg", **case})
    return {"reward": formulas.ophiuchus_segmentation(float(wanted(case, "iou")))}
