"""Which rows carry loss and which rows a group's statistics count. Within a row only sampled ids carry loss, whatever
the settings: what the environment said is never a target."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import Array, Trajectory
from medvista_jax.learning.rewards import RewardTerms


def loss_rows(trajectory: Trajectory, terms: RewardTerms, mask_truncated: bool) -> Array:
    """bool ``[B]``: rows whose sampled ids carry loss.

    Args:
      terms: ``include_B`` is False for rows that the reward wants out, such as Mini-o3's over-turn rows
        (arXiv 2509.07969).
      mask_truncated: leave out episodes that ended without an answer (DAPO's overlong filtering, arXiv 2503.14476).
    """
    rows_B = jnp.ones(trajectory.truncated_B.shape, bool) if terms.include_B is None else terms.include_B
    return rows_B & ~trajectory.truncated_B if mask_truncated else rows_B


def only_rows(trajectory: Trajectory, rows_B: Array) -> Trajectory:
    """The trajectory with no id of the other rows marked as sampled: they are read and carry no loss."""
    return trajectory.replace(sampled_BS=trajectory.sampled_BS & rows_B[:, None])
