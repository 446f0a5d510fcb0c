"""A straight line between two points of a view, as it lies on the original."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, Fault
from medvista_jax.tools.base import Sight
from medvista_jax.tools.geometry import on_image, panel_of_point, to_pixels


@struct.dataclass
class Line:
    """From one place of an original to another.

    Attributes:
      source: int32, the original.
      start_2, end_2: float32 (x, y) in its pixels.
      pixels: float32, the length.
      millimetres: float32, the length where the spacing of rows and columns is known, else 0.
      known: bool, whether it is.
      fault: int32, OUT_OF_RANGE where the two points lie on different originals or beyond one.
    """

    source: Array
    start_2: Array
    end_2: Array
    pixels: Array
    millimetres: Array
    known: Array
    fault: Array


def line_between(sight: Sight, start_2: Array, end_2: Array) -> Line:
    """The line between two points in 0…FRAME of the view that the call names.

    The points may lie on two panels of a pair that shows one original twice: the line is the one in the original.
    """
    view, originals = sight.view, sight.originals
    panels = panel_of_point(view, start_2), panel_of_point(view, end_2)
    source, other = (view.source[panel] for panel in panels)
    start_2, end_2 = (to_pixels(view, panel, point) for panel, point in zip(panels, (start_2, end_2), strict=True))
    sound = (source == other) & on_image(originals, source, start_2) & on_image(originals, source, end_2)
    delta_2, spacing_2 = end_2 - start_2, originals.spacing_O2[source][::-1]
    known = jnp.all(spacing_2 > 0)
    return Line(
        source=source,
        start_2=start_2,
        end_2=end_2,
        pixels=jnp.hypot(delta_2[0], delta_2[1]),
        millimetres=jnp.where(known, jnp.hypot(delta_2[0] * spacing_2[0], delta_2[1] * spacing_2[1]), 0.0),
        known=known,
        fault=jnp.where(sound, int(Fault.NONE), int(Fault.OUT_OF_RANGE)),
    )
