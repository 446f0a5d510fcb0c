"""Images on their way through JSON, and as they are displayed."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image, ImageOps


def png_base64(image: np.ndarray) -> str:
    """uint8 [Y, X, 3] or [Y, X], or uint16 [Y, X], as a PNG in base64; lossless."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def decode_image(text: str, most_pixels: int) -> np.ndarray:
    """A PNG or JPEG in base64, or such a data URL: uint8 or uint16 [Y, X], or uint8 [Y, X, 3].

    Grey stays grey, 16 bits stay 16; transparency and palettes become RGB; a JPEG's orientation tag is obeyed.

    Args:
      text: the image.
      most_pixels: refused before it is decoded when it has more.

    Raises:
      ValueError: saying what is wrong.
    """
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data URL must be base64")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    try:
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > most_pixels:
                raise _TooLarge(f"{image.width} by {image.height} pixels; {most_pixels} are allowed")
            return _pixels(image)
    except _TooLarge:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files, SyntaxError and struct.error among them
        raise ValueError(f"not a readable PNG or JPEG ({type(error).__name__})") from None


class _TooLarge(ValueError):
    pass


def _pixels(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB"))


def default_window(image: np.ndarray) -> tuple[float, float]:
    """Stored values shown black and white: 0 and 255 of 8-bit pixels, the lowest and the highest of 16-bit ones."""
    if image.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(image.min()), float(image.max())
    return low, max(high, low + 1.0)


def displayed(image: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 [Y, X, 3] of stored pixels, uint8 or uint16, [Y, X] or [Y, X, 3].

    Args:
      image: stored pixels.
      window: stored values shown black and white; by default :func:`default_window`.
    """
    low, high = default_window(image) if window is None else window
    if image.dtype != np.uint8 or (low, high) != (0.0, 255.0):
        shown = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0.0, 1.0)
        image = np.rint(shown * 255.0).astype(np.uint8)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
