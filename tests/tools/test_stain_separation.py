"""``stain_separation`` against scikit-image's colour deconvolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from skimage.color import separate_stains

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "flip", "stain_separation"))
OF_HED = {"haematoxylin": (0, 1), "eosin": (1, 0), "dab": (2, 0), "haematoxylin_beside_dab": (0, 2)}


def expected(levels: np.ndarray, stain: str) -> np.ndarray:
    """scikit-image's amounts, which are in units of six decades of light, as transmitted light.

    Its own ``hed_from_rgb`` has three dyes at once; a section has two, the third row is what is left over.
    """
    dyes = skimage.color.rgb_from_hed[list(OF_HED[stain])]
    dyes = dyes / np.linalg.norm(dyes, axis=1, keepdims=True)
    from_rgb = np.linalg.inv(np.array([*dyes, np.cross(*dyes)]))
    amounts = separate_stains(np.maximum(levels, 1) / 255, from_rgb)[..., 0] * 6
    return 255 * 10.0**-amounts


def section() -> np.ndarray:
    """A piece of a section with haematoxylin and DAB, which scikit-image brings along."""
    picture = Image.open(Path(skimage.__file__).parent / "data" / "ihc.png").convert("RGB")
    return np.asarray(picture.crop((200, 200, 248, 248)).resize((60, 52)))


@pytest.mark.parametrize("stain", OF_HED)
def test_a_separated_stain_is_scikit_images(stain):
    """Half a level of rounding and float32's share of it; a real section, noise, black and white; several views."""
    for image in (section(), looks.noise(56, 60, 3), (looks.noise(56, 60, 3, seed=1) > 128).astype(np.uint8) * 255):
        play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
        for view in (0, play.call("zoom_in", bbox_2d=[0, 0, 500, 700]), play.call("rotate", degrees=30)):
            shown = play.pixels(play.call("stain_separation", stain=stain, image_index=view))
            assert (shown == shown[..., :1]).all()
            assert np.abs(shown[..., 0] - expected(play.pixels(view), stain)).max() <= 0.52


@pytest.mark.parametrize("stain", OF_HED)
def test_a_pure_dye_is_seen_by_its_own_name_only(stain):
    """Twice the amount is the square of the transmitted share; the other dye of the section leaves white."""
    dyes = skimage.color.rgb_from_hed / np.linalg.norm(skimage.color.rgb_from_hed, axis=1, keepdims=True)
    own, other = (dyes[k] for k in OF_HED[stain])
    image = np.zeros((*looks.SIZE, 3), np.uint8)
    for row, density in enumerate([own * 0.3, own * 0.6, other * 0.4]):
        image[16 * row : 16 * row + 16] = np.round(255 * 10.0**-density)
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
    shown = play.pixels(play.call("stain_separation", stain=stain))[..., 0]
    middle = shown[[8, 24, 40], 20].astype(int)
    assert np.abs(middle - [255 * 10**-0.3, 255 * 10**-0.6, 255]).max() <= 3  # levels of the image are rounded


@pytest.mark.parametrize("image", [looks.noise(56, 64), np.repeat(looks.noise(56, 64), 3, axis=2)], ids=["1", "3"])
def test_grey_images_are_unsuitable_however_many_channels_they_have(image):
    """The noise beyond the image on its canvas is coloured."""
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image[:50, :60]]))
    fault, text = play.attempt("stain_separation", stain="eosin")
    assert fault == Fault.UNSUITABLE_IMAGE and "the tool cannot use this image" in text


def test_one_coloured_pixel_is_a_colour():
    image = np.repeat(looks.noise(50, 60), 3, axis=2)
    image[49, 59, 2] ^= 1
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
    assert "image 1</tool_response>" in play.attempt("stain_separation", stain="eosin")[1]


def test_bad_arguments_are_faults():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([section()]))
    assert play.attempt("stain_separation")[0] == Fault.MISSING_ARGUMENT
    assert play.attempt("stain_separation", stain="gram")[0] in (Fault.WRONG_TYPE, Fault.OUT_OF_RANGE)
    assert play.attempt("stain_separation", stain="dab", image_index=5)[0] == Fault.NO_SUCH_IMAGE
