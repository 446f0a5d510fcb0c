"""From a picture as it comes to uint8 colour on a canvas of one of few sizes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from PIL import Image

from medvista_jax.core.types import Array
from medvista_jax.models.pillow import Plan, plan, resize

SMALLEST_CANVAS = 32


def to_rgb(image: Any) -> np.ndarray:
    """A picture as uint8 ``[Y, X, 3]``, as the hub's image processors convert it.

    ============================  =========================================================
    grey, bilevel                 three equal channels
    palette                       its colours
    alpha (RGBA, LA, palette's)   laid on white
    CMYK, YCbCr, …                Pillow's conversion
    16 or 32 bits, float          refused: choose a window first
    ============================  =========================================================

    Args:
      image: a Pillow image, or a uint8 array ``[Y, X]`` or ``[Y, X, 1 | 3 | 4]``, channels last.

    Raises:
      ValueError: pixels that are not 8-bit, another shape, or no pixels at all.
    """
    if isinstance(image, Image.Image):
        rgb_YXC = _from_pillow(image)
    else:
        rgb_YXC = _from_array(np.asarray(image))
    if not rgb_YXC.size:
        raise ValueError(f"an image of {rgb_YXC.shape[0]}x{rgb_YXC.shape[1]} pixels has nothing to show")
    return rgb_YXC


def _refuse(what: str) -> ValueError:
    return ValueError(
        f"the image has {what}, which says nothing of what is black and what is white. Show it between two grey values "
        "first (medvista_jax.tools.resample.apply_window) and hand over the uint8 levels 0…255"
    )


def _from_pillow(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise _refuse(f"mode {image.mode!r}, more than 8 bits a pixel")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _from_array(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise _refuse(f"pixels of type {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"an image of shape {pixels.shape}; give [height, width] or [height, width, 1, 3 or 4]")
    if pixels.shape[-1] == 4:
        opaque = pixels[..., 3:] / 255
        return np.round(opaque * pixels[..., :3] + (1.0 - opaque) * 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def on_canvas(rgb_YXC: np.ndarray) -> np.ndarray:
    """The image in the upper left corner of a canvas whose sides are powers of two, so that few programs serve all."""
    height, width, channels = rgb_YXC.shape
    side = lambda n: max(SMALLEST_CANVAS, 1 << (n - 1).bit_length())  # noqa: E731
    canvas_YXC = np.zeros((side(height), side(width), channels), np.uint8)
    canvas_YXC[:height, :width] = rgb_YXC
    return canvas_YXC


def planned(image: Any, size: tuple[int, int], resample: int) -> tuple[np.ndarray, Plan]:
    """Canvas and plan that show an image at ``size`` (height, width): the arguments of :func:`resize`."""
    rgb_YXC = to_rgb(image)
    canvas_YXC = on_canvas(rgb_YXC)
    return canvas_YXC, plan(rgb_YXC.shape[:2], size, resample, canvas_YXC.shape[:2])


_resize = jax.jit(resize)


def to_view(image: Any, size: tuple[int, int], resample: int = 3) -> Array:
    """An image at a bucket's size, computed on the device: uint8 ``[h, w, 3]``, Pillow's to the bit.

    Args:
      image: see :func:`to_rgb`.
      size: height and width. The aspect ratio follows: see :func:`medvista_jax.models.images.choose_bucket`.
      resample: Pillow's number of the filter, 3 is bicubic.

    Raises:
      ValueError: see :func:`to_rgb`; or for a filter that is not supported.
    """
    return _resize(*planned(image, size, resample))
