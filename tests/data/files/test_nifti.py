"""NIfTI against nibabel's own loading and reorientation."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import ornt_transform

from medvista_jax.data.files import BadFile, image, load_images
from tests.data.files.made import as_bytes, dicom

PLANES = ["sagittal", "coronal", "axial"]
SHAPE = (5, 6, 7)
VOLUME = np.random.default_rng(1).integers(-900, 2000, SHAPE).astype(np.int16)
FLIPPED_OBLIQUE = nib.affines.from_matvec(
    # About 12 degrees around the x axis, left and superior turned over, sides of 0.5, 2 and 3 mm.
    np.array([[1, 0, 0], [0, 0.978, -0.208], [0, 0.208, 0.978]]) @ np.diag([-0.5, 2.0, -3.0]),
    [10, -20, 30],
)


def volume(data=VOLUME, affine=FLIPPED_OBLIQUE, units="mm", **header) -> nib.Nifti1Image:
    made = nib.Nifti1Image(data, affine)
    made.header.set_xyzt_units(xyz=units)
    for key, value in header.items():
        made.header[key] = value
    return made


def canonical_page(made, plane: str, index: int) -> np.ndarray:
    """Rows down, columns to the right, by nibabel: the patient's right (anterior in sagittal slices) on the left."""
    page = nib.as_closest_canonical(made).get_fdata().take(index, PLANES.index(plane))
    return np.fliplr(np.rot90(page))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "PIR", "ASL", "SRA"])
def test_every_slice_is_nibabels_canonical_one_seen_by_a_radiologist(plane, orientation):
    turn = ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation))
    made = volume(np.array(VOLUME), np.diag([0.5, 2.0, 3.0, 1.0])).as_reoriented(turn)
    assert "".join(nib.aff2axcodes(made.affine)) == orientation
    every = load_images(made.to_bytes(), slices=f"{plane}:all")
    assert len(every) == SHAPE[PLANES.index(plane)]
    for index, loaded in enumerate(every):
        np.testing.assert_array_equal(loaded.physical()[..., 0], canonical_page(made, plane, index))
        assert loaded.name.endswith(f"#{plane}={index}")
    spacing = {"axial": (2.0, 0.5), "coronal": (3.0, 0.5), "sagittal": (3.0, 2.0)}[plane]
    assert loaded.spacing == pytest.approx(spacing, abs=1e-6)  # the header keeps float32


def test_left_is_on_the_right_and_up_is_up():
    world = np.zeros((4, 5, 6), np.uint8)
    world[3, 0, 0] = 1  # right, posterior, inferior
    made = volume(world, np.eye(4))
    (axial,) = load_images(made.to_bytes(), slices="axial:0")
    assert axial.pixels_YXC[-1, 0, 0] == 1  # lower left
    (coronal,) = load_images(made.to_bytes(), slices="coronal:0")
    assert coronal.pixels_YXC[-1, 0, 0] == 1
    (sagittal,) = load_images(made.to_bytes(), slices="sagittal:3")
    assert sagittal.pixels_YXC[-1, -1, 0] == 1  # posterior is on the right


