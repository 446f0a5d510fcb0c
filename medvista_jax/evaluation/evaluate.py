"""Playing a pool of questions with one policy, and counting what came out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from medvista_jax.core.types import AnswerKey, Params, Question, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.evaluation.tables import Row, make_row
from medvista_jax.learning.rewards import PRESETS, RewardTerms
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import Script, rollout
from medvista_jax.rollout.sampling import Sampling

Batch = Callable[[np.ndarray], tuple[Question, AnswerKey, Script]]
"""Rows of a pool → what the compiled program takes."""


@partial(jax.jit, static_argnames=("model", "reward"))
def play(
    model: VisionLanguageModel,
    reward: str,
    params: Params,
    environment: Environment,
    question: Question,
    answer_key: AnswerKey,
    script: Script,
    key: jax.Array,
    sampling: Sampling,
) -> tuple[Trajectory, RewardTerms]:
    """One episode a question and its reward terms; image features are dropped, since nobody trains on them."""
    trajectory = rollout(model, params, environment, question, key, 1, sampling, script)
    terms = PRESETS[reward](trajectory, answer_key)
    return trajectory.replace(features_BILE=None), terms


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Per-item outcomes, numpy ``[N]``.

    Attributes:
      correct: bool.
      calls: int32 tool calls attempted.
      seconds: wall time, compilation included where it happened.
    """

    correct: np.ndarray
    calls: np.ndarray
    seconds: float


def evaluate(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    batch: Batch,
    items: int,
    *,
    key: jax.Array,
    temperature: float,
    rows_at_once: int,
    reward: str = "vista_r1",
    after_batch: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Play items ``0 … items - 1`` in batches of one shape; the last batch is filled up and the filling dropped.

    Args:
      batch: makes the arguments of a batch from row numbers.
      temperature: 0 is greedy.
      after_batch: called with the number of items played by each batch, for progress and Ctrl-C.
    """
    started = time.perf_counter()
    correct, calls = np.zeros(items, bool), np.zeros(items, np.int32)
    for first in range(0, items, rows_at_once):
        rows = np.arange(first, min(first + rows_at_once, items))
        question, answer_key, script = batch(np.resize(rows, rows_at_once))
        trajectory, terms = play(
            model,
            reward,
            params,
            environment,
            question,
            answer_key,
            script,
            jax.random.fold_in(key, first),
            Sampling.at(temperature),
        )
        correct[rows] = np.asarray(terms.correct_B)[: len(rows)] > 0
        calls[rows] = np.asarray(trajectory.calls_B)[: len(rows)]
        after_batch(len(rows))
    return Evaluation(correct=correct, calls=calls, seconds=time.perf_counter() - started)


def rows_by_need(
    result: Evaluation, needs: np.ndarray, *, condition: str, tools: bool, decoding: str, seed: int
) -> list[Row]:
    """Table rows: one for each need that occurs and one for ``all``."""
    rows = []
    for need in [*dict.fromkeys(needs.tolist()), "all"]:
        chosen = np.ones(len(needs), bool) if need == "all" else needs == need
        rows.append(
            make_row(
                condition=condition,
                needs=need,
                tools=tools,
                decoding=decoding,
                correct=int(result.correct[chosen].sum()),
                n=int(chosen.sum()),
                calls=int(result.calls[chosen].sum()),
                seed=seed,
                seconds=result.seconds,
            )
        )
    return rows
