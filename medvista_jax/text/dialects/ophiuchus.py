"""Ophiuchus: ``Action: Zoom-in`` and a fenced JSON list, in pixels of a frame of 512x512, images counted from 1.

Facts (SII-zyj/Ophiuchus, ``medical_agent``): the prompt says that every image reaches from (0, 0) to (512, 512); the
released environment cuts the box at the image's own size instead, whatever that is (``Ophiuchus(frame=None)`` here
takes the context's sizes). Numbers are truncated to whole pixels; ``index`` is 1 when it is missing. Comments (``#``,
``//``) inside the JSON are allowed, as the prompt's own example has one. An action wins over an answer. ``SAM2`` and
``BiomedParse``, its other tools, have no counterpart here unless tools of these names are registered.

Upstream faults that are not reproduced, each noted where it would have acted:

- The published training turns say ``Action: <tool_call>Zoom-in … </tool_call>``, which the environment does not
  recognise; both forms are read here.
- A turn without action and answer is searched for a single letter A to E, of either case: the article "a" answers A.
- Of an answer only the first letter is read.
- An action without readable JSON gets no observation at all; here it is MALFORMED.
- Every entry of a list is carried out; here, as of several calls, the last one.

``write → read`` moves a coordinate by at most 1 of 1000 in the frame of 512 pixels, a box with an area keeps one of at
least a pixel, and read → write → read is stable.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.dialects import canonical, frames
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation
from medvista_jax.text.dialects.canonical import BOX, ZOOM, Refused

TOOL, INDEX = "Zoom-in", "index"
_ACTION = re.compile(r"Action\s*[:：][^\S\r\n]*([^\r\n]*)", re.IGNORECASE)
_FENCE = re.compile(r"```json\s*(.*?)```", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_PLAIN_ANSWER = re.compile(r"answer\s*[:：]\s*(\S[^\r\n]*)", re.IGNORECASE)
_LETTER = re.compile(r"\b[A-E]\b", re.IGNORECASE | re.ASCII)
_SHOWN = re.compile(
    r"The index of the given image is (\d{1,9}) \(width: (\d{1,9}), height: (\d{1,9})\)\.?(?:\s*Continue your.*)?",
    re.DOTALL | re.ASCII,
)
_FAILED = re.compile(r"!!\(Warning\) tool call failed: .*?error=(?:\w+: )?(.*)", re.DOTALL)
_FINAL = "Answer now."
_ZOOM_GUIDE = (
    "Zoom-in: cut a box out of an image and look at it enlarged. Its JSON is a list with one entry:\n"
    '```json\n[{"index": i, "bbox_2d": [x1, y1, x2, y2]}]\n```\n'
    "index is the number of the image, 1 is the first. "
)
_FORMAT = (
    "Each turn: <think>…</think> Action: NAME, then the JSON in a fence. To finish:\n"
    "<think>…</think> Action: Answer\n<answer>…</answer>"
)


@dataclasses.dataclass(frozen=True)
class Ophiuchus:
    """See the module.

    Attributes:
      frame: width and height that every image is said to have; None takes the context's sizes.
    """

    frame: tuple[int, int] | None = (512, 512)
    name: str = "ophiuchus"

    def _size(self, index: int, context: Context) -> tuple[int, int]:
        if self.frame is not None or not context.has(index):
            return self.frame or (512, 512)
        return context.images[index].width, context.images[index].height

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        parts = []
        for tool in tools:
            if tool.name == ZOOM:
                corner = "its width and height" if self.frame is None else f"({self.frame[0]}, {self.frame[1]})"
                parts.append(_ZOOM_GUIDE + f"Every image reaches from (0, 0) to {corner}.")
            else:
                schema = json.dumps(tool.schema()["function"]["parameters"], ensure_ascii=False)
                parts.append(f"{tool.name}: {tool.description} Its JSON is an object of this schema:\n{schema}")
        return "\n\n".join([*(["Tools:"] if parts else []), *parts, _FORMAT])

    def read_turn(self, text: str, context: Context) -> Reading:
        notes: list[str] = []
        text = canonical.without_end(text)
        think_end = text.rfind("</think>")
        action = _ACTION.search(text, think_end + 1)
        name = _bare_name(action[1], notes) if action else ""
        if action and re.split("[:：]", name.lower())[0].strip() != "answer":
            if _ANSWER.search(text):
                notes.append("an answer and an action: the action counts")
            body = self._read_action(name, text[action.end() :], context, notes)
            return canonical.act(canonical.thought(text[: action.start()]), body, notes)
        tagged = list(_ANSWER.finditer(text))
        said = tagged[-1] if tagged else _PLAIN_ANSWER.search(text, think_end + 1)
        if said:
            if not tagged:
                notes.append("an answer without tags, of which upstream reads the first letter")
            begin = action.start() if action else said.start()
            return canonical.answered(canonical.thought(text[:begin]), said[1].strip(), notes)
        letter = _LETTER.search(text)
        if letter:
            notes.append(f"upstream reads the word {letter[0]!r} as the answer {letter[0].upper()}")
        return canonical.nothing(canonical.thought(text), notes, "no action and no answer")

    def _read_action(self, name: str, behind: str, context: Context, notes: list[str]) -> str:
        raw = f"{name}{behind}"
        try:
            entries = _entries(behind, raw, notes)
            if len(entries) > 1:
                notes.append(f"{len(entries)} entries: the last one counts; upstream carries out all")
            entry = entries[-1]
            if name != TOOL:
                return canonical.pass_on({"name": name, "arguments": entry}, raw, context, notes)
            return canonical.zoom_text(*self._read_zoom(entry, context, notes), context)
        except Refused as refused:
            notes.append(refused.reason)
            if refused.fault == Fault.MALFORMED:
                return canonical.malformed(raw, context)
            return canonical.refused_zoom(refused, context)

    def _read_zoom(self, entry: Any, context: Context, notes: list[str]) -> tuple[tuple[int, int, int, int], int]:
        if not isinstance(entry, dict):
            raise Refused(Fault.MALFORMED, "an entry is an object", str(entry))
        number = entry.get(INDEX, 1)
        if isinstance(number, str) and re.fullmatch(r"\s*-?\d{1,9}\s*", number, re.ASCII):
            notes.append(f"the image index {number!r} is read as {int(number)}")
            number = int(number)
        index = frames.existing(frames.whole(number, notes) - 1, context, number)
        if not entry.get(BOX):
            raise Refused(Fault.MISSING_ARGUMENT, f"{BOX} is missing")
        given = frames.numbers(entry[BOX])
        box = tuple(Fraction(math.trunc(value)) for value in given)
        if box != given:
            notes.append("numbers are cut to whole pixels, as upstream does")
        size = self._size(index, context)
        box = frames.clamp(box, size, notes)
        if box[2] <= box[0] or box[3] <= box[1]:
            raise Refused(Fault.EMPTY_BOX, "the box is empty", (frames.to_frame(box, size, []), index))
        return frames.to_frame(box, size, notes), index

    def write_turn(self, turn: str, context: Context) -> str:
        said = canonical.take_apart(turn, context)
        think = f"<think>{said.think}</think>"
        if said.kind == Kind.ANSWER:
            return f"{think} Action: Answer\n<answer>{said.answer}</answer>"
        if said.kind != Kind.CALL:
            return think
        if said.name not in (None, ZOOM):
            body = json.dumps(dict(said.arguments), ensure_ascii=False)
            return f"{think} Action: {said.name}\n```json\n{body}\n```"
        if said.zoom is None:  # refused here: an entry without a box, so that it is refused there
            entry: dict[str, Any] = {"said": re.sub("[`#]|//", " ", canonical.plain(said.body))}
        else:
            box, index = said.zoom
            pixels = frames.to_pixels(box, self._size(index, context))
            entry = {INDEX: index + 1, BOX: _with_area(box, pixels)}
        return f"{think} Action: {TOOL}\n```json\n{json.dumps([entry])}\n```"

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        final = _FINAL if observation.final else ""
        if observation.image is None and observation.text.startswith("error: "):
            error = f"!!(Warning) tool call failed: error=ValueError: {observation.text.removeprefix('error: ')}"
            return "\n".join(part for part in (error, final) if part)
        image = ""
        if observation.image is not None:
            width, height = observation.size or self.frame or (512, 512)
            number = observation.image + 1
            image = f"{IMAGE}\nThe index of the given image is {number} (width: {width}, height: {height})."
        return "\n".join(part for part in (image, observation.text, final) if part)

    def read_observation(self, text: str, context: Context) -> TextObservation:
        text = canonical.without_end(text).strip()
        final = text.endswith(_FINAL)
        text = text.removesuffix(_FINAL).strip()
        failed = _FAILED.match(text)
        if failed:
            return TextObservation("error: " + failed[1].strip(), final=final)
        shown = _SHOWN.search(text)
        image = int(shown[1]) - 1 if shown else len(context.images) if IMAGE in text else None
        size = (int(shown[2]), int(shown[3])) if shown else None
        return TextObservation(_SHOWN.sub("", text).replace(IMAGE, "").strip(), image, size, final)


def _bare_name(line: str, notes: list[str]) -> str:
    """The tool's name in an ``Action:`` line."""
    name = line.strip()
    if "<tool_call>" in name:
        notes.append("Action: <tool_call>…: the released environment does not recognise its training format")
    return name.replace("<tool_call>", "").replace("</tool_call>", "").strip()


def _entries(behind: str, raw: str, notes: list[str]) -> list[Any]:
    """The first fenced block that is a list or an object, as a list with something in it."""
    for block in _FENCE.findall(behind):
        for comments in (False, True):
            text = re.sub(r"(?://|#).*", "", block) if comments else block
            try:
                value = canonical.load_json(text, notes)
            except Refused:
                continue
            entries = [value] if isinstance(value, dict) else value
            if isinstance(entries, list) and entries:
                return entries
    raise Refused(Fault.MALFORMED, "no fenced JSON behind the action; upstream then says nothing", raw)


def _with_area(box: Sequence[int], pixels: list[int]) -> list[int]:
    """The pixels, widened by one where our box has an extent and they have none."""
    for low, high in ((0, 2), (1, 3)):
        if box[low] < box[high] and pixels[low] == pixels[high]:
            pixels = [*pixels]
            pixels[high if box[high] < FRAME else low] += 1 if box[high] < FRAME else -1
    return pixels
