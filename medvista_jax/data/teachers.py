"""Scripted teachers: text of every turn for an atlas question, imperfect on purpose.

A teacher that is merely noisy already lets greedy SFT solve the task, and RL has nothing to show. This one also shifts
every box by a constant, sometimes looks at a wrong place first and recovers, and sometimes answers without looking.
The final answer is always the true one, as trajectories filtered by exact match have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.tools.registry import DEFAULT_TOOLS

CANVAS_PIXELS = 256


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


def zoom_turn(box: Sequence[int], thought: str = "look closer") -> str:
    """Text of a turn that calls ``zoom_in`` on the question's image."""
    call = DEFAULT_TOOLS["zoom_in"].spec.render_call(bbox_2d=[int(v) for v in box])
    return f"<think>{thought}</think><tool_call>{call}</tool_call>"


def window_turn(low: int, high: int) -> str:
    """Text of a turn that calls ``adjust_window`` on the question's image."""
    call = DEFAULT_TOOLS["adjust_window"].spec.render_call(low=int(low), high=int(high))
    return f"<think>change window</think><tool_call>{call}</tool_call>"


def answer_turn(answer: str, thought: str = "clear") -> str:
    """Text of a turn that answers."""
    return f"<think>{thought}</think><answer>{answer}</answer>"


def teach(item, rng: np.random.Generator, config: TeacherConfig, tools: bool, turns: int = 3) -> list[str]:
    """Turn texts for an :class:`medvista_jax.data.atlas.AtlasItem`.

    Args:
      tools: whether the prompt offers tools.
      turns: most turns, the answer included.
    """
    looks: list[str] = []
    if tools and item.needs == "window" and item.good_window is not None:
        looks = [window_turn(*item.good_window)]
    elif tools and item.needs in ("zoom", "detail", "several") and item.targets:
        looks = [zoom_turn(noisy_box(target, rng, config)) for target in item.targets]
    if looks and rng.random() < config.direct:
        looks = []
    if len(looks) == 1 and item.needs in ("zoom", "detail") and rng.random() < config.wrong_first:
        looks = [
            zoom_turn(random_box(rng, config)),
            zoom_turn(noisy_box(item.targets[0], rng, config), "not there"),
        ]
    return [*looks[: turns - 1], answer_turn(item.answer, "clear" if looks or not tools else "plain")]
