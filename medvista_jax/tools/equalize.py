"""``equalize``: contrast-limited adaptive histogram equalisation (CLAHE), the numerics of OpenCV's ``createCLAHE``.

K. Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.define import effect_tool
from medvista_jax.tools.pixels import grey

TILES = 8
"""Tiles along each side of a view."""

_LEVELS = 256


@effect_tool(
    "Raise the local contrast of an image (CLAHE).",
    Argument("clip_limit", "higher: more contrast and more noise", "integer", 1, 40, default=4),
)
def equalize(levels_hwC: Array, clip_limit: Array) -> Array:
    """CLAHE of the displayed levels on 8 x 8 tiles of the view.

    Of colours the luminance is equalised and the three channels are multiplied by what it gained, less where one would
    pass white, so that hue and saturation stay; black pixels become grey.

    Args:
      clip_limit: tallest bin of a tile's histogram, in multiples of the mean bin, one pixel at least.
    """
    before_hw = grey(levels_hwC)
    after_hw = clahe(before_hw.astype(jnp.int32), clip_limit)
    if levels_hwC.shape[-1] == 1:
        return after_hw[..., None]
    most_hw = functools.reduce(jnp.maximum, (levels_hwC[..., c] for c in range(levels_hwC.shape[-1])))
    gain_hw = jnp.minimum(after_hw / jnp.maximum(before_hw, 1.0), 255.0 / jnp.maximum(most_hw, 1.0))
    return jnp.where((before_hw == 0)[..., None], after_hw[..., None], levels_hwC * gain_hw[..., None])


def clahe(levels_hw: Array, clip_limit: Array) -> Array:
    """Equalised levels: int32 0…255 before, float32 whole numbers after, ``[h, w]``."""
    height, width = levels_hw.shape
    tall, wide = _tile(height, width)
    rows, columns = TILES * tall, TILES * wide
    whole_YX = jnp.pad(levels_hw, ((0, rows - height), (0, columns - width)), mode="reflect")
    tiles_NM = _cells(whole_YX, TILES, tall, wide)
    histogram_NV = jax.lax.platform_dependent(tiles_NM, tpu=count_by_product, default=count_by_scatter)
    tables_NV = _tables(histogram_NV, tall * wide, clip_limit)

    # A pixel lies between the middles of four tiles. Its cell, and its shares of the four, are known in advance.
    cell_h, low_h = _between(height, tall)
    cell_w, low_w = _between(width, wide)
    around_yxV4 = _corners(tables_NV)

    def gather(levels_hw: Array, around_yxV4: Array) -> Array:
        return look_up_by_gather(levels_hw, around_yxV4, cell_h, cell_w)

    def product(levels_hw: Array, around_yxV4: Array) -> Array:
        return look_up_by_product(levels_hw, around_yxV4, tall, wide)

    of_4hw = jax.lax.platform_dependent(levels_hw, around_yxV4, tpu=product, default=gather)
    up_h1, left_1w = jnp.asarray(low_h)[:, None], jnp.asarray(low_w)[None, :]
    upper_hw = of_4hw[0] * (1.0 - left_1w) + of_4hw[1] * left_1w
    lower_hw = of_4hw[2] * (1.0 - left_1w) + of_4hw[3] * left_1w
    return jnp.round(upper_hw * (1.0 - up_h1) + lower_hw * up_h1)


def _tile(height: int, width: int) -> tuple[int, int]:
    """Pixels of a tile. A view that does not divide gets a tile's remainder more on *both* axes, as in OpenCV."""
    if height % TILES == 0 and width % TILES == 0:
        return height // TILES, width // TILES
    return height // TILES + 1, width // TILES + 1


def _cells(levels_YX: Array, count: int, tall: int, wide: int) -> Array:
    """``[count * tall, count * wide]`` as cells: ``[count * count, tall * wide]``."""
    return levels_YX.reshape(count, tall, count, wide).transpose(0, 2, 1, 3).reshape(count * count, tall * wide)


