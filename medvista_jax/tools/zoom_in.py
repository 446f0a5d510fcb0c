"""``zoom_in``: cut a box out of an image and enlarge it. A crop of a crop looks at original pixels."""

from __future__ import annotations

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array, View
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import view_tool
from medvista_jax.tools.geometry import box_map, look_through


@view_tool(
    "Cut a box out of an image and enlarge it.",
    Argument("bbox_2d", f"x1, y1, x2, y2 of the box, 0 to {FRAME} of the image", "box", 0, FRAME),
)
def zoom_in(sight: Sight, bbox_2d: Array) -> View:
    """Compose the box with the box of the image it is drawn on (design promise 7). The parser refuses empty boxes."""
    return look_through(sight.view, box_map(bbox_2d))
