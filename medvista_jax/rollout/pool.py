"""Prompts prefilled ahead of need: a block that rows take from, and the next block, prefilled chunk by chunk."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, Params, Question
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment
from medvista_jax.models.vlm import Features, KVCache, VisionLanguageModel
from medvista_jax.rollout.encode import encode_images


@struct.dataclass
class Block:
    """Q prompts, prefilled up to some slot.

    Attributes:
      cache: of Q rows, their prompts' slots rounded up to whole chunks.
      features: leaves ``[Q, O, L, …]``.
      hidden_QE: hidden state of each prompt's last slot, as soon as it is there.
    """

    cache: KVCache
    features: Features
    hidden_QE: Array


@struct.dataclass
class Pool:
    """Attributes:
    ready: whole; holds the prompts from ``base`` on.
    coming: the Q prompts after those, ``filled`` slots of them prefilled.
    logits_QV: of the ready block's last slots.
    """

    ready: Block
    coming: Block
    logits_QV: Array
    base: Array
    filled: Array


def empty_pool(
    model: VisionLanguageModel, params: Params, environment: Environment, question: Question, size: int, chunk: int
) -> Pool:
    """Nothing prefilled; the first block is coming.

    Args:
      size: Q. chunk: slots that are prefilled at a time.
    """
    slots = -(-question.tokens_PS.shape[1] // chunk) * chunk
    bank = _of_block(question, jnp.zeros((), jnp.int32), size).bank
    shapes = jax.eval_shape(lambda: encode_originals(model, params, environment, bank))
    hidden, logits = jax.eval_shape(lambda: _last_of(model, params, shapes, size))
    zeros = lambda tree: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)  # noqa: E731
    block = Block(model.init_cache(size, slots), zeros(shapes), zeros(hidden))
    zero = jnp.zeros((), jnp.int32)
    return Pool(ready=block, coming=block, logits_QV=zeros(logits), base=zero - size, filled=zero)


def _last_of(model: VisionLanguageModel, params: Params, features: Features, size: int) -> tuple[Array, Array]:
    """Hidden state and logits of a row each, for their shapes."""
    none_Q1 = jnp.full((size, 1), -1, jnp.int32)
    features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), features)
    positions_Q1Z, _ = model.positions(jnp.zeros((size,), jnp.int32), none_Q1 < 0, none_Q1)
    hidden_Q1E, _ = model.forward(params, none_Q1 * 0, none_Q1, features, positions_Q1Z, none_Q1 < 0)
    return hidden_Q1E[:, 0], model.logits(params, hidden_Q1E[:, 0])


def encode_originals(model: VisionLanguageModel, params: Params, environment: Environment, bank) -> Features:
    """Features of the original images: leaves ``[P, O, L, …]``."""
    with jax.named_scope("encode"):
        pixels_POhwC = gym.render_originals(environment, bank)
        flat = encode_images(model, params, pixels_POhwC.reshape((-1,) + pixels_POhwC.shape[2:]))
        return jax.tree.map(lambda x: x.reshape(pixels_POhwC.shape[:2] + x.shape[1:]), flat)


def _of_block(question: Question, first: Array, size: int) -> Question:
    """``size`` questions from ``first`` on; past the end the last one again."""
    index_Q = jnp.minimum(first + jnp.arange(size), question.tokens_PS.shape[0] - 1)
    return jax.tree.map(lambda leaf: leaf[index_Q], question)


def advance_pool(
    model: VisionLanguageModel, params: Params, environment: Environment, question: Question, pool: Pool, chunk: int
) -> Pool:
    """Prefill one chunk more of the coming block; nothing when it is whole or there are no prompts left."""
    size, slots = pool.coming.cache.valid_BS.shape
    first = pool.base + size

    def fill(pool: Pool) -> Pool:
        block = _of_block(question, first, size)
        features = jax.lax.cond(
            pool.filled == 0,
            lambda: encode_originals(model, params, environment, block.bank),
            lambda: pool.coming.features,
        )
        pad = ((0, 0), (0, slots - block.tokens_PS.shape[1]))
        valid_QS, feature_QS = jnp.pad(block.valid_PS, pad), jnp.pad(block.feature_PS, pad, constant_values=-1)
        positions_QSZ, _ = model.positions(jnp.zeros((size,), jnp.int32), valid_QS, feature_QS)
        cut = lambda rows: jax.lax.dynamic_slice_in_dim(rows, pool.filled, chunk, axis=1)  # noqa: E731
        with jax.named_scope("prefill"):
            hidden_QTE, cache = model.forward(
                params,
                cut(jnp.pad(block.tokens_PS, pad)),
                cut(feature_QS),
                features,
                cut(positions_QSZ),
                cut(valid_QS),
                pool.coming.cache,
                pool.filled,
            )
        last_Q = end_of(valid_QS) - 1 - pool.filled
        picked_QE = jnp.take_along_axis(hidden_QTE, jnp.clip(last_Q, 0, chunk - 1)[:, None, None], axis=1)[:, 0]
        here_Q1 = ((last_Q >= 0) & (last_Q < chunk))[:, None]
        hidden_QE = jnp.where(here_Q1, picked_QE, pool.coming.hidden_QE)
        return pool.replace(coming=Block(cache, features, hidden_QE), filled=pool.filled + chunk)

    due = (pool.filled < slots) & (first < question.tokens_PS.shape[0])
    return jax.lax.cond(due, fill, lambda pool: pool, pool)


def promote(model: VisionLanguageModel, params: Params, pool: Pool, wanted: Array) -> Pool:
    """The coming block becomes the ready one, if it is whole and a prompt of it is wanted."""
    size, slots = pool.coming.cache.valid_BS.shape

    def swap(pool: Pool) -> Pool:
        logits_QV = model.logits(params, pool.coming.hidden_QE)
        blank = pool.ready.replace(cache=pool.ready.cache.replace(valid_BS=jnp.zeros((size, slots), bool)))
        zero = jnp.zeros((), jnp.int32)
        return Pool(pool.coming, blank, logits_QV, pool.base + size, zero)

    due = (wanted >= pool.base + size) & (pool.filled >= slots)
    return jax.lax.cond(due, swap, lambda pool: pool, pool)


def end_of(valid_BS: Array) -> Array:
    """int32 ``[B]``: one past each row's last valid slot."""
    slots_S = jnp.arange(1, valid_BS.shape[1] + 1, dtype=jnp.int32)
    return jnp.max(jnp.where(valid_BS, slots_S[None, :], 0), axis=1)
