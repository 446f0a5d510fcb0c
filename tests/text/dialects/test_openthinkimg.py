"""OpenThinkIMG: its published examples and the traps of its inferencer and tools."""

# ruff: noqa: E501 - tables of cases
from __future__ import annotations

import json

import pytest

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.types import Fault, Kind
from medvista_jax.text import dialects
from medvista_jax.text.dialects import Context, Picture
from tests.text.dialects.samples import OPENTHINKIMG
from tests.text.dialects.turns import TWO, WIDE, call, fault, judge, square, zoom

DIALECT = dialects.get("openthinkimg")


def read(action: object, context: Context = WIDE):
    return DIALECT.read_turn(json.dumps({"thought": "look", "actions": [action]}), context)


def crop(param: object, image: object = "img_1", name: str = "crop", context: Context = WIDE):
    return read({"name": name, "arguments": {"image": image, "param": param}}, context)


def test_a_crop_has_whole_pixels_in_a_string():
    reading = DIALECT.read_turn(OPENTHINKIMG[4], square(1000))
    assert zoom(reading.turn, square(1000)) == ([0, 308, 858, 718], 0)
    assert reading.turn.startswith("<think>closer</think>")


@pytest.mark.parametrize(
    "param", ['x1="10" y1="20.5" x2="50" y2="60"', "x1=10 y1=20.5 x2=50 y2=60", 'x2="50" y2="60" x1="10" y1="20.5"']
)
def test_percentages_of_two_corners_are_a_box(param):
    for name in ("crop", "Crop", "ZoomInSubfigure"):
        assert zoom(crop(param, name=name).turn) == ([100, 205, 500, 600], 0)


def test_a_subfigure_named_by_its_title_needs_a_model_that_finds_it():
    reading = DIALECT.read_turn(OPENTHINKIMG[3], WIDE)
    assert fault(reading.turn) == Fault.WRONG_TYPE
    assert "Downstream vs. Concept: Toy" in reading.turn


@pytest.mark.parametrize(
    ("param", "expected"),
    [("[1, 2, 3]", Fault.WRONG_TYPE), ("[-1, 2, 30, 40]", Fault.WRONG_TYPE), ([1, 2, 30, 40], Fault.WRONG_TYPE), (None, Fault.WRONG_TYPE),
     ("[9, 9, 9, 90]", Fault.EMPTY_BOX), ('x1="50" y1="1" x2="5" y2="9"', Fault.EMPTY_BOX), ('x1="5" y1="1" x2="500" y2="9"', Fault.OUT_OF_RANGE), ('x1="5" y1="1" x2="100.01" y2="9"', Fault.OUT_OF_RANGE), ('x1="5" y1="1" x2="100" y2="9"', Fault.NONE),
     ('x="5" y="1"', Fault.WRONG_TYPE)],
)  # fmt: skip
def test_faulty_params_are_errors(param, expected):
    assert fault(crop(param).turn) == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [("img_1", 0), ("img_3", 2), ("image-2", 1), ("image-0", 0), ("img", 0), ("img_4", Fault.NO_SUCH_IMAGE), ("img_0", Fault.OUT_OF_RANGE),
     ("", Fault.WRONG_TYPE), (1, Fault.WRONG_TYPE), (["img_1"], Fault.WRONG_TYPE), ({"a": 1}, Fault.WRONG_TYPE)],
)  # fmt: skip
def test_images_are_named_from_one(image, expected):
    turn = crop("[0, 0, 600, 500]", image).turn
    assert (fault(turn) if isinstance(expected, Fault) else zoom(turn)[1]) == expected


def test_upstream_takes_the_newest_image_whatever_the_turn_names():
    assert "img_1 is not the newest image, which upstream would take" in crop("[0, 0, 600, 500]").notes
    reading = read({"name": "crop", "arguments": {"param": "[0, 0, 600, 500]"}})
    assert zoom(reading.turn)[1] == 2
    assert "no image is named: the newest, as upstream does" in reading.notes


@pytest.mark.parametrize("sample", [0, 1, 2])
def test_tools_that_nobody_registered_are_unknown(sample):
    assert fault(DIALECT.read_turn(OPENTHINKIMG[sample], WIDE).turn) == Fault.UNKNOWN_TOOL


