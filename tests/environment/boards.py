"""Small questions for the tests of the doors."""

from __future__ import annotations

import json

import numpy as np

from medvista_jax.environment.items import Item

BUCKETS = (32, 64)
ANSWERS = ("left", "right", "7", "none of them")


def noise(seed: int, rows: int = 24, columns: int = 30, channels: int = 1) -> np.ndarray:
    """uint8 ``[Y, X, C]``."""
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), dtype=np.uint8)


def items(count: int = 4, **kwargs) -> list[Item]:
    return [Item(f"Question {k}?", ANSWERS[k % 4], [noise(k, **kwargs)], f"board/{k}", "board") for k in range(count)]


def call(name: str, **arguments) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def zoom(*box: int, image: int = 0) -> str:
    return call("zoom_in", bbox_2d=list(box), image_index=image)


def answer(text: str) -> str:
    return f"<answer>{text}</answer>"
