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

from medvista_jax.core.layout import constrain, shards
from medvista_jax.core.types import Array, Blend, ImageBank, View
from medvista_jax.tools.base import Effect, Originals
from medvista_jax.tools.panel import Crop, sample_panel
from medvista_jax.tools.pixels import beside, change_if
from medvista_jax.tools.resample import crop_banded, crop_dense

ROWS_AT_ONCE = 4
"""A device, on an accelerator."""


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

    On a CPU rows come one after the other, from stored pixels to levels of 8 bits: what one step writes is still in the
    cache when the next reads it. On accelerators some of each device's rows at a time run abreast.

    Args:
      tools: those whose effects may be stacked on the views, in the order of ``View.effect``.
      view: leaves ``[B, …]``, B a multiple of the bank's prompts.
      size: h, w.
      needed_B: bool, rows whose pixels are wanted, by default all. The others are black and, on a CPU, cost nothing.

    Returns:
      uint8 ``[B, h, w, C]``.
    """
    needed_B = jnp.ones(view.blend.shape, bool) if needed_B is None else needed_B
    return jax.lax.platform_dependent(
        view,
        needed_B,
        cpu=functools.partial(render_one_by_one, tools, bank, size),
        default=functools.partial(render_abreast, tools, bank, size),
    )


def render_abreast(tools: Sequence[Any], bank: ImageBank, size: tuple[int, int], view: View, needed_B: Array) -> Array:
    """:func:`render`, :data:`ROWS_AT_ONCE` rows of each device in step: a row takes several copies of its original."""
    batch = needed_B.shape[0]
    group = batch // bank.window_PO2.shape[0]
    parts = shards("rows", batch)
    each = batch // parts
    fits = lambda n: each % n == 0 and (group % n == 0 or n % group == 0)  # noqa: E731
    at_once = next(n for n in range(min(ROWS_AT_ONCE, each), 0, -1) if fits(n))
    if at_once == each:
        return _all_in_step(tools, bank, size, view, needed_B)

    def some(rows_N: Array) -> Array:
        prompts_P = rows_N[:: min(at_once, group)] // group
        of_bank, of_rows = (lambda leaf: leaf[prompts_P]), (lambda leaf: constrain(leaf[rows_N], "rows"))
        part = (jax.tree.map(of_bank, bank), size, *jax.tree.map(of_rows, (view, needed_B)))
        return constrain(beside(_all_in_step(tools, *part)), "rows")

    rows_PRN = np.arange(batch, dtype=np.int32).reshape(parts, -1, at_once)
    pixels_RNhN = jax.lax.map(some, jnp.asarray(rows_PRN.swapaxes(0, 1).reshape(-1, parts * at_once)))
    pixels_RPNhN = pixels_RNhN.reshape((-1, parts, at_once) + pixels_RNhN.shape[2:])
    return pixels_RPNhN.swapaxes(0, 1).reshape((batch, *size, -1))


def _all_in_step(tools: Sequence[Any], bank: ImageBank, size: tuple[int, int], view: View, needed_B: Array) -> Array:
    batch = needed_B.shape[0]
    prompt_B = jnp.arange(batch, dtype=jnp.int32) // (batch // bank.window_PO2.shape[0])
    on_rows = functools.partial(all_rows, bank=bank)
    pixels_BhwC = _draw(crop_dense, on_rows, tools, bank, prompt_B, view, size)
    return jnp.where(needed_B[:, None, None, None], pixels_BhwC, 0)


def render_one_by_one(
    tools: Sequence[Any], bank: ImageBank, size: tuple[int, int], view: View, needed_B: Array
) -> Array:
    """:func:`render`, the rows that are needed one after the other."""
    batch = needed_B.shape[0]
    group = batch // bank.window_PO2.shape[0]
    order_B = jnp.argsort(~needed_B).astype(jnp.int32)  # those that are needed come first, and the loop ends with them

    def draw(n: Array, pixels_BhwC: Array) -> Array:
        b = order_B[n]
        prompt_1 = (b // group)[None]

        def on_rows(function: Any, mine_B: Array, rows: Any, otherwise: Array) -> Array:
            first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
            originals = lambda: jax.tree.map(lambda leaf: leaf[prompt_1[0]], originals_of(bank))  # noqa: E731
            return jax.lax.cond(mine_B[0], lambda: function(first(rows), originals())[None], lambda: otherwise)

        row = jax.tree.map(lambda leaf: leaf[b][None], view)
        drawn_1hwC = _draw(crop_banded, on_rows, tools, bank, prompt_1, row, size)
        return jax.lax.dynamic_update_slice(pixels_BhwC, drawn_1hwC, (b, 0, 0, 0))

    black_BhwC = jnp.zeros((batch, *size, bank.pixels_POYXC.shape[-1]), jnp.uint8)
    return jax.lax.fori_loop(0, jnp.sum(needed_B), draw, black_BhwC)


def _draw(
    crop: Crop, on_rows: Any, tools: Sequence[Any], bank: ImageBank, prompt_B: Array, view: View, size: tuple[int, int]
) -> Array:
    """Panels, their blend and the effects: uint8 ``[B, h, w, C]``."""
    sample = functools.partial(sample_panel, crop, bank, prompt_B, view, size=size)
    levels_BhwC = sample(panel=0)

    def blend(levels_BhwC: Array) -> Array:
        mirrored_B = _mirrored(view)
        apart = jnp.any((view.blend != Blend.ONE) & ~mirrored_B)
        other_BhwC = change_if(apart, lambda _: sample(panel=1), levels_BhwC)
        other_BhwC = jnp.where(mirrored_B[:, None, None, None], levels_BhwC[:, :, ::-1], other_BhwC)
        u_1w = (jnp.arange(size[1], dtype=jnp.float32)[None, :] + 0.5) / size[1]
        v_h1 = (jnp.arange(size[0], dtype=jnp.float32)[:, None] + 0.5) / size[0]
        a, b, c = (view.seam[:, k, None, None] for k in range(3))
        beyond_Bhw = (a * u_1w[None] + b * v_h1[None]) >= c
        here = lambda blend: (view.blend == int(blend))[:, None, None, None]  # noqa: E731
        seen_BhwC = jnp.where(here(Blend.SEAM) & beyond_Bhw[..., None], other_BhwC, levels_BhwC)
        return jnp.where(here(Blend.DIFFERENCE), jnp.abs(levels_BhwC - other_BhwC), seen_BhwC)

    levels_BhwC = change_if(jnp.any(view.blend != Blend.ONE), blend, levels_BhwC)
    return _with_effects(on_rows, tools, view, levels_BhwC).astype(jnp.uint8)


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


def _with_effects(on_rows: Any, tools: Sequence[Any], view: View, levels_BhwC: Array) -> Array:
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
            mine_B = effect_B == number

            def apply(levels_BhwC: Array, effect: Effect = effect, mine_B: Array = mine_B) -> Array:
                one = lambda row, originals: _rounded(effect(*row, originals))  # noqa: E731
                return on_rows(one, mine_B=mine_B, rows=(levels_BhwC, values_BN, view), otherwise=levels_BhwC)

            levels_BhwC = change_if(jnp.any(mine_B), apply, levels_BhwC)
        return levels_BhwC

    shape = levels_BhwC.shape
    step = lambda at, levels: beside(apply_all(at, levels.reshape(shape)))  # noqa: E731
    return jax.lax.fori_loop(0, view.effect.shape[1], step, beside(levels_BhwC)).reshape(shape)


def _rounded(levels_hwC: Array) -> Array:
    return jnp.round(jnp.clip(levels_hwC, 0.0, 255.0))
