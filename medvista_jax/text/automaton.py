r"""A finite automaton over bytes that accepts well-formed turns only: what constrained decoding allows.

It is narrower than what the parsers take (:mod:`~medvista_jax.text.parse`, :mod:`~medvista_jax.text.grammar`):

    <think>text without a tag</think> white space, then one of
    <tool_call>{"name": "…", "arguments": {…}}</tool_call>
    <answer>1…N bytes without "<"</answer>

- A call is written as ``ToolSpec.render_call`` writes it: ``name`` before ``arguments``, arguments in the spec's
  order, optional ones may be left out, one space or none behind a comma or colon, none elsewhere; one newline or
  none between body and tags.
- Integers are plain decimal digits within their bounds. A string has its bounds in bytes, escapes where JSON has
  them, and no ``<`` (``\u003c`` says it).
- Boxes may be empty (``EMPTY_BOX``): that x2 exceeds x1 takes a state for every x1, which no table of decent size
  has.
- Any bytes may stand in free text, UTF-8 or not. White space may follow the end, so that a vocabulary's piece
  ``>\n`` may close the last tag.

Built as a nondeterministic automaton, made deterministic by subsets (Rabin and Scott 1959) and minimal by
refinement (Moore 1956).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from medvista_jax.core.tool_spec import Argument, ToolSpec

DEAD, END = 0, 1
"""States of :class:`TurnAutomaton`: no turn begins like this; the turn is complete."""

_ANY = bytes(range(256))
_SPACE = b" \t\n\r"
_TAGS = tuple(f"<{slash}{name}>".encode() for name in ("think", "tool_call", "answer") for slash in ("", "/"))


class TurnAutomaton(NamedTuple):
    """A minimal automaton: ``state = class_next_QC[state, class_X[byte]]``.

    Attributes:
      class_X: int32 [256], bytes that no state tells apart have one class.
      class_next_QC: int32, :data:`DEAD` where the byte cannot stand.
      starts: states before a turn that may call or answer, that must call, and that must answer.
    """

    class_X: np.ndarray
    class_next_QC: np.ndarray
    starts: tuple[int, int, int]


class _Nondeterministic:
    """Nodes with arcs over sets of bytes, and free arcs."""

    def __init__(self) -> None:
        self.arcs: list[list[tuple[bytes, int]]] = []
        self.free: list[list[int]] = []

    def node(self) -> int:
        self.arcs.append([])
        self.free.append([])
        return len(self.arcs) - 1

    def arc(self, source: int, characters: bytes, target: int) -> None:
        self.arcs[source].append((characters, target))

    def step(self, source: int, characters: bytes) -> int:
        target = self.node()
        self.arc(source, characters, target)
        return target

    def literal(self, source: int, text: bytes) -> int:
        for byte in text:
            source = self.step(source, bytes([byte]))
        return source

    def optional(self, source: int, text: bytes) -> int:
        target = self.literal(source, text)
        self.free[source].append(target)
        return target

    def join(self, ends: Iterable[int], target: int) -> None:
        for end in ends:
            self.free[end].append(target)


def _digit_runs(low: int, high: int, size: int) -> list[list[bytes]]:
    """The numbers low…high, written with ``size`` digits, as sequences of digit sets."""
    if size == 0:
        return [[]]
    unit = 10 ** (size - 1)
    if low % unit == 0 and high % unit == unit - 1:
        return [[bytes(range(48 + low // unit, 49 + high // unit)), *[b"0123456789"] * (size - 1)]]
    runs = []
    for first in range(low // unit, high // unit + 1):
        inner = max(low - first * unit, 0), min(high - first * unit, unit - 1)
        runs.extend([bytes([48 + first]), *run] for run in _digit_runs(*inner, size - 1))
    return runs


def _add_integer(a: _Nondeterministic, source: int, low: int, high: int) -> int:
    """Node after a decimal of low…high, without leading zeros or ``-0``."""
    target = a.node()
    for sign, smallest, largest in ((b"", max(low, 0), high), (b"-", max(1, -high), -low)):
        for size in range(len(str(max(smallest, 0))), len(str(max(largest, 0))) + 1):
            first, last = max(smallest, 10 ** (size - 1) if size > 1 else 0), min(largest, 10**size - 1)
            for run in _digit_runs(first, last, size) if first <= last else []:
                node = a.literal(source, sign)
                for digits in run:
                    node = a.step(node, digits)
                a.join([node], target)
    return target


def _add_string(a: _Nondeterministic, source: int, low: int, high: int) -> int:
    """Node after a string of low…high raw bytes between its quotes."""
    plain = bytes(byte for byte in range(0x20, 256) if byte not in b'"\\<')
    target = a.node()
    inside = [a.node() for _ in range(high + 1)]
    a.arc(source, b'"', inside[0])
    for at, node in enumerate(inside):
        if at + 1 <= high:
            a.arc(node, plain, inside[at + 1])
        if at + 2 <= high:
            escape = a.step(node, b"\\")
            a.arc(escape, b'"\\/bfnrt', inside[at + 2])
            if at + 6 <= high:
                digit = a.step(escape, b"u")
                for _ in range(3):
                    digit = a.step(digit, b"0123456789abcdefABCDEF")
                a.arc(digit, b"0123456789abcdefABCDEF", inside[at + 6])
        if at >= low:
            a.arc(node, b'"', target)
    return target


def _add_value(a: _Nondeterministic, source: int, argument: Argument) -> int:
    if argument.kind == "integer":
        return _add_integer(a, source, argument.minimum, argument.maximum)
    if argument.kind == "string":
        return _add_string(a, source, argument.minimum, argument.maximum)
    if argument.kind in ("enum", "boolean"):
        words = [f'"{choice}"' for choice in argument.choices] or ["true", "false"]
        target = a.node()
        a.join([a.literal(source, word.encode()) for word in words], target)
        return target
    node = a.literal(source, b"[")
    for element in range(argument.width):
        if element:
            node = a.optional(a.literal(node, b","), b" ")
        node = _add_integer(a, node, argument.minimum, argument.maximum)
    return a.literal(node, b"]")


def _add_call(a: _Nondeterministic, source: int, spec: ToolSpec) -> int:
    """Node after the rest of a call's body, from behind ``"name": "`` on."""
    node = a.optional(a.literal(source, spec.name.encode() + b'",'), b" ")
    node = a.literal(a.optional(a.literal(node, b'"arguments":'), b" "), b"{")
    first, later = node, a.node()  # before an argument: none has been written, or some have
    for argument in spec.arguments:
        key, written = a.node(), a.node()
        a.join([first, a.optional(a.literal(later, b","), b" ")], key)
        value = a.optional(a.literal(key, f'"{argument.name}":'.encode()), b" ")
        a.join([_add_value(a, value, argument)], written)
        if argument.default is not None:
            a.join([later], written)
            skipped = a.node()
            a.join([first], skipped)
            first = skipped
        else:
            first = a.node()  # nothing leads here: what follows has an argument before it
        later = written
    target = a.node()
    a.join([first, later], target)
    return a.literal(target, b"}}")


