"""An observation that passes through the model in pieces, as on an accelerator, is read as if at once."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medvista_jax.rollout import loop
from tests import tiny


@pytest.mark.parametrize(
    ("batch", "width", "pieces"),
    [(64, 276, 12), (16, 276, 3), (8, 256, 1), (8, 257, 257), (1, 2048, 1), (1, 4096, 2), (5000, 6, 6)],
)
def test_pieces_are_equal_and_small(monkeypatch, batch, width, pieces):
    monkeypatch.setattr(loop, "platform", lambda: "tpu")
    assert loop.observation_pieces(batch, width) == pieces
    monkeypatch.setattr(loop, "platform", lambda: "cpu")
    assert loop.observation_pieces(batch, width) == 1


def test_a_rollout_in_pieces_is_the_same(monkeypatch):
    """Views, refusals and rows that have ended: every piece of the observations counts."""
    whole = tiny.played(tiny.make_script(tiny.MIXED))
    width = tiny.environment().observation_slots
    pieces = next(n for n in range(2, width + 1) if width % n == 0)
    asked = []
    monkeypatch.setattr(loop, "observation_pieces", lambda batch, width: asked.append(width) or pieces)
    jax.clear_caches()
    parted = tiny.played(tiny.make_script(tiny.MIXED))
    jax.clear_caches()
    assert set(asked) == {width}
    for (path, one), other in zip(jax.tree.leaves_with_path(parted), jax.tree.leaves(whole), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if one.dtype.kind == "f":  # the same sums; how many rows a product has may decide how it is blocked
            np.testing.assert_allclose(one, other, atol=2e-6, err_msg=str(path))
        else:
            np.testing.assert_array_equal(one, other, err_msg=str(path))
