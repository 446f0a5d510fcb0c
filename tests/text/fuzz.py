"""Turns that are valid, nearly valid, or neither, from a seed."""

# ruff: noqa: E501 - the same for the fragments
from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence

from medvista_jax.core.tool_spec import WIDTHS, Argument, ToolSpec

FRAGMENTS = (
    b"<think>", b"</think>", b"<tool_call>", b"</tool_call>", b"<answer>", b"</answer>", b"<tool_cal", b"</answer",
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b'\\"', b"\\u0041", b"\\ud800", b"\\u12", b"\\n", b"\\x", b" ", b"\n", b"\t", b"\r", b"\0", b"\x0b",
    b'"\\u00e9"', b'"\\\\"', b'"a\\\"b"', b'"\\/"', b"[3,4]", b"[3, 4, 5]", b"true", b"false", b"null", b"NaN", b"Infinity", b"-Infinity", b"0", b"-", b"-0", b"01", b"1.5", b"1e3", b"1E-2",
    b"2.", b".5", b"+1", b"999999999", b"1000000000", b"2147483648", b"-99999999999999999999", b"100000000",
    b'"name"', b'"arguments"', b'"bbox_2d"', b'"low"', b'"image_index"', b"\xc3\xa9", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\x8b",
    b"[]", b"{}", b"[[[1]]]", b"[[[[1]]]]", b'{"a":{"b":{}}}', b'{"a":[{"b":[]}]}', b"[1,2,3,4]", b"[1,2,3]", b"[1, 2, 3, 4.0]",
)  # fmt: skip


def random_value(rng: random.Random, depth: int = 0) -> object:
    """Any JSON value, nested up to five deep."""
    roll = rng.random()
    if depth < 5 and roll < 0.2:
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 5))]
    if depth < 5 and roll < 0.4:
        return {random_word(rng): random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    return rng.choice(
        [
            True, False, None, "", random_word(rng), rng.randint(-9, 9), rng.randint(-(10**6), 10**6), 1.5, -1e20, 3.0,
            rng.randint(-(10**14), 10**14), [rng.randint(0, 1000) for _ in range(4)], [rng.randint(-3, 3) for _ in range(rng.randint(3, 5))],
        ]
    )  # fmt: skip


def random_word(rng: random.Random) -> str:
    return "".join(rng.choice(string.ascii_lowercase + "_ é日") for _ in range(rng.randint(0, 6)))


_CHARACTERS = (*"abcXYZ019 .,:{}[]<>/", '"', "\\", *"\b\f\n\r\t", "\x01", "é", "日", "ꯍ", "\U0001f600", "\ufffd")


def random_text(rng: random.Random, longest: int) -> str:
    """Text of which some characters need an escape; now and then there is a tag in it."""
    text = "".join(rng.choices(_CHARACTERS, k=rng.randint(0, longest)))
    return text + rng.choice(["</tool_call>", "<tool_call>", "<answer>no</answer>"]) if rng.random() < 0.03 else text


def fitting_value(rng: random.Random, argument: Argument) -> object:
    """A value of the right type, mostly in range."""
    if argument.kind == "enum":
        return rng.choice(argument.choices) if rng.random() < 0.9 else random_word(rng)
    if argument.kind == "boolean":
        return rng.random() < 0.5
    if argument.kind == "string":
        return random_text(rng, rng.choice([6, min(40, argument.maximum + 3)]))
    low, high = argument.minimum, argument.maximum
    if rng.random() < 0.1:
        low, high = low - 3, high + 3
    if argument.kind == "integer":
        return rng.choice([low, high, rng.randint(low, high)])
    numbers = [rng.randint(low, high) for _ in range(argument.width)]
    if argument.kind == "box" and rng.random() < 0.9:
        numbers = [*map(min, numbers[:2], numbers[2:]), *map(max, numbers[:2], numbers[2:])]
    return numbers


def _spaced(rng: random.Random, text: str) -> str:
    """The JSON text with white space where JSON has it; strings are left whole."""
    out, inside = [], False
    previous = ""
    for character in text:
        # A quote behind a backslash that is not itself escaped is part of the string.
        inside ^= character == '"' and previous != "\\"
        previous = "" if previous == "\\" else character
        if not inside and character in "{}[]:," and rng.random() < 0.3:
            character = rng.choice(["", " ", "\n", "\t \r"]) + character + rng.choice(["", " ", "\n\n", "\t"])
        out.append(character)
    return "".join(out)


def random_call(rng: random.Random, specs: Sequence[ToolSpec]) -> bytes:
    """The body of a call that is mostly sound."""
    spec = rng.choice(specs)
    pairs = [(a.name, fitting_value(rng, a)) for a in spec.arguments if a.default is None or rng.random() < 0.5]
    if pairs and rng.random() < 0.1:
        pairs.pop(rng.randrange(len(pairs)))
    if rng.random() < 0.15:
        every = [a.name for s in specs for a in s.arguments]
        pairs.append((rng.choice([*every, random_word(rng)]), random_value(rng)))
    if pairs and rng.random() < 0.15:
        at = rng.randrange(len(pairs))
        pairs[at] = (pairs[at][0], random_value(rng))
    rng.shuffle(pairs)

    def dump(value: object) -> str:
        ascii_only = rng.random() < 0.1
        text = json.dumps(value, ensure_ascii=ascii_only, separators=rng.choice([(", ", ": "), (",", ":")]))
        # Escapes that json.dumps never writes.
        return text.replace("/", "\\/").replace("Z", "\\u005A") if rng.random() < 0.2 else text

    name = spec.name if rng.random() < 0.93 else rng.choice([random_word(rng), spec.name[:-1], spec.name + "x"])
    top = [
        ("name", dump(name)),
        ("arguments", "{" + ", ".join(f"{dump(k)}: {dump(v)}" for k, v in pairs) + "}"),
    ]
    if rng.random() < 0.05:
        top = rng.choice([top[:1], top[1:], [*top, ("id", "3")], [*top, top[0]], [("name", "3"), top[1]], []])
    if rng.random() < 0.3:
        top.reverse()
    text = "{" + ", ".join(f'"{key}": {value}' for key, value in top) + "}"
    return (_spaced(rng, text) if rng.random() < 0.3 else text).encode()


def mutate(rng: random.Random, turn: bytes) -> bytes:
    """One to four small edits."""
    raw = bytearray(turn)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randint(0, len(raw)) for _ in range(2))
        edit = rng.randrange(6)
        if edit == 0:
            raw[at : at + 1] = bytes([rng.randrange(256)])
        elif edit == 1:
            del raw[at : min(end, at + 8)]
        elif edit == 2:
            raw[at:at] = raw[at : min(end, at + 30)]
        elif edit == 3:
            raw[at:at] = rng.choice(FRAGMENTS)
        elif edit == 4:
            raw[at : at + 1] = rng.choice(FRAGMENTS)
        else:
            raw[at : at + 1] = str(rng.choice([rng.randint(-50, 1200), 10 ** rng.randint(0, 30)])).encode()
    return bytes(raw)


