"""``segment_region``: what hangs together with a point, outlined."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array, Fault, View
from medvista_jax.tools.base import Originals, Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.flood import flood
from medvista_jax.tools.geometry import on_image, panel_of_point, sample_mask, to_pixels
from medvista_jax.tools.pixels import grey, pixel_area, rescale
from medvista_jax.tools.window import Window, in_growing_window


def draw_outline(levels_hwC: Array, values_N: Array, view: View, originals: Originals) -> Array:
    """The region's outermost pixels bright (yellow where there are colours), those around it black.

    One of the two stands out against any ground. The region is grown anew on the original pixels and sampled through
    the view's map, so that the line is one pixel wide however far the view is zoomed in.

    Args:
      values_N: original, x and y of the seed's pixel, lowest and highest stored grey value.
    """
    source, x, y = (values_N[k].astype(jnp.int32) for k in range(3))
    source = jnp.clip(source, 0, originals.size_O2.shape[0] - 1)

    def sampled(region_YX: Array, corner_2: Array) -> Array:
        return sample_mask(view, region_YX, corner_2, source, originals, levels_hwC.shape[:2])

    region_hw = _grow(originals, source, jnp.stack([x, y]), values_N[3], values_N[4], sampled)
    inner_hw, outer_hw = region_hw & _beside(~region_hw), ~region_hw & _beside(region_hw)
    bright_C = jnp.full((levels_hwC.shape[-1],), 255.0)
    bright_C = bright_C.at[2].set(0.0) if levels_hwC.shape[-1] == 3 else bright_C
    levels_hwC = jnp.where(outer_hw[..., None], 0.0, levels_hwC)
    return jnp.where(inner_hw[..., None], bright_C[None, None], levels_hwC)


@measure_tool(
    "Outline the connected region around a point whose values are close to the point's, and measure its area.",
    Argument("point", f"x, y of a point in the region, 0 to {FRAME} of the image", "point", 0, FRAME),
    Argument("tolerance", "largest difference in value, Hounsfield units in CT", "integer", 0, 65535),
    texts=("image {image}, area {0:7u} pixels", "image {image}, area {0:7u} pixels, {1:6.1u} mm2"),
    family="recognise",
    image=True,
    effect=draw_outline,
)
def segment_region(sight: Sight, point: Array, tolerance: Array) -> Reading:
    """Seeded region growing on the whole original, beyond the view's edge if need be.

    Pixels that touch along an edge (4-connectivity) and whose physical values (of colours the rounded luminance) lie
    within the tolerance of the value of the pixel under the point: ``skimage.segmentation.flood(connectivity=1)``.
    Faults: OUT_OF_RANGE for a point beyond the image in a turned view.
    """
    view, originals = sight.view, sight.originals
    panel = panel_of_point(view, point)
    source, place_2 = view.source[panel], to_pixels(view, panel, point)
    last_2 = originals.size_O2[source][::-1] - 1
    seed_2 = jnp.clip(jnp.floor(place_2).astype(jnp.int32), 0, last_2)
    value = grey(originals.pixels_OYXC[source, seed_2[1], seed_2[0]])
    # A tolerance in stored units may be a rounding short of the whole number that it stands for.
    reach = tolerance.astype(jnp.float32) / jnp.abs(rescale(originals, source)[0]) * (1.0 + 1e-6)
    pixels = _grow(originals, source, seed_2, value - reach, value + reach, _size).astype(jnp.float32)
    area, known = pixel_area(originals, source)
    fault = jnp.where(on_image(originals, source, place_2), int(Fault.NONE), int(Fault.OUT_OF_RANGE))
    return Reading(
        [pixels, pixels * area], text=known, fault=fault, values=[source, seed_2, value - reach, value + reach]
    )


def _size(region_YX: Array, corner_2: Array) -> Array:
    return jnp.sum(region_YX, dtype=jnp.int32)


def _grow(
    originals: Originals, source: Array, seed_2: Array, low: Array, high: Array, read: Callable[[Array, Array], Array]
) -> Array:
    """``read(region_YX, corner_2)`` of the pixels between two stored grey values that hang together with the seed's.

    They are grown in a window around the seed, and anew in a larger one for as long as they reach its edge. The region
    is bool, and begins at the corner x, y of the original.
    """
    canvas = originals.pixels_OYXC.shape[1:3]
    seed_2 = jnp.clip(seed_2, 0, jnp.array(canvas[::-1]) - 1)
    end_2 = originals.size_O2[source][::-1]

    def grown(window: Window) -> tuple[Array, Array]:
        rows, columns = window.grey_YX.shape
        x, y = window.corner_2[0], window.corner_2[1]
        used_YX = (y + jnp.arange(rows) < end_2[1])[:, None] & (x + jnp.arange(columns) < end_2[0])[None]
        close_YX = (window.grey_YX >= low) & (window.grey_YX <= high)
        region_YX = flood(used_YX & close_YX, seed_2 - window.corner_2)
        leaves = jnp.any(region_YX[0]) & (y > 0) | jnp.any(region_YX[-1]) & (y + rows < canvas[0])
        leaves |= jnp.any(region_YX[:, 0]) & (x > 0) | jnp.any(region_YX[:, -1]) & (x + columns < canvas[1])
        return read(region_YX, window.corner_2), ~leaves

    return in_growing_window(originals, source, seed_2, grown)


def _beside(mask_hw: Array) -> Array:
    """Which pixels have one of the mask above, below, left or right of them; the view's edge is none."""
    wide = jnp.pad(mask_hw, 1)
    return wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
