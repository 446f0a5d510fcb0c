r"""From tool specs to a byte transducer for the JSON body of a call.

The dialect, obeyed alike by the device parser (:mod:`~medvista_jax.text.parse`) and the independent host
parser (:mod:`~medvista_jax.text.host_parser`):

- The body is a JSON object with the key ``name`` (a string) and optionally ``arguments`` (an object; absent =
  ``{}``), in either order, with JSON white space (space, tab, newline, carriage return) wherever JSON allows
  it. No other key.
- JSON's escapes (``\"``, ``\\``, ``\/``, ``\b``, ``\f``, ``\n``, ``\r``, ``\t``, ``\uXXXX``) may stand in strings
  that are values, at any depth. Any other backslash is MALFORMED, and so is one in a key, at any depth, in the
  tool's name, or outside of strings.
- Bytes from 0x80 are allowed inside strings as they are, UTF-8 or not, and nowhere else. Control bytes below 0x20
  inside strings are MALFORMED.
- A key that stands twice is MALFORMED, for ``name``, ``arguments`` and for argument names of *any* registered
  tool. An unknown key may stand twice: it is UNKNOWN_ARGUMENT anyway. Keys inside nested objects are not
  looked at.
- An argument's value may nest at most :data:`MAX_DEPTH` brackets; deeper is MALFORMED.
- Integers are JSON integers: ``-0`` is 0, ``01`` and ``+1`` are MALFORMED. A fraction or an exponent
  (``1.0``, ``1e2``) is of WRONG_TYPE. Integers may be of any size; what does not fit is OUT_OF_RANGE.
- A box is an array of exactly four integers, a point of two, a boolean ``true`` or ``false``, else WRONG_TYPE.
- An enum is a string (else WRONG_TYPE) among the choices (else OUT_OF_RANGE), compared byte by byte with their
  UTF-8: one written with an escape is never a choice.
- A string is a string (else WRONG_TYPE). Its bounds hold for the bytes between its quotes as they stand, escapes
  not undone (else OUT_OF_RANGE). Its slots are the number of these bytes and their checksum
  (:func:`~medvista_jax.core.tool_spec.text_slots`).

Of several faults the first of this list counts:

    MALFORMED > UNKNOWN_TOOL > UNKNOWN_ARGUMENT > MISSING_ARGUMENT > WRONG_TYPE > OUT_OF_RANGE > EMPTY_BOX

EMPTY_BOX is a box with x2 <= x1 or y2 <= y1. The tool is reported whenever the body is sound and the name
known; the arguments are reported only without a fault, and are zero otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from flax import struct

from medvista_jax.core.tool_spec import CHECKSUM_MODULUS, ToolSpec
from medvista_jax.core.types import Array

MAX_DEPTH = 3
"""Brackets that an argument's value may nest; a box or point nests one."""

LARGEST = 10**8
"""Bounds in specs stay within ±this, so that a saturated accumulator is always out of range."""

DEAD = 0
"""The state nothing leads out of: the body is malformed."""


class Type(enum.IntEnum):
    """JSON type of an argument's value, as far as the dialect tells types apart. 0 = no value seen."""

    ABSENT = 0
    INTEGER = 1
    BOX = 2
    STRING = 3
    OTHER = 4
    POINT = 5
    BOOLEAN = 6


class Op(enum.IntEnum):
    """What a transition does besides moving; its operand is in :func:`pack`'s last field."""

    NOTHING = 0
    KEY = 1  # a key has ended; operand: its index
    WORD = 2  # a string or boolean value has ended; operand: index of the choice or tool, 1 for true, 0 for false
    DIGIT = 3  # a digit of a captured integer; operand: first + 2 * negative + 4 * element
    QUOTE = 4  # a string value begins


FIRST, NEGATIVE, ELEMENT = 1, 2, 4

INDEX, LENGTH, CHECKSUM = 0, 1, 2
"""Elements of a string's value: which word it is, then its two slots."""


def pack(state: int, op: int = 0, type_: int = 0, operand: int = 0) -> int:
    """One table entry: 15 bits state, then 3 bits op, 3 bits type to note (0 none), 11 bits operand."""
    return state | op << 15 | type_ << 18 | operand << 21


