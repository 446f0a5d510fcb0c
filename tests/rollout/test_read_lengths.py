"""Early turns read only the part of the cache that they can have filled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.models.vlm import KVCache, cut_cache, paste_cache
from medvista_jax.rollout import loop
from medvista_jax.rollout.sampling import Sampling
from tests import tiny


def cache_of(slots: int, rows: int = 1) -> KVCache:
    shape = (rows, 2, 4, slots)
    return KVCache((jnp.zeros(shape),), (jnp.zeros(shape).swapaxes(2, 3),), jnp.zeros((rows, slots), bool))


@pytest.mark.parametrize(
    "slots, turns, expected",
    [
        (238, 3, (86, 162, 238)),  # a prompt of 46, turns of 40, observations of 36
        (46 + 40, 1, (86,)),
        (46 + 4 * 40 + 3 * 36, 4, (86, 162, 314)),  # 238 is too near the end to be worth a loop
        (1000 + 40 * 2 + 36, 2, (1116,)),  # a long prompt: nothing to save
    ],
)
def test_lengths(monkeypatch, slots, turns, expected):
    monkeypatch.setattr(loop, "READ_WHOLE", 0)
    assert loop.read_lengths(cache_of(slots), 40, 36, turns) == expected


def test_a_small_cache_is_read_whole():
    assert loop.read_lengths(cache_of(238), 40, 36, 3) == (238,)
    rows = loop.READ_WHOLE // (2 * 4 * 238 * 2 * 4) + 1
    assert loop.read_lengths(jax.eval_shape(lambda: cache_of(238, rows)), 40, 36, 3) == (86, 162, 238)


def test_cut_and_paste():
    cache = jax.tree.map(lambda leaf: jnp.arange(leaf.size, dtype=jnp.float32).reshape(leaf.shape), cache_of(7))
    part = jax.tree.map(lambda leaf: leaf + 100, cut_cache(cache, 3))
    assert [leaf.shape for leaf in jax.tree.leaves(part)] == [(1, 2, 4, 3), (1, 2, 3, 4), (1, 3)]
    pasted = paste_cache(cache, part)
    for old, new, axis in ((cache.keys[0], pasted.keys[0], 3), (cache.values[0], pasted.values[0], 2)):
        change = np.moveaxis(np.asarray(new - old), axis, 0)
        assert (change[:3] == 100).all() and (change[3:] == 0).all()


def test_the_trajectories_are_the_same(monkeypatch):
    question, script = tiny.make_question(max_turns=(3, 3, 2)), tiny.make_script(tiny.MIXED)
    whole = tiny.played(script, question)
    monkeypatch.setattr(loop, "READ_WHOLE", 0)
    play = jax.jit(loop.rollout, static_argnames=("model", "group"))
    key = jax.random.key(1)
    near = play(tiny.MODEL, tiny.params(), tiny.environment(), question, key, 2, Sampling.at(1.0), script)
    np.testing.assert_array_equal(near.tokens_BS, whole.tokens_BS)
    np.testing.assert_array_equal(near.valid_BS, whole.valid_BS)
    np.testing.assert_allclose(near.logprobs_BS, whole.logprobs_BS, atol=1e-5)  # sums over fewer zeros
