"""Points, booleans, strings and their escapes: case by case on both parsers, and there and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvista_jax.core.tool_spec import Argument, ToolSpec, python_values, text_slots
from medvista_jax.text.compare import parse_both
from medvista_jax.text.grammar import compile_grammar
from medvista_jax.text.host_parser import parse_turn_text
from tests.text.specs import MARK, SEARCH, SEVEN, TWO

SPECS = (MARK, SEARCH, *TWO)
GRAMMAR = compile_grammar(SPECS)


def slots(raw: bytes) -> list[int]:
    """Length and checksum by the formula of the polynomial, not step by step."""
    return [len(raw), sum(byte * 257**power for power, byte in enumerate(reversed(raw))) % 8355967]


def mark(arguments: str) -> str:
    return '{"name": "mark", "arguments": {' + arguments + "}}"


def search(query: str, rest: str = ', "exact": true') -> str:
    return '{"name": "search", "arguments": {"query": ' + query + rest + "}}"


# body, fault, slots of the tool, texts
CASES = [
    # points and booleans
    (mark('"point_2d": [3, 4]'), "NONE", [3, 4, 0, 0, 1, 1, -2], [""]),
    (mark('"low":[ -9 ,9 ],"filled" :false, "point_2d":[0,1000]'), "NONE", [0, 1000, 0, 0, 0, -9, 9], [""]),
    (mark('"point_2d": [4, 4], "filled": true, "label": "a"'), "NONE", [4, 4, 1, 97, 1, 1, -2], ["a"]),
    (mark('"point_2d": [3]'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, 4, 5]'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, 4, 5, 6]'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, 4.0]'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, [4]]'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, true]'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3,]'), "MALFORMED", [], []),
    (mark('"point_2d": [3, 1001]'), "OUT_OF_RANGE", [], []),
    (mark('"point_2d": [-1, 0]'), "OUT_OF_RANGE", [], []),
    (mark('"point_2d": [3, 4], "filled": 1'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, 4], "filled": "true"'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, 4], "filled": null'), "WRONG_TYPE", [], []),
    (mark('"point_2d": [3, 4], "filled": True'), "MALFORMED", [], []),
    (mark('"point_2d": [3, 4], "filled": truex'), "MALFORMED", [], []),
    (mark('"point_2d": [3, 4], "low": true'), "WRONG_TYPE", [], []),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2]}}', "WRONG_TYPE", [], []),
    ('{"name": "adjust_window", "arguments": {"low": true, "high": 1}}', "WRONG_TYPE", [], []),
    # strings
    (search('"what is it"'), "NONE", [*slots(b"what is it"), 1, 0, 0], ["what is it", ""]),
    (search('"é日"', ', "axis": "x", "exact": false'), "NONE", [*slots("é日".encode()), 0, *slots(b"x")], ["é日", "x"]),
    (search(f'"{"y" * 200}"'), "NONE", [*slots(b"y" * 200), 1, 0, 0], ["y" * 200, ""]),
    (search(f'"{"y" * 201}"'), "OUT_OF_RANGE", [], []),
    (search('""'), "OUT_OF_RANGE", [], []),
    (search('"a"', ', "exact": true, "axis": ""'), "NONE", [*slots(b"a"), 1, 0, 0], ["a", ""]),
    (search('"a"', ', "exact": true, "axis": "éé"'), "OUT_OF_RANGE", [], []),  # four bytes
    (mark('"point_2d": [3, 4], "label": ""'), "OUT_OF_RANGE", [], []),  # the default, but not said aloud
    (search("3"), "WRONG_TYPE", [], []),
    (search("null"), "WRONG_TYPE", [], []),
    (search('["a"]'), "WRONG_TYPE", [], []),
    (search('"zoom_in"'), "NONE", [*slots(b"zoom_in"), 1, 0, 0], ["zoom_in", ""]),
    # escapes in values
    (
        search(r'"\"\\\/\b\f\n\r\t\u00E9"'),
        "NONE",
        [*slots(rb"\"\\\/\b\f\n\r\t\u00E9"), 1, 0, 0],
        ['"\\/\b\f\n\r\té', ""],
    ),
    (search(r'"\ud83d\ude00"'), "NONE", [*slots(rb"\ud83d\ude00"), 1, 0, 0], ["\U0001f600", ""]),
    (search(r'"\ud83d x \ude00"'), "NONE", [*slots(rb"\ud83d x \ude00"), 1, 0, 0], ["\ufffd x \ufffd", ""]),
    (search(r'"\u0000"'), "NONE", [*slots(rb"\u0000"), 1, 0, 0], ["\0", ""]),
    (search(r'"\u003c/tool_call>"'), "NONE", [*slots(rb"\u003c/tool_call>"), 1, 0, 0], ["</tool_call>", ""]),
    (search(r'"a"', r', "exact": true, "axis": "\n"'), "NONE", [*slots(b"a"), 1, *slots(rb"\n")], ["a", "\n"]),
    (search(r'"a"', r', "exact": true, "axis": "\u0061"'), "OUT_OF_RANGE", [], []),  # six bytes, though one letter
    *((search(f'"{b}"'), "MALFORMED", [], []) for b in (r"\x", r"\u12", r"\u12g4", r"\U0041", r"\ ", r"\'", "\\\n")),
    (search(r'"\"'), "MALFORMED", [], []),
    (search(r'"\\\"'), "MALFORMED", [], []),
    (search(r'"\u+041"'), "MALFORMED", [], []),
    (search(r'\"a"'), "MALFORMED", [], []),
    (search('"a"\\n'), "MALFORMED", [], []),
    # escapes elsewhere
    (r'{"name": "se\u0061rch", "arguments": {"query": "a", "exact": true}}', "MALFORMED", [], []),
    (r'{"n\u0061me": "search", "arguments": {"query": "a", "exact": true}}', "MALFORMED", [], []),
    (r'{"name": "search", "arguments": {"qu\u0065ry": "a", "exact": true}}', "MALFORMED", [], []),
    (search(r'"a"', r', "exact": true, "\n": 1'), "MALFORMED", [], []),
    (search(r'"a"', r', "exact": true, "x": "\n"'), "UNKNOWN_ARGUMENT", [], []),
    (search(r'"a"', r', "exact": true, "x": {"y": ["\u00e9\\"]}'), "UNKNOWN_ARGUMENT", [], []),
    (search(r'"a"', r', "exact": true, "x": {"y": ["\u00e"]}'), "MALFORMED", [], []),
    (search(r'"a"', r', "exact": true, "x": {"y\n": 1}'), "MALFORMED", [], []),
    (search(r'["\"]"]'), "WRONG_TYPE", [], []),
    (search(r'["a\"]'), "MALFORMED", [], []),
]


@pytest.fixture(scope="module")
def read_cases() -> list:
    return parse_both(SPECS, GRAMMAR, [f"<tool_call>{body}</tool_call>".encode() for body, *_ in CASES], 512)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][1]}-{i}")
def test_case(read_cases, index) -> None:
    body, fault, numbers, texts = CASES[index]
    for record in read_cases[index]:
        assert record["fault"] == fault, body
        assert record["arguments"] == numbers + [0] * (GRAMMAR.width - len(numbers)), body
    assert list(parse_turn_text(SPECS, f"<tool_call>{body}</tool_call>".encode()).texts) == texts


def test_an_enum_written_with_an_escape_is_no_choice() -> None:
    specs = (ToolSpec("t", "", (Argument("a", "", "enum", choices=("on", "größe")),)),)
    bodies = [r'"on"', r'"\u006fn"', '"größe"', r'"gr\u00f6\u00dfe"', r'"on\n"']
    turns = [f'<tool_call>{{"name": "t", "arguments": {{"a": {body}}}}}</tool_call>'.encode() for body in bodies]
    faults = ["NONE", "OUT_OF_RANGE", "NONE", "OUT_OF_RANGE", "OUT_OF_RANGE"]
    for pair, fault in zip(parse_both(specs, compile_grammar(specs), turns, 256), faults, strict=True):
        assert [record["fault"] for record in pair] == [fault] * 2


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    raw = b"a\xff\xc3\\n\xed\xa0\x80"
    body = b'<tool_call>{"name": "search", "arguments": {"exact": true, "query": "' + raw + b'"}}</tool_call>'
    ((host, device),) = parse_both(SPECS, GRAMMAR, [body], 512)
    assert host == device and host["arguments"][:2] == slots(raw)
    (text, _) = parse_turn_text(SPECS, body).texts
    assert text.replace("\ufffd", "") == "a\n" and "\ufffd" in text


@given(st.binary(max_size=300))
def test_checksums_fit_and_follow_the_formula(raw) -> None:
    assert list(text_slots(raw)) == slots(raw) and text_slots(raw)[1] < 2**24


def _values(argument: Argument) -> st.SearchStrategy:
    number = st.integers(argument.minimum, argument.maximum)
    if argument.kind == "integer":
        return number
    if argument.kind == "boolean":
        return st.booleans()
    if argument.kind == "enum":
        return st.sampled_from(argument.choices)
    if argument.kind == "point":
        return st.lists(number, min_size=2, max_size=2)
    if argument.kind == "box":
        pair = st.lists(number, min_size=2, max_size=2, unique=True).map(sorted)
        return st.tuples(pair, pair).map(lambda xy: [xy[0][0], xy[1][0], xy[0][1], xy[1][1]])
    text = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n</tool_call>'), max_size=argument.maximum)
    raw = text.map(lambda said: json.dumps(said, ensure_ascii=False)[1:-1].replace("<", "\\u003c").encode())
    fits = raw.filter(lambda said: argument.minimum <= len(said) <= argument.maximum)
    return fits.map(lambda said: json.loads(f'"{said.decode()}"'))


def _calls(spec: ToolSpec) -> st.SearchStrategy:
    required = {a.name: _values(a) for a in spec.arguments if a.default is None}
    optional = {a.name: _values(a) for a in spec.arguments if a.default is not None}
    return st.tuples(st.just(spec), st.fixed_dictionaries(required, optional=optional))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(SEVEN).flatmap(_calls), min_size=8, max_size=8))
def test_rendered_calls_are_read_back(calls) -> None:
    turns = [f"<tool_call>{spec.render_call(**values)}</tool_call>".encode() for spec, values in calls]
    pairs = parse_both(SEVEN, ALL, turns, 512)
    for (spec, values), turn, (host, device) in zip(calls, turns, pairs, strict=True):
        assert host == device and host["fault"] == "NONE", turn
        assert SEVEN[host["tool"]] is spec
        said = parse_turn_text(SEVEN, turn)
        read = python_values(spec, host["arguments"], said.texts)
        assert list(read) == [argument.name for argument in spec.arguments]
        assert {name: read[name] for name in values} == values
        assert json.loads(turn[11:-12])["arguments"] == values


ALL = compile_grammar(SEVEN)
