"""Slot refill: S rows work through a queue of N > S episodes inside one compiled program.

In :func:`medvista_jax.rollout.loop.rollout` a turn lasts as long as its longest row, and the whole batch as long as its
longest episode. Here every row goes at its own pace: it writes at a place of its own, and when its episode is over it
takes the next from a queue on the device, without leaving the loop.

    while episodes are left:
        decode a token for all rows that speak, again and again, until M rows wait
        serve M of those that wait: parse → tool → observation, or store the episode and take the next

Serving works on M rows only, whatever S is, and prompts are prefilled ahead of need, a chunk of slots at every serving:
nobody waits longer than one serving and one chunk.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, Params, Question, Trajectory, Turns
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment, EnvState
from medvista_jax.models.vlm import Features, KVCache, VisionLanguageModel, write_slots
from medvista_jax.rollout.decode import Spoken, Voice, decode_step, open_turn, unconstrained
from medvista_jax.rollout.loop import encode_views, observe
from medvista_jax.rollout.pool import Pool, advance_pool, empty_pool, end_of, promote
from medvista_jax.rollout.record import Record, empty_record, empty_turns, finish, total_slots, write, write_turn
from medvista_jax.rollout.sampling import Sampling, row_keys


@dataclasses.dataclass(frozen=True)
class SlotConfig:
    """How many rows, and how they are served. All static.

    Attributes:
      rows: S, episodes that are played at a time.
      serve: M, rows that are served at a time; a sixteenth of the rows by default.
      prefill: prompts that are prefilled together; by default as many as the rows have groups, at least one.
      prefill_slots: slots of those prompts that are prefilled at one serving; by default all.
    """

    rows: int
    serve: int | None = None
    prefill: int | None = None
    prefill_slots: int | None = None

    def resolved(self, prompts: tuple[int, int], group: int) -> SlotConfig:
        """With the defaults filled in, for ``prompts`` = P, slots of a prompt.

        Raises:
          ValueError: a size below 1.
        """
        rows = min(self.rows, prompts[0] * group)
        sizes = {
            "rows": rows,
            "serve": min(rows, max(1, rows // 16) if self.serve is None else self.serve),
            "prefill": min(prompts[0], -(-rows // group) if self.prefill is None else self.prefill),
            "prefill_slots": prompts[1] if self.prefill_slots is None else min(self.prefill_slots, prompts[1]),
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"SlotConfig.{name} must be at least 1, got {size}")
        return SlotConfig(**sizes)


@struct.dataclass
class SlotStats:
    """int32 scalars.

    Attributes:
      row_steps: decoding steps of all rows.
      useful: those in which a row sampled a token.
      servings: how often rows were served.
    """

    row_steps: Array
    useful: Array
    servings: Array


class Row(NamedTuple):
    """All that belongs to a row; leaves ``[B, …]``, B rows of the S or the M that are served."""

    item_B: Array  # which episode of the queue, N for none
    at_B: Array  # next slot of the row's sequence
    t_B: Array  # tokens sampled in this turn
    count_B: Array  # tokens sampled in this episode
    since_B: Array  # step of the last token: who has waited longest is served first
    free_B: Array  # under no constraint in this turn
    said: Spoken  # this turn's tokens, leaves [B, T]
    voice: Voice
    record: Record
    turns: Turns
    state: EnvState  # without the bank, which is the queue's
    features: Features


class _Carry(NamedTuple):
    row: Row
    pool: Pool
    next_item: Array
    done: Trajectory  # [N, …]
    stats: SlotStats


class _Play(NamedTuple):
    """What does not change while the loop runs."""

    model: VisionLanguageModel
    params: Params
    environment: Environment
    question: Question
    keys_N: Array
    group: int
    sampling: Sampling
    serve: int
    chunk: int

    @property
    def items(self) -> int:
        return self.question.tokens_PS.shape[0] * self.group


def rollout_slots(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    question: Question,
    key: Array,
    group: int,
    sampling: Sampling,
    config: SlotConfig,
) -> tuple[Trajectory, SlotStats]:
    """:func:`medvista_jax.rollout.loop.rollout` with S rows for N = P * group episodes.

    Args:
      model, group, config: static.

    Returns:
      The trajectories of all N episodes, in the order of the plain loop, with the same tokens for the same key (its
      log-probabilities to 1e-5: slots lie elsewhere); and how well the rows were used.

    Raises:
      ValueError: a size in ``config`` that is below 1.
    """
    config = config.resolved(question.tokens_PS.shape, group)
    keys_N = row_keys(key, question.tokens_PS.shape[0], group)
    play = _Play(model, params, environment, question, keys_N, group, sampling, config.serve, config.prefill_slots)
    pool = empty_pool(model, params, environment, question, config.prefill, config.prefill_slots)
    zero = jnp.zeros((), jnp.int32)
    carry = _Carry(
        row=_vacant(play, config.rows, pool),
        pool=pool,
        next_item=zero,
        done=_blank(play, pool),
        stats=SlotStats(zero, zero, zero),
    )

    def busy(carry: _Carry) -> Array:
        return (carry.next_item < play.items) | jnp.any(carry.row.item_B < play.items)

    carry = jax.lax.while_loop(busy, lambda carry: _serve(play, _speak(play, _prefill(play, carry))), carry)
    return carry.done, carry.stats


def _prefill(play: _Play, carry: _Carry) -> _Carry:
    """A chunk more of the coming prompts, which are handed out as soon as they are wanted."""
    common = (play.model, play.params)
    pool = advance_pool(*common, play.environment, play.question, carry.pool, play.chunk)
    return carry._replace(pool=promote(*common, pool, carry.next_item // play.group))


def _ready_items(play: _Play, pool: Pool) -> Array:
    """int32 scalar: episodes whose prompts are prefilled are those before this one."""
    return jnp.minimum((pool.base + pool.coming.hidden_QE.shape[0]) * play.group, play.items)


def _speak(play: _Play, carry: _Carry) -> _Carry:
    """Decode until M rows can be served, nobody speaks, or rows starve while prompts are still being prefilled."""
    ready = carry.next_item < _ready_items(play, carry.pool)
    left = carry.next_item < play.items

    def go_on(c: tuple[Row, SlotStats]) -> Array:
        row, stats = c
        silent_B = ~row.voice.running_B
        vacant_B = row.item_B == play.items
        served = jnp.sum(silent_B & (~vacant_B | ready))
        starving = jnp.any(vacant_B) & left & ~ready & (stats.row_steps > carry.stats.row_steps)
        return jnp.any(row.voice.running_B) & (served < play.serve) & ~starving

    row, stats = jax.lax.while_loop(go_on, lambda c: _step(play, *c), (carry.row, carry.stats))
    return carry._replace(row=row, stats=stats)


def _step(play: _Play, row: Row, stats: SlotStats) -> tuple[Row, SlotStats]:
    """A token of every row that speaks."""
    rows_B = jnp.arange(row.item_B.shape[0])
    turn_B = jnp.minimum(row.state.turns_B, play.environment.turns - 1)
    limit_B = row.state.turn_tokens_BR[rows_B, turn_B]
    with jax.named_scope("decode"):
        voice, spoken = decode_step(
            play.model,
            play.params,
            play.environment,
            row.voice,
            row.features,
            row.at_B,
            limit_B - row.t_B,
            play.keys_N[jnp.minimum(row.item_B, play.items - 1)],
            row.count_B,
            row.free_B,
            play.sampling,
        )
    said_B = spoken.said_B
    place_B = jnp.where(said_B, row.t_B, play.environment.turn_tokens)  # out of bounds: not written
    put = lambda row_BT, value_B: row_BT.at[rows_B, place_B].set(value_B, mode="drop")  # noqa: E731
    stats = stats.replace(row_steps=stats.row_steps + len(rows_B), useful=stats.useful + jnp.sum(said_B))
    row = row._replace(
        at_B=row.at_B + said_B,
        t_B=row.t_B + said_B,
        count_B=row.count_B + said_B,
        since_B=jnp.where(said_B, stats.row_steps, row.since_B),
        said=jax.tree.map(put, row.said, spoken),
        voice=voice,
    )
    return row, stats


def _serve(play: _Play, carry: _Carry) -> _Carry:
    """Carry out the turns of M rows that have ended theirs; store what is over, and begin what comes next."""
    row = carry.row
    rows, none = row.item_B.shape[0], play.items
    waits_B = ~row.voice.running_B & ((row.item_B < none) | (carry.next_item < none))
    order_B = jnp.argsort(jnp.where(waits_B, row.since_B, jnp.iinfo(jnp.int32).max))
    index_M = order_B[: play.serve]
    chosen_M = waits_B[index_M]
    mine = jax.tree.map(lambda leaf: leaf[index_M], row)
    mine = mine._replace(item_B=jnp.where(chosen_M, mine.item_B, none))

    mine, over_M = _end_turn(play, mine)
    done = finish(mine.record, mine.turns, mine.state, mine.features)
    store_M = jnp.where(over_M, mine.item_B, none)
    done = jax.tree.map(lambda all_N, new: all_N.at[store_M].set(new, mode="drop"), carry.done, done)

    vacant_M = chosen_M & (over_M | (mine.item_B == none))
    next_M = carry.next_item + jnp.cumsum(vacant_M) - 1
    begins_M = vacant_M & (next_M < _ready_items(play, carry.pool))
    mine = _begin(play, carry.pool, mine, jnp.where(begins_M, next_M, none), begins_M)
    mine = mine._replace(item_B=jnp.where(vacant_M & ~begins_M, none, mine.item_B))
    mine = _open(play, mine)

    back_M = jnp.where(chosen_M, index_M, rows)
    row = jax.tree.map(lambda old, new: old.at[back_M].set(new, mode="drop"), row, mine)
    stats = carry.stats.replace(servings=carry.stats.servings + 1)
    return _Carry(row, carry.pool, carry.next_item + jnp.sum(begins_M), done, stats)


def _end_turn(play: _Play, row: Row) -> tuple[Row, Array]:
    """What follows a turn: parse, tool, observation. Also bool ``[B]``: rows whose episode is over.

    Rows without an episode have no turn; nothing happens to them.
    """
    environment, playing_B = play.environment, row.item_B < play.items
    prompt_B = jnp.minimum(row.item_B, play.items - 1) // play.group
    state = row.state.replace(
        bank=jax.tree.map(lambda leaf: leaf[prompt_B], play.question.bank), done_B=row.state.done_B | ~playing_B
    )
    active_B, turn_B = ~state.done_B, state.turns_B
    length_B = jnp.where(playing_B, row.t_B, 0)
    record = _write_turn_slots(play, row, length_B)
    parsed = gym.read(environment, row.said.token_B, length_B)
    state, observation = gym.act(environment, state, parsed)
    turns = write_turn(row.turns, turn_B, observation.parsed, length_B, active_B)
    features = encode_views(play.model, play.params, environment, state, row.features, observation.slot_B)
    cache, logits_BV = row.voice.cache, row.voice.logits_BV

    def hear() -> tuple[Record, KVCache, Array]:
        new, heard, heard_BV = observe(play.model, play.params, record, features, cache, row.at_B, observation)
        # A row at its end has no room for a chunk: the write of nothing would fall on its last turn.
        spoke_B = jnp.any(observation.valid_BW, axis=1)
        return _where(spoke_B, new, record), heard, _where(spoke_B, heard_BV, logits_BV)

    silence = lambda: (record, cache, logits_BV)  # noqa: E731
    record, cache, logits_BV = jax.lax.cond(jnp.any(observation.valid_BW), hear, silence)
    row = row._replace(
        at_B=row.at_B + end_of(observation.valid_BW),
        record=record,
        turns=turns,
        state=state.replace(bank=None),
        features=features,
        voice=row.voice._replace(cache=cache, logits_BV=logits_BV),
    )
    return row, playing_B & state.done_B


def _write_turn_slots(play: _Play, row: Row, length_B: Array) -> Record:
    """The record with the turn that was sampled."""
    said, first_B = row.said, row.at_B - length_B
    valid_BT = jnp.arange(said.token_B.shape[1])[None, :] < length_B[:, None]
    none_BT = jnp.full(valid_BT.shape, -1, jnp.int32)
    positions_BTZ, next_B = play.model.positions(row.record.next_B, valid_BT, none_BT)
    return write(
        row.record,
        first_B,
        jnp.where(valid_BT, said.token_B, play.environment.pad_id),
        valid_BT,
        none_BT,
        positions_BTZ,
        next_B,
        sampled=True,
        turn=row.state.turns_B,
        logprobs_BT=said.logprob_B,
        allowed_BT=said.allowed_B,
    )


def _begin(play: _Play, pool: Pool, row: Row, item_B: Array, begins_B: Array) -> Row:
    """Rows that begin an episode of the queue, its prompt copied from the pool; the others as they are."""
    prompt_B = jnp.minimum(item_B, play.items - 1) // play.group
    place_B = jnp.clip(prompt_B - pool.base, 0, pool.coming.hidden_QE.shape[0] - 1)
    question = jax.tree.map(lambda leaf: leaf[prompt_B], play.question)
    rows, slots = row.record.tokens_BS.shape
    start_B = jnp.zeros((rows,), jnp.int32)
    positions_BSZ, next_B = play.model.positions(start_B, question.valid_PS, question.feature_PS)
    record = write(
        empty_record(rows, slots, play.model.position_axes, play.environment.pad_id),
        0,
        question.tokens_PS,
        question.valid_PS,
        question.feature_PS,
        positions_BSZ,
        next_B,
        sampled=False,
    )
    fresh = row._replace(
        item_B=item_B,
        at_B=end_of(question.valid_PS),
        count_B=start_B,
        record=record,
        turns=empty_turns(rows, play.environment.turns, play.environment.grammar.width),
        state=gym.reset(play.environment, question, 1).replace(bank=None),
        features=_with_room(play, jax.tree.map(lambda leaf: leaf[place_B], pool.ready.features)),
        voice=row.voice._replace(
            cache=_copy_prompt(pool.ready.cache, place_B, row.voice.cache, question.tokens_PS.shape[1]),
            logits_BV=pool.logits_QV[place_B],
        ),
    )
    return _where(begins_B, fresh, row)


def _where(mask_B: Array, new, old):
    """Rows of one tree or of another."""
    pick = lambda new, old: jnp.where(mask_B.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)  # noqa: E731
    return jax.tree.map(pick, new, old)


def _copy_prompt(pool: KVCache, place_B: Array, cache: KVCache, prompt_slots: int) -> KVCache:
    """Each row's own prompt at its first slots; nothing valid behind it."""

    def copy(old_B: Array, pool_Q: Array, axis: int) -> Array:
        return write_slots(old_B, jax.lax.slice_in_dim(pool_Q, 0, prompt_slots, axis=axis)[place_B], 0, axis)

    return KVCache(
        keys=tuple(copy(old, new, 3) for old, new in zip(cache.keys, pool.keys, strict=True)),
        values=tuple(copy(old, new, 2) for old, new in zip(cache.values, pool.values, strict=True)),
        valid_BS=write_slots(jnp.zeros_like(cache.valid_BS), pool.valid_BS[place_B][:, :prompt_slots], 0),
    )


