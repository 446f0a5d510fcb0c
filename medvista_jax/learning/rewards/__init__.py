"""Rewards as pure functions of a trajectory, on the device. Every term stays separate for the metrics.

:data:`PRESETS` has them by name: MedVistaGym's template ``vista_r1`` and what its peers have published. Their settings
for the optimiser are in :data:`RECIPES`. ``python -m medvista_jax.learning.rewards --list`` prints them.
"""

from medvista_jax.learning.rewards import group_presets  # noqa: F401  registers its presets
from medvista_jax.learning.rewards.presets import vista_r1
from medvista_jax.learning.rewards.recipes import RECIPES, Recipe
from medvista_jax.learning.rewards.registry import PRESETS
from medvista_jax.learning.rewards.terms import (
    REPETITION_LEVELS,
    REPETITION_NGRAM,
    Reward,
    RewardTerms,
    adjacent_repeats,
    answered,
    correctness,
    faulty_calls,
    overlong,
    plus,
    repeated_share,
    repetition,
    sampled_tokens,
    tool_images,
    turn_format,
    turns_well_formed,
    valid_calls,
    well_formed,
)

__all__ = [
    "PRESETS",
    "RECIPES",
    "REPETITION_LEVELS",
    "REPETITION_NGRAM",
    "Recipe",
    "Reward",
    "RewardTerms",
    "adjacent_repeats",
    "answered",
    "correctness",
    "faulty_calls",
    "overlong",
    "plus",
    "repeated_share",
    "repetition",
    "sampled_tokens",
    "tool_images",
    "turn_format",
    "turns_well_formed",
    "valid_calls",
    "vista_r1",
    "well_formed",
]
