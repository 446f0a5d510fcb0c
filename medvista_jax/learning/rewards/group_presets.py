"""Published rewards that look at a group: what one rollout earns depends on the others of its prompt."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import AnswerKey, Array, Kind, Trajectory
from medvista_jax.learning.rewards import formulas
from medvista_jax.learning.rewards.crops import crop_masks
from medvista_jax.learning.rewards.registry import accuracy, preset, yes
from medvista_jax.learning.rewards.terms import RewardTerms, taken, valid_calls, well_formed


def grouped(x_B: Array, key: AnswerKey) -> Array:
    """``[B, …]`` as ``[P, G, …]``."""
    prompts = key.answer_PN.shape[0]
    return x_B.reshape((prompts, x_B.shape[0] // prompts, *x_B.shape[1:]))


def calling_rate(calls_B: Array, key: AnswerKey) -> Array:
    """float32 ``[B]``: the share of the group's rollouts with a valid tool call (RaPR)."""
    rate_PG = jnp.mean(yes(grouped(calls_B > 0, key)), axis=1, keepdims=True)
    return jnp.broadcast_to(rate_PG, grouped(calls_B, key).shape).reshape(calls_B.shape)


@preset
def pixel_reasoner(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    target: float = 0.3,
    curiosity: float = 0.5,
    redundancy: float = 0.05,
) -> RewardTerms:
    """Pixel Reasoner: curiosity while few rollouts of the prompt call a tool.

    Formula: acc + 0.5 max(0.3 - RaPR, 0) [n > 0] + 0.05 min(1 - n, 0); n valid calls, RaPR the share of the prompt's
      rollouts with n > 0
    Range: -0.05 (turns - 2) … 1.15
    Source: arXiv 2505.15966; TIGER-AI-Lab/verl-tool@980962b:verl_tool/workers/reward_manager/pixel_reasoner.py
    """
    acc_B, calls_B = accuracy(trajectory, key, accuracy_B), valid_calls(trajectory)
    rate_B = calling_rate(calls_B, key)
    total_B = formulas.pixel_reasoner(acc_B, calls_B, rate_B, target, curiosity, redundancy)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "calls": yes(calls_B), "calling_rate": rate_B})


@preset
def pixel_reasoner_release(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    target: float = 0.3,
    scale: float = 2.0,
    curiosity: float = 0.25,
    redundancy: float = 0.05,
) -> RewardTerms:
    """Pixel Reasoner as its authors released it: the bonus grows as 1 / RaPR.

    Formula: acc + max(0.3 - RaPR, 0) / 2 / RaPR · 0.25 [n > 0] - 0.05 max(n - 1, 0); videos divide by 1.5 (``scale``);
      acc 0 where the last call ended in an error
    Range: -0.05 (turns - 2) … 0.875 + 0.0375 · group (1.175 of 8 rollouts)
    Source: TIGER-AI-Lab/Pixel-Reasoner@a3a6c3a:curiosity_driven_rl/openrlhf/trainer/ppo_utils/experience_maker.py
    """
    calls_B = valid_calls(trajectory)
    acc_B = jnp.where(last_call_failed(trajectory), 0.0, accuracy(trajectory, key, accuracy_B))
    rate_B = calling_rate(calls_B, key)
    total_B = formulas.pixel_reasoner_release(acc_B, calls_B, rate_B, target, scale, curiosity, redundancy)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "calls": yes(calls_B), "calling_rate": rate_B})


def last_call_failed(trajectory: Trajectory) -> Array:
    """bool ``[B]``: the last tool call was answered by an error, which no later call mended."""
    turns = trajectory.turns
    number_R = jnp.arange(turns.kind_BR.shape[1])[None, :]
    called_BR = (turns.kind_BR == Kind.CALL) & taken(trajectory)
    last_B = jnp.max(jnp.where(called_BR, number_R, -1), axis=1)
    return jnp.any((number_R == last_B[:, None]) & (turns.fault_BR > 0), axis=1)


@preset
def medvr(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    threshold: float = 0.5,
    agree: float = 1.0,
    differ: float = 0.5,
    format_penalty: float = 0.0,
    pays_without_crop: bool = False,
    grid: int = 64,
) -> RewardTerms:
    """MedVR: looking where the group's right rollouts look.

    Formula: acc + fmt + [acc > 0] R_tool; R_tool 1 if IoU(M_j, M) > 0.5 else 0.5; M_j the union of the rollout's crops,
      M the places that more than half of the right rollouts cover
    Range: -format_penalty … 2
    Source: arXiv 2604.08203 (no code); the paper's "slight penalty" of the format has no number there, so it is 0 here
      until set

    Args:
      threshold, agree, differ: of R_tool.
      format_penalty: what ill-formed turns cost.
      pays_without_crop: the paper's formula read literally pays ``differ`` to a rollout that never crops; by default
        R_tool is 0 there.
      grid: masks are compared on ``grid`` × ``grid`` points of the first original.
    """
    acc_B = accuracy(trajectory, key, accuracy_B)
    mask_BGG = crop_masks(trajectory, grid)
    iou_B = consensus_iou(mask_BGG, acc_B > 0, key)
    tool_B = formulas.medvr_tool(iou_B, threshold, agree, differ)
    cropped_B = jnp.any(mask_BGG, axis=(1, 2))
    if not pays_without_crop:
        tool_B = jnp.where(cropped_B, tool_B, 0.0)
    fmt_B = jnp.where(well_formed(trajectory), 0.0, -format_penalty)
    total_B = formulas.medvr(acc_B, fmt_B, tool_B)
    terms = {"correct": acc_B, "format": fmt_B, "consensus_iou": iou_B, "cropped": yes(cropped_B)}
    return RewardTerms(total_B, acc_B, terms)


def consensus_iou(mask_BGG: Array, right_B: Array, key: AnswerKey) -> Array:
    """float32 ``[B]``: intersection over union of each mask with what most of its group's right ones share; 0 where
    both are empty.
    """
    mask_PGyx, right_PG = grouped(mask_BGG, key), grouped(right_B, key)
    votes_Pyx = jnp.sum(mask_PGyx & right_PG[:, :, None, None], axis=1)
    consensus_Pyx = votes_Pyx * 2 > jnp.sum(right_PG, axis=1)[:, None, None]
    both_PG = jnp.sum(mask_PGyx & consensus_Pyx[:, None], axis=(2, 3))
    either_PG = jnp.sum(mask_PGyx | consensus_Pyx[:, None], axis=(2, 3))
    return (both_PG / jnp.maximum(either_PG, 1)).reshape(right_B.shape).astype(jnp.float32)
