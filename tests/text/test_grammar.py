"""The call's dialect, case by case, on both parsers."""

# ruff: noqa: E501 - the table of cases reads better in long lines
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.types import Fault
from medvista_jax.text.compare import parse_both
from medvista_jax.text.grammar import DEAD, compile_grammar
from tests.text.specs import FIVE, TWO, ZOOM_IN

CASES = [
    # zoom_in, well and in odd dress
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}}', "NONE", 0, [1, 2, 3, 4, 0]),
    (
        '{"name":"zoom_in","arguments":{"image_index":15,"bbox_2d":[0,0,1000,1000]}}',
        "NONE",
        0,
        [0, 0, 1000, 1000, 15],
    ),
    (
        ' \n{\t"arguments" : { "bbox_2d" : [ 1 , 2 , 3 , 4 ] } , "name" : "zoom_in" }\r',
        "NONE",
        0,
        [1, 2, 3, 4, 0],
    ),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [-0, 0, 3, 4]}}', "NONE", 0, [0, 0, 3, 4, 0]),
    (
        '{"name": "adjust_window", "arguments": {"low": -2000, "high": 65535}}',
        "NONE",
        1,
        [-2000, 65535, 0, 0, 0],
    ),
    # MALFORMED
    ("", "MALFORMED", -1, None),
    ("zoom_in", "MALFORMED", -1, None),
    ('["zoom_in"]', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4],}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4,]}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [01, 2, 3, 4]}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [+1, 2, 3, 4]}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1 2, 3, 4]}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": NaN}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": -Infinity}}', "MALFORMED", -1, None),
    ('{"name": "zoom\\u005fin", "arguments": {"bbox_2d": [1, 2, 3, 4]}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in\n", "arguments": {"bbox_2d": [1, 2, 3, 4]}}', "MALFORMED", -1, None),
    ("{'name': 'zoom_in'}", "MALFORMED", -1, None),
    ('{"arguments": {"bbox_2d": [1, 2, 3, 4]}}', "MALFORMED", -1, None),
    ('{"name": 3, "arguments": {}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": []}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}, "id": 1}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}}', "MALFORMED", -1, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}, "arguments": {}}', "MALFORMED", -1, None),
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4], "bbox_2d": [1, 2, 3, 4]}}',
        "MALFORMED",
        -1,
        None,
    ),
    ('{"name": "zoom_in", "arguments": {"low": 1, "low": 1}}', "MALFORMED", -1, None),  # some tool's key
    ('{"name": "zoom_in", "arguments": {"x": [[[[]]]]}}', "MALFORMED", -1, None),  # too deep
    ('{"name": "spin", "arguments": {"x": }}', "MALFORMED", -1, None),  # before UNKNOWN_TOOL
    # UNKNOWN_TOOL
    ('{"name": "spin", "arguments": {}}', "UNKNOWN_TOOL", -1, None),
    ('{"name": "zoom_i", "arguments": {"bbox_2d": [1, 2, 3, 4]}}', "UNKNOWN_TOOL", -1, None),
    ('{"name": "zoom_inn"}', "UNKNOWN_TOOL", -1, None),
    ('{"name": ""}', "UNKNOWN_TOOL", -1, None),
    # UNKNOWN_ARGUMENT
    ('{"name": "zoom_in", "arguments": {"x": [[[]]], "x": {"y": {"z": []}}}}', "UNKNOWN_ARGUMENT", 0, None),
    (
        '{"name": "zoom_in", "arguments": {"label": "é", "bbox_2d": [1, 2, 3, 4]}}',
        "UNKNOWN_ARGUMENT",
        0,
        None,
    ),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4], "low": 1}}', "UNKNOWN_ARGUMENT", 0, None),
    ('{"name": "adjust_window", "arguments": {"Low": 1}}', "UNKNOWN_ARGUMENT", 1, None),  # before MISSING
    # MISSING_ARGUMENT
    ('{"name": "zoom_in"}', "MISSING_ARGUMENT", 0, None),
    (
        '{"name": "zoom_in", "arguments": {"image_index": "x"}}',
        "MISSING_ARGUMENT",
        0,
        None,
    ),  # before WRONG_TYPE
    # WRONG_TYPE
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3]}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4, 5]}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": []}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4.0]}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1e0, 2, 3, 4]}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, "4"]}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [[1, 2, 3, 4]]}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": "1, 2, 3, 4"}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": {"x1": 1}}}', "WRONG_TYPE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": 1}}', "WRONG_TYPE", 0, None),
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4], "image_index": null}}',
        "WRONG_TYPE",
        0,
        None,
    ),
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4], "image_index": true}}',
        "WRONG_TYPE",
        0,
        None,
    ),
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4], "image_index": "1"}}',
        "WRONG_TYPE",
        0,
        None,
    ),
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4], "image_index": 1.0}}',
        "WRONG_TYPE",
        0,
        None,
    ),
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 9999], "image_index": 1E+2}}',
        "WRONG_TYPE",
        0,
        None,
    ),
    # OUT_OF_RANGE
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [-1, 2, 3, 4]}}', "OUT_OF_RANGE", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 1001]}}', "OUT_OF_RANGE", 0, None),
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [9, 9, 3, 1001]}}',
        "OUT_OF_RANGE",
        0,
        None,
    ),  # before EMPTY_BOX
    (
        '{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4], "image_index": 16}}',
        "OUT_OF_RANGE",
        0,
        None,
    ),
    *(
        (f'{{"name": "adjust_window", "arguments": {{"low": 0, "high": {number}}}}}', "OUT_OF_RANGE", 1, None)
        for number in (65536, -2001, 999999999, 10**9, 2**31, 2**32 + 1, -(2**32), -(2**64), 10**400)
    ),
    # EMPTY_BOX
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [5, 2, 5, 4]}}', "EMPTY_BOX", 0, None),
    ('{"name": "zoom_in", "arguments": {"bbox_2d": [1, 4, 5, 2]}}', "EMPTY_BOX", 0, None),
]


