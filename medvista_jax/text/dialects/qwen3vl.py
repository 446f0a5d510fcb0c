"""Qwen3-VL: integers 0…1000, the frame this project uses, as a tool call or as a grounding list.

Facts (QwenLM/Qwen3-VL, cookbooks): ``image_zoom_in_tool`` takes ``bbox_2d`` in 0…1000 of the image ``img_idx``, which
counts from 0, and a ``label``. Grounding is a JSON list, often fenced, of ``{"bbox_2d": […], "label": …}`` or
``{"point_2d": [x, y], "label": …}``. Thinking models open ``<think>`` in the prompt, so that their turn holds only the
closing tag. A turn without a call is the answer, tags or not.

A grounding list outside of answer tags is read as a zoom into its last box; a point has no area and is EMPTY_BOX. It
names no image: the first. ``write → read`` is the identity for every box on every image.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault
from medvista_jax.text.dialects import canonical, frames
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation
from medvista_jax.text.dialects.canonical import BOX, Refused
from medvista_jax.text.dialects.deepeyes import blocks, read_response, without, write_tagged
from medvista_jax.text.dialects.signatures import box_property, offer, signature

TOOL, INDEX, POINT = "image_zoom_in_tool", "img_idx", "point_2d"
_ZOOM = signature(
    TOOL,
    "Cut a box out of an image and look at it enlarged.",
    {
        BOX: box_property("x1, y1, x2, y2 of the box, 0 to 1000 of the image"),
        "label": {"type": "string", "description": "what the box shows"},
        INDEX: {"type": "number", "description": "index of the image, 0 is the first"},
    },
    [BOX, "label", INDEX],
)
_FORMAT = "Answer the question about the image. Call a tool to look closer. Give the final answer in <answer></answer>."
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_FINAL = "Answer now."


@dataclasses.dataclass(frozen=True)
class Grounding:
    """One entry of a grounding list.

    Attributes:
      label: what is there; empty for none.
      box: x1, y1, x2, y2 in 0…1000; None for a point.
      point: x, y in 0…1000; None for a box.
    """

    label: str = ""
    box: tuple[int, int, int, int] | None = None
    point: tuple[int, int] | None = None


def read_groundings(text: str) -> tuple[Grounding, ...]:
    """The entries of the last grounding list in the text, fenced or bare; entries that are none are left out."""
    found: tuple[Grounding, ...] = ()
    for entries in _lists(text, []):
        found = tuple(entry for entry in map(_grounding, entries) if entry is not None)
    return found


def write_groundings(groundings: Sequence[Grounding]) -> str:
    """A fenced JSON list, an entry a line, as the model writes it."""
    lines = []
    for entry in groundings:
        place = {BOX: list(entry.box)} if entry.box is not None else {POINT: list(entry.point or ())}
        label = {"label": entry.label} if entry.label else {}
        lines.append("\t" + json.dumps({**place, **label}, ensure_ascii=False))
    return "```json\n[\n" + ",\n".join(lines) + "\n]\n```"


def _grounding(entry: Any) -> Grounding | None:
    label = entry.get("label", "") if isinstance(entry, dict) else ""
    label = label if isinstance(label, str) else ""
    try:
        if isinstance(entry, dict) and BOX in entry:
            return Grounding(label, box=tuple(map(frames.nearest, frames.numbers(entry[BOX]))))
        if isinstance(entry, dict) and POINT in entry:
            return Grounding(label, point=tuple(map(frames.nearest, frames.numbers(entry[POINT], 2))))
    except Refused:
        pass
    return None


def _lists(text: str, notes: list[str]) -> list[list[Any]]:
    """Every grounding list of the text: in fences, else between its outermost brackets. A lone object is one entry."""
    found = []
    for candidates in (_FENCE.findall(text), [_between(text, "[", "]")], [_between(text, "{", "}")]):
        for candidate in candidates:
            try:
                value = canonical.load_json(candidate, notes)
            except Refused:
                continue
            entries = [value] if isinstance(value, dict) else value
            if isinstance(entries, list) and any(isinstance(e, dict) and (BOX in e or POINT in e) for e in entries):
                found.append(entries)
        if found:
            break
    return found


def _between(text: str, opening: str, closing: str) -> str:
    """From the first opening bracket to the last closing one."""
    return text[max(text.find(opening), 0) : text.rfind(closing) + 1]


@dataclasses.dataclass(frozen=True)
class Qwen3VL:
    """See the module."""

    name: str = "qwen3-vl"

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        return "\n\n".join(part for part in (_FORMAT, offer(tools, _ZOOM)) if part)

    def read_turn(self, text: str, context: Context) -> Reading:
        notes: list[str] = []
        text = canonical.without_end(text)
        answers, calls = blocks(text, "answer"), blocks(text, "tool_call")
        rest = without(text, [*answers, *calls])
        if answers:
            if calls:
                notes.append("an answer and a call: the answer ends the episode")
            return canonical.answered(canonical.thought(rest), answers[-1][1], notes)
        if calls:
            if len(calls) > 1:
                notes.append(f"{len(calls)} calls: the last one counts")
            return canonical.act(canonical.thought(rest), _read_call(calls[-1][1], context, notes), notes)
        think, closed, said = text.rpartition("</think>")
        groundings = _lists(said, notes)
        if groundings:
            words = canonical.thought(
                f"{think}{closed}{_FENCE.sub('', said)}" if _FENCE.search(said) else think + closed
            )
            return canonical.act(words, _read_entry(groundings[-1], context, notes), notes)
        if said.strip() and not any(tag in said for tag in ("<think>", "<tool_call>", "<answer>")):
            notes.append("a turn without a call is the answer")
            return canonical.answered(canonical.thought(think + closed), said.strip(), notes)
        return canonical.nothing(canonical.thought(text), notes, "no call and no answer")

    def write_turn(self, turn: str, context: Context) -> str:
        said = canonical.take_apart(turn, context)
        body = said.body_without((TOOL,))
        if said.zoom is not None:
            box, index = said.zoom
            body = json.dumps({"name": TOOL, "arguments": {BOX: list(box), INDEX: index}})
        return write_tagged(said, body)

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        image = "" if observation.image is None else IMAGE
        final = _FINAL if observation.final else ""
        inside = "\n".join(part for part in (image, observation.text, final) if part)
        return f"<tool_response>\n{inside}\n</tool_response>"

    def read_observation(self, text: str, context: Context) -> TextObservation:
        return read_response(text, context)


def _read_call(raw: str, context: Context, notes: list[str]) -> str:
    try:
        call = canonical.load_json(raw, notes)
        if not isinstance(call, dict) or "name" not in call:
            raise Refused(Fault.MALFORMED, "a call is an object with name and arguments", raw)
        name, arguments = call["name"], call.get("arguments", {})
        if name != TOOL:
            return canonical.pass_on(call, raw, context, notes)
        if not isinstance(arguments, dict):
            raise Refused(Fault.MALFORMED, "the arguments are no object", raw)
        extra = sorted(str(key) for key in arguments.keys() - {BOX, INDEX})
        if extra:
            notes.append(f"not looked at: {', '.join(extra)[:200]}")
        return _zoom(arguments, context, notes)
    except Refused as refused:
        return _refused(refused, raw, context, notes)


def _read_entry(entries: list[Any], context: Context, notes: list[str]) -> str:
    """The zoom into the last entry of a grounding list."""
    if len(entries) > 1:
        notes.append(f"{len(entries)} entries: the last one counts")
    entry = entries[-1]
    raw = str(entry)[:1000]
    try:
        if not isinstance(entry, dict):
            raise Refused(Fault.MALFORMED, "an entry is an object", raw)
        if isinstance(entry.get("label"), str):
            notes.append(f"not looked at: label {entry['label'][:80]!r}")
        if BOX not in entry and POINT in entry:
            x, y = map(frames.nearest, frames.numbers(entry[POINT], 2))
            raise Refused(Fault.EMPTY_BOX, "a point has no area", ((x, y, x, y), 0))
        return _zoom(entry, context, notes)
    except Refused as refused:
        return _refused(refused, raw, context, notes)


def _zoom(given: dict, context: Context, notes: list[str]) -> str:
    if BOX not in given:
        raise Refused(Fault.MISSING_ARGUMENT, f"{BOX} is missing")
    if INDEX not in given:
        notes.append("no image is named: the first")
    said = given.get(INDEX, 0)
    index = frames.existing(frames.whole(said, notes), context, said)
    exact = frames.numbers(given[BOX])
    box = tuple(map(frames.nearest, exact))
    if box != exact:
        notes.append("numbers are rounded to integers")
    if min(box) < 0 or max(box) > FRAME:
        raise Refused(Fault.OUT_OF_RANGE, f"a number beyond 0…{FRAME}", (box, index))
    if exact[2] <= exact[0] or exact[3] <= exact[1]:
        raise Refused(Fault.EMPTY_BOX, "the box is empty", (box, index))
    return canonical.zoom_text(frames.to_frame(exact, (FRAME, FRAME), notes), index, context)


def _refused(refused: Refused, raw: str, context: Context, notes: list[str]) -> str:
    notes.append(refused.reason)
    if refused.fault == Fault.MALFORMED:
        return canonical.malformed(raw, context)
    return canonical.refused_zoom(refused, context)
