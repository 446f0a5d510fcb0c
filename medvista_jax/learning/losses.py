"""Token log-probabilities and losses. The forward pass is the model's own, as in the rollout (promise 2)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, Params, Trajectory
from medvista_jax.models.vlm import Features, VisionLanguageModel
from medvista_jax.rollout.sampling import log_softmax_at
from medvista_jax.text.constraint import Constraint, within_set


class TokenScores(NamedTuple):
    """float32 ``[B, S]`` each, 0 where the slot was not sampled."""

    logprob_BS: Array
    entropy_BS: Array


def score_tokens(
    model: VisionLanguageModel,
    params: Params,
    trajectory: Trajectory,
    features: Features,
    temperature: Array,
    constraint: Constraint | None = None,
) -> TokenScores:
    """Log-probability of every sampled id given what came before it, at the sampling temperature.

    The logits of slot ``s - 1``'s hidden state choose the id at slot ``s``; holes are bridged by taking the row's last
    valid slot before ``s``.

    Args:
      constraint: of the environment that the trajectory was sampled in: an id's probability is that among the tokens
        that it was drawn from.
    """
    hidden_BSE, _ = model.forward(
        params,
        trajectory.tokens_BS,
        trajectory.feature_BS,
        features,
        trajectory.positions_BSZ,
        trajectory.valid_BS,
    )
    slots_S = jnp.arange(trajectory.tokens_BS.shape[1])
    seen_BS = jax.lax.cummax(jnp.where(trajectory.valid_BS, slots_S[None, :], 0), axis=1)
    before_BS = jnp.pad(seen_BS[:, :-1], ((0, 0), (1, 0)))
    previous_BSE = jnp.take_along_axis(hidden_BSE, before_BS[..., None], axis=1)
    logits_BSV = model.logits(params, previous_BSE)
    if constraint is not None:
        logits_BSV = within_set(constraint, trajectory.allowed_BS, logits_BSV)
    logprob_BS = log_softmax_at(logits_BSV, trajectory.tokens_BS, temperature)
    log_p_BSV = jax.nn.log_softmax(jax.lax.stop_gradient(logits_BSV), axis=-1)
    entropy_BS = -jnp.sum(jnp.exp(log_p_BSV) * log_p_BSV, axis=-1)
    sampled_BS = trajectory.sampled_BS
    return TokenScores(jnp.where(sampled_BS, logprob_BS, 0.0), jnp.where(sampled_BS, entropy_BS, 0.0))


def mean_over(values_BS: Array, mask_BS: Array) -> Array:
    """Mean of the masked entries; 0 where there is none."""
    return jnp.sum(jnp.where(mask_BS, values_BS, 0.0)) / jnp.maximum(jnp.sum(mask_BS), 1)


def clipped_surrogate(
    logprob_BS: Array, behaviour_BS: Array, advantage_B: Array, clip_low: float, clip_high: float
) -> tuple[Array, Array]:
    """PPO's clipped surrogate (arXiv 1707.06347) with separate bounds (DAPO, arXiv 2503.14476), to be maximised.

    Returns:
      float32 ``[B, S]`` each: the surrogate of every token, and 1 where the bound is active.
    """
    ratio_BS = jnp.exp(logprob_BS - behaviour_BS)
    free_BS = ratio_BS * advantage_B[:, None]
    bounded_BS = jnp.clip(ratio_BS, 1.0 - clip_low, 1.0 + clip_high) * advantage_B[:, None]
    return jnp.minimum(free_BS, bounded_BS), (bounded_BS < free_BS).astype(jnp.float32)
