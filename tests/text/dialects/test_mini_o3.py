"""Mini-o3: its published examples and the traps of its environment."""

# ruff: noqa: E501 - tables of cases
from __future__ import annotations

import pytest

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text import dialects
from medvista_jax.text.dialects import Context, Picture
from tests.text.dialects.samples import MINI_O3
from tests.text.dialects.turns import TWO, WIDE, call, fault, judge, zoom

DIALECT = dialects.get("mini-o3")


def read(body: str, context: Context = WIDE):
    return DIALECT.read_turn(f"<think>look</think> <grounding>{body}</grounding>", context)


def read_source(source: str, context: Context = WIDE):
    return read(f'{{"bbox_2d": [0.1, 0.2, 0.5, 0.6], "source": {source}}}', context)


def test_the_form_of_the_prompt_is_a_zoom_in_parts_of_the_original():
    reading = DIALECT.read_turn(MINI_O3[0], WIDE)
    assert zoom(reading.turn) == ([100, 200, 500, 600], 0)
    assert reading.notes == ()


def test_a_crop_of_a_crop_names_the_observation():
    assert zoom(DIALECT.read_turn(MINI_O3[1], WIDE).turn) == ([250, 250, 750, 750], 1)


def test_the_published_grounding_without_a_source_is_refused_as_upstream_refuses_it():
    assert fault(DIALECT.read_turn(MINI_O3[2], WIDE).turn) == Fault.MISSING_ARGUMENT


def test_pixels_in_the_place_of_parts_cover_nothing():
    assert fault(read('{"bbox_2d": [2761, 715, 3160, 896], "source": "original_image"}').turn) == Fault.EMPTY_BOX


@pytest.mark.parametrize(
    ("source", "expected"),
    [('"original_image"', 0), ('"observation_1"', 1), ('"observation_2"', 2), ('"observation_0"', 0), ('"observation_2nd"', 2),
     ('"observation_3"', Fault.NO_SUCH_IMAGE), ('"observation_"', Fault.WRONG_TYPE), ('"observation_-1"', Fault.WRONG_TYPE),
     ('"original"', Fault.WRONG_TYPE), ("1", Fault.WRONG_TYPE), ('"observation_' + "9" * 5000 + '"', Fault.WRONG_TYPE),
     ("'original_image'", 0), ("'observation_1'", 1)],
)  # fmt: skip
def test_sources(source, expected):
    turn = read_source(source).turn
    if isinstance(expected, Fault):
        assert fault(turn) == expected
    else:
        assert zoom(turn) == ([100, 200, 500, 600], expected)


def test_observations_are_counted_behind_all_images_of_the_question():
    context = Context((Picture(1000, 1000),) * 4, TWO, originals=2)
    assert zoom(read_source('"observation_1"', context).turn, context)[1] == 2
    assert '"source": "observation_2"' in DIALECT.write_turn(call([0, 0, 500, 500], 3), context)


def test_a_questions_second_image_has_no_name_and_is_refused_both_ways():
    context = Context((Picture(1000, 1000),) * 2, TWO, originals=2)
    text = DIALECT.write_turn(call([0, 0, 500, 500], 1), context)
    assert "source" not in text  # so upstream's expression does not match, and it answers with an error
    assert fault(DIALECT.read_turn(text, context).turn, context) == Fault.MISSING_ARGUMENT


def test_a_call_that_our_gym_refuses_is_one_that_upstream_refuses():
    sly = '<tool_call>{"bbox_2d": [0.1, 0.1, 0.9, 0.9], "source": "original_image"}</tool_call>'
    text = DIALECT.write_turn(sly, WIDE)
    assert text.startswith('<think></think><grounding>{"name": "unknown"') and text.endswith("</grounding>")


def test_the_last_grounding_counts_and_wins_over_an_answer():
    text = MINI_O3[0] + "<answer>B</answer>" + MINI_O3[1].partition("</think>")[2]
    reading = DIALECT.read_turn(text, WIDE)
    assert zoom(reading.turn) == ([250, 250, 750, 750], 1)
    assert reading.notes == ("2 groundings: the last one counts", "an answer and a grounding: the grounding counts")


def test_the_published_answer_is_read_with_its_words():
    assert judge(DIALECT.read_turn(MINI_O3[3], WIDE).turn).answer.startswith(b"The name of the store with a blue sign")


@pytest.mark.parametrize(
    ("box", "refused"),
    [("[0, 0, 1, 1]", False), ("[-3, -3, 1.5, 2]", False), ("[0, 0, 1, 0.005]", False), ("[0, 0, 1, 0.0043]", True), ("[0, 0, 0.8, 0.004]", True), ("[0, 0, 0.799, 0.004]", False),
     ("[0, 0, 0.005, 1]", False), ("[0.5, 0.5, 0.5, 0.9]", True), ("[0.9, 0.1, 0.2, 0.5]", True), ("[0.999, 0, 1.0, 1.0]", True)],
)  # fmt: skip
def test_the_box_is_cut_at_the_last_pixel_and_may_be_200_times_as_long_as_wide(box, refused):
    context = Context((Picture(1000, 1000),), TWO)
    reading = read(f'{{"bbox_2d": {box}, "source": "original_image"}}', context)
    assert fault(reading.turn, context) == (Fault.EMPTY_BOX if refused else Fault.NONE)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[0.1, 0.2, 0.3, 0.4]",
        '{"bbox_2d": [0.1, 0.2',
        '__import__("os").getcwd()',
        '{"bbox_2d": [1/2, 0, 1, 1], "source": "original_image"}',
    ],
)
def test_nothing_is_evaluated(body):
    assert fault(read(body).turn) == Fault.MALFORMED


def test_a_turn_without_grounding_and_answer_does_nothing():
    assert judge(DIALECT.read_turn('<grounding>{"bbox_2d": [0, 0, 1, 1]', WIDE).turn).kind == Kind.NOTHING


def test_a_call_is_written_word_for_word_as_the_expression_of_upstream_wants_it():
    text = DIALECT.write_turn(call([100, 0, 1000, 574], 1), WIDE)
    assert (
        text
        == '<think>look</think><grounding>{"bbox_2d": [0.1, 0.0, 1.0, 0.574], "source": "observation_1"}</grounding>'
    )


def test_its_own_observations_are_read():
    """Upstream's number of the observation counts turns; which image it is does not depend on it."""
    shown = (
        "After the above Action 4, here is the the zoom-in image (Observation 5):\n"
        "<|vision_start|><|image_pad|><|vision_end|>.\nContinue your reasoning process inside <think>."
    )
    assert DIALECT.read_observation(shown, WIDE) == dialects.TextObservation("", image=3)
    failed = "ERROR occurs during grounding. Error Information: The bounding box is not valid.\n"
    failed += "Please analyze the error information"
    assert DIALECT.read_observation(failed, WIDE).text == "error: The bounding box is not valid"


def test_a_returned_image_is_announced_by_its_number():
    observation = dialects.TextObservation(image=3)
    assert "Action 2" in DIALECT.write_observation(observation, WIDE)
    assert "(Observation 3)" in DIALECT.write_observation(observation, WIDE)
