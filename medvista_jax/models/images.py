"""Views of the rollout to what a vision tower reads: normalised pixels and patches. Pure, traced under ``jit``."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array


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
