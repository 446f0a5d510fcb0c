"""Greedy continuation of a batch of prompts: prefill, then one token a step from the cache, as one compiled program."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, Params
from medvista_jax.models.inputs import Batch
from medvista_jax.models.vlm import KVCache, VisionLanguageModel, last_valid


class _Carry(NamedTuple):
    cache: KVCache
    logits_BV: Array
    next_B: Array


@partial(jax.jit, static_argnames=("model", "steps"))
def greedy(model: VisionLanguageModel, params: Params, batch: Batch, steps: int) -> tuple[Array, Array]:
    """The most likely next token, ``steps`` times; nothing stops it before.

    Args:
      batch: of :func:`medvista_jax.models.inputs.hub_batch`; padding may stand on either side.
      steps: static.

    Returns:
      int32 tokens ``[B, steps]`` and the float32 logits that chose them ``[B, steps, V]``.
    """
    rows, length = batch.tokens_BT.shape
    hidden_BTE, cache = model.forward(params, *batch[:5], cache=model.init_cache(rows, length + steps), start=0)
    first = _Carry(cache, model.logits(params, last_valid(hidden_BTE, batch.valid_BT)), batch.next_B)
    no_feature_B1, there_B1 = jnp.full((rows, 1), -1, jnp.int32), jnp.ones((rows, 1), bool)

    def step(carry: _Carry, t: Array) -> tuple[_Carry, tuple[Array, Array]]:
        token_B = jnp.argmax(carry.logits_BV, axis=-1).astype(jnp.int32)
        positions_B1Z, next_B = model.positions(carry.next_B, there_B1, no_feature_B1)
        hidden_B1E, cache = model.forward(
            params,
            token_B[:, None],
            no_feature_B1,
            batch.features,
            positions_B1Z,
            there_B1,
            carry.cache,
            length + t,
        )
        return _Carry(cache, model.logits(params, hidden_B1E[:, 0]), next_B), (token_B, carry.logits_BV)

    _, (tokens_TB, logits_TBV) = jax.lax.scan(step, first, jnp.arange(steps))
    return tokens_TB.T, logits_TBV.swapaxes(0, 1)
