"""Training what makes image features: the views of a trajectory are rendered and encoded again under the gradient."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, ImageBank, Params, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.models.vlm import Features, VisionLanguageModel
from medvista_jax.rollout.scripted import encode_slots
from medvista_jax.tools.render import render

IMAGE_PARTS = ("vision", "connector")
"""Tops of the parameter tree that only ``encode_images`` reads."""


def require_frozen(paths: Iterable[str]) -> None:
    """Raises ValueError where a trainable leaf makes image features."""
    found = sorted(path for path in paths if path.split("/")[0] in IMAGE_PARTS)
    if found:
        raise ValueError(
            f"{found[0]!r} (and {len(found) - 1} more) is trainable, but the loss reads the image features of the "
            "rollout, so its gradient would be zero; set train_vision=True, or train the decoder only"
        )


def render_slots(environment: Environment, bank: ImageBank, trajectory: Trajectory) -> Array:
    """Pixels of every image slot, as the policy saw them: uint8 ``[B, I, h, w, C]``, black where a slot is empty.

    Args:
      bank: the originals of the P prompts; rows of a group share them.
    """
    views = trajectory.views
    lead = views.view.blend.shape
    used_BI = jnp.arange(lead[1])[None, :] < views.count_B[:, None]
    flat = jax.tree.map(lambda leaf: leaf.reshape((-1,) + leaf.shape[2:]), views.view)
    pixels_NhwC = render(environment.tools, bank, flat, environment.view_size, used_BI.reshape(-1))
    return pixels_NhwC.reshape(lead + pixels_NhwC.shape[1:])


def slot_features(model: VisionLanguageModel, params: Params, images: Features | Array, pixels: bool) -> Features:
    """Features of every image slot, leaves ``[B, I, L, …]``.

    Args:
      images: features of the rollout, or pixels ``[B, I, h, w, C]`` that these parameters encode.
    """
    if not pixels:
        return jax.lax.stop_gradient(images)
    return encode_slots(model, params, images)
