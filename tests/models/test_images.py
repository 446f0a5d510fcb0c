"""Pixels and patches against transformers' image processors."""

from __future__ import annotations

import functools
import re

import jax
import numpy as np
import pytest
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from medvista_jax.models import images
from medvista_jax.models.images import (
    CROP_BUCKETS,
    ORIGINAL_BUCKETS,
    choose_bucket,
    internvl_pixels,
    internvl_tiles,
    normalise,
    patch_tokens,
    qwen_patches,
    tile_tokens,
)

MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.25, 0.28)  # no two alike: swapped channels would show


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(("patch", "merge", "temporal"), [(14, 2, 2), (16, 2, 2), (4, 3, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_stand_as_in_qwens_processor(patch, merge, temporal, channels):
    height, width = 2 * patch * merge, 3 * patch * merge
    views = noise(2, height, width, channels)
    processor = Qwen2VLImageProcessorPil(
        do_resize=False,
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=temporal,
        image_mean=MEAN,
        image_std=STD,
    )
    theirs = processor(list(np.broadcast_to(views, (*views.shape[:3], 3))), return_tensors="np")
    ours = jax.jit(functools.partial(qwen_patches, patch=patch, merge=merge, temporal=temporal, mean=MEAN, std=STD))(
        views
    )
    assert ours.shape == (2, 6 * merge * merge, 3 * temporal * patch * patch) and ours.dtype == np.float32
    # The same float32 arithmetic but for the order of a product and a quotient: levels up to 4, units of 2^-22.
    np.testing.assert_allclose(ours.reshape(theirs["pixel_values"].shape), theirs["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_stand_as_in_internvls_processor(channels):
    views = noise(3, 20, 24, channels)
    processor = GotOcr2ImageProcessorPil(do_resize=False, image_mean=MEAN, image_std=STD)
    theirs = processor(list(np.broadcast_to(views, (3, 20, 24, 3))), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(internvl_pixels(views, MEAN, STD), theirs, atol=1e-6)


def test_views_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="28x30 pixels; both must be multiples of 28"):
        qwen_patches(noise(1, 28, 30, 3), 14, 2, 2, MEAN, STD)
    with pytest.raises(ValueError, match="have 4 channels"):
        normalise(noise(1, 2, 2, 4), MEAN, STD)


def test_views_in_tiles_and_a_thumbnail():
    views = noise(2, 48, 32, 3)
    ours = np.asarray(internvl_tiles(views, (16, 16)))
    assert ours.shape == (2, 7, 16, 16, 3) and ours.dtype == np.uint8
    processor = GotOcr2ImageProcessorPil(
        size={"height": 16, "width": 16}, crop_to_patches=True, do_normalize=False, do_rescale=False
    )
    theirs = processor(list(views), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(ours.reshape(14, 16, 16, 3), theirs.transpose(0, 2, 3, 1))
    assert internvl_tiles(noise(1, 16, 16, 1), (16, 16)).shape == (1, 1, 16, 16, 1)
    with pytest.raises(ValueError, match="48x32 pixels do not divide into tiles"):
        internvl_tiles(views, (16, 24))


def table() -> dict[tuple[int, int], list[int | None]]:
    """The module's table: bucket → cost in each column."""
    rows = re.findall(r"^(\d+), (\d+) +(\S+) +(\S+) +(\S+) +(\S+)$", images.__doc__, re.MULTILINE)
    return {(int(h), int(w)): [None if cost == "-" else int(cost) for cost in costs] for h, w, *costs in rows}


def test_the_table_of_the_docstring():
    assert list(table()) == list(dict.fromkeys((*CROP_BUCKETS, *ORIGINAL_BUCKETS)))
    for bucket, costs in table().items():
        square = patch_tokens(bucket, 14, 2) if bucket[0] == bucket[1] else None
        ours = [patch_tokens(bucket, 14, 2), patch_tokens(bucket, 16, 2), square, tile_tokens(bucket)]
        assert costs == ours, bucket


def test_the_table_against_the_hubs_own_counts():
    """An image of a bucket's size costs what the hub's processors say, where they show it at that size."""
    tiles = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=True)
    for bucket, (qwen2_5, qwen3, _, tiled) in table().items():
        for cost, patch, least in [(qwen2_5, 14, 56 * 56), (qwen3, 16, 256 * 256)]:
            size = {"shortest_edge": least, "longest_edge": 16384 * 28 * 28}
            processor = Qwen2VLImageProcessorPil(patch_size=patch, size=size)
            if cost is not None and bucket[0] * bucket[1] >= least:
                assert processor.get_number_of_image_patches(*bucket) == 4 * cost
        if tiled is not None:
            assert 256 * tiles.get_number_of_image_patches(*bucket) == tiled


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((448, 448), (448, 448)),
        ((100, 101), (448, 448)),
        ((449, 449), (672, 672)),
        ((5000, 5000), (896, 896)),  # the largest there is
        ((1955, 1841), (896, 896)),
        ((300, 451), (448, 672)),
        ((600, 900), (896, 1344)),
        ((20, 4000), (448, 1344)),
        ((4000, 20), (1344, 448)),
        ((1, 1), (448, 448)),
    ],
)
def test_buckets(size, bucket):
    assert choose_bucket(*size, ORIGINAL_BUCKETS) == bucket
    assert choose_bucket(*size, ORIGINAL_BUCKETS[::-1]) == bucket  # whatever their order


def test_no_bucket():
    with pytest.raises(ValueError, match="no bucket for 3x4 pixels"):
        choose_bucket(3, 4, ())
    with pytest.raises(ValueError, match="no bucket for 0x4 pixels"):
        choose_bucket(0, 4, CROP_BUCKETS)
