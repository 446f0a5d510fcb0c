"""The multi-turn rollout: one pure function, one compiled program.

    encode originals → prefill once a prompt → repeat the cache for the group
      → [ decode until a stop → parse → tool → observation → its chunk through the model ] × turns

All rows write at one index; a validity mask and per-row rotary positions make ragged turns exact. The steps of a turn
are functions of their own, for :mod:`medvista_jax.rollout.host_loop` pauses between them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, Params, Question, Trajectory, Turns
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment, EnvState
from medvista_jax.models.vlm import Features, KVCache, VisionLanguageModel, last_valid
from medvista_jax.rollout.record import (
    Record,
    empty_record,
    empty_turns,
    finish,
    total_slots,
    write,
    write_turn,
)
from medvista_jax.rollout.sampling import Sampling, choose, log_softmax_at, row_keys
from medvista_jax.text.constraint import advance, start, token_set, within_set
from medvista_jax.tools.base import Tool


@struct.dataclass
class Script:
    """Turns that are played instead of sampled: controls (random or true crop), replay.

    Attributes:
      tokens_BRT: int32 ids.
      length_BR: int32; a turn of length 0 is sampled from the policy.
    """

    tokens_BRT: Array
    length_BR: Array


class Carry(NamedTuple):
    """A batch of episodes between two steps."""

    turn: Array
    at: Array  # next free slot, the same for all rows
    record: Record
    turns: Turns
    state: EnvState
    cache: KVCache
    features: Features
    logits_BV: Array
    count_B: Array  # tokens sampled so far


def rollout(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    question: Question,
    key: Array,
    group: int,
    sampling: Sampling,
    script: Script | None = None,
) -> Trajectory:
    """Play ``group`` episodes of each question.

    Args:
      model, group: static.
      question: P prompts; the result has ``B = P * group`` rows.
      key: the row's randomness depends on this, its prompt's place and its place in the group only. Whatever the
        other rows are, its tokens are the same; its log-probabilities are the same to 1e-5, since the slots of its
        sequence may lie elsewhere and sums round in another order.
      script: turns to play as given instead of sampling.

    Returns:
      Trajectory with ``S = prompt + R·T + (R - 1)·W`` slots.
    """
    keys_B = row_keys(key, question.tokens_PS.shape[0], group)
    carry = prefill(model, params, environment, question, group)

    def play_turn(carry: Carry) -> Carry:
        carry, tokens_BT, length_B = decode(model, params, environment, carry, keys_B, sampling, script)
        parsed = gym.read(environment, tokens_BT, length_B)
        active_B = ~carry.state.done_B
        state, observation = gym.act(environment, carry.state, parsed)
        carry = note_turn(carry, state, observation, length_B, active_B)

        def go_on(carry: Carry) -> Carry:
            carry = see(model, params, environment, carry, observation.slot_B)
            return hear(model, params, environment, carry, observation)

        return jax.lax.cond(unfinished(environment, carry), go_on, lambda carry: carry, carry)

    carry = jax.lax.while_loop(lambda carry: unfinished(environment, carry), play_turn, carry)
    return finish(carry.record, carry.turns, carry.state, carry.features)


def unfinished(environment: Environment, carry: Carry) -> Array:
    """bool scalar: some row has a turn to play."""
    return (carry.turn < environment.turns) & jnp.any(~carry.state.done_B)


def note_turn(carry: Carry, state: EnvState, observation: gym.Observation, length_B: Array, active_B: Array) -> Carry:
    """The state after a turn, and what the rows that took it did."""
    turns = write_turn(carry.turns, carry.turn, observation.parsed, length_B, active_B)
    return carry._replace(state=state, turns=turns, turn=carry.turn + 1)


def prefill(
    model: VisionLanguageModel, params: Params, environment: Environment, question: Question, group: int
) -> Carry:
    """Encode and prefill each question once, then repeat everything for its group."""
    prompts, prompt_slots = question.tokens_PS.shape
    batch = prompts * group
    state = gym.reset(environment, question, group)
    slots = total_slots(environment, prompt_slots)

    with jax.named_scope("encode"):
        pixels_POhwC = gym.render_originals(environment, question.bank)
        originals = pixels_POhwC.shape[1]
        flat = model.encode_images(params, pixels_POhwC.reshape((-1,) + pixels_POhwC.shape[2:]))
        features = jax.tree.map(lambda x: x.reshape((prompts, originals) + x.shape[1:]), flat)

    with jax.named_scope("prefill"):
        start_P = jnp.zeros((prompts,), jnp.int32)
        positions_PSZ, next_P = model.positions(start_P, question.valid_PS, question.feature_PS)
        hidden_PSE, cache = model.forward(
            params,
            question.tokens_PS,
            question.feature_PS,
            features,
            positions_PSZ,
            question.valid_PS,
            model.init_cache(prompts, prompt_slots),
            0,
        )
        logits_PV = model.logits(params, last_valid(hidden_PSE, question.valid_PS))

    each = lambda x: jnp.repeat(x, group, axis=0)  # noqa: E731
    grow = lambda x: jnp.pad(each(x), ((0, 0), (0, 0), (0, slots - prompt_slots), (0, 0)))  # noqa: E731
    cache = KVCache(
        keys=tuple(map(grow, cache.keys)),
        values=tuple(map(grow, cache.values)),
        valid_BS=jnp.pad(each(cache.valid_BS), ((0, 0), (0, slots - prompt_slots))),
    )
    record = write(
        empty_record(batch, slots, model.position_axes, environment.pad_id),
        0,
        each(question.tokens_PS),
        each(question.valid_PS),
        each(question.feature_PS),
        each(positions_PSZ),
        each(next_P),
        sampled=False,
    )
    spare = environment.image_slots(originals) - originals
    features = jax.tree.map(lambda x: jnp.pad(each(x), ((0, 0), (0, spare)) + ((0, 0),) * (x.ndim - 2)), features)
    return Carry(
        turn=jnp.zeros((), jnp.int32),
        at=jnp.full((), prompt_slots, jnp.int32),
        record=record,
        turns=empty_turns(batch, environment.turns, environment.grammar.width),
        state=state,
        cache=cache,
        features=features,
        logits_BV=each(logits_PV),
        count_B=jnp.zeros((batch,), jnp.int32),
    )


class _DecodeCarry(NamedTuple):
    t: Array
    tokens_BT: Array
    logprobs_BT: Array
    allowed_BT: Array
    valid_BT: Array
    next_B: Array
    stop_B: Array
    turn_B: Array  # state of the constraint
    running_B: Array
    cache: KVCache
    logits_BV: Array


def decode(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    carry: Carry,
    keys_B: Array,
    sampling: Sampling,
    script: Script | None,
) -> tuple[Carry, Array, Array]:
    """Sample until every row has closed a call or an answer, or the turn's tokens are used up."""
    batch, capacity = carry.count_B.shape[0], environment.turn_tokens
    no_feature_B1 = jnp.full((batch, 1), -1, jnp.int32)
    first = carry.record.next_B
    if script is not None:
        scripted_BT = jax.lax.dynamic_index_in_dim(script.tokens_BRT, carry.turn, axis=1, keepdims=False)
        scripted_B = jax.lax.dynamic_index_in_dim(script.length_BR, carry.turn, axis=1, keepdims=False)

    constraint = environment.constraint
    free_B = jnp.zeros((batch,), bool) if script is None else scripted_B > 0  # who is scripted is under no constraint

    def body(c: _DecodeCarry) -> _DecodeCarry:
        logits_BV, allowed_B = c.logits_BV, jnp.full((batch,), -1, jnp.int32)
        if constraint is not None:
            left_B = jnp.full((batch,), capacity, jnp.int32) - c.t
            allowed_B = jnp.where(free_B, -1, token_set(constraint, c.turn_B, left_B))
            logits_BV = within_set(constraint, allowed_B, logits_BV)
        token_B = choose(logits_BV, keys_B, carry.count_B + c.t, sampling)
        if script is not None:
            said_B = jax.lax.dynamic_index_in_dim(scripted_BT, c.t, axis=1, keepdims=False)
            token_B = jnp.where(scripted_B > 0, said_B, token_B)
        logprob_B = log_softmax_at(logits_BV, token_B, sampling.temperature)
        token_B = jnp.where(c.running_B, token_B, environment.pad_id)
        stop_B = environment.stops.table[c.stop_B, token_B].astype(jnp.int32)
        running_B = c.running_B & (stop_B != environment.stops.found)
        if script is not None:
            running_B &= (scripted_B == 0) | (c.t + 1 < scripted_B)
        positions_B1Z, next_B = model.positions(c.next_B, c.running_B[:, None], no_feature_B1)
        hidden_B1E, cache = model.forward(
            params,
            token_B[:, None],
            no_feature_B1,
            carry.features,
            positions_B1Z,
            c.running_B[:, None],
            c.cache,
            carry.at + c.t,
        )
        put = lambda rows_BT, value_B: jax.lax.dynamic_update_slice(  # noqa: E731
            rows_BT, value_B[:, None], (jnp.zeros((), jnp.int32), c.t)
        )
        return _DecodeCarry(
            t=c.t + 1,
            tokens_BT=put(c.tokens_BT, token_B),
            logprobs_BT=put(c.logprobs_BT, jnp.where(c.running_B, logprob_B, 0.0)),
            allowed_BT=put(c.allowed_BT, allowed_B),
            valid_BT=put(c.valid_BT, c.running_B),
            next_B=next_B,
            stop_B=stop_B,
            turn_B=c.turn_B if constraint is None else advance(constraint, c.turn_B, token_B),
            running_B=running_B,
            cache=cache,
            logits_BV=model.logits(params, hidden_B1E[:, 0]),
        )

    with jax.named_scope("decode"):
        end = jax.lax.while_loop(
            lambda c: (c.t < capacity) & jnp.any(c.running_B),
            body,
            _DecodeCarry(
                t=jnp.zeros((), jnp.int32),
                tokens_BT=jnp.full((batch, capacity), environment.pad_id, jnp.int32),
                logprobs_BT=jnp.zeros((batch, capacity), jnp.float32),
                allowed_BT=jnp.full((batch, capacity), -1, jnp.int32),
                valid_BT=jnp.zeros((batch, capacity), bool),
                next_B=first,
                stop_B=jnp.zeros((batch,), jnp.int32),
                turn_B=_turn_start(environment, carry.state),
                running_B=~carry.state.done_B,
                cache=carry.cache,
                logits_BV=carry.logits_BV,
            ),
        )
    length_B = jnp.sum(end.valid_BT, axis=1, dtype=jnp.int32)
    no_feature_BT = jnp.full((batch, capacity), -1, jnp.int32)
    positions_BTZ, _ = model.positions(first, end.valid_BT, no_feature_BT)
    record = write(
        carry.record,
        carry.at,
        end.tokens_BT,
        end.valid_BT,
        no_feature_BT,
        positions_BTZ,
        end.next_B,
        sampled=True,
        turn=carry.turn,
        logprobs_BT=end.logprobs_BT,
        allowed_BT=end.allowed_BT,
    )
    carry = carry._replace(
        at=carry.at + end.t,
        record=record,
        cache=end.cache,
        logits_BV=end.logits_BV,
        count_B=carry.count_B + length_B,
    )
    return carry, end.tokens_BT, length_B


