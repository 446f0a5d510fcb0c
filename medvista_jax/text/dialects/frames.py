"""Numbers between frames: pixels or parts of one, and our integers 0…1000.

Exact rational arithmetic throughout. A coordinate of ours that is written as the nearest whole pixel of a side of n
pixels and read back is off by at most ``floor(500/n + 1/2)``: by nothing from 1000 pixels on, where half a pixel is
at most half of one of our steps (of exactly 1000, pixels are our steps), by 1 from 334 pixels on. Parts of one are
written as decimal fractions and come back as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.types import Fault
from medvista_jax.text.dialects.base import Context, Picture
from medvista_jax.text.dialects.canonical import Refused

Box = tuple[Fraction, Fraction, Fraction, Fraction]
_BEYOND = Fraction(10) ** 30  # stands for an infinite float such as 1e999


def is_number(value: Any) -> bool:
    """A JSON number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def exact(value: float) -> Fraction:
    """The number as a fraction; what is infinite becomes very large."""
    if isinstance(value, float) and math.isinf(value):
        return _BEYOND if value > 0 else -_BEYOND
    return Fraction(value)


def numbers(value: Any, count: int = 4) -> Box:
    """The numbers of a JSON array as fractions.

    Raises:
      Refused: WRONG_TYPE unless it is an array of exactly ``count`` numbers.
    """
    if not isinstance(value, list) or len(value) != count or not all(map(is_number, value)):
        raise Refused(Fault.WRONG_TYPE, f"an array of {count} numbers is wanted, not {str(value)[:80]}", value)
    return tuple(map(exact, value))


def whole(value: Any, notes: list[str]) -> int:
    """An integer, also as a float of integral value.

    Raises:
      Refused: WRONG_TYPE for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        notes.append(f"the image index {value} is read as {int(value)}")
        return int(value)
    raise Refused(Fault.WRONG_TYPE, f"an image index is an integer, not {str(value)[:80]}", value)


def existing(index: int, context: Context, said: Any) -> int:
    """The index, if there is an image of that index.

    Raises:
      Refused: NO_SUCH_IMAGE, which the gym calls OUT_OF_RANGE below 0; ``said`` is how the turn named it.
    """
    if not context.has(index):
        raise Refused(Fault.NO_SUCH_IMAGE, f"image {said} does not exist", index)
    return index


def nearest(value: Fraction) -> int:
    """The nearest integer; halves go up."""
    return math.floor(value + Fraction(1, 2))


def clamp(box: Box, size: tuple[float, float], notes: list[str]) -> Box:
    """The box inside 0…size, with a note where that changed it."""
    limits = (size[0], size[1], size[0], size[1])
    inside = tuple(min(max(value, Fraction(0)), Fraction(limit)) for value, limit in zip(box, limits, strict=True))
    if inside != tuple(box):
        notes.append("the box reaches beyond the image and is cut at its border, as upstream does")
    return inside


def to_frame(box: Sequence[Fraction], size: tuple[float, float], notes: list[str]) -> tuple[int, int, int, int]:
    """A box in a frame of ``size`` as our integers. A box with an area keeps one."""
    scaled = [value * FRAME / Fraction(size[at % 2]) for at, value in enumerate(box)]
    placed = [nearest(value) for value in scaled]
    for low, high in ((0, 2), (1, 3)):
        if scaled[low] < scaled[high] and placed[low] == placed[high]:
            if placed[high] < FRAME:
                placed[high] += 1
            else:
                placed[low] -= 1
            notes.append("the box is thinner than 1/1000 of the image: widened to it")
    return tuple(placed)


def to_pixels(box: Sequence[float], size: tuple[int, int]) -> list[int]:
    """Our box as the nearest whole pixels."""
    return [nearest(exact(value) * size[at % 2] / FRAME) for at, value in enumerate(box)]


def in_original(box: Sequence[int], index: int, context: Context) -> tuple[Box, int] | None:
    """The box in thousandths of the original that the image was cut from, and that original's index.

    None where the place of an image in its source is not known.
    """
    placed, steps = tuple(map(exact, box)), 0
    while index >= context.originals:
        picture: Picture = context.images[index]
        if picture.source is None or not context.has(picture.source) or steps > len(context.images):
            return None
        x1, y1, x2, y2 = map(exact, picture.box)
        width, height = (x2 - x1) / FRAME, (y2 - y1) / FRAME
        placed = (x1 + placed[0] * width, y1 + placed[1] * height, x1 + placed[2] * width, y1 + placed[3] * height)
        index, steps = picture.source, steps + 1
    return placed, index