def unpack(entry: Array) -> tuple[Array, Array, Array, Array]:
    """State, op, type and operand of int32 entries (:func:`pack`)."""
    return entry & 0x7FFF, entry >> 15 & 7, entry >> 18 & 7, entry >> 21 & 0x7FF


@struct.dataclass
class Grammar:
    """Tables of the transducer and of the check that follows it.

    Letters: Q states, X byte values, U keys, J tools, A slots, D choices.

    Attributes:
      transition_QX: int32 [n_states, 256], packed entries (:func:`pack`).
      key_JA: int32, index of the key that fills slot a of tool j; -1 for unused slots.
      element_JA: int32, which of the value's numbers; of a string, :data:`INDEX`, :data:`LENGTH`, :data:`CHECKSUM`.
      type_JA: int32 :class:`Type` the value must have.
      minimum_JA, maximum_JA, default_JA: int32.
      required_JA: bool.
      choice_JAD: int32, global string index → index of the choice in this slot's enum, -1 where it is none.
      knows_JU: bool, tool j has an argument of that key.
      start, accept: states before the first byte and after the closing brace.
      keys: texts of the U captured keys: argument names, then three pseudo-keys (name, arguments, unknown).
      tools: names, in the order of ``tool_B``.
    """

    transition_QX: Array
    key_JA: Array
    element_JA: Array
    type_JA: Array
    minimum_JA: Array
    maximum_JA: Array
    default_JA: Array
    required_JA: Array
    choice_JAD: Array
    knows_JU: Array
    start: int = struct.field(pytree_node=False)
    accept: int = struct.field(pytree_node=False)
    keys: tuple[str, ...] = struct.field(pytree_node=False)
    tools: tuple[str, ...] = struct.field(pytree_node=False)

    @property
    def next_state(self) -> np.ndarray:
        """int32 [n_states, 256]; :data:`DEAD` where the byte cannot stand."""
        return np.asarray(self.transition_QX) & 0x7FFF

    @property
    def width(self) -> int:
        """Argument slots A."""
        return self.key_JA.shape[1]


_SPACE = b" \t\n\r"
_DIGITS = b"0123456789"
_TAGS = tuple(f"<{slash}{name}>" for name in ("think", "tool_call", "answer") for slash in ("", "/"))


class _Automaton:
    """A growing table of packed entries."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.state()  # DEAD

    def state(self) -> int:
        self.rows.append(np.full(256, pack(DEAD), np.int64))
        return len(self.rows) - 1

    def states(self, count: int) -> list[int]:
        return [self.state() for _ in range(count)]

    def on(self, state: int, characters: Iterable[int], target: int, **action: int) -> None:
        for character in characters:
            self.rows[state][character] = pack(target, **action)

    def skip_space(self, *states: int) -> None:
        for state in states:
            self.on(state, _SPACE, state)

    def copy(self, source: int, target: int) -> None:
        """``target`` takes over ``source``'s row, loops of the source included."""
        self.rows[target][:] = self.rows[source]

    def string(self, target: int, escapes: bool, **action: int) -> int:
        """State inside a string nobody captures; its closing quote leads to ``target``."""
        inside = self.state()
        self.on(inside, range(0x20, 256), inside)
        self.on(inside, b'"', target, **action)
        self.on(inside, b"\\", DEAD)
        if escapes:
            escape, *digits = self.states(5)
            self.on(inside, b"\\", escape)
            self.on(escape, b'"\\/bfnrt', inside)
            self.on(escape, b"u", digits[0])
            for digit, following in zip(digits, [*digits[1:], inside], strict=True):
                self.on(digit, b"0123456789abcdefABCDEF", following)
        return inside

    def trie(
        self, words: Sequence[bytes], targets: Sequence[tuple[int, dict]], other: tuple[int, dict], escapes: bool
    ) -> int:
        """State after the opening quote: a word's end leads to its target, any other's to ``other``.

        A word with an escape in it is another one.
        """
        outside = self.string(other[0], escapes, **other[1])
        nodes = {b"": self.state()}
        for word in words:
            for end in range(1, len(word) + 1):
                nodes.setdefault(word[:end], -1)
        for prefix in nodes:
            if nodes[prefix] < 0:
                nodes[prefix] = self.state()
        for node in nodes.values():
            self.copy(outside, node)
        for prefix, node in nodes.items():
            if prefix:
                self.on(nodes[prefix[:-1]], prefix[-1:], node)
        for word, (target, action) in zip(words, targets, strict=True):
            self.on(nodes[word], b'"', target, **action)
        return nodes[b""]


