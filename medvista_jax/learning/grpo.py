"""Group relative policy optimisation (GRPO, arXiv 2402.03300): rollout, reward, advantage and update in one program."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from medvista_jax.core.types import AnswerKey, Array, Question, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.advantages import group_normalised
from medvista_jax.learning.losses import clipped_policy_loss, mean_over, score_tokens
from medvista_jax.learning.rewards import PRESETS, RewardTerms
from medvista_jax.learning.state import FlatParams, TrainState, apply_gradients, join
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.record import pack
from medvista_jax.rollout.sampling import Sampling


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Static settings of a step.

    Attributes:
      group: trajectories a prompt.
      reward: name in :data:`medvista_jax.learning.rewards.PRESETS`.
      clip_low, clip_high: bounds of the ratio, 1 - low … 1 + high.
      buckets: slots of the update's sequences, ascending; the smallest that holds every row is used, and the whole
        trajectory where none does. All are compiled once.
    """

    group: int = 8
    reward: str = "vista_r1"
    clip_low: float = 0.2
    clip_high: float = 0.2
    buckets: tuple[int, ...] = (112, 144)


def policy_loss(
    model: VisionLanguageModel,
    config: GRPOConfig,
    trainable: FlatParams,
    frozen: FlatParams,
    trajectory: Trajectory,
    advantage_B: Array,
    temperature: Array,
) -> tuple[Array, dict[str, Array]]:
    """Clipped surrogate over sampled tokens. Image features are the rollout's own: the vision tower is frozen."""
    params = join(trainable, frozen)
    scores = score_tokens(model, params, trajectory, trajectory.features_BILE, temperature)
    sampled_BS = trajectory.sampled_BS
    loss, clipped = clipped_policy_loss(
        scores.logprob_BS, trajectory.logprobs_BS, advantage_B, sampled_BS, config.clip_low, config.clip_high
    )
    gap_BS = jnp.abs(jax.lax.stop_gradient(scores.logprob_BS) - trajectory.logprobs_BS)
    return loss, {
        "loss": loss,
        "clipped": clipped,
        "entropy": mean_over(scores.entropy_BS, sampled_BS),
        "mismatch_max": jnp.max(gap_BS),
        "mismatch_mean": mean_over(gap_BS, sampled_BS),
    }


def policy_gradients(
    model: VisionLanguageModel,
    config: GRPOConfig,
    state: TrainState,
    trajectory: Trajectory,
    advantage_B: Array,
    temperature: Array,
) -> tuple[FlatParams, dict[str, Array]]:
    """Gradients at the smallest bucket of slots that holds the longest row."""
    slots = trajectory.tokens_BS.shape[1]
    lengths = tuple(n for n in config.buckets if n < slots) + (slots,)

    def at(length: int):
        def branch(trainable: FlatParams):
            packed = pack(trajectory, length)
            loss = lambda moving: policy_loss(  # noqa: E731
                model, config, moving, state.frozen, packed, advantage_B, temperature
            )
            (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
            return gradients, metrics

        return branch

    longest = jnp.max(jnp.sum(trajectory.valid_BS, axis=1))
    index = jnp.sum(longest > jnp.asarray(lengths))
    gradients, metrics = jax.lax.switch(index, [at(n) for n in lengths], state.trainable)
    return gradients, metrics | {"longest": longest}


def rollout_metrics(trajectory: Trajectory, terms: RewardTerms, group: int) -> dict[str, Array]:
    """Scalars that describe a batch of trajectories."""
    turns_BR = trajectory.turns
    taken_BR = jnp.arange(turns_BR.kind_BR.shape[1])[None, :] < trajectory.turns_B[:, None]
    total_PG = terms.total_B.reshape(-1, group)
    return {
        "reward": jnp.mean(terms.total_B),
        "reward_repetition": jnp.mean(terms.repetition_B),
        "reward_format": jnp.mean(terms.format_B),
        "accuracy": jnp.mean(terms.correct_B),
        "calls": jnp.mean(trajectory.calls_B.astype(jnp.float32)),
        "faults": mean_over((turns_BR.fault_BR > 0).astype(jnp.float32), taken_BR),
        "truncated": jnp.mean(trajectory.truncated_B.astype(jnp.float32)),
        "sampled_tokens": jnp.sum(trajectory.sampled_BS).astype(jnp.float32),
        "flat_groups": jnp.mean((jnp.max(total_PG, axis=1) == jnp.min(total_PG, axis=1)).astype(jnp.float32)),
    }


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def grpo_step(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: GRPOConfig,
    environment: Environment,
    state: TrainState,
    question: Question,
    key: AnswerKey,
    sampling: Sampling,
) -> tuple[TrainState, dict[str, Array]]:
    """One on-policy step: everything from prefill to new parameters under one ``jit``.

    Args:
      model, optimizer, config: static.
      question, key: P prompts and their truth; only the reward reads ``key``.

    Returns:
      The new state (the old one is donated) and scalar metrics.
    """
    step_key = jax.random.fold_in(state.key, state.step)
    trajectory = rollout(model, state.params(), environment, question, step_key, config.group, sampling)
    with jax.named_scope("reward"):
        terms = PRESETS[config.reward](trajectory, key)
        advantage_B = group_normalised(terms.total_B, config.group)
    with jax.named_scope("update"):
        gradients, metrics = policy_gradients(model, config, state, trajectory, advantage_B, sampling.temperature)
        new_state = apply_gradients(state, gradients, optimizer)
    metrics |= rollout_metrics(trajectory, terms, config.group)
    metrics["gradient_norm"] = optax.global_norm(gradients)
    return new_state, metrics