def _tables(histogram_NV: Array, pixels: int, clip_limit: Array) -> Array:
    """Clipped histograms, what was cut off given back evenly, as look-up tables: int32 ``[N, 256]`` of 0…255."""
    most = jnp.maximum(clip_limit * pixels // _LEVELS, 1)
    clipped_NV = jnp.minimum(histogram_NV, most)
    cut_N1 = jnp.sum(histogram_NV - clipped_NV, axis=1, keepdims=True)
    each_N1, rest_N1 = cut_N1 // _LEVELS, cut_N1 % _LEVELS
    # The rest goes one by one to bins at equal steps from bin 0.
    step_N1 = jnp.maximum(_LEVELS // jnp.maximum(rest_N1, 1), 1)
    bin_1V = jnp.arange(_LEVELS)[None, :]
    more_NV = (bin_1V % step_N1 == 0) & (bin_1V // step_N1 < rest_N1)
    total_NV = jnp.cumsum(clipped_NV + each_N1 + more_NV, axis=1).astype(jnp.float32)
    scale = np.float32(_LEVELS - 1) / np.float32(pixels)
    return jnp.clip(jnp.round(total_NV * scale), 0.0, 255.0).astype(jnp.int32)


def _between(size: int, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel along an axis: the cell between tile middles, 0…TILES, and the share of the tile behind it."""
    at = np.arange(size)
    cell = (at + tile // 2) // tile
    place = at.astype(np.float32) * (np.float32(1) / np.float32(tile)) - np.float32(0.5)
    return cell, place - (cell - 1).astype(np.float32)


def _corners(tables_NV: Array) -> Array:
    """Tables of the tiles around each cell, upper left, upper right, lower left, lower right: ``[9, 9, 256, 4]``."""
    square = jnp.pad(tables_NV.reshape(TILES, TILES, _LEVELS), ((1, 1), (1, 1), (0, 0)), mode="edge")
    parts = [square[y : y + TILES + 1, x : x + TILES + 1] for y in (0, 1) for x in (0, 1)]
    return jnp.stack(parts, axis=-1)


def count_by_scatter(tiles_NM: Array) -> Array:
    """Histograms, int32 ``[N, 256]``, one pixel after another: best on CPUs and GPUs."""
    start_N1 = jnp.arange(tiles_NM.shape[0])[:, None] * _LEVELS
    counts = jnp.zeros((tiles_NM.shape[0] * _LEVELS,), jnp.int32)
    return counts.at[(tiles_NM + start_N1).reshape(-1)].add(1, mode="promise_in_bounds").reshape(-1, _LEVELS)


def count_by_product(tiles_NM: Array) -> Array:
    """The same as a matrix product of upper and lower four bits, for TPUs, which scatter slowly.

    Ones and zeros are exact in bfloat16, and counts below 2**24 in float32.
    """
    upper_NMi = jax.nn.one_hot(tiles_NM // 16, 16, dtype=jnp.bfloat16)
    lower_NMj = jax.nn.one_hot(tiles_NM % 16, 16, dtype=jnp.bfloat16)
    counts = jnp.einsum("nmi,nmj->nij", upper_NMi, lower_NMj, preferred_element_type=jnp.float32)
    return counts.reshape(-1, _LEVELS).astype(jnp.int32)


def look_up_by_gather(levels_hw: Array, around_yxV4: Array, cell_h: np.ndarray, cell_w: np.ndarray) -> Array:
    """float32 ``[4, h, w]``: each level in the four tables of its cell; they are bytes, so one gather fetches all."""
    byte_4 = jnp.arange(0, 32, 8, dtype=jnp.uint32)
    packed = jnp.sum(around_yxV4.astype(jnp.uint32) << byte_4[None, None, None], axis=-1, dtype=jnp.uint32)
    start_hw = (cell_h[:, None] * (TILES + 1) + cell_w[None, :]) * _LEVELS
    found_hw = packed.reshape(-1).at[jnp.asarray(start_hw, jnp.int32) + levels_hw].get(mode="promise_in_bounds")
    return ((found_hw[None] >> byte_4[:, None, None]) & 255).astype(jnp.float32)


def look_up_by_product(levels_hw: Array, around_yxV4: Array, tall: int, wide: int) -> Array:
    """The same as a matrix product with one-hot levels, cell by cell, for TPUs. Bytes are exact in bfloat16."""
    height, width = levels_hw.shape
    cells = TILES + 1
    before = (tall // 2, wide // 2)
    after = (cells * tall - before[0] - height, cells * wide - before[1] - width)
    padded = jnp.pad(levels_hw, ((before[0], after[0]), (before[1], after[1])))
    hot_NMV = jax.nn.one_hot(_cells(padded, cells, tall, wide), _LEVELS, dtype=jnp.bfloat16)
    table_NV4 = around_yxV4.reshape(cells * cells, _LEVELS, 4).astype(jnp.bfloat16)
    found_NM4 = jnp.einsum("nmv,nvk->nmk", hot_NMV, table_NV4, preferred_element_type=jnp.float32)
    found = found_NM4.reshape(cells, cells, tall, wide, 4).transpose(4, 0, 2, 1, 3)
    found = found.reshape(4, cells * tall, cells * wide)
    return found[:, before[0] : before[0] + height, before[1] : before[1] + width]
