"""``find_bright_blobs``: boxes around the brightest compact things of an image."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.pixels import grey

MOST = 5
"""Blobs that one call finds at most."""

RATIO = math.sqrt(2.0)
"""From one scale to the next."""

CONTRAST = 0.1
"""A disc that stands out less from its ground, of the range from black to white, is no blob."""

ELONGATION = 3.0
"""Largest ratio of the two curvatures of a blob's top."""

_PEAK = RATIO ** (-2 / (RATIO**2 - 1)) - RATIO ** (-2 * RATIO**2 / (RATIO**2 - 1))
"""Response to a disc of contrast 1 in its middle: :func:`_radius` put into exp(-r²/2k²σ²) - exp(-r²/2σ²)."""

_BOX = "[{{{0}:4u}}, {{{1}:4u}}, {{{2}:4u}}, {{{3}:4u}}]"
_BOXES = [_BOX.format(*range(4 * k, 4 * k + 4)) for k in range(MOST)]


@measure_tool(
    f"Find the brightest compact spots of an image, {MOST} at most, the strongest first.",
    Argument("count", "how many at most", "integer", 1, MOST, default=MOST),
    texts=("no bright blobs", *("bright blobs " + ", ".join(_BOXES[:found]) for found in range(1, MOST + 1))),
    family="recognise",
    reads=False,
    sees=True,
)
def find_bright_blobs(sight: Sight, count: Array) -> Reading:
    """Differences of Gaussians of what the policy sees (Lowe 2004), so of any window, effect, turn or pair.

    A blob is a maximum over 3 x 3 pixels and 3 scales, and no ridge; its place and scale are those of the parabolas
    through it and its neighbours. Of two whose centres are closer than the larger radius the stronger stays. Boxes,
    x1 y1 x2 y2 in 0…FRAME of the view, are as wide and high as a disc that responds most at this scale. Radii from
    about 1.7 view pixels to a fifth of the view's smaller side are found; what is smaller or paler needs a zoom or a
    window.
    """
    levels_hw = grey(sight.shown_hwC) / 255.0
    sigma_S = _scales(*levels_hw.shape)
    response_Shw = _differences(levels_hw, sigma_S)
    peaks_Shw = jnp.where(_is_maximum(response_Shw) & _is_compact(response_Shw), response_Shw, 0.0)
    take = lambda peaks_Shw, _: _take_strongest(peaks_Shw, response_Shw, sigma_S)  # noqa: E731
    strength_N, box_N4 = jax.lax.scan(take, peaks_Shw, None, length=MOST)[1]
    found = jnp.sum(strength_N >= CONTRAST * _PEAK, dtype=jnp.int32)
    return Reading([box_N4], text=jnp.minimum(found, count))


def _scales(height: int, width: int) -> list[float]:
    """Standard deviations in view pixels; a maximum has a neighbour on either side, so the ends find nothing."""
    smallest, largest = 1.0 / RATIO, min(height, width) / 8.0 * RATIO
    steps = max(2, math.ceil(math.log(largest / smallest, RATIO)))
    return [smallest * RATIO**step for step in range(steps + 1)]


def _radius(sigma: Array) -> Array:
    """Of the disc whose middle responds most to G(σ) - G(kσ): r² = 2σ² ln k² / (1 - 1/k²)."""
    return sigma * math.sqrt(2.0 * math.log(RATIO**2) / (1.0 - RATIO**-2))


def _differences(levels_hw: Array, sigma_S: list[float]) -> Array:
    """G(σ) - G(kσ) of every scale; next to the view's edge the weights within it are scaled up to one."""

    def weights_SNN(size: int) -> Array:
        apart_NN = (jnp.arange(size)[:, None] - jnp.arange(size)[None]).astype(jnp.float32)
        all_S = jnp.array([*sigma_S, sigma_S[-1] * RATIO])
        weights = jnp.exp(-0.5 * (apart_NN[None] / all_S[:, None, None]) ** 2)
        return weights / jnp.sum(weights, axis=-1, keepdims=True)

    height, width = levels_hw.shape
    exact = jax.lax.Precision.HIGHEST
    lines_Shw = jnp.einsum("shy,yw->shw", weights_SNN(height), levels_hw, precision=exact)
    smooth_Shw = jnp.einsum("shx,swx->shw", lines_Shw, weights_SNN(width), precision=exact)
    return smooth_Shw[:-1] - smooth_Shw[1:]


