"""What a family hands out: one verifiable question about one canvas."""

from __future__ import annotations

import dataclasses

import numpy as np

from medvista_jax.data.canvas import Box


@dataclasses.dataclass(frozen=True)
class AtlasItem:
    """One question.

    Attributes:
      id: "split/family/index", e.g. "test/implant_shape/000123".
      family: name in ``families.FAMILIES``.
      needs: what answering takes: "none", "zoom", "detail", "window", "several" or "measure".
      modality: "mr", "ct", "film", "fundus", "histology" or "fluorescence".
      source: which pixels: "mni2009c/axial/+24" (MNI millimetres) or "chest/120:376,4:260" (rows, columns).
      pixels: uint16 [256, 256, 1] stored intensities: 0…255, or HU + 1024 where ``modality`` is "ct" and the
        window is wide. Grey only; colour pictures are luminance.
      window: display window (black, white) in stored units.
      question: English text with its options.
      options: every possible answer of this item.
      answer: one of ``options``, lower case.
      targets: where to look: boxes x1, y1, x2, y2 in 0…1000 of the canvas; empty where nothing need be looked
        for.
      good_window: for ``needs="window"``: stored-unit (black, white) that shows the answer.
      concepts: uint8 [256, 256] dense labels, index into ``concepts.CONCEPTS``.
    """

    id: str
    family: str
    needs: str
    modality: str
    source: str
    pixels: np.ndarray
    window: tuple[float, float]
    question: str
    options: tuple[str, ...]
    answer: str
    targets: tuple[Box, ...]
    good_window: tuple[int, int] | None
    concepts: np.ndarray


@dataclasses.dataclass
class Draft:
    """An item before it has a name; what a family's ``draw`` returns."""

    modality: str
    source: str
    pixels: np.ndarray  # uint8 or uint16 [256, 256]
    concepts: np.ndarray
    question: str
    options: tuple[str, ...]
    answer: str
    targets: tuple[Box, ...] = ()
    window: tuple[float, float] = (0.0, 255.0)
    good_window: tuple[int, int] | None = None
