"""Damaged files: one line of text or an image, never another exception, never a flood of memory."""

from __future__ import annotations

import gzip
import random

import nibabel as nib
import numpy as np
import pytest

from medvista_jax.data.files import BadFile, image, load_images
from tests.data.files.made import PIXELS, as_bytes, dicom, saved

COLOUR = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
VOLUME = nib.Nifti1Image(np.arange(210, dtype=np.int16).reshape(5, 6, 7), np.eye(4))
SOUND = {
    "dicom": as_bytes(
        dicom(
            np.stack([PIXELS.astype(np.uint16)] * 3),
            "MONOCHROME1",
            bits=12,
            Modality="CT",
            WindowCenter=[40, 400],
            WindowWidth=[80, 2000],
            RescaleSlope=1,
            RescaleIntercept=-1024,
            PixelSpacing=[0.5, 0.5],
            PixelPaddingValue=3,
        )
    ),
    "nifti": VOLUME.to_bytes(),
    "second version": nib.Nifti2Image(VOLUME.get_fdata(), np.eye(4)).to_bytes(),
    "packed": gzip.compress(VOLUME.to_bytes()),
    "png": saved(COLOUR, "PNG"),
    "jpeg": saved(COLOUR, "JPEG"),
    "gif": saved(PIXELS, "GIF"),
    "webp": saved(COLOUR, "WEBP"),
    "avif": saved(COLOUR, "AVIF"),
}


@pytest.mark.parametrize("kind", SOUND)
def test_changed_bytes_are_one_error_or_an_image(kind, monkeypatch):
    monkeypatch.setattr(image, "PIXEL_LIMIT", 2**16)
    monkeypatch.setattr(image, "CALL_LIMIT", 2**17)
    chance = random.Random(kind)
    for _ in range(60):
        data = bytearray(SOUND[kind])
        for _ in range(chance.choice([1, 2, 8])):
            at = chance.randrange(min(len(data), chance.choice([300, 1500])))
            data[at : at + chance.choice([0, 1, 1, 4])] = chance.randbytes(chance.choice([0, 1, 1, 4]))
        frames, slices = chance.choice([None, "all", 0]), chance.choice(["axial", "coronal:all", "sagittal:0"])
        try:
            images = load_images(bytes(data), frames=frames, slices=slices)
        except BadFile as error:
            assert "\n" not in str(error) and len(str(error)) <= 600
            continue
        for one in images:
            assert one.pixels_YXC.dtype in (np.uint8, np.uint16) and one.pixels_YXC.shape[2] in (1, 3)
            assert one.window[0] < one.window[1] and np.isfinite([*one.window, *one.rescale]).all()


def test_a_count_of_frames_that_nobody_could_hold_is_refused():
    made = dicom(np.stack([PIXELS, PIXELS]))
    made.NumberOfFrames = 2_000_000_000
    with pytest.raises(BadFile, match="choose fewer frames"):
        load_images(as_bytes(made), frames="all")
    volume = bytearray(SOUND["second version"])
    volume[16 + 8 : 16 + 16] = (2**60).to_bytes(8, "little")  # dim[1]
    with pytest.raises(BadFile, match="choose fewer frames or slices"):
        load_images(bytes(volume), slices="sagittal:all")
