"""Where presets are registered, and what they all begin with."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from medvista_jax.core.types import AnswerKey, Array, Kind, Trajectory
from medvista_jax.learning.rewards.terms import Reward, answered, correctness, taken

Outside = Mapping[str, Array]
"""float32 ``[B]`` by name: what the device cannot know."""

PRESETS: dict[str, Reward] = {}
"""Rewards by name. Users add their own."""


def preset(reward: Reward) -> Reward:
    """Registers a reward under the name of its function."""
    PRESETS[reward.__name__] = reward
    return reward


def accuracy(trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None) -> Array:
    """What was judged elsewhere, or whether the answer equals the key: float32 ``[B]``."""
    if accuracy_B is None:
        return correctness(trajectory, key)
    rows = trajectory.turns_B.shape
    if jnp.shape(accuracy_B) != rows:
        raise ValueError(f"accuracy_B must be {list(rows)}, a value for each trajectory, not {jnp.shape(accuracy_B)}")
    return jnp.asarray(accuracy_B, jnp.float32)


def needed(name: str, outside: Outside | None, *wanted: str) -> list[Array]:
    """What comes from outside of the device.

    Raises:
      ValueError: naming what is missing.
    """
    missing = [want for want in wanted if want not in (outside or {})]
    if missing:
        raise ValueError(
            f"reward {name!r} needs outside={{{', '.join(f'{want!r}: float32 [B]' for want in missing)}}}: "
            "the device cannot know it"
        )
    return [jnp.asarray(outside[want], jnp.float32) for want in wanted]


def yes(condition_B: Array) -> Array:
    """float32: 1 where it holds."""
    return condition_B.astype(jnp.float32)


def used(trajectory: Trajectory) -> Array:
    """float32 ``[B]``: 1 where a tool was called, in vain or not."""
    return yes(jnp.any((trajectory.turns.kind_BR == Kind.CALL) & taken(trajectory), axis=1))


def lost_answer(trajectory: Trajectory, limit: int) -> Array:
    """bool ``[B]``: the episode ended with an answer that is empty or too long."""
    return ~trajectory.truncated_B & ~answered(trajectory, limit)
