"""``rotate``: turn an image about its middle; nothing is cut off."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array, View
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import view_tool
from medvista_jax.tools.geometry import look_through


@view_tool(
    "Turn an image about its middle.",
    Argument("degrees", "counter-clockwise angle", "integer", -360, 360),
)
def rotate(sight: Sight, degrees: Array) -> View:
    """The turn happens in the pixels of the original, whatever the shape in which the view shows them.

    Quarter turns are exact. The new view is the upright box around the turned one, as Pillow's ``rotate(expand=True)``.
    Corners that open show what the original has there, black beyond the original. Of a pair the left panel gives the
    shape, and the seam turns too.
    """
    quarters, rest = degrees // 90, degrees % 90
    angle = rest.astype(jnp.float32) * (jnp.pi / 180.0)
    c, s = jnp.cos(angle), jnp.where(rest == 0, 0.0, jnp.sin(angle))
    for _ in range(3):  # cosines of 0, 90, 180 and 270 degrees would be almost 0
        c, s = jnp.where(quarters % 4 > _, -s, c), jnp.where(quarters % 4 > _, c, s)
    m = sight.view.affine[0]
    # Width and height in pixels of what the view shows: lengths of its two edges.
    width, height = jnp.hypot(m[0, 0], m[1, 0]), jnp.hypot(m[0, 1], m[1, 1])
    wide, high = jnp.abs(c) * width + jnp.abs(s) * height, jnp.abs(s) * width + jnp.abs(c) * height
    # From new (u, v) about the middle, in pixels, turned back: y points down, so counter-clockwise is x' = c x + s y.
    right = jnp.stack([c * wide / width, -s * high / width])
    down = jnp.stack([s * wide / height, c * high / height])
    linear = jnp.stack([right, down])
    offset = 0.5 - 0.5 * jnp.sum(linear, axis=1)
    return look_through(sight.view, jnp.concatenate([linear, offset[:, None]], axis=1))
