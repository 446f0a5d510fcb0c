"""What measurements read: original pixels within a box of a view, never resampled and never enhanced."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.types import Array, Fault
from medvista_jax.tools.base import Sight
from medvista_jax.tools.geometry import bounds, inside, panel_of_box, unit_terms
from medvista_jax.tools.pixels import only_if, rescale
from medvista_jax.tools.window import Window, in_window

WHOLE = (0, 0, FRAME, FRAME)
"""The box of a whole view."""

T = TypeVar("T")


@struct.dataclass
class Region:
    """The pixels of an original whose centres lie in a box of a view, and others around them.

    Attributes:
      within_YX: bool; pixels of another panel, beyond the view or beyond the image are not in it.
      grey_YX: float32 stored grey values, see :func:`medvista_jax.tools.pixels.grey`.
    """

    within_YX: Array
    grey_YX: Array


def source_of_box(sight: Sight, box_4: Array) -> Array:
    """The original of the panel on which the box's middle lies; of a difference that of panel A: int32."""
    return sight.view.source[panel_of_box(sight.view, box_4)]


def in_region(sight: Sight, box_4: Array, read: Callable[[Region], T], panel: Array | None = None) -> T:
    """``read(region)`` of what lies in a box, x1 y1 x2 y2 in 0…FRAME, of the view that the call names.

    The region's arrays are a window around the box (:mod:`medvista_jax.tools.window`).

    Args:
      read: its result must not depend on pixels that are not within, nor on how many there are.
      panel: int32; that of the box's middle where it is not given.
    """
    view, originals = sight.view, sight.originals
    panel = panel_of_box(view, box_4) if panel is None else panel
    source = view.source[panel]
    size_2 = originals.size_O2[source]
    across_2X, down_2Y = unit_terms(view, panel, originals.pixels_OYXC.shape[1:3])

    def masked(window: Window) -> T:
        rows, columns = window.grey_YX.shape
        x, y = window.corner_2[0], window.corner_2[1]
        u_YX, v_YX = (
            jax.lax.dynamic_slice(across_2X, (axis, x), (1, columns))
            + jax.lax.dynamic_slice(down_2Y, (axis, y), (1, rows)).T
            for axis in range(2)
        )
        used_YX = (y + jnp.arange(rows) < size_2[0])[:, None] & (x + jnp.arange(columns) < size_2[1])[None]
        return read(Region(inside(view, panel, box_4, u_YX, v_YX) & used_YX, window.grey_YX))

    return in_window(originals, source, bounds(view, panel, box_4, size_2), masked)


def empty_fault(count: Array) -> Array:
    """EMPTY_BOX where a region has no pixels."""
    return jnp.where(count > 0, int(Fault.NONE), int(Fault.EMPTY_BOX))


def percentiles(sight: Sight, panel: Array, percent_N: Array, needed: Array) -> Array:
    """Stored values of a panel's pixels within the view, at ranks of their physical values: float32 ``[N]``.

    Nearest ranks, ``numpy.percentile(method="inverted_cdf")``: the first value that ``percent`` of the pixels do not
    exceed. Where the rescale slope is negative, that is a rank from above of the stored values. Bisection over the bits
    of a stored value: counting is cheaper than sorting, and exact for whole numbers. Zero where not ``needed``.

    Args:
      percent_N: int32 0…100; the rank is exact up to 2e7 pixels.
    """
    bits = jnp.iinfo(sight.originals.pixels_OYXC.dtype).bits
    falling = rescale(sight.originals, sight.view.source[panel])[0] < 0

    def ranked(part: Region) -> Array:
        count = jnp.sum(part.within_YX)
        rank_N = jnp.maximum((percent_N * count + 99) // 100, 1)
        rank_N = jnp.where(falling, count + 1 - rank_N, rank_N)

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low_N, high_N = ends
            middle_N = jnp.floor((low_N + high_N) / 2)
            below_NYX = part.within_YX[None] & (part.grey_YX[None] <= middle_N[:, None, None])
            enough_N = jnp.sum(below_NYX, axis=(1, 2)) >= rank_N
            return jnp.where(enough_N, low_N, middle_N), jnp.where(enough_N, middle_N, high_N)

        lowest, highest = jnp.full(percent_N.shape, -1.0), jnp.full(percent_N.shape, 2.0**bits - 1.0)
        return jax.lax.fori_loop(0, bits, halve, (lowest, highest))[1]

    compute = lambda: in_region(sight, jnp.array(WHOLE), ranked, panel)  # noqa: E731
    return only_if(needed, compute, jnp.zeros(percent_N.shape))