def _add_number_tail(a: _Automaton, end: int) -> tuple[int, int]:
    """States after ``.`` and ``e`` of an uncaptured number; what follows the number acts like ``end``."""
    dot, fraction, e, sign, exponent = a.states(5)
    a.on(dot, _DIGITS, fraction)
    for state in (fraction, exponent):
        a.copy(end, state)
    a.on(fraction, _DIGITS, fraction)
    a.on(fraction, b"eE", e)
    a.on(e, b"+-", sign)
    for state in (e, sign, exponent):
        a.on(state, _DIGITS, exponent)
    return dot, e


def _add_number(a: _Automaton, end: int) -> tuple[int, int, int, int, int]:
    """States after ``-``, ``0``, ``1``–``9`` of an uncaptured number, and those after ``.`` and ``e``."""
    dot, e = _add_number_tail(a, end)
    minus, zero, integer = a.states(3)
    a.on(minus, b"0", zero)
    a.on(minus, b"123456789", integer)
    for state in (zero, integer):
        a.copy(end, state)
        a.on(state, b".", dot)
        a.on(state, b"eE", e)
    a.on(integer, _DIGITS, integer)
    return minus, zero, integer, dot, e


_TYPES = {
    "integer": Type.INTEGER,
    "boolean": Type.BOOLEAN,
    "enum": Type.STRING,
    "point": Type.POINT,
    "string": Type.STRING,
    "box": Type.BOX,
}
"""What each kind of argument is in JSON."""

_CAPTURED_LITERALS = {
    b"true": {"op": Op.WORD, "type_": Type.BOOLEAN, "operand": 1},
    b"false": {"op": Op.WORD, "type_": Type.BOOLEAN, "operand": 0},
    b"null": {"type_": Type.OTHER},
}


def _add_literals(a: _Automaton, starts: Sequence[int], end: int, actions: Mapping[bytes, dict]) -> None:
    """``true``, ``false`` and ``null`` from each of ``starts``; a word's last letter acts."""
    for word in (b"true", b"false", b"null"):
        states = [*a.states(len(word) - 1), end]
        for start in starts:
            a.on(start, word[:1], states[0])
        for at in range(1, len(word)):
            a.on(states[at - 1], word[at : at + 1], states[at], **(actions.get(word, {}) if states[at] == end else {}))


class _Nested:
    """States of an uncaptured array (``[``) or object (``{``) whose closing bracket leads to ``end``.

    Attributes:
      start: after the opening bracket.
      value: where a value must stand: after a comma or a colon.
      after: after a value.
      number: dot and e states, for a captured number that turns out to be a fraction.
    """

    def __init__(self, a: _Automaton, kind: str, depth: int, end: int) -> None:
        self.start, self.value, self.after = a.states(3)
        a.skip_space(self.start, self.value, self.after)
        close = b"]" if kind == "[" else b"}"
        # The row of ``after`` must be whole before the numbers copy it.
        a.on(self.after, close, end)
        key = self.value if kind == "[" else a.state()
        a.on(self.after, b",", key)
        minus, zero, integer, *self.number = _add_number(a, self.after)
        values = [self.value, self.start] if kind == "[" else [self.value]
        deeper = {k: _Nested(a, k, depth + 1, self.after).start for k in "[{"} if depth < MAX_DEPTH else {}
        inside = a.string(self.after, escapes=True)
        for state in values:
            a.on(state, b'"', inside)
            a.on(state, b"-", minus)
            a.on(state, b"0", zero)
            a.on(state, b"123456789", integer)
            for bracket, target in deeper.items():
                a.on(state, bracket.encode(), target)
        _add_literals(a, values, self.after, {})
        a.on(self.start, close, end)
        if kind == "{":
            colon = a.state()
            a.skip_space(key, colon)
            a.on(colon, b":", self.value)
            in_key = a.string(colon, escapes=False)
            a.on(key, b'"', in_key)
            a.on(self.start, b'"', in_key)