@pytest.fixture(scope="module")
def read_cases() -> list:
    turns = [f"<think>x</think><tool_call>{body}</tool_call>".encode() for body, *_ in CASES]
    return parse_both(TWO, compile_grammar(TWO), turns, 1024)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][1]}-{i}")
def test_case(read_cases, index) -> None:
    body, fault, tool, arguments = CASES[index]
    for record in read_cases[index]:
        assert (record["kind"], record["fault"], record["tool"]) == ("CALL", fault, tool), body
        assert record["arguments"] == (arguments or [0] * 5), body
        assert record["well_formed"] and record["answer"] == ""


def test_every_text_fault_is_among_the_cases() -> None:
    beyond_text = {"NO_ACTION", "NO_SUCH_IMAGE", "NO_CALLS_LEFT", "NO_IMAGES_LEFT"}
    beyond_text |= {"TOOL_FAILED", "TOOL_TIMED_OUT", "UNSUITABLE_IMAGE"}
    assert {fault for _, fault, *_ in CASES} == {fault.name for fault in Fault} - beyond_text


def test_shared_names_enums_and_defaults() -> None:
    wanted = [
        ('{"name": "flip", "arguments": {"axis": "hor"}}', "NONE", [2, 1]),
        ('{"arguments": {"image_index": "first", "axis": "vertical"}, "name": "flip"}', "NONE", [1, 0]),
        ('{"name": "flip", "arguments": {"axis": "horiz"}}', "OUT_OF_RANGE", []),
        ('{"name": "flip", "arguments": {"axis": "klein"}}', "OUT_OF_RANGE", []),  # another enum's choice
        ('{"name": "flip", "arguments": {"axis": 0}}', "WRONG_TYPE", []),
        ('{"arguments": {"image_index": 1, "axis": "hor"}, "name": "flip"}', "WRONG_TYPE", []),
        ('{"arguments": {"low": [1, 2, 3, 4], "größe": "größer"}, "name": "zoom_in_two"}', "NONE", [0, 1, 2, 3, 1, 2, 3, 4, 2]),
        ('{"arguments": {"low": 1, "größe": "größer"}, "name": "zoom_in_two"}', "WRONG_TYPE", []),
        ('{"name": "invert"}', "NONE", []),
        ('{"name": "invert", "arguments": {}}', "NONE", []),
        ('{"name": "invert", "arguments": {"axis": 1}}', "UNKNOWN_ARGUMENT", []),
    ]  # fmt: skip
    turns = [f"<tool_call>{body}</tool_call>".encode() for body, *_ in wanted]
    for (body, fault, arguments), pair in zip(wanted, parse_both(FIVE, compile_grammar(FIVE), turns, 256), strict=True):
        for record in pair:
            assert record["fault"] == fault, body
            assert record["arguments"] == arguments + [0] * (9 - len(arguments)), body


