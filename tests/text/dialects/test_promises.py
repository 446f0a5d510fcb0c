"""What every dialect promises, tested on all of them alike."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text import chat, dialects
from medvista_jax.text.dialects import IMAGE, TextObservation
from tests.text.dialects.samples import SAMPLES
from tests.text.dialects.turns import SPECS, TWO, WIDE, boxes, call, foreign, judge, square, zoom
from tests.text.fuzz import random_turn

EVERY = sorted(dialects.DIALECTS)
EVERYTHING = tuple(text for samples in SAMPLES.values() for text in samples)
PIXELS_ONLY_ON_BIG_BOXES = {"deepeyes": 40, "mini-o3": 30, "pixel-reasoner": 1}
"""Least side in thousandths from which the dialect accepts any box on the images used here."""


@pytest.mark.parametrize("name", EVERY)
def test_twenty_thousand_strings_are_read_without_an_exception_into_turns_the_gym_reads(name):
    dialect, rng = dialects.get(name), random.Random(name)
    kinds = dict.fromkeys(Kind, 0)
    for _ in range(20_000):
        text = foreign(rng, SAMPLES[name] if rng.random() < 0.8 else EVERYTHING)
        reading = dialect.read_turn(text, WIDE)
        parsed = judge(reading.turn)
        kinds[parsed.kind] += 1
        assert all(isinstance(note, str) for note in reading.notes)
        if name not in ("medvista", "openai"):
            assert parsed.well_formed == (parsed.kind != Kind.NOTHING), (text, reading)
        if parsed.kind == Kind.CALL and parsed.fault == Fault.NONE and TWO[parsed.tool].name == "zoom_in":
            again = judge(dialect.read_turn(dialect.write_turn(reading.turn, WIDE), WIDE).turn)
            side = min(parsed.arguments[2] - parsed.arguments[0], parsed.arguments[3] - parsed.arguments[1])
            if side >= PIXELS_ONLY_ON_BIG_BOXES.get(name, 1) and parsed.arguments[4] < len(WIDE.images):
                assert (again.fault, again.arguments) == (Fault.NONE, parsed.arguments), (text, reading)
    assert min(kinds.values()) > 200, kinds


@pytest.mark.parametrize("name", EVERY)
def test_whatever_our_turn_says_its_foreign_words_say_too(name):
    """Kind, answer and sound calls survive; what our gym refuses is refused again after the way there and back."""
    dialect, rng, context = dialects.get(name), random.Random(3), square(1024, originals=1)
    for _ in range(4000):
        turn = random_turn(rng, TWO).decode("utf-8", "replace")
        ours = judge(turn, context)
        back = judge(dialect.read_turn(dialect.write_turn(turn, context), context).turn, context)
        if ours.kind == Kind.NOTHING and name == "qwen3-vl":
            continue  # words without a call are the answer there
        assert back.kind == ours.kind, turn
        if ours.kind == Kind.ANSWER and b"<" not in ours.answer and b"{" not in ours.answer:
            assert back.answer.strip() == ours.answer.strip().replace(b"\xed\xa0\x80", b"???"), turn
        mended = name == "openai" and ours.fault == Fault.WRONG_TYPE  # 3.0 and "3" are integers there
        if ours.kind == Kind.CALL and ours.fault != Fault.NONE and not mended:
            assert back.fault != Fault.NONE, turn
        if ours.kind == Kind.CALL and ours.fault == Fault.NONE and TWO[ours.tool].name != "zoom_in":
            assert (back.fault, back.tool, back.arguments) == (Fault.NONE, ours.tool, ours.arguments), turn


@pytest.mark.parametrize("name", EVERY)
def test_arbitrary_strings_are_written_without_an_exception(name):
    dialect, rng = dialects.get(name), random.Random(4)
    for _ in range(3000):
        text = foreign(rng, EVERYTHING)
        assert isinstance(dialect.write_turn(text, WIDE), str)
        dialect.read_observation(text, WIDE)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "ophiuchus"])
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_there_and_back_is_the_identity_for_every_box_that_the_dialect_accepts(name, data):
    dialect = dialects.get(name)
    box = data.draw(boxes(least={"deepeyes": 32, "mini-o3": 6}.get(name, 1)))
    side = data.draw(st.sampled_from([1000, 1001, 1024, 1536, 1999, 4096]))
    index = 0 if name == "deepeyes" else data.draw(st.integers(0, 2))
    context = square(side, originals=1)
    for _ in range(2):
        context = context.add(dialects.Picture(side, side))
    turn = call(box, index)
    assert dialect.read_turn(dialect.write_turn(turn, context), context).turn == turn


@pytest.mark.parametrize("name", ["mini-o3", "openai", "medvista", "qwen3-vl", "pixel-reasoner"])
@settings(max_examples=100, deadline=None)
@given(boxes(least=250), st.integers(150, 999))
def test_dialects_without_pixels_need_no_size_for_the_identity(name, box, side):
    context, turn = square(side), call(box)
    dialect = dialects.get(name)
    assert dialect.read_turn(dialect.write_turn(turn, context), context).turn == turn


@pytest.mark.parametrize("name", ["openthinkimg", "ophiuchus", "deepeyes"])
@settings(max_examples=150, deadline=None)
@given(boxes(least=120), st.integers(334, 1200))
def test_pixels_move_a_coordinate_by_no_more_than_the_bound(name, box, side):
    context, dialect = square(side), dialects.get(name)
    there = dialect.read_turn(dialect.write_turn(call(box), context), context).turn
    back, _ = zoom(there, context)
    bound = int(500 / (512 if name == "ophiuchus" else side) + 0.5)
    assert max(abs(a - b) for a, b in zip(box, back, strict=True)) <= bound


@pytest.mark.parametrize("name", EVERY)
def test_a_call_of_a_tool_that_the_dialect_does_not_know_keeps_our_name_and_arguments(name):
    dialect = dialects.get(name)
    body = SPECS["adjust_window"].render_call(low=-160, high=240, image_index=1)
    turn = f"<think>soft tissue</think><tool_call>{body}</tool_call>"
    assert dialect.read_turn(dialect.write_turn(turn, WIDE), WIDE).turn == turn


@pytest.mark.parametrize("name", EVERY)
def test_answers_and_thoughts_come_back_as_they_were(name):
    dialect = dialects.get(name)
    for think, answer in [("it is there", "B"), ("größer 日本, a < b", "left kidney, 12 mm"), ("", "yes")]:
        turn = f"<think>{think}</think><answer>{answer}</answer>"
        assert dialect.read_turn(dialect.write_turn(turn, WIDE), WIDE).turn == turn


@pytest.mark.parametrize("name", EVERY)
def test_the_system_prompt_offers_every_tool_under_the_dialects_name(name):
    prompt = dialects.get(name).system_prompt(TWO)
    if name == "openai":  # the tools stand in the request
        return
    assert "adjust_window" in prompt and "image_index" in prompt
    assert ("zoom_in" in prompt.replace("image_zoom_in_tool", "")) == (name == "medvista")
    assert "zoom" not in dialects.get(name).system_prompt(TWO[1:]).lower()


@pytest.mark.parametrize("name", EVERY)
def test_every_error_of_the_gym_comes_back_from_the_dialects_words(name):
    dialect = dialects.get(name)
    for text in chat.ERRORS.values():
        for final in (False, True):
            observation = TextObservation(text, final=final)
            foreign_text = dialect.write_observation(observation, WIDE)
            assert IMAGE not in foreign_text
            assert dialect.read_observation(foreign_text, WIDE) == observation, foreign_text


@pytest.mark.parametrize("name", EVERY)
def test_an_image_and_the_words_of_a_tool_come_back(name):
    dialect = dialects.get(name)
    for text in ("", "area 12 mm2", "area 12 mm2\nmean 40"):
        for final in (False, True):
            observation = TextObservation(text, image=3, size=(640, 480), final=final)
            foreign_text = dialect.write_observation(observation, WIDE)
            assert foreign_text.count(IMAGE) == 1
            back = dialect.read_observation(foreign_text, WIDE)
            assert (back.text, back.image, back.final) == (text, 3, final), foreign_text
            assert back.size in (None, (640, 480))


@pytest.mark.parametrize("name", EVERY)
def test_words_without_an_image_come_back(name):
    dialect = dialects.get(name)
    observation = TextObservation("3 objects")
    assert dialect.read_observation(dialect.write_observation(observation, WIDE), WIDE) == observation


@pytest.mark.parametrize("name", EVERY)
def test_turns_of_fifty_thousand_characters_are_read(name):
    dialect = dialects.get(name)
    for piece in (
        "<tool_call>",
        "<grounding>",
        "\\boxed{",
        "```json ",
        " ",
        '{"a":',
        "Action: ",
        "[",
        "<answer>",
        "\n",
    ):
        judge(dialect.read_turn(piece * (50_000 // len(piece)), WIDE).turn)


def test_an_unknown_dialect_is_named_together_with_those_there_are():
    with pytest.raises(ValueError, match="no dialect 'klingon'; there are deepeyes, medvista"):
        dialects.get("klingon")
