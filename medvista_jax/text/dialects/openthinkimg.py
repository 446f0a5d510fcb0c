"""OpenThinkIMG: a JSON object a turn, ``{"thought": …, "actions": [{"name": …, "arguments": {…}}]}``.

Facts (zhaochen0110/OpenThinkIMG): the first action counts; ``Terminate`` with ``ans`` answers. ``image`` names an
image, ``img_1`` the first, but upstream always takes the newest one. All else of a tool stands in ``param``, a string:
``crop`` has ``[x1, y1, x2, y2]`` in whole pixels, the tools that take points ``x="21.5" y="28.5"``, percentages of the
image (several points: x1, y1, x2, …), ``ZoomInSubfigure`` a description. The list of actions is taken out of a turn
that is no JSON as a whole. In training any turn with the word Terminate in it ends the episode; here only the action.

``crop`` and a ``ZoomInSubfigure`` whose param is a box are zooms; one whose param is words needs a model that finds it,
so it is WRONG_TYPE. Any other tool is called where a tool of the same name is registered, case and underscores aside.
``write → read`` is the identity for every box on images of at least 1000 pixels a side (:mod:`.frames` has the bound).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.dialects import canonical, frames
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation
from medvista_jax.text.dialects.canonical import INDEX as IMAGE_INDEX
from medvista_jax.text.dialects.canonical import ZOOM, Refused

TOOL, TERMINATE = "crop", "Terminate"
ZOOMS = ("crop", "Crop", "ZoomInSubfigure")
_PIXELS = re.compile(r"\[\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\]", re.ASCII)
_PERCENT = re.compile(r'([xy])(\d*)\s*=\s*"?(\d{1,9}(?:\.\d{1,20})?)"?', re.ASCII)
_IMAGE_NAME = re.compile(r"(?:img|image)[_-]?(\d{1,9})", re.ASCII)
_ACTIONS = re.compile(r'"actions"\s*:\s*(?=\[)')
_OUTPUT = re.compile(r"^OBSERVATION:\s*(?:(\S+) model outputs: ?)?(.*)", re.DOTALL)
_DONE = ("Image cropped successfully.", "Line drawn successfully.", "None")
_FAILURE = re.compile(
    r"There is no tool name|Tool \S+ failed|Parameter format mismatch|Error |No valid points|Missing '"
)
_FINAL = "Answer now."
_FORMAT = (
    'Each turn is one JSON object: {"thought": "…", "actions": [{"name": "…", "arguments": {…}}]}, with one action. '
    'To finish: {"name": "Terminate", "arguments": {"ans": "the answer"}}'
)


@dataclasses.dataclass(frozen=True)
class OpenThinkIMG:
    """See the module."""

    name: str = "openthinkimg"

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        lines = []
        for tool in tools:
            if tool.name == ZOOM:
                example = {"name": TOOL, "arguments": {"image": "img_1", "param": "[x1, y1, x2, y2]"}}
                lines.append(f"{TOOL}: {tool.description} The box is in pixels. {json.dumps(example)}")
            else:
                schema = json.dumps(tool.schema()["function"]["parameters"], ensure_ascii=False)
                lines.append(f"{tool.name}: {tool.description} Arguments: {schema}")
        return "\n".join([*(["Actions:"] if lines else []), *lines, _FORMAT])

    def read_turn(self, text: str, context: Context) -> Reading:
        notes: list[str] = []
        text = canonical.without_end(text)
        think, actions = _take_apart(text, notes)
        if actions is None and "{" in text:
            notes.append("no JSON with a list of actions")
            return canonical.act("", canonical.malformed(text, context), notes)
        if actions is None:
            return canonical.nothing(think, notes, "no JSON object")
        if not actions:
            return canonical.nothing(think, notes, "an empty list of actions")
        if len(actions) > 1:
            notes.append(f"{len(actions)} actions: the first one counts")
        action = actions[0]
        if not isinstance(action, dict) or "name" not in action or "arguments" not in action:
            notes.append("an action is an object with name and arguments")
            return canonical.act(think, canonical.malformed(_dump(action), context), notes)
        if action["name"] == TERMINATE:
            return _terminate(think, action["arguments"], _dump(action), context, notes)
        if TERMINATE in text:
            notes.append("the word Terminate outside of the first action: upstream's training ends the episode")
        return canonical.act(think, _read_action(action, context, notes), notes)

    def write_turn(self, turn: str, context: Context) -> str:
        said = canonical.take_apart(turn, context)
        if said.kind == Kind.ANSWER:
            return _write(said.think, _dump({"name": TERMINATE, "arguments": {"ans": said.answer}}))
        if said.kind != Kind.CALL:
            return _write(said.think, "")
        if said.zoom is not None and context.has(said.zoom[1]):
            box, index = said.zoom
            picture = context.images[index]
            param = str(frames.to_pixels(box, (picture.width, picture.height)))
            return _write(said.think, _dump({"name": TOOL, "arguments": {"image": f"img_{index + 1}", "param": param}}))
        return _write(said.think, said.body_without((*ZOOMS, TERMINATE)))

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        image = "" if observation.image is None else IMAGE
        text = observation.text or _DONE[0]
        final = _FINAL if observation.final else ""
        return "\n".join(part for part in (image, f"OBSERVATION:\ntool model outputs: {text}", final) if part)

    def read_observation(self, text: str, context: Context) -> TextObservation:
        text = canonical.without_end(text).strip()
        image = len(context.images) if IMAGE in text else None
        text = text.replace(IMAGE, "").strip()
        final = text.endswith(_FINAL)
        text = text.removesuffix(_FINAL).strip()
        match = _OUTPUT.match(text)
        said = match[2].split("\nPlease summarize the model outputs")[0].strip() if match else text
        if _FAILURE.match(said):
            said = f"error: {said}"
        return TextObservation("" if said in _DONE else said, image, None, final)


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "nested too deep"


def _write(thought: str, action: str) -> str:
    return f'{{"thought": {_dump(thought)}, "actions": [{action}]}}'


def _take_apart(text: str, notes: list[str]) -> tuple[str, list[Any] | None]:
    """The thought and the list of actions; the list also out of text that is no JSON as a whole."""
    for candidate in (text, text[text.find("{") : text.rfind("}") + 1]):
        try:
            turn = canonical.load_json(candidate, notes)
        except Refused:
            continue
        if isinstance(turn, dict) and isinstance(turn.get("actions"), list):
            if candidate is not text and candidate != text.strip():
                notes.append("text around the JSON object")
            thought = turn.get("thought", "")
            return canonical.plain(thought if isinstance(thought, str) else _dump(thought)), turn["actions"]
    found = _ACTIONS.search(text)
    if found:
        try:
            actions, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(text, found.end())
            notes.append("the turn is no JSON object; its list of actions is")
            thought = re.search(r'"thought"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
            return canonical.plain(thought[1] if thought else text[: found.start()].strip()), actions
        except (ValueError, RecursionError):
            pass
    return canonical.thought(text), None


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def _terminate(think: str, arguments: Any, raw: str, context: Context, notes: list[str]) -> Reading:
    key = "ans"
    if isinstance(arguments, dict) and key not in arguments and "answer" in arguments:
        key = "answer"
        notes.append('an answer under "answer", as in one of upstream\'s examples; its code wants "ans"')
    if not isinstance(arguments, dict) or key not in arguments:
        notes.append("Terminate without an answer")
        return canonical.act(think, canonical.malformed(raw, context), notes)
    answer = arguments[key]
    return canonical.answered(think, answer if isinstance(answer, str) else _dump(answer), notes)


def _read_action(action: dict, context: Context, notes: list[str]) -> str:
    raw, name, arguments = _dump(action), action["name"], action["arguments"]
    try:
        if not isinstance(arguments, dict):
            raise Refused(Fault.MALFORMED, "the arguments are no object", raw)
        if name in ZOOMS:
            index = _index(arguments, context, notes)
            if "param" not in arguments:
                raise Refused(Fault.MISSING_ARGUMENT, "param is missing")
            return canonical.zoom_text(_box(arguments["param"], index, context, notes), index, context)
        spec = _same_name(name, context) if isinstance(name, str) else None
        if spec is None or spec.name == ZOOM or "param" not in arguments and "image" not in arguments:
            return canonical.pass_on(action, raw, context, notes)
        return canonical.offered_call(spec.name, _fit(spec, arguments, context, notes), notes)
    except Refused as refused:
        notes.append(refused.reason)
        if refused.fault == Fault.MALFORMED:
            return canonical.malformed(raw, context)
        return canonical.refused_zoom(refused, context)


def _index(arguments: dict, context: Context, notes: list[str]) -> int:
    newest = len(context.images) - 1
    if "image" not in arguments:
        notes.append("no image is named: the newest, as upstream does")
        return newest
    said = arguments["image"]
    match = _IMAGE_NAME.fullmatch(said) if isinstance(said, str) else None
    if match is None and said not in ("img", "image"):
        raise Refused(Fault.WRONG_TYPE, f"no image: {str(said)[:80]}", said)
    number = int(match[1]) if match else 1
    if number == 0 and said.startswith("image"):
        notes.append("image-0 is read as the first image; elsewhere upstream counts from 1")
        number = 1
    index = frames.existing(number - 1, context, said)
    if index != newest:
        notes.append(f"{said} is not the newest image, which upstream would take")
    return index


def _box(param: Any, index: int, context: Context, notes: list[str]) -> tuple[int, int, int, int]:
    """The box in a param: four whole pixels, or percentages of two points."""
    picture = context.images[index]
    match = _PIXELS.match(param) if isinstance(param, str) else None
    if match:
        size = (picture.width, picture.height)
        box = frames.clamp(tuple(map(frames.exact, map(int, match.groups()))), size, notes)
    else:
        size, points = (100, 100), _points(param)
        if len(points) != 2:
            raise Refused(Fault.WRONG_TYPE, f"no box: {str(param)[:80]}", param)
        box = (*points[0], *points[1])
        if max(box) > 100:
            raise Refused(Fault.OUT_OF_RANGE, "more than 100 %", (frames.to_frame(box, size, []), index))
    if box[2] <= box[0] or box[3] <= box[1]:
        raise Refused(Fault.EMPTY_BOX, "the box is empty", (frames.to_frame(box, size, []), index))
    return frames.to_frame(box, size, notes)


def _points(param: Any) -> list[tuple]:
    """Points in ``x="1.5" y="2"`` or ``x1=… y1=… x2=… y2=…``, percentages, in the order of their numbers."""
    said = _PERCENT.findall(param) if isinstance(param, str) else []
    parts = {(int(number or 0), axis): frames.Fraction(value) for axis, number, value in said if len(number) < 9}
    numbers = sorted({number for number, _ in parts})
    return [(parts[n, "x"], parts[n, "y"]) for n in numbers if (n, "x") in parts and (n, "y") in parts]


def _same_name(name: str, context: Context) -> ToolSpec | None:
    """The registered tool of that name, else of that name without case and underscores."""
    bare = [spec for spec in context.specs if spec.name == name]
    bare += [s for s in context.specs if s.name.replace("_", "").lower() == name.replace("_", "").lower()]
    return bare[0] if bare else None


def _fit(spec: ToolSpec, arguments: dict, context: Context, notes: list[str]) -> dict[str, Any]:
    """``image`` and ``param`` as the registered tool names them; arguments of ours stay as they are."""
    known = {argument.name: argument for argument in spec.arguments}
    fitted = {key: value for key, value in arguments.items() if key in known or key not in ("image", "param")}
    if "image" in arguments and "image" not in known and IMAGE_INDEX in known:
        fitted[IMAGE_INDEX] = _index(arguments, context, notes)
    others = [argument for key, argument in known.items() if key != IMAGE_INDEX]
    if "param" in arguments and "param" not in known and len(others) == 1:
        param, points = arguments["param"], _points(arguments["param"])
        if others[0].kind == "box":
            fitted[others[0].name] = _box(param, fitted.get(IMAGE_INDEX, 0), context, notes)
        elif others[0].kind == "point" and points:
            fitted[others[0].name] = [frames.nearest(value * 10) for value in points[0]]
        else:
            fitted[others[0].name] = param
    return fitted
