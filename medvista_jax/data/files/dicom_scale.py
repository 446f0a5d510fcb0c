"""What DICOM's numbers mean: units, windows, padding and millimetres, a frame at a time.

Enhanced multi-frame objects keep these in functional groups, per frame or shared (PS3.3, C.7.6.16); older ones at the
top. An element that is absent or empty is unknown; nothing is assumed for it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from medvista_jax.data.files.image import Pair

SOFT_TISSUE = (-160.0, 240.0)
"""HU shown black and white in CT that brings no window: centre 40, width 400."""

_PROJECTIONS = frozenset({"CR", "DX", "MG", "RF", "XA", "RG", "PX", "IO", "DR", "XC"})
"""Modalities whose image is a shadow, larger than the patient."""

_CENTIMETRES = 3  # PS3.3, C.8.5.5.1.15
_TISSUE_2D = 1  # Region Spatial Format "2D", C.8.5.5.1.1


class View(NamedTuple):
    """A linear display window in modality units; ``falling``: larger values are shown darker."""

    low: float
    high: float
    falling: bool = False


def look_up(header: Any, frame: int, keyword: str) -> Any:
    """Value of an element for a frame (from 0): from its own functional groups, the shared ones or the top.

    None where it is nowhere or empty.
    """
    for groups, at in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        sequence = header.get(groups) or []
        if at >= len(sequence):
            continue
        for element in sequence[at]:
            if element.VR == "SQ" and not element.tag.is_private and element.value and keyword in element.value[0]:
                return _filled(element.value[0].get(keyword))
    return _filled(header.get(keyword))


def _filled(value: Any) -> Any:
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def _number(value: Any) -> float | None:
    """The first of one or several values."""
    if value is None:
        return None
    number = float(value if isinstance(value, (int, float, str)) else value[0])
    return number if math.isfinite(number) else None


def rescale(header: Any, frame: int) -> Pair:
    """Slope and intercept to physical values (C.11.1): Rescale Slope and Intercept, or Dose Grid Scaling (C.8.8.3)."""
    dose = _number(look_up(header, frame, "DoseGridScaling"))
    slope = _number(look_up(header, frame, "RescaleSlope"))
    intercept = _number(look_up(header, frame, "RescaleIntercept"))
    slope = dose if slope is None else slope
    return slope if slope else 1.0, intercept or 0.0


def unit(header: Any, frame: int) -> str:
    """What physical values are in, in the file's own term; "" where it says nothing or "US" (unspecified).

    Rescale Type or Modality LUT Type; Units of PET; Dose Units. A CT with a rescale and no Rescale Type is in HU
    (C.8.2.1: the type is required where it is anything else), but a localizer is not.
    """
    table = header.get("ModalityLUTSequence")
    stated = table[0].get("ModalityLUTType") if table else look_up(header, frame, "RescaleType")
    if stated:
        return "" if stated == "US" else str(stated)
    for keyword in ("Units", "DoseUnits"):
        if _filled(header.get(keyword)):
            return str(header.get(keyword))
    image_type = header.get("ImageType") or []
    image_type = [image_type] if isinstance(image_type, str) else image_type
    scaled = look_up(header, frame, "RescaleSlope") is not None and not table
    return "HU" if header.get("Modality") == "CT" and scaled and "LOCALIZER" not in image_type else ""


def window(header: Any, frame: int) -> View | None:
    """The first display window of a frame, or None.

    VOI LUT Function LINEAR (the default) is black up to ``c - 0.5 - (w - 1) / 2`` and white beyond
    ``c - 0.5 + (w - 1) / 2`` (C.11.2.1.2.1); LINEAR_EXACT takes ``c ± w / 2``; SIGMOID is drawn as its tangent in the
    middle, which is ``c ± w / 2`` too. A VOI LUT Sequence without a window becomes the straight line over the inputs
    on which the table changes.
    """
    centre = _number(look_up(header, frame, "WindowCenter"))
    width = _number(look_up(header, frame, "WindowWidth"))
    if centre is not None and width is not None:
        function = str(look_up(header, frame, "VOILUTFunction") or "LINEAR")
        if function == "LINEAR" and width >= 1:
            half = (width - 1) / 2
            if half == 0:  # a step; a display window needs a width
                return View(centre - 0.5, centre - 0.5 + 1 / 64)
            return View(centre - 0.5 - half, centre - 0.5 + half)
        if function != "LINEAR" and width > 0:
            return View(centre - width / 2, centre + width / 2)
    tables = look_up(header, frame, "VOILUTSequence")
    if not tables:
        return None
    return _table_window(tables[0], bool(header.get("PixelRepresentation")), header.original_encoding[1] is not False)


def _table_window(table: Any, signed: bool, little_endian: bool) -> View | None:
    descriptor, data = table.get("LUTDescriptor"), table.get("LUTData")
    if not descriptor or data is None:
        return None
    count, first = int(descriptor[0]) or 65536, int(descriptor[1])
    # The descriptor is read as unsigned where its type is ambiguous.
    first = first - 65536 if signed and first > 32767 else first
    if isinstance(data, bytes):
        words = "<u2" if little_endian else ">u2"
        data = np.frombuffer(data, words if len(data) >= 2 * count else np.uint8)
    levels = np.asarray(data, np.int64)[:count]
    if len(levels) < 2 or levels[0] == levels[-1]:
        return None
    low = first + int(np.flatnonzero(levels != levels[0])[0]) - 1
    high = first + int(np.flatnonzero(levels != levels[-1])[-1]) + 1
    return View(float(low), float(high), bool(levels[-1] < levels[0]))


def padding(header: Any, raw: np.ndarray) -> np.ndarray | None:
    """bool like ``raw``, True where Pixel Padding Value, or the range up to Pixel Padding Range Limit, stands in for
    pixels (C.7.5.1.1.2). None where the file names none.
    """
    value, limit = _filled(header.get("PixelPaddingValue")), _filled(header.get("PixelPaddingRangeLimit"))
    if value is None:
        return None
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (raw >= low) & (raw <= high)


def spacing(header: Any, frame: int) -> tuple[Pair | None, Pair | None]:
    """(row, column) millimetres in the patient, and on the detector or film; None for what is unknown.

    Cross-sections: Pixel Spacing. Ultrasound: the deltas of its calibrated 2-D regions where all agree; they hold
    inside these regions. Projections (C.10.7): Pixel Spacing is at the patient only where it was calibrated, that
    is, Pixel Spacing Calibration Type is there or it differs from Imager Pixel Spacing; alone it says nothing about
    magnification and counts as the detector's.
    """
    stated = _pair(look_up(header, frame, "PixelSpacing"))
    detector = _pair(header.get("ImagerPixelSpacing")) or _pair(header.get("NominalScannedPixelSpacing"))
    if header.get("Modality") in _PROJECTIONS:
        calibrated = _filled(header.get("PixelSpacingCalibrationType")) or (detector and detector != stated)
        return (stated, detector) if stated and calibrated else (None, detector or stated)
    return stated or _ultrasound(header), detector


def _pair(value: Any) -> Pair | None:
    if value is None or isinstance(value, (str, float, int)) or len(value) != 2:
        return None
    row, column = (float(number) for number in value)
    return (row, column) if 0 < row < math.inf and 0 < column < math.inf else None


def _ultrasound(header: Any) -> Pair | None:
    found = set()
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        if region.get("RegionSpatialFormat") != _TISSUE_2D:
            continue
        if (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")) != (_CENTIMETRES,) * 2:
            return None
        row, column = (abs(float(region.get(f"PhysicalDelta{axis}") or 0)) * 10 for axis in "YX")
        found.add(_pair((row, column)))
    return found.pop() if len(found) == 1 else None
