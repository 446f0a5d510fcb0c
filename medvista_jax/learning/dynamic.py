"""Dynamic sampling (DAPO, arXiv 2503.14476, sec. 3.2): groups without variance are replaced, not padded.

A group whose rewards are all alike has no gradient. Prompts are played P at a time until P groups with variance are
found or the batch is used up, inside one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medvista_jax.core.types import AnswerKey, Array, Question, Trajectory
from medvista_jax.learning.accumulate import Metrics
from medvista_jax.learning.rewards import RewardTerms

Play = Callable[[Question, AnswerKey, Array], tuple[Trajectory, RewardTerms]]
"""``(P prompts, their truth, PRNG key) -> their episodes and rewards``."""


class Groups(NamedTuple):
    """P groups, in the order in which they were found.

    Attributes:
      trajectory, terms: ``P * group`` rows. Where the batch ended too early the last rows are empty: no valid slot.
      prompt_P: int32, which prompt of the batch a group answers; -1 where it is empty.
      metrics: means over the rounds played; ``sampled_tokens`` is their sum. ``rounds``: rounds played,
        ``groups_kept`` and ``groups_flat``: groups with and without variance among those that were played (those beyond
        P are dropped), ``groups_missing``: how many of the P are empty.
    """

    trajectory: Trajectory
    terms: RewardTerms
    prompt_P: Array
    metrics: Metrics


class _Search(NamedTuple):
    round: Array
    found: Array
    flat: Array
    kept: tuple[Trajectory, RewardTerms, Array]
    metrics: Metrics


def find_groups(
    play: Play,
    varied: Callable[[Trajectory, RewardTerms], Array],
    describe: Callable[[Trajectory, RewardTerms], Metrics],
    question: Question,
    key: AnswerKey,
    step_key: Array,
    rounds: int,
) -> Groups:
    """Play rounds of P prompts until P groups with variance are found.

    Args:
      varied: bool ``[P]``, which groups have variance.
      describe: scalar metrics of a round.
      question, key: ``rounds · P`` prompts; round r plays prompts ``r·P … (r + 1)·P - 1``.
      step_key: round r plays with ``fold_in(step_key, r)``.

    Raises:
      ValueError: ``rounds`` does not divide the prompts.
    """
    total = question.tokens_PS.shape[0]
    if total % rounds:
        raise ValueError(f"{rounds} rounds do not divide a batch of {total} prompts; give rounds · P prompts")
    prompts = total // rounds

    def play_round(number: Array) -> tuple[Trajectory, RewardTerms, Metrics]:
        cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, number * prompts, prompts)  # noqa: E731
        trajectory, terms = play(*jax.tree.map(cut, (question, key)), jax.random.fold_in(step_key, number))
        return trajectory, terms, describe(trajectory, terms)

    def go_on(search: _Search) -> Array:
        return (search.round < rounds) & (search.found < prompts)

    def search_round(search: _Search) -> _Search:
        trajectory, terms, metrics = play_round(search.round)
        varied_P = varied(trajectory, terms)
        place_P = jnp.where(varied_P, search.found + jnp.cumsum(varied_P) - 1, prompts)
        prompt_P = search.round * prompts + jnp.arange(prompts, dtype=jnp.int32)
        put = lambda old, new: _put_groups(old, new, place_P, prompts)  # noqa: E731
        return _Search(
            round=search.round + 1,
            found=search.found + jnp.sum(varied_P),
            flat=search.flat + jnp.sum(~varied_P),
            kept=jax.tree.map(put, search.kept, (trajectory, terms, prompt_P)),
            metrics=jax.tree.map(jnp.add, search.metrics, metrics),
        )

    zero = jnp.zeros((), jnp.int32)
    shapes = jax.eval_shape(play_round, zero)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start = _Search(zero, zero, zero, (*empty[:2], jnp.full((prompts,), -1, jnp.int32)), empty[2])
    end = jax.lax.while_loop(go_on, search_round, start)
    metrics = {
        name: total if name == "sampled_tokens" else total / end.round.astype(total.dtype)
        for name, total in end.metrics.items()
    } | {
        "rounds": end.round,
        "groups_kept": end.found,
        "groups_flat": end.flat,
        "groups_missing": jnp.maximum(prompts - end.found, 0),
    }
    return Groups(*end.kept, metrics)


def _put_groups(old_B: Array, new_B: Array, place_P: Array, prompts: int) -> Array:
    """Rows of new groups at their places among the old ones; a place beyond the last is none."""
    by_group = lambda leaf: leaf.reshape((prompts, -1) + leaf.shape[1:])  # noqa: E731
    return by_group(old_B).at[place_P].set(by_group(new_B), mode="drop").reshape(old_B.shape)
