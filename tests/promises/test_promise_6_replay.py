"""Promise 6: same parameters, same key: the same trajectory, bit for bit; a recorded one can be played again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny


@pytest.fixture(scope="module")
def first():
    return tiny.played()


def test_same_key_same_bits(first):
    assert tiny.same_bits(first, tiny.played())


def test_other_key_other_tokens(first):
    other = tiny.played(seed=2)
    assert (np.asarray(first.tokens_BS) != np.asarray(other.tokens_BS)).any(1).all()


def test_rows_of_a_group_differ(first):
    tokens = np.asarray(first.tokens_BS)
    assert (tokens[0::2] != tokens[1::2]).any(1).all()
    np.testing.assert_array_equal(tokens[0::2, : tiny.PROMPT_SLOTS], tokens[1::2, : tiny.PROMPT_SLOTS])


def said(trajectory, row: int) -> tuple[list[int], np.ndarray]:
    t = jax.tree.map(np.asarray, trajectory)
    return t.tokens_BS[row][t.valid_BS[row]].tolist(), t.logprobs_BS[row][t.valid_BS[row]]


def test_a_row_does_not_depend_on_its_neighbours(first):
    """Neighbours with other questions, other pixels, other budgets and shorter turns move the row's slots, not it."""
    mine, other = tiny.make_question(), tiny.make_question(seed=9, texts=("What?", "A", "Why so?"), max_turns=(1, 3, 1))
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([b[:1], a[1:2], b[2:]]), mine, other)
    script = tiny.make_script([("<answer>B</answer>",), (), (), (), (tiny.ZOOM,), ()])
    second = tiny.played(script, mixed)
    for row in (2, 3):
        ids, logprobs = said(first, row)
        other_ids, other_logprobs = said(second, row)
        assert ids == other_ids
        np.testing.assert_allclose(logprobs, other_logprobs, atol=1e-5)  # sums over slots in another place
    assert said(first, 0)[0] != said(second, 0)[0]


@pytest.mark.parametrize("mixed", [False, True])
def test_replay_through_a_script_bit_for_bit(first, mixed):
    recorded = tiny.played(tiny.make_script(tiny.MIXED)) if mixed else first
    again = tiny.played(tiny.script_of(recorded), seed=77)  # another key: nothing is drawn any more
    for (path, a), b in zip(jax.tree.leaves_with_path(recorded), jax.tree.leaves(again), strict=True):
        assert tiny.raw(a) == tiny.raw(b), jax.tree_util.keystr(path)


def test_training_steps_repeat_bit_for_bit():
    question, key = tiny.make_question(), tiny.make_key()

    def two_steps():
        state = tiny.make_state()
        for _ in range(2):
            state, metrics = tiny.update(state, question, key)
        return state, metrics

    assert tiny.same_bits(two_steps(), two_steps())


def test_every_step_has_noise_of_its_own():
    """Without learning (the optimizer's first warm-up step may be zero) only the step number tells draws apart."""
    question, key = tiny.make_question(), tiny.make_key()
    _, first = tiny.update(tiny.make_state(), question, key)
    later = tiny.make_state()
    _, second = tiny.update(later.replace(step=later.step + 1), question, key)
    assert float(first["reward"]) != float(second["reward"])
