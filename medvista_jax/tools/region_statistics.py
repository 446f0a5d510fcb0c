"""``region_statistics``: what the pixels in a box are like."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.pixels import Region, physical, pixel_area, region

_VALUES = "mean {0:6.1}, sd {1:6.1}, min {2:6.1}, max {3:6.1}, area {4:7} pixels"


@measure_tool(
    "Measure mean, standard deviation, minimum, maximum and area of a box: Hounsfield units in CT, else grey values.",
    Argument("bbox_2d", f"x1, y1, x2, y2 of the box, 0 to {FRAME} of the image", "box", 0, FRAME),
    texts=(_VALUES, _VALUES + ", {5:6.1} mm2"),
)
def region_statistics(sight: Sight, bbox_2d: Array) -> Reading:
    """Of the original pixels whose centres lie in the box, in physical units; of colours the rounded luminance.

    The standard deviation is that of the population. Faults: EMPTY_BOX where no pixel's centre lies in the box.
    """
    part = region(sight, bbox_2d)
    base, rest, deviation = _moments(part)
    lowest = jnp.min(jnp.min(jnp.where(part.within_YX, part.grey_YX, jnp.inf), axis=0))
    highest = jnp.max(jnp.max(jnp.where(part.within_YX, part.grey_YX, -jnp.inf), axis=0))
    slope = sight.originals.rescale_O2[part.source, 0]
    mean = physical(sight.originals, part.source, base) + slope * rest
    ends = physical(sight.originals, part.source, jnp.stack([lowest, highest]))
    ends = jnp.where(part.count > 0, jnp.sort(ends), 0.0)  # a negative slope swaps them
    area, known = pixel_area(sight.originals, part.source)
    pixels = part.count.astype(jnp.float32)
    return Reading([mean, jnp.abs(slope) * deviation, ends, pixels, pixels * area], text=known, fault=part.fault)


def _moments(part: Region) -> tuple[Array, Array, Array]:
    """Mean, as a whole number and a rest, and standard deviation of the stored values.

    Stored values are whole: about a whole number near the mean their deviations are exact, and so is their sum in int32
    (it wraps round on the way, if it does, and back). Squares are summed a column at a time, so that few roundings follow
    each other: 2048 x 2048 pixels of 16 bits keep five digits of the standard deviation.
    """
    count = jnp.maximum(part.count, 1).astype(jnp.float32)
    base = jnp.round(jnp.sum(jnp.sum(jnp.where(part.within_YX, part.grey_YX, 0.0), axis=0)) / count)
    delta_YX = jnp.where(part.within_YX, part.grey_YX - base, 0.0)
    rest = jnp.sum(jnp.sum(delta_YX.astype(jnp.int32), axis=0)).astype(jnp.float32) / count
    square = jnp.sum(jnp.sum(delta_YX**2, axis=0)) / count
    return base, rest, jnp.sqrt(jnp.maximum(square - rest**2, 0.0))
