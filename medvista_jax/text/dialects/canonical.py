"""Our own turn, taken apart and put together; what every adapter reads into and writes from.

The call's grammar (:mod:`medvista_jax.text.grammar`) has escapes in string values only, so names that need one are
changed here, and tags inside words are spelt with parentheses: otherwise they would act.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_text import IMAGE_TEXT
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.chat import FINAL_TEXT
from medvista_jax.text.dialects.base import Context, Reading, TextObservation
from medvista_jax.text.grammar import MAX_DEPTH
from medvista_jax.text.host_parser import parse_turn_text

ZOOM, BOX, INDEX = "zoom_in", "bbox_2d", "image_index"
"""The tool that every dialect knows under some name, and its arguments."""

DOUBLED = "a key stands twice: the last one counts"
_TAG = re.compile(r"<(/?(?:think|tool_call|answer|tool_response))>|<\|(\w+)\|>")
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>")
_THINK = re.compile(r"\s*<think>((?:(?!</?think>).)*)</think>\s*", re.DOTALL)
_WORDS = re.compile(r"(?:image (\d{1,9})(?:: )?)?(.*?)(, answer now)?", re.DOTALL | re.ASCII)
_FAR = 10**6  # beyond every bound of a box or an index; what is farther is written so
_NO_ESCAPE = str.maketrans({'"': "'", "\\": "/", **{chr(code): " " for code in range(0x20)}})


class Refused(Exception):
    """A foreign call that the dialect refuses, and with which fault ours shall.

    Attributes:
      fault: what the gym must answer.
      reason: for the notes.
      given: for EMPTY_BOX and OUT_OF_RANGE the box in our integers and the image's index, for NO_SUCH_IMAGE the index,
        for WRONG_TYPE the value, for MALFORMED the text.
    """

    def __init__(self, fault: Fault, reason: str, given: Any = None) -> None:
        super().__init__(reason)
        self.fault, self.reason, self.given = fault, reason, given


def plain(text: str) -> str:
    """The text with nothing in it that acts: tags in parentheses, lone surrogates replaced."""
    text = _TAG.sub(lambda match: f"({match[1] or match[2]})", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def without_end(text: str) -> str:
    """The turn without the end-of-turn symbols that some servers leave on it."""
    while (bare := text.rstrip()).endswith(_ENDS):
        text = bare[: bare.rindex("<|")]
    return text


def last_block(text: str, tag: str) -> tuple[int, str, int] | None:
    """Start, inside and end of the last ``<tag>…</tag>`` with no tag of that name inside."""
    found, opened = None, None
    for match in re.finditer(f"<(/?){tag}>", text):
        if not match[1]:
            opened = match
        else:
            if opened is not None:
                found = (opened.start(), text[opened.end() : match.start()], match.end())
            opened = None
    return found


def thought(text: str) -> str:
    """The words of a turn whose action was cut out: the inside of ``<think>`` where there is nothing else."""
    match = _THINK.fullmatch(text)
    return plain(match[1]) if match else plain(re.sub(r"</?think>", "", text).strip())


def compose(think: str, body: str | None = None, answer: str | None = None) -> str:
    """A canonical turn. ``body`` is a call's, as :func:`call_text` and :func:`malformed` make it."""
    act = f"<tool_call>{body}</tool_call>" if body is not None else ""
    if answer is not None:
        act = f"<answer>{plain(answer)}</answer>"
    return f"<think>{plain(think)}</think>{act}"


def load_json(text: str, notes: list[str]) -> Any:
    """A JSON value; of a key that stands twice the last counts.

    Raises:
      Refused: MALFORMED, for what is no JSON, NaN and Infinity included.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) < len(items):
            notes.append(DOUBLED)
        return dict(items)

    def constant(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Refused(Fault.MALFORMED, f"not JSON: {error}") from None


def _sayable(value: Any, depth: int = MAX_DEPTH + 1) -> Any:
    """The value in the grammar's words. What nests too deep stays too deep, but ends."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (list, dict)) and depth == 0:
        return None
    if isinstance(value, list):
        return [_sayable(inner, depth - 1) for inner in value]
    if isinstance(value, dict):
        return {_sayable_name(str(key)): _sayable(inner, depth - 1) for key, inner in value.items()}
    return value


