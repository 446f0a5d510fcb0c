"""Batched crop and resize of device arrays: the numerics of ``jax.image.scale_and_translate`` (linear, antialiased).

A crop is two small matrix products, one a axis. Rows that look at the same original (the group of a prompt) share
its pixels, so the first product is one matrix product a prompt and no original is copied.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array


def triangle_weights(start_N: Array, stop_N: Array, size: int, out: int) -> Array:
    """Weights that resample ``[start, stop)`` of an axis of ``size`` pixels to ``out`` pixels.

    Args:
      start_N, stop_N: float32, in pixels of the input axis, ``0 <= start < stop <= size``.
      size, out: input and output pixels.

    Returns:
      float32 ``[N, out, size]``; every row sums to one. For a whole-number reduction the weights are dyadic
      and sums over 8-bit pixels are exact in float32.
    """
    scale_N = (stop_N - start_N) / out
    reach_N = jnp.maximum(scale_N, 1.0)
    step_O = jnp.arange(out, dtype=jnp.float32) + 0.5
    centre_NO = start_N[:, None] + step_O[None] * scale_N[:, None] - 0.5
    distance_NOS = jnp.abs(centre_NO[:, :, None] - jnp.arange(size, dtype=jnp.float32)[None, None])
    weights_NOS = jnp.maximum(0.0, 1.0 - distance_NOS / reach_N[:, None, None])
    return weights_NOS / jnp.sum(weights_NOS, axis=-1, keepdims=True)


def crop_resize(pixels_POYXC: Array, source_B: Array, box_B4: Array, size_PO2: Array, height: int, width: int) -> Array:
    prompts, originals, rows, columns, channels = pixels_POYXC.shape
    batch = box_B4.shape[0]
    if batch % prompts:
        raise ValueError(f"crop_resize: {batch} boxes do not divide among {prompts} images")
    prompt_B = jnp.arange(batch) // (batch // prompts)
    image_BYXC = pixels_POYXC[prompt_B, source_B].astype(jnp.float32)
    size_B2 = size_PO2[prompt_B, source_B].astype(jnp.float32)

    def w(start, stop, n, size, out):
        scale = (stop - start) / out
        reach = jnp.maximum(jnp.abs(scale), 1.0)
        step = jnp.arange(out, dtype=jnp.float32) + 0.5
        centre = start[:, None] + step[None] * scale[:, None] - 0.5
        d = jnp.abs(centre[:, :, None] - jnp.arange(size, dtype=jnp.float32)[None, None])
        ww = jnp.maximum(0.0, 1.0 - d / reach[:, None, None]) * (jnp.arange(size)[None, None] < n[:, None, None])
        return ww / jnp.sum(ww, axis=-1, keepdims=True)

    wy = w(box_B4[:, 1], box_B4[:, 3], size_B2[:, 0], rows, height)
    wx = w(box_B4[:, 0], box_B4[:, 2], size_B2[:, 1], columns, width)
    exact = jax.lax.Precision.HIGHEST
    r = jnp.einsum("bhy,byxc->bhxc", wy, image_BYXC, precision=exact)
    return jnp.einsum("bhxc,bwx->bhwc", r, wx, precision=exact)


def sample_affine(levels_BmnC: Array, affine_B23: Array, height: int, width: int) -> Array:
    rows, columns = levels_BmnC.shape[1:3]
    u = (jnp.arange(width, dtype=jnp.float32)[None, None, :] + 0.5) / width
    v = (jnp.arange(height, dtype=jnp.float32)[None, :, None] + 0.5) / height
    m = affine_B23[:, :, :, None, None]
    x = m[:, 0, 0] * u + m[:, 0, 1] * v + m[:, 0, 2]
    y = m[:, 1, 0] * u + m[:, 1, 1] * v + m[:, 1, 2]
    ok = (x >= 0) & (x <= columns) & (y >= 0) & (y <= rows)
    x, y = jnp.clip(x - 0.5, 0, columns - 1), jnp.clip(y - 0.5, 0, rows - 1)
    x0, y0 = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    x1, y1 = jnp.minimum(x0 + 1, columns - 1), jnp.minimum(y0 + 1, rows - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    b = jnp.arange(levels_BmnC.shape[0])[:, None, None]
    at = lambda yy, xx: levels_BmnC[b, yy, xx]
    out = (at(y0, x0) * (1 - fx) + at(y0, x1) * fx) * (1 - fy) + (at(y1, x0) * (1 - fx) + at(y1, x1) * fx) * fy
    return jnp.where(ok[..., None], out, 0.0)


def apply_window(pixels_BhwC: Array, window_B2: Array) -> Array:
    """Grey values between ``low`` (black) and ``high`` (white) as displayed: uint8, rounded, clipped.

    Args:
      pixels_BhwC: float32 in stored units.
      window_B2: float32 low, high; ``high > low``.
    """
    low_B111 = window_B2[:, 0, None, None, None]
    span_B111 = (window_B2[:, 1] - window_B2[:, 0])[:, None, None, None]
    shown_BhwC = jnp.clip((pixels_BhwC - low_B111) / span_B111, 0.0, 1.0)
    return jnp.round(shown_BhwC * 255.0).astype(jnp.uint8)
