"""PNG, JPEG, TIFF, BMP, GIF, WebP, PNM, JPEG 2000 and AVIF, by Pillow."""

from __future__ import annotations

import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medvista_jax.data.files.choose import Frames, pick
from medvista_jax.data.files.image import BadFile, MedicalImage, check_size, one_error, percentile_window, to_stored

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""What is read. Pillow's other formats are vector graphics, icons or need programs outside of Python."""

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # of TIFF 6.0, section 8


def read_picture(file: BinaryIO, name: str, frames: Frames = None) -> tuple[MedicalImage, ...] | None:
    """The pages of a picture, the first by default. None where it is no picture.

    =======================  ================================================================
    bilevel                  grey, 0 and 255
    8 and 16 bits, grey      as stored
    palette                  grey where every used colour is, else colour
    alpha                    laid on white, as :mod:`medvista_jax.models.preprocess` does
    CMYK, YCbCr, LAB, HSV    Pillow's conversion to RGB
    colour of 16 bits        its upper 8 bits (Pillow decodes no more); ``exact`` is False
    32 bits, float           see ``image.to_stored``
    =======================  ================================================================

    EXIF orientation is applied. Colour in which all three channels are equal everywhere is grey. Window: 0…255 for 8
    bits, else percentiles over the pages loaded. Pictures have no unit and no spacing: dots per inch are a wish
    of whoever saved them.

    Raises:
      BadFile: damaged, too large, or an unknown page.
    """
    with warnings.catch_warnings(), one_error(name, "picture"):
        # Pillow warns of large pictures, which ``check_size`` refuses, and of odd metadata, which is not read.
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            return None
        except Image.DecompressionBombError as error:
            raise BadFile(f"{name}: {error}") from None
        with picture:
            return _read_pages(picture, name, frames)


def _read_pages(picture: Image.Image, name: str, frames: Frames) -> tuple[MedicalImage, ...]:
    count = getattr(picture, "n_frames", 1)
    chosen = pick(frames, count, name, default=0)
    pages, exact = [], True
    for index in chosen:
        if count > 1:
            picture.seek(index)
        check_size(name, picture.height, picture.width, len(chosen))
        page, whole = _decode(picture)
        pages.append(page)
        exact &= whole
    if all(page.dtype == np.uint8 for page in pages):
        stored, rescale, window = pages, (1.0, 0.0), (0.0, 255.0)
    else:
        flat, rescale, lossless = to_stored(name, np.concatenate([page.ravel() for page in pages]))
        parts = np.split(flat, np.cumsum([page.size for page in pages])[:-1])
        stored = [part.reshape(page.shape) for part, page in zip(parts, pages, strict=True)]
        window, exact = percentile_window(flat), exact and lossless
    short = name.rsplit("/", 1)[-1]
    return tuple(
        MedicalImage(page, window, rescale, name=f"{short}#{index}" if count > 1 else short, exact=exact)
        for index, page in zip(chosen, stored, strict=True)
    )


def _decode(picture: Image.Image) -> tuple[np.ndarray, bool]:
    """Pixels ``[Y, X, C]`` of the current page, and whether they are all that the file holds."""
    # Pillow's raw modes of 16-bit colour end in ";16B" and the like; the mode itself is an 8-bit one.
    deep = any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()) or ())
    inverted = getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    page = ImageOps.exif_transpose(picture)
    if page.mode == "F" or page.mode.startswith("I"):
        pixels = np.asarray(page)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        # Pillow turns 8-bit pages over itself.
        if inverted and page.mode.startswith("I;16"):
            pixels = 65535 - pixels
        return pixels[..., None], True
    if "A" in page.getbands() or page.info.get("transparency") is not None:
        white = Image.new("RGBA", page.size, (255, 255, 255, 255))
        page = Image.alpha_composite(white, page.convert("RGBA")).convert("RGB")
    elif page.mode in ("1", "L"):
        return np.array(page.convert("L"))[..., None], True
    pixels = np.array(page.convert("RGB"))
    grey = (pixels == pixels[..., :1]).all()
    return (pixels[..., :1].copy() if grey else pixels), not deep
