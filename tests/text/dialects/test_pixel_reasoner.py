"""Pixel-Reasoner: its published examples and the traps of its environment."""

# ruff: noqa: E501 - tables of cases
from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text import dialects
from tests.text.dialects.samples import PIXEL_REASONER
from tests.text.dialects.turns import WIDE, boxes, call, fault, judge, square, zoom

DIALECT = dialects.get("pixel-reasoner")
PADDED = "upstream adds a tenth of the image on every side of the box"
PIXELS = "a number of 1 or more: the whole box is read as pixels"


def read(arguments: dict | str, context=WIDE, name="crop_image_normalized"):
    said = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return DIALECT.read_turn(f'look\n\n<tool_call>\n{{"name": "{name}", "arguments": {said}}}\n</tool_call>', context)


def test_the_published_turn_is_a_zoom_in_parts_of_one():
    reading = DIALECT.read_turn(PIXEL_REASONER[0], WIDE)
    assert zoom(reading.turn) == ([100, 200, 300, 400], 0)
    assert reading.notes == (PADDED,)
    assert reading.turn.startswith("<think>To identify the animal on the sign, I will")


def test_the_whole_image_in_parts_of_one_is_one_pixel():
    reading = read({"bbox_2d": [0, 0, 1, 1], "target_image": 1}, square(1000))
    assert zoom(reading.turn) == ([0, 0, 1, 1], 0)
    assert PIXELS in reading.notes


def test_one_number_of_one_or_more_makes_pixels_of_all_four():
    reading = read({"bbox_2d": [0.5, 0, 960, 540], "target_image": 1})
    assert zoom(reading.turn) == ([0, 0, 500, 500], 0)
    assert PIXELS in reading.notes


def test_images_are_counted_from_one_and_the_newest_can_be_cut():
    assert zoom(read({"bbox_2d": [0.1, 0.1, 0.5, 0.5], "target_image": 3}).turn) == ([100, 100, 500, 500], 2)
    assert zoom(read({"bbox_2d": [0.1, 0.1, 0.5, 0.5], "target_image": 2.0}).turn) == ([100, 100, 500, 500], 1)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0, Fault.OUT_OF_RANGE), (-1, Fault.OUT_OF_RANGE), (4, Fault.NO_SUCH_IMAGE), (10**30, Fault.OUT_OF_RANGE),
     ("1", Fault.WRONG_TYPE), (1.5, Fault.WRONG_TYPE), (None, Fault.WRONG_TYPE), (True, Fault.WRONG_TYPE)],
)  # fmt: skip
def test_images_that_are_not_there_are_errors_the_last_one_under_index_0_included(target, expected):
    assert fault(read({"bbox_2d": [0.1, 0.1, 0.5, 0.5], "target_image": target}).turn) == expected


@pytest.mark.parametrize("missing", ["bbox_2d", "target_image"])
def test_both_arguments_must_be_there(missing):
    arguments = {"bbox_2d": [0.1, 0.1, 0.5, 0.5], "target_image": 1}
    del arguments[missing]
    assert fault(read(arguments).turn) == Fault.MISSING_ARGUMENT


def test_frames_of_a_video_cannot_be_selected_from_an_image():
    reading = DIALECT.read_turn(PIXEL_REASONER[2], WIDE)
    assert fault(reading.turn) == Fault.UNKNOWN_TOOL
    assert '"target_frames": [1, 2, 3]' in reading.turn


@pytest.mark.parametrize(("right", "refused"), [(14, True), (15, False)])
def test_a_cut_of_exactly_28_pixels_is_refused(right, refused):
    """On 140 pixels the margin is 14: a box from 0 to 14 is cut from 0 to 28."""
    context = square(140)
    turn = read({"bbox_2d": [0, 0, right, 140], "target_image": 1}, context).turn
    assert fault(turn, context) == (Fault.EMPTY_BOX if refused else Fault.NONE)


