"""Views of the rollout to what a vision tower reads: normalised pixels and patches. Pure, traced under ``jit``.

Images fall in fixed buckets, so that a run compiles a handful of programs. What a bucket costs in embeddings (tokens of
the decoder), ``-`` where the family cannot show it:

=============  ==========  ========  =========  =================
height, width  Qwen2.5-VL  Qwen3-VL  InternVL3  InternVL3 (tiles)
=============  ==========  ========  =========  =================
224, 224               64        49         64                  -
252, 252               81         -         81                  -
256, 256                -        64          -                  -
448, 448              256       196        256                256
448, 672              384       294          -                  -
672, 448              384       294          -                  -
672, 672              576       441        576                  -
448, 896              512       392          -                768
896, 448              512       392          -                768
448, 1344             768       588          -               1024
1344, 448             768       588          -               1024
896, 896             1024       784       1024               1280
896, 1344            1536      1176          -               1792
1344, 896            1536      1176          -               1792
=============  ==========  ========  =========  =================

Qwen2.5-VL and the packaged 157M model: an embedding for 28x28 pixels (patch 14, merge 2). Qwen3-VL: for 32x32 (16, 2).
InternVL3: for 28x28 of a view that is one square tile; (tiles): 256 for each tile of 448x448 that an image is cut into,
and a thumbnail's 256 where there is more than one. Qwen3-VL's image processor enlarges images of less than 256x256
pixels, so its model has not met the first bucket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array
from medvista_jax.models.pillow import resize_views

Bucket = tuple[int, int]
"""Height and width of a view, in pixels."""

CROP_BUCKETS: tuple[Bucket, ...] = ((224, 224), (252, 252), (256, 256), (448, 448))
"""For zoomed views; an environment shows all of its views at one of them."""

ORIGINAL_BUCKETS: tuple[Bucket, ...] = (
    (448, 448),
    (448, 672),
    (672, 448),
    (672, 672),
    (448, 896),
    (896, 448),
    (448, 1344),
    (1344, 448),
    (896, 896),
    (896, 1344),
    (1344, 896),
)
"""For originals of several aspect ratios: sides that blocks of 28 and of 32 pixels divide."""


def choose_bucket(height: int, width: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket that distorts an image least; of those, the smallest that holds all its pixels, else the largest.

    Args:
      height, width: of the image, in pixels.
      buckets: none but those that the family can show: see :func:`patch_tokens` and :func:`tile_tokens`.

    Raises:
      ValueError: when there is no bucket or no pixel.
    """
    if not buckets or min(height, width) < 1:
        raise ValueError(f"choose_bucket: no bucket for {height}x{width} pixels among {list(buckets)}")
    distortion = {bucket: abs(math.log(bucket[1] / bucket[0] * height / width)) for bucket in buckets}
    least = min(distortion.values())
    # Buckets of one shape, whatever the last bits of their logarithms.
    alike = [bucket for bucket in buckets if distortion[bucket] < least + 1e-9]
    holding = [bucket for bucket in alike if math.prod(bucket) >= height * width]
    return min(holding, key=math.prod) if holding else max(alike, key=math.prod)


def patch_tokens(bucket: Bucket, patch: int, merge: int) -> int | None:
    """Embeddings of a view whose ``merge × merge`` patches become one each; None where such blocks do not fit."""
    block = patch * merge
    return None if bucket[0] % block or bucket[1] % block else bucket[0] // block * (bucket[1] // block)


def tile_tokens(bucket: Bucket, tile: Bucket = (448, 448), tokens_per_tile: int = 256) -> int | None:
    """Embeddings of an image cut into tiles, thumbnail included; None where tiles do not fit."""
    if bucket[0] % tile[0] or bucket[1] % tile[1]:
        return None
    tiles = bucket[0] // tile[0] * (bucket[1] // tile[1])
    return (tiles + (tiles > 1)) * tokens_per_tile


