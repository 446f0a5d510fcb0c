"""Which frames or slices of a file are meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from medvista_jax.data.files.image import BadFile

Frames = int | str | Sequence[int] | None
PLANES = ("sagittal", "coronal", "axial")
"""A plane's place here is the world axis (right, anterior, superior) that it stands across."""


def pick(which: Frames, count: int, name: str, default: int, what: str = "frame") -> Sequence[int]:
    """Indices in 0…count-1; a range for "all", since a damaged file may claim any count.

    Args:
      which: an index (from the end where negative), a sequence of them, the same as text ("3", "0,4,8"), a fraction of
        the way as text ("0.25"), "middle", "all"; None for ``default``.
      what: for the message.

    Raises:
      BadFile: none of these, or an index that is not there.
    """
    if which is None:
        which = default
    if isinstance(which, str) and which.strip() == "all" and count > 0:
        return range(count)
    if isinstance(which, str):
        which = _from_text(which.strip(), count, name, what)
    chosen = list(which) if isinstance(which, Sequence) else [which]
    if not chosen or not all(isinstance(index, int) and not isinstance(index, bool) for index in chosen):
        raise BadFile(f'{name}: {what} {which!r} is none of: an index, several indices, a fraction, "middle", "all"')
    for index in chosen:
        if not -count <= index < count:
            raise BadFile(f"{name}: there is no {what} {index}; it has {count}, counted from 0")
    return [index % count for index in chosen]


def _from_text(text: str, count: int, name: str, what: str) -> list[int]:
    if text == "middle":
        return [count // 2]
    try:
        if "." in text and 0.0 <= float(text) <= 1.0:
            return [min(count - 1, int(float(text) * count))]
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadFile(
            f'{name}: {what} {text!r} is none of: an index, indices with commas, a fraction such as 0.5, "middle", '
            '"all"'
        ) from None


@dataclasses.dataclass(frozen=True)
class Slices:
    """Slices of a volume.

    Attributes:
      plane: "axial", "coronal" or "sagittal".
      where: see :func:`pick`; counted from the patient's left, back or feet.
    """

    plane: str = "axial"
    where: Frames = None


def parse_slices(text: str | Slices, name: str) -> Slices:
    """``"axial"``, ``"coronal:40"``, ``"sagittal:0.25"``, ``"axial:10,20,30"``, ``"axial:all"``.

    Raises:
      BadFile: an unknown plane.
    """
    if isinstance(text, str):
        plane, _, where = text.partition(":")
        text = Slices(plane.strip().lower(), where or None)
    if text.plane not in PLANES:
        raise BadFile(f'{name}: plane {text.plane!r} is none of {", ".join(PLANES)}; write for instance "axial:0.5"')
    return text
