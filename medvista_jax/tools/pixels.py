"""Stored pixels as values: grey levels, physical units, areas."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array
from medvista_jax.tools.base import Originals


def only_if(needed: Array, compute: Callable[[], Array], otherwise: Array) -> Array:
    """``compute()`` where ``needed``, else ``otherwise``; under ``vmap`` nothing is computed when no row needs it.

    ``lax.cond`` would become a ``select`` that computes both branches for every row; a loop of one step does not.
    """
    step = lambda _: (jnp.zeros((), bool), compute())  # noqa: E731
    return jax.lax.while_loop(lambda carry: carry[0], step, (jnp.asarray(needed), otherwise))[1]


def change_if(needed: Array, change: Callable[[Array], Array], levels_BhwC: Array) -> Array:
    """``change(levels_BhwC)`` where ``needed``, else the levels as they are.

    What goes in and out of a branch or a loop lies in memory in the order of its dimensions, and a TPU fills the last
    one up to 128: one grey channel would take as much as 128. So channels travel beside columns; see :func:`beside`.
    """
    shape = levels_BhwC.shape
    changed = lambda levels: beside(change(levels.reshape(shape)))  # noqa: E731
    return jax.lax.cond(needed, changed, lambda levels: levels, beside(levels_BhwC)).reshape(shape)


def beside(pixels_NwC: Array) -> Array:
    """Pixels ``[…, w, C]`` as ``[…, w·C]``."""
    return pixels_NwC.reshape(*pixels_NwC.shape[:-2], -1)


def grey(pixels_NC: Array) -> Array:
    """Grey values of whole-numbered pixels ``[…, C]``; of colours the Rec. 601 luminance, rounded half up: float32."""
    if pixels_NC.shape[-1] == 1:
        return pixels_NC[..., 0].astype(jnp.float32)
    red, green, blue = (pixels_NC[..., k].astype(jnp.int32) for k in range(3))
    # In thousandths, so that a half is a half, and up it goes.
    return jax.lax.div(299 * red + 587 * green + 114 * blue + 500, jnp.full(red.shape, 1000)).astype(jnp.float32)


def physical(originals: Originals, source: Array, stored_N: Array) -> Array:
    """``stored * slope + intercept`` of an original, such as Hounsfield units."""
    slope, intercept = rescale(originals, source)
    return stored_N * slope + intercept


def rescale(originals: Originals, source: Array) -> tuple[Array, Array]:
    """Slope and intercept of an original; a slope of 0, which no image can have meant, is taken for 1."""
    slope, intercept = originals.rescale_O2[source, 0], originals.rescale_O2[source, 1]
    return jnp.where(slope == 0, 1.0, slope), intercept


def pixel_area(originals: Originals, source: Array) -> tuple[Array, Array]:
    """mm² that a pixel of an original covers, and whether that is known; 0 where it is not."""
    area = originals.spacing_O2[source, 0] * originals.spacing_O2[source, 1]
    known = jnp.all(originals.spacing_O2[source] > 0)
    return jnp.where(known, area, 0.0), known