@settings(max_examples=100, deadline=None)
@given(boxes())
def test_from_280_pixels_on_no_box_is_too_small(box):
    context = square(280)
    assert DIALECT.read_turn(DIALECT.write_turn(call(box), context), context).turn == call(box)


@pytest.mark.parametrize(
    ("box", "refused"), [([0.5, 0.5, 0.51, 0.51], True), ([0.2, 0.2, 0.6, 0.6], False), ([0.6, 0.2, 0.5, 0.6], True)]
)
def test_a_cut_of_28_pixels_or_less_is_refused_with_upstreams_margin_counted(box, refused):
    """On 100 pixels a box of 1 pixel is cut with 10 more on either side: 21 pixels."""
    context = square(100)
    expected = Fault.EMPTY_BOX if refused else Fault.NONE
    assert fault(read({"bbox_2d": box, "target_image": 1}, context).turn, context) == expected


def test_a_call_counts_only_at_the_end_of_the_turn():
    text = PIXEL_REASONER[0] + " and so on"
    reading = DIALECT.read_turn(text, WIDE)
    assert judge(reading.turn).kind == Kind.NOTHING
    assert "a call that does not end the turn: upstream ends the episode" in reading.notes
    assert zoom(DIALECT.read_turn(PIXEL_REASONER[0] + "<|im_end|>", WIDE).turn) == ([100, 200, 300, 400], 0)


def test_a_call_at_the_end_wins_over_an_answer_before_it():
    reading = DIALECT.read_turn("\\boxed{B} " + PIXEL_REASONER[0], WIDE)
    assert zoom(reading.turn) == ([100, 200, 300, 400], 0)
    assert "an answer and a call: the call counts" in reading.notes


def test_a_call_that_was_never_opened_is_malformed():
    reading = DIALECT.read_turn('{"name": "crop_image_normalized"}</tool_call>', WIDE)
    assert fault(reading.turn) == Fault.MALFORMED


@pytest.mark.parametrize(
    ("text", "answer"),
    [("It is \\boxed{B}", b"B"), ("\\boxed{A} no, \\boxed{C}.", b"C"), (PIXEL_REASONER[4], b"\\frac{1}{2}"),
     ("\\boxed{\\text{left kidney}}", b"\\text{left kidney}"), ("\\boxed{B", None), ("B", None), ("\\boxed{A} \\boxed{", b"A")],
)  # fmt: skip
def test_the_last_box_is_the_answer(text, answer):
    parsed = judge(DIALECT.read_turn(text, WIDE).turn)
    assert parsed.kind == (Kind.NOTHING if answer is None else Kind.ANSWER)
    assert parsed.answer == (answer or b"")


def test_a_box_at_the_border_is_written_below_one_so_that_it_stays_in_parts():
    text = DIALECT.write_turn(call([0, 0, 1000, 1000], 1), WIDE)
    assert '{"bbox_2d": [0.0, 0.0, 0.9999, 0.9999], "target_image": 2}' in text
    assert text.startswith("look\n\n<tool_call>") and text.endswith("</tool_call>")
    assert zoom(DIALECT.read_turn(text, WIDE).turn) == ([0, 0, 1000, 1000], 1)


def test_an_answer_with_braces_that_do_not_balance_is_still_one_answer():
    text = DIALECT.write_turn("<think>so</think><answer>{x</answer>", WIDE)
    assert judge(DIALECT.read_turn(text, WIDE).turn).answer == b"(x"


def test_its_own_observations_are_read():
    shown = "\nHere is the cropped image (Image Size: 644x476):<image>"
    assert DIALECT.read_observation(shown, WIDE) == dialects.TextObservation("", image=3, size=(644, 476))
    failed = "\nExecution error:\nCropped image is too small: 20x400\n"
    assert DIALECT.read_observation(failed, WIDE).text == "error: Cropped image is too small: 20x400"
