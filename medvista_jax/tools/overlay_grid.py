"""``overlay_grid``: lines with their coordinates over an image, so that boxes can be read off."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.define import effect_tool
from medvista_jax.tools.filters import separable
from medvista_jax.tools.pixels import grey

_DIGITS = """
.###. ..#.. .###. .###. ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# #...# ..##. #.... #.... ....# #...# #...#
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ..##. ..##. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. .#... ....# ##### ....# #...# ..#.. #...# ....#
#...# ..#.. #.... #...# ...#. #...# #...# ..#.. #...# ....#
.###. .###. ##### .###. ...#. .###. .###. ..#.. .###. .###.
"""
_LIT = np.array([[[c == "#" for c in part] for part in line.split()] for line in _DIGITS.split("\n")[1:-1]])
_FONT_RN5 = _LIT.transpose(1, 0, 2)  # digit, row, column
_HIGH, _WIDE = _FONT_RN5.shape[1:]

LABELLED = 96
"""Shorter side in pixels of a view that is large enough for labels."""

_PIXELS_PER_DOT = 224
"""Views of so many pixels, and of each multiple, draw lines and dots of labels one pixel thicker."""


@effect_tool(
    f"Draw lines with their coordinates, 0 to {FRAME}, over an image.",
    Argument("cells", "cells along each side", "integer", 2, 20, default=4),
    family="view",
)
def overlay_grid(levels_hwC: Array, cells: Array) -> Array:
    """Lines at every ``1000 / cells`` of the view that is shown; a zoom into it has a grid of its own.

    Lines are black where the surroundings are bright and white where they are dark. Labels, white on black, stand right
    of the upright lines at the top and below the level lines at the left, where the view has ``LABELLED`` pixels and a
    cell has room for them.
    """
    height, width = levels_hwC.shape[:2]
    dot = max(1, min(height, width) // _PIXELS_PER_DOT)
    line_h, below_h = _lines(height, cells, dot)
    line_w, right_w = _lines(width, cells, dot)
    mean_7 = jnp.full((7,), 1 / 7)
    nearby_hw = separable(grey(levels_hwC), mean_7, mean_7)
    ink_hw = jnp.where(nearby_hw >= 128.0, 0.0, 255.0)
    on_hw = ((line_h > 0) & (below_h < 0))[:, None] | ((line_w > 0) & (right_w < 0))[None, :]
    drawn_hwC = jnp.where(on_hw[..., None], ink_hw[..., None], levels_hwC)
    if min(height, width) < LABELLED:
        return drawn_hwC
    plate_hw, lit_hw = _top(line_w, right_w, height, cells, dot)
    plate_left_wh, lit_left_wh = _left(line_h, below_h, width, cells, dot)
    room = (width // cells > (3 * (_WIDE + 1) + 2) * dot) & (height // cells > (_HIGH + 3) * dot)
    plate_hw, lit_hw = (plate_hw | plate_left_wh) & room, lit_hw | lit_left_wh
    return jnp.where(plate_hw[..., None], jnp.where(lit_hw, 255.0, 0.0)[..., None], drawn_hwC)


def _lines(size: int, cells: Array, dot: int) -> tuple[Array, Array]:
    """Of each pixel along an axis: the last line at or before it, 0 the border; pixels behind it, negative on it.

    Line k lies in the pixel of k / cells; int32 is exact where float32 would put some lines a pixel off.
    """
    at = jnp.arange(size)
    line = ((at + 1) * cells - 1) // size
    return line, at - line * size // cells - dot


def _digits(line: Array, cells: Array) -> tuple[Array, Array]:
    """Digits ``[…, 3]`` of the lines' coordinates from the left, and how many there are."""
    value = (2 * FRAME * line + cells) // (2 * cells)
    count = jnp.where(value >= 100, 3, 2)
    hundreds = value >= 100
    digits = [jnp.where(hundreds, value // 100, value // 10), jnp.where(hundreds, value // 10, value), value]
    return jnp.stack(digits, axis=-1) % 10, count


def _top(line_w: Array, right_w: Array, height: int, cells: Array, dot: int) -> tuple[Array, Array]:
    """Where the plates and the dots of the labels of upright lines are: bool ``[h, w]``, twice."""
    digits_w3, count_w = _digits(line_w, cells)
    across_w, down_h = right_w // dot - 1, jnp.arange(height) // dot - 1
    plate_w = (line_w > 0) & (right_w >= 0) & (across_w < count_w * (_WIDE + 1))
    place_w, column_w = jnp.clip(across_w, 0, 17) // (_WIDE + 1), across_w % (_WIDE + 1)
    digit_w = jnp.take_along_axis(digits_w3, place_w[:, None], axis=1)[:, 0]
    bits = jnp.asarray((_FONT_RN5 << np.arange(_HIGH)[None, :, None]).sum(1), jnp.int32)  # a column's dots
    dots_w = jnp.where(plate_w & (across_w >= 0) & (column_w < _WIDE), bits[digit_w, jnp.minimum(column_w, 4)], 0)
    plate_hw = plate_w[None, :] & (down_h <= _HIGH)[:, None]
    inside_h = (down_h >= 0) & (down_h < _HIGH)
    lit_hw = (dots_w[None, :] >> jnp.clip(down_h, 0, _HIGH)[:, None]) & 1
    return plate_hw, (lit_hw == 1) & inside_h[:, None]


def _left(line_h: Array, below_h: Array, width: int, cells: Array, dot: int) -> tuple[Array, Array]:
    """The same of level lines."""
    digits_h3, count_h = _digits(line_h, cells)
    down_h, across_w = below_h // dot - 1, jnp.arange(width) // dot - 1
    plate_h = (line_h > 0) & (below_h >= 0) & (down_h <= _HIGH)
    inside_h = plate_h & (down_h >= 0) & (down_h < _HIGH)
    bits = jnp.asarray((_FONT_RN5 << np.arange(_WIDE)).sum(2), jnp.int32)  # a row's dots
    row_h3 = bits[digits_h3, jnp.clip(down_h, 0, _HIGH - 1)[:, None]]
    shown_h3 = inside_h[:, None] & (jnp.arange(3)[None, :] < count_h[:, None])
    place_3 = jnp.arange(3) * (_WIDE + 1)
    dots_h = jnp.sum(jnp.where(shown_h3, row_h3 << place_3[None, :], 0), axis=1)
    plate_hw = plate_h[:, None] & (across_w[None, :] < count_h[:, None] * (_WIDE + 1))
    lit_hw = (dots_h[:, None] >> jnp.clip(across_w, 0, 31)[None, :]) & 1
    return plate_hw, (lit_hw == 1) & ((across_w >= 0) & (across_w < 18))[None, :]
