"""DeepEyes: ``image_zoom_in_tool`` in pixels of the un-resized first image.

Facts (Visual-Agent/DeepEyes, ``visual_toolbox_v2``): the last non-empty ``<answer>`` of a turn ends the episode, else
the last ``<tool_call>`` counts, else the episode ends without an answer. A block ends at the first closing tag. The
box is cut at the image's border, then refused unless its shorter side is more than 30 pixels and the longer at most
100 times that; ``label`` and unknown arguments are not looked at. The prompt's schema requires a key ``bbox``, its
example and the code have ``bbox_2d``. Its rotation tool has no counterpart here.

``write → read`` is the identity for every box that the dialect accepts on an original of at least 1000 pixels a side;
smaller boxes are written as they are, and refused there as here. A box on a view is written on the original.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.dialects import canonical, frames
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation
from medvista_jax.text.dialects.canonical import BOX, ZOOM, Refused, Said
from medvista_jax.text.dialects.signatures import box_property, offer, signature

TOOL = "image_zoom_in_tool"
TOOLS = (TOOL, "image_rotate_tool")
MIN_SIDE, MAX_ASPECT = 30, 100

_ZOOM = signature(
    TOOL,
    "Cut a box out of the image and look at it enlarged.",
    {
        BOX: box_property("x1, y1, x2, y2 of the box, in pixels of the original image"),
        "label": {"type": "string", "description": "what the box shows; may be left out"},
    },
    [BOX],
)
_FORMAT = (
    "Look at the image and answer the question. Each turn: <think>…</think>, then <tool_call>…</tool_call> "
    "to use a tool, or <answer>…</answer> to finish."
)
_FINAL = "Answer now."


def blocks(text: str, tag: str) -> list[re.Match[str]]:
    """Every ``<tag>…</tag>``, each from an opening tag to the first closing one behind it."""
    return list(re.finditer(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) if f"</{tag}>" in text else []


@dataclasses.dataclass(frozen=True)
class DeepEyes:
    """See the module."""

    name: str = "deepeyes"

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        return "\n\n".join(part for part in (offer(tools, _ZOOM), _FORMAT) if part)

    def read_turn(self, text: str, context: Context) -> Reading:
        notes: list[str] = []
        text = canonical.without_end(text)
        answers, calls = blocks(text, "answer"), blocks(text, "tool_call")
        if answers and (answers[-1][1] or not calls):
            if calls:
                notes.append("an answer and a call: the answer ends the episode")
            return canonical.answered(canonical.thought(without(text, [*answers, *calls])), answers[-1][1], notes)
        if not calls:
            return canonical.nothing(canonical.thought(text), notes, "no call and no answer: upstream ends the episode")
        if len(calls) > 1:
            notes.append(f"{len(calls)} calls: the last one counts")
        think = canonical.thought(without(text, [*answers, *calls]))
        return canonical.act(think, self._read_call(calls[-1][1], context, notes), notes)

    def _read_call(self, raw: str, context: Context, notes: list[str]) -> str:
        try:
            call = canonical.load_json(raw, notes)
            if not isinstance(call, dict) or "name" not in call or "arguments" not in call:
                raise Refused(Fault.MALFORMED, "a call is an object with name and arguments", raw)
            name, arguments = call["name"], call["arguments"]
            if name != TOOL:
                return canonical.pass_on(call, raw, context, notes, (ZOOM, *TOOLS))
            if not isinstance(arguments, dict):
                raise Refused(Fault.MALFORMED, "the arguments are no object", raw)
            return canonical.zoom_text(_read_box(arguments, context, notes), 0, context)
        except Refused as refused:
            notes.append(refused.reason)
            if refused.fault == Fault.MALFORMED:
                return canonical.malformed(raw, context)
            return canonical.refused_zoom(refused, context)

    def write_turn(self, turn: str, context: Context) -> str:
        said = canonical.take_apart(turn, context)
        return write_tagged(said, _write_body(said, context))

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        final = _FINAL if observation.final else ""
        if observation.image is None and observation.text.startswith("error: "):
            return " ".join(part for part in ("Error: " + observation.text.removeprefix("error: "), final) if part)
        image = "" if observation.image is None else IMAGE
        text = "\n".join(part for part in (observation.text, final) if part)
        return f"<tool_response>{image}{text}</tool_response>"

    def read_observation(self, text: str, context: Context) -> TextObservation:
        return read_response(text, context)


def _read_box(arguments: dict, context: Context, notes: list[str]) -> tuple[int, int, int, int]:
    extra = sorted(str(key) for key in arguments.keys() - {BOX})
    if extra:
        notes.append(f"not looked at: {', '.join(extra)[:200]}")
    if BOX not in arguments:
        raise Refused(Fault.MISSING_ARGUMENT, f"{BOX} is missing; the schema of the dialect's prompt calls it bbox")
    picture = context.images[0]
    size = (picture.width, picture.height)
    box = frames.clamp(frames.numbers(arguments[BOX]), size, notes)
    placed = frames.to_frame(box, size, [])
    width, height = box[2] - box[0], box[3] - box[1]
    if width <= 0 or height <= 0:
        raise Refused(Fault.EMPTY_BOX, "the box is empty", (placed, 0))
    if min(width, height) <= MIN_SIDE:
        raise Refused(Fault.EMPTY_BOX, f"a side of the box is not more than {MIN_SIDE} pixels", (placed, 0))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refused(Fault.EMPTY_BOX, f"a side of the box is more than {MAX_ASPECT} times the other", (placed, 0))
    return frames.to_frame(box, size, notes)


def _write_body(said: Said, context: Context) -> str:
    if said.zoom is None:
        return said.body_without(TOOLS)
    box, index = said.zoom
    placed = frames.in_original(box, index, context) if context.has(index) else None
    if placed is None or placed[1] != 0:  # the dialect has no words for any image but the first
        return said.body_without(TOOLS)
    picture = context.images[0]
    pixels = frames.to_pixels(placed[0], (picture.width, picture.height))
    return json.dumps({"name": TOOL, "arguments": {BOX: pixels}})


def without(text: str, parts: Sequence[re.Match[str]]) -> str:
    """The text without the parts, which may overlap."""
    gone = [False] * len(text)
    for part in parts:
        gone[part.start() : part.end()] = [True] * (part.end() - part.start())
    return "".join(character for character, cut in zip(text, gone, strict=True) if not cut)


def write_tagged(said: Said, body: str) -> str:
    """A turn of the dialects that have our three tags."""
    think = f"<think>{said.think}</think>"
    if said.kind == Kind.ANSWER:
        return f"{think}\n<answer>{said.answer}</answer>"
    return f"{think}\n<tool_call>\n{body}\n</tool_call>" if said.kind == Kind.CALL else think


_INSTRUCTION = re.compile(r"^Think (?:first|in the mind)\b", re.MULTILINE)


def read_response(text: str, context: Context) -> TextObservation:
    """A ``<tool_response>`` or ``Error: …`` message; upstream's reminder of the format behind it is no observation."""
    text = canonical.without_end(text).strip()
    text = text.removeprefix("<|im_start|>user").strip()
    shown = text.startswith("<tool_response>")
    if shown:
        text = text.removeprefix("<tool_response>").removesuffix("</tool_response>").strip()
    image = len(context.images) if IMAGE in text else None
    text = text.replace(IMAGE, "").strip()
    reminder = _INSTRUCTION.search(text)
    text = text[: reminder.start()].strip() if reminder else text
    final = text.endswith(_FINAL)
    text = text.removesuffix(_FINAL).strip()
    if not shown and text.startswith("Error: "):
        text = "error: " + text.removeprefix("Error: ")
    return TextObservation(text, image, None, final)
