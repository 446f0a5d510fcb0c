"""Slices of NIfTI-1 and NIfTI-2 volumes, by nibabel's header and array proxy."""

from __future__ import annotations

import gzip
import logging
from typing import BinaryIO

import numpy as np

from medvista_jax.data.files.choose import PLANES, Frames, Slices, parse_slices, pick
from medvista_jax.data.files.image import (
    BadFile,
    MedicalImage,
    Pair,
    check_size,
    compose,
    one_error,
    percentile_window,
    stored_window,
    to_stored,
    turn_over,
)

_GZIP = b"\x1f\x8b"
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # codes of metre, millimetre and micron in xyzt_units


def is_nifti(head: bytes) -> bool:
    """Whether the first bytes of a file are of a NIfTI volume, a header without its image, or of something packed by
    gzip, which nothing else here is.
    """
    return head.startswith(_GZIP) or _version(head) > 0


def _version(head: bytes) -> int:
    if head[344:347] in (b"n+1", b"ni1"):
        return 1
    return 2 if head[4:7] in (b"n+2", b"ni2") else 0


def read_nifti(
    file: BinaryIO, name: str, frames: Frames = None, slices: str | Slices = "axial"
) -> tuple[MedicalImage, ...]:
    """Slices as a radiologist hangs them: the patient's right on the left of axial and coronal images, anterior on the
    left of sagittal ones; anterior (axial) or superior is up. Axial slices so look like DICOM's.

    Oblique volumes are cut along the voxel axis that is nearest to the plane's (nibabel's closest canonical
    orientation); nothing is resampled, and ``spacing`` tells the true aspect. Only the slices between the first and
    the last one asked for are read. Spacing: the lengths of the affine's columns, None unless the header names a
    unit of length. Window: ``cal_min`` and ``cal_max`` where the header sets them, else percentiles over the slices
    loaded. NIfTI names no unit of intensity.

    Args:
      file: seekable, at its beginning; packed by gzip or not.
      frames: which volume of a 4-D file, one of them; the middle one by default.
      slices: see ``choose.parse_slices``; indices run towards right, anterior and superior.

    Raises:
      BadFile: damaged, of complex numbers or more than four dimensions, or without the slice.
    """
    packed = file.read(2) == _GZIP
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if packed else file
    logger = logging.getLogger("nibabel.global")
    was, logger.disabled = logger.disabled, True  # it prints what the error says
    try:
        with one_error(name, "NIfTI file"), np.errstate(all="ignore"):
            return _read(stream, name, frames, slices)
    finally:
        logger.disabled = was


