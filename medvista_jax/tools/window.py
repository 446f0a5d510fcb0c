"""The part of a canvas that a measurement needs: it costs what its region is large, not what the image is.

Shapes are static under jit, so a window has one of a few shapes, and a branch is compiled for each. On a CPU, where
rows come one after the other, only the branch that a row needs is carried out. Rows abreast, on accelerators, would
carry out all of them: there the window is the canvas.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array
from medvista_jax.tools.base import Originals
from medvista_jax.tools.pixels import grey

FITTED = (1, 2, 3, 4, 8)
"""Eighths of the sides of the canvas: the sides of windows that are cut to fit, rounded up."""

GROWN = (2, 8)
"""Of windows that grow."""

T = TypeVar("T")


@struct.dataclass
class Window:
    """A rectangle of the canvas of one original.

    Attributes:
      grey_YX: float32 stored grey values, see :func:`medvista_jax.tools.pixels.grey`.
      corner_2: int32 x, y of its upper left pixel.
    """

    grey_YX: Array
    corner_2: Array


def window_sides(canvas: tuple[int, int], eighths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns of the windows of a canvas, from small to large; the last is the canvas itself."""
    return list(dict.fromkeys((math.ceil(canvas[0] * n / 8), math.ceil(canvas[1] * n / 8)) for n in eighths))


def cut(originals: Originals, source: Array, corner_2: Array, sides: tuple[int, int]) -> Window:
    """A window that begins at ``corner_2`` (x, y), or so far before it that it lies on the canvas."""
    canvas = originals.pixels_OYXC.shape[1:3]
    corner_2 = jnp.clip(corner_2, 0, jnp.array([canvas[1] - sides[1], canvas[0] - sides[0]]))
    start = (source, corner_2[1], corner_2[0], jnp.int32(0))
    pixels_1YXC = jax.lax.dynamic_slice(originals.pixels_OYXC, start, (1, *sides, originals.pixels_OYXC.shape[3]))
    return Window(grey(pixels_1YXC[0]), corner_2)


def in_window(originals: Originals, source: Array, bounds_4: Array, read: Callable[[Window], T]) -> T:
    """``read(window)`` of the smallest window that holds the pixels from x1, y1 up to and without x2, y2.

    Args:
      bounds_4: int32 pixels of the canvas; bounds that hold nothing fit the smallest window.
      read: its result must not depend on the window, neither its shape nor its values.
    """
    canvas = originals.pixels_OYXC.shape[1:3]
    all_sides = window_sides(canvas, FITTED)

    def at(sides: tuple[int, int], originals: Originals, source: Array, bounds_4: Array) -> T:
        return read(cut(originals, source, bounds_4[:2], sides))

    def smallest(originals: Originals, source: Array, bounds_4: Array) -> T:
        needs_2 = bounds_4[2:] - bounds_4[:2]
        fits_N = jnp.stack([(needs_2[1] <= rows) & (needs_2[0] <= columns) for rows, columns in all_sides])
        branches = [functools.partial(at, sides) for sides in all_sides]
        return jax.lax.switch(jnp.argmax(fits_N), branches, originals, source, bounds_4)

    whole = functools.partial(at, canvas)
    return jax.lax.platform_dependent(originals, source, bounds_4, cpu=smallest, default=whole)


def in_growing_window(
    originals: Originals, source: Array, middle_2: Array, read: Callable[[Window], tuple[T, Array]]
) -> T:
    """``read(window)`` of the smallest window around a pixel that is enough, or of the canvas.

    Args:
      middle_2: int32 x, y of the pixel.
      read: gives a result and whether the window was enough for it, bool. A result for which it was must not depend on
        the window.
    """
    canvas = originals.pixels_OYXC.shape[1:3]

    def at(sides: tuple[int, int], originals: Originals, source: Array, middle_2: Array) -> tuple[T, Array]:
        return read(cut(originals, source, middle_2 - jnp.array([sides[1] // 2, sides[0] // 2]), sides))

    def smallest(*operands: Array) -> T:
        branches = [functools.partial(at, sides) for sides in window_sides(canvas, GROWN)]
        nothing = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(branches[0], *operands)[0]
        )

        def step(carry: tuple[Array, T, Array]) -> tuple[Array, T, Array]:
            size = carry[0]
            result, enough = jax.lax.switch(size, branches, *operands)
            return size + 1, result, enough | (size == len(branches) - 1)

        start = (jnp.int32(0), nothing, jnp.zeros((), bool))
        return jax.lax.while_loop(lambda carry: ~carry[2], step, start)[1]

    def whole(*operands: Array) -> T:
        return at(canvas, *operands)[0]

    return jax.lax.platform_dependent(originals, source, middle_2, cpu=smallest, default=whole)
