"""Whole images through preprocessing against transformers' image processors, loaded from the same folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from medvista_jax.data import sources
from medvista_jax.data.images import fields
from medvista_jax.models.images import ORIGINAL_BUCKETS, choose_bucket, normalise
from medvista_jax.models.preprocess import (
    InternVLImageConfig,
    PlainImageConfig,
    QwenImageConfig,
    internvl_image,
    internvl_inputs,
    plain_inputs,
    qwen,
    qwen_image,
    qwen_inputs,
    to_rgb,
    to_view,
)

QWEN2_5 = {  # as the released checkpoints have it
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
QWEN3 = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
INTERNVL = {
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "crop_to_patches": False,
    "min_patches": 1,
    "max_patches": 12,
    "size": {"height": 448, "width": 448},
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "data_format": "channels_first",
    "crop_size": None,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
DINOV2 = {
    "image_processor_type": "BitImageProcessor",
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}

CLOSE = 1e-6
"""The pixels are equal to the bit; what is left is float32 rounding of values up to 3 in size. (The hub's processors
themselves are to be met within 2/255.)"""


def photograph(name: str) -> Image.Image:
    with Image.open(sources.package_file("skimage", "scikit-image", f"data/{name}")) as image:
        return image.convert("RGB")


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def picture(name: str) -> Image.Image:
    """Photographs, films and strips, made smaller where speed asks for it."""
    made = {
        "fundus": lambda: photograph("retina.jpg"),
        "ihc": lambda: photograph("ihc.png"),
        "chest film": lambda: Image.fromarray(fields()["chest"].pixels).resize((731, 777)),  # grey
        "strip": lambda: photograph("ihc.png").crop((0, 100, 512, 104)),
        "tall strip": lambda: photograph("ihc.png").crop((100, 0, 106, 512)),
        "200 to 1": lambda: noise(3, 600),
        "tiny": lambda: noise(1, 1),
        "small": lambda: noise(30, 21),
    }
    return made[name]()


PICTURES = ("fundus", "ihc", "chest film", "strip", "tall strip", "200 to 1", "tiny", "small")


@pytest.fixture
def folder(tmp_path):
    """Writes a processor's settings as a hub folder has them."""

    def write(settings: dict, nested: bool = False):
        if nested:
            (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
        else:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        return tmp_path

    return write


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("settings", [QWEN2_5, QWEN3], ids=["qwen2.5", "qwen3"])
def test_qwen(folder, settings, name):
    image = picture(name)
    processor = AutoImageProcessor.from_pretrained(folder(settings))
    theirs = processor([image], return_tensors="np")
    values, grid = qwen_inputs([image], QwenImageConfig.from_hub(folder(settings)))
    np.testing.assert_array_equal(grid, theirs["image_grid_thw"])
    assert values.dtype == np.float32 and grid.dtype == np.int64
    np.testing.assert_allclose(values, theirs["pixel_values"], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("bounds", [(3136, 100352), (401408, 501760)], ids=["shrunk", "enlarged"])
def test_qwen_within_bounds_and_several_images(folder, bounds):
    settings = QWEN2_5 | {"min_pixels": bounds[0], "max_pixels": bounds[1], "resample": 2}
    images = [picture(name) for name in ("ihc", "strip", "small")]
    theirs = AutoImageProcessor.from_pretrained(folder(settings))(images, return_tensors="np")
    config = QwenImageConfig.from_hub(folder(settings))
    values, grid = qwen_inputs(images, config)
    np.testing.assert_array_equal(grid, theirs["image_grid_thw"])
    np.testing.assert_allclose(values, theirs["pixel_values"], atol=CLOSE, rtol=0)
    assert all(bounds[0] <= 14 * 14 * rows * columns <= bounds[1] for _, rows, columns in grid.tolist())
    assert [config.tokens((14 * rows, 14 * columns)) for _, rows, columns in grid.tolist()] == (
        grid.prod(1) // 4
    ).tolist()


@pytest.mark.parametrize("name", PICTURES)
def test_internvl(folder, name):
    image = picture(name)
    processor = AutoImageProcessor.from_pretrained(folder(INTERNVL))
    theirs = processor([image], crop_to_patches=True, return_tensors="np")  # as InternVLProcessor calls it
    config = InternVLImageConfig.from_hub(folder(INTERNVL))
    values, tiles = internvl_inputs([image], config)
    assert tiles.tolist() == [config.tiles(image.height, image.width)] == theirs["num_patches"].tolist()
    np.testing.assert_allclose(values, theirs["pixel_values"], atol=CLOSE, rtol=0)


def test_internvl_without_tiles_and_several_images(folder):
    settings = INTERNVL | {"size": {"height": 56, "width": 84}, "min_patches": 2, "max_patches": 5}
    images = [picture(name) for name in ("ihc", "strip", "small")]
    processor = AutoImageProcessor.from_pretrained(folder(settings))
    for crop in (True, False):
        theirs = processor(images, crop_to_patches=crop, return_tensors="np")
        values, tiles = internvl_inputs(images, InternVLImageConfig.from_hub(folder(settings), crop=crop))
        np.testing.assert_array_equal(tiles, theirs["num_patches"])
        np.testing.assert_allclose(values, theirs["pixel_values"], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("bounds", [(1, 12), (2, 2), (1, 6), (3, 7), (1, 1)], ids=str)
def test_grids_of_tiles_for_many_shapes(bounds):
    """The choice among grids has ties: equally near, and as large as the image or half of it."""
    config = InternVLImageConfig(tile=(16, 20), min_tiles=bounds[0], max_tiles=bounds[1])
    for height in range(1, 90, 3):
        for width in range(1, 90, 2):
            columns, rows = get_optimal_tiled_canvas((height, width), (16, 20), *bounds)
            assert config.grid(height, width) == (rows, columns)


def test_dinov2(folder):
    images = [picture(name) for name in ("ihc", "chest film", "strip")]
    theirs = AutoImageProcessor.from_pretrained(folder(DINOV2))(images, return_tensors="np")["pixel_values"]
    values = plain_inputs(images, PlainImageConfig.from_hub(folder(DINOV2)))
    np.testing.assert_allclose(values, theirs, atol=CLOSE, rtol=0)


def test_a_bucket_agrees_with_the_hub_where_the_hub_would_choose_it(folder):
    """Otherwise the image is shown at the bucket's shape, by the same filter."""
    config = QwenImageConfig.from_hub(folder(QWEN3))
    image = photograph("ihc.png").crop((0, 0, 500, 333))
    bucket = choose_bucket(image.height, image.width, ORIGINAL_BUCKETS)
    assert bucket == (448, 672)
    shown = image.resize(bucket[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(to_view(image, bucket), np.asarray(shown))
    assert config.fit(*bucket) == bucket
    theirs = AutoImageProcessor.from_pretrained(folder(QWEN3))([shown], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(qwen_image(image, config, bucket), theirs, atol=CLOSE, rtol=0)


def test_a_grid_of_tiles_can_be_chosen():
    config = InternVLImageConfig(tile=(32, 32))
    image = noise(40, 50)
    tiles = np.asarray(internvl_image(image, config, grid=(2, 1)))
    shown = np.asarray(image.resize((32, 64), Image.Resampling.BICUBIC))
    thumbnail = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    expected = normalise(np.stack([shown[:32], shown[32:], thumbnail]), config.mean, config.std)
    np.testing.assert_allclose(tiles.transpose(0, 2, 3, 1), expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 2.0]},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": 0.4, "image_std": 0.3},
    ],
    ids=str,
)
def test_settings_of_rescaling_and_normalising(folder, change):
    settings, image = QWEN3 | change, picture("small")
    theirs = AutoImageProcessor.from_pretrained(folder(settings))([image], return_tensors="np")["pixel_values"]
    values, _ = qwen_inputs([image], QwenImageConfig.from_hub(folder(settings)))
    np.testing.assert_allclose(values, theirs, rtol=1e-6, atol=2e-6 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "settings",
    [
        QWEN2_5,
        QWEN3,
        {"image_processor_type": "Qwen2VLImageProcessor"},  # all defaults
        QWEN3 | {"min_pixels": 784, "patch_size": None},
        QWEN3 | {"max_pixels": 78400},
    ],
    ids=["old keys", "new keys", "defaults", "both", "one of both"],
)
@pytest.mark.parametrize("nested", [False, True], ids=["preprocessor_config", "processor_config"])
def test_qwens_settings_are_read_as_transformers_reads_them(folder, settings, nested):
    settings = {key: value for key, value in settings.items() if value is not None} if nested else settings
    theirs = AutoImageProcessor.from_pretrained(folder({k: v for k, v in settings.items() if v is not None}, nested))
    ours = QwenImageConfig.from_hub(folder(settings, nested))
    assert (ours.patch, ours.merge, ours.temporal) == (
        theirs.patch_size,
        theirs.merge_size,
        theirs.temporal_patch_size,
    )
    assert (ours.min_pixels, ours.max_pixels) == (theirs.size["shortest_edge"], theirs.size["longest_edge"])
    assert ours.mean == tuple(theirs.image_mean) and ours.std == tuple(theirs.image_std)
    assert ours.resample == theirs.resample
    assert hash(ours) == hash(QwenImageConfig.from_hub(folder(settings, nested)))


def test_the_newer_file_wins(folder):
    folder(QWEN2_5)
    where = folder(QWEN3, nested=True)
    assert QwenImageConfig.from_hub(where).patch == AutoImageProcessor.from_pretrained(where).patch_size == 16
    (where / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    assert QwenImageConfig.from_hub(where).patch == AutoImageProcessor.from_pretrained(where).patch_size == 14


@pytest.mark.parametrize(
    ("read", "settings", "message"),
    [
        (QwenImageConfig.from_hub, None, "there is no preprocessor_config.json"),
        (QwenImageConfig.from_hub, "{", "preprocessor_config.json is no JSON"),
        (QwenImageConfig.from_hub, [1], "holds a list, not an object"),
        (QwenImageConfig.from_hub, INTERNVL, "is for GotOcr2ImageProcessorFast; this family takes Qwen2VLImage"),
        (QwenImageConfig.from_hub, QWEN3 | {"do_resize": False}, "do_resize is false"),
        (QwenImageConfig.from_hub, QWEN3 | {"size": {"height": 4, "width": 4}}, "must hold shortest_edge"),
        (InternVLImageConfig.from_hub, QWEN3, "is for Qwen2VLImageProcessorFast"),
        (InternVLImageConfig.from_hub, INTERNVL | {"size": {"shortest_edge": 4}}, "must hold height and width"),
        (PlainImageConfig.from_hub, DINOV2 | {"do_center_crop": None}, "do_center_crop must be false"),
        (PlainImageConfig.from_hub, DINOV2 | {"size": {"shortest_edge": 256}}, "size must hold height and width"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, read, settings, message):
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_too_elongated_an_image():
    config = QwenImageConfig()
    assert config.fit(3, 600) == (28, 812)
    for size in [(3, 601), (601, 3)]:
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels: one side is more than 200 times"):
            config.fit(*size)
    with pytest.raises(ValueError, match="Cut it into shorter pieces"):
        qwen_inputs([noise(1, 201)], config)


def rgba() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (9, 7, 4)).astype(np.uint8)


def with_transparent_colour() -> Image.Image:
    image = noise(8, 8).quantize(16)
    image.info["transparency"] = 3
    return image


MODES = {
    "grey": lambda: noise(9, 7).convert("L"),
    "bilevel": lambda: noise(9, 7).convert("1"),
    "palette": lambda: noise(9, 7).quantize(16),
    "transparent colour": with_transparent_colour,
    "RGBA": lambda: Image.fromarray(rgba(), "RGBA"),
    "LA": lambda: Image.fromarray(rgba(), "RGBA").convert("LA"),
    "CMYK": lambda: noise(9, 7).convert("CMYK"),
    "grey array": lambda: rgba()[..., :1],
    "colour array": lambda: rgba()[..., :3],
    "RGBA array": rgba,
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_8_bit_image_becomes_colour_as_in_the_hub(folder, name):
    image = MODES[name]()
    settings = INTERNVL | {"do_normalize": False, "do_rescale": False, "do_resize": False}
    processor = AutoImageProcessor.from_pretrained(folder(settings))
    theirs = processor([image], return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    ours = to_rgb(image)
    assert ours.dtype == np.uint8 and ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)
    if "grey" in name:
        assert (ours == ours[..., :1]).all()


def test_transparent_pixels_lie_on_white():
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert (to_rgb(clear) == 255).all() and (to_rgb(np.asarray(clear)) == 255).all()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.full((4, 4), 3000, np.uint16)),
        Image.new("I", (4, 4)),
        Image.new("F", (4, 4)),
        np.full((4, 4), 3000, np.uint16),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=["I;16", "I", "F", "uint16", "float32"],
)
def test_more_than_8_bits_must_be_windowed_first(image):
    with pytest.raises(ValueError, match="Show it between two grey values first .*apply_window"):
        to_rgb(image)


def test_arrays_that_are_no_images():
    with pytest.raises(ValueError, match=r"shape \(3, 20, 20\)"):
        to_rgb(np.zeros((3, 20, 20), np.uint8))
    with pytest.raises(ValueError, match="0x5 pixels has nothing to show"):
        to_rgb(np.zeros((0, 5, 3), np.uint8))


def test_no_images_at_all():
    values, grid = qwen_inputs([], QwenImageConfig())
    assert values.shape == (0, 1176) and grid.shape == (0, 3)
    assert internvl_inputs([], InternVLImageConfig())[0].shape == (0, 3, 384, 384)
    assert plain_inputs([], PlainImageConfig()).shape == (0, 3, 224, 224)


def test_images_of_many_sizes_share_a_program():
    """Sizes on the same canvas and bucket differ in data only."""
    config = QwenImageConfig(patch=4, mean=(0.1, 0.2, 0.3))
    before = qwen._patches._cache_size()
    for size in [(33, 40), (64, 64), (50, 37), (34, 63)]:
        qwen_image(noise(*size), config, (32, 32))
    assert qwen._patches._cache_size() == before + 1
