"""Pillow's antialiased resize of 8-bit images, on the device and equal to the bit.

Pillow resamples one axis, rounds to 8 bits, resamples the other and rounds again; its weights are integers of 22
fractional bits (python-pillow/Pillow 13, ``src/libImaging/Resample.c``). Weights depend on sizes only, so the host
makes small tables of them in double precision and the device does integer arithmetic: what is compiled knows the sizes
of the canvas and of the result, and the true size of the image is data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array

BITS = 22
"""Fractional bits of a weight: sums of 8-bit pixels stay within int32 for filters that overshoot."""


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2 (IEEE TASSP 29, 1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


FILTERS: dict[int, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    1: (_lanczos, 3.0),
    2: (_bilinear, 1.0),
    3: (_bicubic, 2.0),
}
"""Pillow's number of a filter (``PIL.Image.Resampling``) → function and how far it reaches."""


class Taps(NamedTuple):
    """What each output pixel of an axis sums up.

    Attributes:
      start_N: int32 first input pixel.
      weight_NM: int32 weights of M neighbours from there on, in units of ``2**-BITS``; zero past ``used``.
      used: int32, how many of the M columns hold a weight.
    """

    start_N: Array
    weight_NM: Array
    used: Array


class Plan(NamedTuple):
    """How to resize one image: tables for its height and its width, and which axis Pillow resamples first."""

    rows: Taps
    columns: Taps
    rows_first: Array


@functools.lru_cache(maxsize=512)
def taps(size: int, out: int, resample: int, canvas: int) -> Taps:
    """Weights that resample ``size`` pixels to ``out``.

    Args:
      size: pixels of the image along this axis, at most ``canvas``.
      resample: a key of :data:`FILTERS`.
      canvas: pixels of the array that holds the image; with ``out`` it fixes the width M of the table.

    Raises:
      ValueError: for a filter that is not in :data:`FILTERS`, or sizes out of range.
    """
    if resample not in FILTERS:
        raise ValueError(f"resample={resample} is not supported; 1 (lanczos), 2 (bilinear) and 3 (bicubic) are")
    if not 1 <= size <= canvas or out < 1:
        raise ValueError(f"cannot resize {size} to {out} pixels on a canvas of {canvas}")
    kernel, reach = FILTERS[resample]
    scale = size / out
    stretch = max(scale, 1.0)
    columns = math.ceil(reach * max(canvas / out, 1.0)) * 2 + 1
    centre_N = (np.arange(out) + 0.5) * scale
    start_N = np.maximum((centre_N - reach * stretch + 0.5).astype(np.int64), 0)
    stop_N = np.minimum((centre_N + reach * stretch + 0.5).astype(np.int64), size)
    place_NM = start_N[:, None] + np.arange(columns)[None]
    weight_NM = kernel((place_NM - centre_N[:, None] + 0.5) * (1.0 / stretch)) * (place_NM < stop_N[:, None])
    total_N = np.cumsum(weight_NM, axis=1)[:, -1]  # from left to right, as Pillow adds up
    weight_NM = weight_NM / total_N[:, None] * (1 << BITS)
    whole_NM = np.trunc(weight_NM + np.copysign(0.5, weight_NM)).astype(np.int32)
    return Taps(start_N.astype(np.int32), whole_NM, np.int32((stop_N - start_N).max()))


def plan(size: tuple[int, int], out: tuple[int, int], resample: int, canvas: tuple[int, int]) -> Plan:
    """Tables for an image of ``size`` on a canvas, to be resized to ``out``; each is height, width.

    Pillow 13 resamples the height first where it shrinks by more than twice the pixels by which the width does
    (found by comparing both orders with its results; earlier versions always begin with the width).
    """
    (height, width), (out_height, out_width) = size, out
    rows_first = height > out_height and height - out_height > 2 * (width - out_width)
    return Plan(
        rows=taps(height, out_height, resample, canvas[0]),
        columns=taps(width, out_width, resample, canvas[1]),
        rows_first=np.bool_(rows_first),
    )


def resample_leading(pixels_NM: Array, weights: Taps) -> Array:
    """One pass over the leading axis: uint8 ``[Y, …]`` to uint8 ``[h, …]`` (or X and w)."""
    last = pixels_NM.shape[0] - 1

    def add(k: Array, sum_NM: Array) -> Array:
        weight_N = jax.lax.dynamic_index_in_dim(weights.weight_NM, k, axis=1, keepdims=False)
        seen_NM = pixels_NM[jnp.minimum(weights.start_N + k, last)]
        return sum_NM + weight_N[:, None] * seen_NM.astype(jnp.int32)

    half_NM = jnp.full((weights.start_N.shape[0], pixels_NM.shape[1]), 1 << (BITS - 1), jnp.int32)
    sum_NM = jax.lax.fori_loop(0, weights.used, add, half_NM)
    return jnp.clip(sum_NM >> BITS, 0, 255).astype(jnp.uint8)


def _rows(pixels_YXC: Array, weights: Taps) -> Array:
    tall, wide, channels = pixels_YXC.shape
    return resample_leading(pixels_YXC.reshape(tall, wide * channels), weights).reshape(-1, wide, channels)


def _columns(pixels_YXC: Array, weights: Taps) -> Array:
    # Turned, so that a neighbour is a copy of whole rows.
    return _rows(pixels_YXC.transpose(1, 0, 2), weights).transpose(1, 0, 2)


def resize(canvas_YXC: Array, plan: Plan) -> Array:
    """The image in the upper left corner of a canvas at another size: uint8 ``[Y, X, C]`` to uint8 ``[h, w, C]``.

    What lies on the canvas outside of the image is not seen. One image at a time: under ``vmap`` both orders of the
    axes would be computed.
    """
    return jax.lax.cond(plan.rows_first, _rows_then_columns, _columns_then_rows, canvas_YXC, plan)


def _rows_then_columns(pixels_YXC: Array, plan: Plan) -> Array:
    return _columns(_rows(pixels_YXC, plan.rows), plan.columns)


def _columns_then_rows(pixels_YXC: Array, plan: Plan) -> Array:
    return _rows(_columns(pixels_YXC, plan.columns), plan.rows)


def resize_views(pixels_NhwC: Array, size: tuple[int, int], resample: int = 3) -> Array:
    """A batch of whole images of one size at another, uint8 ``[N, height, width, C]``; sizes are static."""
    shape = pixels_NhwC.shape[1:3]
    how = plan(shape, size, resample, shape)
    order = _rows_then_columns if how.rows_first else _columns_then_rows
    return jax.vmap(lambda pixels_hwC: order(pixels_hwC, how))(pixels_NhwC)
