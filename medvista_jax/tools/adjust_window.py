"""``adjust_window``: show an image again with other grey values as black and white."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array, Blend, Fault
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.pixels import rescale
from medvista_jax.tools.region import percentiles


@measure_tool(
    "Show an image again between two values (HU in CT).",
    Argument("low", "value shown black", "integer", -32768, 65535),
    Argument("high", "value shown white", "integer", -32768, 65535),
    Argument("unit", "of low and high", "enum", choices=("value", "percentile"), default=0),
    texts=("image {image}",),
    family="intensity",
    image=True,
)
def adjust_window(sight: Sight, low: Array, high: Array, unit: Array) -> Reading:
    """Same pixels, other window; ``high`` must lie above ``low``.

    Values are physical: ``stored * slope + intercept`` by the image's own header (stored values where it has none).
    Percentiles, 0…100, are nearest ranks (``numpy.percentile(method="inverted_cdf")``) of the physical values of the
    original pixels within the view; where both fall on one value, the window is one stored unit wide. Where the slope
    is negative, black is the higher stored value.
    """
    asked_2 = jnp.stack([low, high])
    percent = unit == 1
    outside = percent & ((low < 0) | (high > 100))
    fault = jnp.where((high <= low) | outside, int(Fault.OUT_OF_RANGE), int(Fault.NONE))
    pair = sight.view.blend != Blend.ONE  # else the panels are the same
    windows, first_2 = [], jnp.zeros(2)
    for panel in range(2):
        source = sight.view.source[panel]
        slope, intercept = rescale(sight.originals, source)
        stored = (asked_2.astype(jnp.float32) - intercept) / slope
        ranks_2 = percentiles(sight, jnp.int32(panel), asked_2, percent & ((panel == 0) | pair))
        ranks = first_2 = jnp.where((panel == 0) | pair, ranks_2, first_2)
        onwards = jnp.sign(slope)
        further = onwards * jnp.maximum(onwards * ranks[1], onwards * ranks[0] + 1.0)
        windows.append(jnp.where(percent, jnp.stack([ranks[0], further]), stored))
    return Reading(view=sight.view.replace(window=jnp.stack(windows)), fault=fault)
