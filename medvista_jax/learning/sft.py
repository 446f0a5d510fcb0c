"""Supervised fine-tuning on scripted trajectories: tools, observations and update in one compiled step."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from medvista_jax.core.types import Array, Question, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.losses import mean_over, score_tokens
from medvista_jax.learning.state import FlatParams, TrainState, apply_gradients, join
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.record import pack
from medvista_jax.rollout.scripted import enact, encode_slots


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """``length``: slots a packed trajectory may take; scripts are checked against it on the host."""

    length: int = 128


def sft_loss(
    model: VisionLanguageModel,
    trainable: FlatParams,
    frozen: FlatParams,
    trajectory: Trajectory,
    pixels_BIhwC: Array,
) -> tuple[Array, dict[str, Array]]:
    """Mean negative log-likelihood of the teacher's tokens; observations and prompt carry no loss."""
    params = join(trainable, frozen)
    features = encode_slots(model, params, pixels_BIhwC)
    scores = score_tokens(model, params, trajectory, features, jnp.ones(()))
    loss = -mean_over(scores.logprob_BS, trajectory.sampled_BS)
    return loss, {"loss": loss, "entropy": mean_over(scores.entropy_BS, trajectory.sampled_BS)}


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def sft_step(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: SFTConfig,
    environment: Environment,
    state: TrainState,
    question: Question,
    script: Script,
) -> tuple[TrainState, dict[str, Array]]:
    """Play the scripts, score them, update. Returns the new state and scalar metrics."""
    trajectory, pixels_BIhwC = enact(model, environment, question, script)
    longest = jnp.max(jnp.sum(trajectory.valid_BS, axis=1))
    packed = pack(trajectory, config.length)
    loss = partial(sft_loss, model)
    (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(
        state.trainable, state.frozen, packed, pixels_BIhwC
    )
    metrics |= {
        "gradient_norm": optax.global_norm(gradients),
        "longest": longest,
        "faults": jnp.mean((trajectory.turns.fault_BR > 0).astype(jnp.float32)),
    }
    return apply_gradients(state, gradients, optimizer), metrics
