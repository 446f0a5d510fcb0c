"""Scripted teachers: text of every turn for an atlas question, imperfect on purpose.

A teacher that is merely noisy already lets greedy SFT solve the task, and RL has nothing to show. This one also shifts
every box by a constant, sometimes looks at a wrong place first and recovers, and sometimes answers without looking.
The final answer is always the true one, as trajectories filtered by exact match have it.

What a teacher does follows from what the question needs and from the tools on offer, the first of a line that is there:

=============================  ==========================================================================
none                           answers
zoom, detail                   ``zoom_in`` on the place
several                        ``pan_compare`` of the two places, or ``zoom_in`` on each
window                         ``adjust_window`` to the one that shows it
measure: ``brighter``          ``region_statistics`` of each frame
measure: ``larger``            ``count_objects`` around each nucleus, or ``distance`` across each
=============================  ==========================================================================

Where none is offered, or the turns do not suffice to measure both, the teacher answers. (``count_objects`` is no help
in ``nuclei_count``: nuclei that touch are one object.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.tools.registry import ALL_TOOLS, DEFAULT_TOOLS

CANVAS_PIXELS = 256

_MARGIN = 14
"""Pixels by which the boxes of ``larger`` are wider than their nucleus on every side."""

_DEBRIS = 60
"""Pixels of the smallest nucleus that is lettered: what is smaller is not counted."""


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Faults of the teacher. Pixels are those of the 256-pixel canvas.

    Attributes:
      noise: standard deviation of the box centre, each axis.
      shift: systematic error of the box centre, right and down.
      direct: share of questions that need a tool but are answered without one.
      wrong_first: share of questions whose first zoom looks at a random place and is then corrected.
      box: side of the box.
      grid: coordinates are multiples of this, in 0…1000 units.
    """

    noise: float = 12.0
    shift: float = 28.0
    direct: float = 0.25
    wrong_first: float = 0.1
    box: float = 64.0
    grid: int = 50


def zoom_box(centre: tuple[float, float], config: TeacherConfig) -> list[int]:
    """A square box of the configured side around a centre in 0…1000 units, moved inside the frame, on the grid."""
    side = config.box * FRAME / CANVAS_PIXELS
    corners = []
    for middle in centre:
        low = float(np.clip(middle - side / 2, 0, FRAME - side))
        low = int(round(low / config.grid)) * config.grid
        corners.append(int(np.clip(low, 0, FRAME - round(side))))
    return [*corners, *(low + round(side) for low in corners)]


def noisy_box(target: Sequence[int], rng: np.random.Generator, config: TeacherConfig) -> list[int]:
    """The teacher's box for a true box: centre plus noise plus shift."""
    unit = FRAME / CANVAS_PIXELS
    centre = np.array([(target[0] + target[2]) / 2, (target[1] + target[3]) / 2])
    centre = centre + rng.normal(0.0, config.noise * unit, 2) + config.shift * unit
    return zoom_box((centre[0], centre[1]), config)


def random_box(rng: np.random.Generator, config: TeacherConfig) -> list[int]:
    """A box anywhere."""
    x, y = rng.uniform(0, FRAME, 2)
    return zoom_box((x, y), config)


def measured_box(target: Sequence[float], rng: np.random.Generator, config: TeacherConfig) -> list[int]:
    """A true box, moved as :func:`noisy_box` moves a zoom's, but by a share of its own side: measuring elsewhere would
    say nothing."""
    x1, y1, x2, y2 = target
    share = max(x2 - x1, y2 - y1) / (config.box * FRAME / CANVAS_PIXELS)
    unit = FRAME / CANVAS_PIXELS
    move = share * unit * (rng.normal(0.0, config.noise, 2) + config.shift)
    low = [float(np.clip(v + m, 0, FRAME - 1)) for v, m in zip((x1, y1), move, strict=True)]
    high = [float(np.clip(v + m, 0, FRAME)) for v, m in zip((x2, y2), move, strict=True)]
    corners = [round(v) for v in low] + [round(v) for v in high]
    return [*corners[:2], *(max(end, begin + 1) for begin, end in zip(corners[:2], corners[2:], strict=True))]


