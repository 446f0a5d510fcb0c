"""The host's reading of a turn: plain Python and the ``json`` module, no table shared with the device.

The rules of the call's body stand in :mod:`medvista_jax.text.grammar`, those of the turn around it in
:mod:`medvista_jax.text.parse`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from medvista_jax.core.tool_spec import Argument, ToolSpec, text_slots
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.grammar import MAX_DEPTH

_HUGE = 10**12  # stands for any integer too long to convert


@dataclasses.dataclass(frozen=True)
class HostTurn:
    """What a turn says; the fields of ``core.ParsedTurn`` for one row.

    Attributes:
      kind, fault: see there.
      tool: index of the tool, -1 for none.
      arguments: int slots of that tool, defaults filled in; empty when there is a fault or no call.
      well_formed: as in ``core.ParsedTurn``.
      answer: bytes between the answer tags, empty when there is none.
      texts: text of each string argument of that tool, in order, ``""`` for an absent one; empty where
        ``arguments`` is. Escapes are undone; what is no Unicode, such as a lone surrogate, is U+FFFD.
        ``core.tool_spec.python_values`` puts it together with the slots.
    """

    kind: Kind
    fault: Fault
    tool: int
    arguments: tuple[int, ...]
    well_formed: bool
    answer: bytes
    texts: tuple[str, ...] = ()


class _Object(list):
    """A JSON object as its list of (key, value) pairs, duplicates included."""


class _Refused(Exception):
    def __init__(self, fault: Fault):
        self.fault = fault


_WELL_FORMED = re.compile(
    rb"[ \t\r\n]*<think>(?P<think>.*)</think>[ \t\r\n]*"
    rb"(?:<tool_call>(?P<call>.*)</tool_call>|<answer>(?P<answer>.*)</answer>)[ \t\r\n]*",
    re.DOTALL,
)
_ANY_TAG = re.compile(rb"</?(?:think|tool_call|answer)>")


def _last_pair(turn: bytes, tag: bytes) -> bytes | None:
    """Bytes of the last ``<tag>…</tag>`` with no tag of that name inside."""
    found, opened = None, None
    for match in re.finditer(rb"<(/?)" + tag + rb">", turn):
        if not match[1]:
            opened = match.end()
        else:
            if opened is not None:
                found = turn[opened : match.start()]
            opened = None
    return found


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


def _integer(text: str) -> int:
    return int(text) if len(text) < 12 else (-_HUGE if text[0] == "-" else _HUGE)


_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_SHIFT = 0x100


def _shift(escape: re.Match) -> str:
    return "".join(chr(ord(character) + _SHIFT) for character in escape[0])


def _load(body: bytes) -> Any:
    """The body as Python values, objects as :class:`_Object`, text as Latin-1 (one character a byte).

    The characters of an escape come out shifted beyond Latin-1: json undoes none, takes no escaped quote for a
    string's end, and refuses one outside of strings, where such characters cannot stand.
    """
    text = _ESCAPE.sub(_shift, body.decode("latin-1"))
    if "\\" in text:
        raise _Refused(Fault.MALFORMED)
    try:
        return json.loads(
            text,
            object_pairs_hook=_Object,
            parse_int=_integer,
            parse_float=float,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):
        raise _Refused(Fault.MALFORMED) from None


def _has_escape(text: str) -> bool:
    return any(ord(character) >= _SHIFT for character in text)


def _raw(text: str) -> bytes:
    """A string's bytes as they stand between its quotes."""
    return bytes(ord(character) % _SHIFT for character in text)


def _decode(raw: bytes) -> str:
    text = json.loads(f'"{raw.decode(errors="replace")}"')
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _keys(value: Any) -> list[str]:
    """Every key of every object in ``value``."""
    if isinstance(value, _Object):
        return [key for name, inner in value for key in (name, *_keys(inner))]
    return [key for inner in value for key in _keys(inner)] if isinstance(value, list) else []


def _nests_deeper(value: Any, limit: int) -> bool:
    """Whether ``value`` nests more than ``limit`` brackets. Recursion stops at the limit."""
    if not isinstance(value, list):
        return False
    inside = [inner for _, inner in value] if isinstance(value, _Object) else value
    return limit == 0 or any(_nests_deeper(inner, limit - 1) for inner in inside)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_type(argument: Argument, value: Any) -> bool:
    if argument.kind == "integer":
        return _is_integer(value)
    if argument.kind == "boolean":
        return isinstance(value, bool)
    if argument.kind in ("enum", "string"):
        return isinstance(value, str)
    return type(value) is list and len(value) == {"point": 2, "box": 4}[argument.kind] and all(map(_is_integer, value))


