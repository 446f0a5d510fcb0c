"""The question families of the packaged atlas, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from medvista_jax.data.families import anatomy, implanted, lesion, measured, nuclei
from medvista_jax.data.implants import SHAPES, STRIPES
from medvista_jax.data.item import Draft
from medvista_jax.data.pool import Pool, Rng
from medvista_jax.data.splits import PLANES


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of question.

    Attributes:
      name: key in ``FAMILIES``.
      needs: "none", "zoom" (the thumbnail provably cannot tell), "detail" (zoom helps), "window", "several"
        (crops) or "measure".
      options: every answer the family can give.
      choices: how many options one item offers.
      description: one line for tables and contact sheets.
      sources: names in ``sources.notices()`` whose terms apply.
      draw: (pool, generator) to a draft.
    """

    name: str
    needs: str
    options: tuple[str, ...]
    choices: int
    description: str
    sources: tuple[str, ...]
    draw: Callable[[Pool, Rng], Draft]

    @property
    def chance(self) -> float:
        """Accuracy of a guess among an item's options; answers are uniform over them."""
        return 1.0 / self.choices


_BRAIN = ("mni2009c", "mni2009a", "desikan-killiany")
_ALL = _BRAIN + ("ct-head", "ct-abdomen", "chest", "tibia", "shoulder", "fundus", "ihc", "he")

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("plane", "none", PLANES, 3, "plane of a brain slice", _BRAIN, anatomy.draw_plane),
        Family(
            "modality",
            "none",
            anatomy.MODALITIES,
            6,
            "what kind of image it is",
            (*_ALL, "nuclei"),
            anatomy.draw_modality,
        ),
        Family(
            "side",
            "none",
            ("left", "right"),
            2,
            "side of the image a marker lies on",
            _ALL,
            anatomy.draw_side,
        ),
        Family(
            "structure_visible",
            "detail",
            ("yes", "no"),
            2,
            "is a named brain structure in this slice",
            _BRAIN,
            anatomy.draw_structure_visible,
        ),
        Family(
            "structure_at_marker",
            "detail",
            anatomy.STRUCTURES,
            4,
            "brain structure inside a ring marker",
            _BRAIN,
            anatomy.draw_structure_at_marker,
        ),
        Family(
            "implant_shape",
            "zoom",
            SHAPES,
            4,
            "shape of an implanted target, invisible in the thumbnail",
            _BRAIN,
            implanted.draw_implant_shape,
        ),
        Family(
            "implant_stripes",
            "zoom",
            STRIPES,
            4,
            "direction of implanted stripes, invisible in the thumbnail",
            _BRAIN,
            implanted.draw_implant_stripes,
        ),
        Family(
            "same_shape",
            "several",
            ("same", "different"),
            2,
            "two implanted targets far apart: same shape or not",
            _BRAIN,
            implanted.draw_same_shape,
        ),
        Family(
            "nuclei_count",
            "detail",
            nuclei.COUNTS,
            4,
            "nuclei in a marked box",
            ("nuclei",),
            nuclei.draw_nuclei_count,
        ),
        Family(
            "larger",
            "measure",
            ("a", "b"),
            2,
            "larger of two lettered nuclei",
            ("nuclei",),
            nuclei.draw_larger,
        ),
        Family(
            "brighter",
            "measure",
            ("a", "b"),
            2,
            "brighter of two framed regions",
            _ALL,
            measured.draw_brighter,
        ),
        Family(
            "lesion_ct",
            "window",
            ("yes", "no"),
            2,
            "implanted low-contrast lesion, invisible in the default window",
            ("ct-head", "ct-abdomen"),
            lesion.draw_lesion_ct,
        ),
    )
}
