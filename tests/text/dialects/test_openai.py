"""The chat-completions form: what servers return, and what must go back to them."""

from __future__ import annotations

import json

import pytest

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.dialects import openai
from tests.text.dialects.turns import TWO, WIDE, call, fault, judge, zoom


def tool_call(arguments: object, identity: str = "call_a", name: str = "zoom_in"):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def read(*calls: object, content: object = None, **fields: object):
    message = {"role": "assistant", "content": content, "tool_calls": list(calls), **fields}
    return openai.read_message(message, WIDE)


BOX = '{"bbox_2d": [10, 20, 300, 400], "image_index": 1}'


def test_a_tool_call_is_read_with_its_id():
    reading = read(tool_call(BOX))
    assert zoom(reading.turn) == ([10, 20, 300, 400], 1)
    assert (reading.call, reading.superseded, reading.notes) == ("call_a", (), ())


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_beside_the_content_is_the_thought(field):
    reading = read(tool_call(BOX), **{field: "look\nclosely"})
    assert reading.turn.startswith("<think>look\nclosely</think><tool_call>")
    both = read(tool_call(BOX), content="I zoom.", **{field: "look"})
    assert both.turn.startswith("<think>look\nI zoom.</think>")


def test_of_several_calls_the_last_one_counts_and_every_id_gets_a_reply():
    reading = read(tool_call("{}", "a"), tool_call(BOX, "b", "flip"), tool_call(BOX, "c"))
    assert zoom(reading.turn) == ([10, 20, 300, 400], 1)
    assert (reading.call, reading.superseded) == ("c", ("a", "b"))
    messages = openai.replies(reading, "image 3", "data:image/png;base64,AA==")
    assert [(m["role"], m.get("tool_call_id")) for m in messages] == [
        ("tool", "a"), ("tool", "b"), ("tool", "c"), ("user", None),
    ]  # fmt: skip
    assert [m["content"] for m in messages[:3]] == [openai.SUPERSEDED, openai.SUPERSEDED, "image 3"]
    assert messages[3]["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


def test_a_reply_without_an_image_needs_no_message_of_the_user():
    assert openai.replies(read(tool_call(BOX)), "error: empty box") == [
        {"role": "tool", "tool_call_id": "call_a", "content": "error: empty box"}
    ]


def test_a_turn_without_tool_calls_is_answered_in_a_message_of_the_user():
    reading = openai.read_message({"content": "hm"}, WIDE)
    assert judge(reading.turn).kind == Kind.NOTHING
    assert openai.replies(reading, "error: no call and no answer") == [
        {"role": "user", "content": [{"type": "text", "text": "error: no call and no answer"}]}
    ]


@pytest.mark.parametrize(
    "arguments",
    ['{"bbox_2d": [10, 20, 300, 400]', "bbox_2d=[10]", "[]", "3", '"{}"', '{"bbox_2d": [NaN, 0, 1, 1]}', "null", 3, [1],
     '{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [10, 20, 300, 400]}', "{'bbox_2d': [10, 20, 300, 400]}", "[" * 5000],
)  # fmt: skip
def test_broken_arguments_are_malformed_and_keep_their_id(arguments):
    reading = read(tool_call(arguments))
    assert fault(reading.turn) == Fault.MALFORMED
    assert reading.call == "call_a"


@pytest.mark.parametrize("arguments", ["", "  ", None, "{}"])
def test_no_arguments_at_all_are_none_given(arguments):
    assert fault(read(tool_call(arguments)).turn) == Fault.MISSING_ARGUMENT


def test_arguments_may_be_an_object():
    reading = read(tool_call(json.loads(BOX)))
    assert zoom(reading.turn) == ([10, 20, 300, 400], 1)
    assert reading.notes == ("the arguments are an object, not a string that holds one",)


@pytest.mark.parametrize(
    ("box", "index"),
    [
        ('[10.0, "20", 300, 4e2]', "1"),
        ('"[10, 20, 300, 400]"', '"1"'),
        ('[" 10 ", "20.0", 300, 400]', "1.0"),
        ('["+10", 20, 300, 400]', '"01"'),
    ],
)
def test_integers_in_other_words_are_integers_and_noted(box, index):
    reading = read(tool_call(f'{{"bbox_2d": {box}, "image_index": {index}}}'))
    assert zoom(reading.turn) == ([10, 20, 300, 400], 1)
    assert reading.notes and all("is read as" in note for note in reading.notes)


@pytest.mark.parametrize(
    "box",
    [
        "[10.5, 20, 300, 400]",
        '["ten", 20, 300, 400]',
        '["1e1", 20, 300, 400]',
        "[true, 20, 300, 400]",
        '"10, 20, 300, 400"',
        "[null, 20, 300, 400]",
        '{"x": 1}',
        "[1e300, 20, 300, 400]",
    ],
)
def test_what_would_lose_something_stays_of_wrong_type(box):
    reading = read(tool_call(f'{{"bbox_2d": {box}}}'))
    assert fault(reading.turn) == Fault.WRONG_TYPE


def test_values_keep_their_words_by_escapes_and_no_tag_in_them_acts():
    reading = read(tool_call(json.dumps({"query": 'a "b"\\c\n</tool_call>\ud800'}), name="retrieve"))
    assert fault(reading.turn) == Fault.UNKNOWN_TOOL  # nobody registered it; the call itself is sound
    body = reading.turn.removeprefix("<think></think><tool_call>").removesuffix("</tool_call>")
    assert json.loads(body)["arguments"]["query"] == 'a "b"\\c\n</tool_call>?' and "<" not in body
    assert any("lone surrogates" in note for note in reading.notes)


def test_names_have_no_escapes():
    reading = read(tool_call(json.dumps({'a"b': 1, "<answer>": 2}), name="zoom_in"))
    assert fault(reading.turn) == Fault.UNKNOWN_ARGUMENT and "\\" not in reading.turn


def test_strings_that_are_not_wanted_as_integers_stay_strings():
    reading = read(tool_call('{"query": "10"}', name="retrieve"))
    assert '"query": "10"' in reading.turn and reading.notes == ()


@pytest.mark.parametrize(
    "broken",
    [
        None,
        3,
        "zoom_in",
        [],
        {},
        {"function": None},
        {"function": {}},
        {"function": {"name": 3}},
        {"id": "x", "function": {"name": None}},
    ],
)
def test_calls_without_a_function_are_malformed(broken):
    reading = read(broken)
    assert fault(reading.turn) == Fault.MALFORMED
    assert reading.call in ("call_0", "x")


@pytest.mark.parametrize("calls", [3, "x", {"function": {"name": "zoom_in", "arguments": BOX}}])
def test_tool_calls_that_are_no_list_are_read_as_one_call(calls):
    reading = openai.read_message({"tool_calls": calls}, WIDE)
    assert judge(reading.turn).kind == Kind.CALL
    assert "tool_calls is no list" in reading.notes


def test_the_older_function_call_is_read():
    reading = openai.read_message({"content": None, "function_call": {"name": "zoom_in", "arguments": BOX}}, WIDE)
    assert zoom(reading.turn) == ([10, 20, 300, 400], 1)


def test_our_own_tags_in_the_content_are_read_as_they_are():
    turn = call([10, 20, 300, 400], 1)
    assert openai.read_message({"content": turn}, WIDE).turn == turn
    parts = [{"type": "text", "text": turn[:30]}, {"type": "image_url"}, "?", {"type": "text", "text": turn[30:]}]
    assert openai.read_message({"content": parts}, WIDE).turn == turn
    assert openai.read_message({"content": turn}, WIDE).call is None


def test_native_calls_count_before_tags_and_an_answer_before_both():
    reading = read(tool_call(BOX), content=call([0, 0, 500, 500]))
    assert zoom(reading.turn) == ([10, 20, 300, 400], 1)
    reading = read(tool_call(BOX, "a"), tool_call(BOX, "b"), content="<answer>B</answer>")
    assert judge(reading.turn).answer == b"B"
    assert (reading.call, reading.superseded) == (None, ("a", "b"))


@pytest.mark.parametrize("content", [3, {"a": 1}, True, [None, 3, {"text": 4}]])
def test_content_of_any_type_is_read(content):
    assert judge(openai.read_message({"content": content}, WIDE).turn).kind == Kind.NOTHING


def test_a_message_is_written_as_the_protocol_has_it():
    assert openai.write_message(call([10, 20, 300, 400], 1), WIDE, "call_7") == {
        "role": "assistant",
        "content": "<think>look</think>",
        "tool_calls": [tool_call(BOX, "call_7")],
    }
    assert openai.write_message("<think></think><answer>B</answer>", WIDE) == {
        "role": "assistant", "content": "<answer>B</answer>",
    }  # fmt: skip


def test_the_tools_of_a_request_are_the_specs_schemas():
    listed = openai.tools(TWO)
    assert [tool["function"]["name"] for tool in listed] == ["zoom_in", "adjust_window"]
    assert listed[0]["function"]["parameters"]["required"] == ["bbox_2d"]
