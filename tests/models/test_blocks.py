"""Decoder blocks against numpy, transformers' rotary convention, and themselves (causality, holes, cache)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.models.attention import attend
from medvista_jax.models.blocks import Decoder, DecoderConfig, RMSNorm, empty_cache, rotary_tables, rotate
from medvista_jax.models.vlm import KVCache, chunk_mask, grow_cache, write_cache, write_slots

CONFIG = DecoderConfig(vocab_size=31, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, feed_forward=48)
DECODER = Decoder(CONFIG)


def attend_by_loops(q, k, v, mask):
    """Grouped-query attention one query at a time; query head h reads key/value head h // (H / K)."""
    batch, length, heads, size = q.shape
    shared = heads // k.shape[1]
    out = np.zeros((batch, length, heads, size))
    for b in range(batch):
        for t in range(length):
            for h in range(heads):
                seen = np.flatnonzero(mask[b, t])
                score = k[b, h // shared, seen] @ q[b, t, h] / np.sqrt(size)
                weight = np.exp(score - score.max())
                out[b, t, h] = (weight / weight.sum()) @ v[b, h // shared, seen]
    return out.reshape(batch, length, heads * size)


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_against_loops(kv_heads, length):
    rng = np.random.default_rng(kv_heads * 10 + length)
    q = rng.normal(size=(3, length, 4, 8))
    k, v = rng.normal(size=(2, 3, kv_heads, 11, 8))
    mask = rng.random((3, length, 11)) < 0.6
    mask[:, :, 2] = True
    got = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k.swapaxes(2, 3), v)), jnp.asarray(mask))
    np.testing.assert_allclose(np.asarray(got), attend_by_loops(q, k, v, mask), atol=1e-5)  # float32, values near 1


def test_rms_norm_against_numpy():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(0, 3, (2, 5, 16)), rng.normal(1, 0.5, 16)
    norm = RMSNorm(1e-6)
    got = norm.apply({"params": {"scale": jnp.asarray(scale, jnp.float32)}}, jnp.asarray(x, jnp.float32))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    np.testing.assert_allclose(np.asarray(got), expected, atol=1e-5)
    tiny = norm.apply({"params": {"scale": jnp.ones(16)}}, jnp.full((1, 16), 1e-3))
    np.testing.assert_allclose(np.asarray(tiny), 1e-3 / np.sqrt(1e-6 + 1e-6), rtol=1e-5)  # epsilon is inside the root


def test_rms_norm_works_in_float32_and_keeps_the_dtype():
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1, (4, 64)), jnp.bfloat16)
    got = RMSNorm().apply({"params": {"scale": jnp.ones(64)}}, x)
    assert got.dtype == jnp.bfloat16
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=2**-8)  # one rounding to bfloat16


def test_rotary_against_the_hub_convention():
    """transformers' Llama: cat((freqs, freqs)), x * cos + rotate_half(x) * sin, in numpy float64."""
    rng = np.random.default_rng(1)
    size, theta = 8, 10_000.0
    x = rng.normal(size=(2, 6, 3, size))
    positions = rng.integers(0, 300, (2, 6))
    inverse = 1.0 / theta ** (np.arange(0, size, 2) / size)
    angle = positions[..., None] * inverse
    angle = np.concatenate([angle, angle], -1)[:, :, None, :]
    half = np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1)
    expected = x * np.cos(angle) + half * np.sin(angle)
    tables = rotary_tables(jnp.asarray(positions)[..., None], DecoderConfig(1, head_dim=size, rope_theta=theta))
    got = rotate(jnp.asarray(x, jnp.float32), tables)
    np.testing.assert_allclose(np.asarray(got), expected, atol=1e-4)  # angle 300 in float32 is known to 1.5e-5


def test_rotary_scores_depend_on_distance_only():
    rng = np.random.default_rng(2)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def score(i: int, j: int) -> float:
        config = DecoderConfig(1, head_dim=8, rope_theta=100.0)
        at = lambda p: rotary_tables(jnp.full((1, 1, 1), p), config)  # noqa: E731
        return float(jnp.sum(rotate(q, at(i)) * rotate(k, at(j))))

    assert abs(score(7, 3) - score(104, 100)) < 1e-4
    assert abs(score(7, 3) - score(7, 4)) > 1e-2


def test_chunk_mask_literal():
    valid = jnp.array([[True, False, True, True, False]])
    got = np.asarray(chunk_mask(valid, 2, 2))[0].astype(int)
    assert got.tolist() == [[1, 0, 1, 0, 0], [1, 0, 1, 1, 0]]


def test_write_cache_replaces_its_slots_only():
    cache = jnp.arange(24.0).reshape(1, 2, 6, 2)
    got = np.asarray(write_cache(cache, jnp.full((1, 2, 2, 2), -1.0), jnp.int32(3), axis=2))
    assert (got[:, :, 3:5] == -1).all()
    np.testing.assert_array_equal(got[:, :, [0, 1, 2, 5]], np.asarray(cache)[:, :, [0, 1, 2, 5]])


