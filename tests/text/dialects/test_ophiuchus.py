"""Ophiuchus: its published training turns, its prompt's forms, and the traps of its released environment."""

# ruff: noqa: E501 - tables of cases
from __future__ import annotations

import pytest

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text import dialects
from medvista_jax.text.dialects.ophiuchus import Ophiuchus
from tests.text.dialects.samples import OPHIUCHUS
from tests.text.dialects.turns import WIDE, call, fault, judge, zoom

DIALECT = dialects.get("ophiuchus")


def read(json_text: str, name: str = "Zoom-in", dialect=DIALECT):
    return dialect.read_turn(f"<think> look </think> Action: {name}\n```json\n{json_text}\n```", WIDE)


def test_the_published_training_turn_is_a_zoom_in_the_frame_of_512():
    reading = DIALECT.read_turn(OPHIUCHUS[0], WIDE)
    # 200, 221, 210, 232 of 512 in thousandths: 390.6, 431.6, 410.2, 453.1
    assert zoom(reading.turn) == ([391, 432, 410, 453], 1)
    assert reading.notes == ("Action: <tool_call>…: the released environment does not recognise its training format",)
    assert "<think> The BiomedParse output highlights a region. </think>" in reading.turn


def test_the_form_of_the_prompt_with_its_comment_is_read():
    assert zoom(DIALECT.read_turn(OPHIUCHUS[2], WIDE).turn) == ([250, 125, 500, 1000], 0)


def test_a_hash_inside_a_string_is_no_comment():
    reading = read('[{"index": 1, "bbox_2d": [0, 0, 256, 256], "why": "see #3 // there"}]')
    assert zoom(reading.turn) == ([0, 0, 500, 500], 0)


@pytest.mark.parametrize("sample", [1, 3])
def test_the_segmenters_are_unknown_tools_that_keep_their_arguments(sample):
    turn = DIALECT.read_turn(OPHIUCHUS[sample], WIDE).turn
    assert fault(turn) == Fault.UNKNOWN_TOOL
    assert '"index": 1' in turn


def test_the_frame_is_512_whatever_the_image_unless_it_is_the_images_own():
    body = '[{"index": 3, "bbox_2d": [0, 0, 512, 512]}]'
    assert zoom(read(body).turn) == ([0, 0, 1000, 1000], 2)
    assert zoom(read(body, dialect=Ophiuchus(frame=None)).turn) == ([0, 0, 341, 512], 2)
    beyond = read('[{"index": 1, "bbox_2d": [256, 0, 900, 900]}]')
    assert zoom(beyond.turn) == ([500, 0, 1000, 1000], 0)
    assert "the box reaches beyond the image and is cut at its border, as upstream does" in beyond.notes


@pytest.mark.parametrize(
    ("index", "expected"),
    [("1", 0), ("2.0", 1), ('"3"', 2), ("0", Fault.OUT_OF_RANGE), ("-1", Fault.OUT_OF_RANGE), ("4", Fault.NO_SUCH_IMAGE),
     ('"one"', Fault.WRONG_TYPE), ("null", Fault.WRONG_TYPE), ("[]", Fault.WRONG_TYPE)],
)  # fmt: skip
def test_images_are_counted_from_one(index, expected):
    turn = read(f'[{{"index": {index}, "bbox_2d": [0, 0, 256, 256]}}]').turn
    if isinstance(expected, Fault):
        assert fault(turn) == expected
    else:
        assert zoom(turn) == ([0, 0, 500, 500], expected)


def test_a_missing_index_is_the_first_image():
    assert zoom(read('{"bbox_2d": [0, 0, 256, 256]}').turn) == ([0, 0, 500, 500], 0)


def test_of_several_entries_the_last_one_counts():
    reading = read('[{"index": 1, "bbox_2d": [0, 0, 9, 9]}, {"index": 2, "bbox_2d": [0, 0, 256, 256]}]')
    assert zoom(reading.turn) == ([0, 0, 500, 500], 1)
    assert "2 entries: the last one counts; upstream carries out all" in reading.notes


@pytest.mark.parametrize(
    ("body", "expected"),
    [("[]", Fault.MALFORMED), ("nothing", Fault.MALFORMED), ("[3]", Fault.MALFORMED), ('[{"index": 1}]', Fault.MISSING_ARGUMENT),
     ('[{"bbox_2d": [1, 2, 3]}]', Fault.WRONG_TYPE), ('[{"bbox_2d": "1 2 3 4"}]', Fault.WRONG_TYPE), ('[{"bbox_2d": [9, 9, 9, 9]}]', Fault.EMPTY_BOX),
     ('[{"bbox_2d": [90, 9, 9, 99]}]', Fault.EMPTY_BOX), ('[{"bbox_2d": [9.2, 9, 9.9, 99]}]', Fault.EMPTY_BOX), ('[{"bbox_2d": [NaN, 0, 9, 9]}]', Fault.MALFORMED)],
)  # fmt: skip
def test_faulty_actions_are_errors(body, expected):
    assert fault(read(body).turn) == expected


