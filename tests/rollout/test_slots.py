"""Slot refill: the trajectories of the plain loop, with rows that hardly ever idle."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.environment.build import build_environment
from medvista_jax.models.medvista_tiny import MedVistaTiny
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.pool import end_of
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.slots import SlotConfig, rollout_slots
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny

play_slots = jax.jit(rollout_slots, static_argnames=("model", "group", "config"))
play_plain = jax.jit(rollout, static_argnames=("model", "group"))
GROUP, PROMPTS = 4, 9


@dataclasses.dataclass(frozen=True)
class Eager(MedVistaTiny):
    """Random, but short of thought and fond of tools: else no call would fit into a turn."""

    def logits(self, params, hidden_NE):
        logits_NV = super().logits(params, hidden_NE)
        fond = jnp.array([tiny.TOKENIZER.special[tag] for tag in ("</think>", "<tool_call>")])
        return logits_NV.at[..., fond].add(12.0)


EAGER = Eager(tiny.MODEL.config)


def questions():
    """Ragged prompts, budgets of none to three turns, and limits of a turn's tokens from two to all."""
    limits = np.random.default_rng(0).integers(2, tiny.TURN_TOKENS + 1, (PROMPTS, tiny.TURNS))
    limits[:6] = tiny.TURN_TOKENS  # rows that fill their last slot
    question = tiny.make_question(
        texts=tiny.QUESTIONS * 3, max_turns=(3, 2, 1, 3, 0, 1, 3, 2, 1), max_calls=(3, 1, 0) * 3
    )
    return question.replace(turn_tokens_PR=jnp.asarray(limits, jnp.int32))


@functools.cache
def environment(constrained: bool):
    tools = tuple(DEFAULT_TOOLS.values())
    sizes = (tiny.MODEL.tokens_per_image, tiny.MODEL.image_size, tiny.TURNS, tiny.TURN_TOKENS)
    return build_environment(tiny.TOKENIZER, tools, *sizes, constrained=constrained)


def compact(trajectory):
    """Valid slots to the left, what lies in the others blanked."""
    packed = jax.tree.map(np.asarray, tiny.packed(trajectory, trajectory.tokens_BS.shape[1]))
    blank = lambda rows: np.where(packed.valid_BS.reshape(packed.valid_BS.shape + (1,) * (rows.ndim - 2)), rows, 0)  # noqa: E731
    return packed.replace(
        tokens_BS=blank(packed.tokens_BS),
        feature_BS=blank(packed.feature_BS),
        positions_BSZ=blank(packed.positions_BSZ),
        turn_BS=blank(packed.turn_BS),
    )


def assert_same(one, other):
    """To the bit, but for what sums may round: log-probabilities and features."""
    for (path, a), (_, b) in zip(*map(jax.tree_util.tree_leaves_with_path, (one, other)), strict=True):
        name = jax.tree_util.keystr(path)
        if "logprobs" in name or "features_BILE" in name:
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("constrained", [True, False])  # a constrained policy calls tools and sees views
@pytest.mark.parametrize(
    "config",
    [SlotConfig(rows=8), SlotConfig(rows=5, serve=3, prefill=2, prefill_slots=16)],
    ids=["defaults", "odd sizes, prompts prefilled in chunks"],
)
def test_trajectories_are_those_of_the_plain_loop(config, constrained):
    question, key = questions(), jax.random.key(5)
    arguments = (EAGER, tiny.params(), environment(constrained), question, key, GROUP, Sampling.at(1.0))
    plain = play_plain(*arguments)
    slots, stats = play_slots(*arguments, config)
    assert_same(compact(slots), compact(plain))
    assert int(stats.useful) == int(plain.sampled_BS.sum()) > 600
    assert np.asarray(plain.turns.fault_BR > 0).any()
    assert not constrained or (np.asarray(plain.views.count_B) > 1).sum() >= 2


def test_limits_of_turns_are_kept_by_both():
    question = questions()
    played, _ = play_slots(
        tiny.MODEL,
        tiny.params(),
        environment(False),
        question,
        jax.random.key(5),
        GROUP,
        Sampling.at(1.0),
        SlotConfig(8),
    )
    limit_BR = np.repeat(np.asarray(question.turn_tokens_PR), GROUP, axis=0)
    length_BR = np.asarray(played.turns.length_BR)
    assert (length_BR <= limit_BR).all() and (length_BR == limit_BR).any(axis=1).sum() > 20


def test_rows_are_useful_nine_steps_of_ten():
    """Turns and tokens of a turn spread 1 : 10. In the plain loop all wait for the longest turn and episode."""
    turns, tokens, items = 10, 20, 320
    sizes = (tiny.MODEL.tokens_per_image, tiny.MODEL.image_size, turns, tokens)
    env = build_environment(tiny.TOKENIZER, tuple(DEFAULT_TOOLS.values()), *sizes)
    rng = np.random.default_rng(1)
    texts = [tiny.QUESTIONS[i % 3] for i in range(items)]
    question = tiny.make_question(texts=texts, max_turns=rng.integers(1, turns + 1, items).tolist(), max_calls=turns)
    limits = rng.integers(tokens // 10, tokens + 1, (items, turns))
    question = question.replace(turn_tokens_PR=jnp.asarray(limits, jnp.int32))
    played, stats = play_slots(
        tiny.MODEL, tiny.params(), env, question, jax.random.key(0), 1, Sampling.at(1.0), SlotConfig(rows=16)
    )
    assert int(stats.useful) == int(played.sampled_BS.sum())
    assert int(stats.useful) / int(stats.row_steps) >= 0.9
    length_BR = np.asarray(played.turns.length_BR)
    lockstep = sum(length_BR[at : at + 16].max(axis=0).sum() * 16 for at in range(0, items, 16))
    assert length_BR.sum() / lockstep < 0.5


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="SlotConfig.serve must be at least 1, got 0"):
        SlotConfig(rows=4, serve=0).resolved((3, 10), 2)
    assert SlotConfig(rows=64).resolved((3, 10), 2) == SlotConfig(6, 1, 3, 10)


def test_end_of_is_one_past_the_last_valid_slot():
    valid = jnp.array([[True, False, True, False], [False] * 4])
    assert np.asarray(end_of(valid)).tolist() == [3, 0]