def normalise(pixels_NhwC: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Grey or colour levels 0…255 to ``(level / 255 - mean) / std``, as the hub's image processors have it.

    Args:
      pixels_NhwC: uint8 or float32; one channel (grey) becomes three equal ones before ``mean`` and ``std`` apply.
      mean, std: one number a colour, in units of 1.

    Returns:
      float32 ``[N, h, w, 3]``.

    Raises:
      ValueError: when the pixels have neither one nor three channels.
    """
    channels = pixels_NhwC.shape[-1]
    if channels not in (1, len(mean)):
        raise ValueError(f"normalise: views have {channels} channels; give 1 (grey) or {len(mean)} (colour)")
    mean_C, std_C = (np.asarray(value, np.float32)[None, None, None] for value in (mean, std))
    return (pixels_NhwC.astype(jnp.float32) / 255.0 - mean_C) / std_C


def qwen_patches(
    pixels_NhwC: Array, patch: int, merge: int, temporal: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
    """Views to patches in the order of Qwen2.5-VL's and Qwen3-VL's image processor.

    Patches that will be merged stand side by side: blocks of ``merge × merge`` row by row, within a block row by row.
    Within a patch: channel, frame, row, column. A still image is ``temporal`` equal frames.

    Args:
      pixels_NhwC: uint8 levels, one or three channels, h and w multiples of ``patch * merge``.
      patch, merge, temporal: pixels a patch, patches a side of a merged block, frames.
      mean, std: of the image processor.

    Returns:
      float32 ``[N, (h / patch) * (w / patch), 3 * temporal * patch * patch]``.

    Raises:
      ValueError: when h or w is no multiple of ``patch * merge``.
    """
    count, height, width, _ = pixels_NhwC.shape
    block = patch * merge
    if height % block or width % block:
        raise ValueError(f"qwen_patches: views of {height}x{width} pixels; both must be multiples of {block}")
    x = normalise(pixels_NhwC, mean, std)
    x = x.reshape(count, height // block, merge, patch, width // block, merge, patch, x.shape[-1])
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # block row, block column, row and column within, channel, pixel
    x = x.reshape(count, (height // patch) * (width // patch), -1, 1, patch * patch)
    return jnp.broadcast_to(x, (*x.shape[:3], temporal, patch * patch)).reshape(*x.shape[:2], -1)


def internvl_pixels(pixels_NhwC: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Views to tiles as InternVL's image processor orders them: float32 ``[N, 3, h, w]``.

    Args:
      pixels_NhwC: uint8 levels, one or three channels, already of the tile's size.
      mean, std: of the image processor.
    """
    return normalise(pixels_NhwC, mean, std).transpose(0, 3, 1, 2)


def internvl_tiles(pixels_NhwC: Array, tile: Bucket, resample: int = 3) -> Array:
    """Views cut into tiles row by row, then a thumbnail where there is more than one: uint8 ``[N, tiles, h, w, C]``.

    The thumbnail is the view made smaller, for the rollout has nothing else; the hub's image processor makes it from
    the image before it was a view (see :mod:`medvista_jax.models.preprocess.internvl`).

    Args:
      pixels_NhwC: uint8 levels, h and w multiples of the tile's.
      resample: Pillow's number of the thumbnail's filter, 3 is bicubic.

    Raises:
      ValueError: when h or w is no multiple of the tile's.
    """
    count, height, width, channels = pixels_NhwC.shape
    if height % tile[0] or width % tile[1]:
        raise ValueError(f"internvl_tiles: views of {height}x{width} pixels do not divide into tiles of {tile}")
    rows, columns = height // tile[0], width // tile[1]
    grid = pixels_NhwC.reshape(count, rows, tile[0], columns, tile[1], channels).transpose(0, 1, 3, 2, 4, 5)
    tiles = grid.reshape(count, rows * columns, *tile, channels)
    if rows * columns == 1:
        return tiles
    return jnp.concatenate([tiles, resize_views(pixels_NhwC, tile, resample)[:, None]], axis=1)
