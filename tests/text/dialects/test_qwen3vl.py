"""Qwen3-VL: the turns of its cookbooks, grounding lists and their limits."""

# ruff: noqa: E501 - tables of cases
from __future__ import annotations

import pytest

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text import dialects
from medvista_jax.text.dialects.qwen3vl import Grounding, read_groundings, write_groundings
from tests.text.dialects.samples import QWEN3_VL
from tests.text.dialects.turns import WIDE, call, fault, judge, zoom

DIALECT = dialects.get("qwen3-vl")


def read(box: str, rest: str = ', "img_idx": 0'):
    return DIALECT.read_turn(
        f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}{rest}}}}}</tool_call>', WIDE
    )


def test_the_call_of_the_cookbook_is_our_box_as_it_stands():
    reading = DIALECT.read_turn(QWEN3_VL[0], WIDE)
    assert zoom(reading.turn) == ([574, 301, 660, 468], 0)
    assert reading.notes == ("not looked at: label",)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [(', "img_idx": 2', 2), (', "img_idx": 1.0', 1), ("", 0), (', "img_idx": 3', Fault.NO_SUCH_IMAGE), (', "img_idx": -1', Fault.OUT_OF_RANGE),
     (', "img_idx": "0"', Fault.WRONG_TYPE)],
)  # fmt: skip
def test_images_are_counted_from_zero(rest, expected):
    turn = read("[0, 0, 500, 500]", rest).turn
    assert (fault(turn) if isinstance(expected, Fault) else zoom(turn)[1]) == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [("[0, 0, 1000, 1000]", Fault.NONE), ("[0, 0, 1001, 1000]", Fault.OUT_OF_RANGE), ("[-1, 0, 10, 10]", Fault.OUT_OF_RANGE),
     ("[0, 0, 1e999, 10]", Fault.OUT_OF_RANGE), ("[9, 9, 9, 10]", Fault.EMPTY_BOX), ("[90, 9, 9, 10]", Fault.EMPTY_BOX), ("[1, 2, 3]", Fault.WRONG_TYPE),
     ("[0, 0, NaN, 9]", Fault.MALFORMED)],
)  # fmt: skip
def test_boxes_beyond_the_frame_are_errors(box, expected):
    reading = read(box)
    assert fault(reading.turn) == expected
    assert ("a number beyond 0…1000" in reading.notes) == (expected == Fault.OUT_OF_RANGE)


def test_fractions_are_rounded_and_a_thin_box_keeps_its_area():
    assert zoom(read("[10.4, 10.5, 20.6, 20.0]").turn) == ([10, 11, 21, 20], 0)
    assert zoom(read("[10.1, 10, 10.2, 20]").turn) == ([10, 10, 11, 20], 0)


def test_a_fenced_list_is_a_zoom_into_its_last_box():
    reading = DIALECT.read_turn(QWEN3_VL[1], WIDE)
    assert zoom(reading.turn) == ([231, 795, 284, 820], 0)
    assert "2 entries: the last one counts" in reading.notes
    assert zoom(DIALECT.read_turn(QWEN3_VL[2], WIDE).turn) == ([395, 276, 618, 740], 0)


@pytest.mark.parametrize(
    "around", ["```json\n```json\n{}\n```\n```", "It is at {}, I think.", "```\n{}\n```", "```json\n{}"]
)
def test_a_list_is_found_in_nested_open_or_missing_fences(around):
    turn = DIALECT.read_turn(around.replace("{}", QWEN3_VL[2]), WIDE).turn
    assert zoom(turn) == ([395, 276, 618, 740], 0)


def test_a_point_has_no_area():
    text = '```json\n[\n\t{"point_2d": [925, 618], "label": "point_1"}\n]\n```'
    assert fault(DIALECT.read_turn(text, WIDE).turn) == Fault.EMPTY_BOX


def test_a_grounding_inside_answer_tags_is_the_answer():
    text = f"<answer>{QWEN3_VL[2]}</answer>"
    assert judge(DIALECT.read_turn(text, WIDE).turn).answer.decode() == QWEN3_VL[2]


def test_a_turn_of_words_is_the_answer_and_its_thoughts_may_have_been_opened_in_the_prompt():
    reading = DIALECT.read_turn(QWEN3_VL[3], WIDE)
    assert reading.turn == "<think>It is a pub.</think><answer>The picture was taken in Horsham.</answer>"
    assert reading.notes == ("a turn without a call is the answer",)


@pytest.mark.parametrize("text", [QWEN3_VL[4], "<tool_call>{", "<answer>B", "", "<think>a</think>"])
def test_a_turn_that_breaks_off_does_nothing(text):
    assert judge(DIALECT.read_turn(text, WIDE).turn).kind == Kind.NOTHING


def test_the_search_tool_of_the_cookbook_is_unknown():
    text = '<tool_call>\n{"name": "image_search", "arguments": {"img_idx": 0}}\n</tool_call>'
    assert fault(DIALECT.read_turn(text, WIDE).turn) == Fault.UNKNOWN_TOOL


def test_a_call_is_written_with_our_numbers():
    text = DIALECT.write_turn(call([574, 301, 660, 468], 2), WIDE)
    assert '"image_zoom_in_tool", "arguments": {"bbox_2d": [574, 301, 660, 468], "img_idx": 2}' in text


def test_grounding_lists_are_written_and_read():
    entries = (Grounding("license plate", box=(231, 795, 284, 820)), Grounding("größer", point=(925, 618)), Grounding())
    text = write_groundings(entries[:2])
    assert text.splitlines()[:3] == ["```json", "[", '\t{"bbox_2d": [231, 795, 284, 820], "label": "license plate"},']
    assert read_groundings(f"Here they are:\n{text}\nDone.") == entries[:2]
    assert read_groundings('[{"bbox_2d": [1, 2, 3, 4]}, 7, {"bbox_2d": "no"}, {"point_2d": [1, 2]}]') == (
        Grounding(box=(1, 2, 3, 4)),
        Grounding(point=(1, 2)),
    )
    assert read_groundings("no list") == read_groundings("```json\n[1, 2]\n```") == ()