def _is_maximum(response_Shw: Array) -> Array:
    """Which are above 0 and not below any of their 26 neighbours; none at the first and the last scale."""
    around_Shw = jax.lax.reduce_window(response_Shw, -jnp.inf, jax.lax.max, (3, 3, 3), (1, 1, 1), "SAME")
    scale_S11 = jnp.arange(response_Shw.shape[0])[:, None, None]
    between_S11 = (scale_S11 > 0) & (scale_S11 < response_Shw.shape[0] - 1)
    return (response_Shw >= around_Shw) & (response_Shw > 0) & between_S11


def _is_compact(response_Shw: Array) -> Array:
    """Which are no ridges, such as the bright side of an edge: of the two principal curvatures neither is more than
    ``ELONGATION`` times the other (Lowe 2004, section 4.1)."""
    wide = jnp.pad(response_Shw, ((0, 0), (1, 1), (1, 1)), mode="edge")
    at = lambda y, x: wide[:, y : wide.shape[1] - 2 + y, x : wide.shape[2] - 2 + x]  # noqa: E731
    across_Shw = at(1, 0) - 2.0 * at(1, 1) + at(1, 2)
    down_Shw = at(0, 1) - 2.0 * at(1, 1) + at(2, 1)
    mixed_Shw = (at(0, 0) + at(2, 2) - at(0, 2) - at(2, 0)) / 4.0
    trace_Shw, determinant_Shw = across_Shw + down_Shw, across_Shw * down_Shw - mixed_Shw**2
    return trace_Shw**2 * ELONGATION < determinant_Shw * (ELONGATION + 1.0) ** 2


def _take_strongest(peaks_Shw: Array, response_Shw: Array, sigma_S: list[float]) -> tuple[Array, tuple[Array, Array]]:
    """The peaks without the strongest and those that it covers; its strength and box."""
    scales, height, width = peaks_Shw.shape
    at = jnp.unravel_index(jnp.argmax(peaks_Shw), peaks_Shw.shape)
    strength = peaks_Shw[at]
    place = [index.astype(jnp.float32) + _offset(response_Shw, at, axis) for axis, index in enumerate(at)]
    radius = _radius(sigma_S[0] * RATIO ** place[0])
    y, x = place[1] + 0.5, place[2] + 0.5
    box_4 = jnp.stack([(x - radius) / width, (y - radius) / height, (x + radius) / width, (y + radius) / height])
    reach_S = jnp.maximum(_radius(jnp.array(sigma_S)), radius)
    apart_hw = jnp.hypot(
        (jnp.arange(height)[:, None] - at[1]).astype(jnp.float32), (jnp.arange(width)[None] - at[2]).astype(jnp.float32)
    )
    covered_Shw = apart_hw[None] < reach_S[:, None, None]
    return jnp.where(covered_Shw, 0.0, peaks_Shw), (strength, jnp.clip(box_4, 0.0, 1.0) * FRAME)


def _offset(response_Shw: Array, at: tuple[Array, ...], axis: int) -> Array:
    """From a peak to the top of the parabola through it and its neighbours along an axis, at most half a step."""
    last = response_Shw.shape[axis] - 1
    move = lambda by: tuple(jnp.clip(i + by, 0, last) if k == axis else i for k, i in enumerate(at))  # noqa: E731
    before, here, behind = response_Shw[move(-1)], response_Shw[at], response_Shw[move(1)]
    bend = before - 2.0 * here + behind
    offset = 0.5 * (before - behind) / jnp.where(bend < 0, bend, -1.0)
    return jnp.where(bend < 0, jnp.clip(offset, -0.5, 0.5), 0.0)
