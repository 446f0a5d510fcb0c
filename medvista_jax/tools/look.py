"""``look``: enlarge the surroundings of one of an image's isolated bright spots, named by a single digit.

Not among the default tools. It finds a place and enlarges it in one call, for policies that cannot point and whose
turns must be short: a call takes 31 tokens of SmolLM2's vocabulary where ``zoom_in`` takes 53.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.tool_text import IMAGE_TEXT
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.geometry import box_map, look_through
from medvista_jax.tools.pixels import grey

MOST = 5
"""Spots that can be named."""

SIDE = 300
"""Of the part that is enlarged, in 0…1000 units of the image."""

_RING = 0.039  # radius of the ring that must be dark, of the image's smaller side
_DIRECTIONS = 16


@measure_tool(
    "Enlarge the surroundings of an isolated bright spot.",
    Argument("spot", f"which, 1 the most isolated, {MOST} at most", "integer", 1, MOST),
    texts=(IMAGE_TEXT,),
    family="view",
    image=True,
    reads=False,
    sees=True,
)
def look(sight: Sight, spot: Array) -> Reading:
    """The ``spot``-th of :func:`spots` in the middle of the new view, as far as the image's edges allow."""
    centre_2 = spots(grey(sight.shown_hwC))[spot - 1]
    low_2 = jnp.clip(jnp.round(centre_2 * FRAME).astype(jnp.int32) - SIDE // 2, 0, FRAME - SIDE)
    return Reading(view=look_through(sight.view, box_map(jnp.concatenate([low_2, low_2 + SIDE]))))


def spots(levels_hw: Array) -> Array:
    """Where something bright stands in a dark ring: float32 ``[MOST, 2]``, x and y in 0…1, the clearest first.

    A place's score is its mean over 3 x 3 pixels less the brightest of its ring: what touches anything bright, such as
    a vessel or an edge, has none. Of two places closer than the ring is wide the better one counts.
    """
    height, width = levels_hw.shape
    radius = _RING * min(height, width)
    angles = [2 * math.pi * k / _DIRECTIONS for k in range(_DIRECTIONS)]
    shifts = {(round(radius * math.sin(a)), round(radius * math.cos(a))) for a in angles}
    reach = math.ceil(radius)
    wide = jnp.pad(levels_hw, reach, mode="edge")
    at = lambda y, x: jax.lax.slice(wide, (reach + y, reach + x), (reach + y + height, reach + x + width))  # noqa: E731
    ring_hw = jnp.max(jnp.stack([at(y, x) for y, x in sorted(shifts)]), axis=0)
    core_hw = jnp.mean(jnp.stack([at(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]), axis=0)
    rows_h1, columns_1w = jnp.arange(height)[:, None], jnp.arange(width)[None, :]

    def take(score_hw: Array, _: None) -> tuple[Array, Array]:
        y, x = jnp.unravel_index(jnp.argmax(score_hw), score_hw.shape)
        near_hw = jnp.hypot((rows_h1 - y).astype(jnp.float32), (columns_1w - x).astype(jnp.float32)) < 2 * radius
        place_2 = (jnp.stack([x, y]).astype(jnp.float32) + 0.5) / jnp.array([width, height], jnp.float32)
        return jnp.where(near_hw, -jnp.inf, score_hw), place_2

    return jax.lax.scan(take, core_hw - ring_hw, None, length=MOST)[1]
