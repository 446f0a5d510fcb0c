"""Implanted stripes by the tool :func:`medvista_jax.tools.look.look`: a teacher with faults, and words for places.

The target's bullseye is the clearest spot of its image, so ``spot`` 1 is right; no image says so, and neither does the
question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.data.implants import STRIPES
from medvista_jax.data.item import AtlasItem
from medvista_jax.data.teachers import answer_turn
from medvista_jax.tools.look import MOST, SIDE, look

FAMILY = "implant_stripes"
WORDS = ("", *STRIPES)
"""What :func:`words_of_view` may say of a place; the first: nothing."""

BEST = 1
"""The spot that is the target."""


@dataclasses.dataclass(frozen=True)
class SpotTeacher:
    """Faults of the teacher; its final answer is always the true one, as trajectories filtered by exact match have it.

    Attributes:
      direct: share of questions that are answered without a look.
      stray: share of looks at a spot that is not the target.
    """

    direct: float = 0.5
    stray: float = 0.4


def look_turn(spot: int) -> str:
    """Text of a turn that enlarges a spot of the question's image."""
    return f"<think>look</think><tool_call>{look.spec.render_call(spot=spot)}</tool_call>"


def teach(item: AtlasItem, rng: np.random.Generator, teacher: SpotTeacher, tools: bool) -> list[str]:
    """Turn texts for an item: now and then a look, where tools are offered, and the answer."""
    looks, strays = rng.random() >= teacher.direct, rng.random() < teacher.stray
    spot = int(rng.integers(BEST + 1, MOST + 1)) if strays else BEST
    if not (tools and looks):
        return [answer_turn(item.answer, "plain")]
    return [look_turn(spot), answer_turn(item.answer)]


def view_around(x: float, y: float) -> tuple[int, int, int, int]:
    """The box that ``look`` would enlarge around a point, all in 0…1000 units of the image."""
    left, top = (int(np.clip(round(at) - SIDE // 2, 0, FRAME - SIDE)) for at in (x, y))
    return left, top, left + SIDE, top + SIDE


def words_of_view(item: AtlasItem, box: Sequence[int], rows: int, columns: int) -> np.ndarray:
    """A word for each cell of a grid over a box of the image: int ``[rows * columns]``, index into :data:`WORDS`.

    Cells that the target fills to a half say how its stripes run, the others nothing.
    """
    x1, y1, x2, y2 = item.targets[0]
    share_Y = _covered((y1 - box[1]) / (box[3] - box[1]), (y2 - box[1]) / (box[3] - box[1]), rows)
    share_X = _covered((x1 - box[0]) / (box[2] - box[0]), (x2 - box[0]) / (box[2] - box[0]), columns)
    there_YX = share_Y[:, None] * share_X[None, :] >= 0.5
    return np.where(there_YX, WORDS.index(item.answer), 0).astype(np.int32).reshape(-1)


def _covered(low: float, high: float, cells: int) -> np.ndarray:
    """What share of each of some cells, which divide 0…1 evenly, an interval covers: ``[cells]``."""
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * cells
