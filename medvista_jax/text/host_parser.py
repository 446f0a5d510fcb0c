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

from medvista_jax.core.tool_spec import Argument, ToolSpec
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
    """

    kind: Kind
    fault: Fault
    tool: int
    arguments: tuple[int, ...]
    well_formed: bool
    answer: bytes


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


def _load(body: bytes) -> Any:
    """The body as Python values, objects as :class:`_Object`, text as Latin-1 (one character a byte)."""
    if b"\\" in body:
        raise _Refused(Fault.MALFORMED)
    try:
        return json.loads(
            body.decode("latin-1"),
            object_pairs_hook=_Object,
            parse_int=_integer,
            parse_float=float,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):
        raise _Refused(Fault.MALFORMED) from None


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
    if argument.kind == "enum":
        return isinstance(value, str)
    return type(value) is list and len(value) == 4 and all(map(_is_integer, value))


def _as_numbers(argument: Argument, value: Any) -> list[int]:
    """The value's slots; raises OUT_OF_RANGE."""
    if argument.kind == "enum":
        choices = [choice.encode() for choice in argument.choices]
        spoken = value.encode("latin-1")
        if spoken not in choices:
            raise _Refused(Fault.OUT_OF_RANGE)
        return [choices.index(spoken)]
    numbers = value if argument.kind == "box" else [value]
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
    pairs = [(key.encode("latin-1"), value) for key, value in arguments]
    keys = [key for key, _ in pairs]
    known = {argument.name.encode() for spec in specs for argument in spec.arguments}
    if any(keys.count(key) > 1 for key in known) or any(_nests_deeper(value, MAX_DEPTH) for _, value in pairs):
        raise _Refused(Fault.MALFORMED)
    return name.encode("latin-1"), pairs


def _check_arguments(spec: ToolSpec, pairs: Sequence[tuple[bytes, Any]]) -> tuple[int, ...]:
    """The slots of a sound call of a known tool; raises the first fault of the precedence list."""
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
    slots: list[int] = []
    for argument in spec.arguments:
        default = argument.default if isinstance(argument.default, tuple) else (argument.default,)
        slots.extend(numbers.get(argument.name, default))
    return tuple(slots)


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
        return HostTurn(Kind.CALL, Fault.NONE, tool, _check_arguments(specs[tool], pairs), well_formed, b"")
    except _Refused as refused:
        return HostTurn(Kind.CALL, refused.fault, tool, (), well_formed, b"")
