"""What measurements read: original pixels within a view, never resampled and never enhanced."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.types import Array, Fault
from medvista_jax.tools.base import Originals, Sight
from medvista_jax.tools.geometry import inside, panel_of_box

WHOLE = (0, 0, FRAME, FRAME)
"""The box of a whole view."""


def only_if(needed: Array, compute: Callable[[], Array], otherwise: Array) -> Array:
    """``compute()`` where ``needed``, else ``otherwise``; under ``vmap`` nothing is computed when no row needs it.

    ``lax.cond`` would become a ``select`` that computes both branches for every row; a loop of one step does not.
    """
    step = lambda _: (jnp.zeros((), bool), compute())  # noqa: E731
    return jax.lax.while_loop(lambda carry: carry[0], step, (jnp.asarray(needed), otherwise))[1]


def luminance(originals: Originals, source: Array) -> Array:
    """Stored grey values of an original; of colours the Rec. 601 luminance, rounded half up: float32 ``[Y, X]``."""
    return grey(originals.pixels_OYXC[source])


def grey(pixels_NC: Array) -> Array:
    """Grey values of whole-numbered pixels ``[…, C]``, as :func:`luminance`: float32 ``[…]``."""
    if pixels_NC.shape[-1] == 1:
        return pixels_NC[..., 0].astype(jnp.float32)
    red, green, blue = (pixels_NC[..., k].astype(jnp.int32) for k in range(3))
    # In thousandths, so that a half is a half, and up it goes.
    return jax.lax.div(299 * red + 587 * green + 114 * blue + 500, jnp.full(red.shape, 1000)).astype(jnp.float32)


def physical(originals: Originals, source: Array, stored_N: Array) -> Array:
    """``stored * slope + intercept`` of an original, such as Hounsfield units."""
    return stored_N * originals.rescale_O2[source, 0] + originals.rescale_O2[source, 1]


def pixel_area(originals: Originals, source: Array) -> tuple[Array, Array]:
    """mm² that a pixel of an original covers, and whether that is known; 0 where it is not."""
    area = originals.spacing_O2[source, 0] * originals.spacing_O2[source, 1]
    known = jnp.all(originals.spacing_O2[source] > 0)
    return jnp.where(known, area, 0.0), known


@struct.dataclass
class Region:
    """The pixels of an original whose centres lie in a box of a view.

    Attributes:
      source: int32, the original of the panel on which the box's middle lies; of a difference that of panel A.
      within_YX: bool; pixels of another panel, beyond the view or beyond the image are not in it.
      grey_YX: float32 stored grey values, see :func:`luminance`.
      count: int32, how many pixels are within.
      fault: int32, EMPTY_BOX where there is none.
    """

    source: Array
    within_YX: Array
    grey_YX: Array
    count: Array
    fault: Array


def region(sight: Sight, box_4: Array) -> Region:
    """What lies in a box, x1 y1 x2 y2 in 0…FRAME, of the view that the call names."""
    panel = panel_of_box(sight.view, box_4)
    source = sight.view.source[panel]
    within_YX = inside(sight.view, panel, box_4, sight.originals)
    count = jnp.sum(within_YX, dtype=jnp.int32)
    fault = jnp.where(count > 0, int(Fault.NONE), int(Fault.EMPTY_BOX))
    return Region(source, within_YX, luminance(sight.originals, source), count, fault)


def percentiles(sight: Sight, panel: Array, percent_N: Array, needed: Array) -> Array:
    """Stored values of a panel's pixels within the view, at ranks of their physical values: float32 ``[N]``.

    Nearest ranks, ``numpy.percentile(method="inverted_cdf")``: the first value that ``percent`` of the pixels do not
    exceed. Where the rescale slope is negative, that is a rank from above of the stored values. Bisection over 16 bits:
    counting is cheaper than sorting a canvas, and exact for whole numbers. Zero where not ``needed``.

    Args:
      percent_N: int32 0…100; the rank is exact up to 2e7 pixels.
    """

    def compute() -> Array:
        within_YX = inside(sight.view, panel, jnp.array(WHOLE), sight.originals)
        grey_YX = luminance(sight.originals, sight.view.source[panel])
        count = jnp.sum(within_YX)
        rank_N = jnp.maximum((percent_N * count + 99) // 100, 1)
        rank_N = jnp.where(sight.originals.rescale_O2[sight.view.source[panel], 0] < 0, count + 1 - rank_N, rank_N)

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low_N, high_N = bounds
            middle_N = jnp.floor((low_N + high_N) / 2)
            below_NYX = within_YX[None] & (grey_YX[None] <= middle_N[:, None, None])
            enough_N = jnp.sum(below_NYX, axis=(1, 2)) >= rank_N
            return jnp.where(enough_N, low_N, middle_N), jnp.where(enough_N, middle_N, high_N)

        lowest, highest = jnp.full(percent_N.shape, -1.0), jnp.full(percent_N.shape, 65535.0)
        return jax.lax.fori_loop(0, 16, halve, (lowest, highest))[1]

    return only_if(needed, compute, jnp.zeros(percent_N.shape))
