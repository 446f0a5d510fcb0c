"""The chat-completions form: ``content`` and ``tool_calls`` of an assistant's message.

Tools are offered with our own names and schemas, so nothing is converted. Servers differ in what they return; read
here: arguments as a JSON string or as an object, ``content`` as a string, as parts or null, ``reasoning_content`` or
``reasoning`` beside it, the older ``function_call``, and our own tags in the content of models without tool calls.

Of several calls the last one counts, as of several blocks of a turn; but the protocol wants a reply to every call's id
before the next turn: :func:`replies`. An answer in tags ends the episode whatever is called. A value that says an
integer in other words (``"10"``, ``10.0``) is taken for it where the tool wants an integer, and noted.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.chat import INSTRUCTION
from medvista_jax.text.dialects import canonical
from medvista_jax.text.dialects.base import IMAGE, Context, Reading, TextObservation
from medvista_jax.text.dialects.canonical import Refused

Message = dict[str, Any]
"""A chat message: ``role``, ``content``, perhaps ``tool_calls`` or ``tool_call_id``."""

SUPERSEDED = "error: one call a turn; the last one was carried out"
"""What the calls before the last one are told."""

_INTEGER = re.compile(r"\s*([+-]?\d{1,12})(?:\.0+)?\s*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class MessageReading(Reading):
    """A message in our words.

    Attributes:
      call: id of the call that counts; None where no ``tool_calls`` entry does.
      superseded: ids of the other calls, in order.
    """

    call: str | None = None
    superseded: tuple[str, ...] = ()


def tools(specs: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """The ``tools`` list of a request."""
    return [spec.schema() for spec in specs]


def read_message(message: Mapping[str, Any], context: Context) -> MessageReading:
    """An assistant's message as a canonical turn. Nothing raises, whatever the message holds."""
    notes: list[str] = []
    content, reasoning = _text(message.get("content"), notes), _reasoning(message)
    calls, ids = _calls(message, notes)
    answer = canonical.last_block(content, "answer")
    tagged = canonical.last_block(content, "tool_call")

    def words(block: tuple[int, str, int] | None) -> str:
        said = content if block is None else content[: block[0]] + content[block[2] :]
        said = canonical.thought(said)
        return "\n".join(part for part in (canonical.plain(reasoning), said) if part)

    if answer is not None:
        if calls:
            notes.append("an answer and a call: the answer ends the episode")
        turn = canonical.compose(words(answer), answer=answer[1])
        return MessageReading(turn, tuple(notes), None, ids)
    if calls:
        if len(calls) > 1:
            notes.append(f"{len(calls)} calls: the last one counts")
        turn = canonical.compose(words(None), body=_read_call(calls[-1], context, notes))
        return MessageReading(turn, tuple(dict.fromkeys(notes)), ids[-1], ids[:-1])
    if tagged is not None:
        turn = f"<think>{words(tagged)}</think><tool_call>{tagged[1]}</tool_call>"
        return MessageReading(turn.encode("utf-8", "replace").decode(), tuple(notes))
    return MessageReading(canonical.compose(words(None)), (*notes, "no call and no answer"))


def write_message(turn: str, context: Context, call: str = "call_0") -> Message:
    """A canonical turn as an assistant's message: thoughts and answers in the content, a call in ``tool_calls``.

    A call whose body is no JSON object of name and arguments stays in the content, tags and all.
    """
    said = canonical.take_apart(turn, context)
    think = f"<think>{said.think}</think>" if said.think else ""
    if said.kind == Kind.ANSWER:
        return {"role": "assistant", "content": f"{think}<answer>{said.answer}</answer>"}
    if said.kind != Kind.CALL:
        return {"role": "assistant", "content": think}
    notes: list[str] = []
    try:
        body = canonical.load_json(said.body, notes)
    except Refused:
        body = None
    sound = isinstance(body, dict) and body.keys() <= {"name", "arguments"} and canonical.DOUBLED not in notes
    if not sound or not isinstance(body.get("name"), str):
        return {"role": "assistant", "content": f"{think}<tool_call>{said.body}</tool_call>"}
    arguments = json.dumps(body.get("arguments", {}), ensure_ascii=False)
    function = {"name": body["name"], "arguments": arguments}
    entry = {"id": call, "type": "function", "function": function}
    return {"role": "assistant", "content": think or None, "tool_calls": [entry]}


def replies(reading: MessageReading, text: str, image_url: str | None = None) -> list[Message]:
    """What goes back after a message: a tool's reply for every call's id, then the image in a message of the user.

    Args:
      text: the observation in our words.
      image_url: of the returned image, ``data:image/png;base64,…``; None for none. Replies of tools are text in the
        protocol, so the image follows them.
    """
    messages: list[Message] = [
        {"role": "tool", "tool_call_id": call, "content": SUPERSEDED} for call in reading.superseded
    ]
    if reading.call is not None:
        messages.append({"role": "tool", "tool_call_id": reading.call, "content": text})
    parts: list[dict[str, Any]] = []
    if image_url is not None:
        parts.append({"type": "image_url", "image_url": {"url": image_url}})
    if reading.call is None:
        parts.append({"type": "text", "text": text})
    return [*messages, {"role": "user", "content": parts}] if parts else messages


