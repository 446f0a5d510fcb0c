"""The multi-turn rollout: one pure function, one compiled program.

    encode originals → prefill once a prompt → repeat the cache for the group
      → [ decode until a stop → parse → tool → observation → its chunk through the model ] × turns

All rows write at one index; a validity mask and per-row rotary positions make ragged turns exact. The steps of a turn
are functions of their own, for :mod:`medvista_jax.rollout.host_loop` pauses between them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.layout import constrain, constrain_tree, platform, shards
from medvista_jax.core.types import Array, Params, Question, Trajectory, Turns
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment, EnvState
from medvista_jax.models.vlm import (
    Features,
    KVCache,
    VisionLanguageModel,
    cut_cache,
    grow_cache,
    last_valid,
    paste_cache,
    spread_cache,
    spread_features,
    write_slots,
)
from medvista_jax.rollout.decode import Forced, Voice, decode_step, open_turn, unconstrained
from medvista_jax.rollout.encode import encode_images
from medvista_jax.rollout.pool import encode_originals
from medvista_jax.rollout.record import (
    Record,
    empty_record,
    empty_turns,
    finish,
    total_slots,
    write,
    write_turn,
)
from medvista_jax.rollout.sampling import Sampling, row_keys
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
    return play_rows(model, params, environment, question, keys_B, sampling, script)


def play_rows(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    question: Question,
    keys_B: Array,
    sampling: Sampling,
    script: Script | None = None,
) -> Trajectory:
    """:func:`rollout` with a key a row, B of them for P prompts."""
    carry = prefill(model, params, environment, question, keys_B.shape[0] // question.tokens_PS.shape[0])

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

    features = encode_originals(model, params, environment, question.bank)
    originals = question.bank.window_PO2.shape[1]
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
    # Grown first: the copies then are the cache itself, and no others exist beside it.
    cache = spread_cache(jax.tree.map(each, grow_cache(cache, slots)))
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
        record=constrain_tree(record, "batch"),
        turns=empty_turns(batch, environment.turns, environment.grammar.width),
        state=state,
        cache=cache,
        features=spread_features(features),
        logits_BV=constrain(each(logits_PV), "batch", "vocabulary"),
        count_B=jnp.zeros((batch,), jnp.int32),
    )


READ_WHOLE = 1 << 20
"""Bytes of a cache that is read to its end at every step: what lies in a core's own cache costs next to nothing."""


def read_lengths(cache: KVCache, turn_tokens: int, observation_slots: int, turns: int) -> tuple[int, ...]:
    """How many slots of the cache a turn may have to read, ascending, the last: all of them.

    A step reads all slots of a static length, and most lie empty in the first turns. Each length is a decoding loop of
    its own in the compiled program, so there are three at most, each at least a quarter shorter than the next. On an
    accelerator all are read: the part would be a copy, and memory is what a rollout there is short of.
    """
    slots = cache.valid_BS.shape[1]
    lengths = [slots]
    if (
        platform() == "cpu"
        and sum(leaf.size * leaf.dtype.itemsize for leaf in (*cache.keys, *cache.values)) > READ_WHOLE
    ):
        for turn in range(1, turns):
            end = slots - turn * (turn_tokens + observation_slots)  # where the turn that is so far from the last ends
            if end <= 0.75 * lengths[-1] and len(lengths) < 3:
                lengths.append(end)
    return tuple(reversed(lengths))


