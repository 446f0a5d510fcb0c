"""Calls as JSON has them: the faults are those of the gym's parser, and images are seen as displayed."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.core.types import Fault
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.tools.call import ToolCall
from medvista_jax.tools.host.apply import apply_host_calls, check_arguments
from medvista_jax.tools.host.declare import host_tool
from medvista_jax.tools.host.images import decode_image, displayed, png_base64

EVERY = ToolSpec(
    "every",
    "Every kind.",
    (
        Argument("box", "b", "box", 0, 1000),
        Argument("n", "n", "integer", -3, 9, default=4),
        Argument("way", "w", "enum", choices=("up", "down"), default=1),
        Argument("on", "o", "boolean", default=1),
        Argument("at", "a", "point", 0, 1000, default=(1, 2)),
        Argument("words", "q", "string", 1, 6, default=""),
    ),
)
BOX = [1, 2, 3, 4]
DEFAULTS = {"box": BOX, "n": 4, "way": "down", "on": True, "at": [1, 2], "words": ""}

CASES = [
    ({"box": BOX}, Fault.NONE),
    ({"words": "é" * 3, "on": False, "way": "up", "n": -3, "at": [0, 0], "box": BOX}, Fault.NONE),
    ({}, Fault.MISSING_ARGUMENT),
    ({"what": 1}, Fault.UNKNOWN_ARGUMENT),
    ({"box": BOX, "what": 1}, Fault.UNKNOWN_ARGUMENT),
    ({"box": [1, 2, 3]}, Fault.WRONG_TYPE),
    ({"box": [1, 2, 3, 4.0]}, Fault.WRONG_TYPE),
    ({"box": "1, 2, 3, 4"}, Fault.WRONG_TYPE),
    ({"box": None}, Fault.WRONG_TYPE),
    ({"box": BOX, "n": True}, Fault.WRONG_TYPE),
    ({"box": BOX, "on": 1}, Fault.WRONG_TYPE),
    ({"box": BOX, "at": [1, 2, 3]}, Fault.WRONG_TYPE),
    ({"box": BOX, "words": 3}, Fault.WRONG_TYPE),
    ({"box": BOX, "way": 0}, Fault.WRONG_TYPE),
    ({"box": [1, 2, 3, 1001], "n": "x"}, Fault.WRONG_TYPE),
    ({"box": [9, 2, 3, 1001]}, Fault.OUT_OF_RANGE),
    ({"box": [-1, 2, 3, 4]}, Fault.OUT_OF_RANGE),
    ({"box": BOX, "n": 10}, Fault.OUT_OF_RANGE),
    ({"box": BOX, "way": "left"}, Fault.OUT_OF_RANGE),
    ({"box": BOX, "words": ""}, Fault.OUT_OF_RANGE),
    ({"box": BOX, "words": "é" * 4}, Fault.OUT_OF_RANGE),
    ({"box": BOX, "at": [0, 1001]}, Fault.OUT_OF_RANGE),
    ({"box": [3, 2, 3, 4]}, Fault.EMPTY_BOX),
    ({"box": [1, 4, 3, 2]}, Fault.EMPTY_BOX),
]


@pytest.mark.parametrize(("arguments", "fault"), CASES)
def test_faults_are_those_that_the_gyms_parser_finds(arguments, fault):
    found, values = check_arguments(EVERY, arguments)
    assert found == fault
    assert values == ({**DEFAULTS, **arguments} if fault == Fault.NONE else {})
    body = json.dumps({"name": "every", "arguments": arguments}, ensure_ascii=False)
    assert parse_turn_text([EVERY], f"<tool_call>{body}</tool_call>".encode()).fault == fault


@host_tool("Describe an image.", Argument("word", "a word", "string", 1, 9, default=""))
def describe(image: Image.Image, word: str) -> str:
    return f"{word} {image.size} {image.getpixel((0, 0))}"


def test_a_call_reaches_the_image_it_names_and_faults_stay_in_their_rows():
    grey, colour = np.full((2, 3), 7, np.uint8), np.full((4, 5, 3), 9, np.uint8)
    calls = [
        ToolCall("describe", {"image_index": 1, "word": "b"}, [grey, colour]),
        ToolCall("nobody", {}),
        ToolCall("describe", {}, [grey]),
        ToolCall("describe", {"image_index": 2}, [grey, colour]),
        ToolCall("describe", {"image_index": -1}, [grey]),
        ToolCall("describe", {}, []),
    ]
    results = apply_host_calls({"describe": describe}, calls)
    assert [result.text for result in results] == ["b (5, 4) (9, 9, 9)", "", " (3, 2) (7, 7, 7)", "", "", ""]
    faults = [Fault.NONE, Fault.UNKNOWN_TOOL, Fault.NONE, Fault.NO_SUCH_IMAGE, Fault.OUT_OF_RANGE, Fault.NO_SUCH_IMAGE]
    assert [result.fault for result in results] == faults


def test_stored_values_are_shown_through_a_window():
    stored = np.array([[0, 1000, 1100, 3000]], np.uint16)
    # 25.5 of 255 rounds to the even 26; black and white beyond the window.
    assert displayed(stored, (990, 1090))[0, :, 0].tolist() == [0, 26, 255, 255]
    assert displayed(stored)[0, :, 0].tolist() == [0, 85, 94, 255]  # lowest to highest: 255 · 1100 / 3000 = 93.5
    assert displayed(np.full((1, 1), 5, np.uint16))[0, 0].tolist() == [0, 0, 0]  # flat
    eight = np.array([[[1, 2, 3]]], np.uint8)
    assert displayed(eight) is eight
    assert displayed(eight, (1, 3))[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
        (np.arange(12, dtype=np.uint16) * 5000).reshape(3, 4),
    ],
)
def test_pixels_survive_a_png(pixels):
    text = png_base64(pixels)
    for form in (text, "data:image/png;base64," + text):
        back = decode_image(form, 12)
        assert back.dtype == pixels.dtype
        np.testing.assert_array_equal(back, pixels)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def test_other_pictures_become_grey_or_rgb():
    for mode, shape in [("1", (2, 3)), ("RGBA", (2, 3, 3)), ("LA", (2, 3, 3)), ("P", (2, 3, 3))]:
        image = decode_image(encoded(Image.new(mode, (3, 2), 1)), 9)
        assert (image.shape, image.dtype) == (shape, np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    assert decode_image(encoded(Image.new("CMYK", (3, 2)), "JPEG", exif=exif), 9).shape == (3, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("***", "not base64"),
        ("data:image/png,abc", "a data URL must be base64"),
        ("", "not a readable PNG or JPEG"),
        (base64.b64encode(b"hello").decode(), "not a readable PNG or JPEG"),
        (encoded(Image.effect_noise((50, 50), 99))[:400], "not a readable PNG or JPEG"),
        (encoded(Image.effect_noise((50, 50), 99), "JPEG")[:400], "not a readable PNG or JPEG"),
        (encoded(Image.new("L", (3, 3)), "GIF"), "not a readable PNG or JPEG"),
        (encoded(Image.new("L", (100, 101))), "100 by 101 pixels; 10000 are allowed"),
        ("é", "not base64"),
    ],
)
def test_what_is_no_image_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        decode_image(text, 10_000)
