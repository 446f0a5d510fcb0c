"""``count_objects``: how many connected bright or dark things a box holds."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Sight
from medvista_jax.tools.components import count_components
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.otsu import otsu
from medvista_jax.tools.pixels import only_if, physical, pixel_area, rescale
from medvista_jax.tools.region import Region, empty_fault, in_region, source_of_box

AUTOMATIC = -32769
"""The threshold that stands for Otsu's."""

_FOUND = "objects: {0:7u}, mean area {1:7.1u} pixels"
_THRESHOLD = ", threshold {3:6.1}"


@measure_tool(
    "Count connected objects in a box and measure their mean area.",
    Argument("bbox_2d", f"x1, y1, x2, y2 of the box, 0 to {FRAME} of the image", "box", 0, FRAME),
    Argument(
        "threshold",
        f"value that parts objects from background, Hounsfield units in CT; {AUTOMATIC}: Otsu's",
        "integer",
        AUTOMATIC,
        65535,
        default=AUTOMATIC,
    ),
    Argument("polarity", "whether objects are above or below it", "enum", choices=("bright", "dark"), default=0),
    Argument("minimum_area", "pixels of the smallest object that counts", "integer", 1, 1_000_000, default=1),
    texts=(_FOUND + _THRESHOLD, _FOUND + ", {2:7.2u} mm2" + _THRESHOLD),
)
def count_objects(sight: Sight, bbox_2d: Array, threshold: Array, polarity: Array, minimum_area: Array) -> Reading:
    """Original pixels with their centre in the box; those that touch along an edge are one object (4-connectivity).

    Bright pixels have physical values above the threshold, dark ones do not. Otsu's is that of the box. The box cuts
    objects off: what it leaves of them counts. Faults: EMPTY_BOX where no pixel's centre lies in the box.
    """
    source = source_of_box(sight, bbox_2d)
    # Stored values mirrored where the slope is negative: the larger, the larger the physical value.
    upright = jnp.sign(rescale(sight.originals, source)[0])
    automatic = threshold == AUTOMATIC
    given = threshold.astype(jnp.float32)

    def counted(part: Region) -> tuple[Array, ...]:
        parting = only_if(automatic, lambda: otsu(part.grey_YX * upright, part.within_YX), jnp.zeros(()))
        physical_YX = physical(sight.originals, source, part.grey_YX)
        above_YX = jnp.where(automatic, part.grey_YX * upright > parting, physical_YX > given)
        objects_YX = part.within_YX & (above_YX == (polarity == 0))
        return jnp.sum(part.within_YX, dtype=jnp.int32), parting, *count_components(objects_YX, minimum_area)

    pixels, parting, count, mean = in_region(sight, bbox_2d, counted)
    value = jnp.where(automatic, physical(sight.originals, source, parting * upright), given)
    area, known = pixel_area(sight.originals, source)
    return Reading([count.astype(jnp.float32), mean, mean * area, value], text=known, fault=empty_fault(pixels))