def _capture_integer(
    a: _Automaton, before: int, after: int, number: tuple[int, int], element: int, type_: int, other: int
) -> None:
    """From ``before``, an integer written to ``element`` that notes ``type_``; a fraction notes ``other``."""
    minus, zero, integer = a.states(3)
    for state in (zero, integer):
        a.copy(after, state)
        a.on(state, b".", number[0], type_=other)
        a.on(state, b"eE", number[1], type_=other)
    a.on(before, b"-", minus)
    for state, negative in ((before, 0), (minus, NEGATIVE)):
        operand = FIRST + negative + ELEMENT * element
        a.on(state, b"0", zero, op=Op.DIGIT, type_=type_, operand=operand)
        a.on(state, b"123456789", integer, op=Op.DIGIT, type_=type_, operand=operand)
    a.on(integer, _DIGITS, integer, op=Op.DIGIT, type_=type_, operand=ELEMENT * element)


def _add_array(a: _Automaton, value: int, after: int) -> None:
    """From ``value``, an array: two integers end as POINT, four as BOX, anything else as OTHER."""
    array = _Nested(a, "[", 1, after)
    start = a.state()
    a.copy(array.start, start)
    a.skip_space(start)
    a.on(value, b"[", start, type_=Type.OTHER)
    for element in range(4):
        done = a.state()
        a.skip_space(done)
        a.on(done, b"]", after, type_={1: Type.POINT, 3: Type.BOX}.get(element, 0))
        following = array.value if element == 3 else a.state()
        a.on(done, b",", following)
        _capture_integer(a, start, done, tuple(array.number), element, 0, 0)
        if element < 3:
            a.copy(array.value, following)
            a.skip_space(following)
            start = following


