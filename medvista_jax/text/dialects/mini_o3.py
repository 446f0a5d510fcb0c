"""Mini-o3: ``<grounding>{"bbox_2d": […], "source": …}</grounding>`` in parts of one of any image seen so far.

Facts (Mini-o3/Mini-o3, ``function_tools.py``, ``vllm_async_engine.py``, relative coordinates on): the last grounding of
a turn counts, and wins over an answer, since the turn stops at its closing tag. ``source`` is ``original_image`` or
``observation_i``, where i counts the images that came back, from 1, and what follows the digits is not looked at;
``observation_0`` is the original. The message that brings an image numbers it by the *turn* instead: after a call that
failed, Observation 3 is ``observation_2``. The box is turned into pixels by truncation, cut at the last pixel, and
refused when empty or when one side is 200 times the other or more. Upstream takes the body apart with a regular
expression and ``eval``; here it is JSON, where the source may stand in single quotes as there.

No other tool has a form of its own: it is called in our ``<tool_call>``, which upstream does not see. What our gym
refuses is written as a grounding without a source. ``write → read``
is the identity for every box that upstream accepts, which is every box with an area and an aspect below 200 that
covers a pixel; a question's second image has no name here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.chat import tool_block
from medvista_jax.text.dialects import canonical, frames
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation
from medvista_jax.text.dialects.canonical import BOX, ZOOM, Refused
from medvista_jax.text.dialects.deepeyes import blocks, without

MAX_ASPECT = 200
_GUIDE = (
    "Answer the question about the image. Think inside <think></think>. To look closer at a place, write "
    '<grounding>{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}</grounding>: the box in parts of 1.0 of '
    "the image's width and height; source is original_image or, for an image that came back, observation_i. "
    "Give the final answer inside <answer></answer>."
)
_FINAL = "Answer now."
_ERROR = "ERROR occurs during grounding. Error Information: "
_SOURCE = re.compile(r"observation_(\d+)", re.ASCII)
_SINGLE_QUOTES = re.compile(r"(\"source\"\s*:\s*)'([^'\"\\]*)'(\s*\})")
_SHOWN = re.compile(r"^After the above Action \d+, here is the.{0,12}zoom-in image \(Observation \d+\):\s*", re.ASCII)
_CONTINUE = re.compile(r"^(?:\.?\s*Continue your reasoning|Please analyze the error)\b", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class MiniO3:
    """See the module."""

    name: str = "mini-o3"

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        others = [tool for tool in tools if tool.name != ZOOM]
        zooms = len(others) < len(tools)
        plain = "Answer the question about the image. Think inside <think></think>. Answer inside <answer></answer>."
        return "\n\n".join(part for part in (_GUIDE if zooms else plain, tool_block(others) if others else "") if part)

    def read_turn(self, text: str, context: Context) -> Reading:
        notes: list[str] = []
        text = canonical.without_end(text)
        grounds, answers = blocks(text, "grounding"), blocks(text, "answer")
        calls = blocks(text, "tool_call")
        think = canonical.thought(without(text, [*grounds, *answers, *calls]))
        if grounds:
            if len(grounds) > 1:
                notes.append(f"{len(grounds)} groundings: the last one counts")
            if answers:
                notes.append("an answer and a grounding: the grounding counts")
            # Of nested opening tags the last one is the opening one.
            return canonical.act(think, _read_grounding(grounds[-1][1].split("<grounding>")[-1], context, notes), notes)
        if answers:
            return canonical.answered(think, answers[-1][1], notes)
        if calls:
            notes.append("a call in our own form, which upstream does not see")
            return canonical.act(think, _read_other(calls[-1][1], context, notes), notes)
        return canonical.nothing(think, notes, "no grounding and no answer: upstream ends the episode")

    def write_turn(self, turn: str, context: Context) -> str:
        said = canonical.take_apart(turn, context)
        think = f"<think>{said.think}</think>"
        if said.kind == Kind.ANSWER:
            return f"{think}<answer>{said.answer}</answer>"
        if said.kind != Kind.CALL:
            return think
        if said.name not in (None, ZOOM):
            return f"{think}<tool_call>{said.body}</tool_call>"
        source = None if said.zoom is None else _source(said.zoom[1], context)
        if source is None:  # refused here: a grounding without a source, so that it is refused there
            return f"{think}<grounding>{said.body_without(('source', 'grounding'))}</grounding>"
        parts = [value / FRAME for value in said.zoom[0]]
        return f"{think}<grounding>{json.dumps({BOX: parts, 'source': source})}</grounding>"

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        final = _FINAL if observation.final else ""
        if observation.image is None and observation.text.startswith("error: "):
            error = f"{_ERROR}{observation.text.removeprefix('error: ')}."
            return "\n".join(part for part in (error, final) if part)
        image = ""
        if observation.image is not None:
            turn = observation.image - context.originals + 1
            image = f"After the above Action {turn - 1}, here is the zoom-in image (Observation {turn}):\n{IMAGE}."
        return "\n".join(part for part in (image, observation.text, final) if part)

    def read_observation(self, text: str, context: Context) -> TextObservation:
        text = canonical.without_end(text).strip()
        text = text.replace("<|vision_start|><|image_pad|><|vision_end|>", IMAGE)
        further = _CONTINUE.search(text)
        text = (text[: further.start()] if further else text).strip()
        final = text.endswith(_FINAL)
        text = text.removesuffix(_FINAL).strip()
        if text.startswith(_ERROR):
            return TextObservation("error: " + text.removeprefix(_ERROR).removesuffix("."), final=final)
        image = len(context.images) if _SHOWN.match(text) or IMAGE in text else None
        text = _SHOWN.sub("", text).replace(IMAGE + ".", "").replace(IMAGE, "").strip()
        return TextObservation(text, image, None, final)


def _source(index: int, context: Context) -> str | None:
    """Its name; None for what has none: a question's second image, or an image that does not exist."""
    if index == 0:
        return "original_image"
    view = index - context.originals + 1
    return f"observation_{view}" if view >= 1 and context.has(index) else None