def _as_numbers(argument: Argument, value: Any) -> list[int]:
    """The value's slots; raises OUT_OF_RANGE."""
    if argument.kind == "enum":
        choices = [choice.encode() for choice in argument.choices]
        if _has_escape(value) or _raw(value) not in choices:
            raise _Refused(Fault.OUT_OF_RANGE)
        return [choices.index(_raw(value))]
    if argument.kind == "string":
        if not argument.minimum <= len(value) <= argument.maximum:
            raise _Refused(Fault.OUT_OF_RANGE)
        return list(text_slots(_raw(value)))
    if argument.kind == "boolean":
        return [int(value)]
    numbers = value if isinstance(value, list) else [value]
    if not all(argument.minimum <= number <= argument.maximum for number in numbers):
        raise _Refused(Fault.OUT_OF_RANGE)
    return list(numbers)


def _sound_call(specs: Sequence[ToolSpec], body: bytes) -> tuple[bytes, list[tuple[bytes, Any]]]:
    """Name and argument pairs of a body that is of the dialect; raises MALFORMED."""
    root = _load(body)
    if not isinstance(root, _Object):
        raise _Refused(Fault.MALFORMED)
    top = [key for key, _ in root]
    if top.count("name") != 1 or top.count("arguments") > 1 or not set(top) <= {"name", "arguments"}:
        raise _Refused(Fault.MALFORMED)
    name, arguments = dict(root)["name"], dict(root).get("arguments", _Object())
    if not isinstance(name, str) or not isinstance(arguments, _Object):
        raise _Refused(Fault.MALFORMED)
    pairs = [(_raw(key), value) for key, value in arguments]
    keys = [key for key, _ in pairs]
    known = {argument.name.encode() for spec in specs for argument in spec.arguments}
    if any(keys.count(key) > 1 for key in known) or any(_nests_deeper(value, MAX_DEPTH) for _, value in pairs):
        raise _Refused(Fault.MALFORMED)
    if _has_escape(name) or any(map(_has_escape, _keys(arguments))):
        raise _Refused(Fault.MALFORMED)
    return _raw(name), pairs


def _check_arguments(spec: ToolSpec, pairs: Sequence[tuple[bytes, Any]]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Slots and texts of a sound call of a known tool; raises the first fault of the precedence list."""
    given = dict(pairs)
    if not given.keys() <= {argument.name.encode() for argument in spec.arguments}:
        raise _Refused(Fault.UNKNOWN_ARGUMENT)
    if any(a.default is None and a.name.encode() not in given for a in spec.arguments):
        raise _Refused(Fault.MISSING_ARGUMENT)
    present = [(a, given[a.name.encode()]) for a in spec.arguments if a.name.encode() in given]
    if not all(_has_type(argument, value) for argument, value in present):
        raise _Refused(Fault.WRONG_TYPE)
    numbers = {argument.name: _as_numbers(argument, value) for argument, value in present}
    for argument, _ in present:
        if argument.kind == "box":
            x1, y1, x2, y2 = numbers[argument.name]
            if x2 <= x1 or y2 <= y1:
                raise _Refused(Fault.EMPTY_BOX)
    slots = [slot for a in spec.arguments for slot in numbers.get(a.name, a.default_slots)]
    texts = [_decode(_raw(given.get(a.name.encode(), ""))) for a in spec.arguments if a.kind == "string"]
    return tuple(slots), tuple(texts)


def is_well_formed(turn: bytes) -> bool:
    """``<think>…</think>``, then exactly one call or answer, nothing else but white space around them."""
    match = _WELL_FORMED.fullmatch(turn)
    return match is not None and len(_ANY_TAG.findall(turn)) == 4


def parse_turn_text(
    specs: Sequence[ToolSpec], turn: bytes, capacity: int | None = None, answer_capacity: int | None = None
) -> HostTurn:
    """One turn, read by the rules of :mod:`~medvista_jax.text.parse` and :mod:`~medvista_jax.text.grammar`.

    Args:
      specs: the registered tools.
      turn: its bytes.
      capacity, answer_capacity: what the device parser has room for; None for no bound.

    Returns:
      A value for any bytes; nothing raises.
    """
    cut = capacity is not None and len(turn) > capacity
    turn = turn[len(turn) - capacity :] if cut else turn
    well_formed = not cut and is_well_formed(turn)
    answer = _last_pair(turn, b"answer")
    if answer is not None:
        kept = answer if answer_capacity is None or len(answer) <= answer_capacity else b""
        return HostTurn(Kind.ANSWER, Fault.NONE, -1, (), well_formed, kept)
    body = _last_pair(turn, b"tool_call")
    if body is None:
        return HostTurn(Kind.NOTHING, Fault.NO_ACTION, -1, (), well_formed, b"")
    tool = -1
    try:
        name, pairs = _sound_call(specs, body)
        names = [spec.name.encode() for spec in specs]
        if name not in names:
            raise _Refused(Fault.UNKNOWN_TOOL)
        tool = names.index(name)
        slots, texts = _check_arguments(specs[tool], pairs)
        return HostTurn(Kind.CALL, Fault.NONE, tool, slots, well_formed, b"", texts)
    except _Refused as refused:
        return HostTurn(Kind.CALL, refused.fault, tool, (), well_formed, b"")
