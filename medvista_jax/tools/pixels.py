"""What measurements read: original pixels within a view, never resampled and never enhanced."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Originals, Sight
from medvista_jax.tools.geometry import inside

WHOLE = (0, 0, FRAME, FRAME)
"""The box of a whole view."""


def only_if(needed: Array, compute: Callable[[], Array], otherwise: Array) -> Array:
    """``compute()`` where ``needed``, else ``otherwise``; under ``vmap`` nothing is computed when no row needs it.

    ``lax.cond`` would become a ``select`` that computes both branches for every row; a loop of one step does not.
    """
    step = lambda _: (jnp.zeros((), bool), compute())  # noqa: E731
    return jax.lax.while_loop(lambda carry: carry[0], step, (jnp.asarray(needed), otherwise))[1]


def luminance(originals: Originals, source: Array) -> Array:
    """Stored grey values of an original; of colours the Rec. 601 luminance, rounded: float32 ``[Y, X]``."""
    return grey(originals.pixels_OYXC[source].astype(jnp.float32))


def grey(values_YXC: Array) -> Array:
    """Of three channels the Rec. 601 luminance, halves up; of one the channel itself: float32 ``[Y, X]``.

    By integers, values below 2**16: with float weights the rounding of a half would depend on the device.
    """
    if values_YXC.shape[-1] == 1:
        return values_YXC[..., 0]
    red_YX, green_YX, blue_YX = (values_YXC[..., c].astype(jnp.int32) for c in range(3))
    return ((299 * red_YX + 587 * green_YX + 114 * blue_YX + 500) // 1000).astype(jnp.float32)


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