def _read_grounding(raw: str, context: Context, notes: list[str]) -> str:
    try:
        given = canonical.load_json(_SINGLE_QUOTES.sub(r'\1"\2"\3', raw), notes)
        if not isinstance(given, dict):
            raise Refused(Fault.MALFORMED, "a grounding is an object", raw)
        for key in (BOX, "source"):
            if key not in given:
                raise Refused(Fault.MISSING_ARGUMENT, f"{key} is missing")
        index = _index(given["source"], context)
        picture = context.images[index]
        box = frames.numbers(given[BOX])
        size, inside = (picture.width, picture.height), frames.clamp(box, (1, 1), notes)
        placed = frames.to_frame(inside, (1, 1), [])
        pixels = [math.trunc(min(max(value, -9), 9) * size[at % 2]) for at, value in enumerate(box)]
        width = min(pixels[2], size[0] - 1) - max(pixels[0], 0)
        height = min(pixels[3], size[1] - 1) - max(pixels[1], 0)
        if width < 1 or height < 1:
            raise Refused(Fault.EMPTY_BOX, "the box covers no pixel", (placed, index))
        if max(width, height) >= MAX_ASPECT * min(width, height):
            raise Refused(Fault.EMPTY_BOX, f"a side of the box is {MAX_ASPECT} times the other", (placed, index))
        return canonical.zoom_text(frames.to_frame(inside, (1, 1), notes), index, context)
    except Refused as refused:
        notes.append(refused.reason)
        if refused.fault == Fault.MALFORMED:
            return canonical.malformed(raw, context)
        return canonical.refused_zoom(refused, context)


def _index(source: object, context: Context) -> int:
    if source == "original_image":
        return 0
    match = _SOURCE.match(source) if isinstance(source, str) else None
    if match is None or len(match[1]) > 9:
        raise Refused(Fault.WRONG_TYPE, f"no source: {str(source)[:80]}", source)
    view = int(match[1])
    return frames.existing(context.originals - 1 + view, context, source) if view else 0


def _read_other(raw: str, context: Context, notes: list[str]) -> str:
    try:
        call = canonical.load_json(raw, notes)
    except Refused as refused:
        notes.append(refused.reason)
        return canonical.malformed(raw, context)
    return canonical.pass_on(call, raw, context, notes)
