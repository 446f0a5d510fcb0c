"""``zoom_in``: cut a box out of an image and enlarge it. A crop of a crop looks at original pixels."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.types import Array, Fault
from medvista_jax.tools.base import Outcome, RowViews, Tool, pick_view

SPEC = ToolSpec(
    name="zoom_in",
    description="Cut a box out of an image and enlarge it.",
    arguments=(
        Argument("bbox_2d", f"x1, y1, x2, y2 of the box, 0 to {FRAME} of the image", "box", 0, FRAME),
        Argument("image_index", "image to look at, 0 is the first", "integer", 0, 99, default=0),
    ),
)


def kernel(arguments_A: Array, views: RowViews) -> Outcome:
    """Compose the box with the box of the image it is drawn on (design promise 7)."""
    box_4 = arguments_A[:4].astype(jnp.float32) / FRAME
    fault, source, parent_4, window_2 = pick_view(views, arguments_A[4])
    size_2 = parent_4[2:] - parent_4[:2]
    corners_4 = jnp.concatenate([parent_4[:2] + box_4[:2] * size_2, parent_4[:2] + box_4[2:] * size_2])
    empty = jnp.any(arguments_A[2:4] <= arguments_A[0:2])
    fault = jnp.where((fault == Fault.NONE) & empty, int(Fault.EMPTY_BOX), fault)
    return Outcome(fault=fault, source=source, box_4=corners_4, window_2=window_2)


TOOL = Tool(SPEC, kernel)
