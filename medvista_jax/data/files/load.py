"""The door for images: one file or its bytes, whatever it is."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from medvista_jax.data.files.choose import Frames, Slices
from medvista_jax.data.files.dicom import is_dicom, read_dicom
from medvista_jax.data.files.image import BadFile, MedicalImage
from medvista_jax.data.files.nifti import is_nifti, read_nifti
from medvista_jax.data.files.pictures import FORMATS, read_picture

_HEAD = 1024


def load_images(
    source: str | os.PathLike | bytes,
    *,
    name: str | None = None,
    frames: Frames = None,
    slices: str | Slices = "axial",
) -> tuple[MedicalImage, ...]:
    """The images of a file. What it is shows in its first bytes; its suffix does not matter.

    Args:
      source: a path, or the file's bytes.
      name: for ``MedicalImage.name`` and for messages; by default the path.
      frames: of multi-frame DICOM, pages of TIFF or GIF, volumes of 4-D NIfTI: an index from 0, several, "middle",
        "all". By default the middle one; of pictures the first page.
      slices: of NIfTI: "PLANE" or "PLANE:WHERE", see ``choose.parse_slices``; by default the middle of the axial ones.

    Returns:
      As many as ``frames`` or ``slices`` name, one by default.

    Raises:
      BadFile: missing, damaged, of an unknown kind, or with no such frame or slice. One line of text.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _load(io.BytesIO(source), name or "the image in memory", frames, slices)
    path = Path(source)
    name = name or str(path)
    if path.is_dir():
        raise BadFile(f"{name}: is a folder; name one file in it")
    try:
        with open(path, "rb") as file:
            return _load(file, name, frames, slices)
    except FileNotFoundError:
        raise BadFile(f"{name}: no such file") from None
    except OSError as error:
        raise BadFile(f"{name}: cannot be read: {error.strerror or error}") from None


def _load(file: BinaryIO, name: str, frames: Frames, slices: str | Slices) -> tuple[MedicalImage, ...]:
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise BadFile(f"{name}: the file is empty")
    if is_nifti(head):
        return read_nifti(file, name, frames, slices)
    if is_dicom(head):
        return read_dicom(file, name, frames)
    images = read_picture(file, name, frames)
    if images is None:
        raise BadFile(f"{name}: {_guess(head, name)}; what is read: DICOM, NIfTI (.nii, .nii.gz), {', '.join(FORMATS)}")
    return images


def _guess(head: bytes, name: str) -> str:
    """What a file that nobody can read seems to be."""
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the image; fetch it with: git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "holds HTML or XML, perhaps the error page of a download"
    suffix = Path(name).suffix.lower()
    if suffix in (".dcm", ".dicom", ".nii"):
        return f"is named {suffix} but holds something else"
    return "is no image of a known kind"
