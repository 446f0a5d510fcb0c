"""Dense labels of views: what lies at each point, which target an embedding shows, where its middle is."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array

SHOWN = 0.2
"""An embedding is asked where the middle of a target is if it shows this share of it."""

NAMED = 0.1
"""An embedding is asked what a target is if it shows this share of it, and the view half of it."""


@struct.dataclass
class Labels:
    """Labels of B views.

    Attributes:
      cells_BNN: int32 concept at a grid of points.
      coarse_B: bool, a view of (nearly) a whole image, which is asked for kinds and places, others for names.
      places_BL2: int32 x and y bin of the middle of each embedding's target, -1 for none.
      names_BL: int32 concept of each embedding's target, -1 where that is not asked.
    """

    cells_BNN: Array
    coarse_B: Array
    places_BL2: Array
    names_BL: Array


def labels_at(concepts_PYX: Array, box_B4: Array, side: int) -> Array:
    """Nearest concept at a ``side × side`` grid of points of each box: int32 ``[B, side, side]``."""
    prompts, rows, columns = concepts_PYX.shape
    group = box_B4.shape[0] // prompts
    offset_N = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    x_BN = box_B4[:, 0:1] + offset_N[None] * (box_B4[:, 2:3] - box_B4[:, 0:1])
    y_BN = box_B4[:, 1:2] + offset_N[None] * (box_B4[:, 3:4] - box_B4[:, 1:2])
    column_BN = jnp.clip((x_BN * columns).astype(jnp.int32), 0, columns - 1)
    row_BN = jnp.clip((y_BN * rows).astype(jnp.int32), 0, rows - 1)
    prompt_B = jnp.repeat(jnp.arange(prompts), group)
    return concepts_PYX[prompt_B[:, None, None], row_BN[:, :, None], column_BN[:, None, :]].astype(jnp.int32)


def shown_target(targets_PR4: Array, box_B4: Array, side: int) -> tuple[Array, Array, Array]:
    """For each embedding of a view, the target that it shows most of.

    Args:
      side: embeddings a side of the view.

    Returns:
      int32 ``[B, side²]`` which target; float32 ``[B, side²]`` the share of it that is shown; float32
      ``[B, side², 2]`` its middle x, y in 0…1 of the view.
    """
    targets_BR4 = jnp.repeat(targets_PR4, box_B4.shape[0] // targets_PR4.shape[0], axis=0)
    size_B12 = (box_B4[:, 2:] - box_B4[:, :2])[:, None]
    low_BR2 = (targets_BR4[..., :2] - box_B4[:, None, :2]) / size_B12
    high_BR2 = (targets_BR4[..., 2:] - box_B4[:, None, :2]) / size_B12
    edge_N = jnp.arange(side, dtype=jnp.float32)[None, None, :, None] / side
    shared_BRN2 = jnp.minimum(high_BR2[:, :, None], edge_N + 1 / side) - jnp.maximum(low_BR2[:, :, None], edge_N)
    shared_BRN2 = jnp.maximum(shared_BRN2, 0)
    area_BRL = (shared_BRN2[:, :, :, None, 1] * shared_BRN2[:, :, None, :, 0]).reshape(*low_BR2.shape[:2], side * side)
    most_BL = jnp.argmax(area_BRL, axis=1)
    whole_BR = jnp.maximum(jnp.prod(high_BR2 - low_BR2, axis=-1), 1e-9)
    share_BL = jnp.max(area_BRL, axis=1) / jnp.take_along_axis(whole_BR, most_BL, axis=1)
    middle_BL2 = jnp.take_along_axis((low_BR2 + high_BR2) / 2, most_BL[..., None], axis=1)
    return most_BL, share_BL, middle_BL2


def places_at(targets_PR4: Array, box_B4: Array, side: int, bins: int) -> Array:
    """Where in the view the middle of each embedding's target lies: int32 ``[B, side², 2]``, x and y bin.

    -1 where the embedding shows less than ``SHOWN`` of any target, or the middle lies outside the view.
    """
    _, share_BL, middle_BL2 = shown_target(targets_PR4, box_B4, side)
    inside_BL = jnp.all((middle_BL2 >= 0) & (middle_BL2 < 1), axis=-1) & (share_BL >= SHOWN)
    return jnp.where(inside_BL[..., None], (middle_BL2 * bins).astype(jnp.int32), -1)


def names_at(targets_PR4: Array, named_PR: Array, box_B4: Array, side: int) -> Array:
    """Concept of each embedding's target: int32 ``[B, side²]``, -1 where that is not asked."""
    most_BL, share_BL, _ = shown_target(targets_PR4, box_B4, side)
    named_BR = jnp.repeat(named_PR, box_B4.shape[0] // named_PR.shape[0], axis=0)
    in_view_B1 = jnp.sum(share_BL, axis=1, keepdims=True) >= 0.5
    return jnp.where((share_BL >= NAMED) & in_view_B1, jnp.take_along_axis(named_BR, most_BL, axis=1), -1)