def test_a_registered_tool_of_the_same_name_is_called_with_its_own_arguments():
    ocr = ToolSpec("ocr", "Reads text.", (Argument("image_index", "image", "integer", 0, 9),))
    segment = ToolSpec(
        "segment_region", "Outlines.", (Argument("image_index", "i", default=0), Argument("box", "b", "box"))
    )
    context = Context((Picture(1000, 1000),) * 2, (*TWO, ocr, segment), 2)
    turn = read({"name": "OCR", "arguments": {"image": "img_2"}}, context).turn
    assert (judge(turn, context).tool, judge(turn, context).arguments) == (2, (1,))
    action = {"name": "SegmentRegion", "arguments": {"image": "img_2", "param": 'x1="1" y1="2" x2="30" y2="40"'}}
    turn = read(action, context).turn
    assert (judge(turn, context).tool, judge(turn, context).arguments) == (3, (1, 10, 20, 300, 400))


def test_our_name_of_the_zoom_is_unknown():
    assert fault(read({"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500]}}).turn) == Fault.UNKNOWN_TOOL


@pytest.mark.parametrize("sample", [5, 6])
def test_terminate_answers_under_either_key_of_the_examples(sample):
    reading = DIALECT.read_turn(OPENTHINKIMG[sample], WIDE)
    assert judge(reading.turn).answer == (b"Year 3", b"Top Cluster")[sample - 5]
    assert len(reading.notes) == (1, 0)[sample - 5]


def test_terminate_with_a_number_answers_with_its_digits():
    assert judge(read({"name": "Terminate", "arguments": {"ans": 1985}}).turn).answer == b"1985"


def test_terminate_without_an_answer_is_malformed():
    assert fault(read({"name": "Terminate", "arguments": {}}).turn) == Fault.MALFORMED


def test_the_word_terminate_in_the_thought_does_not_end_the_episode_here():
    text = OPENTHINKIMG[4].replace("closer", "then I can Terminate")
    reading = DIALECT.read_turn(text, WIDE)
    assert judge(reading.turn).kind == Kind.CALL
    assert "the word Terminate outside of the first action: upstream's training ends the episode" in reading.notes


def test_of_several_actions_the_first_one_counts():
    first, second = (json.loads(OPENTHINKIMG[n])["actions"][0] for n in (4, 6))
    reading = DIALECT.read_turn(json.dumps({"thought": "", "actions": [first, second]}), WIDE)
    assert judge(reading.turn).kind == Kind.CALL
    assert "2 actions: the first one counts" in reading.notes


def test_an_empty_list_of_actions_does_nothing():
    reading = DIALECT.read_turn(OPENTHINKIMG[7], WIDE)
    assert judge(reading.turn).kind == Kind.NOTHING
    assert reading.turn == "<think>nothing to do</think>"


def test_the_json_may_stand_in_a_fence_or_between_words():
    for text in (f"```json\n{OPENTHINKIMG[4]}\n```", f"I think: {OPENTHINKIMG[4]} so."):
        reading = DIALECT.read_turn(text, square(1000))
        assert zoom(reading.turn, square(1000)) == ([0, 308, 858, 718], 0)
        assert "text around the JSON object" in reading.notes


def test_actions_are_found_in_the_form_of_the_prompt_that_is_no_json():
    """One brace too many, as in one of the prompt's examples."""
    reading = DIALECT.read_turn(OPENTHINKIMG[4].replace("}]}", "}}]}").replace("}}}]", "}}]") + "}", square(1000))
    assert zoom(reading.turn, square(1000)) == ([0, 308, 858, 718], 0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"thought": "a", "actions": [{"name": "crop"',
        '{"actions": 3}',
        '{"actions": [3]}',
        '{"actions": [{"name": "crop"}]}',
    ],
)
def test_json_that_breaks_is_malformed(text):
    assert fault(DIALECT.read_turn(text, WIDE).turn) == Fault.MALFORMED


def test_words_alone_do_nothing():
    assert judge(DIALECT.read_turn("I am thinking.", WIDE).turn).kind == Kind.NOTHING


def test_a_call_is_written_as_the_crop_tool_reads_it():
    text = DIALECT.write_turn(call([250, 125, 500, 1000], 2), WIDE)
    assert json.loads(text) == {
        "thought": "look",
        "actions": [{"name": "crop", "arguments": {"image": "img_3", "param": "[375, 125, 750, 1000]"}}],
    }


def test_its_own_observations_are_read():
    said = 'OBSERVATION:\nPoint model outputs: <point x="10.1" y="12.6">x</point>\nPlease summarize the model outputs'
    assert DIALECT.read_observation(said, WIDE).text == '<point x="10.1" y="12.6">x</point>'
    shown = (
        "<image>OBSERVATION:\ncrop model outputs: Image cropped successfully.\nPlease summarize the model outputs and"
    )
    assert DIALECT.read_observation(shown, WIDE) == dialects.TextObservation("", image=3)
    failed = "OBSERVATION:\nzoom model outputs: There is no tool names zoom.\n"
    assert DIALECT.read_observation(failed, WIDE).text == "error: There is no tool names zoom."
