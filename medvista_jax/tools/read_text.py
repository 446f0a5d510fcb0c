"""``read_text``: the text that is burnt into an image, read on the host by ``rapidocr`` (PP-OCR models in its wheel).

The engine loads its models with the first call, a process has one, and its threads share it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from medvista_jax.core.dimensions import FRAME
from medvista_jax.tools.host.call import HostTool, ToolFailed
from medvista_jax.tools.host.declare import host_tool

SURE = 0.9
"""Confidence below which a line is dropped: texture of tissue reads as characters of some language now and then."""

BOXED_LINES = 8
"""Up to so many lines come with their boxes; more would cost the policy more tokens than the text itself."""

ASPECT = 4
"""A thinner image is padded to this ratio, for the engine enlarges its short side to 736 pixels, long as it may be."""

NO_TEXT = "no text"

_making = threading.Lock()


class Line(NamedTuple):
    """A line of text and its box x1 y1 x2 y2, integers 0…1000 of the image."""

    text: str
    box: tuple[int, int, int, int]


@host_tool("Read the text in an image.", timeout_s=60.0)
def read_text(image: Image.Image) -> str:
    """Lines in reading order, parted by `` / ``; with their boxes where there are few."""
    return render_lines(read_lines(image))


TOOL: HostTool = read_text


def read_lines(image: Image.Image) -> list[Line]:
    """The lines that are read with confidence, in reading order.

    Raises:
      ToolFailed: when ``rapidocr`` or ``onnxruntime`` is not installed.
    """
    least = -(-max(image.size) // ASPECT)
    padded = image.convert("RGB").crop((0, 0, max(image.width, least), max(image.height, least)))
    found = _engine()(np.asarray(padded)[..., ::-1])  # the engine wants BGR
    if not found.txts:
        return []
    sure = [at for at, score in enumerate(found.scores) if score >= SURE]
    scale_2 = np.array([FRAME / image.width, FRAME / image.height])
    lines = []
    for at in sure:
        corners_42 = np.asarray(found.boxes[at]) * scale_2
        low, high = corners_42.min(axis=0), corners_42.max(axis=0)
        box = np.clip(np.rint(np.concatenate([low, high])), 0, FRAME).astype(int).tolist()
        lines.append(Line(" ".join(found.txts[at].split()), tuple(box)))
    return reading_order(lines)


def reading_order(lines: Sequence[Line]) -> list[Line]:
    """From top to bottom, and from left to right where the middle of a line lies within the height of its neighbour."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        middle = (line.box[1] + line.box[3]) / 2
        if rows and rows[-1][0].box[1] <= middle <= rows[-1][0].box[3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def render_lines(lines: Sequence[Line]) -> str:
    """``BAPTIST [25, 44, 269, 88] / PWR [9, 279, 66, 321]``; only the texts where there are more than 8."""
    if not lines:
        return NO_TEXT
    boxed = len(lines) <= BOXED_LINES
    return " / ".join(f"{line.text} {list(line.box)}" if boxed else line.text for line in lines)


def _engine() -> Any:
    with _making:  # threads that come first would each load the models
        return _make_engine()


@functools.cache
def _make_engine() -> Any:
    try:
        import onnxruntime  # noqa: F401  rapidocr notices its absence only later, by a line on standard output
        from rapidocr import RapidOCR
    except ImportError as error:
        raise ToolFailed(
            f"read_text needs a package that is not installed ({error.name}): pip install rapidocr onnxruntime"
        ) from None
    return RapidOCR(params={"Global.log_level": "error"})  # an image without text is a warning there
