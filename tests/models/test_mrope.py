"""M-RoPE positions: literal values, holes, and sequences cut anywhere, inside an image too."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.models.mrope import grid_positions, grid_table

TABLE = np.concatenate([grid_table(2, 3), grid_table(3, 1)])[None]
# Two words, the first image (2 x 3), a word, the second (3 x 1), a word.
FEATURE = np.array([[-1, -1, *range(6), -1, 6, 7, 8, -1]])
EXPECTED = [
    *[(0, 0, 0), (1, 1, 1)],
    *[(2, 2, 2), (2, 2, 3), (2, 2, 4), (2, 3, 2), (2, 3, 3), (2, 3, 4)],
    (5, 5, 5),  # behind the longer side, three
    *[(6, 6, 6), (6, 7, 6), (6, 8, 6)],
    (9, 9, 9),
]


def positions(next_B, valid, feature, table=TABLE):
    arguments = (np.asarray(next_B, np.int32), np.asarray(valid, bool), feature, table)
    out, following = grid_positions(*map(jnp.asarray, arguments))
    return np.asarray(out), np.asarray(following)


def test_text_and_two_images():
    out, following = positions([0], np.ones_like(FEATURE), FEATURE)
    assert out[0].tolist() == [list(place) for place in EXPECTED] and following.tolist() == [10]


@pytest.mark.parametrize("cut", range(1, FEATURE.shape[1]))
def test_a_sequence_may_be_cut_anywhere(cut):
    first, middle = positions([0], np.ones((1, cut)), FEATURE[:, :cut])
    second, following = positions(middle, np.ones((1, FEATURE.shape[1] - cut)), FEATURE[:, cut:])
    assert np.concatenate([first, second], axis=1)[0].tolist() == [list(place) for place in EXPECTED]
    assert following.tolist() == [10]


def test_holes_take_no_position_and_rows_have_their_own_tables():
    feature = np.array([[-1, 0, -1, 1, -1], [0, 1, 2, 3, -1]])
    valid = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]])
    table = np.zeros((2, 4, 3), np.int32)
    table[0, :2], table[1] = grid_table(1, 2), grid_table(2, 2)
    out, following = positions([7, 0], valid, feature, table)
    assert out[0][valid[0] > 0].tolist() == [[7, 7, 7], [8, 8, 8], [8, 8, 9], [10, 10, 10]]
    assert out[1].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [2, 2, 2]]
    assert following.tolist() == [11, 3]