@pytest.mark.parametrize("write", [write_cache, write_slots])
def test_every_row_may_be_written_at_a_place_of_its_own(write):
    old = jnp.zeros((3, 2, 5))
    got = np.asarray(write(old, jnp.ones((3, 2, 2)), jnp.array([0, 3, 1]), axis=2))
    assert got[:, 0].astype(int).tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]
    np.testing.assert_array_equal(got[:, 0], got[:, 1])


def test_grown_cache_keeps_what_it_held():
    cache = empty_cache(CONFIG, 2, 3, jnp.float32)
    cache = jax.tree.map(lambda leaf: jnp.ones_like(leaf), cache)
    grown = grow_cache(cache, 5)
    assert np.asarray(grown.valid_BS).tolist() == [[True] * 3 + [False] * 2] * 2
    assert (np.asarray(grown.keys[0]).sum(-1) == 3).all() and (np.asarray(grown.values[0]).sum(-2) == 3).all()


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    x = jnp.zeros((1, 1, CONFIG.width))
    init = jax.jit(DECODER.init, static_argnums=(4, 5))
    fresh = init(jax.random.key(0), x, jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1), bool), None, 0)
    return jax.tree.map(lambda p: p + 0.2 * rng.standard_normal(p.shape).astype(np.float32), fresh)


apply = jax.jit(DECODER.apply)


def whole(variables, x, valid=None, positions=None):
    batch, length = x.shape[:2]
    valid = jnp.ones((batch, length), bool) if valid is None else valid
    if positions is None:
        positions = jnp.tile(jnp.arange(length)[None, :, None], (batch, 1, 1))
    return apply(variables, x, positions, valid, None, 0)[0]


def inputs(batch=2, length=9, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, length, CONFIG.width)), jnp.float32)


def test_later_tokens_do_not_change_earlier_hidden_states(variables):
    x = inputs()
    before = np.asarray(whole(variables, x))
    after = np.asarray(whole(variables, x.at[:, 5].add(1.0)))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (np.abs(before[:, 5:] - after[:, 5:]).max(-1) > 1e-3).all()  # and the later ones do see it


def test_invalid_slots_are_invisible(variables):
    x = inputs()
    valid = jnp.ones((2, 9), bool).at[0, 3].set(False).at[1, 0].set(False)
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)[..., None]
    before = whole(variables, x, valid, positions)
    after = whole(variables, jnp.where(valid[..., None], x, 1e3), valid, positions)
    np.testing.assert_array_equal(np.asarray(before)[np.asarray(valid)], np.asarray(after)[np.asarray(valid)])
    # A row with a hole is the row without the slot, at the same positions.
    kept = np.flatnonzero(np.asarray(valid)[0])
    alone = np.asarray(whole(variables, x[:1, kept]))[0]
    np.testing.assert_allclose(np.asarray(before)[0, kept], alone, atol=1e-5)


def test_rows_without_a_visible_slot_have_finite_values_and_gradients(variables):
    x = inputs()
    valid = jnp.zeros((2, 9), bool).at[1, 4:].set(True)

    def loss(variables, x):
        hidden = whole(variables, x, valid)
        return jnp.sum(jnp.where(valid[..., None], hidden, 0.0) ** 2) + 1e-3 * jnp.sum(hidden)

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(variables, x)
    assert np.isfinite(float(value))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(np.asarray(gradients[1])[1, 4:]).max() > 0


@pytest.mark.parametrize("pieces", [(9,), (4, 1, 1, 3), (1,) * 9])
def test_cached_chunks_equal_the_whole(variables, pieces):
    """Prefill and decode in chunks, in a cache with room to spare and with a hole in one row."""
    x = inputs(seed=3)
    valid = jnp.ones((2, 9), bool).at[1, 5].set(False)
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)[..., None]
    expected = np.asarray(whole(variables, x, valid, positions))
    cache = empty_cache(CONFIG, 2, 14, jnp.float32)
    filled = jax.tree.map(lambda leaf: leaf + 7.0, (cache.keys, cache.values))  # what lies in unused slots: no matter
    cache = KVCache(*filled, valid_BS=cache.valid_BS)
    at, parts = 0, []
    for size in pieces:
        chunk = slice(at, at + size)
        hidden, cache = apply(variables, x[:, chunk], positions[:, chunk], valid[:, chunk], cache, jnp.int32(at))
        parts.append(np.asarray(hidden))
        at += size
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=2e-5)  # sums in another order
    np.testing.assert_array_equal(np.asarray(cache.valid_BS)[:, :9], np.asarray(valid))
    assert not np.asarray(cache.valid_BS)[:, 9:].any()


def test_embedding_and_logits_are_tied(variables):
    table = np.asarray(variables["params"]["embedding"])
    got = DECODER.apply(variables, jnp.array([[3, 30]]), method=Decoder.embed)
    np.testing.assert_allclose(np.asarray(got)[0], table[[3, 30]] * np.sqrt(32), rtol=1e-6)
    hidden = inputs(1, 2)
    logits = DECODER.apply(variables, hidden, method=Decoder.logits)
    np.testing.assert_allclose(np.asarray(logits), np.asarray(hidden) @ table.T, atol=1e-4)
