"""A contact sheet: the first images of a data set as their windows show them, with question and answer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from medvista_jax.data.canvas import display
from medvista_jax.data.files.image import MedicalImage
from medvista_jax.data.files.questions import FileItem

_SIDE, _PAD, _LINES, _LINE = 320, 10, 7, 14


def draw_sheet(items: Sequence[FileItem], across: int = 4) -> Image.Image:
    """RGB picture of one tile an item: its first image and text. Pixels are shown as tall as their spacing says.

    Raises:
      BadFile: an image that cannot be read.
    """
    rows = -(-len(items) // across)
    width, height = _SIDE + _PAD, _SIDE + _LINES * _LINE + 2 * _PAD
    sheet = Image.new("RGB", (min(across, max(1, len(items))) * width + _PAD, max(1, rows) * height + _PAD), "white")
    for place, item in enumerate(items):
        row, column = divmod(place, across)
        sheet.paste(_tile(item), (column * width + _PAD, row * height + _PAD))
    return sheet


def _tile(item: FileItem) -> Image.Image:
    tile = Image.new("RGB", (_SIDE, _SIDE + _LINES * _LINE + _PAD), "white")
    image = item.images[0]
    shown = display(image.pixels_YXC, image.window)
    picture = Image.fromarray(np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown)
    tall, wide = image.spacing or (1.0, 1.0)
    height, width = picture.height * tall, picture.width * wide
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile.paste(picture.resize(size, Image.Resampling.BILINEAR), (0, 0))
    pen = ImageDraw.Draw(tile)
    texts = textwrap.wrap(item.question, 56)[: _LINES - 3]
    lines = [item.id, describe(image), *texts, f"answer: {item.answer}"]
    for number, line in enumerate(lines):
        colour = (170, 0, 0) if number == len(lines) - 1 else (0, 0, 0)
        pen.text((0, _SIDE + 4 + number * _LINE), line[:62], fill=colour)
    return tile


def describe(image: MedicalImage) -> str:
    """One line: size, type, modality, unit, spacing."""
    rows, columns, channels = image.pixels_YXC.shape
    if image.spacing is not None:
        length = f"{image.spacing[0]:.3g} x {image.spacing[1]:.3g} mm"
    else:
        length = "mm at the detector only" if image.detector_spacing else "no mm"
    kind = f"{image.pixels_YXC.dtype.name} {'colour' if channels == 3 else 'grey'}"
    return f"{image.modality or '-'}, {rows} x {columns}, {kind}, {image.unit or 'no unit'}, {length}"
