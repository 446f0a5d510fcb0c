"""``flip``: the mirror image."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array, View
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import view_tool
from medvista_jax.tools.geometry import look_through


@view_tool(
    "Mirror an image.",
    Argument("direction", "horizontal swaps left and right", "enum", choices=("horizontal", "vertical")),
)
def flip(sight: Sight, direction: Array) -> View:
    """u becomes 1 - u, or v becomes 1 - v."""
    across = jnp.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    down = jnp.array([[1.0, 0.0, 0.0], [0.0, -1.0, 1.0]])
    return look_through(sight.view, jnp.where(direction == 0, across, down))
