"""Every tool on one image, as a picture to look at.

python experiments/tool_sheet.py --image my.dcm --out sheet.png     # any picture, DICOM or NIfTI
python experiments/tool_sheet.py --out docs/tools.png               # scikit-image's fundus photograph (CC0)
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw

from medvista_jax.core.types import Fault
from medvista_jax.data.files import BadFile, load_images
from medvista_jax.data.sources import package_file
from medvista_jax.runtime.wheels import MissingSource
from medvista_jax.text.chat import ERRORS
from medvista_jax.tools.apply import apply_calls
from medvista_jax.tools.call import ToolCall
from medvista_jax.tools.registry import ALL_TOOLS

CALLS: dict[str, dict] = {
    "zoom_in": {"bbox_2d": [20, 350, 320, 650]},
    "rotate": {"degrees": 30},
    "flip": {"direction": "horizontal"},
    "pan_compare": {"left_box": [20, 250, 320, 750], "right_box": [350, 250, 650, 750]},
    "overlay_grid": {},
    "adjust_window": {"low": 5, "high": 95, "unit": "percentile"},
    "equalize": {},
    "invert": {},
    "edge_map": {},
    "stain_separation": {"stain": "haematoxylin"},
    "distance": {"start": [130, 500], "end": [480, 530]},
    "region_statistics": {"bbox_2d": [20, 350, 320, 650]},
    "intensity_profile": {"start": [20, 500], "end": [480, 530]},
    "count_objects": {"bbox_2d": [20, 350, 320, 650]},
    "symmetry_difference": {},
    "segment_region": {"point": [150, 500], "tolerance": 30},
    "find_bright_blobs": {"count": 3},
}


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What is drawn."""

    image: Path | None = None
    out: Path = Path("tools.png")
    cell: int = 224
    columns: int = 6


def draw(sheet: Sheet, tiles: list[tuple[str, np.ndarray | None, str]]) -> Image.Image:
    """Name, picture and words of every tool, in rows."""
    rows = -(-len(tiles) // sheet.columns)
    page = Image.new("RGB", (sheet.columns * (sheet.cell + 8), rows * (sheet.cell + 24)), "white")
    pen = ImageDraw.Draw(page)
    for number, (name, picture, words) in enumerate(tiles):
        x, y = number % sheet.columns * (sheet.cell + 8), number // sheet.columns * (sheet.cell + 24)
        pen.text((x + 2, y + 4), name, fill="black")
        if picture is not None:
            shown = Image.fromarray(picture).convert("RGB")
            shown.thumbnail((sheet.cell, sheet.cell))
            page.paste(shown, (x, y + 20))
        if picture is None or words != "image 1":
            pen.multiline_text(
                (x + 4, y + 24), textwrap.fill(words, sheet.cell // 7), fill="black" if picture is None else "white"
            )
    return page


def main() -> int:
    sheet = tyro.cli(Sheet, description=__doc__)
    try:
        source = sheet.image or package_file("skimage", "scikit-image", "data/retina.jpg")
        image = load_images(source)[0]
    except (BadFile, MissingSource, OSError) as error:
        print(f"tool_sheet: {error}", file=sys.stderr)
        return 1
    pixels = image.pixels_YXC if image.pixels_YXC.shape[-1] == 3 else image.pixels_YXC[..., 0]
    calls = [ToolCall(name, CALLS[name], [pixels], image.spacing, image.rescale, image.window) for name in ALL_TOOLS]
    tiles = []
    for call, result in zip(calls, apply_calls(ALL_TOOLS, calls), strict=True):
        tiles.append((call.name, result.image, result.text if result.fault == Fault.NONE else ERRORS[result.fault]))
    draw(sheet, tiles).save(sheet.out)
    print(f"{len(tiles)} tools on {image.name}: {sheet.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
