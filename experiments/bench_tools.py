"""Images per second of every tool, beside the loop that a user would write with Pillow, OpenCV and scikit-image.

    python experiments/bench_tools.py                          # all tools at batch 1, 32 and 256; minutes on two cores
    python experiments/bench_tools.py --tools zoom_in equalize --batches 64 --view 64
    python experiments/bench_tools.py --out runs/bench_tools   # tools.md and tools.json beside what is printed

Both sides get the same calls on the same 8-bit images in memory (crops of scikit-image's fundus and colon pictures) and
give back the same views or numbers; *differs* says by how much: of images the mean difference in grey levels, of
numbers the largest share. Ours is one compiled call for the whole batch, from stored pixels to what the policy sees.
The peer is a Python loop, image by image, timed on 16 images at most: its rate does not depend on their number. Medians
of interleaved repetitions after a warm-up, in one process.

OpenCV is no requirement of the package: pip install opencv-python-headless (the extra "dev" has it).
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image, ImageOps
from scipy import ndimage
from skimage import color, feature, filters, segmentation

from medvista_jax.core.types import ImageBank
from medvista_jax.data.sources import package_file
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.tools.apply import carry_out, slots_of
from medvista_jax.tools.base import Tool
from medvista_jax.tools.host.apply import check_arguments
from medvista_jax.tools.registry import ALL_TOOLS

Arguments = dict[str, Any]
BILINEAR = Image.Resampling.BILINEAR


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured."""

    tools: tuple[str, ...] = tuple(ALL_TOOLS)
    batches: tuple[int, ...] = (1, 32, 256)
    side: int = 512
    view: int = 224
    repetitions: int = 5
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class Peer:
    """What a user would write for one image.

    Attributes:
      arguments: of a call, drawn from a generator.
      loop: image ``[Y, X]`` or ``[Y, X, 3]`` uint8, arguments and the view's side to a view or to numbers.
      libraries: what it uses.
      colour: whether it is measured on colour images.
    """

    arguments: Callable[[np.random.Generator], Arguments]
    loop: Callable[[np.ndarray, Arguments, int], Any]
    libraries: str
    colour: bool = False


def draw_box(rng: np.random.Generator) -> list[int]:
    low, high = rng.integers(0, 600, 2), rng.integers(100, 400, 2)
    return [int(v) for v in (*low, *(low + high))]


def draw_line(rng: np.random.Generator) -> Arguments:
    return {"start": rng.integers(0, 400, 2).tolist(), "end": rng.integers(500, 1000, 2).tolist()}


def pixels_of(image: np.ndarray, numbers: Sequence[int]) -> list[float]:
    """0…1000 to pixels, x and y by turns."""
    size = image.shape[1::-1]
    return [number * size[k % 2] / 1000 for k, number in enumerate(numbers)]


def view_of(image: np.ndarray, view: int, box: Sequence[int] | None = None) -> Image.Image:
    corners = None if box is None else tuple(pixels_of(image, box))
    return Image.fromarray(image).resize((view, view), BILINEAR, box=corners)