def _build_automaton(
    tools: Sequence[bytes], keys: Sequence[bytes], strings: Sequence[bytes]
) -> tuple[_Automaton, int, int]:
    """The whole transducer, its start state and its accepting state."""
    name_key, arguments_key, unknown_key = (len(keys) + n for n in range(3))
    a = _Automaton()
    # Top level: before the brace, after it, after a comma, after a value, after the closing brace.
    start, first, following, after, accept = a.states(5)
    name_colon, name_value, arguments_colon, arguments_value = a.states(4)
    inner_first, inner_following, colon, value, inner_after = a.states(5)  # the same inside "arguments"
    a.skip_space(start, first, following, after, accept, name_colon, name_value, arguments_colon, arguments_value)
    a.skip_space(inner_first, inner_following, colon, value, inner_after)

    top = a.trie(
        [b"name", b"arguments"],
        [
            (name_colon, {"op": Op.KEY, "operand": name_key}),
            (arguments_colon, {"op": Op.KEY, "operand": arguments_key}),
        ],
        (DEAD, {}),
        escapes=False,
    )
    a.on(start, b"{", first)
    a.on(first, b'"', top)
    a.on(first, b"}", accept)
    a.on(following, b'"', top)
    a.on(after, b",", following)
    a.on(after, b"}", accept)

    def captured(words: Sequence[bytes], target: int, op: Op, type_: int, other: int, escapes: bool = False) -> int:
        action = [(target, {"op": op, "type_": type_, "operand": index}) for index in range(len(words))]
        return a.trie(words, action, (target, {"op": op, "type_": type_, "operand": other}), escapes)

    a.on(name_colon, b":", name_value)
    a.on(name_value, b'"', captured(tools, after, Op.WORD, Type.STRING, len(tools)))
    a.on(arguments_colon, b":", arguments_value)
    a.on(arguments_value, b"{", inner_first)

    in_key = captured(keys, colon, Op.KEY, 0, unknown_key)
    a.on(inner_first, b'"', in_key)
    a.on(inner_first, b"}", after)
    a.on(inner_following, b'"', in_key)
    a.on(inner_after, b",", inner_following)
    a.on(inner_after, b"}", after)
    a.on(colon, b":", value)

    in_string = captured(strings, inner_after, Op.WORD, Type.STRING, len(strings), escapes=True)
    a.on(value, b'"', in_string, op=Op.QUOTE)
    dot, e = _add_number_tail(a, inner_after)
    _capture_integer(a, value, inner_after, (dot, e), 0, Type.INTEGER, Type.OTHER)
    _add_literals(a, [value], inner_after, _CAPTURED_LITERALS)
    a.on(value, b"{", _Nested(a, "{", 1, inner_after).start, type_=Type.OTHER)
    _add_array(a, value, inner_after)
    return a, start, accept


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def compile_grammar(specs: Sequence[ToolSpec]) -> Grammar:
    """The transducer and check tables of a set of tools, as numpy arrays.

    Args:
      specs: tools in the order of ``tool_B``; names and argument names need no escape in JSON.

    Raises:
      ValueError: two tools of one name, two arguments of one name in a tool, a name or choice that JSON would
        escape or that holds a tag, a bound beyond ±:data:`LARGEST`, or too many words for the tables.
    """
    names = [spec.name for spec in specs]
    keys = _unique(a.name for spec in specs for a in spec.arguments)
    strings = _unique(choice for spec in specs for a in spec.arguments for choice in a.choices)
    if not specs or len(set(names)) != len(names):
        raise ValueError(f"tools need distinct names, at least one: {names}")
    for spec in specs:
        if len({a.name for a in spec.arguments}) != len(spec.arguments):
            raise ValueError(f"tool {spec.name!r} has two arguments of one name")
        for a in spec.arguments:
            if max(abs(a.minimum), abs(a.maximum)) > LARGEST:
                raise ValueError(f"tool {spec.name!r}, argument {a.name!r}: bounds must stay within ±{LARGEST}")
    for word in (*names, *keys, *strings):
        if any(c in '"\\' or ord(c) < 0x20 for c in word):
            raise ValueError(f"{word!r} needs an escape in JSON, which the dialect has not in names and choices")
        if any(tag in word for tag in _TAGS):
            raise ValueError(f"{word!r} holds a tag, which would end the call")
    if max(len(names), len(keys) + 3, len(strings)) >= 2047:
        raise ValueError("more than 2047 tools, argument names or choices")

    encode = [[word.encode() for word in words] for words in (names, keys, strings)]
    automaton, start, accept = _build_automaton(*encode)
    if len(automaton.rows) > 0x7FFF:
        raise ValueError(f"{len(automaton.rows)} states: the tools' words are too long together")

    tools, slots = len(specs), max(1, *(spec.width for spec in specs))
    key, element, type_, minimum, maximum, default = (np.zeros((tools, slots), np.int32) for _ in range(6))
    key -= 1
    required = np.zeros((tools, slots), bool)
    choice = np.full((tools, slots, len(strings) + 1), -1, np.int32)
    knows = np.zeros((tools, len(keys) + 3), bool)
    knows[:, len(keys) : len(keys) + 2] = True  # "name" and "arguments"
    for j, spec in enumerate(specs):
        for a in spec.arguments:
            at = slice(spec.offsets()[a.name], spec.offsets()[a.name] + a.width)
            key[j, at] = keys.index(a.name)
            element[j, at] = np.arange(a.width) + (LENGTH if a.kind == "string" else 0)
            type_[j, at] = _TYPES[a.kind]
            minimum[j, at], maximum[j, at] = a.minimum, a.maximum
            if a.kind == "string":
                minimum[j, at.stop - 1], maximum[j, at.stop - 1] = 0, CHECKSUM_MODULUS
            for index, word in enumerate(a.choices):
                choice[j, at, strings.index(word)] = index
            default[j, at] = a.default_slots
            required[j, at] = a.default is None
            knows[j, keys.index(a.name)] = True
    return Grammar(
        transition_QX=np.stack(automaton.rows).astype(np.uint32).view(np.int32),
        key_JA=key,
        element_JA=element,
        type_JA=type_,
        minimum_JA=minimum,
        maximum_JA=maximum,
        default_JA=default,
        required_JA=required,
        choice_JAD=choice,
        knows_JU=knows,
        start=start,
        accept=accept,
        keys=(*keys, "<name>", "<arguments>", "<unknown>"),
        tools=tuple(names),
    )
