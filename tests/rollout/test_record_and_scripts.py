"""Packing keeps order; scripts are played alike with and without a policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.rollout.record import total_slots
from medvista_jax.rollout.scripted import encode_slots
from tests import tiny

PER_SLOT = ("tokens_BS", "sampled_BS", "feature_BS", "positions_BSZ", "turn_BS", "logprobs_BS")


@pytest.fixture(scope="module")
def trajectory():
    return tiny.played(tiny.make_script(tiny.MIXED))


def test_pack_keeps_every_valid_slot_in_order(trajectory):
    longest = int(trajectory.valid_BS.sum(1).max())
    for length in (longest, longest + 7):
        packed = tiny.packed(trajectory, length)
        valid = np.asarray(packed.valid_BS)
        counts = valid.sum(1)
        assert (valid == (np.arange(length)[None] < counts[:, None])).all()  # no holes
        for row in range(6):
            was = np.asarray(trajectory.valid_BS[row])
            for name in PER_SLOT:
                before = np.asarray(getattr(trajectory, name)[row])[was]
                after = np.asarray(getattr(packed, name)[row])[: counts[row]]
                np.testing.assert_array_equal(before, after, err_msg=name)


def test_positions_count_the_row(trajectory):
    for row in range(6):
        valid = np.asarray(trajectory.valid_BS[row])
        assert np.asarray(trajectory.positions_BSZ[row, :, 0])[valid].tolist() == list(range(valid.sum()))


def test_slots_of_a_trajectory(trajectory):
    environment = tiny.environment()
    expected = tiny.PROMPT_SLOTS + 3 * tiny.TURN_TOKENS + 2 * environment.observation_slots
    assert trajectory.tokens_BS.shape[1] == total_slots(environment, tiny.PROMPT_SLOTS) == expected


SCRIPT = (
    (tiny.ZOOM, tiny.ZOOM_AGAIN, "<answer>left</answer>"),
    ("<think>x</think>" + tiny.WINDOW, "<answer>7</answer>"),
    ("<tool_call>{</tool_call>", tiny.ZOOM, "<think>no</think>"),  # a fault, and no answer at the end
)


def test_enacted_and_rolled_out_scripts_are_one_sequence():
    """What SFT teaches is what the rollout will show: same ids, positions, views, features, turns and outcome."""
    question = tiny.make_question()
    twice = tiny.make_script([row for row in SCRIPT for _ in range(2)])
    rolled = tiny.played(twice, question)
    enacted, pixels = tiny.enacted(tiny.environment(), question, tiny.make_script(SCRIPT))
    longest = int(enacted.valid_BS.sum(1).max())
    a, b = tiny.packed(enacted, longest), tiny.packed(jax.tree.map(lambda x: x[::2], rolled), longest)
    for name in ("valid_BS", *PER_SLOT[:-1]):
        keep = np.asarray(a.valid_BS)
        np.testing.assert_array_equal(np.asarray(getattr(a, name))[keep], np.asarray(getattr(b, name))[keep])
    np.testing.assert_array_equal(np.asarray(a.valid_BS), np.asarray(b.valid_BS))
    for name in ("views", "turns", "turns_B", "calls_B", "answer_BN", "answer_length_B", "truncated_B"):
        assert tiny.same_bits(getattr(a, name), getattr(b, name)), name
    features = np.asarray(jax.jit(encode_slots, static_argnums=0)(tiny.MODEL, tiny.params(), pixels))
    for row in range(3):
        used = int(a.views.count_B[row])
        np.testing.assert_allclose(features[row, :used], np.asarray(b.features_BILE)[row, :used], atol=2e-5)
    assert np.asarray(a.turns_B).tolist() == [3, 2, 3] and np.asarray(a.truncated_B).tolist() == [False, False, True]


def test_silence_ends_a_scripted_row_without_an_error_text():
    script = tiny.make_script([(tiny.ZOOM,), ("<answer>7</answer>",), ()])
    enacted, _ = tiny.enacted(tiny.environment(), tiny.make_question(), script)
    assert "error" not in tiny.texts_of(enacted, 0)
    assert tiny.texts_of(enacted, 0).endswith(tiny.ZOOM)
    assert np.asarray(enacted.sampled_BS.sum(1)).tolist() == np.asarray(script.length_BR.sum(1)).tolist()


def test_a_turn_stops_where_it_is_closed(trajectory):
    """Sampled or played, nothing follows a closing tag, and what comes next is the environment."""
    chatty = tiny.make_script([(tiny.ZOOM + " and more",), *[()] * 5])
    t = tiny.played(chatty)
    assert int(t.turns.length_BR[0, 0]) == len(tiny.TOKENIZER.encode(tiny.ZOOM))
    assert "and more" not in tiny.texts_of(t, 0)


def test_turns_without_a_close_use_their_tokens(trajectory):
    lengths = np.asarray(trajectory.turns.length_BR)
    kinds = np.asarray(trajectory.turns.kind_BR)
    scripted = np.asarray(tiny.make_script(tiny.MIXED).length_BR) > 0
    taken = np.arange(3)[None] < np.asarray(trajectory.turns_B)[:, None]
    open_ended = taken & ~scripted & (kinds == 0)
    assert (lengths[open_ended] == tiny.TURN_TOKENS).sum() >= 3
    for row, turn in np.argwhere(open_ended & (lengths < tiny.TURN_TOKENS)):  # closed what was never opened
        said = np.asarray(trajectory.tokens_BS[row])[np.asarray(trajectory.turn_BS[row] == turn)]
        assert tiny.TOKENIZER.decode(said).endswith(("</answer>", "</tool_call>"))
    assert (lengths[~taken] == 0).all()


def test_rows_without_turns_say_nothing():
    """No turn, one turn, all turns, in one batch; and where nobody has a turn, the prompt is all there is."""
    t = tiny.played(question=tiny.make_question(max_turns=(0, 1, 3)))
    turns = np.asarray(t.turns_B)
    assert turns[:4].tolist() == [0, 0, 1, 1] and (turns[4:] >= 1).all()
    sampled = np.asarray(t.sampled_BS.any(1))
    assert sampled.tolist() == [False, False, True, True, True, True]
    assert np.asarray(t.truncated_B)[:2].all() and not np.asarray(t.answer_length_B)[:2].any()
    nobody = tiny.played(question=tiny.make_question(max_turns=0))
    assert not np.asarray(nobody.sampled_BS).any() and np.asarray(nobody.truncated_B).all()
    assert not np.asarray(nobody.valid_BS[:, tiny.PROMPT_SLOTS :]).any()
    enacted, _ = tiny.enacted(tiny.environment(), tiny.make_question(max_turns=(0, 3, 3)), tiny.make_script(SCRIPT))
    assert np.asarray(enacted.turns_B).tolist() == [0, 2, 3]
    assert np.asarray(enacted.sampled_BS.any(1)).tolist() == [False, True, True]


def test_no_row_reads_past_its_sequence(trajectory):
    """Slots behind a finished row are empty: nothing valid, no features, no log-probabilities."""
    row = 2  # answered at once
    t = jax.tree.map(np.asarray, trajectory)
    end = np.flatnonzero(t.valid_BS[row]).max()
    assert t.sampled_BS[row, end] and not t.valid_BS[row, end + 1 :].any()
    assert not t.logprobs_BS[row, end + 1 :].any()
    assert jnp.all(trajectory.turns.kind_BR[row] == jnp.array([2, 0, 0]))