def random_turn(rng: random.Random, specs: Sequence[ToolSpec]) -> bytes:
    """One turn of bytes."""
    roll = rng.random()
    if roll < 0.03:
        return rng.randbytes(rng.randint(0, 80))
    if roll < 0.1:
        return b"".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(0, 40)))
    think = b"<think>" + rng.choice([b"", b"look", "größer 日本".encode(), b"a < b"]) + b"</think>"
    call = b"<tool_call>" + random_call(rng, specs) + b"</tool_call>"
    answer = b"<answer>" + rng.choice([b"A", b"", b"left kidney", b"12 mm", b"x" * 70]) + b"</answer>"
    turn = think + rng.choice([b"", b"\n", b" \t\r\n"]) + (answer if rng.random() < 0.1 else call)
    if rng.random() < 0.15:
        other = b"<tool_call>" + random_call(rng, specs) + b"</tool_call>"
        turn = rng.choice([turn + other, other + turn, turn + answer, answer + turn, call, turn + b"\n", turn + b"x"])
    return mutate(rng, turn) if rng.random() < 0.4 else turn


def random_specs(rng: random.Random) -> list[ToolSpec]:
    """Tools that share argument names under different types."""
    names = ["a", "ab", "box", "größe", "image_index", "mode", "name", "arguments"]
    words = ["on", "off", "of", "on_off", "é", "", "name", "a b"]
    specs = []
    for index in range(rng.randint(1, 6)):
        arguments = []
        for name in rng.sample(names, rng.randint(0, 5)):
            kind = rng.choice(sorted(WIDTHS))
            low = 0 if kind == "string" else rng.choice([0, -7, -(10**8)])
            high = rng.choice([low + 1, low + 9, 10**8])
            choices = tuple(rng.sample(words, rng.randint(1, 5))) if kind == "enum" else ()
            default = None
            if rng.random() < 0.5:
                default = {"point": (low, high), "box": (low, low, high, high), "boolean": True, "string": ""}.get(kind)
                default = {"integer": high, "enum": 0}.get(kind, default)
            arguments.append(Argument(name, "words", kind, low, high, choices, default))
        specs.append(ToolSpec(rng.choice(["t", "to", "tool", "größer"]) + str(index), "words", tuple(arguments)))
    return specs
