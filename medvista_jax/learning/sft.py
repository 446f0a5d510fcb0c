"""Supervised fine-tuning on trajectories: scripts that are played in the compiled step, or what is there already."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from medvista_jax.core.types import Array, Question, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.accumulate import Bucket, Metrics, accumulate
from medvista_jax.learning.losses import score_tokens
from medvista_jax.learning.placement import computed, hold
from medvista_jax.learning.remat import with_remat
from medvista_jax.learning.state import FlatParams, TrainState, apply_gradients, join
from medvista_jax.models.blocks import REMAT
from medvista_jax.models.stacked import unstack_layers
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.scripted import enact, encode_slots


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """Static settings.

    Attributes:
      buckets: packed slots and image slots of a chunk, ascending; the whole trajectory where none holds it.
      chunk: rows at a time.
      remat, scan_layers: as in :class:`medvista_jax.learning.grpo_config.GRPOConfig`.

    Raises:
      ValueError: an unknown ``remat``.
    """

    buckets: tuple[Bucket, ...] = (Bucket(64, 1), Bucket(112, 2), Bucket(176, 3))
    chunk: int = 8
    remat: str = "none"
    scan_layers: bool = False

    def __post_init__(self) -> None:
        if self.remat not in ("none", *REMAT):
            raise ValueError(f"remat {self.remat!r} is unknown; there are none, {', '.join(REMAT)}")


def chunk_loss(
    model: VisionLanguageModel,
    config: SFTConfig,
    frozen: FlatParams,
    tokens: Array,
    trainable: FlatParams,
    trajectory: Trajectory,
    extras: dict[str, Array],
) -> tuple[Array, tuple[Metrics, Metrics]]:
    """Negative log-likelihood of the teacher's tokens, divided by the batch's count of them; observations and prompt
    carry no loss."""
    params = join(hold(model, trainable), frozen)
    features = encode_slots(model, params, extras["images"])
    scores = score_tokens(with_remat(model, config.remat), params, trajectory, features, jnp.ones(()))
    loss = -jnp.sum(scores.logprob_BS) / tokens
    return loss, ({"loss": loss, "entropy": jnp.sum(scores.entropy_BS) / tokens}, {})


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def sft_step(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: SFTConfig,
    environment: Environment,
    state: TrainState,
    question: Question,
    script: Script,
) -> tuple[TrainState, Metrics]:
    """Play the scripts, score them, update. Returns the new state and scalar metrics."""
    trajectory, pixels_BIhwC = enact(model, environment, question, script)
    return _update(model, optimizer, config, state, trajectory, pixels_BIhwC)


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def sft_update(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: SFTConfig,
    state: TrainState,
    trajectory: Trajectory,
    pixels_BIhwC: Array,
) -> tuple[TrainState, Metrics]:
    """Score trajectories whose observations and images are given, update: imported ones, and what was sampled before.

    Args:
      trajectory: as :meth:`medvista_jax.data.trajectories.TrajectoryPool.batch` makes them; ``sampled_BS`` says what
        carries loss. ``features_BILE`` is not looked at: images are encoded anew.
      pixels_BIhwC: uint8, every image slot as the policy sees it.
    """
    return _update(model, optimizer, config, state, trajectory.replace(features_BILE=None), pixels_BIhwC)


def _update(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: SFTConfig,
    state: TrainState,
    trajectory: Trajectory,
    pixels_BIhwC: Array,
) -> tuple[TrainState, Metrics]:
    tokens = jnp.maximum(jnp.sum(trajectory.sampled_BS), 1).astype(jnp.float32)
    whole = Bucket(trajectory.tokens_BS.shape[1], pixels_BIhwC.shape[1])
    gradients, metrics = accumulate(
        partial(chunk_loss, model, config, computed(model, state.frozen, config.scan_layers), tokens),
        computed(model, state.trainable, config.scan_layers),
        trajectory,
        {"images": pixels_BIhwC},
        (*config.buckets, whole),
        config.chunk,
    )
    gradients = unstack_layers(gradients)
    metrics |= {
        "gradient_norm": optax.tree.norm(gradients),
        "faults": jnp.mean((trajectory.turns.fault_BR > 0).astype(jnp.float32)),
    }
    return hold(model, apply_gradients(state, gradients, optimizer)), metrics
