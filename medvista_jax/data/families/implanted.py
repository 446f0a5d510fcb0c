"""Questions about implanted targets; see ``medvista_jax.data.implants`` for why the thumbnail cannot answer them.

The images are MR brain slices: of the other modalities there is one image each, too little to learn a background from.
"""

from __future__ import annotations

from medvista_jax.data.canvas import to_frame
from medvista_jax.data.concepts import CONCEPT
from medvista_jax.data.families.anatomy import spoken
from medvista_jax.data.implants import IMPLANTS, SHAPES, SIDE, STRIPES, implant
from medvista_jax.data.item import Draft
from medvista_jax.data.pool import Base, Pool, Rng, place_square

APART = 96
"""Two targets of ``same_shape`` differ by this many pixels or more in y or in x: no 64 px crop can hold
both. A crop of 128 px can, reduced twofold, but keeps a fourth of the texture's contrast or less; one of 192
px none to speak of.
"""

_CONCEPT_OF = {
    name: CONCEPT[f"implanted {name}" if name in SHAPES else f"implanted {name} stripes"] for name in IMPLANTS
}


def _target(place: tuple[int, int]) -> tuple[int, int, int, int]:
    return to_frame(place[0], place[1], place[0] + SIDE, place[1] + SIDE)


def _put(base: Base, place: tuple[int, int], class_id: int, rng: Rng) -> None:
    """Implants in place, with a light-dark polarity and a bar direction that are drawn whatever the class."""
    polarity, variant = 1 - 2 * int(rng.integers(2)), int(rng.integers(2))
    base.pixels = implant(base.pixels, place, class_id, polarity=polarity, variant=variant)
    y, x = place
    base.concepts[y : y + SIDE, x : x + SIDE] = _CONCEPT_OF[IMPLANTS[class_id]]


def _one(pool: Pool, rng: Rng, names: tuple[str, ...], question: str) -> Draft:
    place = None
    while place is None:
        base = pool.brain(rng)
        place = place_square(rng, base.tissue)
    answer = names[rng.integers(len(names))]
    _put(base, place, IMPLANTS.index(answer), rng)
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, names, answer, (_target(place),))


def draw_implant_shape(pool: Pool, rng: Rng) -> Draft:
    """Which silhouette does the implanted texture fill? Base and place are drawn before the class."""
    return _one(pool, rng, SHAPES, f"What shape is the implanted target? {spoken(SHAPES)}")


def draw_implant_stripes(pool: Pool, rng: Rng) -> Draft:
    """How do the implanted stripes run? "rising" goes up to the right, "falling" down to the right."""
    return _one(pool, rng, STRIPES, f"How do the implanted stripes run? {spoken(STRIPES)}")


def draw_same_shape(pool: Pool, rng: Rng) -> Draft:
    """Have two far implanted targets the same shape? Same or different is drawn first, then the shapes."""
    first = second = None
    while second is None:
        base = pool.brain(rng)
        first = place_square(rng, base.tissue)
        second = first and place_square(rng, base.tissue, first, APART)
    options = ("same", "different")
    answer = options[rng.integers(2)]
    one = int(rng.integers(len(SHAPES)))
    other = one if answer == "same" else (one + 1 + int(rng.integers(len(SHAPES) - 1))) % len(SHAPES)
    _put(base, first, one, rng)
    _put(base, second, other, rng)
    question = "Are the two implanted targets the same shape? same or different"
    targets = (_target(first), _target(second))
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, options, answer, targets)
