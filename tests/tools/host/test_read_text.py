"""Text in images, read by the real engine: burnt into an ultrasound, and drawn by Pillow where we know it."""

from __future__ import annotations

import re
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file

from medvista_jax.core.types import Fault
from medvista_jax.tools import read_text
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall
from medvista_jax.tools.read_text import Line, read_lines, reading_order, render_lines


def draw(*texts):
    """A grey image with texts at pixel positions; returns it and the boxes that Pillow says it drew, 0 to 1000."""
    image = Image.new("RGB", (400, 400), (40, 40, 40))
    pen, font, boxes = ImageDraw.Draw(image), ImageFont.load_default(size=28), []
    for text, at in texts:
        pen.text(at, text, font=font, fill=(250, 250, 250))
        x1, y1, x2, y2 = pen.textbbox(at, text, font=font)
        boxes.append((x1 * 2.5, y1 * 2.5, x2 * 2.5, y2 * 2.5))
    return image, boxes


def ask(images):
    calls = [HostCall("read_text", np.asarray(image), {"image_index": 0}) for image in images]
    return run_batch({"read_text": read_text.TOOL}, calls)


def test_drawn_text_is_read_where_it_was_drawn():
    image, boxes = draw(("LEFT LUNG", (20, 30)), ("42 mm", (260, 30)), ("Series 7", (20, 250)))
    lines = read_lines(image)
    assert [line.text for line in lines] == ["LEFT LUNG", "42 mm", "Series 7"]
    for line, box in zip(lines, boxes, strict=True):
        # The engine's boxes stand some pixels off the ink: 10 px are 25 thousandths here.
        assert np.all(np.abs(np.array(line.box) - box) <= 25), (line, box)


def test_burnt_in_text_of_an_ultrasound_is_read():
    pixels = pydicom.dcmread(get_testdata_file("US1_UNCR.dcm")).pixel_array
    reply = ask([pixels])[0]
    assert reply.fault == Fault.NONE
    lines = reply.text.split(" / ")
    assert lines[:2] == ["BAPTIST MED CTR", "3cm3cm M12L"]  # the two ends of the first row
    assert {"LYMPH", "NODE", "CINE 0118", "IM#2"} <= set(lines)
    assert "[" not in reply.text  # too many lines for boxes
    assert re.fullmatch(r"[\x20-\x7e]+", reply.text)  # no character of another script out of the speckle


def test_an_image_without_text_says_so_even_a_tiny_one():
    noise = np.random.default_rng(0).integers(0, 60, (64, 64, 3), np.uint8)
    replies = ask([noise, np.zeros((1, 1, 3), np.uint8), np.full((3, 900, 3), 255, np.uint8)])
    assert [reply.text for reply in replies] == [read_text.NO_TEXT] * 3


def test_a_thin_strip_is_read_where_it_lies_and_not_blown_up(monkeypatch):
    seen = []
    engine = read_text._make_engine()
    monkeypatch.setattr(
        read_text, "_make_engine", lambda: lambda pixels: (seen.append(pixels.shape), engine(pixels))[1]
    )
    strip = Image.new("RGB", (1200, 40), (40, 40, 40))
    ImageDraw.Draw(strip).text((900, 4), "MARKER", font=ImageFont.load_default(size=28), fill="white")
    (line,) = read_lines(strip)
    assert line.text == "MARKER" and abs(line.box[0] - 750) <= 10 and line.box[3] > 700
    assert seen == [(300, 1200, 3)]  # the engine enlarges the short side to 736 pixels, whatever the long one then is


def test_threads_share_the_engine_and_do_not_mix_up_their_images():
    words = ["ALPHA", "BRAVO", "DELTA", "TANGO"]
    replies = ask([draw((word, (30 + 20 * n, 40)))[0] for n, word in enumerate(words)])
    assert [reply.text.split()[0] for reply in replies] == words
    assert read_text._make_engine.cache_info().currsize == 1


def test_reading_order_is_row_by_row():
    lines = [
        Line("d", (0, 50, 10, 60)),
        Line("b", (500, 4, 600, 14)),
        Line("a", (0, 0, 9, 10)),
        Line("c", (5, 20, 9, 30)),
    ]
    assert "".join(line.text for line in reading_order(lines)) == "abcd"
    assert reading_order([]) == []


def test_boxes_are_given_while_there_are_few_lines():
    assert render_lines([Line("PWR", (1, 2, 3, 4)), Line("L", (5, 6, 7, 8))]) == "PWR [1, 2, 3, 4] / L [5, 6, 7, 8]"
    assert render_lines([Line("x", (1, 2, 3, 4))] * 9) == "x" + " / x" * 8
    assert render_lines([]) == "no text"


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, caplog, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(read_text, "_make_engine", read_text._make_engine.__wrapped__)
    assert ask([np.zeros((40, 40, 3), np.uint8)])[0].fault == Fault.TOOL_FAILED
    assert f"is not installed ({package}): pip install rapidocr onnxruntime" in caplog.text
