"""DICOM images, by pydicom: PS3.3 of the standard says what the numbers in a file mean."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from medvista_jax.data.files import dicom_scale
from medvista_jax.data.files.choose import Frames, pick
from medvista_jax.data.files.image import (
    BadFile,
    MedicalImage,
    check_size,
    compose,
    one_error,
    percentile_window,
    stored_window,
    to_stored,
    turn_over,
)

_PLUGINS = (
    ("JPEG-LS", "pyjpegls"),
    ("JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    ("JPEG", "pylibjpeg pylibjpeg-libjpeg"),
)
"""Beginning of a transfer syntax's name, and what to install for it. The first that fits counts."""


def is_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are of DICOM, with its preamble or without: then the first element's group is
    2 or 8, in either byte order.
    """
    return head[128:132] == b"DICM" or (
        head[:2] in (b"\x02\x00", b"\x08\x00") or (head[:2] in (b"\x00\x02", b"\x00\x08") and head[4:6].isalpha())
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Turns pydicom's remarks about imperfect files off."""
    logger = logging.getLogger("pydicom")
    was, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was


def read_dicom(file: BinaryIO, name: str, frames: Frames = None) -> tuple[MedicalImage, ...]:
    """Frames of a DICOM image, the middle one by default.

    ``pixels_YXC`` are the stored values of PS3.5 (section 8.1.1), bits beyond Bits Stored cleared, or what a Modality
    LUT makes of them; colour (RGB, YBR, palette) is RGB. MONOCHROME1 is turned over, and so is a negative slope. The
    window is the first of the file's (Window Center and Width, else a VOI LUT's input range), else all values for
    images of 8 bits and less, -160…240 HU for CT in HU (soft tissue), and the percentiles of what is no padding, over
    the frames loaded, for others. See :mod:`medvista_jax.data.files.dicom_scale` for units and spacing.

    The file is held in memory while it is read; of its frames only those asked for are decoded.

    Raises:
      BadFile: damaged, without pixels, compressed in a way that needs another package (which the message names), or
        without the frame.
    """
    import pydicom

    with _quietly(), one_error(name, "DICOM file"):
        header = pydicom.dcmread(file, force=True)
        _check(header, name)
        count = int(header.get("NumberOfFrames") or 1)
        chosen = pick(frames, count, name, default=count // 2)
        check_size(name, int(header.Rows), int(header.Columns), len(chosen))
        pages = [_decode(header, index, name) for index in chosen]
        short = name.rsplit("/", 1)[-1]
        names = [f"{short}#{index}" if count > 1 else short for index in chosen]
        if pages[0].ndim == 3:
            return tuple(map(_colour, pages, [header] * len(pages), chosen, names))
        return _grey(header, np.stack(pages), chosen, names, name)


def _check(header: Any, name: str) -> None:
    if not any(keyword in header for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        if "SOPClassUID" not in header and "MediaStorageSOPClassUID" not in header.file_meta:
            raise BadFile(f"{name}: the DICOM file is damaged or cut short: it holds no pixel data and names no class")
        kind = header.get("SOPClassUID") or header.file_meta.MediaStorageSOPClassUID
        raise BadFile(f"{name}: a DICOM file without pixels ({kind.name[:80]}); name an image")
    for keyword in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation", "SamplesPerPixel"):
        if header.get(keyword) in (None, ""):
            raise BadFile(f"{name}: the DICOM file is damaged: {keyword} is missing")
    if header.SamplesPerPixel not in (1, 3):
        raise BadFile(
            f"{name}: {header.SamplesPerPixel} samples a pixel ({header.PhotometricInterpretation}); 1 or 3 are read"
        )
    if "TransferSyntaxUID" not in header.file_meta:
        # Written without its header: pixels that could be read as elements are uncompressed.
        from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

        little = header.original_encoding[1]
        header.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian


def _decode(header: Any, index: int, name: str) -> np.ndarray:
    """``[Y, X]`` as stored, or ``[Y, X, 3]`` RGB; native byte order."""
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array

    syntax = header.file_meta.TransferSyntaxUID
    try:
        missing = syntax.is_encapsulated and not get_decoder(syntax).is_available
        # pydicom's correction takes High Bit for granted; ``_used_bits`` reads it.
        options = {} if syntax.is_encapsulated else {"correct_unused_bits": False}
        pixels = None if missing else pixel_array(header, index=index, **options)
    except RuntimeError as error:
        raise BadFile(f"{name}: compressed as {syntax.name}: {_reason(error)}. {_remedy(syntax)}") from None
    except NotImplementedError:
        raise BadFile(f"{name}: compressed as {syntax.name}, which pydicom does not decode; convert it") from None
    if pixels is None:
        raise BadFile(f"{name}: compressed as {syntax.name}, which no installed package decodes. {_remedy(syntax)}")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.dtype.kind in "ui" and not syntax.is_encapsulated:
        pixels = _used_bits(pixels, header)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))[..., :3]
    return pixels


