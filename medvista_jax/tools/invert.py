"""``invert``: the negative of an image."""

from __future__ import annotations

from medvista_jax.core.types import Array
from medvista_jax.tools.define import effect_tool


@effect_tool("Show the negative of an image.")
def invert(levels_hwC: Array) -> Array:
    """Black becomes white; of colours every channel by itself."""
    return 255.0 - levels_hwC
