"""Batched crop and resize of device arrays: the numerics of ``jax.image.scale_and_translate`` (linear, antialiased).

A crop resamples rows, then columns; weight matrices of both are banded. On accelerators they are dense matrix products
all the same, since matrix units are faster than any gather. On a CPU the band alone is summed up, over those columns
alone that a box shows, whole rows of pixels at a time and crop by crop, so that what one pass writes is still in the
cache when the next reads it.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array

TAPS = 4
"""Pixels of a band that one step of the loop sums up. Reductions by ``s`` need ``2 s``; enlargements need two."""

CACHED_BYTES = 768 * 1024
"""Of an intermediate result: two of them fit in the second-level cache of a core."""

WINDOWS = (4, 2)
"""Columns that are read of a canvas: a quarter, a half, or all. Each is a branch of the program."""


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


def _triangle(offset: Array, reach: Array, step: Array, inside: Array) -> Array:
    """Weights of the pixels ``first + step``, not yet normalised; zero where not ``inside``."""
    return jnp.where(inside, jnp.maximum(0.0, 1.0 - jnp.abs(offset - step.astype(jnp.float32)) / reach), 0.0)


def _positive(total: Array) -> Array:
    """What weights are divided by. A box inside of the image has a pixel of weight 1/2 at least; one outside shows
    nothing.
    """
    return jnp.maximum(total, 1e-6)


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
    step_NOS = pixel_S[None, None] - where.first_NO[..., None]
    weights_NOS = _triangle(where.offset_NO[..., None], where.reach_N[:, None, None], step_NOS, inside_N1S)
    return weights_NOS / _positive(jnp.sum(weights_NOS, axis=-1, keepdims=True))


def crop_resize(
    pixels_POYXC: Array,
    source_B: Array,
    box_B4: Array,
    size_PO2: Array,
    height: int,
    width: int,
    needed_B: Array | None = None,
) -> Array:
    """Resample a box of an original for each row.

    Args:
      pixels_POYXC: any real dtype, finite on all of the canvas; O originals a prompt, which the rows of a group share.
      source_B: int32, which original; ``B`` a multiple of ``P``, row ``b`` belongs to prompt ``b // (B // P)``.
      box_B4: float32 x1 y1 x2 y2 in pixels of the original, at most twice as long as the canvas. The view is mirrored
        from left to right where ``x1 > x2`` and upside down where ``y1 > y2``. What lies beyond the original has no
        weight; a pixel that sees nothing else is zero.
      size_PO2: int32 rows and columns in use of each original, from the upper left corner of the canvas.
      height, width: size of the result.
      needed_B: bool; rows without are zero, and cost nothing on a CPU. All rows if None.

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
    rows = (pixels_POYXC, prompt_B, source_B, box_B4.astype(jnp.float32), size_B2)
    return jax.lax.platform_dependent(
        rows,
        needed_B,
        cpu=lambda rows, needed_B: crop_banded(*rows, height, width, needed_B),
        default=lambda rows, needed_B: crop_dense(*rows, height, width, needed_B),
    )


