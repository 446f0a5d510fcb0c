"""Contexts, judges and foreign strings that the tests of the dialects share."""

# ruff: noqa: E501 - the table of pieces
from __future__ import annotations

import random

from hypothesis import strategies as st

from medvista_jax.core.types import Fault, Kind
from medvista_jax.text.dialects import Context, Picture
from medvista_jax.text.host_parser import HostTurn, parse_turn_text
from tests.text.fuzz import FRAGMENTS
from tests.text.specs import ADJUST_WINDOW, TWO, ZOOM_IN

WIDE = Context(
    images=(Picture(1920, 1080), Picture(1200, 1100, 0, (100, 200, 600, 700)), Picture(1500, 1000)),
    specs=TWO,
)
"""A question's image, a view cut from it, and a view from an unknown place."""

SPECS = {spec.name: spec for spec in TWO}


def square(side: int, originals: int = 1) -> Context:
    """Questions' images of one size."""
    return Context(tuple(Picture(side, side) for _ in range(originals)), TWO, originals)


def judge(turn: str, context: Context = WIDE) -> HostTurn:
    """What the gym's parser makes of a canonical turn."""
    return parse_turn_text(context.specs, turn.encode())


def fault(turn: str, context: Context = WIDE) -> Fault:
    """The fault of a turn that calls; faults that only the environment sees included."""
    parsed = judge(turn, context)
    assert parsed.kind == Kind.CALL, turn
    if parsed.fault == Fault.NONE and context.specs[parsed.tool] in (ZOOM_IN, ADJUST_WINDOW):
        return Fault.NONE if parsed.arguments[-1] < len(context.images) else Fault.NO_SUCH_IMAGE
    return parsed.fault


def zoom(turn: str, context: Context = WIDE) -> tuple[list[int], int]:
    """Box and image of a turn that zooms."""
    parsed = judge(turn, context)
    assert (parsed.kind, parsed.fault) == (Kind.CALL, Fault.NONE), turn
    assert context.specs[parsed.tool].name == "zoom_in"
    assert parsed.well_formed
    return list(parsed.arguments[:4]), parsed.arguments[4]


def call(box: object, index: int = 0, think: str = "look") -> str:
    """A canonical turn that zooms."""
    return f"<think>{think}</think><tool_call>{ZOOM_IN.render_call(bbox_2d=box, image_index=index)}</tool_call>"


@st.composite
def boxes(draw: st.DrawFn, least: int = 1) -> list[int]:
    """Integer boxes of 0…1000 with an area, sides of at least ``least``."""
    sides = []
    for _ in range(2):
        low = draw(st.integers(0, 1000 - least))
        sides.append((low, draw(st.integers(low + least, 1000))))
    (x1, x2), (y1, y2) = sides
    return [x1, y1, x2, y2]


NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1" + "0" * 400,
    "0.5",
    "1",
    "-3",
    "1000",
    "511.5",
    "true",
    "null",
)
PIECES = (
    *(piece.decode("latin-1") for piece in FRAGMENTS),
    *NUMBERS,
    "<grounding>", "</grounding>", "Action: Zoom-in", "Action: Answer", "Action:", "```json", "```", "\n", "\\boxed{", "}",
    '{"bbox_2d": [', "]}", '"source": "observation_1"', '"source": \'original_image\'', '"index": 1', '"target_image": 1',
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}', '{"name": "crop_image_normalized", "arguments": ',
    '{"thought": "', '", "actions": [', '{"name": "crop", "arguments": {"image": "img_1", "param": "[1, 2, 300, 400]"}}', '"point_2d"',
    '{"name": "Terminate", "arguments": {"ans": "A"}}', '"img_idx": 0', "[0.1, 0.2, 0.3, 0.4]", "[[[[[[[[", "<|im_end|>", "<image>",
    "\ud800", "日本", "\u202e", "'", '"tool_calls": [', '"function": {"name": "zoom_in", "arguments": "{}"}', '"content": ', "a lesion",
)  # fmt: skip


def foreign(rng: random.Random, samples: tuple[str, ...]) -> str:
    """A string near a dialect: pieces at random, or a published turn with a few edits."""
    if rng.random() < 0.3:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 25)))
    text = rng.choice(samples)
    for _ in range(rng.randint(0, 4)):
        at, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        edit = rng.randrange(5)
        if edit == 0:
            text = text[:at] + text[min(end, at + 10) :]
        elif edit == 1:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif edit == 2:
            text = text[:at] + rng.choice(PIECES) + text[at + 1 :]
        elif edit == 3:
            text = text[:at] + text[at:end] + text[at:]
        else:
            text = text[:at] + rng.choice(NUMBERS) + text[min(end, at + 3) :]
    return text