def _text(content: Any, notes: list[str]) -> str:
    """The words of a message's content."""
    if isinstance(content, str):
        return canonical.without_end(content)
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return canonical.without_end("".join(text for text in texts if isinstance(text, str)))
    if content is not None:
        notes.append(f"content of type {type(content).__name__}")
    return ""


def _reasoning(message: Mapping[str, Any]) -> str:
    for key in ("reasoning_content", "reasoning"):
        if isinstance(message.get(key), str):
            return message[key]
    return ""


def _calls(message: Mapping[str, Any], notes: list[str]) -> tuple[list[Any], tuple[str, ...]]:
    """The ``function`` of every call, and the ids; a call without an id gets one by its place."""
    calls = message.get("tool_calls")
    if not calls and message.get("function_call"):
        notes.append("function_call is read as a tool call")
        calls = [{"function": message["function_call"]}]
    if calls and not isinstance(calls, list):
        notes.append("tool_calls is no list")
        calls = [calls]
    functions, ids = [], []
    for at, call in enumerate(calls or []):
        identity = call.get("id") if isinstance(call, dict) else None
        ids.append(identity if isinstance(identity, str) and identity else f"call_{at}")
        functions.append(call.get("function") if isinstance(call, dict) else call)
    return functions, tuple(ids)


def _read_call(function: Any, context: Context, notes: list[str]) -> str:
    """The body of a call."""
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        notes.append("a call without a function's name")
        return canonical.malformed(str(function)[:1000], context)
    given = function.get("arguments")
    try:
        if given is None or (isinstance(given, str) and not given.strip()):
            arguments: Any = {}
        elif isinstance(given, str):
            arguments = canonical.load_json(given, notes)
        else:
            arguments = given
            notes.append("the arguments are an object, not a string that holds one")
        if not isinstance(arguments, dict) or canonical.DOUBLED in notes:
            raise Refused(Fault.MALFORMED, "the arguments are no object of distinct keys", given)
    except Refused as refused:
        notes.append(refused.reason)
        return canonical.malformed(f"{name} {given}", context)
    spec = next((spec for spec in context.specs if spec.name == name), None)
    kinds = {argument.name: argument.kind for argument in spec.arguments} if spec else {}
    coerced = {key: _coerce(kinds.get(key), key, arguments[key], notes) for key in arguments}
    return canonical.offered_call(name, coerced, notes)


def _coerce(kind: str | None, key: str, value: Any, notes: list[str]) -> Any:
    """The value as the tool's argument wants it, where that loses nothing."""
    if kind in ("box", "point"):
        if isinstance(value, str):
            try:
                inside = canonical.load_json(value, [])
            except Refused:
                return value
            if not isinstance(inside, list):
                return value
            notes.append(f"{key}: the string {value[:80]!r} is read as an array")
            value = inside
        return [_integer(key, inner, notes) for inner in value] if isinstance(value, list) else value
    if kind == "boolean" and isinstance(value, str) and value.lower() in ("true", "false"):
        notes.append(f"{key}: the string {value!r} is read as a boolean")
        return value.lower() == "true"
    return _integer(key, value, notes) if kind == "integer" else value


def _integer(key: str, value: Any, notes: list[str]) -> Any:
    """An integer that is said as a float or as a string; anything else as it is."""
    whole = None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        whole = int(value)
    elif isinstance(value, str) and (match := _INTEGER.fullmatch(value)):
        whole = int(match[1])
    if whole is None:
        return value
    notes.append(f"{key}: {value!r} is read as {whole}")
    return whole


@dataclasses.dataclass(frozen=True)
class OpenAI:
    """The same as a dialect of text: a turn is an assistant's message as JSON, an observation a list of messages."""

    name: str = "openai"

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        """The instruction alone: the tools go into the request, see :func:`tools`."""
        return INSTRUCTION

    def read_turn(self, text: str, context: Context) -> Reading:
        try:
            message = canonical.load_json(text, [])
        except Refused as refused:
            return canonical.nothing(canonical.thought(text), [], refused.reason)
        if not isinstance(message, dict):
            return canonical.nothing(canonical.thought(text), [], "a message is an object")
        reading = read_message(message, context)
        return Reading(reading.turn, reading.notes)

    def write_turn(self, turn: str, context: Context) -> str:
        return json.dumps(write_message(turn, context), ensure_ascii=False)

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        reading = MessageReading("", call="call_0")
        url = None if observation.image is None else IMAGE
        return json.dumps(replies(reading, canonical.words(observation), url), ensure_ascii=False)

    def read_observation(self, text: str, context: Context) -> TextObservation:
        try:
            messages = canonical.load_json(text, [])
        except Refused:
            return canonical.observed(text, False, context)
        messages = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
        contents = [message.get("content") for message in messages]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        shown = any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)
        said = [text for text in (_text(content, []) for content in contents) if text and text != SUPERSEDED]
        return canonical.observed("\n".join(said), shown, context)