@pytest.mark.parametrize(
    "behind", ["", "\n```json\n```json\n[{}]\n```\n```", "\n```json\n[{", "\n```\n[{}]\n```", "\n```json\n```"]
)
def test_an_action_without_readable_json_is_malformed_where_upstream_says_nothing(behind):
    assert fault(DIALECT.read_turn(f"<think>a</think> Action: Zoom-in{behind}", WIDE).turn) == Fault.MALFORMED


@pytest.mark.parametrize("name", ["zoom-in", "Zoom-In", "zoom_in", "Rotate"])
def test_names_that_are_not_offered_are_unknown(name):
    assert fault(read('{"index": 1, "bbox_2d": [0, 0, 256, 256]}', name).turn) == Fault.UNKNOWN_TOOL


def test_the_published_answer_is_read():
    reading = DIALECT.read_turn(OPHIUCHUS[4], WIDE)
    assert reading.turn == "<think> The zoomed-in image shows an irregular shape. </think><answer>C</answer>"


def test_the_article_a_is_no_answer():
    reading = DIALECT.read_turn(OPHIUCHUS[5], WIDE)
    assert judge(reading.turn).kind == Kind.NOTHING
    assert "upstream reads the word 'a' as the answer A" in reading.notes


def test_an_answer_of_words_is_kept_whole_where_upstream_reads_a_letter():
    reading = DIALECT.read_turn("<think>so</think> Action: Answer\nAnswer: the liver", WIDE)
    assert judge(reading.turn).answer == b"the liver"
    assert "an answer without tags, of which upstream reads the first letter" in reading.notes


def test_an_action_wins_over_an_answer_in_the_same_turn():
    text = OPHIUCHUS[2] + "\n<answer>B</answer>"
    reading = DIALECT.read_turn(text, WIDE)
    assert zoom(reading.turn)[1] == 0
    assert "an answer and an action: the action counts" in reading.notes


def test_the_word_action_inside_the_thoughts_is_no_action():
    text = OPHIUCHUS[2].replace("<think> closer", "<think> Next Action: look closer")
    assert zoom(DIALECT.read_turn(text, WIDE).turn) == ([250, 125, 500, 1000], 0)


def test_a_call_is_written_in_the_form_of_the_prompt():
    text = DIALECT.write_turn(call([250, 125, 500, 1000], 2), WIDE)
    assert text == '<think>look</think> Action: Zoom-in\n```json\n[{"index": 3, "bbox_2d": [128, 64, 256, 512]}]\n```'


@pytest.mark.parametrize(
    "turn", [call([0, 0, 500, 500], 7), call([9, 9, 9, 9]), "<tool_call># a ```json [1]```</tool_call>"]
)
def test_a_call_that_our_gym_refuses_is_one_that_upstream_refuses(turn):
    """Its own action without a box, or with an image that is not there: neither is searched for a letter."""
    text = DIALECT.write_turn(turn, WIDE)
    assert " Action: Zoom-in\n```json\n[{" in text and text.count("```") == 2
    assert fault(DIALECT.read_turn(text, WIDE).turn) in (Fault.MISSING_ARGUMENT, Fault.NO_SUCH_IMAGE)


@pytest.mark.parametrize("box", [[0, 0, 1, 1], [999, 999, 1000, 1000], [500, 0, 501, 1000]])
def test_a_box_thinner_than_a_pixel_is_written_as_one(box):
    assert fault(DIALECT.read_turn(DIALECT.write_turn(call(box), WIDE), WIDE).turn) == Fault.NONE


def test_its_own_observations_are_read():
    shown = (
        "<image>\nThe index of the given image is 3 (width: 192, height: 192). Continue your reasoning. After each tool"
    )
    assert DIALECT.read_observation(shown, WIDE) == dialects.TextObservation("", image=2, size=(192, 192))
    failed = "!!(Warning) tool call failed: tool=Zoom-in, input={'index': 9}, error=IndexError: Image index 9 is out"
    assert DIALECT.read_observation(failed, WIDE).text == "error: Image index 9 is out"
