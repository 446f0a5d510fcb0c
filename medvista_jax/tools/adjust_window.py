"""``adjust_window``: show an image again with other grey values as black and white."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.types import Array, Fault
from medvista_jax.tools.base import Outcome, RowViews, Tool, pick_view

SPEC = ToolSpec(
    name="adjust_window",
    description="Show an image again between two stored grey values.",
    arguments=(
        Argument("low", "stored value shown black", "integer", 0, 65535),
        Argument("high", "stored value shown white", "integer", 0, 65535),
        Argument("image_index", "image to look at, 0 is the first", "integer", 0, 99, default=0),
    ),
)


def kernel(arguments_A: Array, views: RowViews) -> Outcome:
    """Same pixels, other window; ``high`` must lie above ``low``."""
    fault, source, box_4, _ = pick_view(views, arguments_A[2])
    inverted = arguments_A[1] <= arguments_A[0]
    fault = jnp.where((fault == Fault.NONE) & inverted, int(Fault.OUT_OF_RANGE), fault)
    return Outcome(fault=fault, source=source, box_4=box_4, window_2=arguments_A[:2].astype(jnp.float32))


TOOL = Tool(SPEC, kernel)