def test_bytes_that_are_not_utf8() -> None:
    bodies = [
        (b'{"name": "\xff", "arguments": {}}', "UNKNOWN_TOOL"),
        (b'{"name": "zoom_in", "arguments": {"\xed\xa0\x80": "\x80\x7f"}}', "UNKNOWN_ARGUMENT"),
        (b'{"name": "zoom_in"}\xa0', "MALFORMED"),
        (b'\xef\xbb\xbf{"name": "zoom_in"}', "MALFORMED"),
        (b'{"name": "zoom_in\0"}', "MALFORMED"),
        (b'{"name": "zoom_in"}\0', "MALFORMED"),
    ]
    turns = [b"<tool_call>" + body + b"</tool_call>" for body, _ in bodies]
    for (_, fault), pair in zip(bodies, parse_both(TWO, compile_grammar(TWO), turns, 256), strict=True):
        assert [record["fault"] for record in pair] == [fault] * 2


def test_deep_nesting_raises_nothing() -> None:
    turns = [b'<tool_call>{"name": "zoom_in", "arguments": {"x": ' + b"[" * n + b"]" * n + b"}}</tool_call>" for n in (3, 4, 2000)]  # fmt: skip
    for pair, fault in zip(
        parse_both(TWO, compile_grammar(TWO), turns, 8192),
        ["UNKNOWN_ARGUMENT", "MALFORMED", "MALFORMED"],
        strict=True,
    ):
        assert [record["fault"] for record in pair] == [fault] * 2


def test_tables_walk_a_call_and_stay_small() -> None:
    grammar = compile_grammar(FIVE)
    table, state = grammar.next_state, grammar.start
    for byte in ZOOM_IN.render_call(bbox_2d=[1, 2, 3, 4], image_index=3).encode():
        state = table[state, byte]
        assert state != DEAD
    assert state == grammar.accept
    assert table.shape[1] == 256 and table.shape[0] < 700
    assert (table[DEAD] == DEAD).all() and table.max() < table.shape[0]


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ([], "distinct"),
        ([ZOOM_IN, ZOOM_IN], "distinct"),
        ([ToolSpec("a", "", (Argument("b", ""), Argument("b", "", "box")))], "two arguments"),
        ([ToolSpec('a"', "", ())], "escape"),
        ([ToolSpec("a", "", (Argument("b", "", maximum=10**9),))], "bounds"),
        ([ToolSpec("a", "", (Argument("b", "", "enum", choices=("x</tool_call>",)),))], "tag"),
    ],
)
def test_specs_the_dialect_cannot_say(specs, words) -> None:
    with pytest.raises(ValueError, match=words):
        compile_grammar(specs)


def test_render_call_is_read_back() -> None:
    body = ZOOM_IN.render_call(bbox_2d=[10, 20, 30, 40], image_index=2)
    assert json.loads(body)["name"] == "zoom_in"
    ((host, device),) = parse_both(TWO, compile_grammar(TWO), [f"<tool_call>{body}</tool_call>".encode()], 256)
    assert host == device and host["arguments"] == [10, 20, 30, 40, 2]


def test_grammar_is_a_pytree_of_arrays() -> None:
    grammar = compile_grammar(TWO)
    arrays = [
        value for field in dataclasses.fields(grammar) if isinstance(value := getattr(grammar, field.name), np.ndarray)
    ]
    assert len(arrays) == 10 and all(a.dtype in (np.int32, bool) for a in arrays)