def crop_dense(
    pixels_POYXC: Array,
    prompt_B: Array,
    source_B: Array,
    box_B4: Array,
    size_B2: Array,
    height: int,
    width: int,
    needed_B: Array | None = None,
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
    view_BhwC = jnp.einsum("bhxc,bwx->bhwc", rows_BhXC, wx_BwX, precision=exact)
    return view_BhwC if needed_B is None else jnp.where(needed_B[:, None, None, None], view_BhwC, 0.0)


def crop_banded(
    pixels_POYXC: Array,
    prompt_B: Array,
    source_B: Array,
    box_B4: Array,
    size_B2: Array,
    height: int,
    width: int,
    needed_B: Array | None = None,
) -> Array:
    """:func:`crop_resize` as sums over the bands, a block of rows of one crop after the other."""
    prompts, originals, rows, columns, channels = pixels_POYXC.shape
    batch = prompt_B.shape[0]
    tall = _block(height, 4 * columns * channels)
    blocks = height // tall
    table_NM = pixels_POYXC.reshape(prompts * originals * rows, columns * channels)
    down_B = _sums(box_B4[:, 1], box_B4[:, 3], size_B2[:, 0], rows, height)
    across_B = _sums(box_B4[:, 0], box_B4[:, 2], size_B2[:, 1], columns, width)
    row_B = (prompt_B * originals + source_B) * rows
    windows = _windows(columns)
    column_B, window_B = _place(across_B, windows, columns)
    needed_B = jnp.ones(batch, bool) if needed_B is None else needed_B
    order_B = jnp.argsort(~needed_B)  # Those that are needed come first, and the loop ends with them.

    def turned(window: int, b: Array, top: Array) -> Array:
        """The block from row ``top`` on with columns before rows, so that a column is a contiguous piece of memory."""
        down = _row(down_B, b)
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=top, slice_size=tall)
        down = down._replace(first=cut(down.first), offset=cut(down.offset), total=cut(down.total))
        rows_hM = _sum_taps(table_NM, down, row_B[b], column_B[b] * channels, (window * channels,))
        # Not reshaped: fused with a transposition, that is a division for every element.
        return _sum_taps(rows_hM.T, _row(across_B, b), -column_B[b], 0, (channels, tall))

    def crop(n: Array, views_BhwC: Array) -> Array:
        b, top = order_B[n // blocks], n % blocks * tall
        view_wCh = jax.lax.switch(window_B[b], [functools.partial(turned, window) for window in windows], b, top)
        view_hwC = view_wCh.transpose(2, 0, 1)
        return jax.lax.dynamic_update_slice(views_BhwC, view_hwC[None], (b, top, 0, 0))

    views_BhwC = jnp.zeros((batch, height, width, channels), jnp.float32)
    return jax.lax.fori_loop(0, jnp.sum(needed_B) * blocks, crop, views_BhwC)


def _block(height: int, row_bytes: int) -> int:
    """Rows at a time: the largest divisor of the height that keeps them cached; all of them rather than a few."""
    fitting = [n for n in range(16, height + 1) if height % n == 0 and n * row_bytes <= CACHED_BYTES]
    return max(fitting, default=height)


def _windows(columns: int) -> list[int]:
    """Widths that a crop may read, the canvas last.

    Odd multiples of 16: rows of even ones share few sets of a cache, and a transposition goes through all rows.
    """
    return [columns // part // 16 // 2 * 32 + 16 for part in WINDOWS if columns // part >= 64] + [columns]


class _Sums(NamedTuple):
    """Bands of which pixels are summed up, of all rows or of one.

    Attributes:
      first, offset, reach: as in :class:`Band`.
      total: float32, sum of the weights of an output pixel.
      last: int32, the last pixel of the image.
      steps: int32, how many steps of :data:`TAPS` neighbours hold all weights.
    """

    first: Array
    offset: Array
    reach: Array
    total: Array
    last: Array
    steps: Array


def _row(sums: _Sums, b: Array) -> _Sums:
    return jax.tree.map(lambda of_all: of_all[b], sums)


def _sums(start_N: Array, stop_N: Array, size_N: Array, canvas: int, out: int) -> _Sums:
    """Bands of up to twice the canvas at ``out`` pixels: half of a pair of views is cut out of a crop twice as wide as
    what it shows.
    """
    where = band(start_N, stop_N, out)
    steps = math.ceil(2 * max(1.0, 2 * canvas / out) / TAPS)
    step_1K1 = jnp.arange(steps * TAPS, dtype=jnp.int32)[None, :, None]
    pixel_NKO = where.first_NO[:, None] + step_1K1
    inside_NKO = (pixel_NKO >= 0) & (pixel_NKO < size_N[:, None, None])
    weight_NKO = _triangle(where.offset_NO[:, None], where.reach_N[:, None, None], step_1K1, inside_NKO)
    return _Sums(
        first=where.first_NO,
        offset=where.offset_NO,
        reach=where.reach_N,
        total=_positive(jnp.sum(weight_NKO, axis=1)),
        last=jnp.maximum(size_N - 1, 0),
        steps=jnp.minimum(jnp.ceil(2.0 * where.reach_N / TAPS).astype(jnp.int32), steps),
    )


def _place(across: _Sums, windows: list[int], columns: int) -> tuple[Array, Array]:
    """The first column that each crop reads, and the number of the narrowest window that holds all it shows."""
    ends_B2 = across.first[:, jnp.array([0, -1])]
    low_B = jnp.clip(jnp.min(ends_B2, axis=1), 0, columns - 1)
    high_B = jnp.max(ends_B2, axis=1) + jnp.ceil(2.0 * across.reach).astype(jnp.int32)
    span_B = jnp.minimum(high_B, across.last + 1) - low_B
    window_B = jnp.sum(span_B[:, None] > jnp.array(windows[:-1], jnp.int32)[None], axis=1)
    return jnp.minimum(low_B, columns - jnp.array(windows, jnp.int32)[window_B]), window_B


def _sum_taps(table_NM: Array, where: _Sums, row: Array, column: Array | int, piece: tuple[int, ...]) -> Array:
    """Weighted sums of pieces of a table: float32 ``[O, *piece]``.

    Args:
      table_NM: a piece of pixel ``p`` is k rows from ``k (row + p)`` on, and of those m entries from ``column`` on.
      piece: (k, m), or (m,) of one row.
    """
    *several, length = piece
    each = math.prod(several)
    inner = tuple(range(1, 1 + len(piece)))
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=inner,
        collapsed_slice_dims=() if several else (0,),
        start_index_map=(0, 1),
    )

    def add(total: Array | float, first: Array | int, taps: int) -> Array:
        step_T1 = first + jnp.arange(taps, dtype=jnp.int32)[:, None]
        pixel_TO = where.first[None] + step_T1
        inside_TO = (pixel_TO >= 0) & (pixel_TO <= where.last)
        weight_TO = _triangle(where.offset[None], where.reach, step_T1, inside_TO) / where.total[None]
        # Those without weight are some pixel that is there.
        row_TO = jnp.clip(jnp.clip(pixel_TO, 0, where.last) + row, 0, table_NM.shape[0] // each - 1) * each
        at_TO2 = jnp.stack([row_TO, jnp.full_like(row_TO, column)], axis=-1)
        for tap in range(taps):
            seen = jax.lax.gather(table_NM, at_TO2[tap], numbers, (each, length), mode="promise_in_bounds")
            total = total + jnp.expand_dims(weight_TO[tap], inner) * seen.astype(jnp.float32)
        return total

    def many() -> Array:
        zero = jnp.zeros((*where.first.shape, *piece), jnp.float32)
        return jax.lax.fori_loop(0, where.steps, lambda step, total: add(total, step * TAPS, TAPS), zero)

    # Also what keeps the transpositions before and after out of these loops, which would stride through memory.
    return jax.lax.cond(where.reach <= 1.0, lambda: add(0.0, 0, 2), many)


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
