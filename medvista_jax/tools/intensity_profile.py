"""``intensity_profile``: grey values along a line."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Originals, Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.lines import line_between
from medvista_jax.tools.pixels import grey, physical

SAMPLES = 9
"""Places along the line, its two ends among them."""

_VALUES = "values " + ", ".join(f"{{{k + 2}:5.1}}" for k in range(SAMPLES))


@measure_tool(
    f"Read {SAMPLES} values at equal steps along a line: Hounsfield units in CT, else grey values.",
    Argument("start", f"x, y of the first point, 0 to {FRAME} of the image", "point", 0, FRAME),
    Argument("end", "x, y of the last point", "point", 0, FRAME),
    texts=(_VALUES + " along {0:5.1u} pixels", _VALUES + " along {0:5.1u} pixels, {1:5.2u} mm"),
)
def intensity_profile(sight: Sight, start: Array, end: Array) -> Reading:
    """Original pixels, bilinear between their centres, in physical units; of colours the rounded luminance.

    Faults: OUT_OF_RANGE as for ``distance``.
    """
    line = line_between(sight, start, end)
    share_N1 = jnp.linspace(0.0, 1.0, SAMPLES)[:, None]
    place_N2 = line.start_2[None] + share_N1 * (line.end_2 - line.start_2)[None]
    values_N = physical(sight.originals, line.source, _bilinear(sight.originals, line.source, place_N2))
    return Reading([line.pixels, line.millimetres, values_N], text=line.known, fault=line.fault)


def _bilinear(originals: Originals, source: Array, place_N2: Array) -> Array:
    """Stored grey values at (x, y) in pixels; the outermost half pixel repeats the edge."""
    last_2 = originals.size_O2[source][::-1] - 1
    at_N2 = jnp.clip(place_N2 - 0.5, 0.0, last_2[None].astype(jnp.float32))
    low_N2 = jnp.floor(at_N2).astype(jnp.int32)
    high_N2 = jnp.minimum(low_N2 + 1, last_2[None])
    part_N2 = at_N2 - low_N2.astype(jnp.float32)
    value = lambda y_N, x_N: grey(originals.pixels_OYXC[source, y_N, x_N])  # noqa: E731
    rows = [
        value(y_N, low_N2[:, 0]) * (1.0 - part_N2[:, 0]) + value(y_N, high_N2[:, 0]) * part_N2[:, 0]
        for y_N in (low_N2[:, 1], high_N2[:, 1])
    ]
    return rows[0] * (1.0 - part_N2[:, 1]) + rows[1] * part_N2[:, 1]
