"""What can truly be said of an atlas item: captions, questions, and a word for each place; for aligning a connector.

Everything comes from the item itself: its modality, the plane of a brain slice, the dense label map (structures,
marker) and where an implanted target lies. Implanted targets are called implanted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.data.concepts import CONCEPT, CONCEPTS, STRUCTURES, structure_ids
from medvista_jax.data.families.anatomy import MODALITIES, VISIBLE_PIXELS, spoken
from medvista_jax.data.item import AtlasItem, Box
from medvista_jax.data.splits import PLANES

CAPTION_PROMPT = "Describe the image."
NAMED = 3
"""Most structures that a caption names, largest first."""

MIDDLE = 0.05
"""Half width of the strip around the vertical midline, as a share of the image, where a thing has no side."""

WORDS = ("", *PLANES, "left", "right", "target", *STRUCTURES, *MODALITIES)
"""What :func:`words_in_place` may say of a place; the first: nothing."""

_MARKER_PIXELS = 25  # of the 130 or so of a ring
_IMPLANTS = [index for index, name in enumerate(CONCEPTS) if name.startswith("implanted")]
_STRUCTURE = {index: name for name in STRUCTURES for index in structure_ids(name)}

_KINDS = {
    "mr": "MR image",
    "ct": "CT image",
    "film": "X-ray film",
    "fundus": "fundus photograph",
    "histology": "histology section",
    "fluorescence": "fluorescence micrograph",
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of an item; ``None`` or empty where there is nothing to say.

    Attributes:
      modality: word of the ``modality`` family.
      plane: of a brain slice.
      marker, target: side of the image, "left" or "right", of the ring marker and of an implanted target.
      structures: brain structures in the slice, largest first.
    """

    modality: str
    plane: str | None = None
    marker: str | None = None
    target: str | None = None
    structures: tuple[str, ...] = ()


def facts_of(item: AtlasItem) -> Facts:
    """All that a caption may say."""
    parts = item.source.split("/")
    plane = parts[1] if len(parts) == 3 and parts[1] in PLANES else None
    marked = item.family in ("side", "structure_at_marker")
    implanted = item.family in ("implant_shape", "implant_stripes")
    counts = [(int(np.isin(item.concepts, structure_ids(name)).sum()), name) for name in STRUCTURES if plane]
    seen = sorted((-count, name) for count, name in counts if count >= VISIBLE_PIXELS)
    return Facts(
        modality=item.modality,
        plane=plane,
        marker=side_of(item.targets[0]) if marked else None,
        target=side_of(item.targets[0]) if implanted else None,
        structures=tuple(name for _, name in seen[:NAMED]),
    )


def side_of(box: Box) -> str | None:
    """Half of the image in which a box has its middle; None near the midline."""
    middle = (box[0] + box[2]) / (2 * FRAME) - 0.5
    return None if abs(middle) < MIDDLE else "left" if middle < 0 else "right"


def caption(facts: Facts) -> str:
    """Up to three short sentences: ``Axial MR image of the brain. The marker is on the left. Visible: thalamus.``"""
    said = f"{facts.plane} {_KINDS['mr']} of the brain" if facts.plane else _KINDS[facts.modality]
    said = said[0].upper() + said[1:] + "."
    if facts.marker:
        said += f" The marker is on the {facts.marker}."
    if facts.target:
        said += f" An implanted target is on the {facts.target}."
    if facts.structures:
        said += f" Visible: {', '.join(facts.structures)}."
    return said


def questions(facts: Facts) -> list[tuple[str, str]]:
    """(question, answer) pairs that the facts decide, worded as the atlas's families word them."""
    pairs = [(f"What kind of image is this? {spoken(MODALITIES)}", facts.modality)]
    if facts.plane:
        pairs.append((f"Which plane is this slice? {spoken(PLANES)}", facts.plane))
    if facts.marker:
        pairs.append(("On which side of the image is the marker? left or right", facts.marker))
    return pairs


def words_in_place(item: AtlasItem, rows: int, columns: int) -> np.ndarray:
    """One word for each cell of a grid over the image: int ``[rows * columns]``, index into :data:`WORDS`.

    A marker says its side, an implanted target that it is one. Else the background of a brain slice says the plane,
    a structure its name where it fills most of what a cell shows, other brain nothing; other images say their modality.
    """
    facts = facts_of(item)
    places = np.zeros((rows, columns), np.int32)
    for (row, column), counts in _counts(item.concepts, rows, columns):
        most = int(counts.argmax())
        if counts[CONCEPT["marker"]] >= _MARKER_PIXELS:
            word = facts.marker or ""
        elif counts[_IMPLANTS].sum() > counts.sum() / 4:
            word = "target"
        elif facts.plane is None:
            word = facts.modality
        elif most == CONCEPT["nothing"]:
            word = facts.plane
        else:
            word = _STRUCTURE.get(most, "")
        places[row, column] = WORDS.index(word)
    return places.reshape(-1)


def _counts(concepts: np.ndarray, rows: int, columns: int) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Every cell of the grid and how many pixels of each concept it has."""
    ys, xs = (
        np.rint(np.linspace(0, side, n + 1)).astype(int)
        for side, n in zip(concepts.shape, (rows, columns), strict=True)
    )
    for row, column in np.ndindex(rows, columns):
        cell = concepts[ys[row] : ys[row + 1], xs[column] : xs[column + 1]]
        yield (row, column), np.bincount(cell.ravel(), minlength=len(CONCEPTS))
