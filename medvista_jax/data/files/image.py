"""One image as it comes out of a file: stored intensities, how to show them, and what they mean."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

PIXEL_LIMIT = 2**26
"""Most pixels of one image (8192 x 8192). A file that claims more is refused before it is decoded."""

CALL_LIMIT = 2**28
"""Most pixels that one call loads, all frames or slices together."""

_LONGEST = 600  # characters of a message

Pair = tuple[float, float]


class BadFile(ValueError):
    """A file that cannot be used. The message is one line: which file, what is wrong, how to mend it."""

    def __init__(self, message: str) -> None:
        # Names and values out of a damaged file may hold anything, and be long.
        line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…")


@contextlib.contextmanager
def one_error(name: str, kind: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a BadFile, with the decoder's own exception as its cause.

    The decoders name no set of exceptions: on damaged files pydicom alone raises a dozen kinds, by what is damaged.
    """
    try:
        yield
    except BadFile:
        raise
    except Exception as error:
        text = str(error) or type(error).__name__
        raise BadFile(f"{name}: the {kind} is damaged or cut short: {text}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class MedicalImage:
    """One frame, slice or picture.

    Larger stored values are brighter. A file in which they are darker (MONOCHROME1) is turned over,
    ``stored = top - value``, and the sign of the slope with it, so that physical values stay true.

    Attributes:
      pixels_YXC: uint8 or uint16, C is 1 (grey) or 3 (red, green, blue). The file's own integers, moved where
        they would be negative.
      window: (black, white) in stored units, black below white; applied linearly.
      rescale: (slope, intercept): ``physical = stored * slope + intercept``, see :meth:`physical`. (1, 0) where the
        file has no scale.
      unit: of the physical values: "HU", or the term that the file uses ("BQML", "GY"); "" where it has none.
      spacing: (row, column) millimetres between neighbouring pixels *in the patient*, or None where the file does
        not tell. Never from a picture's dots per inch.
      detector_spacing: the same on the detector or the scanned film. Projections are magnified by an unknown
        factor, so this is no measure in the patient and ``spacing`` stays None.
      modality: DICOM's code ("CT", "MR", "DX" …), "" for other files.
      name: file name, and behind ``#`` the frame or slice where there are several, counted from 0.
      exact: False where the file's numbers had to be rounded to 16 bits (floats, wide integers).
    """

    pixels_YXC: np.ndarray
    window: Pair
    rescale: Pair = (1.0, 0.0)
    unit: str = ""
    spacing: Pair | None = None
    detector_spacing: Pair | None = None
    modality: str = ""
    name: str = ""
    exact: bool = True

    def physical(self) -> np.ndarray:
        """float64 ``[Y, X, C]`` in ``unit``. Exact to the last bit where slope and intercept are whole numbers."""
        slope, intercept = self.rescale
        return self.pixels_YXC * slope + intercept


def check_size(name: str, height: int, width: int, count: int = 1) -> None:
    """Refuses what would not fit in memory.

    Raises:
      BadFile: more than ``PIXEL_LIMIT`` pixels an image or ``CALL_LIMIT`` together, or none at all.
    """
    if min(height, width) < 1:
        raise BadFile(f"{name}: an image of {height} x {width} pixels has nothing to show")
    if height * width > PIXEL_LIMIT:
        raise BadFile(f"{name}: {height} x {width} pixels are more than the {PIXEL_LIMIT:,} that are read; reduce it")
    if height * width * count > CALL_LIMIT:
        raise BadFile(
            f"{name}: {count} images of {height} x {width} pixels are more than the {CALL_LIMIT:,} pixels that one "
            "call reads; choose fewer frames or slices"
        )


def to_stored(name: str, values: np.ndarray) -> tuple[np.ndarray, Pair, bool]:
    """Any real numbers as unsigned integers of at most 16 bits.

    Whole numbers that span at most 65,535 keep their steps. Negative ones are moved up by the smallest multiple of 1024
    that is enough (int8: by 128), so that the slices of a CT series agree in most cases, as HU + 1024; integers past
    65,535 are moved down by the lowest. Other numbers are rounded to 65,536 levels between the lowest and the
    highest. What is not finite becomes the lowest.

    Args:
      name: for the message.
      values: any shape; all that shall share one scale.

    Returns:
      uint8 (where ``values`` is 8-bit) or uint16 array of the same shape; (step, offset) with
      ``value = stored * step + offset``; whether that holds exactly.

    Raises:
      BadFile: complex numbers, or no finite number at all.
    """
    if values.dtype.kind not in "buif":
        raise BadFile(f"{name}: pixels of type {values.dtype} are neither integers nor real numbers")
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype == np.uint8:
        return values, (1.0, 0.0), True
    finite = np.isfinite(values)
    if not finite.any():
        raise BadFile(f"{name}: the image holds no finite number")
    exact = bool(finite.all())
    if not exact:
        values = np.where(finite, values, values[finite].min())
    low, high = values.min(), values.max()
    # Python's numbers: the span of an int64 need not fit in an int64.
    low, high = (int(low), int(high)) if values.dtype.kind in "ui" else (float(low), float(high))
    whole = values.dtype.kind in "ui" or (abs(low) < 2**31 and not np.any(np.mod(values, 1)))
    if whole and high - low <= 65535:
        shift = 128 if values.dtype == np.int8 else _shift(int(low), int(high))
        kind = np.uint8 if values.dtype == np.int8 else np.uint16
        wide = np.float64 if values.dtype.kind == "f" else values.dtype if shift == 0 else np.int64
        moved = values.astype(wide) + wide(shift) if shift else values
        return moved.astype(kind), (1.0, -float(shift)), exact
    # Halves, since the span of large numbers is more than float64 holds; a flat image has no span at all.
    step = (high / 2 - low / 2) / 65535 * 2 or 1.0
    levels = np.rint((values.astype(np.float64) / 2 - low / 2) / (step / 2))
    return np.clip(levels, 0, 65535).astype(np.uint16), (step, float(low)), exact and high == low


def _shift(low: int, high: int) -> int:
    shift = -(low // 1024) * 1024 if low < 0 else 0
    return shift if high + shift <= 65535 else -low


def compose(inner: Pair, outer: Pair) -> Pair:
    """Slope and intercept of ``outer(inner(x))``."""
    return inner[0] * outer[0], inner[1] * outer[0] + outer[1]


def turn_over(pixels: np.ndarray, rescale: Pair, bits: int) -> tuple[np.ndarray, Pair]:
    """``top - pixels`` with ``top = 2**bits - 1`` (more bits where the pixels need them), and the scale that goes with
    it.
    """
    top = (1 << max(bits, int(pixels.max()).bit_length())) - 1
    return (top - pixels.astype(np.int64)).astype(pixels.dtype), compose((-1.0, float(top)), rescale)


def stored_window(low: float, high: float, rescale: Pair) -> Pair | None:
    """A window of physical values in stored units, the lower bound first; None where no such numbers exist."""
    slope, intercept = rescale
    black, white = sorted(((low - intercept) / slope, (high - intercept) / slope))
    return (black, white) if np.isfinite((black, white)).all() and black < white else None


def percentile_window(pixels: np.ndarray, padding: np.ndarray | None = None) -> Pair:
    """The default of images wider than 8 bits: the 0.5th and the 99.5th percentile of what is no padding.

    Where the two agree (a mask, a sparse map) the lowest and the highest value, and a width of 1 in a flat image.
    """
    used = pixels if padding is None or padding.all() else pixels[~padding]
    low, high = (float(value) for value in np.percentile(used, (0.5, 99.5)))
    if low == high:
        low, high = float(used.min()), float(used.max())
    return low, high if high > low else low + 1.0
