"""Advantages of a group of trajectories: what a row earned, compared with the other rows of its prompt.

Every function takes ``reward_B`` (float32, rows of a group side by side) and gives float32 ``[B]``. ``counted_B``
(bool) keeps rows out of the group's statistics; such rows get 0. A group without variance gets exact zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from medvista_jax.core.types import Array

Advantage = Callable[[Array, int, Array | None], Array]
"""``(reward_B, group, counted_B) -> advantage_B``."""


class GroupStatistics(NamedTuple):
    """Of the counted rows of each group.

    Attributes:
      centred_PG: reward minus the mean of the counted rows.
      counted_PG: bool.
      count_P1: float32, how many count, at least 1.
      flat_P1: bool, the counted rewards are all alike, or there are none.
    """

    centred_PG: Array
    counted_PG: Array
    count_P1: Array
    flat_P1: Array


def group_statistics(reward_B: Array, group: int, counted_B: Array | None = None) -> GroupStatistics:
    """Means over groups and which groups are flat."""
    reward_PG = reward_B.reshape(-1, group)
    counted_PG = jnp.ones(reward_PG.shape, bool) if counted_B is None else counted_B.reshape(-1, group)
    count_P1 = jnp.maximum(jnp.sum(counted_PG, axis=1, keepdims=True), 1).astype(jnp.float32)
    mean_P1 = jnp.sum(jnp.where(counted_PG, reward_PG, 0.0), axis=1, keepdims=True) / count_P1
    # Compared by their extremes: the mean of equal numbers may round to another number.
    highest_P1 = jnp.max(jnp.where(counted_PG, reward_PG, -jnp.inf), axis=1, keepdims=True)
    lowest_P1 = jnp.min(jnp.where(counted_PG, reward_PG, jnp.inf), axis=1, keepdims=True)
    return GroupStatistics(reward_PG - mean_P1, counted_PG, count_P1, highest_P1 <= lowest_P1)


def _settled(advantage_PG: Array, of: GroupStatistics) -> Array:
    """``[B]``, with zeros for flat groups and for rows that do not count."""
    return jnp.where(of.counted_PG & ~of.flat_P1, advantage_PG, 0.0).reshape(-1)


def group_normalised(reward_B: Array, group: int, counted_B: Array | None = None, epsilon: float = 1e-6) -> Array:
    """GRPO (arXiv 2402.03300): (R - mean) / (std + epsilon) over the group, population standard deviation."""
    of = group_statistics(reward_B, group, counted_B)
    squares_PG = jnp.where(of.counted_PG, jnp.square(of.centred_PG), 0.0)
    deviation_P1 = jnp.sqrt(jnp.sum(squares_PG, axis=1, keepdims=True) / of.count_P1)
    return _settled(of.centred_PG / (deviation_P1 + epsilon), of)


def group_centred(reward_B: Array, group: int, counted_B: Array | None = None) -> Array:
    """R - mean over the group: Pixel-Reasoner (arXiv 2505.15966), and the advantage of Dr. GRPO (arXiv 2503.20783).

    Dr. GRPO also divides the loss by a constant: ``normalisation="constant"`` of
    :class:`medvista_jax.learning.grpo_config.GRPOConfig`.
    """
    of = group_statistics(reward_B, group, counted_B)
    return _settled(of.centred_PG, of)


def leave_one_out(reward_B: Array, group: int, counted_B: Array | None = None) -> Array:
    """RLOO (arXiv 2402.14740, eq. 10): R minus the mean of the *other* rows of the group; 0 for a row on its own."""
    of = group_statistics(reward_B, group, counted_B)
    return _settled(of.centred_PG * of.count_P1 / jnp.maximum(of.count_P1 - 1.0, 1.0), of)


ADVANTAGES: dict[str, Advantage] = {
    "grpo": group_normalised,
    "mean": group_centred,
    "dr_grpo": group_centred,
    "rloo": leave_one_out,
}
"""By name. ``"rloo_turns"`` is :func:`turn_leave_one_out`, which also needs the turns."""


def returns_to_go(turn_reward_BR: Array, outcome_B: Array, turns_B: Array, discount: float) -> Array:
    """What is still to come at each turn: ``G_r = Σ_{q ≥ r} γ^(q - r) ρ_q + γ^(T - 1 - r) R``, 0 from turn T on.

    Args:
      turn_reward_BR: float32 ρ, what each turn earned by itself.
      outcome_B: float32 R, what the whole episode earned, paid at its last turn.
      turns_B: int32 T, turns taken.
      discount: γ.
    """
    turns_R = jnp.arange(turn_reward_BR.shape[1])
    paid_BR = jnp.where(turns_R[None, :] == turns_B[:, None] - 1, outcome_B[:, None], 0.0)
    earned_BR = jnp.where(turns_R[None, :] < turns_B[:, None], turn_reward_BR, 0.0) + paid_BR
    ahead_RR = turns_R[None, :] - turns_R[:, None]  # row: the turn asked about; column: a turn that pays
    weight_RR = jnp.where(ahead_RR >= 0, jnp.float32(discount) ** jnp.maximum(ahead_RR, 0), 0.0)
    return jnp.sum(weight_RR[None] * earned_BR[:, None, :], axis=2)


def turn_leave_one_out(
    turn_reward_BR: Array,
    outcome_B: Array,
    turns_B: Array,
    group: int,
    discount: float = 1.0,
    counted_B: Array | None = None,
) -> Array:
    """Leave-one-out with credit turn by turn: float32 ``[B, R]``, 0 at turns that were not taken.

    ``A_{b,r} = G_{b,r} - mean over b' ≠ b of the group of G_{b', min(r, T_b' - 1)}`` with the returns of
    :func:`returns_to_go`. A row that ended earlier stands in with the return of its last turn, so that every turn has
    a baseline, and one that does not depend on what row b did (which keeps the gradient unbiased, as RLOO's is).
    Without turn rewards and without discount it is RLOO (arXiv 2402.14740) at every turn. Credit from a turn onwards
    follows MT-GRPO (arXiv 2505.11821), whose baseline includes the row itself.
    """
    capacity = turn_reward_BR.shape[1]
    return_BR = returns_to_go(turn_reward_BR, outcome_B, turns_B, discount)
    turns_R = jnp.arange(capacity)
    last_BR = jnp.clip(jnp.minimum(turns_R[None, :], turns_B[:, None] - 1), 0)
    standing_BR = jnp.take_along_axis(return_BR, last_BR, axis=1)
    by_turn = [leave_one_out(standing_BR[:, turn], group, counted_B) for turn in range(capacity)]
    return jnp.where(turns_R[None, :] < turns_B[:, None], jnp.stack(by_turn, axis=1), 0.0)


def per_token(advantage_BR: Array, turn_BS: Array) -> Array:
    """The advantage of the turn that a sampled id belongs to: float32 ``[B, S]``, 0 where nothing was sampled."""
    here_BS = jnp.take_along_axis(advantage_BR, jnp.maximum(turn_BS, 0), axis=1)
    return jnp.where(turn_BS >= 0, here_BS, 0.0)