def inner(image: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """Pixels whose middles lie in the box."""
    x1, y1, x2, y2 = (int(np.ceil(v - 0.5)) for v in pixels_of(image, box))
    return image[y1:y2, x1:x2]


def zoom_in(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    return np.asarray(view_of(image, view, a["bbox_2d"]))


def rotate(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).rotate(a["degrees"], BILINEAR, expand=True).resize((view, view), BILINEAR))


def flip(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    return np.asarray(ImageOps.mirror(view_of(image, view)))


def pan_compare(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    pair = Image.new("L", (view, view))
    for left, box in ((0, a["left_box"]), (view // 2, a["right_box"])):
        corners = tuple(pixels_of(image, box))
        pair.paste(Image.fromarray(image).resize((view // 2, view), BILINEAR, box=corners), (left, 0))
    return np.asarray(pair)


def overlay_grid(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    import cv2

    shown = np.array(view_of(image, view))
    for k in range(1, a["cells"]):
        at = k * view // a["cells"]
        cv2.line(shown, (at, 0), (at, view), 255)
        cv2.line(shown, (0, at), (view, at), 255)
        for place in ((at, 9), (0, at + 9)):
            cv2.putText(shown, str(1000 * k // a["cells"]), place, 0, 0.3, 255)
    return shown


def adjust_window(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    grey = np.asarray(Image.fromarray(image.astype(np.float32)).resize((view, view), BILINEAR))
    return np.round(np.clip((grey - a["low"]) / (a["high"] - a["low"]), 0, 1) * 255).astype(np.uint8)


def equalize(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    import cv2

    return cv2.createCLAHE(float(a["clip_limit"]), (8, 8)).apply(np.asarray(view_of(image, view)))


def invert(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    return np.asarray(ImageOps.invert(view_of(image, view)))


def edge_map(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.asarray(view_of(image, view), np.float32), a["smoothing"], mode="nearest")
    strength = np.hypot(ndimage.sobel(smooth, 0, mode="nearest"), ndimage.sobel(smooth, 1, mode="nearest")) / 4
    bell = ndimage.gaussian_filter1d(np.eye(1, 31, 15)[0], a["smoothing"])
    return np.clip(np.round(strength / (bell[15] + bell[16])), 0, 255).astype(np.uint8)  # a full step is white


def stain_separation(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    return color.separate_stains(np.asarray(view_of(image, view)), color.hed_from_rgb)[..., 0]


def distance(image: np.ndarray, a: Arguments, view: int) -> list[float]:
    return [float(np.hypot(*np.subtract(pixels_of(image, a["end"]), pixels_of(image, a["start"]))))]


def region_statistics(image: np.ndarray, a: Arguments, view: int) -> list[float]:
    part = inner(image, a["bbox_2d"])
    return [float(part.mean()), float(part.std()), float(part.min()), float(part.max()), float(part.size)]


def intensity_profile(image: np.ndarray, a: Arguments, view: int) -> list[float]:
    start, end = (np.array(pixels_of(image, a[name]))[::-1] - 0.5 for name in ("start", "end"))
    line = np.linspace(start, end, 9)
    values = ndimage.map_coordinates(image.astype(np.float32), line.T, order=1, mode="nearest")
    return [float(np.hypot(*(end - start))), 0.0, *values.tolist()]


def count_objects(image: np.ndarray, a: Arguments, view: int) -> list[float]:
    part = inner(image, a["bbox_2d"])
    labels, count = ndimage.label(part > filters.threshold_otsu(part))
    return [float(count), float(np.bincount(labels.ravel())[1:].mean())]


def symmetry_difference(image: np.ndarray, a: Arguments, view: int) -> np.ndarray:
    shown = np.asarray(view_of(image, view)).astype(int)
    return np.abs(shown - shown[:, ::-1]).astype(np.uint8)


def segment_region(image: np.ndarray, a: Arguments, view: int) -> list[float]:
    x, y = (int(v) for v in pixels_of(image, a["point"]))
    return [float(segmentation.flood(image, (y, x), connectivity=1, tolerance=a["tolerance"]).sum())]


def find_bright_blobs(image: np.ndarray, a: Arguments, view: int) -> None:
    shown = np.asarray(view_of(image, view)) / 255.0
    feature.blob_dog(shown, min_sigma=1, max_sigma=view / 6, sigma_ratio=2**0.5, threshold=0.025)


PEERS: Mapping[str, Peer] = {
    "zoom_in": Peer(lambda rng: {"bbox_2d": draw_box(rng)}, zoom_in, "Pillow"),
    "rotate": Peer(lambda rng: {"degrees": int(rng.integers(10, 80))}, rotate, "Pillow"),
    "flip": Peer(lambda rng: {"direction": "horizontal"}, flip, "Pillow"),
    "pan_compare": Peer(lambda rng: {"left_box": draw_box(rng), "right_box": draw_box(rng)}, pan_compare, "Pillow"),
    "overlay_grid": Peer(lambda rng: {"cells": 4}, overlay_grid, "Pillow, OpenCV"),
    "adjust_window": Peer(
        lambda rng: {"low": int(rng.integers(0, 100)), "high": int(rng.integers(120, 255))}, adjust_window, "Pillow"
    ),
    "equalize": Peer(lambda rng: {"clip_limit": 4}, equalize, "Pillow, OpenCV"),
    "invert": Peer(lambda rng: {}, invert, "Pillow"),
    "edge_map": Peer(lambda rng: {"smoothing": 1}, edge_map, "Pillow, SciPy"),
    "stain_separation": Peer(lambda rng: {"stain": "haematoxylin"}, stain_separation, "Pillow, scikit-image", True),
    "distance": Peer(draw_line, distance, "NumPy"),
    "region_statistics": Peer(lambda rng: {"bbox_2d": draw_box(rng)}, region_statistics, "NumPy"),
    "intensity_profile": Peer(draw_line, intensity_profile, "SciPy"),
    "count_objects": Peer(lambda rng: {"bbox_2d": draw_box(rng)}, count_objects, "scikit-image, SciPy"),
    "symmetry_difference": Peer(lambda rng: {}, symmetry_difference, "Pillow, NumPy"),
    "segment_region": Peer(
        lambda rng: {"point": rng.integers(200, 800, 2).tolist(), "tolerance": 20}, segment_region, "scikit-image"
    ),
    "find_bright_blobs": Peer(lambda rng: {"count": 5}, find_bright_blobs, "Pillow, scikit-image"),
}


LOOPED = 16
"""Images that the peer's loop is timed on."""

OTHERWISE = {
    "overlay_grid": "other font",
    "stain_separation": "amounts, not levels",
    "find_bright_blobs": "other scales",
}
"""Where the user's loop does the same job with another result."""


def pictures(count: int, side: int, colour: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """uint8 crops of real pictures, ``[side, side]`` or ``[side, side, 3]``."""
    sheets = []
    for name in ("retina.jpg", "ihc.png"):
        with Image.open(package_file("skimage", "scikit-image", f"data/{name}")) as image:
            sheets.append(np.asarray(image.convert("RGB" if colour else "L").resize((1024, 1024))))
    corners = rng.integers(0, 1024 - side + 1, (count, 2))
    return [np.ascontiguousarray(sheets[n % 2][y : y + side, x : x + side]) for n, (y, x) in enumerate(corners)]


def bank_of(images: Sequence[np.ndarray]) -> ImageBank:
    pixels = np.stack([image.reshape(*image.shape[:2], -1) for image in images])[:, None]
    window = np.tile(np.float32([0, 255]), (len(images), 1, 1))
    return jax.tree.map(jnp.asarray, ImageBank.of(pixels, window))


def interleaved(repetitions: int, *functions: Callable[[], Any]) -> list[float]:
    """Median seconds of each, measured by turns so that both meet the same machine; the warm-up is the caller's."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repetitions):
        for function, seconds in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in times]


def difference(tool: Tool, ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """How far the two sides are from one another, in words."""
    outcome, views, _ = ours
    if theirs[0] is None or tool.name in ("stain_separation", "overlay_grid"):
        return (
            "other algorithm" if theirs[0] is None else "other scale" if tool.name != "overlay_grid" else "other font"
        )
    if isinstance(theirs[0], list):
        numbers = np.asarray(outcome.numbers_N)[: len(theirs), : len(theirs[0])]
        gap = np.abs(numbers - theirs) / np.maximum(np.abs(theirs), 1.0)
        return f"{100 * gap.max():.2g} %"
    gap = np.abs(np.asarray(views)[: len(theirs), ..., 0].astype(float) - np.stack(theirs))
    return f"{gap.mean():.2f} levels"


def measure(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    """Images per second of both sides."""
    tool, peer, rng = ALL_TOOLS[name], PEERS[name], np.random.default_rng(batch)
    images = pictures(batch, bench.side, peer.colour, rng)
    calls = [peer.arguments(rng) for _ in images]
    slots = np.array([slots_of(tool.spec, check_arguments(tool.spec, call)[1]) for call in calls], np.int32)
    bank = bank_of(images)
    ours = lambda: jax.block_until_ready(carry_out(tool, bench.view, bank, slots))  # noqa: E731
    some = list(zip(images, calls, strict=True))[:LOOPED]
    theirs = lambda: [peer.loop(image, call, bench.view) for image, call in some]  # noqa: E731
    gap = difference(tool, ours(), theirs())
    seconds = interleaved(bench.repetitions, ours, theirs)
    return {
        "tool": name,
        "batch": batch,
        "ours": batch / seconds[0],
        "peer": len(some) / seconds[1],
        "libraries": peer.libraries,
        "differs": gap,
    }


def table(rows: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> str:
    """A line a tool: images per second of both sides and their ratio at each batch."""
    head = ["tool", *(f"batch {batch}: ours / loop (ratio)" for batch in batches), "the loop uses", "differs"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for name in dict.fromkeys(row["tool"] for row in rows):
        mine = [row for row in rows if row["tool"] == name]
        cells = [f"{row['ours']:,.0f} / {row['peer']:,.0f} ({row['ours'] / row['peer']:.2g})" for row in mine]
        lines.append("| " + " | ".join([f"`{name}`", *cells, mine[-1]["libraries"], mine[-1]["differs"]]) + " |")
    return "\n".join(lines)


def main() -> int:
    bench = tyro.cli(Bench, description=__doc__)
    unknown = [name for name in bench.tools if name not in PEERS]
    if unknown:
        print(f"bench_tools: no tool {', '.join(unknown)}; there are {', '.join(PEERS)}", file=sys.stderr)
        return 2
    enable_compile_cache()
    rows = []
    for name in bench.tools:
        for batch in bench.batches:
            print(f"{name} at batch {batch} …", end="\r", file=sys.stderr, flush=True)
            rows.append(measure(bench, name, batch))
    print(f"{bench.side}x{bench.side} pixels to views of {bench.view}x{bench.view}, {os.cpu_count()} cores:\n")
    text = table(rows, bench.batches)
    print(text)
    if bench.out is not None:
        bench.out.mkdir(parents=True, exist_ok=True)
        (bench.out / "tools.md").write_text(text + "\n", encoding="utf-8")
        (bench.out / "tools.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