def _sayable_name(text: str) -> str:
    """A key or a tool's name: no escape can stand in it."""
    return plain(text).translate(_NO_ESCAPE)


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """The body of a call, ``{"name": …, "arguments": {…}}``, in the grammar's words.

    In values ``<`` is an escape, so that no tag in them acts; choices of an enum that hold one cannot be said.
    """
    said = lambda value: json.dumps(value, ensure_ascii=False)  # noqa: E731
    pairs = (f"{said(_sayable_name(key))}: {_value(value)}" for key, value in arguments.items())
    return f'{{"name": {said(_sayable_name(name))}, "arguments": {{{", ".join(pairs)}}}}}'


def _value(value: Any) -> str:
    shown = json.dumps(_sayable(value), ensure_ascii=False)
    return shown if isinstance(value, dict) else shown.replace("<", "\\u003c")


def offered_call(name: str, arguments: Mapping[str, Any], notes: list[str]) -> str:
    """:func:`call_text` of a tool that is offered under our name, with a note where its words had to change."""
    if _sayable_name(name) != name or _sayable(dict(arguments)) != arguments:
        notes.append("names that need an escape in JSON or hold tags, and lone surrogates, are changed")
    return call_text(name, arguments)


def malformed(raw: str, context: Context) -> str:
    """A body that the gym answers with MALFORMED, in the foreign words as far as they are so already."""
    body = plain(raw)
    said = parse_turn_text(context.specs, f"<tool_call>{body}</tool_call>".encode())
    return body if said.fault == Fault.MALFORMED else f"no call: {body}"


def unknown_tool(name: str, arguments: Mapping[str, Any], context: Context) -> str:
    """A body that the gym answers with UNKNOWN_TOOL, whatever is registered."""
    while any(spec.name == name for spec in context.specs):
        name = f"unknown:{name}"
    return call_text(name, arguments)


def zoom_text(box: tuple[int, ...], index: int, context: Context) -> str:
    """The body of a zoom. A registered ``zoom_in`` without ``image_index`` looks at the first image only."""
    spec = next((spec for spec in context.specs if spec.name == ZOOM), None)
    indexed = spec is None or any(argument.name == INDEX for argument in spec.arguments)
    return call_text(ZOOM, {BOX: list(box), **({INDEX: index} if indexed or index else {})})


def refused_zoom(refused: Refused, context: Context) -> str:
    """The body of a zoom that the gym answers with the fault of ``refused``."""
    given = refused.given
    if refused.fault == Fault.MISSING_ARGUMENT:
        return call_text(ZOOM, {})
    if refused.fault == Fault.WRONG_TYPE:
        return call_text(ZOOM, {BOX: str(given)[:200]})
    if refused.fault == Fault.EMPTY_BOX:
        box, index = given
        return zoom_text((*box[:2], *box[:2]), index, context)
    if refused.fault == Fault.OUT_OF_RANGE:
        box, index = given
        inside = 0 <= min(box) and max(box) <= FRAME  # rounding may have brought it back
        box = (*box[:3], FRAME + 1) if inside else tuple(min(max(value, -_FAR), _FAR) for value in box)
        return zoom_text(box, index, context)
    if refused.fault == Fault.NO_SUCH_IMAGE:
        return zoom_text((0, 0, 1, 1), min(given, _FAR), context)
    return malformed(str(given), context)


def pass_on(call: Any, raw: str, context: Context, notes: list[str], renamed: Collection[str] = (ZOOM,)) -> str:
    """The body of a call of a tool that the dialect offers under our name, and so under our rules.

    Args:
      call: what should be an object of ``name`` and ``arguments``.
      raw: the foreign words, for a call that is none.
      notes: those of reading the call; :data:`DOUBLED` among them is MALFORMED by our rules.
      renamed: our names that the dialect does not know; they become UNKNOWN_TOOL.
    """
    if not isinstance(call, dict) or not call.keys() <= {"name", "arguments"} or DOUBLED in notes:
        return malformed(raw, context)
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return malformed(raw, context)
    return unknown_tool(name, arguments, context) if name in renamed else offered_call(name, arguments, notes)