def _reason(error: RuntimeError) -> str:
    """The plugins' own words without pydicom's introduction."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[1:] or lines).rstrip(".")


def _remedy(syntax: Any) -> str:
    for beginning, packages in _PLUGINS:
        if beginning in syntax.name:
            return f"If the file is sound, this helps: python -m pip install {packages}"
    return "Convert the file to Explicit VR Little Endian"


def _used_bits(pixels: np.ndarray, header: Any) -> np.ndarray:
    """Bits Stored of them, up to High Bit; the rest may hold overlays (PS3.5, 8.1.1). The sign is extended."""
    allocated = 8 * pixels.itemsize
    bits = int(header.get("BitsStored") or allocated)
    high = int(header.get("HighBit", bits - 1))
    if bits >= allocated or not bits - 1 <= high < allocated or int(header.BitsAllocated) != allocated:
        return pixels
    # To the top and back: an arithmetic shift of signed integers brings the sign.
    return (pixels << (allocated - 1 - high)) >> (allocated - bits)


def _colour(pixels_YXC: np.ndarray, header: Any, frame: int, name: str) -> MedicalImage:
    bits = 8 * pixels_YXC.itemsize
    if header.PhotometricInterpretation != "PALETTE COLOR":
        bits = min(bits, int(header.get("BitsStored") or bits))
    exact = bits <= 16
    if not exact:
        pixels_YXC, bits = (pixels_YXC >> (bits - 16)).astype(np.uint16), 16
    at_patient, at_detector = dicom_scale.spacing(header, frame)
    return MedicalImage(
        pixels_YXC,
        (0.0, float((1 << bits) - 1)),
        spacing=at_patient,
        detector_spacing=at_detector,
        modality=str(header.get("Modality") or ""),
        name=name,
        exact=exact,
    )


def _grey(header: Any, raw_NYX: np.ndarray, frames: list[int], names: list[str], name: str) -> tuple[MedicalImage, ...]:
    from pydicom.pixels import apply_modality_lut

    padding_NYX = dicom_scale.padding(header, raw_NYX)
    has_table = bool(header.get("ModalityLUTSequence"))
    values_NYX = apply_modality_lut(raw_NYX, header) if has_table else raw_NYX
    stored_NYX, steps, exact = to_stored(name, values_NYX)
    # Of a table's output, of rounded numbers and of int8 moved up by 128, all bits of the type are used.
    bits = 8 * stored_NYX.itemsize
    if exact and not has_table and raw_NYX.dtype != np.int8:
        bits = min(bits, int(header.get("BitsStored") or bits))
    # Signed numbers of few bits in sixteen have been moved by 1024, which no full range describes.
    full = bits <= 8 and not has_table and (stored_NYX.dtype == np.uint8 or steps == (1.0, 0.0))
    # Percentiles are taken over all frames, so that a series does not flicker.
    shared: dict[bool, tuple[float, float]] = {}
    images = []
    for place, frame in enumerate(frames):
        scale = (1.0, 0.0) if has_table else dicom_scale.rescale(header, frame)
        unit = dicom_scale.unit(header, frame)
        view = dicom_scale.window(header, frame)
        inverted = header.PhotometricInterpretation == "MONOCHROME1"
        rescale, stored = compose(steps, scale), stored_NYX[place]
        turned = (rescale[0] < 0) != (inverted != (view is not None and view.falling))
        if turned:
            stored, rescale = turn_over(stored, rescale, bits)
        shown = None if view is None else stored_window(view.low, view.high, rescale)
        if shown is None and full:
            shown = (0.0, float((1 << bits) - 1))
        if shown is None and unit == "HU":
            shown = stored_window(*dicom_scale.SOFT_TISSUE, rescale)
        if shown is None:
            if turned not in shared:
                every = turn_over(stored_NYX, rescale, bits)[0] if turned else stored_NYX
                shared[turned] = percentile_window(every, padding_NYX)
            shown = shared[turned]
        at_patient, at_detector = dicom_scale.spacing(header, frame)
        images.append(
            MedicalImage(
                np.ascontiguousarray(stored)[..., None],
                shown,
                rescale,
                unit,
                at_patient,
                at_detector,
                str(header.get("Modality") or ""),
                names[place],
                exact,
            )
        )
    return tuple(images)
