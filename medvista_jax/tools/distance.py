"""``distance``: how far two points of an image are apart."""

from __future__ import annotations

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.lines import line_between


@measure_tool(
    "Measure the distance between two points of an image.",
    Argument("start", f"x, y of a point, 0 to {FRAME} of the image", "point", 0, FRAME),
    Argument("end", "x, y of the other point", "point", 0, FRAME),
    texts=("distance {0:5.1u} pixels", "distance {0:5.1u} pixels, {1:5.2u} mm"),
    reads=False,
)
def distance(sight: Sight, start: Array, end: Array) -> Reading:
    """In pixels of the original; in mm with the spacing of rows and of columns, where both are known.

    Faults: OUT_OF_RANGE for points of two originals, or beyond the image in a turned view.
    """
    line = line_between(sight, start, end)
    return Reading([line.pixels, line.millimetres], text=line.known, fault=line.fault)