def test_an_oblique_volume_is_cut_along_its_nearest_axes():
    made = volume()
    (middle,) = load_images(made.to_bytes())
    np.testing.assert_array_equal(middle.physical()[..., 0], canonical_page(made, "axial", SHAPE[2] // 2))
    assert middle.spacing == pytest.approx((2.0, 0.5), rel=1e-3)  # the rotation is written with three digits


def test_scale_in_the_header_keeps_stored_integers():
    made = volume(VOLUME * 0.25 - 3)
    made.set_data_dtype(np.int16)  # nibabel chooses slope and intercept
    data = made.to_bytes()
    read = nib.Nifti1Image.from_bytes(data)
    every = load_images(data, slices="coronal:all")
    assert every[0].rescale[0] == read.dataobj.slope and all(loaded.exact for loaded in every)
    for index, loaded in enumerate(every):
        # Where the offset is added differs: an ulp of numbers up to 1000.
        np.testing.assert_allclose(loaded.physical()[..., 0], canonical_page(read, "coronal", index), atol=1e-12 * 1000)
    raw = read.dataobj.get_unscaled()
    stored = np.stack([loaded.pixels_YXC for loaded in every]).astype(int)
    np.testing.assert_array_equal(np.unique(np.diff(np.unique(stored))), np.unique(np.diff(np.unique(raw.astype(int)))))


def test_a_negative_slope_is_turned_over():
    data = bytearray(volume().to_bytes())
    data[112:120] = np.array([-2, 5], "<f4").tobytes()  # scl_slope, scl_inter
    (loaded,) = load_images(bytes(data))
    truth = canonical_page(nib.Nifti1Image.from_bytes(bytes(data)), "axial", 3)
    np.testing.assert_array_equal(loaded.physical()[..., 0], truth)
    np.testing.assert_array_equal(truth, canonical_page(volume(), "axial", 3) * -2 + 5)
    assert loaded.rescale[0] == 2.0


@pytest.mark.parametrize("units, factor", [("mm", 1.0), ("micron", 0.001), ("meter", 1000.0)])
def test_units_of_length_are_minded(units, factor):
    (loaded,) = load_images(volume(affine=np.diag([2, 3, 4, 1]), units=units).to_bytes())
    assert loaded.spacing == pytest.approx((3 * factor, 2 * factor))


def test_no_unit_of_length_is_no_spacing():
    assert load_images(volume(units="unknown").to_bytes())[0].spacing is None
    assert load_images(volume().to_bytes())[0].unit == ""


def test_packed_files_and_the_second_version_are_the_same(tmp_path):
    made = volume()
    (plain,) = load_images(made.to_bytes())
    path = tmp_path / "brain.nii.gz"
    nib.save(made, path)
    second = nib.Nifti2Image(VOLUME, FLIPPED_OBLIQUE)
    second.header.set_xyzt_units(xyz="mm")
    for other in (path, gzip.compress(made.to_bytes()), second.to_bytes()):
        (loaded,) = load_images(other)
        np.testing.assert_array_equal(loaded.pixels_YXC, plain.pixels_YXC)
        assert loaded.spacing == pytest.approx(plain.spacing)
    assert load_images(path)[0].name == "brain.nii.gz#axial=3"


def test_big_endian_volumes():
    made = nib.Nifti1Image(VOLUME, np.eye(4), header=nib.Nifti1Header(endianness=">"))
    (loaded,) = load_images(made.to_bytes())
    np.testing.assert_array_equal(loaded.physical()[..., 0], canonical_page(made, "axial", 3))


def test_floats_are_rounded_within_half_a_step():
    data = np.random.default_rng(2).normal(0, 1, SHAPE).astype(np.float32)
    data[0, 0, 3] = np.nan
    made = volume(data)
    (loaded,) = load_images(made.to_bytes())
    truth = canonical_page(made, "axial", 3)
    error = np.abs(loaded.physical()[..., 0] - truth)
    # The lowest and highest of the slice are 65,535 steps apart; NaN is shown as the lowest.
    assert np.nanmax(error) <= (np.nanmax(truth) - np.nanmin(truth)) / 65535 / 2 * (1 + 1e-6)
    assert not loaded.exact and loaded.pixels_YXC[np.isnan(truth)].max() == 0
    whole = volume(VOLUME.astype(np.float64))
    (exact,) = load_images(whole.to_bytes())
    np.testing.assert_array_equal(exact.physical()[..., 0], canonical_page(whole, "axial", 3))
    assert exact.exact


def test_display_range_of_the_header_is_the_window():
    (loaded,) = load_images(volume(cal_min=-100, cal_max=300).to_bytes())
    assert [value * loaded.rescale[0] + loaded.rescale[1] for value in loaded.window] == [-100, 300]
    (default,) = load_images(volume().to_bytes())
    assert default.window == tuple(np.percentile(default.pixels_YXC, (0.5, 99.5)))


def test_colour_volumes():
    data = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    data["G"] = VOLUME % 256
    (loaded,) = load_images(nib.Nifti1Image(data, np.eye(4)).to_bytes())
    grey = volume((VOLUME % 256).astype(np.uint8), np.eye(4))
    np.testing.assert_array_equal(loaded.pixels_YXC[..., 1], canonical_page(grey, "axial", 3))
    assert loaded.pixels_YXC.shape[2] == 3 and not loaded.pixels_YXC[..., 0].any()


def test_series_of_volumes_and_flat_images():
    series = np.stack([VOLUME, VOLUME + 1, VOLUME + 2], axis=-1)
    made = volume(series)
    (middle,) = load_images(made.to_bytes())
    assert middle.name.endswith("#axial=3,volume=1")
    (last,) = load_images(made.to_bytes(), frames=-1)
    truth = canonical_page(volume(VOLUME + 2), "axial", 3)
    np.testing.assert_array_equal(last.physical()[..., 0], truth)
    (flat,) = load_images(volume(VOLUME[:, :, 0], np.eye(4)).to_bytes())
    np.testing.assert_array_equal(flat.physical()[..., 0], VOLUME[::-1, ::-1, 0].T)
    with pytest.raises(BadFile, match="one volume"):
        load_images(made.to_bytes(), frames="all")


@pytest.mark.parametrize(
    "slices, words",
    [
        ("axial:7", "no axial slice 7; it has 7, counted from 0"),
        ("transverse", "plane 'transverse' is none of sagittal, coronal, axial"),
        ("axial:1.5", "none of: an index"),
    ],
)
def test_slices_that_are_not_there(slices, words):
    with pytest.raises(BadFile, match=words):
        load_images(volume().to_bytes(), slices=slices)


def test_damaged_volumes_are_said_in_a_line(tmp_path):
    data = volume().to_bytes()
    broken = {
        "cut.nii": data[: len(data) // 2],
        "header.nii": data[:348],
        "cut.nii.gz": gzip.compress(data)[:300],
        "other.gz": gzip.compress(b"no volume"),
        "text.nii": b"once upon a time" * 30,
        "complex.nii": nib.Nifti1Image(VOLUME.astype(np.complex64), np.eye(4)).to_bytes(),
        "vector.nii": nib.Nifti1Image(np.zeros((2, 2, 2, 1, 3), np.float32), np.eye(4)).to_bytes(),
    }
    flat = bytearray(data)
    flat[280:296] = bytes(16)  # srow_x: the first axis leads nowhere
    broken["singular.nii"] = bytes(flat)
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=name) as caught:
            load_images(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_volume_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(image, "CALL_LIMIT", 29)
    with pytest.raises(BadFile, match="7 images of 5 x 6 pixels are more"):
        load_images(gzip.compress(volume(affine=np.eye(4)).to_bytes()), slices="axial:all")


def test_a_volume_and_a_dicom_slice_of_one_patient_look_alike():
    """DICOM's axial rows run to the patient's left, its columns to the back: L and P grow with the index."""
    page = VOLUME[:, :, 0].T.astype(np.uint16)
    (slice_,) = load_images(as_bytes(dicom(page)))
    lps = nib.Nifti1Image(page.T[..., None], np.diag([-1, -1, 1, 1]))
    (same,) = load_images(lps.to_bytes())
    np.testing.assert_array_equal(slice_.pixels_YXC, same.pixels_YXC)
