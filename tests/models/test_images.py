"""Pixels and patches against transformers' image processors."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from medvista_jax.models.images import internvl_pixels, normalise, qwen_patches

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