class _TurnCarry(NamedTuple):
    t: Array
    tokens_BT: Array
    logprobs_BT: Array
    allowed_BT: Array
    valid_BT: Array
    voice: Voice


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
    first = carry.record.next_B
    limit_B = jax.lax.dynamic_index_in_dim(carry.state.turn_tokens_BR, carry.turn, axis=1, keepdims=False)
    free_B = unconstrained(environment, carry.state)
    if script is not None:
        said_BT = jax.lax.dynamic_index_in_dim(script.tokens_BRT, carry.turn, axis=1, keepdims=False)
        length_B = jax.lax.dynamic_index_in_dim(script.length_BR, carry.turn, axis=1, keepdims=False)
        free_B |= length_B > 0

    def body(c: _TurnCarry) -> _TurnCarry:
        forced = None
        if script is not None:
            said_B = jax.lax.dynamic_index_in_dim(said_BT, c.t, axis=1, keepdims=False)
            forced = Forced(said_B, length_B > 0, c.t + 1 >= length_B)
        voice, spoken = decode_step(
            model,
            params,
            environment,
            c.voice,
            carry.features,
            carry.at + c.t,
            limit_B - c.t,
            keys_B,
            carry.count_B + c.t,
            free_B,
            sampling,
            forced,
        )
        put = lambda rows_BT, value_B: write_slots(rows_BT, value_B[:, None], c.t)  # noqa: E731
        return _TurnCarry(
            t=c.t + 1,
            tokens_BT=put(c.tokens_BT, spoken.token_B),
            logprobs_BT=put(c.logprobs_BT, spoken.logprob_B),
            allowed_BT=put(c.allowed_BT, spoken.allowed_B),
            valid_BT=put(c.valid_BT, spoken.said_B),
            voice=voice,
        )

    def speak(slots: int, cache: KVCache) -> _TurnCarry:
        """The whole turn, with no more of the cache than its first slots."""
        whole = slots == cache.valid_BS.shape[1]
        near = cache if whole else cut_cache(cache, slots)
        start = _TurnCarry(
            t=jnp.zeros((), jnp.int32),
            tokens_BT=jnp.full((batch, capacity), environment.pad_id, jnp.int32),
            logprobs_BT=jnp.zeros((batch, capacity), jnp.float32),
            allowed_BT=jnp.full((batch, capacity), -1, jnp.int32),
            valid_BT=jnp.zeros((batch, capacity), bool),
            voice=open_turn(environment, carry.state, carry.logits_BV, first, near),
        )
        end = jax.lax.while_loop(lambda c: (c.t < capacity) & jnp.any(c.voice.running_B), body, start)
        cache = end.voice.cache if whole else paste_cache(cache, end.voice.cache)
        return end._replace(voice=end.voice._replace(cache=cache))

    with jax.named_scope("decode"):
        lengths = read_lengths(carry.cache, capacity, environment.observation_slots, environment.turns)
        enough = jnp.argmax(jnp.asarray(lengths) >= carry.at + capacity)
        end = jax.lax.switch(enough, [partial(speak, slots) for slots in lengths], carry.cache)
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
        end.voice.next_B,
        sampled=True,
        turn=carry.turn,
        logprobs_BT=end.logprobs_BT,
        allowed_BT=end.allowed_BT,
    )
    carry = carry._replace(
        at=carry.at + end.t,
        record=record,
        cache=end.voice.cache,
        logits_BV=end.voice.logits_BV,
        count_B=carry.count_B + length_B,
    )
    return carry, end.tokens_BT, length_B


def see(model: VisionLanguageModel, params: Params, environment: Environment, carry: Carry, slot_B: Array) -> Carry:
    """:func:`encode_views` of a batch between two steps."""
    return carry._replace(features=encode_views(model, params, environment, carry.state, carry.features, slot_B))


def encode_views(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    state: EnvState,
    features: Features,
    slot_B: Array,
) -> Features:
    """The features with those of the new views, which are rendered and encoded; nothing where no row has one.

    Args:
      slot_B: int32 image slot of each row's new view, -1 for none.
    """
    if not any(tool.image for tool in environment.tools if isinstance(tool, Tool)):
        return features

    def encode(features: Features) -> Features:
        with jax.named_scope("tool"):
            pixels_BhwC = gym.render_views(environment, state.bank, state.views, slot_B)
        with jax.named_scope("encode"):
            fresh = encode_images(model, params, pixels_BhwC)
            return jax.tree.map(lambda old, new: _put_slot(old, new, slot_B), features, fresh)

    return jax.lax.cond(jnp.any(slot_B >= 0), encode, lambda features: features, features)


