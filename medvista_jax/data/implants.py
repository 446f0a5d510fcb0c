"""Implanted targets that the thumbnail provably cannot tell apart, by an exact integer construction.

A thumbnail pixel i weighs canvas pixels 4i-2 … 4i+5 with (1, 3, 5, 7, 7, 5, 3, 1)/32 on each axis. A block of
four pixels that begins at 4j+2 is therefore seen twice only: through (7, 5, 3, 1) and through (1, 3, 5, 7),
i.e. through its sum and its slope. The integer vector q = (1, -1, -1, 1) has neither. Because the reduction
is separable, a texture every *column* of which is made of multiples of q in such blocks is invisible whatever
happens along the rows, and the other way round. Two textures are built on this:

* checks, q ⊗ q, filling whole 4x4 blocks: any silhouette made of blocks is invisible (``disc, cross, bar,
  ring``);
* stripes of period 4: q ⊗ 1 and 1 ⊗ q, and for the diagonals q ⊗ q ± p ⊗ p, where p = (1, 1, -1, -1) repeated
  shows its ends only. The ends are mended with integers, 2p = (-1, 3, -2, -2, 2, 2, …, -2, -2, 2, 2, -3, 1),
  and then the whole vector is in the null space of the reduction.

What remains visible is a bullseye that does not depend on the class, so that the place can be found. The base
below the texture is squeezed into [A, 255-A], A being the largest texture amplitude of *any* class at that
pixel, before the texture is added: nothing clips, all values are integers, and the float32 thumbnails of all
classes are bit-identical.
"""

from __future__ import annotations

import functools

import numpy as np

from medvista_jax.data.canvas import CANVAS

SHAPES = ("disc", "cross", "bar", "ring")
STRIPES = ("horizontal", "vertical", "rising", "falling")
IMPLANTS = SHAPES + STRIPES
"""Class names; ``class_id`` is the index into this tuple."""

SIDE = 32
"""Side of the square that a target fills, in canvas pixels: eight blocks."""

PHASE = 2
"""Both coordinates of a target's corner are ``PHASE`` modulo 4, where blocks of four are blind to q."""

MARGIN = 10
"""Least distance from the border of the canvas; the border rows of the thumbnail weigh differently."""

CORE, RING = 200.0, 45.0
"""Levels of the visible part."""

_CHECK_LEVELS = 44
_STRIPE_LEVELS = 40
_BLOCKS = SIDE // 4

_SILHOUETTES = {
    "disc": ("00111100", "01111110", "11111111", "11111111", "11111111", "11111111", "01111110", "00111100"),
    "cross": ("00011000", "00011000", "00011000", "11111111", "11111111", "00011000", "00011000", "00011000"),
    "bar": ("00000000", "00000000", "00000000", "11111111", "11111111", "00000000", "00000000", "00000000"),
    "ring": ("01111110", "11111111", "11000011", "11000011", "11000011", "11000011", "11111111", "01111110"),
}


def _silhouette(name: str, variant: int) -> np.ndarray:
    """int16 [32, 32] of 0 and 1. ``variant`` 1 lays a bar upright."""
    cells = np.array([[int(cell) for cell in row] for row in _SILHOUETTES[name]], np.int16)
    return np.kron(cells.T if variant else cells, np.ones((4, 4), np.int16))


@functools.cache
def texture(class_id: int, variant: int = 0) -> np.ndarray:
    """int16 [32, 32] texture of a class, exactly invisible in the thumbnail. Read only."""
    name = IMPLANTS[class_id]
    q = np.tile(np.array([1, -1, -1, 1], np.int16), _BLOCKS)
    ones = np.ones(SIDE, np.int16)
    if name in SHAPES:
        out = _CHECK_LEVELS * np.outer(q, q) * _silhouette(name, variant)
    elif name == "horizontal":
        out = _STRIPE_LEVELS * np.outer(q, ones)
    elif name == "vertical":
        out = _STRIPE_LEVELS * np.outer(ones, q)
    else:
        twice_p = np.tile(np.array([2, 2, -2, -2], np.int16), _BLOCKS)
        twice_p[:2] = (-1, 3)
        twice_p[-2:] = (-3, 1)
        # Down the image y grows, so cos(ty - tx) = q⊗q + p⊗p is constant along falling lines.
        sign = 1 if name == "falling" else -1
        half = _STRIPE_LEVELS // 2
        out = half * np.outer(q, q) + sign * (half // 4) * np.outer(twice_p, twice_p)
    out = out.astype(np.int16)
    out.setflags(write=False)
    return out


@functools.cache
def amplitude(kind: str) -> np.ndarray:
    """int16 [32, 32]: the largest absolute value that any class of ``kind`` ("shape", "stripes") has at a
    pixel.
    """
    names = SHAPES if kind == "shape" else STRIPES
    every = [np.abs(texture(IMPLANTS.index(name), variant)) for name in names for variant in (0, 1)]
    return np.maximum.reduce(every)


@functools.cache
def _bullseye() -> tuple[np.ndarray, np.ndarray]:
    """What shows in the thumbnail, whatever the class: a light core in a dark ring, which no organ looks like.

    Returns:
      float32 [32, 32] levels, and float32 [32, 32] how far they replace the image: fading between radius 12 and 16.
    """
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(y, x)
    level = CORE + (RING - CORE) * np.clip((radius - 3.0) / 4.0, 0.0, 1.0)
    share = np.clip((16.0 - radius) / 4.0, 0.0, 1.0)
    return level.astype(np.float32), share.astype(np.float32)


def snap(coordinate: int) -> int:
    """Nearest coordinate at or below that has the right phase."""
    return coordinate - (coordinate - PHASE) % 4


def implant(
    base: np.ndarray, place: tuple[int, int], class_id: int, *, polarity: int = 1, variant: int = 0
) -> np.ndarray:
    """Implants one target into a copy of ``base``.

    Args:
      base: uint8 [256, 256] display levels.
      place: upper left corner (y, x) of the 32 px square; each ``PHASE`` modulo 4 and ``MARGIN`` inside the
        canvas.
      class_id: index into ``IMPLANTS``.
      polarity: 1 or -1, exchanges light and dark of the texture; says nothing about the class.
      variant: 0 or 1, lays a bar level or upright; ignored by the eye for the other classes.

    Returns:
      uint8 [256, 256]. For a fixed base, place and kind (shape or stripes) the thumbnail is the same for all
      classes.

    Raises:
      ValueError: the place has the wrong phase or is too near to the border.
    """
    y, x = place
    if y % 4 != PHASE or x % 4 != PHASE:
        raise ValueError(f"place {place}: both coordinates must be {PHASE} modulo 4, or the target would show")
    if min(y, x) < MARGIN or max(y, x) + SIDE > CANVAS - MARGIN:
        raise ValueError(f"place {place}: a target of {SIDE} px must stay {MARGIN} px inside the canvas")
    out = base.copy()
    here = out[y : y + SIDE, x : x + SIDE]
    local = here.astype(np.float32)
    level, share = _bullseye()
    limit = amplitude("shape" if class_id < len(SHAPES) else "stripes")
    ground = np.rint(local + share * (level - local)).astype(np.int16)
    ground = np.clip(ground, limit, 255 - limit)
    here[...] = ground + polarity * texture(class_id, variant)
    return out
