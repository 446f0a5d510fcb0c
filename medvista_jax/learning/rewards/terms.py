"""What rewards are summed from: terms and signals of a trajectory, float32 ``[B]`` each, on the device."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import AnswerKey, Array, Fault, Kind, Trajectory
from medvista_jax.learning.rewards import formulas
from medvista_jax.text.normalise import answers_equal, normalise_bytes

REPETITION_NGRAM = 4
REPETITION_LEVELS = ((0.60, -3.0), (0.45, -2.0), (0.30, -1.5))
"""Share of repeated 4-grams among the sampled tokens of one turn → penalty; the worst turn counts."""


@struct.dataclass
class RewardTerms:
    """What a reward is made of, float32 ``[B]`` each.

    Attributes:
      total_B: what the advantage sees.
      correct_B: 0 … 1, whether the answer is right, paid or not: evaluation reads it.
      terms: every term by name, for the metrics (``reward_NAME``) and the report.
      include_B: bool; tokens of rows with False stay out of the loss, though the rows count in their group's mean and
        deviation. None: all are in.
      turn_BR: float32 ``[B, R]``, what each turn earned beside ``total_B``, for advantages turn by turn. None: nothing.
    """

    total_B: Array
    correct_B: Array
    terms: dict[str, Array]
    include_B: Array | None = None
    turn_BR: Array | None = None


Reward = Callable[..., RewardTerms]
"""``(trajectory, key)``; presets also take ``accuracy_B`` and settings by name."""


def correctness(trajectory: Trajectory, key: AnswerKey) -> Array:
    """float32 ``[B]``, 1 where the answer equals the key after normalisation."""
    group = trajectory.answer_BN.shape[0] // key.answer_PN.shape[0]
    truth_BN = jnp.repeat(key.answer_PN, group, axis=0)
    answer_BN, length_B = normalise_bytes(trajectory.answer_BN, trajectory.answer_length_B)
    return answers_equal(answer_BN, length_B, truth_BN).astype(jnp.float32)


def taken(trajectory: Trajectory) -> Array:
    """bool ``[B, R]``: the turns that were played."""
    return jnp.arange(trajectory.turns.kind_BR.shape[1])[None, :] < trajectory.turns_B[:, None]


def turns_well_formed(trajectory: Trajectory) -> Array:
    """bool ``[B]``: every turn taken is well formed, whether or not the episode ended with an answer."""
    return jnp.all(trajectory.turns.well_formed_BR | ~taken(trajectory), axis=1)


def well_formed(trajectory: Trajectory) -> Array:
    """bool ``[B]``: every turn taken is well formed and the episode ended with an answer."""
    return turns_well_formed(trajectory) & ~trajectory.truncated_B


def turn_format(trajectory: Trajectory) -> Array:
    """float32 ``[B]``, 0 … 1: the share of the turns taken that are well formed; 0 where no turn was taken."""
    good_BR = trajectory.turns.well_formed_BR & taken(trajectory)
    return jnp.sum(good_BR, axis=1) / jnp.maximum(trajectory.turns_B, 1).astype(jnp.float32)


def answered(trajectory: Trajectory, limit: int | None = None) -> Array:
    """bool ``[B]``: the episode ended with an answer that is not empty and shorter than ``limit`` bytes.

    An answer beyond the environment's ``answer_bytes`` is kept as an empty one, so it counts as too long here.
    """
    kept_B = ~trajectory.truncated_B & (trajectory.answer_length_B > 0)
    return kept_B if limit is None else kept_B & (trajectory.answer_length_B < limit)


def valid_calls(trajectory: Trajectory) -> Array:
    """int32 ``[B]``: tool calls that were carried out."""
    turns = trajectory.turns
    return jnp.sum((turns.kind_BR == Kind.CALL) & (turns.fault_BR == Fault.NONE) & taken(trajectory), axis=1)


def faulty_calls(trajectory: Trajectory) -> Array:
    """int32 ``[B]``: tool calls that were answered by an error."""
    turns = trajectory.turns
    return jnp.sum((turns.kind_BR == Kind.CALL) & (turns.fault_BR != Fault.NONE) & taken(trajectory), axis=1)


def tool_images(trajectory: Trajectory) -> Array:
    """int32 ``[B]``: images that tools returned and the policy was shown, at most one a turn.

    Only the environment can put image embeddings into a sequence, so a policy that writes the image's tokens itself
    gains nothing by it.
    """
    # The latest turn that was begun at each slot, and whether an image stands after it.
    turn_BS = jax.lax.cummax(trajectory.turn_BS, axis=1)
    shown_BS = trajectory.feature_BS >= 0
    count_B = jnp.zeros(turn_BS.shape[0], jnp.int32)
    for turn in range(trajectory.turns.kind_BR.shape[1]):
        count_B += jnp.any(shown_BS & (turn_BS == turn), axis=1)
    return count_B


def sampled_tokens(trajectory: Trajectory) -> Array:
    """float32 ``[B]``: ids that the policy chose; neither the prompt nor what the environment said."""
    return jnp.sum(trajectory.sampled_BS, axis=1).astype(jnp.float32)


def overlong(trajectory: Trajectory, limit: float, cache: float) -> Array:
    """float32 ``[B]``, -1 … 0: DAPO's punishment of length (arXiv 2503.14476, eq. 13) over sampled *tokens*.

    Args:
      limit: L_max; from here on -1.
      cache: L_cache; 0 up to ``limit - cache``, a straight line between.
    """
    return formulas.overlong(sampled_tokens(trajectory), limit, cache)


def adjacent_repeats(trajectory: Trajectory, size: int = 8) -> Array:
    """float32 ``[B]``, 0 … 1: of all pairs of neighbouring ``size``-grams of one turn, the share that are equal."""
    tokens_BS, turn_BS = trajectory.tokens_BS, trajectory.turn_BS
    slots = jnp.arange(tokens_BS.shape[1])

    def ahead(x_BS: Array, by: int, filler: int) -> Array:
        return jnp.where((slots < slots.size - by)[None, :], jnp.roll(x_BS, -by, axis=1), filler)

    pair_BS = (turn_BS >= 0) & (ahead(turn_BS, 2 * size - 1, -1) == turn_BS)
    alike_BS = tokens_BS == ahead(tokens_BS, size, -1)
    equal_BS = pair_BS
    for offset in range(size):
        equal_BS &= ahead(alike_BS, offset, False)
    return jnp.sum(equal_BS, axis=1) / jnp.maximum(jnp.sum(pair_BS, axis=1), 1).astype(jnp.float32)


def repeated_share(trajectory: Trajectory) -> Array:
    """float32 ``[B]``: the share of 4-grams within a turn that occurred before in that turn, for the worst turn.

    Turns shorter than 16 tokens count as 16, so that a short turn with one repeated bracket is not punished.
    """
    tokens_BS, turn_BS = trajectory.tokens_BS, trajectory.turn_BS
    n, slots = REPETITION_NGRAM, tokens_BS.shape[1]
    # A rolling hash stands for the n-gram: 32-bit collisions inside one turn are negligible.
    gram_BS = jnp.zeros(tokens_BS.shape, jnp.uint32)
    same_BS = turn_BS >= 0
    for offset in range(n):
        gram_BS = gram_BS * jnp.uint32(1_000_003) + jnp.roll(tokens_BS, -offset, axis=1).astype(jnp.uint32)
        inside_S = jnp.arange(slots) < slots - offset
        same_BS &= (jnp.roll(turn_BS, -offset, axis=1) == turn_BS) & inside_S[None, :]
    # Sorted by turn, then 4-gram: repeats are equal neighbours of one turn. Slots without a 4-gram go to the end.
    none_BS, turn_sorted_BS, sorted_BS = jax.lax.sort((~same_BS, turn_BS, gram_BS), dimension=1, num_keys=3)
    real_BS = ~none_BS
    like_BS = (sorted_BS[:, 1:] == sorted_BS[:, :-1]) & (turn_sorted_BS[:, 1:] == turn_sorted_BS[:, :-1])
    repeat_BS = real_BS & jnp.pad(like_BS, ((0, 0), (1, 0)))
    share_B = jnp.zeros(tokens_BS.shape[0], jnp.float32)
    for turn in range(trajectory.turns.kind_BR.shape[1]):
        mine_BS = turn_sorted_BS == turn
        repeats_B = jnp.sum(repeat_BS & mine_BS, axis=1)
        grams_B = jnp.maximum(jnp.sum(real_BS & mine_BS, axis=1), 13)
        share_B = jnp.maximum(share_B, repeats_B / grams_B)
    return share_B


def repetition(trajectory: Trajectory) -> Array:
    """float32 ``[B]`` in {-3, -2, -1.5, 0}: extreme, severe, moderate, none."""
    share_B = repeated_share(trajectory)
    penalty_B = jnp.zeros_like(share_B)
    for threshold, penalty in reversed(REPETITION_LEVELS):
        penalty_B = jnp.where(share_B >= threshold, penalty, penalty_B)
    return penalty_B


def plus(reward: Reward, name: str, term: Callable[[Trajectory], Array], weight: float = 1.0) -> Reward:
    """The reward with one more term: ``total + weight * term(trajectory)``.

    Example:
      >>> PRESETS["deepeyes_short"] = plus(deepeyes, "overlong", partial(overlong, limit=900, cache=200))
    """

    def longer(trajectory: Trajectory, key: AnswerKey, *others: Array, **more: Array) -> RewardTerms:
        terms = reward(trajectory, key, *others, **more)
        extra_B = weight * term(trajectory)
        return terms.replace(total_B=terms.total_B + extra_B, terms=terms.terms | {name: extra_B})

    return longer
