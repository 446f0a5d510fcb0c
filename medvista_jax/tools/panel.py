"""One panel of a view: where its pixels lie on the original, upright, by quarter turns or at an angle."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, ImageBank, View
from medvista_jax.tools.filters import separable
from medvista_jax.tools.pixels import change_if
from medvista_jax.tools.resample import sample_affine

Crop = Callable[..., Array]
"""Of :mod:`~medvista_jax.tools.resample`: ``crop_banded`` or ``crop_dense``."""


def sample_panel(crop: Crop, bank: ImageBank, prompt_B: Array, view: View, panel: int, size: tuple[int, int]) -> Array:
    """Displayed levels of one panel over the whole view.

    Args:
      crop: how boxes are cut out of originals.
      prompt_B: int32, to which prompt of the bank each row belongs.
      view: leaves ``[B, …]``.
      size: h, w.

    Returns:
      float32 whole numbers ``[B, h, w, C]``; 0 beyond the image.
    """
    height, width = size
    source_B, affine_B23, window_B2 = view.source[:, panel], view.affine[:, panel], view.window[:, panel]
    in_use_B2 = bank.size_PO2[prompt_B, source_B]  # rows, columns
    size_B2 = in_use_B2[:, ::-1].astype(jnp.float32)
    start_B2 = affine_B23[:, :, 2]
    along_B2 = affine_B23[:, :, 0] + affine_B23[:, :, 1]  # of an upright or quarter-turned view: one of the two is 0
    box_B4 = jnp.concatenate([start_B2, start_B2 + along_B2], axis=1)
    # A half of a pair reaches beyond the image as a whole view. Crops can be twice as wide as the image; wider ones, of
    # turns of turns, are sampled as if tilted.
    fits_B = jnp.all(jnp.abs(along_B2) <= 2.0 * size_B2 + 0.01, axis=1)
    upright_B = (affine_B23[:, 0, 1] == 0) & (affine_B23[:, 1, 0] == 0) & fits_B
    quarter_B = (affine_B23[:, 0, 0] == 0) & (affine_B23[:, 1, 1] == 0) & fits_B & ~upright_B
    around_B4 = _around(size_B2, affine_B23)
    safe_B4 = jnp.where((upright_B | quarter_B)[:, None], box_B4, around_B4)

    def cut(box_B4: Array, height: int, width: int) -> Array:
        stored_BhwC = crop(bank.pixels_POYXC, prompt_B, source_B, box_B4, in_use_B2, height, width)
        low_B111, high_B111 = (window_B2[:, k, None, None, None] for k in range(2))
        levels_BhwC = jnp.clip((stored_BhwC - low_B111) / (high_B111 - low_B111), 0.0, 1.0) * 255.0
        on_Bw, on_Bh = (_on_image(box_B4, size_B2, axis, out) for axis, out in enumerate((width, height)))
        return jnp.where((on_Bh[:, :, None] & on_Bw[:, None, :])[..., None], levels_BhwC, 0.0)

    levels_BhwC = cut(safe_B4, height, width)

    def quarter(levels_BhwC: Array) -> Array:
        """(u, v) run along (y, x): the crop of the same box, transposed."""
        lying_BwhC = levels_BhwC if height == width else cut(safe_B4, width, height)
        return jnp.where(quarter_B[:, None, None, None], lying_BwhC.transpose(0, 2, 1, 3), levels_BhwC)

    def tilted(levels_BhwC: Array) -> Array:
        """An antialiased crop of the box around the view, then a bilinear turn at the view's own resolution."""
        side = math.ceil(math.sqrt(2.0) * max(height, width))
        flat_BmmC = cut(around_B4, side, side)
        scale_B2 = side / (around_B4[:, 2:] - around_B4[:, :2])
        move_B23 = affine_B23.at[:, :, 2].add(-around_B4[:, :2]) * scale_B2[:, :, None]
        step_B2 = jnp.hypot(move_B23[:, :, 0] / width, move_B23[:, :, 1] / height)
        weights_B2N = _remaining_blur(step_B2, scale_B2)
        flat_BmmC = jax.vmap(separable)(flat_BmmC, weights_B2N[:, 1], weights_B2N[:, 0])
        turned_BhwC = sample_affine(flat_BmmC, move_B23, height, width)
        return jnp.where((upright_B | quarter_B)[:, None, None, None], levels_BhwC, turned_BhwC)

    levels_BhwC = change_if(jnp.any(quarter_B), quarter, levels_BhwC)
    levels_BhwC = change_if(~jnp.all(upright_B | quarter_B), tilted, levels_BhwC)
    return jnp.round(levels_BhwC)


def _on_image(box_B4: Array, size_B2: Array, axis: int, out: int) -> Array:
    """Which of ``out`` pixels along an axis of a crop have their middle on the image: bool ``[B, out]``."""
    share_1N = (jnp.arange(out, dtype=jnp.float32)[None, :] + 0.5) / out
    first_B1, last_B1 = box_B4[:, axis, None], box_B4[:, axis + 2, None]
    middle_BN = first_B1 + (last_B1 - first_B1) * share_1N
    return (middle_BN >= 0.0) & (middle_BN <= size_B2[:, axis, None])


def _around(size_B2: Array, affine_B23: Array) -> Array:
    """The part of the image around each view: x1 y1 x2 y2 in pixels, inside the image, a pixel wide at least."""
    start_B2, u_B2, v_B2 = affine_B23[:, :, 2], affine_B23[:, :, 0], affine_B23[:, :, 1]
    low_B2 = start_B2 + jnp.minimum(u_B2, 0.0) + jnp.minimum(v_B2, 0.0)
    high_B2 = start_B2 + jnp.maximum(u_B2, 0.0) + jnp.maximum(v_B2, 0.0)
    low_B2 = jnp.clip(low_B2, 0.0, size_B2 - 1.0)
    return jnp.concatenate([low_B2, jnp.clip(high_B2, low_B2 + 1.0, size_B2)], axis=1)


def _remaining_blur(step_B2: Array, scale_B2: Array) -> Array:
    """Triangles ``[B, 2, 5]`` that a flat picture lacks to be sampled at ``step`` pixels of it without aliasing.

    The view should see a triangle as wide as its own pixel, which has the variance step**2 / 6. The crop has given one
    as wide as a pixel of the flat picture or of the original (``scale``), bilinear sampling gives one of the flat
    picture's; variances add up.
    """
    given_B2 = jnp.maximum(scale_B2, 1.0)
    missing_B2 = jnp.maximum(step_B2, given_B2) ** 2 - given_B2**2 - 1.0
    reach_B2 = jnp.clip(jnp.sqrt(jnp.maximum(missing_B2, 0.0)), 1.0, 3.0)  # 1: no blur
    weights_B2N = jnp.maximum(0.0, 1.0 - jnp.abs(jnp.arange(-2.0, 3.0))[None, None] / reach_B2[:, :, None])
    return weights_B2N / jnp.sum(weights_B2N, axis=2, keepdims=True)