def hear(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    carry: Carry,
    observation: gym.Observation,
) -> Carry:
    """:func:`observe` of a batch between two steps."""
    record, cache, logits_BV = observe(model, params, carry.record, carry.features, carry.cache, carry.at, observation)
    return carry._replace(at=carry.at + environment.observation_slots, record=record, cache=cache, logits_BV=logits_BV)


def observe(
    model: VisionLanguageModel,
    params: Params,
    record: Record,
    features: Features,
    cache: KVCache,
    at: Array,
    observation: gym.Observation,
) -> tuple[Record, KVCache, Array]:
    """Pass the observation, whose views have been encoded, through the model as one chunk.

    Args:
      at: int32 first slot of the chunk, one for all rows or ``[B]``.

    Returns:
      The record, the cache, and the logits ``[B, V]`` behind it; rows without an observation have none of meaning.
    """
    with jax.named_scope("observe"):
        positions_BWZ, next_B = model.positions(record.next_B, observation.valid_BW, observation.feature_BW)
        seen = (observation.tokens_BW, observation.feature_BW, positions_BWZ, observation.valid_BW)
        cache, last_BE = _read_observation(model, params, features, cache, at, seen)
        logits_BV = model.logits(params, last_BE)
    said = (observation.tokens_BW, observation.valid_BW, observation.feature_BW, positions_BWZ, next_B)
    return write(record, at, *said, sampled=False), cache, logits_BV


SLOTS_AT_ONCE = 2048
"""Of an observation, a device, on an accelerator: beside a full cache there is no room for the activations of more."""


def observation_pieces(batch: int, width: int) -> int:
    """In how many equal pieces the chunk of an observation passes through the model."""
    if platform() == "cpu":
        return 1
    rows = batch // shards("batch", batch)
    return next(n for n in range(1, width + 1) if width % n == 0 and (rows * width // n <= SLOTS_AT_ONCE or n == width))


def _read_observation(
    model: VisionLanguageModel,
    params: Params,
    features: Features,
    cache: KVCache,
    at: Array,
    seen: tuple[Array, Array, Array, Array],
) -> tuple[KVCache, Array]:
    """The cache with the chunk, and the hidden state ``[B, E]`` of each row's last valid slot.

    Args:
      seen: tokens, features, positions and validity of the chunk's slots, ``[B, W, …]``.
    """
    batch, width = seen[0].shape
    size = width // observation_pieces(batch, width)

    def read(n: Array | int, cache: KVCache) -> tuple[Array, Array, KVCache]:
        part = lambda x_BW: jax.lax.dynamic_slice_in_dim(x_BW, n * size, size, axis=1)  # noqa: E731
        tokens_BT, feature_BT, positions_BTZ, valid_BT = map(part, seen) if size < width else seen
        hidden_BTE, cache = model.forward(
            params, tokens_BT, feature_BT, features, positions_BTZ, valid_BT, cache, at + n * size
        )
        return last_valid(hidden_BTE, valid_BT), jnp.any(valid_BT, axis=1), cache

    if size == width:
        last_BE, _, cache = read(0, cache)
        return cache, last_BE

    def go_on(n: Array, carry: tuple[KVCache, Array]) -> tuple[KVCache, Array]:
        cache, last_BE = carry
        later_BE, goes_on_B, cache = read(n, cache)
        return cache, jnp.where(goes_on_B[:, None], later_BE, last_BE)

    last = jax.eval_shape(read, 0, cache)[0]
    return jax.lax.fori_loop(0, width // size, go_on, (cache, jnp.zeros(last.shape, last.dtype)))


def _put_slot(old_BI: Array, new_B: Array, slot_B: Array) -> Array:
    """Write ``new`` at each row's own image slot; rows with slot -1 keep what they have."""
    here_BI = jnp.arange(old_BI.shape[1])[None, :] == slot_B[:, None]
    mask = here_BI.reshape(here_BI.shape + (1,) * (old_BI.ndim - 2))
    return jnp.where(mask, new_B[:, None], old_BI)
