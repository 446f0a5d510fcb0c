"""How tokens are chosen: frequencies, greedy, impossible tokens, keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.rollout.sampling import Sampling, choose, likeliest, log_softmax_at, pick, row_keys

chosen, narrow, choose_at = jax.jit(choose), jax.jit(likeliest), jax.jit(pick)
keys_of = jax.jit(row_keys, static_argnums=(1, 2))


def draw(logits: np.ndarray, draws: int, temperature: float, seed: int = 0) -> np.ndarray:
    """``draws`` rows with the same logits, each with a key of its own."""
    keys = keys_of(jax.random.key(seed), draws, 1)
    rows = jnp.tile(jnp.asarray(logits, jnp.float32)[None], (draws, 1))
    return np.asarray(chosen(rows, keys, jnp.zeros(draws, jnp.int32), Sampling.at(temperature)))


def softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max())
    return weight / weight.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    logits = np.random.default_rng(0).uniform(-1, 1, 20)
    draws = 20_000
    counts = np.bincount(draw(logits, draws, temperature), minlength=20)
    expected = draws * softmax(logits / temperature)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert expected.min() > 5
    assert chi_square < 43.8  # 99.9 % point of chi-square with 19 degrees of freedom; the seed is fixed


def test_wrong_temperature_would_be_seen():
    logits = np.random.default_rng(0).normal(0, 1, 20)
    counts = np.bincount(draw(logits, 20_000, 1.0), minlength=20)
    expected = 20_000 * softmax(logits / 0.9)
    assert ((counts - expected) ** 2 / expected).sum() > 100


def test_zero_temperature_is_greedy():
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(0, 5, (64, 33)), jnp.float32)
    keys = keys_of(jax.random.key(0), 64, 1)
    ids = chosen(logits, keys, jnp.arange(64), Sampling.at(0.0))
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(np.asarray(ids), np.asarray(logits).argmax(1))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_impossible_tokens_are_never_chosen(temperature):
    """Also where prefix sums round: 4,096 tokens of which one in eight is possible, many draws."""
    rng = np.random.default_rng(2)
    for seed in range(3):
        logits = rng.normal(0, 3, (512, 4096)).astype(np.float32)
        logits[rng.random(logits.shape) > 0.125] = -np.inf
        keys = keys_of(jax.random.key(seed), 512, 1)
        ids = np.asarray(chosen(jnp.asarray(logits), keys, jnp.zeros(512, jnp.int32), Sampling.at(temperature)))
        assert np.isfinite(logits[np.arange(512), ids]).all()


def test_rounding_of_prefix_sums_does_not_reach_impossible_tokens(monkeypatch):
    """Prefix sums may rise at a token of weight zero: a draw from inside such a rise must go to its neighbour."""
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 1, (64, 512)).astype(np.float32)
    logits[rng.random(logits.shape) > 0.5] = -np.inf
    logits[:, 0], logits[:, -1] = 0.0, 0.0
    logits -= logits.max(axis=1, keepdims=True)
    sums = np.asarray(jnp.cumsum(jnp.exp(logits), axis=-1))
    hits = 0
    for row in range(64):
        rises = (
            np.flatnonzero(np.isneginf(logits[row, 1:]) & (sums[row, 1:] > np.maximum.accumulate(sums[row])[:-1])) + 1
        )
        for at in rises[:2]:
            below, total = np.maximum.accumulate(sums[row])[at - 1], sums[row, -1]
            guess = np.float32(below / total)
            near = [guess]
            for way in (np.float32(0), np.float32(1)):
                step = guess
                for _ in range(3):
                    step = np.nextafter(step, way)
                    near.append(step)
            inside = [u for u in near if below <= np.float32(u * total) < sums[row, at]]
            if not inside:
                continue
            hits += 1
            monkeypatch.setattr(jax.random, "uniform", lambda key, u=inside[0]: jnp.float32(u))
            one = jnp.asarray(logits[row])[None]
            chosen = int(choose(one, keys_of(jax.random.key(0), 1, 1), jnp.zeros(1, jnp.int32), Sampling.at(1.0))[0])
            assert np.isfinite(logits[row, chosen])
    assert hits > 0  # the case occurs


def test_blocks_without_weight_are_not_reached_by_rounding():
    """The same between blocks of ids, where a sum may rise at a block whose ids are all impossible."""
    rng, blocks = np.random.default_rng(7), 512
    sums = np.exp(rng.normal(0, 1, (64, blocks))).astype(np.float32)
    sums[rng.random(sums.shape) > 0.5] = 0.0
    sums[:, 0], sums[:, -1] = 1.0, 1.0
    weight = np.zeros((64, blocks, blocks), np.float32)
    weight[:, :, 17] = sums  # one id of each block
    upto = np.asarray(jnp.cumsum(jnp.asarray(sums), axis=-1))
    highest = np.maximum.accumulate(upto, axis=1)
    hits = 0
    for row, at in zip(*np.nonzero((sums[:, 1:] == 0) & (upto[:, 1:] > highest[:, :-1])), strict=True):
        near = np.float32(highest[row, at] / upto[row, -1]) + np.arange(-3, 4, dtype=np.float32) * np.float32(2**-24)
        inside = [u for u in near if highest[row, at] <= np.float32(u * upto[row, -1]) < upto[row, at + 1]]
        if inside and hits < 8:
            hits += 1
            picked = int(choose_at(jnp.asarray(weight[row]).reshape(1, -1), jnp.array([inside[0]]))[0])
            assert weight[row].reshape(-1)[picked] > 0
    assert hits > 0  # the case occurs


def test_one_possible_token_is_chosen_always():
    for place in (0, 1, 500, 767):
        logits = np.full(768, -np.inf, np.float32)
        logits[place] = -3.0
        assert (draw(logits, 200, 1.0) == place).all()


def test_a_draw_depends_on_key_and_count_only():
    logits = jnp.asarray(np.random.default_rng(3).normal(0, 1, (6, 50)), jnp.float32)
    keys = keys_of(jax.random.key(5), 3, 2)
    count = jnp.array([0, 4, 9, 2, 2, 7])
    all_rows = np.asarray(chosen(logits, keys, count, Sampling.at(1.0)))
    order = np.array([3, 1, 5])
    some = chosen(logits[order], keys[order], count[order], Sampling.at(1.0))
    np.testing.assert_array_equal(np.asarray(some), all_rows[order])
    same_logits = jnp.tile(jnp.zeros((1, 50)), (40, 1))
    later = chosen(same_logits, jnp.repeat(keys[:1], 40), jnp.arange(40), Sampling.at(1.0))
    assert len(set(np.asarray(later).tolist())) > 10  # every count has noise of its own


def test_row_keys_do_not_depend_on_batch_or_group_size():
    data = lambda keys: np.asarray(jax.random.key_data(keys))  # noqa: E731
    large = data(keys_of(jax.random.key(1), 4, 3)).reshape(4, 3, -1)
    small = data(keys_of(jax.random.key(1), 2, 2)).reshape(2, 2, -1)
    np.testing.assert_array_equal(large[:2, :2], small)
    assert len({key.tobytes() for key in large.reshape(12, -1)}) == 12
    other = data(keys_of(jax.random.key(2), 4, 3)).reshape(4, 3, -1)
    assert not (other == large).all(-1).any()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_log_softmax_against_numpy(temperature):
    logits = np.random.default_rng(4).normal(0, 4, (7, 30))
    token = np.arange(7)
    got = log_softmax_at(jnp.asarray(logits, jnp.float32), jnp.asarray(token), jnp.float32(temperature))
    expected = np.array([np.log(softmax(row / temperature)[t]) for row, t in zip(logits, token, strict=True)])
    np.testing.assert_allclose(np.asarray(got), expected, atol=2e-5)


def test_log_probability_at_temperature_zero_is_that_of_one():
    logits = jnp.asarray(np.random.default_rng(4).normal(0, 4, (7, 30)), jnp.float32)
    token = jnp.arange(7)
    zero, one = (log_softmax_at(logits, token, jnp.float32(t)) for t in (0.0, 1.0))
    np.testing.assert_array_equal(np.asarray(zero), np.asarray(one))


@pytest.mark.parametrize("top_k, top_p", [(0, 0.3), (0, 0.9), (1, 1.0), (7, 1.0), (50, 0.8), (5, 0.5), (1000, 0.99)])
def test_the_likeliest_are_those_of_transformers(top_k, top_p):
    import torch
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(3).normal(0, 2, (16, 200)).astype(np.float32)
    scores = torch.from_numpy(logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(None, scores)
    weight = np.exp(logits)
    kept = np.asarray(narrow(jnp.asarray(weight), Sampling.at(1.0, top_k, top_p)))
    np.testing.assert_array_equal(kept, np.where(np.isfinite(scores.numpy()), weight, 0))


def test_only_the_likeliest_are_drawn_and_as_often_as_they_weigh():
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    keys = keys_of(jax.random.key(0), 20_000, 1)
    rows, none = jnp.tile(jnp.asarray(logits)[None], (20_000, 1)), jnp.zeros(20_000, jnp.int32)
    counts = np.bincount(np.asarray(chosen(rows, keys, none, Sampling.at(1.0, top_p=0.65))), minlength=4)
    assert counts[2:].sum() == 0
    assert abs(counts[0] / 20_000 - 4 / 7) < 0.0115  # 3.3 standard errors
    assert np.bincount(np.asarray(chosen(rows, keys, none, Sampling.at(1.0, top_k=1)))).tolist() == [20_000]
    assert np.bincount(np.asarray(chosen(rows, keys, none, Sampling.at(1.0))), minlength=4).all()