def _add_thought(a: _Nondeterministic, source: int) -> int:
    """Node after ``<think>``, text in which no tag is completed, ``</think>`` and white space."""
    target = a.node()
    prefixes = sorted({tag[:end] for tag in _TAGS for end in range(len(tag))}, key=len)
    nodes = {prefix: a.node() for prefix in prefixes}
    a.join([a.literal(source, b"<think>")], nodes[b""])
    for prefix, node in nodes.items():
        for byte in _ANY:
            text = prefix + bytes([byte])
            if text == b"</think>":
                a.arc(node, b">", target)
            elif text not in _TAGS:
                longest = next(text[at:] for at in range(len(text) + 1) if text[at:] in nodes)
                a.arc(node, bytes([byte]), nodes[longest])
    a.arc(target, _SPACE, target)
    return target


def _add_turn(a: _Nondeterministic, specs: Sequence[ToolSpec], answer_bytes: int) -> tuple[tuple[int, ...], int]:
    """The three start nodes and the end node."""
    end = a.node()
    call, answer = a.node(), a.node()
    name = a.literal(a.optional(a.literal(call, b"<tool_call>"), b"\n"), b'{"name":')
    name = a.literal(a.optional(name, b" "), b'"')
    body = a.node()
    a.join([_add_call(a, name, spec) for spec in specs], body)
    a.join([a.literal(a.optional(body, b"\n"), b"</tool_call>")], end)
    node, answered = a.literal(answer, b"<answer>"), a.node()
    for _ in range(answer_bytes):
        node = a.step(node, bytes(byte for byte in _ANY if byte != ord("<")))
        a.join([node], answered)
    a.join([a.literal(answered, b"</answer>")], end)
    a.arc(end, _SPACE, end)
    starts = tuple(a.node() for _ in range(3))
    for start, acts in zip(starts, ((call, answer), (call,), (answer,)), strict=True):
        thought = _add_thought(a, start)
        a.free[thought].extend(acts)
    return starts, end