@dataclasses.dataclass(frozen=True)
class Said:
    """A canonical turn taken apart, for the writers.

    Attributes:
      think: the words.
      kind: as the gym's parser has it.
      name: of the tool in a sound call, else None.
      arguments: of a sound call, as parsed, defaults filled in; empty otherwise.
      body: text of the call, sound or not; empty without one.
      answer: text of the answer; empty without one.
    """

    think: str
    kind: Kind
    name: str | None
    arguments: Mapping[str, Any]
    body: str
    answer: str

    def body_without(self, names: Collection[str]) -> str:
        """The body as it stands, unless the dialect could read one of its own tools' ``names`` out of it."""
        if self.body.strip() and "\\" not in self.body and not any(name in self.body for name in names):
            return plain(self.body)
        return json.dumps({"name": "unknown", "arguments": {"said": self.body}})

    @property
    def zoom(self) -> tuple[tuple[int, int, int, int], int] | None:
        """Box and image of a sound zoom."""
        if self.name != ZOOM or BOX not in self.arguments:
            return None
        return tuple(self.arguments[BOX]), self.arguments.get(INDEX, 0)


def take_apart(turn: str, context: Context) -> Said:
    """The turn as the gym reads it (:func:`medvista_jax.text.host_parser.parse_turn_text`)."""
    turn = turn.encode("utf-8", "replace").decode("utf-8")
    parsed = parse_turn_text(context.specs, turn.encode())
    block = last_block(turn, {Kind.ANSWER: "answer", Kind.CALL: "tool_call"}.get(parsed.kind, "answer"))
    start, inside, end = block if block else (len(turn), "", len(turn))
    name, arguments = None, {}
    if parsed.kind == Kind.CALL and parsed.fault == Fault.NONE:
        spec, given = context.specs[parsed.tool], json.loads(inside).get("arguments", {})
        name = spec.name
        for argument in spec.arguments:
            at = slice(spec.offsets()[argument.name], spec.offsets()[argument.name] + argument.width)
            slots = parsed.arguments[at]
            # What has one slot is taken from the text, if it stands there: a slot of an enum is only its number.
            if argument.kind == "box":
                arguments[argument.name] = list(slots)
            elif argument.name in given:
                arguments[argument.name] = given[argument.name]
            elif argument.kind == "integer":
                arguments[argument.name] = slots[0]
    is_answer = parsed.kind == Kind.ANSWER
    think = thought(turn[:start] + turn[end:])
    return Said(think, parsed.kind, name, arguments, "" if is_answer else inside, inside if is_answer else "")


def act(think: str, body: str, notes: list[str]) -> Reading:
    """The reading of a turn that calls."""
    return Reading(compose(think, body=body), tuple(dict.fromkeys(notes)))


def answered(think: str, answer: str, notes: list[str]) -> Reading:
    """The reading of a turn that answers."""
    return Reading(compose(think, answer=answer), tuple(dict.fromkeys(notes)))


def nothing(think: str, notes: list[str], reason: str) -> Reading:
    """The reading of a turn that does neither; the gym answers it with NO_ACTION."""
    return Reading(compose(think), tuple(dict.fromkeys((*notes, reason))))


def words(observation: TextObservation) -> str:
    """An observation in our words, as ``text.chat`` has them, without the image itself."""
    image = "" if observation.image is None else IMAGE_TEXT.format(image=observation.image)
    text = ": ".join(part for part in (image, observation.text) if part)
    return text + (FINAL_TEXT if observation.final else "")


def observed(text: str, shown: bool, context: Context) -> TextObservation:
    """:func:`words` back. ``shown``: whether there is an image; one without a number is the next."""
    match = _WORDS.fullmatch(text.strip())
    image = None
    if shown:
        image = int(match[1]) if match[1] else len(context.images)
    return TextObservation(match[2].strip(), image, None, match[3] is not None)
