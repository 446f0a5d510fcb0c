"""Advantages beyond GRPO's, against numbers worked out by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.learning.advantages import (
    ADVANTAGES,
    group_centred,
    group_normalised,
    leave_one_out,
    per_token,
    returns_to_go,
    turn_leave_one_out,
)

REWARD = jnp.array([2.0, 1.0, 2.0, 0.0, 4.0, 4.0, 4.0, 4.0])  # means 1.25 and 4


def test_mean_only():
    expected = [0.75, -0.25, 0.75, -1.25, 0, 0, 0, 0]
    np.testing.assert_allclose(np.asarray(group_centred(REWARD, 4)), expected, atol=1e-6)
    assert ADVANTAGES["dr_grpo"] is ADVANTAGES["mean"] is group_centred


def test_leave_one_out():
    """2 - (1 + 2 + 0) / 3, 1 - (2 + 2 + 0) / 3, …"""
    expected = [1.0, -1 / 3, 1.0, -5 / 3, 0, 0, 0, 0]
    np.testing.assert_allclose(np.asarray(leave_one_out(REWARD, 4)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_rows_out_of_the_statistics(name):
    """As if the group had been smaller, and 0 for the rows themselves; a group of one row, or none, is flat."""
    reward = jnp.array([2.0, 100.0, 1.0, 3.0, 7.0, 5.0, 9.0, 9.0])
    counted = jnp.array([True, False, True, True, True, False, False, False])
    got = np.asarray(ADVANTAGES[name](reward, 4, counted))
    alone = np.asarray(ADVANTAGES[name](jnp.array([2.0, 1.0, 3.0]), 3, None))
    np.testing.assert_allclose(got[[0, 2, 3]], alone, atol=1e-6)
    assert got[1] == 0 and (got[4:] == 0).all() and np.abs(alone).min() == 0 < np.abs(alone).max()
    assert not np.asarray(ADVANTAGES[name](reward, 4, jnp.zeros(8, bool))).any()


def test_counting_everybody_is_the_default():
    every = jnp.ones(8, bool)
    np.testing.assert_array_equal(group_normalised(REWARD, 4, every), group_normalised(REWARD, 4))


def test_returns_to_go():
    """Three turns, of which row 1 took two: 1 + ½(2 + ½(3 + 8)), …; and 4 + ½(5 + 6), 5 + 6."""
    rewards = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 77.0]])
    got = returns_to_go(rewards, jnp.array([8.0, 6.0]), jnp.array([3, 2]), 0.5)
    np.testing.assert_allclose(np.asarray(got), [[4.75, 7.5, 11.0], [9.5, 11.0, 0.0]], atol=1e-6)
    whole = returns_to_go(rewards, jnp.array([8.0, 6.0]), jnp.array([3, 2]), 1.0)
    np.testing.assert_allclose(np.asarray(whole), [[14.0, 13.0, 11.0], [15.0, 11.0, 0.0]], atol=1e-6)


def test_leave_one_out_by_turn():
    """One group of three. Returns: row 0 [4, 3], row 1 [2, 2], row 2 [1], which stands in at turn 1 with 1."""
    rewards = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 5.0]])
    outcome, turns = jnp.array([3.0, 1.0, 0.0]), jnp.array([2, 2, 1])
    got = np.asarray(turn_leave_one_out(rewards, outcome, turns, 3))
    expected = [
        [4 - (2 + 1) / 2, 3 - (2 + 1) / 2],
        [2 - (4 + 1) / 2, 2 - (3 + 1) / 2],
        [1 - (4 + 2) / 2, 0.0],
    ]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_leave_one_out_by_turn_is_rloo_where_turns_earn_nothing():
    turns = jnp.array([1, 2, 3, 2, 1, 1, 2, 3])
    got = np.asarray(turn_leave_one_out(jnp.zeros((8, 3)), REWARD, turns, 4))
    taken = np.arange(3)[None] < np.asarray(turns)[:, None]
    np.testing.assert_allclose(got, np.asarray(leave_one_out(REWARD, 4))[:, None] * taken, atol=1e-6)


def test_advantages_reach_the_tokens_of_their_turn():
    turn = jnp.array([[-1, 0, 0, -1, 1, 2], [-1, 0, 1, 1, -1, -1]])
    got = per_token(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), turn)
    np.testing.assert_array_equal(np.asarray(got), [[0, 1, 1, 0, 2, 3], [0, 4, 5, 5, 0, 0]])
