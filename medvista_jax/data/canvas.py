"""The canvas of the atlas: sizes, the thumbnail, boxes in 0…1000, and small marks drawn into pixels."""

from __future__ import annotations

import functools

import numpy as np

from medvista_jax.core.dimensions import FRAME

CANVAS = 256
"""Side of every image of the atlas, in pixels."""

THUMBNAIL = 64
"""Side of the thumbnail: an exact 4x linear antialiased reduction of the canvas."""

Box = tuple[int, int, int, int]


@functools.cache
def thumbnail_matrix() -> np.ndarray:
    """float64 [64, 256]: triangle kernel of half width 4 canvas pixels, rows summing to 1.

    Inside, a row holds (1, 3, 5, 7, 7, 5, 3, 1)/32 from canvas pixel 4i-2 to 4i+5; the first and the last row
    lose what falls outside and are normalised again, as ``jax.image.scale_and_translate(method="linear")``
    does.
    """
    factor = CANVAS // THUMBNAIL
    centre = (np.arange(THUMBNAIL)[:, None] + 0.5) * factor - 0.5
    weight = np.maximum(0.0, 1.0 - np.abs(np.arange(CANVAS)[None, :] - centre) / factor)
    return weight / weight.sum(axis=1, keepdims=True)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Thumbnail of ``[256, 256]`` or ``[256, 256, 1]`` stored intensities: float32 ``[64, 64]`` in stored
    units.

    With integer pixels every product and sum inside (one thumbnail pixel from the border) is a multiple of
    1/1024 and below 2**24/1024, hence exact in float32 in any order of summation.
    """
    plane = pixels[..., 0] if pixels.ndim == 3 else pixels
    matrix = thumbnail_matrix()
    return (matrix @ plane.astype(np.float64) @ matrix.T).astype(np.float32)


def display(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """8-bit display levels (uint8, same shape) of stored intensities under ``window`` = (black, white)."""
    low, high = window
    level = (pixels.astype(np.float64) - low) * (255.0 / (high - low))
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)


def to_frame(y0: int, x0: int, y1: int, x1: int) -> Box:
    """Canvas pixels (half open, may overhang the border) to a box x1, y1, x2, y2 in 0…1000, clipped."""
    scaled = [round(value * FRAME / CANVAS) for value in (x0, y0, x1, y1)]
    a, b, c, d = (min(FRAME, max(0, value)) for value in scaled)
    return a, b, c, d


GLYPHS = {
    "a": ("01110", "10001", "10001", "11111", "10001", "10001", "10001"),
    "b": ("11110", "10001", "10001", "11110", "10001", "10001", "11110"),
}
PLATE = (11, 9)
"""Height and width of a lettered plate: a 5x7 glyph with a margin of two pixels."""


@functools.cache
def plate(letter: str) -> np.ndarray:
    """uint8 [11, 9] plate. ``a`` is black on white and ``b`` white on black, so that the thumbnail can tell
    them.
    """
    glyph = np.array([[int(cell) for cell in row] for row in GLYPHS[letter]], np.uint8)
    ink = np.pad(glyph, 2)
    return np.where(ink == (letter == "b"), 255, 0).astype(np.uint8)


@functools.cache
def ring(radius: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """Mark around a place: (bright bool [17, 17], dark bool [17, 17]); the disc inside stays untouched."""
    y, x = np.mgrid[-8:9, -8:9]
    distance = np.hypot(y, x)
    bright = np.abs(distance - radius) <= 0.9
    dark = (np.abs(distance - radius) <= 2.0) & ~bright
    return bright, dark


def draw_ring(pixels: np.ndarray, concepts: np.ndarray, y: int, x: int, concept: int) -> None:
    """Burns the ring mark around (y, x), which must lie 8 pixels or more inside the canvas. In place."""
    bright, dark = ring()
    there = slice(y - 8, y + 9), slice(x - 8, x + 9)
    pixels[there][bright] = 255
    pixels[there][dark] = 0
    concepts[there][bright | dark] = concept


def draw_plate(pixels: np.ndarray, concepts: np.ndarray, y: int, x: int, letter: str, concept: int) -> None:
    """Burns a lettered plate with its upper left corner at (y, x). In place."""
    there = slice(y, y + PLATE[0]), slice(x, x + PLATE[1])
    pixels[there] = plate(letter)
    concepts[there] = concept


def draw_frame(pixels: np.ndarray, concepts: np.ndarray, box: tuple[int, int, int, int], concept: int) -> None:
    """Burns a 2-pixel frame just *outside* the half-open pixel box y0, x0, y1, x1, clipped to the canvas. In
    place.
    """
    y0, x0, y1, x1 = box
    top, left = max(0, y0 - 2), max(0, x0 - 2)
    for rows, columns in (
        (slice(top, max(0, y0)), slice(left, x1 + 2)),
        (slice(y1, y1 + 2), slice(left, x1 + 2)),
        (slice(top, y1 + 2), slice(left, max(0, x0))),
        (slice(top, y1 + 2), slice(x1, x1 + 2)),
    ):
        pixels[rows, columns] = 255
        concepts[rows, columns] = concept


def _letter_place(box: tuple[int, int, int, int], avoid: list[tuple[int, int, int, int]]) -> tuple[int, int] | None:
    """Upper left corner of a plate beside ``box`` that stays on the canvas and touches no box of
    ``avoid``.
    """
    height, width = PLATE
    y0, x0, y1, x1 = box
    middle_y, middle_x = (y0 + y1 - height) // 2, (x0 + x1 - width) // 2
    places = (
        (y0 - height - 3, middle_x),
        (y1 + 3, middle_x),
        (middle_y, x0 - width - 3),
        (middle_y, x1 + 3),
    )
    for y, x in places:
        if y < 2 or x < 2 or y + height > CANVAS - 2 or x + width > CANVAS - 2:
            continue
        if all(y + height <= b[0] or y >= b[2] or x + width <= b[1] or x >= b[3] for b in avoid):
            return y, x
    return None


def letter_places(
    boxes: list[tuple[int, int, int, int]], avoid: list[tuple[int, int, int, int]], last_first: bool
) -> list[tuple[int, int]] | None:
    """Corners of the plates of two boxes, in their order, or None where one does not fit.

    The plate that is placed second has to dodge the first. ``last_first`` must come from a coin, or the place
    of a plate would tell which box the caller knows to be the larger or brighter one.
    """
    order = (1, 0) if last_first else (0, 1)
    first = _letter_place(boxes[order[0]], avoid)
    if first is None:
        return None
    taken = (first[0], first[1], first[0] + PLATE[0], first[1] + PLATE[1])
    second = _letter_place(boxes[order[1]], [*avoid, taken])
    if second is None:
        return None
    return [second, first] if last_first else [first, second]
