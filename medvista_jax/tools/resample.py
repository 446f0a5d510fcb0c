"""Batched crop and resize of device arrays: the numerics of ``jax.image.scale_and_translate`` (linear, antialiased).

A crop resamples rows, then columns; weight matrices of both are banded. On accelerators they are dense matrix products
all the same, since matrix units are faster than any gather. On a CPU the band alone is summed up, whole rows of pixels
at a time, crop by crop, so that what one pass writes is still in the cache when the next reads it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array

TAPS = 4
"""Pixels of a band that one step of the loop sums up. Zoomed crops need two, reductions by ``s`` need ``2 s``."""

CACHED_BYTES = 512 * 1024
"""Of an intermediate result: two of them fit in the second-level cache of a core."""


class Band(NamedTuple):
    """Where the pixels of an output axis look at an input axis.

    Attributes:
      first_NO: int32, the first input pixel with a weight; may lie outside of the axis.
      offset_NO: float32, middle of the kernel less ``first_NO``.
      reach_N: float32, half of the kernel's support, in input pixels.
    """

    first_NO: Array
    offset_NO: Array
    reach_N: Array


def band(start_N: Array, stop_N: Array, out: int) -> Band:
    """Bands that resample ``[start, stop)`` to ``out`` pixels, in reverse order where ``start > stop``.

    Whole pixels are counted in int32 and fractions in float32: positions are known to a few ``2**-24`` pixels however
    long the axis.
    """
    low_N, high_N = jnp.minimum(start_N, stop_N), jnp.maximum(start_N, stop_N)
    low_part_N, high_part_N = low_N - jnp.floor(low_N), high_N - jnp.floor(high_N)
    whole_N = (jnp.floor(high_N) - jnp.floor(low_N)).astype(jnp.int32)
    part_N = high_part_N - low_part_N  # of the length, -1…1
    reach_N = jnp.maximum((whole_N.astype(jnp.float32) + part_N) / out, 1.0)
    index_O = jnp.arange(out, dtype=jnp.int32)
    index_NO = jnp.where((start_N > stop_N)[:, None], out - 1 - index_O[None], index_O[None])
    # The middle is low + (2 index + 1) (whole + part) / (2 out) - 1/2.
    odd_NO = 2 * index_NO + 1
    pixels_NO, rest_NO = jnp.divmod(odd_NO * whole_N[:, None], 2 * out)
    rest_NO = (rest_NO.astype(jnp.float32) + odd_NO.astype(jnp.float32) * part_N[:, None]) / (2 * out)
    rest_NO = rest_NO + (low_part_N - 0.5)[:, None]
    first_NO = jnp.floor(rest_NO - reach_N[:, None]) + 1.0
    return Band(
        first_NO=first_NO.astype(jnp.int32) + pixels_NO + jnp.floor(low_N).astype(jnp.int32)[:, None],
        offset_NO=rest_NO - first_NO,
        reach_N=reach_N,
    )


def _triangle(where: Band, step_NOK: Array, inside_NOK: Array) -> Array:
    """Normalised weights of the pixels ``first + step``, zero where not ``inside``."""
    distance_NOK = jnp.abs(where.offset_NO[..., None] - step_NOK.astype(jnp.float32))
    weights_NOK = jnp.maximum(0.0, 1.0 - distance_NOK / where.reach_N[:, None, None])
    weights_NOK = jnp.where(inside_NOK, weights_NOK, 0.0)
    # A box inside of the image has a pixel of weight 1/2 at least; one outside shows nothing.
    return weights_NOK / jnp.maximum(jnp.sum(weights_NOK, axis=-1, keepdims=True), 1e-6)


def triangle_weights(start_N: Array, stop_N: Array, size_N: Array, canvas: int, out: int) -> Array:
    """Weights that resample ``[start, stop)`` of an axis of ``canvas`` pixels, ``size`` of them in use.

    Args:
      start_N, stop_N: float32, in pixels of the input axis, between 0 and ``size``. The result is mirrored where
        ``start > stop``.
      size_N: int32; pixels from there on have no weight.
      canvas, out: input and output pixels.

    Returns:
      float32 ``[N, out, canvas]``; every row sums to one. For a whole-number reduction the weights are dyadic
      and sums over 8-bit pixels are exact in float32.
    """
    where = band(start_N, stop_N, out)
    pixel_S = jnp.arange(canvas, dtype=jnp.int32)
    inside_N1S = (pixel_S[None] < size_N[:, None])[:, None]
    return _triangle(where, pixel_S[None, None] - where.first_NO[..., None], inside_N1S)


class Taps(NamedTuple):
    """The same weights without the zeros.

    Attributes:
      weight_NOK: float32, of K neighbours.
      pixel_NOK: int32, which; those without weight are some pixel of the image.
      steps_N: int32, how many steps of :data:`TAPS` neighbours hold all weights.
    """

    weight_NOK: Array
    pixel_NOK: Array
    steps_N: Array


def band_taps(start_N: Array, stop_N: Array, size_N: Array, canvas: int, out: int) -> Taps:
    """:func:`triangle_weights` as bands, whose width K is that of twice the canvas at ``out`` pixels.

    Half of a pair of views is cut out of a crop twice as wide as what it shows.
    """
    where = band(start_N, stop_N, out)
    steps = math.ceil(2 * max(1.0, 2 * canvas / out) / TAPS)
    step_K = jnp.arange(steps * TAPS, dtype=jnp.int32)
    pixel_NOK = where.first_NO[..., None] + step_K[None, None]
    last_N11 = size_N[:, None, None] - 1
    inside_NOK = (pixel_NOK >= 0) & (pixel_NOK <= last_N11)
    return Taps(
        weight_NOK=_triangle(where, step_K[None, None], inside_NOK),
        pixel_NOK=jnp.clip(pixel_NOK, 0, jnp.maximum(last_N11, 0)),
        steps_N=jnp.minimum(jnp.ceil(2.0 * where.reach_N / TAPS).astype(jnp.int32), steps),
    )


def crop_resize(pixels_POYXC: Array, source_B: Array, box_B4: Array, size_PO2: Array, height: int, width: int) -> Array:
    """Resample a box of an original for each row.

    Args:
      pixels_POYXC: any real dtype, finite on all of the canvas; O originals a prompt, which the rows of a group share.
      source_B: int32, which original; ``B`` a multiple of ``P``, row ``b`` belongs to prompt ``b // (B // P)``.
      box_B4: float32 x1 y1 x2 y2 in pixels of the original, at most twice as long as the canvas. The view is mirrored
        from left to right where ``x1 > x2`` and upside down where ``y1 > y2``. What lies beyond the original has no
        weight; a pixel that sees nothing else is zero.
      size_PO2: int32 rows and columns in use of each original, from the upper left corner of the canvas.
      height, width: size of the result.

    Returns:
      float32 ``[B, height, width, C]`` in the units of the input.

    Raises:
      ValueError: when the rows do not divide among the prompts.
    """
    prompts, originals = pixels_POYXC.shape[:2]
    batch = box_B4.shape[0]
    if batch % prompts:
        raise ValueError(f"crop_resize: {batch} boxes do not divide among the images of {prompts} prompts")
    group = batch // prompts
    prompt_B = jnp.arange(batch, dtype=jnp.int32) // group
    source_B = jnp.clip(source_B.astype(jnp.int32), 0, originals - 1)
    size_BO2 = jnp.repeat(size_PO2.astype(jnp.int32), group, axis=0)
    size_B2 = jnp.take_along_axis(size_BO2, source_B[:, None, None], axis=1)[:, 0]
    operands = (pixels_POYXC, prompt_B, source_B, box_B4.astype(jnp.float32), size_B2)
    return jax.lax.platform_dependent(
        *operands,
        cpu=lambda *operands: crop_banded(*operands, height, width),
        default=lambda *operands: crop_dense(*operands, height, width),
    )


def crop_dense(
    pixels_POYXC: Array, prompt_B: Array, source_B: Array, box_B4: Array, size_B2: Array, height: int, width: int
) -> Array:
    """:func:`crop_resize` as matrix products, one of rows for each of the O originals and one of columns."""
    prompts, originals, rows, columns, channels = pixels_POYXC.shape
    batch = prompt_B.shape[0]
    wy_BhY = triangle_weights(box_B4[:, 1], box_B4[:, 3], size_B2[:, 0], rows, height)
    wx_BwX = triangle_weights(box_B4[:, 0], box_B4[:, 2], size_B2[:, 1], columns, width)
    # HIGHEST: on TPUs the default would round pixels and weights to bfloat16.
    exact = jax.lax.Precision.HIGHEST
    rows_PNM = jnp.zeros((prompts, batch // prompts * height, columns * channels), jnp.float32)
    for original in range(originals):
        wy_PNY = jnp.where((source_B == original)[:, None, None], wy_BhY, 0.0).reshape(prompts, -1, rows)
        image_PYM = pixels_POYXC[:, original].astype(jnp.float32).reshape(prompts, rows, columns * channels)
        rows_PNM += jnp.einsum("pny,pym->pnm", wy_PNY, image_PYM, precision=exact)
    rows_BhXC = rows_PNM.reshape(batch, height, columns, channels)
    return jnp.einsum("bhxc,bwx->bhwc", rows_BhXC, wx_BwX, precision=exact)


def crop_banded(
    pixels_POYXC: Array, prompt_B: Array, source_B: Array, box_B4: Array, size_B2: Array, height: int, width: int
) -> Array:
    """:func:`crop_resize` as sums over the bands, a block of rows of one crop after the other."""
    prompts, originals, rows, columns, channels = pixels_POYXC.shape
    batch = prompt_B.shape[0]
    tall = _block(height, 4 * columns * channels)
    blocks = height // tall
    table_NM = pixels_POYXC.reshape(prompts * originals * rows, columns * channels)
    down = band_taps(box_B4[:, 1], box_B4[:, 3], size_B2[:, 0], rows, height)
    across = band_taps(box_B4[:, 0], box_B4[:, 2], size_B2[:, 1], columns, width)
    first_B = (prompt_B * originals + source_B) * rows
    row_NOK = (first_B[:, None, None] + down.pixel_NOK).reshape(batch * blocks, tall, -1)
    weight_NOK = down.weight_NOK.reshape(row_NOK.shape)

    def crop(n: Array) -> Array:
        b = n // blocks
        rows_hM = _sum_taps(table_NM, weight_NOK[n], row_NOK[n], down.steps_N[b])
        # Turned, so that a column, too, is a contiguous piece of memory.
        columns_XM = _turned(rows_hM).reshape(columns, channels * tall)
        view_wM = _sum_taps(columns_XM, across.weight_NOK[b], across.pixel_NOK[b], across.steps_N[b])
        return _turned(view_wM.reshape(width * channels, tall))

    return jax.lax.map(crop, jnp.arange(batch * blocks)).reshape(batch, height, width, channels)


def _block(height: int, row_bytes: int) -> int:
    """Rows at a time: the largest divisor of the height that keeps them cached; all of them rather than a few."""
    fitting = [n for n in range(16, height + 1) if height % n == 0 and n * row_bytes <= CACHED_BYTES]
    return max(fitting, default=height)


def _turned(pixels_NM: Array) -> Array:
    # Behind a barrier: fused into its neighbours, a transposition makes them stride through memory.
    return jax.lax.optimization_barrier(jax.lax.optimization_barrier(pixels_NM).T)


def _sum_taps(table_NM: Array, weight_OK: Array, row_OK: Array, steps: Array) -> Array:
    """Weighted sums of rows of a table: float32 ``[O, M]``."""
    weight_OK, row_OK = jax.lax.optimization_barrier((weight_OK, row_OK))

    def add(step: Array | int, sum_OM: Array) -> Array:
        weight_OT = jax.lax.dynamic_slice_in_dim(weight_OK, step * TAPS, TAPS, axis=1)
        row_OT = jax.lax.dynamic_slice_in_dim(row_OK, step * TAPS, TAPS, axis=1)
        for tap in range(TAPS):
            seen_OM = table_NM.at[row_OT[:, tap]].get(mode="promise_in_bounds")
            sum_OM = sum_OM + weight_OT[:, tap, None] * seen_OM.astype(jnp.float32)
        return sum_OM

    zero_OM = jnp.zeros((weight_OK.shape[0], table_NM.shape[1]), jnp.float32)
    if weight_OK.shape[1] == TAPS:  # A loop of one step would have its products hoisted, each into an array.
        return add(0, zero_OM)
    return jax.lax.fori_loop(0, steps, add, zero_OM)


def sample_affine(levels_BmnC: Array, affine_B23: Array, height: int, width: int) -> Array:
    """Bilinear samples of each row's image at positions that an affine map names, for views at an angle.

    Args:
      levels_BmnC: real, one intermediate image a row.
      affine_B23: float32; the middle of output pixel ``(i, j)`` looks at ``(x, y) = affine @ (u, v, 1)`` with
        ``u = (j + 1/2) / width`` and ``v = (i + 1/2) / height``. x runs over 0…n and y over 0…m, in pixels of the
        intermediate image, whose first has its middle at 1/2.
      height, width: size of the result.

    Returns:
      float32 ``[B, height, width, C]``: zero outside of the image; within half a pixel of the border the border's
      pixels, as Pillow's ``transform`` and SciPy's ``map_coordinates(order=1, mode="nearest")`` have it.
    """
    batch, tall, wide, channels = levels_BmnC.shape
    u_11w = ((jnp.arange(width, dtype=jnp.float32) + 0.5) / width)[None, None]
    v_1h1 = ((jnp.arange(height, dtype=jnp.float32) + 0.5) / height)[None, :, None]
    at = affine_B23.astype(jnp.float32)[:, :, :, None, None]
    # No matrix product: on TPUs it would round the positions to bfloat16.
    x_Bhw = at[:, 0, 0] * u_11w + at[:, 0, 1] * v_1h1 + at[:, 0, 2]
    y_Bhw = at[:, 1, 0] * u_11w + at[:, 1, 1] * v_1h1 + at[:, 1, 2]
    inside_Bhw = (x_Bhw >= 0) & (x_Bhw <= wide) & (y_Bhw >= 0) & (y_Bhw <= tall)
    x0_Bhw, x1_Bhw, right_Bhw = _neighbours(x_Bhw, wide)
    y0_Bhw, y1_Bhw, lower_Bhw = _neighbours(y_Bhw, tall)
    flat_BNC = levels_BmnC.reshape(batch, tall * wide, channels)

    def level(y: Array, x: Array) -> Array:
        at_BN1 = (y * wide + x).reshape(batch, height * width, 1)
        seen_BNC = jnp.take_along_axis(flat_BNC, at_BN1, axis=1, mode="promise_in_bounds")
        return seen_BNC.reshape(batch, height, width, channels).astype(jnp.float32)

    right, lower = right_Bhw[..., None], lower_Bhw[..., None]
    upper_BhwC = level(y0_Bhw, x0_Bhw) * (1.0 - right) + level(y0_Bhw, x1_Bhw) * right
    lower_BhwC = level(y1_Bhw, x0_Bhw) * (1.0 - right) + level(y1_Bhw, x1_Bhw) * right
    return jnp.where(inside_Bhw[..., None], upper_BhwC * (1.0 - lower) + lower_BhwC * lower, 0.0)


def _neighbours(position: Array, size: int) -> tuple[Array, Array, Array]:
    """The two pixels around a position on an axis, and the weight of the second."""
    clamped = jnp.clip(position - 0.5, 0.0, size - 1.0)
    first = jnp.floor(clamped)
    low = first.astype(jnp.int32)
    return low, jnp.minimum(low + 1, size - 1), clamped - first


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
