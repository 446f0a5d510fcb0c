"""Dynamic sampling: which groups are kept, in which order, and when playing ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import AnswerKey, Question
from medvista_jax.learning.dynamic import find_groups
from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.rewards import PRESETS, RewardTerms
from medvista_jax.rollout.sampling import Sampling
from tests import tiny

GROUP, P = 3, 2


def play(question: Question, key: AnswerKey, round_key: jax.Array):
    """An "episode" is its prompt's number, its place in the group and a number from the round's key; the rewards of
    prompts of family 0 are all alike."""
    prompt_B = jnp.repeat(question.tokens_PS[:, 0], GROUP)
    place_B = jnp.tile(jnp.arange(GROUP), P)
    total_B = jnp.where(jnp.repeat(key.family_P == 0, GROUP), 7.0, place_B.astype(jnp.float32))
    episode = {"prompt_B": prompt_B, "place_B": place_B, "key_B": jnp.full((P * GROUP,), jax.random.uniform(round_key))}
    return episode, RewardTerms(total_B, total_B, {})


def varied(episode, terms):
    total_PG = terms.total_B.reshape(P, GROUP)
    return jnp.max(total_PG, axis=1) > jnp.min(total_PG, axis=1)


def describe(episode, terms):
    return {"reward": jnp.mean(terms.total_B), "sampled_tokens": jnp.float32(10.0)}


@jax.jit
def search(family_P):
    count = len(family_P)
    question = Question(jnp.arange(1, count + 1)[:, None], *[None] * 6)
    key = AnswerKey(None, None, family_P)
    return find_groups(play, varied, describe, question, key, jax.random.key(0), count // P)


CASES = [  # 0: a flat prompt; the prompts kept; rounds played
    ([1, 1, 1, 1, 1, 1], [0, 1], 1),  # the first round has them all
    ([0, 1, 1, 1, 1, 1], [1, 2], 2),  # the second has one more than is wanted
    ([0, 0, 1, 0, 1, 1], [2, 4], 3),
    ([0, 0, 0, 0, 0, 1], [5, -1], 3),  # used up
    ([0, 0, 0, 0, 0, 0], [-1, -1], 3),
]


@pytest.mark.parametrize(("family", "kept", "rounds"), CASES)
def test_which_groups_are_kept(family, kept, rounds):
    groups = search(jnp.array(family))
    assert np.asarray(groups.prompt_P).tolist() == kept
    prompts = np.repeat([prompt + 1 for prompt in kept], GROUP)  # 0 in empty rows
    assert np.asarray(groups.trajectory["prompt_B"]).tolist() == prompts.tolist()
    places = np.where(prompts > 0, np.tile(np.arange(GROUP), P), 0)
    assert np.asarray(groups.trajectory["place_B"]).tolist() == places.tolist()
    np.testing.assert_array_equal(np.asarray(groups.terms.total_B), places)
    keys = [float(jax.random.uniform(jax.random.fold_in(jax.random.key(0), max(prompt, 0) // P))) for prompt in kept]
    expected = np.repeat([0.0 if p < 0 else k for p, k in zip(kept, keys, strict=True)], GROUP)
    np.testing.assert_allclose(np.asarray(groups.trajectory["key_B"]), expected, rtol=1e-6)
    said = {name: float(value) for name, value in groups.metrics.items()}
    seen = np.array(family[: rounds * P])
    assert said["rounds"] == rounds and said["sampled_tokens"] == 10.0 * rounds
    assert (said["groups_kept"], said["groups_flat"]) == ((seen > 0).sum(), (seen == 0).sum())
    assert said["groups_missing"] == kept.count(-1)
    assert said["reward"] == pytest.approx(np.where(seen == 0, 7.0, 1.0).mean())  # of all that were played


def test_rounds_must_divide_the_prompts():
    question = Question(jnp.arange(5)[:, None], *[None] * 6)
    with pytest.raises(ValueError, match="2 rounds do not divide a batch of 5 prompts"):
        find_groups(play, varied, describe, question, None, jax.random.key(0), 2)


def pays_some_families(trajectory, key) -> RewardTerms:
    """The bandit of ``tests.tiny``, but nothing for questions of family 0."""
    terms = tiny.pays_for_low_ids(trajectory, key)
    group = len(terms.total_B) // len(key.family_P)
    return RewardTerms(jnp.where(jnp.repeat(key.family_P > 0, group), terms.total_B, 0.0), terms.correct_B, {})


def test_inside_a_step_and_never_compiled_again():
    """Three rounds of two prompts. However many of them are played, it is the same program."""
    PRESETS["some_families"] = pays_some_families
    config = GRPOConfig(group=2, reward="some_families", buckets=(), chunk=4, rounds=3)
    question = tiny.make_question(texts=tiny.QUESTIONS * 2, max_turns=1)
    key = tiny.make_key(tiny.ANSWERS * 2)

    def step(state, family):
        families = key.replace(family_P=jnp.array(family, jnp.int32))
        return grpo_step(
            tiny.MODEL, tiny.optimizer(), config, tiny.environment(), state, question, families, Sampling.at(1.0)
        )

    state = tiny.make_state()
    state, first = step(state, [0, 0, 1, 0, 1, 1])
    assert [int(first[name]) for name in ("rounds", "groups_kept", "groups_flat")] == [3, 3, 3]
    assert float(first["flat_groups"]) == 0.5 and float(first["grad_norm"]) > 0
    assert float(first["logprob_mismatch_max"]) <= 1e-4  # the kept rows are whole: promise 2 holds for them
    assert 0 < float(first["sampled_tokens"]) <= 3 * 2 * 2 * tiny.TURN_TOKENS
    before = grpo_step._cache_size()
    state, second = step(state, [1] * 6)
    assert int(second["rounds"]) == 1 and float(second["grad_norm"]) > 0
    state, third = step(state, [0] * 6)
    assert int(third["rounds"]) == 3 and int(third["groups_missing"]) == 2
    assert float(third["grad_norm"]) == 0 and float(third["loss"]) == 0
    assert grpo_step._cache_size() == before
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in state.trainable.values())
