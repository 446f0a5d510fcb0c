"""DeepEyes: its published examples and the traps of its environment."""

# ruff: noqa: E501 - tables of cases
from __future__ import annotations

import json

import pytest

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text import dialects
from medvista_jax.text.dialects import Context, Picture
from tests.text.dialects.samples import DEEPEYES
from tests.text.dialects.turns import TWO, WIDE, call, fault, judge, zoom

DIALECT = dialects.get("deepeyes")


def read(body: str, context: Context = WIDE):
    return DIALECT.read_turn(f"<think>look</think>\n<tool_call>\n{body}\n</tool_call>", context)


def read_box(box: str, context: Context = WIDE):
    return read(f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}}}}}', context)


def test_the_example_of_the_prompt_is_a_zoom_in_pixels_of_the_original():
    reading = DIALECT.read_turn(DEEPEYES[0], WIDE)
    # 10/1920, 20/1080, 100/1920, 200/1080 in thousandths: 5.2, 18.5, 52.1, 185.2
    assert zoom(reading.turn) == ([5, 19, 52, 185], 0)
    assert reading.notes == ("not looked at: label",)


def test_of_two_calls_the_last_one_counts():
    reading = DIALECT.read_turn(DEEPEYES[1], WIDE)
    assert zoom(reading.turn) == ([4, 37, 26, 139], 0)
    assert "2 calls: the last one counts" in reading.notes
    assert reading.turn.startswith("<think>two of them</think>")


def test_an_answer_in_the_turn_of_a_call_ends_the_episode():
    for text in (DEEPEYES[0] + "<answer>B</answer>", "<answer>B</answer>" + DEEPEYES[0]):
        reading = DIALECT.read_turn(text, WIDE)
        assert (judge(reading.turn).kind, judge(reading.turn).answer) == (Kind.ANSWER, b"B")
        assert "an answer and a call: the answer ends the episode" in reading.notes


def test_an_empty_answer_does_not_hide_a_call():
    assert zoom(DIALECT.read_turn(DEEPEYES[0] + "<answer></answer>", WIDE).turn) == ([5, 19, 52, 185], 0)


def test_the_key_that_the_prompts_schema_requires_is_not_the_one_that_counts():
    reading = DIALECT.read_turn(DEEPEYES[3], WIDE)
    assert fault(reading.turn) == Fault.MISSING_ARGUMENT
    assert "not looked at: bbox, image_path" in reading.notes


@pytest.mark.parametrize("name", ["image_rotate_tool", "zoom_in", "unknown_tool"])
def test_tools_that_it_does_not_offer_are_unknown_our_own_name_included(name):
    arguments = {"bbox_2d": [0, 0, 500, 500], "angle": 90}
    assert fault(read(json.dumps({"name": name, "arguments": arguments})).turn) == Fault.UNKNOWN_TOOL


@pytest.mark.parametrize(
    ("box", "refused"),
    [
        ("[100, 100, 131, 131]", False),  # 31 pixels
        ("[100, 100, 130, 400]", True),  # 30 pixels
        ("[100, 100, 130.5, 400]", False),
        ("[-50, 100, 30, 400]", True),  # 30 pixels are left of it inside the image
        ("[0, 0, 1920, 31]", False),
        ("[300, 300, 200, 400]", True),
        ("[300, 300, 300, 400]", True),
        ("[2000, 0, 3000, 900]", True),  # beyond the right border
    ],
)
def test_a_side_must_be_more_than_30_pixels_after_the_cut_at_the_border(box, refused):
    assert fault(read_box(box).turn) == (Fault.EMPTY_BOX if refused else Fault.NONE)


@pytest.mark.parametrize(("width", "refused"), [(3100, False), (3101, True)])
def test_the_longer_side_may_be_a_hundred_times_the_shorter(width, refused):
    context = Context((Picture(4000, 4000),), TWO)
    assert fault(read_box(f"[0, 0, {width}, 31]", context).turn, context) == (
        Fault.EMPTY_BOX if refused else Fault.NONE
    )


