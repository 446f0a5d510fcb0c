"""Building a trajectory while it happens: slots are written in the order in which the model read them."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, ParsedTurn, Trajectory, Turns
from medvista_jax.environment.gym import Environment, EnvState
from medvista_jax.models.vlm import write_slots


@struct.dataclass
class Record:
    """The per-slot part of :class:`medvista_jax.core.types.Trajectory`, and each row's next rotary position."""

    tokens_BS: Array
    valid_BS: Array
    sampled_BS: Array
    feature_BS: Array
    positions_BSZ: Array
    turn_BS: Array
    logprobs_BS: Array
    allowed_BS: Array
    next_B: Array


def empty_record(batch: int, slots: int, axes: int, pad_id: int) -> Record:
    """Nothing said yet."""
    false_BS = jnp.zeros((batch, slots), bool)
    return Record(
        tokens_BS=jnp.full((batch, slots), pad_id, jnp.int32),
        valid_BS=false_BS,
        sampled_BS=false_BS,
        feature_BS=jnp.full((batch, slots), -1, jnp.int32),
        positions_BSZ=jnp.zeros((batch, slots, axes), jnp.int32),
        turn_BS=jnp.full((batch, slots), -1, jnp.int32),
        logprobs_BS=jnp.zeros((batch, slots), jnp.float32),
        allowed_BS=jnp.full((batch, slots), -1, jnp.int32),
        next_B=jnp.zeros((batch,), jnp.int32),
    )


def write(
    record: Record,
    at: Array | int,
    tokens_BT: Array,
    valid_BT: Array,
    feature_BT: Array,
    positions_BTZ: Array,
    next_B: Array,
    sampled: bool,
    turn: Array | int = -1,
    logprobs_BT: Array | None = None,
    allowed_BT: Array | None = None,
) -> Record:
    """Write a chunk at slots ``at … at + T``.

    Args:
      at, turn: one for all rows, or ``[B]``.
    """
    put = lambda row_BS, chunk_BT: write_slots(row_BS, chunk_BT, at)  # noqa: E731
    sampled_BT = valid_BT if sampled else jnp.zeros_like(valid_BT)
    logprobs_BT = jnp.zeros(tokens_BT.shape, jnp.float32) if logprobs_BT is None else logprobs_BT
    allowed_BT = jnp.full(tokens_BT.shape, -1, jnp.int32) if allowed_BT is None else allowed_BT
    return Record(
        tokens_BS=put(record.tokens_BS, tokens_BT),
        valid_BS=put(record.valid_BS, valid_BT),
        sampled_BS=put(record.sampled_BS, sampled_BT),
        feature_BS=put(record.feature_BS, feature_BT),
        positions_BSZ=put(record.positions_BSZ, positions_BTZ),
        turn_BS=put(record.turn_BS, jnp.where(sampled_BT, jnp.asarray(turn).reshape(-1, 1), -1)),
        logprobs_BS=put(record.logprobs_BS, jnp.where(sampled_BT, logprobs_BT, 0.0)),
        allowed_BS=put(record.allowed_BS, jnp.where(sampled_BT, allowed_BT, -1)),
        next_B=next_B,
    )


def empty_turns(batch: int, turns: int, arguments: int) -> Turns:
    """No turn taken yet."""
    zero_BR = jnp.zeros((batch, turns), jnp.int32)
    return Turns(
        kind_BR=zero_BR,
        fault_BR=zero_BR,
        tool_BR=zero_BR - 1,
        arguments_BRA=jnp.zeros((batch, turns, arguments), jnp.int32),
        well_formed_BR=jnp.zeros((batch, turns), bool),
        length_BR=zero_BR,
    )


def write_turn(turns: Turns, turn: Array | int, parsed: ParsedTurn, length_B: Array, active_B: Array) -> Turns:
    """Note what rows that took this turn did in it.

    Args:
      turn: one for all rows, or ``[B]``.
    """
    here_BR = active_B[:, None] & (jnp.arange(turns.kind_BR.shape[1])[None, :] == jnp.asarray(turn).reshape(-1, 1))

    def put(rows_BR: Array, value_B: Array) -> Array:
        mask = here_BR.reshape(here_BR.shape + (1,) * (rows_BR.ndim - 2))
        return jnp.where(mask, value_B[:, None].astype(rows_BR.dtype), rows_BR)

    return Turns(
        kind_BR=put(turns.kind_BR, parsed.kind_B),
        fault_BR=put(turns.fault_BR, parsed.fault_B),
        tool_BR=put(turns.tool_BR, parsed.tool_B),
        arguments_BRA=put(turns.arguments_BRA, parsed.arguments_BA),
        well_formed_BR=put(turns.well_formed_BR, parsed.well_formed_B),
        length_BR=put(turns.length_BR, length_B),
    )


def total_slots(environment: Environment, prompt_slots: int) -> int:
    """S, the most that a trajectory can take."""
    between = environment.observation_slots * (environment.turns - 1)
    return prompt_slots + environment.turns * environment.turn_tokens + between


def finish(record: Record, turns: Turns, state: EnvState, features) -> Trajectory:
    """The trajectory of a finished episode."""
    return Trajectory(
        tokens_BS=record.tokens_BS,
        valid_BS=record.valid_BS,
        sampled_BS=record.sampled_BS,
        feature_BS=record.feature_BS,
        positions_BSZ=record.positions_BSZ,
        turn_BS=record.turn_BS,
        logprobs_BS=record.logprobs_BS,
        allowed_BS=record.allowed_BS,
        features_BILE=features,
        views=state.views,
        turns=turns,
        turns_B=state.turns_B,
        calls_B=state.calls_B,
        answer_BN=state.answer_BN,
        answer_length_B=state.answer_length_B,
        truncated_B=state.truncated_B,
    )


def pack(trajectory: Trajectory, length: int) -> Trajectory:
    """Move each row's valid slots to the left, in order, and keep ``length`` of them.

    Positions were fixed when the slots were written, so the model sees the same sequence. The caller sees to it that
    no row has more than ``length`` valid slots.
    """
    order_BS = jnp.argsort(~trajectory.valid_BS, axis=1, stable=True)[:, :length]

    def take(rows_BS: Array) -> Array:
        index = order_BS.reshape(order_BS.shape + (1,) * (rows_BS.ndim - 2))
        return jnp.take_along_axis(rows_BS, index, axis=1)

    return trajectory.replace(
        tokens_BS=take(trajectory.tokens_BS),
        valid_BS=take(trajectory.valid_BS),
        sampled_BS=take(trajectory.sampled_BS),
        feature_BS=take(trajectory.feature_BS),
        positions_BSZ=take(trajectory.positions_BSZ),
        turn_BS=take(trajectory.turn_BS),
        logprobs_BS=take(trajectory.logprobs_BS),
        allowed_BS=take(trajectory.allowed_BS),
    )
