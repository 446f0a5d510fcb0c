"""How far the policy has moved from a reference: estimators from sampled tokens (Schulman, "Approximating KL
divergence", 2020), with δ = log π_ref - log π of a token that π drew.

    k1 = -δ        unbiased for KL(π ‖ π_ref). Differentiated as a *loss* its gradient is a mean score function, which
                   is 0 in expectation: nothing is learnt but noise. So it is subtracted from the *reward*, where
                   REINFORCE makes it the gradient of KL(π ‖ π_ref).
    k2 = δ² / 2    as a loss its on-policy gradient is that of KL(π ‖ π_ref).
    k3 = e^δ-1-δ   never negative and of low variance, the choice of GRPO (arXiv 2402.03300); as a loss its on-policy
                   gradient is that of KL(π_ref ‖ π).

The log-probabilities are those at the sampling temperature.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array
from medvista_jax.learning.state import FlatParams, TrainState

LOG_RATIO_BOUND = 20.0
"""Of log ratios before they are exponentiated, as verl bounds them: e^20 is a finite float32 and so is its square."""

K1, K2, K3 = "k1", "k2", "k3"


def reference_of(state: TrainState) -> FlatParams:
    """The values of the trainable leaves as they are now, in buffers that no step donates.

    With LoRA these are the adapters; taken at the start, where their product is zero, the reference is the base.
    """
    return jax.tree.map(lambda leaf: leaf.copy(), state.trainable)


def k1(logprob_BS: Array, reference_BS: Array) -> Array:
    """log π - log π_ref: float32 ``[B, S]``."""
    return logprob_BS - reference_BS


def k2(logprob_BS: Array, reference_BS: Array) -> Array:
    """(log π - log π_ref)² / 2: float32 ``[B, S]``."""
    return 0.5 * jnp.square(logprob_BS - reference_BS)


def k3(logprob_BS: Array, reference_BS: Array) -> Array:
    """exp(δ) - 1 - δ with δ = log π_ref - log π: float32 ``[B, S]``."""
    delta_BS = jnp.clip(reference_BS - logprob_BS, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return jnp.expm1(delta_BS) - delta_BS


ESTIMATORS = {K1: k1, K2: k2, K3: k3}
"""By name; each ``(logprob_BS, reference_BS) -> [B, S]``."""


def turn_penalty(logprob_BS: Array, reference_BS: Array, turn_BS: Array, turns: int) -> Array:
    """k1 summed over the tokens of each turn: float32 ``[B, R]``, to be subtracted from what the turn earned."""
    penalty_BS = k1(logprob_BS, reference_BS)
    by_turn = [jnp.sum(jnp.where(turn_BS == turn, penalty_BS, 0.0), axis=1) for turn in range(turns)]
    return jnp.stack(by_turn, axis=1)
