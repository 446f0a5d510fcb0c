"""``reset`` and ``step``: faults as observations, budgets, views, and random ids."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Fault, Kind
from medvista_jax.environment.build import build_environment
from medvista_jax.text.chat import ERRORS
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.text.normalise import answers_equal, normalise_bytes
from medvista_jax.tools.define import Reading, effect_tool, measure_tool
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny

step = tiny.step
L = tiny.MODEL.tokens_per_image


def ids_of(texts):
    tokens = np.full((len(texts), tiny.TURN_TOKENS), tiny.TOKENIZER.pad_id, np.int32)
    length = np.zeros(len(texts), np.int32)
    for row, text in enumerate(texts):
        ids = tiny.TOKENIZER.encode(text)
        assert len(ids) <= tiny.TURN_TOKENS, text
        tokens[row, : len(ids)], length[row] = ids, len(ids)
    return jnp.asarray(tokens), jnp.asarray(length)


def fresh(rows: int, **budgets):
    question = tiny.make_question(texts=["Which?"] * rows, **budgets)
    state = tiny.reset(tiny.environment(), tiny.filled(question), 1)
    return question, jax.tree.map(lambda x: np.asarray(x)[:rows], state)


def said(observation, row: int) -> str:
    valid = np.asarray(observation.valid_BW[row])
    return tiny.TOKENIZER.decode(np.asarray(observation.tokens_BW[row])[valid])


def call(text: str) -> str:
    return f"<tool_call>{text}</tool_call>"


FAULTY = {
    Fault.NO_ACTION: ("what is this", "<tool_call>{", ""),
    Fault.MALFORMED: (call("{"), call("zoom"), call('{"name": "zoom_in", "arguments": []}')),
    Fault.UNKNOWN_TOOL: (call('{"name": "draw", "arguments": {}}'),),
    Fault.UNKNOWN_ARGUMENT: (call('{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 9, 9], "a": 1}}'),),
    Fault.MISSING_ARGUMENT: (call('{"name": "zoom_in", "arguments": {"image_index": 0}}'),),
    Fault.WRONG_TYPE: (
        call('{"name": "zoom_in", "arguments": {"bbox_2d": 3}}'),
        call('{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 9]}}'),
    ),
    Fault.OUT_OF_RANGE: (
        call('{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 9, 1001]}}'),
        call('{"name": "zoom_in", "arguments": {"bbox_2d": [-1, 0, 9, 10]}}'),
        call('{"name": "adjust_window", "arguments": {"low": 9, "high": 9}}'),
    ),
    Fault.EMPTY_BOX: (call('{"name": "zoom_in", "arguments": {"bbox_2d": [5, 5, 5, 9]}}'),),
    Fault.NO_SUCH_IMAGE: (
        call('{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 9, 9], "image_index": 1}}'),
        call('{"name": "adjust_window", "arguments": {"low": 0, "high": 9, "image_index": 7}}'),
    ),
    Fault.NO_CALLS_LEFT: (tiny.ZOOM,),
    Fault.NO_IMAGES_LEFT: (tiny.ZOOM,),
}
CASES = [(fault, text) for fault, texts in FAULTY.items() for text in texts]


def faulty_step():
    budgets = [0 if fault == Fault.NO_CALLS_LEFT else 3 for fault, _ in CASES]
    _, state = fresh(len(CASES), max_calls=budgets)
    full = jnp.array([fault == Fault.NO_IMAGES_LEFT for fault, _ in CASES])
    slots = state.views.view.blend.shape[1]
    views = state.views.replace(count_B=jnp.where(full, slots, state.views.count_B))
    return step(tiny.environment(), state.replace(views=views), *ids_of([text for _, text in CASES]))


OF_TOOLS = {Fault.TOOL_FAILED, Fault.TOOL_TIMED_OUT, Fault.UNSUITABLE_IMAGE}
"""Faults that neither of the two tools here has."""


def test_every_fault_is_covered():
    assert set(FAULTY) | OF_TOOLS == set(Fault) - {Fault.NONE} == set(ERRORS)


@pytest.fixture(scope="module")
def faulty():
    return faulty_step()


@pytest.mark.parametrize("row", range(len(CASES)), ids=[f"{fault.name}-{i}" for i, (fault, _) in enumerate(CASES)])
def test_a_fault_becomes_an_observation_that_says_so(faulty, row):
    state, observation = faulty
    fault, _ = CASES[row]
    assert Fault(int(observation.parsed.fault_B[row])) == fault
    final = ", answer now" if fault in (Fault.NO_CALLS_LEFT, Fault.NO_IMAGES_LEFT) else ""
    expected = (
        f"<|im_end|>\n<|im_start|>user\n<tool_response>{ERRORS[fault]}{final}</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert said(observation, row) == expected
    assert int(observation.slot_B[row]) == -1 and (np.asarray(observation.feature_BW[row]) == -1).all()
    assert not bool(state.done_B[row]) and not bool(state.truncated_B[row])
    assert int(state.turns_B[row]) == 1  # the turn counts
    assert int(state.calls_B[row]) == (fault != Fault.NO_ACTION)  # and so does the call, faulty or not
    assert int(state.views.count_B[row]) == (4 - 1 if fault == Fault.NO_IMAGES_LEFT else 1)  # no view came of it


def test_a_good_call_shows_an_image_and_names_its_index():
    _, state = fresh(1)
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM]))
    assert "image 1</tool_response>" in said(observation, 0)
    feature = np.asarray(observation.feature_BW[0])
    assert feature[feature >= 0].tolist() == [L, L + 1, L + 2, L + 3]
    assert int(observation.slot_B[0]) == 1 and int(state.views.count_B[0]) == 2
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM_AGAIN]))
    assert "image 2, answer now</tool_response>" in said(observation, 0)  # one turn is left


def test_an_answer_ends_the_episode_and_later_turns_change_nothing():
    _, state = fresh(2)
    state, observation = step(tiny.environment(), state, *ids_of(["<answer>Left</answer>", tiny.ZOOM]))
    assert np.asarray(state.done_B).tolist() == [True, False] and not np.asarray(state.truncated_B).any()
    assert bytes(np.asarray(state.answer_BN[0, :5])) == b"Left\0" and int(state.answer_length_B[0]) == 4
    assert not np.asarray(observation.valid_BW[0]).any() and int(observation.slot_B[0]) == -1
    later, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM, "<answer>7</answer>"]))
    row = lambda s: jax.tree.map(lambda x: x[0], s.replace(bank=None))  # noqa: E731
    assert tiny.same_bits(row(later), row(state))
    assert bytes(np.asarray(later.answer_BN[1, :1])) == b"7"


def test_the_last_turn_without_an_answer_truncates():
    _, state = fresh(3, max_turns=(1, 2, 3))
    for turn in range(3):
        state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM, "so", tiny.WINDOW]))
        done = [turn >= 0, turn >= 1, turn >= 2]
        assert np.asarray(state.done_B).tolist() == done
        assert np.asarray(state.truncated_B).tolist() == done
        assert np.asarray(observation.valid_BW.any(1)).tolist() == [not d for d in done]
    assert np.asarray(state.turns_B).tolist() == [1, 2, 3]
    assert not np.asarray(state.answer_length_B).any()


def test_budgets_beyond_the_capacity_are_cut_to_it():
    _, state = fresh(1, max_turns=99)
    assert int(state.max_turns_B[0]) == tiny.TURNS


def test_calls_are_counted_down_to_the_budget():
    _, state = fresh(1, max_calls=1)
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM]))
    assert int(observation.parsed.fault_B[0]) == Fault.NONE
    assert "answer now" in said(observation, 0)  # the only call is spent
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM]))
    assert int(observation.parsed.fault_B[0]) == Fault.NO_CALLS_LEFT and int(state.views.count_B[0]) == 2


def test_an_empty_answer_is_an_answer():
    _, state = fresh(1)
    state, _ = step(tiny.environment(), state, *ids_of(["<answer></answer>"]))
    assert bool(state.done_B[0]) and not bool(state.truncated_B[0]) and int(state.answer_length_B[0]) == 0


def test_an_overlong_answer_is_not_cut_into_a_right_one():
    """What is kept of it equals no key; the episode is over all the same."""
    _, state = fresh(3)
    whole = "left left left left left left left left left left left left left"
    assert len(whole) == tiny.environment().answer_bytes
    said = [f"<answer>{answer}</answer>" for answer in (whole, whole + " or right", whole + ".")]
    state, _ = step(tiny.environment(), state, *ids_of(said))
    assert np.asarray(state.done_B).all() and not np.asarray(state.truncated_B).any()
    answers = normalise_bytes(state.answer_BN, state.answer_length_B)
    right = answers_equal(*answers, tiny.make_key([whole] * 3, 80).answer_PN)
    assert np.asarray(right).tolist() == [True, False, False]
    assert np.asarray(state.answer_length_B).tolist() == [64, 0, 0] and not np.asarray(state.answer_BN[1:]).any()


def test_without_a_turn_to_spend_an_episode_is_over_at_once():
    _, state = fresh(3, max_turns=(0, 2, -1))
    assert np.asarray(state.done_B).tolist() == np.asarray(state.truncated_B).tolist() == [True, False, True]
    later, observation = step(tiny.environment(), state, *ids_of(["<answer>left</answer>", "so", tiny.ZOOM]))
    assert np.asarray(later.turns_B).tolist() == [0, 1, 0] and not np.asarray(later.answer_length_B).any()
    assert np.asarray(observation.valid_BW.any(1)).tolist() == [False, True, False]
    assert np.asarray(later.truncated_B).tolist() == [True, False, True]


def test_random_ids_always_lead_somewhere():
    """2,000 rows of ids drawn from everything, and from the ids that calls are made of; nothing but the
    documented values comes out, and each row is either done or told something."""
    rng = np.random.default_rng(0)
    rows = 2000
    _, state = fresh(rows, max_turns=rng.integers(1, 4, rows), max_calls=rng.integers(0, 4, rows))
    pieces = tiny.TOKENIZER.encode(tiny.ZOOM + tiny.ZOOM_AGAIN + tiny.WINDOW + "<think></think><answer>7</answer>")
    for turn in range(tiny.TURNS):
        wild = rng.integers(0, tiny.VOCAB, (rows, tiny.TURN_TOKENS))
        near = rng.choice(pieces, (rows, tiny.TURN_TOKENS))
        script = np.asarray(ids_of([tiny.ZOOM_AGAIN])[0])
        torn = np.where(rng.random((rows, tiny.TURN_TOKENS)) < 0.05, near, script)
        kind = rng.integers(0, 3, (rows, 1))
        tokens = np.where(kind == 0, wild, np.where(kind == 1, near, torn)).astype(np.int32)
        length = rng.integers(0, tiny.TURN_TOKENS + 1, rows).astype(np.int32)
        before = jax.tree.map(np.asarray, state)
        state, seen = step(tiny.environment(), state, jnp.asarray(tokens), jnp.asarray(length))
        after, seen = jax.tree.map(np.asarray, (state, seen))
        active, done = ~before.done_B, after.done_B
        assert (seen.valid_BW.any(1) == ~done).all()
        assert np.isin(seen.parsed.fault_B, [int(f) for f in Fault]).all()
        assert np.isin(seen.parsed.kind_B, [int(k) for k in Kind]).all()
        assert ((seen.tokens_BW >= 0) & (seen.tokens_BW < tiny.VOCAB)).all()
        assert (seen.feature_BW[seen.valid_BW] < L * after.views.view.blend.shape[1]).all()
        assert (after.turns_B - before.turns_B == active).all()
        assert (after.views.count_B <= after.views.view.blend.shape[1]).all()
        boxes = tiny.boxes_of(after.views)
        assert np.isfinite(boxes).all() and (boxes[..., 2:] > boxes[..., :2]).all()
        assert ((boxes >= 0) & (boxes <= 1 + 1e-6)).all()
        assert (after.views.view.window[..., 1] > after.views.view.window[..., 0]).all()
        shown = active & ~done & (seen.slot_B >= 0)
        assert (seen.parsed.fault_B[shown] == Fault.NONE).all()
        if turn == 0:
            reached = {Fault(int(f)) for f in seen.parsed.fault_B[active]}
            assert {Fault.NO_ACTION, Fault.MALFORMED} <= reached
            host = [
                parse_turn_text([t.spec for t in DEFAULT_TOOLS.values()], b"".join(spell(row, n)), 256, 64)
                for row, n in zip(tokens[:200], length[:200], strict=True)
            ]
            assert [int(h.kind) for h in host] == seen.parsed.kind_B[:200].tolist()
    assert done.all() and (after.truncated_B | (seen.parsed.kind_B == Kind.ANSWER) | (before.done_B)).all()


def spell(row, n):
    table, sizes = tiny.TOKENIZER.token_bytes()
    return [bytes(table[i, : sizes[i]]) for i in row[:n]]


def test_originals_and_views_of_two_images():
    """Image 0 and 1 are originals, views come after; a view of a view names the original it came from."""
    question = tiny.make_question(texts=["Which?"] * 2, originals=2)
    state = tiny.reset(tiny.environment(), question, 1)
    assert np.asarray(state.views.count_B).tolist() == [2, 2]
    second = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500], "image_index": 1}}</tool_call>'
    third = second.replace('"image_index": 1', '"image_index": 2')
    state, observation = step(tiny.environment(), state, *ids_of([second, tiny.ZOOM]))
    assert np.asarray(observation.slot_B).tolist() == [2, 2]
    assert np.asarray(state.views.view.source[:, 2, 0]).tolist() == [1, 0]
    state, _ = step(tiny.environment(), state, *ids_of([third, third]))
    assert np.asarray(state.views.view.source[:, 3, 0]).tolist() == [1, 0]
    shown = np.asarray(tiny.render_views(tiny.environment(), question.bank, state.views, jnp.array([2, 1])))
    originals = np.asarray(tiny.render_originals(tiny.environment(), question.bank))
    np.testing.assert_array_equal(shown[1], originals[1, 1])
    assert not np.array_equal(shown[0], originals[0, 1])


def test_originals_that_do_not_exist_cannot_be_named():
    question = tiny.make_question(texts=["Which?"], originals=2)
    question = question.replace(bank=question.bank.replace(count_P=jnp.array([1])))
    state = tiny.reset(tiny.environment(), question, 1)
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM_AGAIN]))
    assert int(observation.parsed.fault_B[0]) == Fault.NO_SUCH_IMAGE
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM]))
    assert int(observation.slot_B[0]) == 1 and int(state.views.view.source[0, 1, 0]) == 0


def test_what_cannot_be_built_is_refused():
    tools = tuple(DEFAULT_TOOLS.values())
    with pytest.raises(ValueError, match="at least one tool"):
        build_environment(tiny.TOKENIZER, (), 4, (16, 16))
    with pytest.raises(ValueError, match="different names, got zoom_in, zoom_in"):
        build_environment(tiny.TOKENIZER, (tools[0], tools[0]), 4, (16, 16))
    with pytest.raises(ValueError, match="at least 1, got 0 and 48"):
        build_environment(tiny.TOKENIZER, tools, 4, (16, 16), turns=0)


def test_an_image_budget_runs_out_and_leaves_one_turn_to_answer_in():
    """Rows may be shown 0, 1 or 2 images. The first refusal says so; the turn after it is the last."""
    _, state = fresh(3, max_images=(0, 1, 2))
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM] * 3))
    assert np.asarray(observation.parsed.fault_B).tolist() == [Fault.NO_IMAGES_LEFT, Fault.NONE, Fault.NONE]
    assert "error: no images left, answer now" in said(observation, 0)
    assert np.asarray(state.max_turns_B).tolist() == [2, 3, 3]
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM] * 3))
    assert np.asarray(observation.parsed.fault_B).tolist() == [Fault.NO_IMAGES_LEFT] * 2 + [Fault.NONE]
    assert np.asarray(state.done_B).tolist() == np.asarray(state.truncated_B).tolist() == [True, False, False]
    state, _ = step(tiny.environment(), state, *ids_of(["<answer>left</answer>"] * 3))
    assert np.asarray(state.truncated_B).tolist() == [True, False, False]
    assert np.asarray(state.views.count_B).tolist() == [1, 2, 3]


def test_a_spent_call_budget_leaves_one_turn_to_answer_in():
    _, state = fresh(2, max_calls=0)
    state, observation = step(tiny.environment(), state, *ids_of([tiny.ZOOM] * 2))
    assert "error: no calls left, answer now" in said(observation, 0)
    state, _ = step(tiny.environment(), state, *ids_of([tiny.ZOOM, "<answer>left</answer>"]))
    assert np.asarray(state.done_B).all() and np.asarray(state.truncated_B).tolist() == [True, False]
    assert np.asarray(state.turns_B).tolist() == [2, 2]


@measure_tool(
    "Say where.",
    Argument("bbox_2d", "a box", "box"),
    Argument("side", "which", "enum", choices=("left", "right"), default=1),
    texts=("{0}, {1:3.2}", "{2:2} of {3:7.1}"),
    reads=False,
)
def where(sight, bbox_2d, side):
    return Reading(numbers=(bbox_2d[:2], -42, 1e9), text=side)


@measure_tool("Grey of the first pixel.", texts=("image {image}, grey {0:3}",), image=True, sees=True)
def first_grey(sight):
    return Reading(numbers=(sight.shown_hwC[0, 0, 0],))


@effect_tool("Brighten.", Argument("by", "levels", "integer", 0, 255))
def brighten(levels_hwC, by):
    return levels_hwC + by.astype(jnp.float32)


@pytest.fixture(scope="module")
def own():
    tools = (*DEFAULT_TOOLS.values(), where, first_grey, brighten)
    return build_environment(tiny.TOKENIZER, tools, L, tiny.MODEL.image_size, tiny.TURNS, tiny.TURN_TOKENS)


def calls(name: str, **arguments) -> str:
    return call(json.dumps({"name": name, "arguments": arguments}))


def test_numbers_are_written_into_a_tools_text(own):
    _, state = fresh(3)
    texts = [calls("where", bbox_2d=[7, 123, 500, 999]), calls("where", bbox_2d=[0, 0, 9, 9], side="left"), tiny.ZOOM]
    state, observation = step(own, state, *ids_of(texts))
    assert [said(observation, row).split("response>")[1] for row in range(3)] == [
        "-42 of 9999999.9</tool_",  # clipped to its digits
        "0, 0.00</tool_",
        "<|vision_start|>" + "<|image_pad|>" * L + "<|vision_end|>image 1</tool_",
    ]
    assert np.asarray(observation.slot_B).tolist() == [-1, -1, 1]
    assert np.asarray(state.views.count_B).tolist() == [1, 1, 2]  # a text is no image
    assert np.asarray(state.calls_B).tolist() == [1, 1, 1]


def test_effects_belong_to_views_and_are_applied_again_to_what_is_zoomed(own):
    question, state = fresh(2)
    state, observation = step(own, state, *ids_of([calls("brighten", by=40), calls("brighten", by=250)]))
    plain = np.asarray(tiny.render_views(own, question.bank, state.views, jnp.zeros(2, jnp.int32))).astype(int)
    bright = np.asarray(tiny.render_views(own, question.bank, state.views, observation.slot_B))
    np.testing.assert_array_equal(bright[0], np.minimum(plain[0] + 40, 255))
    zoom = calls("zoom_in", bbox_2d=[0, 0, 500, 500], image_index=1)
    state, observation = step(own, state, *ids_of([zoom, calls("brighten", by=3, image_index=1)]))
    effects = np.asarray(state.views.view.effect[:, 2])
    assert effects.tolist() == [[5, 0], [5, 5]] and np.asarray(state.views.view.values[1, 2, :, 0]).tolist() == [250, 3]
    zoomed = np.asarray(tiny.render_views(own, question.bank, state.views, observation.slot_B))
    sharp = state.views.replace(view=state.views.view.replace(effect=jnp.zeros_like(state.views.view.effect)))
    without = np.asarray(tiny.render_views(own, question.bank, sharp, observation.slot_B)).astype(int)
    np.testing.assert_array_equal(zoomed[0], np.minimum(without[0] + 40, 255))
    assert (zoomed[1] >= 253).all()


def test_a_tool_can_see_what_the_policy_sees(own):
    question, state = fresh(2)
    seen = np.asarray(tiny.render_views(own, question.bank, state.views, jnp.zeros(2, jnp.int32)))
    state, observation = step(own, state, *ids_of([calls("first_grey"), tiny.ZOOM]))
    assert f"image 1, grey {seen[0, 0, 0, 0]}</tool" in said(observation, 0)
    assert np.asarray(observation.slot_B).tolist() == [1, 1]


def test_a_tool_whose_parameters_do_not_match_its_arguments_is_refused():
    with pytest.raises(ValueError, match=r"tool 'wrong'.*declared as \['a'\].*are \['b'\]"):

        @effect_tool("No.", Argument("a", "x"))
        def wrong(levels_hwC, b):
            return levels_hwC
