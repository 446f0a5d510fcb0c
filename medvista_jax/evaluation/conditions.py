"""The conditions of the packaged table: which policy, tools or none, and what is played instead of sampled."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np

from medvista_jax.core.types import AnswerKey, Question
from medvista_jax.data import controls
from medvista_jax.data.questions import QuestionPool
from medvista_jax.evaluation.setting import Setting
from medvista_jax.rollout.loop import Script


@dataclasses.dataclass(frozen=True)
class Condition:
    """A line of the table.

    Attributes:
      name: key of :data:`medvista_jax.evaluation.tables.CONDITIONS`.
      policy: stage whose parameters play.
      tools: offered or not.
      look: ``"policy"`` leaves all to the policy; ``"random"`` and ``"oracle"`` play the crops and leave the answer;
        ``"forced"`` plays a random crop, also where none is needed; ``"episode"`` plays a random episode and leaves
        nothing.
      decodings: ``"greedy"``, ``"sampled"``.
    """

    name: str
    policy: str
    tools: bool = True
    look: str = "policy"
    decodings: tuple[str, ...] = ("greedy", "sampled")


CONDITIONS: tuple[Condition, ...] = (
    Condition("random_policy", "sft", look="episode", decodings=("sampled",)),
    Condition("no_tools", "no_tools", tools=False),
    Condition("tools_offered", "no_tools"),
    Condition("sft", "sft"),
    Condition("sft", "sft", tools=False),
    Condition("sft_grpo", "grpo"),
    Condition("sft_grpo", "grpo", tools=False),
    Condition("random_crop", "grpo", look="random"),
    Condition("oracle_crop", "grpo", look="oracle"),
)


def batch_maker(
    setting: Setting, pool: QuestionPool, condition: Condition, seed: int
) -> Callable[[np.ndarray], tuple[Question, AnswerKey, Script]]:
    """Rows of the pool → question, key and script of a condition.

    Controls get just the calls that they script. A policy that looks again is refused and has one turn left to answer
    in, as far as the capacity goes.
    """

    def batch(rows: np.ndarray) -> tuple[Question, AnswerKey, Script]:
        question, key = pool.batch(rows, condition.tools)
        texts = [_script(setting, pool.items[row], int(row), condition, seed) for row in rows]
        tokens, lengths = controls.encode_script(texts, setting.tokenizer, setting.turns, setting.turn_tokens)
        if condition.look in ("random", "oracle", "forced"):
            scripted = (lengths > 0).sum(axis=1).astype(np.int32)
            turns = np.minimum(scripted + 2, setting.turns).astype(np.int32)
            question = question.replace(max_turns_P=turns, max_calls_P=scripted)
        return question, key, Script(tokens_BRT=tokens, length_BR=lengths)

    return batch


def _script(setting: Setting, item, row: int, condition: Condition, seed: int) -> list[str]:
    if condition.look == "policy":
        return []
    rng = np.random.default_rng([seed, zlib.crc32(condition.name.encode()), row])
    if condition.look == "oracle":
        return controls.oracle_look(item, setting.turns)
    if condition.look == "forced":
        return controls.forced_look(rng)
    if condition.look == "random":
        return controls.random_look(item, setting.turns, rng)
    return controls.random_episode(item, setting.turns, rng)
