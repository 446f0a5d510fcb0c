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


def crop_resize(pixels_PYXC: Array, box_B4: Array, height: int, width: int) -> Array:
    """Resample a box of an image for each row.

    Args:
      pixels_PYXC: any real dtype, one image a prompt.
      box_B4: float32 x1 y1 x2 y2 in 0…1, ``B`` a multiple of ``P``; row ``b`` looks at image ``b // (B // P)``.
      height, width: size of the result.

    Returns:
      float32 ``[B, height, width, C]`` in the units of the input.
    """
    prompts, rows, columns, channels = pixels_PYXC.shape
    batch = box_B4.shape[0]
    if batch % prompts:
        raise ValueError(f"crop_resize: {batch} boxes do not divide among {prompts} images")
    group = batch // prompts
    wy_BhY = triangle_weights(box_B4[:, 1] * rows, box_B4[:, 3] * rows, rows, height)
    wx_BwX = triangle_weights(box_B4[:, 0] * columns, box_B4[:, 2] * columns, columns, width)
    image_PYN = pixels_PYXC.astype(jnp.float32).reshape(prompts, rows, columns * channels)
    wy_PNY = wy_BhY.reshape(prompts, group * height, rows)
    # HIGHEST: on TPUs the default would round pixels and weights to bfloat16.
    exact = jax.lax.Precision.HIGHEST
    rows_PNN = jnp.einsum("pny,pym->pnm", wy_PNY, image_PYN, precision=exact)
    rows_BhXC = rows_PNN.reshape(batch, height, columns, channels)
    return jnp.einsum("bhxc,bwx->bhwc", rows_BhXC, wx_BwX, precision=exact)


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