def _open(play: _Play, row: Row) -> Row:
    """Every row before the first token of its coming turn; those without one are silent."""
    playing_B = (row.item_B < play.items) & ~row.state.done_B
    voice = open_turn(play.environment, row.state, row.voice.logits_BV, row.record.next_B, row.voice.cache)
    return row._replace(
        t_B=jnp.zeros_like(row.t_B),
        free_B=unconstrained(play.environment, row.state),
        voice=voice._replace(running_B=playing_B),
    )


def _with_room(play: _Play, features: Features) -> Features:
    """Features of originals, leaves ``[B, O, L, …]``, with empty slots for the views to come."""
    originals = play.question.bank.window_PO2.shape[1]
    spare = play.environment.image_slots(originals) - originals
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, spare)) + ((0, 0),) * (x.ndim - 2)), features)


def _zeros(rows: int, tree):
    """Zeros of the tree's leaves with another first axis."""
    return jax.tree.map(lambda leaf: jnp.zeros((rows,) + leaf.shape[1:], leaf.dtype), tree)


def _vacant(play: _Play, rows: int, pool: Pool) -> Row:
    """Rows without an episode."""
    environment = play.environment
    slots = total_slots(environment, play.question.tokens_PS.shape[1])
    zero_B, no_BT = jnp.zeros((rows,), jnp.int32), jnp.zeros((rows, environment.turn_tokens), jnp.int32)
    state = _zeros(rows, jax.eval_shape(lambda: gym.reset(environment, play.question, 1).replace(bank=None)))
    return Row(
        item_B=jnp.full((rows,), play.items, jnp.int32),
        at_B=zero_B,
        t_B=zero_B,
        count_B=zero_B,
        since_B=zero_B,
        free_B=zero_B > 0,
        said=Spoken(no_BT, no_BT.astype(jnp.float32), no_BT, no_BT > 0),
        voice=Voice(
            logits_BV=_zeros(rows, pool.logits_QV),
            next_B=zero_B,
            stop_B=zero_B,
            turn_B=zero_B,
            running_B=zero_B > 0,
            cache=play.model.init_cache(rows, slots),
        ),
        record=empty_record(rows, slots, play.model.position_axes, environment.pad_id),
        turns=empty_turns(rows, environment.turns, environment.grammar.width),
        state=state.replace(done_B=zero_B == 0),
        features=_with_room(play, _zeros(rows, pool.ready.features)),
    )


def _blank(play: _Play, pool: Pool) -> Trajectory:
    """Room for the trajectories of all episodes."""
    row = jax.eval_shape(lambda: _vacant(play, 1, pool))
    return _zeros(play.items, jax.eval_shape(finish, row.record, row.turns, row.state, row.features))
