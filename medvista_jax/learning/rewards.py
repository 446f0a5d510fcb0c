"""Rewards as pure functions of a trajectory, on the device. Every term stays separate for the metrics.

``vista_r1`` follows VISTA-R1 (arXiv 2511.19773), the template of MedVistaGym: R = R_rep + R_format + R_correct, gated
in that order. The paper names the levels of repetition without their thresholds; ours are below.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import AnswerKey, Array, Trajectory
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
      include_B: bool, False for rows whose tokens stay out of the loss; they count in their group's statistics.
      turn_BR: float32 ``[B, R]``, what each turn earned beside ``total_B``, for advantages turn by turn.
    """

    total_B: Array
    correct_B: Array
    terms: dict[str, Array]
    include_B: Array | None = None
    turn_BR: Array | None = None


Reward = Callable[[Trajectory, AnswerKey], RewardTerms]


def correctness(trajectory: Trajectory, key: AnswerKey) -> Array:
    """float32 ``[B]``, 1 where the answer equals the key after normalisation."""
    group = trajectory.answer_BN.shape[0] // key.answer_PN.shape[0]
    truth_BN = jnp.repeat(key.answer_PN, group, axis=0)
    answer_BN, length_B = normalise_bytes(trajectory.answer_BN, trajectory.answer_length_B)
    return answers_equal(answer_BN, length_B, truth_BN).astype(jnp.float32)


def well_formed(trajectory: Trajectory) -> Array:
    """bool ``[B]``: every turn taken is well formed and the episode ended with an answer."""
    taken_BR = jnp.arange(trajectory.turns.kind_BR.shape[1])[None, :] < trajectory.turns_B[:, None]
    all_B = jnp.all(trajectory.turns.well_formed_BR | ~taken_BR, axis=1)
    return all_B & ~trajectory.truncated_B


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


def vista_r1(trajectory: Trajectory, key: AnswerKey) -> RewardTerms:
    """R_rep ∈ {-3, -2, -1.5, 0}; if 0, plus R_format = ±1; if +1, plus R_correct ∈ {0, 1}."""
    repetition_B = repetition(trajectory)
    format_B = jnp.where(well_formed(trajectory), 1.0, -1.0)
    correct_B = correctness(trajectory, key)
    reached_B = repetition_B == 0.0
    total_B = repetition_B + jnp.where(reached_B, format_B + jnp.where(format_B > 0, correct_B, 0.0), 0.0)
    terms = {"repetition": repetition_B, "format": format_B, "correct": correct_B}
    return RewardTerms(total_B=total_B, correct_B=correct_B, terms=terms)


PRESETS: dict[str, Reward] = {"vista_r1": vista_r1}
