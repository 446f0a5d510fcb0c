"""Where the policy has looked: crops of the first original, from the recipes of the image slots."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import Array, Trajectory


def crop_slots(trajectory: Trajectory) -> Array:
    """bool ``[B, I]``: slots that show a part of the first original, and not all of it.

    The first slot shows all of the first original. A view of the same source that covers less of it is a crop,
    whichever tool made it; a window over the whole image is none, nor is a zoom into everything.
    """
    view = trajectory.views.view
    affine_BI23 = view.affine[:, :, 0]
    area_BI = jnp.abs(affine_BI23[..., 0, 0] * affine_BI23[..., 1, 1] - affine_BI23[..., 0, 1] * affine_BI23[..., 1, 0])
    used_BI = jnp.arange(area_BI.shape[1])[None, :] < trajectory.views.count_B[:, None]
    same_BI = view.source[:, :, 0] == view.source[:, :1, 0]
    return used_BI & same_BI & (area_BI < area_BI[:, :1] * (1 - 1e-5)) & (area_BI > 0)


def crop_masks(trajectory: Trajectory, grid: int) -> Array:
    """bool ``[B, grid, grid]``: the union of the crops, on points spread evenly over the first original."""
    affine_BI23 = trajectory.views.view.affine[:, :, 0]
    step_G = (jnp.arange(grid) + 0.5) / grid
    point_GG3 = jnp.stack([*jnp.broadcast_arrays(step_G[None, :], step_G[:, None]), jnp.ones((grid, grid))], axis=-1)
    xy_BGG2 = jnp.einsum("brc,yxc->byxr", affine_BI23[:, 0], point_GG3)
    crop_BI = crop_slots(trajectory)
    mask_BGG = jnp.zeros((affine_BI23.shape[0], grid, grid), bool)
    for slot in range(1, affine_BI23.shape[1]):
        mask_BGG |= _inside(affine_BI23[:, slot], xy_BGG2) & crop_BI[:, slot, None, None]
    return mask_BGG


def _inside(affine_B23: Array, xy_BGG2: Array) -> Array:
    """bool ``[B, G, G]``: (x, y) lies in the view, by Cramer's rule for its (u, v)."""
    part = lambda row, column: affine_B23[:, row, column, None, None]  # noqa: E731
    x, y = xy_BGG2[..., 0] - part(0, 2), xy_BGG2[..., 1] - part(1, 2)
    size = part(0, 0) * part(1, 1) - part(0, 1) * part(1, 0)
    size = jnp.where(size == 0, 1.0, size)
    u = (x * part(1, 1) - y * part(0, 1)) / size
    v = (y * part(0, 0) - x * part(1, 0)) / size
    return (u >= 0) & (u < 1) & (v >= 0) & (v < 1)


def places(trajectory: Trajectory, apart: float) -> Array:
    """int32 ``[B]``: middles of crops that lie at least ``apart`` pixels of the original from all counted before."""
    middle_3 = jnp.array([0.5, 0.5, 1.0])
    middle_BI2 = jnp.einsum("birc,c->bir", trajectory.views.view.affine[:, :, 0], middle_3)
    crop_BI = crop_slots(trajectory)
    counted_BI = jnp.zeros_like(crop_BI)
    for slot in range(1, crop_BI.shape[1]):
        gap_BI = jnp.linalg.norm(middle_BI2 - middle_BI2[:, slot, None], axis=-1)
        near_B = jnp.any(counted_BI & (gap_BI < apart), axis=1)
        counted_BI = counted_BI.at[:, slot].set(crop_BI[:, slot] & ~near_B)
    return jnp.sum(counted_BI, axis=1)
