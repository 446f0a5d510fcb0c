"""Group relative policy optimisation (GRPO, arXiv 2402.03300): rollout, reward, advantage and update in one program."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from medvista_jax.core.types import AnswerKey, Array, Question, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.accumulate import Bucket, Metrics, accumulate
from medvista_jax.learning.advantages import group_normalised
from medvista_jax.learning.losses import clipped_surrogate, mean_over, score_tokens
from medvista_jax.learning.rewards import PRESETS, RewardTerms
from medvista_jax.learning.state import FlatParams, TrainState, apply_gradients, join
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.text.constraint import Constraint


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Static settings of a step.

    Attributes:
      group: trajectories a prompt.
      reward: name in :data:`medvista_jax.learning.rewards.PRESETS`.
      clip_low, clip_high: bounds of the ratio, 1 - low … 1 + high.
      buckets: packed slots and image slots of a chunk of the update, ascending; the whole trajectory where none fits.
      chunk: rows of the update at a time.
    """

    group: int = 8
    reward: str = "vista_r1"
    clip_low: float = 0.2
    clip_high: float = 0.2
    buckets: tuple[Bucket, ...] = (Bucket(64, 1), Bucket(112, 2), Bucket(176, 3))
    chunk: int = 16


def chunk_loss(
    model: VisionLanguageModel,
    config: GRPOConfig,
    frozen: FlatParams,
    temperature: Array,
    tokens: Array,
    trainable: FlatParams,
    trajectory: Trajectory,
    extras: dict[str, Array],
    constraint: Constraint | None = None,
) -> tuple[Array, tuple[Metrics, Metrics]]:
    """Clipped surrogate summed over sampled tokens and divided by the batch's count of them. Image features are the
    rollout's own: what made them is frozen."""
    params = join(trainable, frozen)
    scores = score_tokens(model, params, trajectory, extras["images"], temperature, constraint)
    sampled_BS = trajectory.sampled_BS
    gain_BS, clipped_BS = clipped_surrogate(
        scores.logprob_BS, trajectory.logprobs_BS, extras["advantage_B"], config.clip_low, config.clip_high
    )
    total = lambda values_BS: jnp.sum(jnp.where(sampled_BS, values_BS, 0.0)) / tokens  # noqa: E731
    loss = -total(gain_BS)
    gap_BS = jnp.abs(jax.lax.stop_gradient(scores.logprob_BS) - trajectory.logprobs_BS)
    sums = {
        "loss": loss,
        "clip_fraction": total(clipped_BS),
        "entropy": total(scores.entropy_BS),
        "logprob_mismatch_mean": total(gap_BS),
    }
    return loss, (sums, {"logprob_mismatch_max": jnp.max(jnp.where(sampled_BS, gap_BS, 0.0))})


def rollout_metrics(trajectory: Trajectory, terms: RewardTerms, group: int) -> Metrics:
    """Scalars that describe a batch of trajectories."""
    turns_BR = trajectory.turns
    taken_BR = jnp.arange(turns_BR.kind_BR.shape[1])[None, :] < trajectory.turns_B[:, None]
    total_PG = terms.total_B.reshape(-1, group)
    return {
        "reward": jnp.mean(terms.total_B),
        **{f"reward_{name}": jnp.mean(term_B) for name, term_B in terms.terms.items()},
        "accuracy": jnp.mean(terms.correct_B),
        "calls_per_question": jnp.mean(trajectory.calls_B.astype(jnp.float32)),
        "faults": mean_over((turns_BR.fault_BR > 0).astype(jnp.float32), taken_BR),
        "truncated": jnp.mean(trajectory.truncated_B.astype(jnp.float32)),
        "sampled_tokens": jnp.sum(trajectory.sampled_BS).astype(jnp.float32),
        "flat_groups": jnp.mean((jnp.max(total_PG, axis=1) == jnp.min(total_PG, axis=1)).astype(jnp.float32)),
    }


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def grpo_update(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: GRPOConfig,
    environment: Environment,
    state: TrainState,
    trajectory: Trajectory,
    key: AnswerKey,
    sampling: Sampling,
) -> tuple[TrainState, Metrics]:
    """The second half of :func:`grpo_step`, from a trajectory that was played apart: where host tools took part.

    Args:
      trajectory: of :func:`medvista_jax.rollout.host_loop.rollout_with_host`, ``config.group`` rows a prompt, played
        with ``state.params()`` and this ``sampling``.
    """
    with jax.named_scope("reward"):
        terms = PRESETS[config.reward](trajectory, key)
        advantage_B = group_normalised(terms.total_B, config.group)
    with jax.named_scope("update"):
        tokens = jnp.maximum(jnp.sum(trajectory.sampled_BS), 1).astype(jnp.float32)
        whole = Bucket(trajectory.tokens_BS.shape[1], trajectory.views.view.blend.shape[1])
        gradients, metrics = accumulate(
            partial(
                chunk_loss,
                model,
                config,
                state.frozen,
                sampling.temperature,
                tokens,
                constraint=environment.constraint,
            ),
            state.trainable,
            trajectory.replace(features_BILE=None),
            {"images": trajectory.features_BILE, "advantage_B": advantage_B},
            (*config.buckets, whole),
            config.chunk,
        )
        new_state = apply_gradients(state, gradients, optimizer)
    metrics |= rollout_metrics(trajectory, terms, config.group)
    metrics["grad_norm"] = optax.tree.norm(gradients)
    return new_state, metrics


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
) -> tuple[TrainState, Metrics]:
    """One on-policy step: everything from prefill to new parameters under one ``jit``.

    Args:
      model, optimizer, config: static.
      question, key: P prompts and their truth; only the reward reads ``key``.

    Returns:
      The new state (the old one is donated) and scalar metrics.
    """
    step_key = jax.random.fold_in(state.key, state.step)
    trajectory = rollout(model, state.params(), environment, question, step_key, config.group, sampling)
    return grpo_update(model, optimizer, config, environment, state, trajectory, key, sampling)