def _byte_classes(a: _Nondeterministic) -> np.ndarray:
    """int32 [256]: bytes that stand in the same arcs have one class."""
    sets = sorted({characters for arcs in a.arcs for characters, _ in arcs})
    member = np.zeros((256, len(sets)), bool)
    for index, characters in enumerate(sets):
        member[list(characters), index] = True
    return np.unique(member, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


def _closure(a: _Nondeterministic, nodes: Iterable[int]) -> frozenset[int]:
    found = set(nodes)
    stack = list(found)
    while stack:
        for node in a.free[stack.pop()]:
            if node not in found:
                found.add(node)
                stack.append(node)
    return frozenset(found)


def _determinise(
    a: _Nondeterministic, class_X: np.ndarray, starts: Sequence[int], end: int
) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Subset construction: table [states, classes], start states, and which states hold ``end``. 0 is dead."""
    classes = int(class_X.max()) + 1
    reduced = [[({int(class_X[x]) for x in characters}, target) for characters, target in arcs] for arcs in a.arcs]
    index: dict[frozenset[int], int] = {frozenset(): DEAD}
    pending, rows = [], [[0] * classes]
    closures: dict[frozenset[int], frozenset[int]] = {}

    def state_of(nodes: frozenset[int]) -> int:
        if nodes not in closures:
            closures[nodes] = _closure(a, nodes)
        subset = closures[nodes]
        if subset not in index:
            index[subset] = len(rows)
            rows.append([0] * classes)
            pending.append(subset)
        return index[subset]

    first = [state_of(frozenset([start])) for start in starts]
    while pending:
        subset = pending.pop()
        targets: dict[int, set[int]] = {}
        for node in subset:
            for characters, target in reduced[node]:
                for character in characters:
                    targets.setdefault(character, set()).add(target)
        row = rows[index[subset]]
        for character, nodes in targets.items():
            row[character] = state_of(frozenset(nodes))
    accepting = np.array([end in subset for subset in index])
    return np.array(rows, np.int32), first, accepting


def refine(blocks_Q: np.ndarray, next_QC: np.ndarray, rounds: int) -> np.ndarray:
    """Split blocks of states until those of one block agree on every word of ``rounds`` bytes (Moore 1956).

    Args:
      blocks_Q: int32, numbers of the first blocks.
      next_QC: the automaton.
      rounds: steps; fewer are taken when nothing splits any more.

    Returns:
      int32 [Q], blocks numbered from 0.
    """
    random = np.random.default_rng(0)
    count = len(np.unique(blocks_Q))
    for _ in range(rounds):
        signature_QS = np.column_stack([blocks_Q, blocks_Q[next_QC]]).astype(np.uint64)
        while True:  # sorting sums is much faster than sorting rows; unlike rows of one sum are tried again
            sum_Q = signature_QS @ random.integers(0, 2**64, signature_QS.shape[1], np.uint64)
            _, first, blocks_Q = np.unique(sum_Q, return_index=True, return_inverse=True)
            if (signature_QS == signature_QS[first[blocks_Q]]).all():
                break
        if len(first) == count:
            break
        count = len(first)
    return blocks_Q.astype(np.int32)


def build_turn_automaton(specs: Sequence[ToolSpec], answer_bytes: int) -> TurnAutomaton:
    """The minimal automaton of a turn.

    Args:
      specs: the registered tools; names and choices as :func:`~medvista_jax.text.grammar.compile_grammar` takes them.
      answer_bytes: of the longest answer, at least 1.
    """
    a = _Nondeterministic()
    starts, end = _add_turn(a, specs, answer_bytes)
    class_X = _byte_classes(a)
    next_QC, first, accepting_Q = _determinise(a, class_X, starts, end)
    # Dead and end become states 0 and 1; the rest follows in the order of discovery.
    blocks_Q = refine(accepting_Q.astype(np.int32), next_QC, len(next_QC))
    dead, ended = blocks_Q[0], blocks_Q[np.flatnonzero(accepting_Q)[0]]
    order = [dead, ended, *(block for block in range(blocks_Q.max() + 1) if block not in (dead, ended))]
    number = np.argsort(order).astype(np.int32)
    sample = np.array([np.flatnonzero(blocks_Q == block)[0] for block in order])
    table_QC = number[blocks_Q[next_QC[sample]]]
    columns, class_of_class = np.unique(table_QC, axis=1, return_inverse=True)
    class_X = class_of_class.reshape(-1)[class_X].astype(np.int32)
    return TurnAutomaton(class_X, columns.astype(np.int32), tuple(int(number[blocks_Q[state]]) for state in first))
