"""One decoding step: a token for every row that is speaking, and its pass through the model."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from medvista_jax.core.layout import constrain
from medvista_jax.core.types import Array, Params
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment, EnvState
from medvista_jax.models.vlm import Features, KVCache, VisionLanguageModel
from medvista_jax.rollout.sampling import Sampling, choose, log_softmax_at
from medvista_jax.text.constraint import advance, start, token_set, within_set


class Voice(NamedTuple):
    """Where each row stands within its turn.

    Attributes:
      logits_BV: for the next token.
      next_B: int32 rotary position of the next token.
      stop_B: int32 state of the stop table.
      turn_B: int32 state of the constraint.
      running_B: bool, the row has more to say in this turn.
    """

    logits_BV: Array
    next_B: Array
    stop_B: Array
    turn_B: Array
    running_B: Array
    cache: KVCache


class Forced(NamedTuple):
    """What a script says at this step: int32 tokens; bool which rows it speaks for; bool where its turn ends."""

    token_B: Array
    mine_B: Array
    last_B: Array


class Spoken(NamedTuple):
    """One token of each row; where ``said_B`` is False there is none."""

    token_B: Array
    logprob_B: Array
    allowed_B: Array
    said_B: Array


def open_turn(environment: Environment, state: EnvState, logits_BV: Array, next_B: Array, cache: KVCache) -> Voice:
    """Before the first token of a turn. Rows that must answer may not call, where a constraint is on."""
    zero_B = jnp.zeros_like(state.turns_B)
    if environment.constraint is None:
        turn_B = zero_B
    else:
        turn_B = start(environment.constraint, state.turns_B.shape[0], ~gym.must_answer(state))
    return Voice(logits_BV, next_B, zero_B, turn_B, ~state.done_B, cache)


def unconstrained(environment: Environment, state: EnvState) -> Array:
    """bool ``[B]``: rows whose coming turn is under no constraint."""
    if environment.constraint is None:
        return jnp.ones_like(state.done_B)
    return ~gym.must_answer(state) if environment.force_answer_only else jnp.zeros_like(state.done_B)


def decode_step(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    voice: Voice,
    features: Features,
    at: Array,
    left_B: Array,
    keys_B: Array,
    count_B: Array,
    free_B: Array,
    sampling: Sampling,
    forced: Forced | None = None,
) -> tuple[Voice, Spoken]:
    """Choose a token for every running row and pass it through the model.

    Args:
      at: int32 slot where the token is written, one for all rows or ``[B]``.
      left_B: int32, how many tokens the turn may still take, this one included.
      keys_B, count_B: of :func:`medvista_jax.rollout.sampling.choose`.
      free_B: bool, rows under no constraint.
    """
    rows, constraint = voice.running_B.shape[0], environment.constraint
    logits_BV, allowed_B = voice.logits_BV, jnp.full((rows,), -1, jnp.int32)
    if constraint is not None:
        allowed_B = jnp.where(free_B, -1, token_set(constraint, voice.turn_B, left_B))
        logits_BV = within_set(constraint, allowed_B, logits_BV)
    # Every device draws for some rows over the whole vocabulary: sums over parts of it would round in another order.
    logits_BV = constrain(logits_BV, "rows")
    token_B = choose(logits_BV, keys_B, count_B, sampling)
    if forced is not None:
        token_B = jnp.where(forced.mine_B, forced.token_B, token_B)
    logprob_B = log_softmax_at(logits_BV, token_B, sampling.temperature)
    token_B = jnp.where(voice.running_B, token_B, environment.pad_id)
    stop_B = environment.stops.table[voice.stop_B, token_B].astype(jnp.int32)
    running_B = voice.running_B & (stop_B != environment.stops.found) & (left_B > 1)
    if forced is not None:
        running_B &= ~(forced.mine_B & forced.last_B)
    no_feature_B1, said_B1 = jnp.full((rows, 1), -1, jnp.int32), voice.running_B[:, None]
    positions_B1Z, next_B = model.positions(voice.next_B, said_B1, no_feature_B1)
    hidden_B1E, cache = model.forward(
        params, token_B[:, None], no_feature_B1, features, positions_B1Z, said_B1, voice.cache, at
    )
    spoken = Spoken(token_B, jnp.where(voice.running_B, logprob_B, 0.0), allowed_B, voice.running_B)
    turn_B = voice.turn_B if constraint is None else advance(constraint, voice.turn_B, token_B)
    return Voice(model.logits(params, hidden_B1E[:, 0]), next_B, stop_B, turn_B, running_B, cache), spoken
