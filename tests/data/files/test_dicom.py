"""DICOM against pydicom's own processing, literal values and the standard's formulas."""

from __future__ import annotations

import warnings

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from medvista_jax.data.canvas import display
from medvista_jax.data.files import BadFile, image, load_images
from tests.data.files.made import as_bytes, dicom, group

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300  # 0…3300: 12 bits


def real(name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def one(made, **options) -> image.MedicalImage:
    (loaded,) = load_images(as_bytes(made), **options)
    return loaded


@pytest.mark.parametrize(
    "name",
    ["693_UNCR.dcm", "693_UNCI.dcm", "693_J2KR.dcm", "CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm"]
    + ["MR_small_RLE.dcm", "explicit_VR-UN.dcm", "RG1_UNCR.dcm", "RG3_UNCR.dcm", "MR2_UNCR.dcm"],
)
def test_physical_values_of_real_files_are_pydicoms(name):
    header = pydicom.dcmread(real(name))
    truth = header.pixel_array * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
    (loaded,) = load_images(real(name))
    assert loaded.pixels_YXC.dtype == np.uint16 and loaded.exact
    # MR2's slope is 3.774114: the sum is then rounded in another place, by an ulp. The others are whole numbers.
    tolerance = 1e-12 if name == "MR2_UNCR.dcm" else 0.0
    np.testing.assert_allclose(loaded.physical()[..., 0], truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["693_UNCR.dcm", "MR_small.dcm", "RG1_UNCR.dcm", "RG3_UNCR.dcm", "MR2_UNCR.dcm"])
def test_the_display_of_real_files_is_pydicoms_windowing(name):
    header = pydicom.dcmread(real(name))
    shown = apply_voi_lut(apply_modality_lut(header.pixel_array, header), header)
    # pydicom spreads the window over all values that the modality's numbers can take.
    bits, signed = header.BitsStored, header.PixelRepresentation
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    black, white = ends * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
    level = (shown - black) / (white - black) * 255
    if header.PhotometricInterpretation == "MONOCHROME1":
        level = 255 - level
    (loaded,) = load_images(real(name))
    low, high = loaded.window
    ours = np.clip((loaded.pixels_YXC[..., 0] - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(ours, level, atol=1e-9)  # both float64: a formula written in two ways


def test_head_ct_is_in_hounsfield_units():
    (loaded,) = load_images(real("693_UNCR.dcm"))
    assert (loaded.unit, loaded.modality, loaded.spacing) == ("HU", "CT", (0.478516, 0.478516))
    hu = loaded.physical()[..., 0]
    air = hu[(hu > -3000) & (hu < -500)]  # around the head, less the padding outside of the scanner's circle
    assert abs(np.median(air) + 1000) < 15 and len(air) > 100_000
    brain = hu[200:300, 200:300]
    assert 0 < np.median(brain) < 60
    # Centre 40, width 100: -10 is black, 89 white.
    black, white = (value * loaded.rescale[0] + loaded.rescale[1] for value in loaded.window)
    assert (black, white) == (-10, 89)


def test_monochrome1_is_brighter_where_its_values_are_lower():
    plain, turned = one(dicom(RAMP, bits=12)), one(dicom(RAMP, "MONOCHROME1", bits=12))
    np.testing.assert_array_equal(turned.pixels_YXC[..., 0], 4095 - RAMP)
    assert turned.rescale == (-1.0, 4095.0) and plain.rescale == (1.0, 0.0)
    np.testing.assert_array_equal(turned.physical(), plain.physical())
    assert display(turned.pixels_YXC, turned.window)[0, 0] == 255 and turned.window[0] < turned.window[1]
    assert display(plain.pixels_YXC, plain.window)[0, 0] == 0


def test_the_window_of_monochrome1_shows_the_same_range():
    view = {"WindowCenter": 1000, "WindowWidth": 501}
    plain, turned = one(dicom(RAMP, bits=12, **view)), one(dicom(RAMP, "MONOCHROME1", bits=12, **view))
    assert plain.window == (749.5, 1249.5) and turned.window == (4095 - 1249.5, 4095 - 749.5)


def test_a_negative_slope_is_turned_over_once():
    scale = {"RescaleSlope": -2, "RescaleIntercept": 100}
    for photometric, rises in (("MONOCHROME2", True), ("MONOCHROME1", False)):
        loaded = one(dicom(RAMP, photometric, bits=12, **scale))
        np.testing.assert_array_equal(loaded.physical()[..., 0], RAMP * -2.0 + 100)
        assert (loaded.rescale[0] > 0) == rises


def test_signed_values_are_moved_up_and_keep_their_meaning():
    values = np.array([[-1024, -1, 0], [1, 100, 3071]], np.int16)
    loaded = one(dicom(values, Modality="CT", RescaleSlope=1, RescaleIntercept=0))
    np.testing.assert_array_equal(loaded.pixels_YXC[..., 0], values + 1024)
    assert loaded.rescale == (1.0, -1024.0) and loaded.unit == "HU"
    scaled = one(dicom(values, RescaleSlope=0.5, RescaleIntercept=-7))
    np.testing.assert_array_equal(scaled.physical()[..., 0], values * 0.5 - 7)
    tiny = one(dicom(np.array([[-128, 0, 127]], np.int8)))
    np.testing.assert_array_equal(tiny.pixels_YXC.ravel(), [0, 128, 255])
    assert tiny.pixels_YXC.dtype == np.uint8 and tiny.window == (0.0, 255.0)
    assert one(dicom(np.array([[-32, 31]], np.int8), bits=6)).window == (0.0, 255.0)


def test_bits_above_bits_stored_do_not_count():
    made = dicom(RAMP, bits=12)
    made.PixelData = (RAMP | 0xA000).tobytes()  # overlays lie there in old files
    np.testing.assert_array_equal(one(made).pixels_YXC[..., 0], RAMP)
    signed = np.array([[-5, 5, -2048, 2047]], np.int16)
    made = dicom(signed, bits=12)
    made.PixelData = (signed & 0x0FFF).tobytes()  # the sign does not reach up
    np.testing.assert_array_equal(one(made).physical().ravel(), signed.ravel())
    made = dicom(RAMP, bits=12)
    made.HighBit, made.PixelData = 15, (RAMP << 4).tobytes()
    np.testing.assert_array_equal(one(made).pixels_YXC[..., 0], RAMP)


@pytest.mark.parametrize(
    "elements, expected",
    [
        ({"WindowCenter": [40, 450], "WindowWidth": [350, 1500]}, (-135.0, 214.0)),
        ({"WindowCenter": 40, "WindowWidth": 350, "VOILUTFunction": "LINEAR_EXACT"}, (-135.0, 215.0)),
        ({"WindowCenter": 40, "WindowWidth": 350, "VOILUTFunction": "SIGMOID"}, (-135.0, 215.0)),
        ({"WindowCenter": 40, "WindowWidth": 1}, (39.5, 39.5 + 1 / 64)),
    ],
)
def test_window_tags_follow_the_standard(elements, expected):
    assert one(dicom(RAMP, bits=12, **elements)).window == expected


def test_windows_that_are_none_leave_the_default():
    default = one(dicom(RAMP, bits=12)).window
    for bad in ({"WindowCenter": 40}, {"WindowCenter": 40, "WindowWidth": 0}, {"WindowCenter": None}):
        assert one(dicom(RAMP, bits=12, **bad)).window == default


def test_default_windows():
    byte = np.array([[10, 20, 30]], np.uint8)
    assert one(dicom(byte)).window == (0.0, 255.0)
    assert one(dicom(byte, bits=6)).window == (0.0, 63.0)
    wide = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    assert one(dicom(wide)).window == tuple(np.percentile(wide, (0.5, 99.5)))
    ct = one(dicom(wide, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024))
    assert ct.window == (1024 - 160, 1024 + 240)
    flat = one(dicom(np.full((4, 4), 7, np.uint16)))
    assert flat.window == (7.0, 8.0)


def test_padding_does_not_shift_the_default_window():
    values = np.arange(1000, 2000, dtype=np.int16).reshape(20, 50)
    values[:10] = -2000
    loaded = one(dicom(values, PixelPaddingValue=-2000))
    low, high = (value * loaded.rescale[0] + loaded.rescale[1] for value in loaded.window)
    assert (low, high) == tuple(np.percentile(np.arange(1500, 2000), (0.5, 99.5)))
    values[:10, :25] = -1990
    ranged = one(dicom(values, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990))
    assert tuple(value + ranged.rescale[1] for value in ranged.window) == (low, high)


def test_frames_middle_all_and_by_number():
    stack = np.stack([RAMP + frame for frame in range(5)])
    data = as_bytes(dicom(stack, bits=12))
    (middle,) = load_images(data, name="a/b.dcm")
    assert middle.name == "b.dcm#2"
    np.testing.assert_array_equal(middle.pixels_YXC[..., 0], stack[2])
    every = load_images(data, frames="all")
    np.testing.assert_array_equal([frame.pixels_YXC[..., 0] for frame in every], stack)
    assert len({frame.window for frame in every}) == 1
    chosen = load_images(data, frames=[4, -5])
    np.testing.assert_array_equal([frame.pixels_YXC[..., 0] for frame in chosen], stack[[4, 0]])
    assert load_images(data, frames="0.99")[0].name.endswith("#4")
    with pytest.raises(BadFile, match="there is no frame 5; it has 5, counted from 0"):
        load_images(data, frames=5)
    with pytest.raises(BadFile, match="none of"):
        load_images(data, frames="first")


def test_frames_of_an_enhanced_object_have_their_own_scale():
    made = dicom(np.stack([RAMP, RAMP]), bits=12, Modality="PT", Units="BQML")
    per_frame = [
        group(
            PixelValueTransformationSequence=group(RescaleSlope=slope, RescaleIntercept=0),
            FrameVOILUTSequence=group(WindowCenter=100 * slope, WindowWidth=101),
        )[0]
        for slope in (2, 4)
    ]
    made.PerFrameFunctionalGroupsSequence = per_frame
    made.SharedFunctionalGroupsSequence = group(PixelMeasuresSequence=group(PixelSpacing=[4, 2]))
    first, second = load_images(as_bytes(made), frames="all")
    np.testing.assert_array_equal(first.physical()[..., 0], RAMP * 2.0)
    np.testing.assert_array_equal(second.physical()[..., 0], RAMP * 4.0)
    assert first.spacing == second.spacing == (4.0, 2.0) and first.unit == "BQML"
    assert first.window == (149.5 / 2, 249.5 / 2) and second.window == (349.5 / 4, 449.5 / 4)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_by_pixel_and_by_plane(planar):
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    made = dicom(colour, "RGB")
    made.PlanarConfiguration = planar
    made.PixelData = (colour.transpose(2, 0, 1) if planar else colour).tobytes()
    loaded = one(made)
    np.testing.assert_array_equal(loaded.pixels_YXC, colour)
    assert loaded.window == (0.0, 255.0) and loaded.unit == ""


@pytest.mark.parametrize("name", ["SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle_16bit.dcm", "examples_ybr_color.dcm"])
def test_colour_of_real_files_is_pydicoms(name):
    header = pydicom.dcmread(real(name))
    middle = int(header.get("NumberOfFrames", 1)) // 2
    np.testing.assert_array_equal(load_images(real(name))[0].pixels_YXC, pixel_array(real(name), index=middle))


def test_palettes_become_colour():
    header = pydicom.dcmread(real("examples_palette.dcm"))
    (loaded,) = load_images(real("examples_palette.dcm"))
    np.testing.assert_array_equal(loaded.pixels_YXC, apply_color_lut(header.pixel_array, header))


def test_a_modality_lut_is_applied():
    header = pydicom.dcmread(real("mlut_18.dcm"))
    (loaded,) = load_images(real("mlut_18.dcm"))
    np.testing.assert_array_equal(loaded.physical()[..., 0], apply_modality_lut(header.pixel_array, header))


@pytest.mark.parametrize("falling", [False, True])
def test_a_voi_lut_becomes_the_range_on_which_it_changes(falling):
    table = np.concatenate([np.zeros(5, np.uint16), np.arange(0, 500, 10), np.full(9, 490)]).astype(np.uint16)
    table = table[::-1] if falling else table
    lut = group(LUTDescriptor=[len(table), 1000, 16], LUTData=table.tobytes())
    loaded = one(dicom(RAMP, bits=12, VOILUTSequence=lut))
    ends = (1000 + 9, 1000 + 9 + 49) if falling else (1000 + 5, 1000 + 5 + 49)
    assert loaded.window == (tuple(4095 - end for end in ends[::-1]) if falling else ends)
    assert (loaded.rescale[0] < 0) == falling


@pytest.mark.parametrize(
    "elements, spacing, detector",
    [
        ({}, None, None),
        ({"PixelSpacing": [0.5, 0.25]}, (0.5, 0.25), None),
        ({"PixelSpacing": [0, 0]}, None, None),
        ({"Modality": "DX", "ImagerPixelSpacing": [0.2, 0.1]}, None, (0.2, 0.1)),
        ({"Modality": "DX", "PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.2, 0.1]}, None, (0.2, 0.1)),
        (
            {"Modality": "DX", "PixelSpacing": [0.18, 0.09], "ImagerPixelSpacing": [0.2, 0.1]},
            (0.18, 0.09),
            (0.2, 0.1),
        ),
        ({"Modality": "CR", "PixelSpacing": [0.2, 0.2]}, None, (0.2, 0.2)),
        (
            {"Modality": "CR", "PixelSpacing": [0.2, 0.2], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.2, 0.2),
            None,
        ),
    ],
)
def test_spacing_is_of_the_patient_or_absent(elements, spacing, detector):
    loaded = one(dicom(RAMP, bits=12, **elements))
    assert (loaded.spacing, loaded.detector_spacing) == (spacing, detector)


def test_spacing_of_ultrasound_comes_from_its_regions():
    region = group(
        RegionSpatialFormat=1,
        PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3,
        PhysicalDeltaX=0.02,
        PhysicalDeltaY=0.03,
    )
    made = dicom(RAMP, bits=12, Modality="US", SequenceOfUltrasoundRegions=region)
    assert one(made).spacing == pytest.approx((0.3, 0.2))
    other = group(**{**{e.keyword: e.value for e in region[0]}, "PhysicalDeltaX": 0.04})
    made.SequenceOfUltrasoundRegions = region + other
    assert one(made).spacing is None
    made.SequenceOfUltrasoundRegions = group(**{e.keyword: e.value for e in region[0]} | {"PhysicalUnitsXDirection": 4})
    assert one(made).spacing is None  # seconds to the right


@pytest.mark.parametrize(
    "elements, unit",
    [
        ({"RescaleSlope": 1, "RescaleIntercept": 0, "Modality": "MR"}, ""),
        ({"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"}, ""),
        ({"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "OD"}, "OD"),
        ({"Modality": "CT"}, ""),
        ({"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}, "HU"),
        ({"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"}, ""),
        (
            {
                "Modality": "CT",
                "RescaleSlope": 1,
                "RescaleIntercept": 0,
                "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
            },
            "",
        ),
        ({"Modality": "PT", "Units": "BQML"}, "BQML"),
    ],
)
def test_units_are_stated_or_absent(elements, unit):
    assert one(dicom(RAMP, bits=12, **elements)).unit == unit


def test_wide_integers_are_rounded_and_say_so():
    header = pydicom.dcmread(real("rtdose.dcm"))
    (loaded,) = load_images(real("rtdose.dcm"), frames=3)
    truth = header.pixel_array[3] * float(header.DoseGridScaling)
    assert not loaded.exact and loaded.unit == header.DoseUnits
    assert np.abs(loaded.physical()[..., 0] - truth).max() <= loaded.rescale[0] / 2 * (1 + 1e-9)


def test_neither_suffix_nor_preamble_is_needed(tmp_path):
    made = dicom(RAMP, bits=12)
    named = tmp_path / "IM0001"
    made.save_as(named, enforce_file_format=True)
    np.testing.assert_array_equal(load_images(named)[0].pixels_YXC[..., 0], RAMP)
    bare = tmp_path / "bare"
    made.file_meta, made.preamble = pydicom.dataset.FileMetaDataset(), None
    made.save_as(bare, enforce_file_format=False, implicit_vr=True, little_endian=True)
    assert bare.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(load_images(bare)[0].pixels_YXC[..., 0], RAMP)


@pytest.mark.parametrize(
    "name, words",
    [
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", "JPEG Lossless.*pip install pylibjpeg pylibjpeg-libjpeg"),
        ("MR_small_jpeg_ls_lossless.dcm", "JPEG-LS.*pip install pyjpegls"),
        ("JPEG-lossy.dcm", "12-bit.*pip install pylibjpeg pylibjpeg-libjpeg"),
        ("MR_truncated.dcm", "less than expected"),
        ("rtplan.dcm", r"without pixels \(RT Plan Storage\)"),
        ("DICOMDIR", "without pixels"),
        ("badVR.dcm", "damaged"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(name, words):
    pytest.importorskip("pydicom")
    with pytest.raises(BadFile, match=words) as caught:
        load_images(real(name))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_every_prefix_of_a_file_is_an_error_or_the_image():
    data = as_bytes(dicom(RAMP, bits=12, WindowCenter=[1, 2], WindowWidth=[3, 4]))
    for size in range(0, len(data) - 1, 7):
        with pytest.raises(BadFile):
            load_images(data[:size])


def test_more_pixels_than_the_limit_are_refused_before_decoding(monkeypatch):
    made = dicom(np.zeros((3, 40, 40), np.uint8))
    monkeypatch.setattr(image, "PIXEL_LIMIT", 1599)
    with pytest.raises(BadFile, match="40 x 40 pixels are more than the 1,599"):
        one(made)
    monkeypatch.setattr(image, "PIXEL_LIMIT", 1600)
    monkeypatch.setattr(image, "CALL_LIMIT", 4000)
    assert len(load_images(as_bytes(made), frames=[0, 1])) == 2
    with pytest.raises(BadFile, match="choose fewer frames"):
        load_images(as_bytes(made), frames="all")
