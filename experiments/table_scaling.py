"""Scaling: size of the group in RL, turns of an episode, resolution of what the model sees.

    python experiments/table_scaling.py --packaged                      # medvista-tiny on the atlas, real images
    python experiments/table_scaling.py --packaged --axes group turns   # the axes that need no other eyes
    python experiments/table_scaling.py --packaged --preset short       # every line, a few steps each: a smoke test
    python experiments/table_scaling.py --packaged --results experiments/RESULTS.md

Stopped by Ctrl-C or SIGTERM, the same command goes on. Writes OUT/table_scaling.md, .tex and .json.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal

from table_cells import Cell
from table_run import NEED_COLUMNS, Runs, TableOptions, by_need, protocol_of, run_table

from medvista_jax.evaluation.paper_tables import NONE, Line, PaperTable
from medvista_jax.evaluation.setting import VariedSetting
from medvista_jax.learning.accumulate import Bucket

Axis = Literal["group", "turns", "resolution"]


@dataclasses.dataclass(frozen=True)
class Scaling(TableOptions):
    """Every knob.

    Attributes:
      axes: which are varied, one at a time.
      groups: episodes a prompt; prompts are fewer where there are more, so that a step has as many episodes.
      turns: of an episode, the answer included.
      resolutions: pixels a side that the model sees of an image, multiples of 16.
    """

    seeds: int = 1
    axes: tuple[Axis, ...] = ("group", "turns", "resolution")
    groups: tuple[int, ...] = (2, 4, 8, 16)
    turns: tuple[int, ...] = (2, 3, 4)
    resolutions: tuple[int, ...] = (32, 64, 96)

    def __post_init__(self) -> None:
        episodes = self.grpo.prompts * self.grpo.algorithm.group
        if odd := [group for group in self.groups if group < 2 or episodes % group]:
            raise ValueError(f"group {odd[0]} must be at least 2 and divide the {episodes} episodes of a step")
        if odd := [turns for turns in self.turns if turns < 2]:
            raise ValueError(f"turns {odd[0]} must be at least 2: a look and an answer")

    def shortened(self) -> Scaling:
        return dataclasses.replace(super().shortened(), groups=(4,), turns=(2,), resolutions=(32,))

    def varied(self, axis: str, value: int) -> Scaling:
        """The same, one number apart."""
        if axis == "group":
            episodes = self.grpo.prompts * self.grpo.algorithm.group
            algorithm = dataclasses.replace(self.grpo.algorithm, group=value)
            return dataclasses.replace(
                self, grpo=dataclasses.replace(self.grpo, algorithm=algorithm, prompts=episodes // value)
            )
        if axis == "turns":
            return dataclasses.replace(self, setting=dataclasses.replace(self.setting, turns=value))
        capacities = dataclasses.asdict(self.setting)
        more = (value // 16) ** 2 - self.setting.model.tokens_per_image
        capacities["prompt_slots"] += more
        algorithm, static = self.grpo.algorithm, self.sft.static
        return dataclasses.replace(
            self,
            setting=VariedSetting(**capacities, image=value),
            sft=dataclasses.replace(
                self.sft, static=dataclasses.replace(static, buckets=_roomier(static.buckets, more))
            ),
            grpo=dataclasses.replace(
                self.grpo, algorithm=dataclasses.replace(algorithm, buckets=_roomier(algorithm.buckets, more))
            ),
        )

    def values(self, axis: str) -> tuple[int, ...]:
        return {"group": self.groups, "turns": self.turns, "resolution": self.resolutions}[axis]


def _roomier(buckets: tuple[Bucket, ...], more: int) -> tuple[Bucket, ...]:
    """With room for ``more`` embeddings an image, or less."""
    return tuple(Bucket(bucket.slots + more * bucket.images, bucket.images) for bucket in buckets)


def plan(options: Scaling) -> dict[str, list[Cell]]:
    """The cells of every line, and of the setting that the lines vary."""

    def cells(one: Scaling) -> list[Cell]:
        return one.each_seed(lambda seed: one.cell(one.reinforced(seed)))

    lines = {f"{axis} {value}": options.varied(axis, value) for axis in options.axes for value in options.values(axis)}
    return {"default": cells(options)} | {name: cells(one) for name, one in lines.items()}


def compose(options: Scaling, runs: Runs) -> PaperTable:
    """A line a value; an axis' own default is the same policy on every axis."""
    lines = [
        Line(
            tuple(name.split(" ")) if name != "default" else ("default", NONE),
            by_need(mine, () if name == "default" else runs["default"]),
        )
        for name, mine in runs.items()
    ]
    group, prompts = options.grpo.algorithm.group, options.grpo.prompts
    return PaperTable(
        name="table_scaling",
        title="Scaling: group size, turns, resolution",
        stubs=("axis", "value"),
        columns=(*NEED_COLUMNS, "Δ all", "calls"),
        lines=tuple(lines),
        protocol=protocol_of(
            options,
            f"Default: group {group}, {options.setting.turns} turns, {options.setting.model.image_size[0]}² pixels. "
            "Δ all: difference to it over all items, in percentage points, with its 95 % interval.",
            f"group: a step has {group * prompts} episodes, whatever the group. turns: SFT and RL anew. resolution: "
            "eyes, SFT and RL anew; the implanted targets are made to be invisible at 64² or below, not above.",
        ),
        tools="on",
        base="default",
    )


if __name__ == "__main__":
    sys.exit(run_table(Scaling, __doc__, plan, compose))
