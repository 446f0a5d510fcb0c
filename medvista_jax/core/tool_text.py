"""Number slots in what a tool says: their syntax, and the host's way of filling them in.

``{image}`` is the index of the returned image, ``{2}`` number 2 with up to five digits, ``{2:7.1}`` number 2 with up to
seven digits and one decimal, ``{2:7.1u}`` the same of a number that is never negative: it has no sign and takes one
token less. :func:`medvista_jax.text.chat.render` fills the same slots in on the device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IMAGE_TEXT = "image {image}"
"""What a tool says that only returns an image: its index."""

NUMBER_DIGITS = 5
"""Digits before the point that a slot holds where it does not say otherwise."""

MOST_DIGITS = 9
"""Of a slot, behind the point too: as many as int32 holds."""

NUMBERS = 20
"""Numbers that a tool can say at once."""

SLOT = re.compile(r"\{(?:(image)|(\d+)(?::(\d*)(?:\.(\d+))?(u)?)?)\}")


class Slot(NamedTuple):
    """A slot: number -1 is the image's index; digits before and behind the point; whether there is room for a sign."""

    number: int
    before: int
    behind: int
    signed: bool

    @property
    def most(self) -> int:
        """Largest magnitude, in units of the last digit."""
        return 10 ** (self.before + self.behind) - 1


def read_slot(found: re.Match[str]) -> Slot:
    """A match of :data:`SLOT` as numbers.

    Raises:
      ValueError: no digit before the point, or more digits than int32 holds.
    """
    name, number, before, behind, unsigned = found.groups()
    if name:
        return Slot(-1, 2, 0, False)
    slot = Slot(int(number), int(before or NUMBER_DIGITS), int(behind or 0), not unsigned)
    if slot.before < 1 or slot.before + slot.behind > MOST_DIGITS:
        raise ValueError(f"{found[0]}: a number has a digit before its point and at most {MOST_DIGITS} digits")
    return slot


def check_text(text: str, numbers: int) -> None:
    """Raises ValueError where a brace belongs to no slot, or a slot asks for a number beyond ``numbers``."""
    if set("{}") & set(SLOT.sub("", text)):
        raise ValueError(f"{text!r}: a brace that belongs to no {{image}}, {{0}}, {{0:7.2}} or {{0:7.2u}}")
    for slot in map(read_slot, SLOT.finditer(text)):
        if slot.number >= numbers:
            raise ValueError(f"{text!r}: there are numbers 0 to {numbers - 1}, not {slot.number}")


def write_text(text: str, image: int, numbers: Sequence[float] | np.ndarray) -> str:
    """The text with its slots filled in, digit for digit as on the device: float32, halves to even, clipped.

    Where a slot has no sign, what is below 0 becomes 0.
    """

    def fill(found: re.Match[str]) -> str:
        slot = read_slot(found)
        if slot.number < 0:
            return str(image)
        scaled = np.round(np.nan_to_num(np.float32(numbers[slot.number])) * np.float32(10**slot.behind))
        scaled = scaled if slot.signed else max(scaled, np.float32(0))
        size = slot.most if abs(scaled) >= np.float32(slot.most) else int(abs(scaled))
        digits = str(size).rjust(slot.behind + 1, "0")
        whole, rest = (digits[: -slot.behind], "." + digits[-slot.behind :]) if slot.behind else (digits, "")
        return ("-" if scaled < 0 and size else "") + whole + rest

    return SLOT.sub(fill, text)
