"""Splits: enumerated rules, and what items say they were made of."""

import itertools
import re

import pytest

from medvista_jax.data import images
from medvista_jax.data.atlas import FAMILIES, Atlas
from medvista_jax.data.splits import PLANES, REGION_GAP, SLAB_GAP, SPLITS, region, slab_split

SLICE = re.compile(r"^(mni2009[ac])/(axial|coronal|sagittal)/([+-]\d+)$")
REGION = re.compile(r"^([a-z-]+)/(\d+):(\d+),(\d+):(\d+)$")


@pytest.mark.parametrize("plane", PLANES)
def test_slabs_of_different_splits_keep_their_distance(plane):
    owner = {mm: slab_split(plane, mm) for mm in range(-150, 151)}
    assert set(owner.values()) == {*SPLITS, None}
    for (a, one), (b, other) in itertools.combinations([kv for kv in owner.items() if kv[1]], 2):
        if one != other:
            assert abs(a - b) > SLAB_GAP
            if plane == "sagittal":
                assert abs(abs(a) - abs(b)) > SLAB_GAP  # a mirror image is a neighbour too


def test_regions_of_single_images_are_apart_and_hold_a_canvas():
    for name, field in images.fields().items():
        height, width = field.pixels.shape
        boxes = {split: region(split, height, width) for split in SPLITS}
        for split, (y0, x0, y1, x1) in boxes.items():
            assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
            assert name == "nuclei" or min(y1 - y0, x1 - x0) >= 256, (name, split)
        for one, other in itertools.combinations(boxes.values(), 2):
            apart = max(one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3])
            assert apart >= REGION_GAP
    with pytest.raises(ValueError, match="not one of"):
        region("dev", 10, 10)


@pytest.mark.parametrize("split", SPLITS)
def test_items_are_made_of_their_own_split_only(split):
    atlas = Atlas(split)
    kinds = set()
    for family in FAMILIES:
        for index in range(60):
            source = atlas.item(family, index).source
            if found := SLICE.match(source):
                volume, plane, millimetre = found.groups()
                assert volume == ("mni2009a" if split == "test" else "mni2009c")
                assert slab_split(plane, int(millimetre)) == split
                kinds.add(plane)
                continue
            name, *numbers = REGION.match(source).groups()
            y0, y1, x0, x1 = map(int, numbers)
            top, left, bottom, right = region(split, *images.fields()[name].pixels.shape)
            assert top <= y0 < y1 <= bottom and left <= x0 < x1 <= right
            kinds.add(name)
    assert kinds == {*PLANES, *images.fields()}


@pytest.mark.parametrize("split", SPLITS)
def test_a_pool_cannot_see_beyond_its_region(split):
    """The recorded source is true: the canvas is found at that place of the whole image."""
    atlas = Atlas(split)
    for index in range(20):
        rng = atlas.generator("modality", index)
        base = atlas.pool.field(rng, flip=False)
        name, *numbers = REGION.match(base.source).groups()
        y0, y1, x0, x1 = map(int, numbers)
        field = images.fields()[name]
        assert (base.concepts == field.concepts[y0:y1, x0:x1]).all()
        if split != "train":
            assert (base.pixels == field.pixels[y0:y1, x0:x1]).all()
