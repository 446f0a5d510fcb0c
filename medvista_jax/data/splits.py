"""Who may see what: the split of every slice and of every region, as pure functions that a test can
enumerate.

Brain MR. Training and validation come from one template volume, test from another. Both are averages of the
same population and resemble each other closely, so slices are also split by position: along each axis, slabs
of 8 mm (train), 5 mm (test) and 5 mm (validation) repeat with 4 mm gaps between them. Sagittal slabs go by
the distance from the midline, since both templates are nearly mirror images of themselves. What this does not
separate: a training *axial* slice and a validation *coronal* slice cross in one line of voxels.

Single images. The left half is train, the upper right quarter validation, the lower right quarter test, with
a gap of 12 pixels between them; a canvas shows pixels of its own region only.
"""

from __future__ import annotations

SPLITS = ("train", "validation", "test")
PLANES = ("axial", "coronal", "sagittal")

SLAB_PERIOD = 30
SLAB_GAP = 4
_SLABS = {"train": (0, 8), "test": (12, 17), "validation": (21, 26)}
# Where the pattern begins on each axis: chosen so that every split shows every structure that questions name.
_OFFSETS = {"axial": 19, "coronal": 16, "sagittal": 22}

REGION_GAP = 12


def slab_split(plane: str, millimetre: int) -> str | None:
    """Split of the slice at ``millimetre`` (MNI coordinate across the plane), None inside a gap."""
    position = abs(millimetre) if plane == "sagittal" else millimetre
    phase = (position + _OFFSETS[plane]) % SLAB_PERIOD
    for split, (start, stop) in _SLABS.items():
        if start <= phase < stop:
            return split
    return None


def region(split: str, height: int, width: int) -> tuple[int, int, int, int]:
    """Half-open pixel rectangle y0, x0, y1, x1 of ``split`` in a single image of ``height`` x ``width``."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    half = REGION_GAP // 2
    if split == "train":
        return 0, 0, height, width // 2 - half
    if split == "validation":
        return 0, width // 2 + half, height // 2 - half, width
    return height // 2 + half, width // 2 + half, height, width