def _read(stream: BinaryIO, name: str, frames: Frames, slices: str | Slices) -> tuple[MedicalImage, ...]:
    from nibabel.affines import voxel_sizes
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.orientations import apply_orientation, io_orientation

    header = _read_header(stream, name)
    wanted = parse_slices(slices, name)
    shape = _shape(header, name)
    affine = header.get_best_affine()
    orientation_32 = io_orientation(affine)
    if not np.isfinite(orientation_32).all():
        raise BadFile(f"{name}: the affine is singular, so nobody can tell which way is up; mend its qform or sform")
    world = PLANES.index(wanted.plane)
    axis = int(np.flatnonzero(orientation_32[:, 0] == world)[0])
    count = shape[axis]
    chosen = pick(wanted.where, count, name, default=count // 2, what=f"{wanted.plane} slice")
    volumes = pick(frames, shape[3], name, default=shape[3] // 2, what="volume")
    if len(volumes) != 1:
        raise BadFile(f"{name}: choose one volume of a 4-D file at a time, not {len(volumes)}")

    sides = [shape[other] for other in range(3) if other != axis]
    check_size(name, *sides, len(chosen))
    check_size(name, *sides, max(chosen) - min(chosen) + 1)  # what lies between them is read too
    upward = orientation_32[axis, 1] > 0
    raw = [index if upward else count - 1 - index for index in chosen]
    first, last = min(raw), max(raw)
    cut = [slice(None)] * 3 + [volumes[0]]
    cut[axis] = slice(first, last + 1)
    # Slope and intercept are left out here: stored integers stay what they are.
    dtype = header.get_data_dtype()
    proxy = ArrayProxy(stream, (shape, dtype, header.get_data_offset(), 1.0, 0.0), mmap=False)
    slab = np.asarray(proxy[tuple(cut)])
    slab = slab.astype(slab.dtype.newbyteorder("="))
    canonical = np.moveaxis(apply_orientation(slab, orientation_32), world, 0)
    places = [at - first if upward else last - at for at in raw]
    pages_NYX = np.stack([_hang(canonical[place]) for place in places])

    sizes = np.empty(3)
    sizes[orientation_32[:, 0].astype(int)] = voxel_sizes(affine)
    spacing = _spacing(header, [float(size) for other, size in enumerate(sizes) if other != world])
    short = name.rsplit("/", 1)[-1]
    volume = f",volume={volumes[0]}" if shape[3] > 1 else ""
    names = [f"{short}#{wanted.plane}={index}{volume}" for index in chosen]
    return _finish(header, name, names, pages_NYX, spacing)


def _read_header(stream: BinaryIO, name: str):
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    head = stream.read(540)
    stream.seek(0)
    version = _version(head)
    if version == 0:
        raise BadFile(f"{name}: is packed by gzip but holds no NIfTI volume; unpack it first")
    if b"ni" in (head[344:346], head[4:6]):
        raise BadFile(f"{name}: is a header whose image lies in another file (.hdr and .img); join them to one .nii")
    return (Nifti1Header if version == 1 else Nifti2Header).from_fileobj(stream)


def _shape(header, name: str) -> tuple[int, ...]:
    """Four sides, 1 where the file has fewer."""
    shape = tuple(int(side) for side in header.get_data_shape())
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4 or not shape or min(shape) < 1:
        raise BadFile(f"{name}: a volume of shape {shape} is neither an image, a volume nor a series of volumes")
    return shape + (1,) * (4 - len(shape))


def _hang(page: np.ndarray) -> np.ndarray:
    """From ``[u, v]`` of the plane's canonical axes, each growing towards right, anterior or superior, to rows and
    columns: ``v`` runs up; right, or anterior in a sagittal slice, is on the left for both.
    """
    return page[::-1, ::-1].T


def _spacing(header, sides: list[float]) -> Pair | None:
    factor = _MILLIMETRES.get(int(header["xyzt_units"]) % 8)
    if factor is None or not all(np.isfinite(side) and side > 0 for side in sides):
        return None
    along_columns, along_rows = sides
    return along_rows * factor, along_columns * factor


def _finish(header, name: str, names: list[str], pages_NYX: np.ndarray, spacing: Pair | None):
    if pages_NYX.dtype.names:  # RGB24 and RGBA32
        channels = [pages_NYX[channel] for channel in pages_NYX.dtype.names[:3]]
        pages = np.stack(channels, axis=-1)
        return tuple(
            MedicalImage(page, (0.0, 255.0), spacing=spacing, name=text)
            for page, text in zip(pages, names, strict=True)
        )
    stored_NYX, steps, exact = to_stored(name, pages_NYX)
    slope, intercept = header.get_slope_inter()
    rescale = compose(steps, (1.0 if slope is None else float(slope), float(intercept or 0.0)))
    if rescale[0] < 0:
        stored_NYX, rescale = turn_over(stored_NYX, rescale, 8 * stored_NYX.itemsize)
    dark, bright = float(header["cal_min"]), float(header["cal_max"])
    window = stored_window(dark, bright, rescale) if bright > dark else None
    window = window or percentile_window(stored_NYX)
    return tuple(
        MedicalImage(np.ascontiguousarray(page)[..., None], window, rescale, spacing=spacing, name=text, exact=exact)
        for page, text in zip(stored_NYX, names, strict=True)
    )
