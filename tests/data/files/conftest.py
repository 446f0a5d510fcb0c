"""A folder with one image of each kind."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.data.files.made import PIXELS, as_bytes, dicom


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``made.ROWS`` name its files."""
    root = tmp_path / "chests"
    (root / "sub").mkdir(parents=True)
    Image.fromarray(PIXELS).save(root / "a.png")
    (root / "b.dcm").write_bytes(as_bytes(dicom(PIXELS.astype(np.uint16), Modality="MR", PixelSpacing=[1, 2])))
    nib.save(nib.Nifti1Image(np.tile(PIXELS[..., None], 4), np.eye(4)), root / "sub" / "c.nii.gz")
    return root
