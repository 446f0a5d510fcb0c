"""``edge_map``: how steep the grey values are."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.define import effect_tool
from medvista_jax.tools.filters import separable
from medvista_jax.tools.pixels import grey

MOST_SMOOTHING = 3
"""Largest standard deviation of the smoothing, in pixels of the view."""

_TRUNCATE = 4
"""Standard deviations at which the Gaussian ends, as SciPy's default has it."""


@effect_tool(
    "Show the edges in an image, white where they are strong.",
    Argument("smoothing", "blur before, in pixels", "integer", 0, MOST_SMOOTHING, default=1),
)
def edge_map(levels_hwC: Array, smoothing: Array) -> Array:
    """Magnitude of the Sobel gradient of the luminance, after a Gaussian of ``smoothing`` pixels of the view.

    White is a step from black to white along a row or a column, whatever the smoothing; a diagonal one can be 6 % more
    and is clipped. Edge pixels are repeated beyond the edge, so the view's own border is no edge.
    """
    bell_N = gaussian(smoothing)
    smooth_hw = separable(grey(levels_hwC), bell_N, bell_N)
    height, width = smooth_hw.shape
    padded = jnp.pad(smooth_hw, 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:, :] - padded[:-2, :]
    # [1 2 1] / 4 along the other axis: a full step is 255.
    across_hw = (across[:-2] + 2.0 * across[1:-1] + across[2:]) / 4.0
    down_hw = (down[:, :-2] + 2.0 * down[:, 1:-1] + down[:, 2:]) / 4.0
    middle = bell_N.shape[0] // 2
    step = bell_N[middle] + bell_N[middle + 1]  # what the smoothing leaves of a step between two pixels
    steep_hw = jnp.sqrt(across_hw**2 + down_hw**2) / step
    return jnp.broadcast_to(steep_hw[..., None], levels_hwC.shape)


def gaussian(deviation: Array) -> Array:
    """Weights ``[2 * _TRUNCATE * MOST_SMOOTHING + 1]`` of a Gaussian, cut off and normalised; of 0 the identity."""
    reach = _TRUNCATE * MOST_SMOOTHING
    step_N = jnp.abs(jnp.arange(-reach, reach + 1)).astype(jnp.float32)
    deviation = deviation.astype(jnp.float32)
    bell_N = jnp.exp(-0.5 * (step_N / jnp.maximum(deviation, 1e-3)) ** 2)
    weights_N = jnp.where(step_N <= _TRUNCATE * deviation, bell_N, 0.0)
    return weights_N / jnp.sum(weights_N)
