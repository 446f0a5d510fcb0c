"""Advantages of a group of trajectories."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import Array


def group_normalised(reward_B: Array, group: int, epsilon: float = 1e-6) -> Array:
    """GRPO (arXiv 2402.03300): (R - mean) / (std + epsilon) over the group, population standard deviation.

    A group without variance gets zeros.
    """
    reward_PG = reward_B.reshape(-1, group)
    centred_PG = reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True)
    deviation_P1 = jnp.sqrt(jnp.mean(jnp.square(centred_PG), axis=1, keepdims=True))
    # The mean of equal numbers may round to another number, and epsilon is no larger than that error.
    flat_P1 = jnp.max(reward_PG, axis=1, keepdims=True) == jnp.min(reward_PG, axis=1, keepdims=True)
    return jnp.where(flat_P1, 0.0, centred_PG / (deviation_P1 + epsilon)).reshape(-1)
