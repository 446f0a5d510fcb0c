"""Pixel-Reasoner: ``crop_image_normalized`` in parts of one of an image counted from 1, and ``\\boxed{}`` answers.

Facts (TIGER-AI-Lab/Pixel-Reasoner, ``experience_maker.py``): a turn that ends in ``</tool_call>`` calls what stands
behind the last ``<tool_call>``; any other turn is the last one, a call that is not at its end included. Of a turn with
``\\boxed{}`` and a call at its end the call counts. ``target_image`` has no default. When all four numbers are below 1
they are parts of one, *else pixels, all of them*: the box [0, 0, 1, 1] is one pixel. Upstream then adds a tenth of the
image on every side before it cuts, which it does not tell the model, and refuses a cut of 28 pixels or less;
``select_frames`` is refused for images.

Read here: the box that the model asked for, without the tenth, as a note says; a box at the right or lower border is
written with 0.9999, which upstream does not take for pixels. ``write → read`` is the identity for every box with an
area on images of at least 280 pixels a side; on smaller ones a cut can be below upstream's limit.
Upstream takes ``target_image`` 0 for the last original (an index of -1 in Python); here it is an error.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from fractions import Fraction

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.dialects import canonical, frames
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation
from medvista_jax.text.dialects.canonical import BOX, Refused
from medvista_jax.text.dialects.signatures import box_property, offer, signature

TOOL, FRAMES_TOOL, TARGET = "crop_image_normalized", "select_frames", "target_image"
MARGIN, MIN_SIDE = Fraction(1, 10), 28
BELOW_ONE = 0.9999
"""Written for 1: rounds to 1000 of ours, and no number of the box reaches 1."""

_CLOSE = "</tool_call>"
_ZOOM = signature(
    TOOL,
    "Cut a box out of an image and look at it enlarged.",
    {
        BOX: box_property("x1, y1, x2, y2 of the box, 0.0 to 1.0 of the image"),
        TARGET: {"type": "number", "description": "number of the image, 1 is the first"},
    },
    [BOX, TARGET],
)
_FORMAT = "Think step by step. End a turn with a call to use a tool, or put the final answer within \\boxed{}."
_FINAL = "Answer now."
_ROUND = str.maketrans("{}", "()")
_BRACE = re.compile(r"\\boxed\{|[{}]")
_IMAGE = re.compile(r"Here is the cropped image(?: \(Image Size: (\d{1,9})x(\d{1,9})\))?:")


def last_boxed(text: str) -> tuple[int, str, int] | None:
    """Start, inside and end of the last ``\\boxed{…}`` whose braces balance."""
    found: tuple[int, str, int] | None = None
    opened: list[tuple[bool, int, int]] = []
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            opened.append((len(match[0]) > 1, match.start(), match.end()))
        elif opened:
            boxed, start, begin = opened.pop()
            if boxed and (found is None or start > found[0]):
                found = (start, text[begin : match.start()], match.end())
    return found


@dataclasses.dataclass(frozen=True)
class PixelReasoner:
    """See the module."""

    name: str = "pixel-reasoner"

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        return "\n\n".join(part for part in (offer(tools, _ZOOM), _FORMAT) if part)

    def read_turn(self, text: str, context: Context) -> Reading:
        notes: list[str] = []
        text = canonical.without_end(text)
        if text.rstrip().endswith(_CLOSE):
            if not text.endswith(_CLOSE):
                notes.append("white space behind the call: upstream ends the episode")
            before, opened, raw = text.rstrip().removesuffix(_CLOSE).rpartition("<tool_call>")
            if not opened:  # upstream then looks for a call in the prompt before the turn
                notes.append("a call that was not opened")
                return canonical.act(canonical.thought(raw), canonical.malformed("", context), notes)
            raw = raw.split(_CLOSE)[0]
            if last_boxed(before):
                notes.append("an answer and a call: the call counts")
            return canonical.act(canonical.thought(before), self._read_call(raw, context, notes), notes)
        if _CLOSE in text:
            notes.append("a call that does not end the turn: upstream ends the episode")
        answer = last_boxed(text)
        if answer is None:
            return canonical.nothing(canonical.thought(text), notes, "no call and no \\boxed{}: upstream ends here")
        start, inside, end = answer
        return canonical.answered(canonical.thought(text[:start] + text[end:]), inside, notes)

    def _read_call(self, raw: str, context: Context, notes: list[str]) -> str:
        try:
            call = canonical.load_json(raw, notes)
            if not isinstance(call, dict) or "name" not in call or "arguments" not in call:
                raise Refused(Fault.MALFORMED, "a call is an object with name and arguments", raw)
            name, arguments = call["name"], call["arguments"]
            if name == FRAMES_TOOL:
                notes.append(f"{FRAMES_TOOL} is for videos; upstream refuses it for images")
            if name != TOOL:
                return canonical.pass_on(call, raw, context, notes)
            if not isinstance(arguments, dict):
                raise Refused(Fault.MALFORMED, "the arguments are no object", raw)
            return canonical.zoom_text(*_read_zoom(arguments, context, notes), context)
        except Refused as refused:
            notes.append(refused.reason)
            if refused.fault == Fault.MALFORMED:
                return canonical.malformed(raw, context)
            return canonical.refused_zoom(refused, context)

    def write_turn(self, turn: str, context: Context) -> str:
        said = canonical.take_apart(turn, context)
        think = said.think + "\n\n" if said.think else ""
        if said.kind == Kind.ANSWER:
            return f"{think}{_box_up(said.answer)}"
        if said.kind != Kind.CALL:
            return said.think
        body = said.body_without((TOOL, FRAMES_TOOL))
        if said.zoom is not None:
            box, index = said.zoom
            parts = [BELOW_ONE if value == FRAME else value / FRAME for value in box]
            body = json.dumps({"name": TOOL, "arguments": {BOX: parts, TARGET: index + 1}})
        return f"{think}<tool_call>\n{body}\n{_CLOSE}"

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        final = _FINAL if observation.final else ""
        if observation.image is None and observation.text.startswith("error: "):
            return "\n".join(
                part for part in ("\nExecution error:", observation.text.removeprefix("error: "), final) if part
            )
        size = observation.size
        shown = "" if size is None else f" (Image Size: {size[0]}x{size[1]})"
        image = "" if observation.image is None else f"Here is the cropped image{shown}:{IMAGE}"
        return "\n" + "\n".join(part for part in (image, observation.text, final) if part)

    def read_observation(self, text: str, context: Context) -> TextObservation:
        text = canonical.without_end(text).strip()
        final = text.endswith(_FINAL)
        text = text.removesuffix(_FINAL).strip()
        if text.startswith("Execution error:"):
            return TextObservation("error: " + text.removeprefix("Execution error:").strip(), final=final)
        match = _IMAGE.search(text)
        image = len(context.images) if match or IMAGE in text else None
        size = (int(match[1]), int(match[2])) if match and match[1] else None
        return TextObservation(_IMAGE.sub("", text).replace(IMAGE, "").strip(), image, size, final)


def _box_up(answer: str) -> str:
    """The answer in its box; braces that do not balance would open it, so they become parentheses."""
    boxed = f"\\boxed{{{answer}}}"
    return boxed if last_boxed(boxed) == (0, answer, len(boxed)) else f"\\boxed{{{answer.translate(_ROUND)}}}"


def _read_zoom(arguments: dict, context: Context, notes: list[str]) -> tuple[tuple[int, int, int, int], int]:
    for key in (TARGET, BOX):
        if key not in arguments:
            raise Refused(Fault.MISSING_ARGUMENT, f"{key} is missing")
    extra = sorted(str(key) for key in arguments.keys() - {BOX, TARGET})
    if extra:
        notes.append(f"not looked at: {', '.join(extra)[:200]}")
    index = frames.existing(frames.whole(arguments[TARGET], notes) - 1, context, arguments[TARGET])
    box = frames.numbers(arguments[BOX])
    picture = context.images[index]
    size: tuple[int, int] = (1, 1)
    if any(value >= 1 for value in box):
        size = (picture.width, picture.height)
        notes.append("a number of 1 or more: the whole box is read as pixels")
    notes.append("upstream adds a tenth of the image on every side of the box")
    box = frames.clamp(box, size, notes)
    placed = frames.to_frame(box, size, [])
    if box[2] <= box[0] or box[3] <= box[1]:
        raise Refused(Fault.EMPTY_BOX, "the box is empty", (placed, index))
    for low, high, length in ((0, 2, picture.width), (1, 3, picture.height)):
        part = Fraction(size[low])
        cut = min(box[high] / part + MARGIN, Fraction(1)) - max(box[low] / part - MARGIN, Fraction(0))
        if cut * length <= MIN_SIDE:
            raise Refused(Fault.EMPTY_BOX, f"a side of the cut is not more than {MIN_SIDE} pixels", (placed, index))
    return frames.to_frame(box, size, notes), index
