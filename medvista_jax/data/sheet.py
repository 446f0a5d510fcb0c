"""A contact sheet: for every family some items as display, thumbnail and first target, with question and
answer.
"""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageDraw

from medvista_jax.data.canvas import CANVAS, display, thumbnail
from medvista_jax.data.families import FAMILIES
from medvista_jax.data.item import AtlasItem

_PAD, _TEXT = 8, 66


def _tile(item: AtlasItem) -> Image.Image:
    """Canvas with target boxes (left), thumbnail enlarged (middle), 64 px around the first target (right)."""
    shown = display(item.pixels[:, :, 0], item.window)
    small = np.clip(np.rint(thumbnail(shown)), 0, 255).astype(np.uint8)
    good = display(item.pixels[:, :, 0], item.good_window or item.window)
    side = CANVAS // 2
    tile = Image.new("RGB", (CANVAS + 2 * side + 2 * _PAD, CANVAS + _TEXT), "white")
    full = Image.fromarray(shown).convert("RGB")
    pen = ImageDraw.Draw(full)
    for box in item.targets:
        pen.rectangle([value * CANVAS / 1000 for value in box], outline=(255, 160, 0))
    tile.paste(full, (0, _TEXT))
    left = CANVAS + _PAD
    tile.paste(Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST), (left, _TEXT))
    if item.good_window:
        tile.paste(Image.fromarray(good).resize((side, side)), (left, _TEXT + side))
    for row, box in enumerate(item.targets[:2]):
        x, y = ((box[i] + box[i + 2]) * CANVAS // 2000 for i in (0, 1))
        x, y = (min(CANVAS - 64, max(0, value - 32)) for value in (x, y))
        crop = Image.fromarray(good[y : y + 64, x : x + 64]).resize((side, side), Image.Resampling.NEAREST)
        tile.paste(crop, (left + side + _PAD, _TEXT + row * side))
    pen = ImageDraw.Draw(tile)
    lines = [
        f"{item.id}  [{item.needs}]  {item.source}",
        *textwrap.wrap(item.question, 80),
        f"answer: {item.answer}",
    ]
    for row, line in enumerate(lines):
        pen.text((2, 2 + 15 * row), line, fill=(170, 0, 0) if line.startswith("answer") else (0, 0, 0))
    return tile


def draw_sheet(atlas, rows: int = 4) -> Image.Image:
    """RGB picture: a row for each family of ``atlas`` (an ``Atlas``), ``rows`` items side by side."""
    tiles = [[_tile(atlas.item(name, index)) for index in range(rows)] for name in atlas.families]
    width, height = tiles[0][0].size
    sheet = Image.new("RGB", (rows * (width + 16), len(tiles) * (height + 34)), (225, 225, 225))
    pen = ImageDraw.Draw(sheet)
    for row, (name, line) in enumerate(zip(atlas.families, tiles, strict=True)):
        pen.text((4, row * (height + 34) + 8), f"{name}: {FAMILIES[name].description}", fill=(0, 0, 120))
        for column, tile in enumerate(line):
            sheet.paste(tile, (column * (width + 16), row * (height + 34) + 28))
    return sheet
