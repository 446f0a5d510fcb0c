"""Aligning a connector: words in place and lessons, on a small random model."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvista_jax.learning.align import LessonBatch, WordBatch, lesson_scores, lessons_step, word_table, words_step
from medvista_jax.learning.state import start
from tests.learning.smol import MODEL

OPTIMIZER = optax.adam(1e-2)
L = MODEL.tokens_per_image


@functools.cache
def params():
    return jax.jit(MODEL.init)(jax.random.key(0))


def patches(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 16)).astype(np.float16)


def lessons() -> LessonBatch:
    """Three rows of different lengths; the image stands at slots 2 … 5."""
    rng = np.random.default_rng(0)
    tokens, feature = rng.integers(5, 100, (3, 14)), np.full((3, 14), -1)
    feature[:, 2 : 2 + L] = np.arange(L)
    length = np.array([14, 11, 12])
    slot = np.array([[10, 11, 12, 13], [9, 10, -1, -1], [10, 11, -1, -1]])
    valid = np.arange(14)[None] < length[:, None]
    return LessonBatch(patches(3), *(jnp.asarray(x, jnp.int32) for x in (tokens, feature)), jnp.asarray(valid), slot)


def connector_state():
    return start({"connector": params()["connector"]}, ["^connector"], OPTIMIZER, jax.random.key(0))


def test_word_table():
    embedding = np.arange(12.0).reshape(4, 3)
    table = word_table(embedding, [[1], [0, 3], []])
    np.testing.assert_allclose(table, [embedding[1], (embedding[0] + embedding[3]) / 2, embedding.mean(0)])


def test_words_are_learned_where_they_lie():
    """A cell's features tell its word; the answer at a place does not depend on the others."""
    rng = np.random.default_rng(1)
    table = jnp.asarray(rng.standard_normal((3, 32)), jnp.float32)
    word = rng.integers(0, 3, (16, L)).astype(np.int32)
    squares = np.eye(3)[word].reshape(16, 2, 2, 3).repeat(2, axis=1).repeat(2, axis=2)  # each square of 2 × 2 patches
    batch = WordBatch(np.concatenate([squares, 0.1 * rng.standard_normal((16, 4, 4, 13))], -1).astype(np.float16), word)
    state, losses = connector_state(), []
    for _ in range(60):
        state, metrics = words_step(MODEL, OPTIMIZER, table, jnp.ones(3), state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.1 * losses[0] and float(metrics["named"]) == 1.0


def test_weights_of_words():
    """The loss is a weighted mean: with one word's weight alone it is that word's squared distance."""
    table = jnp.asarray(np.random.default_rng(2).standard_normal((2, 32)), jnp.float32)
    word = np.array([[0, 1, 0, 0], [0, 0, 0, 1]], np.int32)
    made = np.asarray(MODEL.connect(params(), jnp.asarray(patches(2), jnp.float32)))
    gap = ((made - np.asarray(table)[word]) ** 2).sum(-1)
    for weight in ([1.0, 1.0], [0.0, 2.0], [1.0, 5.0]):
        batch = WordBatch(patches(2), word)
        _, metrics = words_step(MODEL, OPTIMIZER, table, jnp.array(weight), connector_state(), batch)
        each = np.array(weight)[word]
        assert float(metrics["loss"]) == pytest.approx((each * gap).sum() / each.sum(), rel=1e-4)


def test_scores_are_those_of_a_plain_forward():
    """Row by row without padding, softmax in numpy, float64."""
    batch = lessons()
    logprob, right = jax.jit(functools.partial(lesson_scores, MODEL))(params(), batch)
    features = MODEL.connect(params(), jnp.asarray(batch.patches_BYXE, jnp.float32))
    for row in range(3):
        size = int(batch.valid_BT[row].sum())
        positions = jnp.arange(size, dtype=jnp.int32)[None, :, None]
        hidden, _ = MODEL.forward(
            params(),
            batch.tokens_BT[row : row + 1, :size],
            batch.feature_BT[row : row + 1, :size],
            features[row : row + 1, None],
            positions,
            jnp.ones((1, size), bool),
        )
        logits = np.asarray(MODEL.logits(params(), hidden))[0].astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for column, slot in enumerate(batch.slot_BC[row]):
            token = int(batch.tokens_BT[row, slot])
            expected = logp[slot - 1, token] if slot >= 0 else 0.0
            assert float(logprob[row, column]) == pytest.approx(expected, abs=1e-4)
            assert bool(right[row, column]) == (slot >= 0 and logits[slot - 1].argmax() == token)


def test_lessons_are_learned_through_the_frozen_decoder():
    batch, state, losses = lessons(), connector_state(), []
    frozen = {"decoder": params()["decoder"]}
    first, _ = lesson_scores(MODEL, params(), batch)
    for _ in range(40):
        state, metrics = lessons_step(MODEL, OPTIMIZER, frozen, state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(-float(first.sum()) / 8, rel=1e-5)  # eight ids of answers
    assert losses[-1] < 0.7 * losses[0] and float(metrics["grad_norm"]) > 0
    assert set(state.trainable) == {
        f"connector/{name}/{leaf}" for name in ("up", "down") for leaf in ("kernel", "bias")
    }
