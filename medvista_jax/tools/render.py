"""From recipes to pixels: every view is sampled from the original pixels, windowed, and its effects applied."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from medvista_jax.core.types import Array, Blend, ImageBank, View
from medvista_jax.tools.base import Effect, Originals
from medvista_jax.tools.filters import separable
from medvista_jax.tools.resample import crop_resize, sample_affine


def originals_of(bank: ImageBank) -> Originals:
    """What kernels see of a bank, leaves with the leading axis P."""
    return Originals(
        pixels_OYXC=bank.pixels_POYXC,
        window_O2=bank.window_PO2,
        count=bank.count_P,
        size_O2=bank.size_PO2,
        spacing_O2=bank.spacing_PO2,
        rescale_O2=bank.rescale_PO2,
    )


def per_row(function: Any, bank: ImageBank, rows: Any) -> Any:
    """``function(row, originals)`` over all rows of a batch; rows of a group share the originals without a copy.

    Args:
      rows: pytree, leaves ``[B, …]``; row ``b`` belongs to prompt ``b // (B // P)``.
    """
    prompts = bank.window_PO2.shape[0]
    grouped = jax.tree.map(lambda leaf: leaf.reshape((prompts, -1) + leaf.shape[1:]), rows)
    result = jax.vmap(jax.vmap(function, in_axes=(0, None)))(grouped, originals_of(bank))
    return jax.tree.map(lambda leaf: leaf.reshape((-1,) + leaf.shape[2:]), result)


def for_rows(function: Any, bank: ImageBank, mine_B: Array, rows: Any, otherwise: Any) -> Any:
    """``function(row, originals)`` in the rows that are ``mine``, ``otherwise`` in the others.

    On accelerators all rows run abreast and the others' results are dropped. On a CPU a row comes after the other:
    others cost nothing, loops end when their own row has converged, and what a kernel writes stays in the cache.

    Args:
      rows, otherwise: pytrees, leaves ``[B, …]``; ``otherwise`` is as what ``function`` returns.
    """
    operands = (mine_B, rows, otherwise)
    return jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(row_by_row, function, bank),
        default=functools.partial(all_rows, function, bank),
    )


def all_rows(function: Any, bank: ImageBank, mine_B: Array, rows: Any, otherwise: Any) -> Any:
    """:func:`for_rows`, all abreast."""
    pick = lambda new, old: jnp.where(mine_B.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)  # noqa: E731
    return jax.tree.map(pick, per_row(function, bank, rows), otherwise)


def row_by_row(function: Any, bank: ImageBank, mine_B: Array, rows: Any, otherwise: Any) -> Any:
    """:func:`for_rows`, one after the other."""
    group = mine_B.shape[0] // bank.window_PO2.shape[0]
    at = lambda tree, index: jax.tree.map(lambda leaf: leaf[index], tree)  # noqa: E731

    def turn(b: Array) -> Any:
        call = lambda: function(at(rows, b), at(originals_of(bank), b // group))  # noqa: E731
        return jax.lax.cond(mine_B[b], call, lambda: at(otherwise, b))

    return jax.lax.map(turn, jnp.arange(mine_B.shape[0]))


def render(
    tools: Sequence[Any], bank: ImageBank, view: View, size: tuple[int, int], needed_B: Array | None = None
) -> Array:
    """Pixels of one view a row.

    Args:
      tools: those whose effects may be stacked on the views, in the order of ``View.effect``.
      view: leaves ``[B, …]``, B a multiple of the bank's prompts.
      size: h, w.
      needed_B: bool, rows whose pixels are wanted, by default all. The others are black and, on a CPU, cost nothing.

    Returns:
      uint8 ``[B, h, w, C]``.
    """
    if needed_B is None:
        needed_B = jnp.ones(view.blend.shape, bool)
    levels_BhwC = _panel(bank, view, 0, size, needed_B)
    two_B = needed_B & (view.blend != Blend.ONE)

    def blend(levels_BhwC: Array) -> Array:
        mirrored_B = _mirrored(view)
        sampled_B = two_B & ~mirrored_B
        sample = lambda: _panel(bank, view, 1, size, sampled_B)  # noqa: E731
        other_BhwC = jax.lax.cond(jnp.any(sampled_B), sample, lambda: levels_BhwC)
        other_BhwC = jnp.where(mirrored_B[:, None, None, None], levels_BhwC[:, :, ::-1], other_BhwC)
        u_1w = (jnp.arange(size[1], dtype=jnp.float32)[None, :] + 0.5) / size[1]
        v_h1 = (jnp.arange(size[0], dtype=jnp.float32)[:, None] + 0.5) / size[0]
        a, b, c = (view.seam[:, k, None, None] for k in range(3))
        beyond_Bhw = (a * u_1w[None] + b * v_h1[None]) >= c
        here = lambda blend: (view.blend == int(blend))[:, None, None, None]  # noqa: E731
        seen_BhwC = jnp.where(here(Blend.SEAM) & beyond_Bhw[..., None], other_BhwC, levels_BhwC)
        return jnp.where(here(Blend.DIFFERENCE), jnp.abs(levels_BhwC - other_BhwC), seen_BhwC)

    levels_BhwC = jax.lax.cond(jnp.any(two_B), blend, lambda levels: levels, levels_BhwC)
    return _with_effects(tools, bank, view, levels_BhwC, needed_B).astype(jnp.uint8)


def _mirrored(view: View) -> Array:
    """Where panel B is panel A from right to left, as ``symmetry_difference`` makes it: it need not be sampled."""
    one_B23, other_B23 = view.affine[:, 0], view.affine[:, 1]
    right_B2 = one_B23[:, :, 0]
    mirror_B23 = jnp.stack([-right_B2, one_B23[:, :, 1], one_B23[:, :, 2] + right_B2], axis=2)
    same_B = (view.source[:, 0] == view.source[:, 1]) & jnp.all(view.window[:, 0] == view.window[:, 1], axis=1)
    return same_B & jnp.all(other_B23 == mirror_B23, axis=(1, 2))


def shaped(pixels_hwC: np.ndarray, size_2: np.ndarray) -> np.ndarray:
    """A square rendering in the shape of its region, the longer side kept: ``[Y, X]`` or ``[Y, X, 3]``."""
    side = pixels_hwC.shape[0]
    height, width = (max(1, math.floor(edge * side / max(size_2) + 0.5)) for edge in size_2)
    image = Image.fromarray(pixels_hwC[..., 0] if pixels_hwC.shape[-1] == 1 else pixels_hwC)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _with_effects(tools: Sequence[Any], bank: ImageBank, view: View, levels_BhwC: Array, needed_B: Array) -> Array:
    """Every stacked effect applied in its order; an effect that no row shows costs nothing."""
    effects = [
        (index + 1, tool.effect) for index, tool in enumerate(tools) if getattr(tool, "effect", None) is not None
    ]
    if not effects:
        return levels_BhwC

    def apply_all(at: Array, levels_BhwC: Array) -> Array:
        effect_B = jax.lax.dynamic_index_in_dim(view.effect, at, axis=1, keepdims=False)
        values_BN = jax.lax.dynamic_index_in_dim(view.values, at, axis=1, keepdims=False)
        for number, effect in effects:
            mine_B = needed_B & (effect_B == number)

            def apply(levels_BhwC: Array, effect: Effect = effect, mine_B: Array = mine_B) -> Array:
                one = lambda row, originals: _rounded(effect(*row, originals))  # noqa: E731
                return for_rows(one, bank, mine_B, (levels_BhwC, values_BN, view), levels_BhwC)

            levels_BhwC = jax.lax.cond(jnp.any(mine_B), apply, lambda levels: levels, levels_BhwC)
        return levels_BhwC

    return jax.lax.fori_loop(0, view.effect.shape[1], apply_all, levels_BhwC)


def _rounded(levels_hwC: Array) -> Array:
    return jnp.round(jnp.clip(levels_hwC, 0.0, 255.0))


def _panel(bank: ImageBank, view: View, panel: int, size: tuple[int, int], needed_B: Array) -> Array:
    """Displayed levels of one panel over the whole view: float32 whole numbers ``[B, h, w, C]``; 0 beyond the image."""
    height, width = size
    source_B, affine_B23, window_B2 = view.source[:, panel], view.affine[:, panel], view.window[:, panel]
    size_B2 = _size(bank, source_B)
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

    def crop(box_B4: Array, height: int, width: int) -> Array:
        stored_BhwC = crop_resize(bank.pixels_POYXC, source_B, box_B4, bank.size_PO2, height, width, needed_B)
        low_B111, high_B111 = (window_B2[:, k, None, None, None] for k in range(2))
        levels_BhwC = jnp.clip((stored_BhwC - low_B111) / (high_B111 - low_B111), 0.0, 1.0) * 255.0
        on_Bw, on_Bh = (_on_image(box_B4, size_B2, axis, out) for axis, out in enumerate((width, height)))
        return jnp.where((on_Bh[:, :, None] & on_Bw[:, None, :])[..., None], levels_BhwC, 0.0)

    levels_BhwC = crop(safe_B4, height, width)

    def quarter(levels_BhwC: Array) -> Array:
        """(u, v) run along (y, x): the crop of the same box, transposed."""
        lying_BwhC = levels_BhwC if height == width else crop(safe_B4, width, height)
        return jnp.where(quarter_B[:, None, None, None], lying_BwhC.transpose(0, 2, 1, 3), levels_BhwC)

    def tilted(levels_BhwC: Array) -> Array:
        """An antialiased crop of the box around the view, then a bilinear turn at the view's own resolution."""
        side = math.ceil(math.sqrt(2.0) * max(height, width))
        flat_BmmC = crop(around_B4, side, side)
        scale_B2 = side / (around_B4[:, 2:] - around_B4[:, :2])
        move_B23 = affine_B23.at[:, :, 2].add(-around_B4[:, :2]) * scale_B2[:, :, None]
        step_B2 = jnp.hypot(move_B23[:, :, 0] / width, move_B23[:, :, 1] / height)
        weights_B2N = _remaining_blur(step_B2, scale_B2)
        flat_BmmC = jax.vmap(separable)(flat_BmmC, weights_B2N[:, 1], weights_B2N[:, 0])
        turned_BhwC = sample_affine(flat_BmmC, move_B23, height, width)
        return jnp.where((upright_B | quarter_B)[:, None, None, None], levels_BhwC, turned_BhwC)

    levels_BhwC = jax.lax.cond(jnp.any(quarter_B), quarter, lambda levels: levels, levels_BhwC)
    levels_BhwC = jax.lax.cond(jnp.all(upright_B | quarter_B), lambda levels: levels, tilted, levels_BhwC)
    return jnp.round(levels_BhwC)


def _size(bank: ImageBank, source_B: Array) -> Array:
    """Columns and rows of each row's original: float32 ``[B, 2]``."""
    prompts, originals = bank.size_PO2.shape[:2]
    prompt_B = jnp.arange(source_B.shape[0]) // (source_B.shape[0] // prompts)
    return bank.size_PO2.reshape(-1, 2)[prompt_B * originals + source_B][:, ::-1].astype(jnp.float32)


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
