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
    """Of three channels the Rec. 601 luminance, rounded; of one the channel itself: float32 ``[Y, X]``."""
    if values_YXC.shape[-1] == 1:
        return values_YXC[..., 0]
    return jnp.round(jnp.sum(values_YXC * jnp.array([0.299, 0.587, 0.114])[None, None], axis=-1))


def percentiles(sight: Sight, panel: Array, share_N: Array, needed: Array) -> Array:
    """Smallest stored values that at least these shares (0…1) of a view's pixels do not exceed: float32 ``[N]``.

    Nearest ranks, ``numpy.percentile(method="inverted_cdf")``. Bisection over 16 bits: counting is cheaper than sorting
    a canvas, and exact for whole numbers. Zero where not ``needed``.
    """

    def compute() -> Array:
        within_YX = inside(sight.view, panel, jnp.array(WHOLE), sight.originals)
        grey_YX = luminance(sight.originals, sight.view.source[panel])
        rank_N = jnp.maximum(jnp.ceil(share_N * jnp.sum(within_YX).astype(jnp.float32)), 1.0)

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low_N, high_N = bounds
            middle_N = jnp.floor((low_N + high_N) / 2)
            below_NYX = within_YX[None] & (grey_YX[None] <= middle_N[:, None, None])
            enough_N = jnp.sum(below_NYX, axis=(1, 2)).astype(jnp.float32) >= rank_N
            return jnp.where(enough_N, low_N, middle_N), jnp.where(enough_N, middle_N, high_N)

        lowest, highest = jnp.full(share_N.shape, -1.0), jnp.full(share_N.shape, 65535.0)
        return jax.lax.fori_loop(0, 16, halve, (lowest, highest))[1]

    return only_if(needed, compute, jnp.zeros(share_N.shape))