def call_turn(tool: str, thought: str, **arguments: Any) -> str:
    """Text of a turn that calls a tool of the package on the question's image."""
    return f"<think>{thought}</think><tool_call>{ALL_TOOLS[tool].spec.render_call(**arguments)}</tool_call>"


def zoom_turn(box: Sequence[int], thought: str = "look closer") -> str:
    """Text of a turn that calls ``zoom_in`` on the question's image."""
    return call_turn("zoom_in", thought, bbox_2d=[int(v) for v in box])


def window_turn(low: int, high: int) -> str:
    """Text of a turn that calls ``adjust_window`` on the question's image."""
    return call_turn("adjust_window", "change window", low=int(low), high=int(high))


def answer_turn(answer: str, thought: str = "clear") -> str:
    """Text of a turn that answers."""
    return f"<think>{thought}</think><answer>{answer}</answer>"


def teach(
    item, rng: np.random.Generator, config: TeacherConfig, offered: bool | Collection[str], turns: int = 3
) -> list[str]:
    """Turn texts for an :class:`medvista_jax.data.atlas.AtlasItem`.

    Args:
      offered: names of the tools that the prompt offers; True for those of ``DEFAULT_TOOLS``.
      turns: most turns, the answer included.
    """
    names = frozenset(DEFAULT_TOOLS if offered is True else offered or ())
    looks = _looks(item, rng, config, names, turns)
    if looks and rng.random() < config.direct:
        looks = []
    zooms = item.needs in ("zoom", "detail") and "zoom_in" in names
    if len(looks) == 1 and zooms and rng.random() < config.wrong_first:
        looks = [
            zoom_turn(random_box(rng, config)),
            zoom_turn(noisy_box(item.targets[0], rng, config), "not there"),
        ]
    return [*looks[: turns - 1], answer_turn(item.answer, "clear" if looks or not names else "plain")]


def _looks(item, rng: np.random.Generator, config: TeacherConfig, names: frozenset[str], turns: int) -> list[str]:
    """The calls that answering takes, none where nothing on offer helps."""
    if item.needs == "window" and item.good_window is not None and "adjust_window" in names:
        return [window_turn(*item.good_window)]
    if not item.targets:
        return []
    if item.needs == "several" and "pan_compare" in names and len(item.targets) == 2:
        zooms = "zoom_in" in names and len(item.targets) < turns and rng.random() < 0.5
        if not zooms:
            left, right = (noisy_box(target, rng, config) for target in item.targets)
            return [call_turn("pan_compare", "compare both", left_box=left, right_box=right)]
    if item.needs in ("zoom", "detail", "several") and "zoom_in" in names:
        return [zoom_turn(noisy_box(target, rng, config)) for target in item.targets]
    if item.needs == "measure" and len(item.targets) < turns:
        return _measurements(item, rng, config, names)
    return []


def _measurements(item, rng: np.random.Generator, config: TeacherConfig, names: frozenset[str]) -> list[str]:
    """What tells the two marked places apart: their mean, or the size of what lies there."""
    if item.family == "brighter" and "region_statistics" in names:
        boxes = [measured_box(target, rng, config) for target in item.targets]
        return [call_turn("region_statistics", "measure", bbox_2d=box) for box in boxes]
    if item.family != "larger":
        return []
    inset = _MARGIN * FRAME / CANVAS_PIXELS
    boxes = [(x1 + inset, y1 + inset, x2 - inset, y2 - inset) for x1, y1, x2, y2 in item.targets]
    if "count_objects" in names:
        moved = [measured_box(box, rng, config) for box in boxes]
        return [call_turn("count_objects", "measure", bbox_2d=box, minimum_area=_DEBRIS) for box in moved]
    if "distance" in names:
        moved = [measured_box(box, rng, config) for box in boxes]
        return [call_turn("distance", "measure", start=box[:2], end=box[2:]) for box in moved]
    return []
