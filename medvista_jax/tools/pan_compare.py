"""``pan_compare``: two regions side by side as one image."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array, Blend, View
from medvista_jax.tools.base import Sight, view_at
from medvista_jax.tools.define import view_tool
from medvista_jax.tools.geometry import box_map, compose, look_through, panel_of_box, single

_HALF = ((2.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((2.0, 0.0, -1.0), (0.0, 1.0, 0.0))
"""From (u, v) of the pair to that of its left and of its right half."""


@view_tool(
    "Show two boxes side by side as one image.",
    Argument("left_box", f"box shown on the left, 0 to {FRAME}", "box", 0, FRAME),
    Argument("right_box", f"box shown on the right, 0 to {FRAME}", "box", 0, FRAME),
    Argument("image_index", "image of the left box", "integer", 0, 99, default=0),
    Argument("right_image_index", "image of the right box; -1: the same", "integer", -1, 99, default=-1),
)
def pan_compare(sight: Sight, left_box: Array, right_box: Array, image_index: Array, right_image_index: Array):
    """Each half is a view of its own, so that the pair can be zoomed into, turned and compared like any image.

    Of an image that is a pair itself, a box takes the panel on which its middle lies. The effects of the left image
    apply to the whole.
    """
    other, fault = view_at(sight.views, jnp.where(right_image_index < 0, image_index, right_image_index))
    left, right = (_region(view, box) for view, box in ((sight.view, left_box), (other, right_box)))
    halves = [compose(part.affine[0], jnp.array(half)) for part, half in zip((left, right), _HALF, strict=True)]
    view = left.replace(
        source=jnp.stack([left.source[0], right.source[0]]),
        affine=jnp.stack(halves),
        window=jnp.stack([left.window[0], right.window[0]]),
        blend=jnp.full_like(left.blend, int(Blend.SEAM)),
        seam=jnp.array([1.0, 0.0, 0.5]),
    )
    return view, fault


def _region(view: View, box_4: Array) -> View:
    return look_through(single(view, panel_of_box(view, box_4)), box_map(box_4))