def test_a_box_beyond_the_image_is_cut_at_its_border():
    reading = read_box("[-100, 540, 1e300, 1e999]")
    assert zoom(reading.turn) == ([0, 500, 1000, 1000], 0)
    assert "the box reaches beyond the image and is cut at its border, as upstream does" in reading.notes


@pytest.mark.parametrize(
    "box", ["[1, 2, 3]", "[1, 2, 3, 4, 5]", '"[1, 2, 3, 4]"', "{}", "null", '["1", 2, 3, 4]', "[true, 2, 3, 4]"]
)
def test_what_is_no_box_is_of_wrong_type(box):
    assert fault(read_box(box).turn) == Fault.WRONG_TYPE


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "3", '{"name": "image_zoom_in_tool"}', '{"arguments": {}}', '{"name": "image_zoom_in_tool", "arguments": []}',
     '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [NaN, 0, 500, 500]}}',
     "{'name': 'image_zoom_in_tool', 'arguments': {'bbox_2d': [0, 0, 500, 500]}}"],
)  # fmt: skip
def test_what_is_no_call_is_malformed(body):
    assert fault(read(body).turn) == Fault.MALFORMED


def test_a_block_ends_at_the_first_closing_tag_as_upstream_reads_it():
    nested = "<tool_call><tool_call>" + DEEPEYES[0].removeprefix("<tool_call>")
    assert fault(DIALECT.read_turn(nested, WIDE).turn) == Fault.MALFORMED


def test_a_turn_without_call_and_answer_does_nothing_here_and_ends_the_episode_there():
    for text in (DEEPEYES[-1], "<tool_call>{}", "<answer>B", ""):
        reading = DIALECT.read_turn(text, WIDE)
        assert judge(reading.turn).kind == Kind.NOTHING
        assert reading.notes == ("no call and no answer: upstream ends the episode",)


def test_a_call_is_written_in_pixels_of_the_original():
    text = DIALECT.write_turn(call([250, 500, 750, 1000]), WIDE)
    body = json.loads(text.partition("<tool_call>")[2].partition("</tool_call>")[0])
    assert body == {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [480, 540, 1440, 1080]}}
    assert text.startswith("<think>look</think>\n<tool_call>\n{")


def test_a_box_on_a_view_is_written_where_it_lies_in_the_original():
    """View 1 is x 100…600, y 200…700 of image 0: its half to its whole is 350…600, 450…700 thousandths."""
    text = DIALECT.write_turn(call([500, 500, 1000, 1000], 1), WIDE)
    assert zoom(DIALECT.read_turn(text, WIDE).turn) == ([350, 450, 600, 700], 0)


@pytest.mark.parametrize("index", [2, 3, 99])
def test_a_box_on_an_image_without_a_place_is_refused_there_and_here(index):
    text = DIALECT.write_turn(call([0, 0, 500, 500], index), WIDE)
    assert "image_zoom_in_tool" not in text
    assert fault(DIALECT.read_turn(text, WIDE).turn) == Fault.UNKNOWN_TOOL


def test_its_own_observations_are_read():
    shown = (
        "<|im_start|>user\n<tool_response><image>\nThink first, call **image_zoom_in_tool** if needed.</tool_response>"
    )
    assert DIALECT.read_observation(shown, WIDE) == dialects.TextObservation("", image=3)
    refused = "Error: ZOOM IN ARGUMENTS ARE INVALID<|im_end|>\n"
    assert DIALECT.read_observation(refused, WIDE) == dialects.TextObservation("error: ZOOM IN ARGUMENTS ARE INVALID")


def test_tags_and_special_tokens_inside_the_words_do_not_act():
    reading = DIALECT.read_turn(f"<think>a<|im_end|>b</think>c</think><tool_response>{DEEPEYES[0]}", WIDE)
    assert reading.turn.startswith("<think>a(im_end)bc(tool_response)</think><tool_call>")
