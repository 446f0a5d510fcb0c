"""Images of a question on one canvas of a fixed size, for programs with static shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from medvista_jax.data.files.image import MedicalImage

CANVAS_BUCKETS = (256, 512, 1024, 2048)
"""Sides of square canvases: four programs at most."""

Size = tuple[int, int]


class CanvasArrays(NamedTuple):
    """Images on a common canvas. Letters: :mod:`medvista_jax.core.dimensions`.

    Attributes:
      pixels_OYXC: uint8, or uint16 where one image is; images in the upper left corner, 0 elsewhere.
      window_O2: float32 (black, white) in stored units; (0, 1) in unused slots.
      rescale_O2: float32 (slope, intercept); exact where both are whole numbers below 2**24.
      spacing_O2: float32 (row, column) millimetres of the canvas's pixels, 0 where unknown.
      size_O2: int32 (rows, columns) in use.
      count: how many of the O slots hold an image.
    """

    pixels_OYXC: np.ndarray
    window_O2: np.ndarray
    rescale_O2: np.ndarray
    spacing_O2: np.ndarray
    size_O2: np.ndarray
    count: int


def choose_canvas(images: Sequence[MedicalImage], buckets: Sequence[int | Size] = CANVAS_BUCKETS) -> Size:
    """The smallest bucket that holds every image, else the largest one.

    Args:
      buckets: sides of squares, or (rows, columns).

    Raises:
      ValueError: there is no bucket.
    """
    sizes = [(bucket, bucket) if isinstance(bucket, int) else tuple(bucket) for bucket in buckets]
    if not sizes:
        raise ValueError("choose_canvas: there is no bucket to choose from")
    sizes.sort(key=lambda size: (size[0] * size[1], size))
    rows = max((image.pixels_YXC.shape[0] for image in images), default=1)
    columns = max((image.pixels_YXC.shape[1] for image in images), default=1)
    return next((size for size in sizes if size[0] >= rows and size[1] >= columns), sizes[-1])


def lay_on_canvas(
    images: Sequence[MedicalImage],
    canvas: int | Size | None = None,
    *,
    slots: int | None = None,
    channels: int | None = None,
    dtype: type | np.dtype | None = None,
) -> CanvasArrays:
    """Pads images at the right and the bottom; never stretches or enlarges one.

    An image larger than the canvas is reduced, both sides by one factor (as near as whole pixels allow), with
    the antialiased triangle filter that the tools use; its spacing grows as its pixels do. Stored values keep their
    scale, so ``window`` and ``rescale`` stay.

    Args:
      canvas: side, or (rows, columns); by default :func:`choose_canvas` of the images.
      slots: O, by default as many as there are images. Fix it, ``channels`` and ``dtype`` over a data set, so that
        one program serves all questions.
      channels: 1 or 3, by default 3 where one image is in colour; grey then has three equal channels.
      dtype: uint8 or uint16.

    Raises:
      ValueError: more images than slots, colour on a grey canvas, 16 bits on an 8-bit canvas.
    """
    size = choose_canvas(images) if canvas is None else (canvas, canvas) if isinstance(canvas, int) else canvas
    slots = max(1, len(images)) if slots is None else slots
    most = max((image.pixels_YXC.shape[2] for image in images), default=1)
    channels = most if channels is None else channels
    widest = np.result_type(np.uint8, *(image.pixels_YXC.dtype for image in images))
    dtype = np.dtype(widest if dtype is None else dtype)
    if len(images) > slots:
        raise ValueError(f"lay_on_canvas: {len(images)} images do not fit in {slots} slots; raise slots")
    if channels not in (1, 3) or most > channels:
        raise ValueError(f"lay_on_canvas: an image with {most} channels on a canvas with {channels}; say channels=3")
    if dtype not in (np.uint8, np.uint16) or np.result_type(widest, dtype) != dtype:
        raise ValueError(f"lay_on_canvas: pixels of {widest} on a canvas of {dtype}; say dtype=numpy.uint16")
    out = CanvasArrays(
        pixels_OYXC=np.zeros((slots, *size, channels), dtype),
        window_O2=np.tile(np.array([0.0, 1.0], np.float32), (slots, 1)),
        rescale_O2=np.tile(np.array([1.0, 0.0], np.float32), (slots, 1)),
        spacing_O2=np.zeros((slots, 2), np.float32),
        size_O2=np.zeros((slots, 2), np.int32),
        count=len(images),
    )
    for slot, image in enumerate(images):
        pixels_YXC, spacing = reduce_to(image, size)
        height, width = pixels_YXC.shape[:2]
        out.pixels_OYXC[slot, :height, :width] = pixels_YXC
        out.window_O2[slot] = image.window
        out.rescale_O2[slot] = image.rescale
        out.spacing_O2[slot] = spacing or 0.0
        out.size_O2[slot] = height, width
    return out


def reduce_to(image: MedicalImage, size: Size) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Pixels that fit in ``size`` (rows, columns), and their spacing; the image's own where they fit already."""
    pixels_YXC, spacing = image.pixels_YXC, image.spacing
    height, width = pixels_YXC.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    if scale >= 1.0:
        return pixels_YXC, spacing
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels_YXC[..., channel], np.float32)).resize(
                (columns, rows), Image.Resampling.BILINEAR
            )
        )
        for channel in range(pixels_YXC.shape[2])
    ]
    limits = np.iinfo(pixels_YXC.dtype)
    reduced = np.clip(np.rint(np.stack(planes, axis=-1)), limits.min, limits.max).astype(pixels_YXC.dtype)
    if spacing is not None:
        spacing = (spacing[0] * height / rows, spacing[1] * width / columns)
    return reduced, spacing
