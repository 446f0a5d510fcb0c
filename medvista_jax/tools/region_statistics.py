"""``region_statistics``: what the pixels in a box are like."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.pixels import physical, pixel_area, rescale
from medvista_jax.tools.region import Region, empty_fault, in_region, source_of_box

_VALUES = "mean {0:6.1}, sd {1:6.1u}, min {2:6.1}, max {3:6.1}, area {4:7u} pixels"


@measure_tool(
    "Measure mean, standard deviation, minimum, maximum and area of a box: Hounsfield units in CT, else grey values.",
    Argument("bbox_2d", f"x1, y1, x2, y2 of the box, 0 to {FRAME} of the image", "box", 0, FRAME),
    texts=(_VALUES, _VALUES + ", {5:6.1u} mm2"),
)
def region_statistics(sight: Sight, bbox_2d: Array) -> Reading:
    """Of the original pixels whose centres lie in the box, in physical units; of colours the rounded luminance.

    The standard deviation is that of the population. Faults: EMPTY_BOX where no pixel's centre lies in the box.
    """
    dtype = sight.originals.pixels_OYXC.dtype
    count, lowest, highest, base, rest, deviation = in_region(
        sight, bbox_2d, lambda part: _statistics(part, 1 << jnp.iinfo(dtype).bits)
    )
    source = source_of_box(sight, bbox_2d)
    slope = rescale(sight.originals, source)[0]
    mean = physical(sight.originals, source, base) + slope * rest
    ends = physical(sight.originals, source, jnp.stack([lowest, highest]))
    ends = jnp.where(count > 0, jnp.sort(ends), 0.0)  # a negative slope swaps them
    area, known = pixel_area(sight.originals, source)
    pixels = count.astype(jnp.float32)
    numbers = [mean, jnp.abs(slope) * deviation, ends, pixels, pixels * area]
    return Reading(numbers, text=known, fault=empty_fault(count))


def _statistics(part: Region, levels: int) -> tuple[Array, ...]:
    """Count, smallest and largest stored value, mean as a whole number and a rest, standard deviation.

    Stored values are whole numbers below ``levels``, and every sum is exact, whatever its order. About a whole number
    near the mean little is lost to the rounding at the end: 2048 x 2048 pixels of 16 bits keep five digits of the
    standard deviation.
    """
    value_YX = part.grey_YX.astype(jnp.int32)
    count = jnp.sum(part.within_YX, dtype=jnp.int32)
    lowest = jnp.min(jnp.where(part.within_YX, value_YX, levels))
    highest = jnp.max(jnp.where(part.within_YX, value_YX, -1))
    divisor = jnp.maximum(count, 1).astype(jnp.float32)
    upper, lower = _sum(jnp.where(part.within_YX, value_YX, 0))
    base = jnp.round(_float(upper, lower) / divisor)
    # The sum wraps round, and back: what is left is small.
    rest = ((upper << 16) + lower).astype(jnp.int32) - base.astype(jnp.int32) * count
    rest = rest.astype(jnp.float32) / divisor
    apart_YX = jnp.abs(jnp.where(part.within_YX, value_YX - base.astype(jnp.int32), 0)).astype(jnp.uint32)
    square_YX = apart_YX * apart_YX  # below 2**32
    square = _float(*_sum(square_YX & 0xFFFF))
    if levels > 256:
        square += 65536.0 * _float(*_sum(square_YX >> 16))
    variance = jnp.maximum(square / divisor - rest**2, 0.0)
    return count, lowest.astype(jnp.float32), highest.astype(jnp.float32), base, rest, jnp.sqrt(variance)


def _sum(value_YX: Array) -> tuple[Array, Array]:
    """Sum of whole numbers below 2**16, of at most 2**16 rows and columns: uint32 ``upper * 2**16 + lower``."""
    sum_X = jnp.sum(value_YX, axis=0, dtype=jnp.uint32)
    return jnp.sum(sum_X >> 16), jnp.sum(sum_X & 0xFFFF)


def _float(upper: Array, lower: Array) -> Array:
    return upper.astype(jnp.float32) * 65536.0 + lower.astype(jnp.float32)