def _turn_start(environment: Environment, state: EnvState) -> Array:
    """Where the constraint stands before a turn: rows that must answer may not call."""
    if environment.constraint is None:
        return jnp.zeros_like(state.turns_B)
    return start(environment.constraint, state.turns_B.shape[0], ~gym.must_answer(state))


def see(model: VisionLanguageModel, params: Params, environment: Environment, carry: Carry, slot_B: Array) -> Carry:
    """Render and encode the new views; nothing where no row has one.

    Args:
      slot_B: int32 image slot of each row's new view, -1 for none.
    """
    if not any(tool.image for tool in environment.tools if isinstance(tool, Tool)):
        return carry

    def encode(features: Features) -> Features:
        with jax.named_scope("tool"):
            pixels_BhwC = gym.render_views(environment, carry.state.bank, carry.state.views, slot_B)
        with jax.named_scope("encode"):
            fresh = model.encode_images(params, pixels_BhwC)
            return jax.tree.map(lambda old, new: _put_slot(old, new, slot_B), features, fresh)

    features = jax.lax.cond(jnp.any(slot_B >= 0), encode, lambda features: features, carry.features)
    return carry._replace(features=features)


def hear(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    carry: Carry,
    observation: gym.Observation,
) -> Carry:
    """Pass the observation through the model as one chunk; its views have been seen."""
    with jax.named_scope("observe"):
        first_B = carry.record.next_B
        positions_BWZ, next_B = model.positions(first_B, observation.valid_BW, observation.feature_BW)
        hidden_BWE, cache = model.forward(
            params,
            observation.tokens_BW,
            observation.feature_BW,
            carry.features,
            positions_BWZ,
            observation.valid_BW,
            carry.cache,
            carry.at,
        )
        logits_BV = model.logits(params, last_valid(hidden_BWE, observation.valid_BW))
    record = write(
        carry.record,
        carry.at,
        observation.tokens_BW,
        observation.valid_BW,
        observation.feature_BW,
        positions_BWZ,
        next_B,
        sampled=False,
    )
    return carry._replace(at=carry.at + environment.observation_slots, record=record, cache=cache, logits_BV=logits_BV)


def _put_slot(old_BI: Array, new_B: Array, slot_B: Array) -> Array:
    """Write ``new`` at each row's own image slot; rows with slot -1 keep what they have."""
    here_BI = jnp.arange(old_BI.shape[1])[None, :] == slot_B[:, None]
    mask = here_BI.reshape(here_BI.shape + (1,) * (old_BI.ndim - 2))
    return jnp.where(mask, new_B[:, None], old_BI)
