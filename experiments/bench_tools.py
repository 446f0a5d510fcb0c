"""Images per second of every tool, beside the loop that a user would write with Pillow, OpenCV and scikit-image.

    python experiments/bench_tools.py                          # all tools at batch 1, 32 and 256; some minutes
    python experiments/bench_tools.py --tools zoom_in equalize --batches 64
    python experiments/bench_tools.py --out runs/bench_tools   # tools.md and tools.json beside the printed tables

Both sides get the same calls on the same 512x512 8-bit images in memory (crops of scikit-image's fundus and colon
pictures) and return 224x224 images or numbers; the column *differs* says by how much. Ours is one compiled call for the
whole batch, the peer a Python loop over images. Medians of interleaved repetitions after a warm-up, in one process.
Then the share of a rollout that tools take, at the sizes of the packaged experiment.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from PIL import Image

from medvista_jax.core.types import ImageBank
from medvista_jax.data.sources import package_file
from medvista_jax.tools.apply import carry_out, slots_of
from medvista_jax.tools.host.apply import check_arguments
from medvista_jax.tools.registry import ALL_TOOLS


@dataclasses.dataclass(frozen=True)
class Bench:
    """Sizes and repetitions."""

    tools: tuple[str, ...] = tuple(ALL_TOOLS)
    batches: tuple[int, ...] = (1, 32, 256)
    side: int = 512
    view: int = 224
    seconds: float = 1.0
    """Wall time of each side of each measurement, at least."""
    rollout: bool = True
    """Also measure the share of a rollout that tools take."""
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class Peer:
    """What a user would write.

    Attributes:
      arguments: of the i-th call.
      loop: ``(image [Y, X] or [Y, X, 3], arguments, view) -> array or numbers`` for one image.
      differs: largest difference that the two may show, in levels or in the unit of the numbers; None where the two
        are different algorithms for the same job.
      colour: whether the images are colour.
    """

    arguments: Callable[[np.random.Generator], dict[str, Any]]
    loop: Callable[[np.ndarray, dict[str, Any], int], Any]
    library: str
    colour: bool = False


def pictures(count: int, side: int, colour: bool, rng: np.random.Generator) -> np.ndarray:
    """uint8 ``[N, side, side, C]`` crops of real pictures."""
    sheets = []
    for name in ("retina.jpg", "ihc.png"):
        with Image.open(package_file("skimage", "scikit-image", f"data/{name}")) as image:
            sheets.append(np.asarray(image.convert("RGB" if colour else "L").resize((1024, 1024))))
    crops = []
    for number in range(count):
        y, x = rng.integers(0, 1024 - side + 1, 2)
        crops.append(sheets[number % 2][y : y + side, x : x + side])
    stack = np.stack(crops)
    return stack if colour else stack[..., None]


def box(rng: np.random.Generator) -> list[int]:
    low, high = rng.integers(0, 600, 2), rng.integers(100, 400, 2)
    return [int(v) for v in (*low, *(low + high))]


def resized(image: np.ndarray, view: int, part: Sequence[float] | None = None) -> Image.Image:
    size = image.shape[1], image.shape[0]
    corners = None if part is None else tuple(v * s / 1000 for v, s in zip(part, size * 2, strict=True))
    return Image.fromarray(image).resize((view, view), Image.Resampling.BILINEAR, box=corners)
